--- bench.lua: throughput and memory of sampling, training and whole GRPO steps, each beside what this machine can do at most
--- (multiply-adds in registers, measured in the same run: tl_machine_gflops). `tlrun bench` is its command line.
---
--- FLOPs counted: 2 per weight of the linears and the head and token, and the attention's products; a backward for dX alone counts
--- the same as a forward. Nothing else is counted, so roofline_share is a lower bound of how busy the units are.
local F = require "tl.ffi"
local ffi = require "ffi"
local sample = require "tl.sample"
local C = F.C

local bench = {}

-- FLOPs of one token's forward through the linears, at a context of n keys
local function layer_flops(model, n)
  local i = model.info
  local flops = 0
  for _, m in ipairs(model:modules()) do flops = flops + 2 * m.out * m["in"] end
  return flops + i.n_layers * 4 * n * i.n_heads * i.head_dim
end
local function head_flops(model) return 2 * model.info.vocab * model.info.width end

local function median(t)
  table.sort(t)
  local n = #t
  return n % 2 == 1 and t[(n + 1) / 2] or (t[n / 2] + t[n / 2 + 1]) / 2
end

local function random_ids(model, n, stream)
  local ids = {}
  for i = 1, n do ids[i] = math.floor(C.tl_uniform(1, stream, i) * model.info.vocab) end
  return ids
end

local function peak_of(model) return C.tl_machine_gflops(model.compute == "f32" and C.TL_F32 or C.TL_BF16) * 1e9 end

--- Decoding: `batch` completions of one prompt of random tokens, `new_tokens` each, at temperature 1.
--- Returns {tokens_per_s, prefill_tokens_per_s, ms_per_step, roofline_share, peak_rss_bytes, runs}.
function bench.sample(model, o)
  local prompt, rates, prefill, steps = random_ids(model, o.prompt_tokens, 7), {}, {}, {}
  for rep = 0, o.reps do
    local s = sample.sampler(model, { adapter = o.adapter, max_sequences = o.batch })
    s:submit(prompt, o.batch, 0, { temperature = 1, max_new_tokens = o.new_tokens, ignore_eos = true, seed = rep })
    for _ in s:completions() do end
    local st = s:stats()
    s:free()
    if rep > 0 then  -- the first warms up
      rates[#rates + 1] = st.new_tokens / st.decode_seconds
      prefill[#prefill + 1] = st.prompt_tokens / st.prefill_seconds
      steps[#steps + 1] = st.decode_seconds / st.decode_steps * 1e3
    end
  end
  local rate = median(rates)
  local flops = layer_flops(model, o.prompt_tokens + o.new_tokens / 2) + head_flops(model)
  return { tokens_per_s = rate, tokens_per_s_best = math.max(unpack(rates)), prefill_tokens_per_s = median(prefill), ms_per_step = median(steps),
    roofline_share = rate * flops / peak_of(model), peak_gflops = peak_of(model) * 1e-9, peak_rss_bytes = tonumber(C.tl_peak_rss_bytes()),
    batch = o.batch, prompt_tokens = o.prompt_tokens, new_tokens = o.new_tokens, reps = o.reps }
end

--- Forward and backward (dX and the adapter's gradient) of `sequences` sequences of `tokens` tokens, loss on all but the first.
function bench.train(model, o)
  local pass = require "tl.pass"
  local batch = pass.batch()
  for i = 1, o.sequences do
    local ids = random_ids(model, o.tokens, i)
    batch:prompt { ids[1] }
    table.remove(ids, 1)
    batch:completion(ids)
  end
  local n = batch:n_tokens()
  local lp, d, seconds, last = ffi.new("float[?]", n), ffi.new("float[?]", n), {}, nil
  for i = 0, n - 1 do d[i] = -1 / n end
  for rep = 0, o.reps do
    local t0 = C.tl_seconds()
    o.adapter:zero_gradient()
    local p = pass.create(model, batch, { adapter = o.adapter, backward = true, memory = o.memory })
    for i = 0, p.n_micro - 1 do
      p:forward(i, lp, nil)
      p:backward(i, d, nil)
    end
    last = { micro_batches = p.n_micro, recomputes = p.recomputes, activation_bytes = p.planned_bytes }
    p:free()
    if rep > 0 then seconds[#seconds + 1] = C.tl_seconds() - t0 end
  end
  batch:free()
  local s = median(seconds)
  local tokens = o.sequences * o.tokens
  local flops = tokens * (layer_flops(model, o.tokens / 2) * (last.recomputes and 3 or 2) + head_flops(model) * 3)
  last.tokens_per_s, last.tokens_per_s_best, last.ms_per_step = tokens / s, tokens / math.min(unpack(seconds)), s * 1e3
  last.roofline_share, last.peak_gflops = flops / s / peak_of(model), peak_of(model) * 1e-9
  last.peak_rss_bytes, last.sequences, last.tokens, last.reps = tonumber(C.tl_peak_rss_bytes()), o.sequences, o.tokens, o.reps
  return last
end

--- GRPO steps: `prompts` prompts x `group` completions of up to `new_tokens` tokens. problems: a list; reward by the verifier.
--- So that a step has something to train on, the reward of a benchmark may be random (verifier = nil): it depends on the text.
function bench.grpo(model, o)
  local trainer = require("tl.grpo").trainer { model = model, adapter = o.adapter, num_generations = o.group, lr = 1e-3,
    max_completion_length = o.new_tokens, verifier = o.verifier, prompt = o.prompt, memory = o.memory, seed = 1,
    reward = not o.verifier and function(_, completion) return #completion.text % 2 end or nil, max_sequences = o.max_sequences }
  local t, sampling, verify, update, tokens, lengths = {}, {}, {}, {}, {}, {}
  for rep = 0, o.reps do
    local batch = {}
    for i = 1, o.prompts do batch[i] = o.problems[(rep * o.prompts + i - 1) % #o.problems + 1] end
    local m, r = trainer:step(batch)
    if rep > 0 or o.reps == 0 then
      t[#t + 1], sampling[#sampling + 1], verify[#verify + 1], update[#update + 1] = m.step_time, m.sample_s, m.verify_s, m.update_s
      tokens[#tokens + 1], lengths[#lengths + 1] = r.n_tokens, m["completions/mean_length"]
    end
  end
  trainer:free()
  return { seconds_per_step = median(t), seconds_per_step_best = math.min(unpack(t)), sample_s = median(sampling), verify_s = median(verify),
    update_s = median(update), tokens_per_step = median(tokens), mean_length = median(lengths), peak_rss_bytes = tonumber(C.tl_peak_rss_bytes()),
    prompts = o.prompts, group = o.group, new_tokens = o.new_tokens, reps = o.reps, peak_gflops = peak_of(model) * 1e-9 }
end

return bench
