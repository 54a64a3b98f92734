--- bench.lua: throughput and memory of sampling, training and whole GRPO steps, each beside what this machine can do at most
--- (multiply-adds in registers and reads of memory, measured in the same run: runtime/base/machine.c). `tlrun bench` is its
--- command line.
---
--- FLOPs counted for roofline_share: 2 per weight of the linears and the head and token, and the attention's products; a backward
--- for dX alone counts the same as a forward. Nothing else is counted, so the share is a lower bound of how busy the units are.
---
--- With profile = true one more repetition runs under the profiler (runtime/base/profile.c), after those that are timed: profile
--- lists every op with its time, FLOPs, bytes and its share of the limit, the larger of the shares of arithmetic and of memory.
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

local function mean(t)
  local sum = 0
  for _, x in ipairs(t) do sum = sum + x end
  return sum / #t
end

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

local limits_of = {}
-- the machine's limit for products of a dtype, FLOP/s; measured once
local function limit(dtype)
  limits_of[dtype] = limits_of[dtype] or C.tl_machine_gflops(dtype) * 1e9
  return limits_of[dtype]
end
local function bandwidth()
  limits_of.memory = limits_of.memory or C.tl_machine_read_gbs() * 1e9
  return limits_of.memory
end
local DTYPE = { f32 = C.TL_F32, f16 = C.TL_F16, bf16 = C.TL_BF16, int8 = C.TL_I8 }
-- of all ranks that share the model: each measures its own
local function peak_of(model, dtype) return model.shards * limit(DTYPE[dtype or model.compute]) end

-- ---- the profile

local function rows_of_profile()
  local list, row = {}, ffi.new "tl_profile_row"
  for i = 0, 1000 do
    if not C.tl_profile_get(i, row) then break end
    list[i + 1] = { name = ffi.string(row.name), n = row.n, k = row.k, op = row.is_op, dtype = tonumber(row.compute), calls = tonumber(row.calls),
      seconds = row.seconds, flops = row.flops, bytes = row.bytes }
  end
  return list
end

--- Runs fn under the profiler. Returns { rows, wall_s, covered }: rows by falling time, the last of them Lua's own part, which is
--- the wall time that no row of the runtime covers; covered is the others' share of the wall time.
function bench.profile(fn)
  C.tl_profile_start()
  local t0 = C.tl_seconds()
  local ok, message = pcall(fn)
  local wall = C.tl_seconds() - t0
  C.tl_profile_stop()
  if not ok then error(message, 0) end
  local rows, sum = rows_of_profile(), 0
  for _, r in ipairs(rows) do
    sum = sum + r.seconds
    r.name = r.n > 0 and ("%s %dx%d"):format(r.name, r.n, r.k) or r.name
    r.share_of_time = r.seconds / wall
    if r.op then r.share_of_limit = math.max(r.flops / limit(r.dtype), r.bytes / bandwidth()) / r.seconds end
  end
  table.sort(rows, function(a, b) return a.seconds > b.seconds end)
  rows[#rows + 1] = { name = "Lua", calls = 1, seconds = wall - sum, share_of_time = (wall - sum) / wall, flops = 0, bytes = 0 }
  return { rows = rows, wall_s = wall, covered = sum / wall }
end

--- The machine's limits, and the model's products alone (in its own shapes, layer after layer) at several numbers of rows:
--- the tokens/s that a decode step of so many sequences cannot exceed, by products and by reading the weights once.
function bench.roofline(model, o)
  local r = { f32_gflops = limit(C.TL_F32) * 1e-9, bf16_gflops = limit(C.TL_BF16) * 1e-9, int8_gops = limit(C.TL_I8) * 1e-9,
    memory_gbs = bandwidth() * 1e-9, threads = C.tl_threads(), isa = ffi.string(C.tl_backend_isa()), products = {} }
  local flops, seconds = layer_flops(model, 0) + head_flops(model), ffi.new "double[1]"
  local m = o.dtype == "int8" and model:quantize() or model
  for _, rows in ipairs { 1, 8, 64, 512 } do
    F.check(C.tl_model_products(m.handle, rows, o.reps * (rows > 64 and 1 or 4), seconds))
    local s = seconds[0]
    r.products[#r.products + 1] = { rows = rows, seconds = s, gflops = rows * flops / s * 1e-9, tokens_per_s = rows / s,
      share_of_limit = math.max(rows * flops / peak_of(model, o.dtype), tonumber(m.packed_bytes) / bandwidth()) / s }
  end
  return r
end

local function decode(model, o, seed)
  local s = sample.sampler(model, { adapter = o.adapter, max_sequences = o.batch })
  s:submit(random_ids(model, o.prompt_tokens, 7), o.batch, 0, { temperature = 1, max_new_tokens = o.new_tokens, ignore_eos = true, seed = seed })
  for _ in s:completions() do end
  local st = s:stats()
  s:free()
  return st
end

--- Decoding: `batch` completions of one prompt of random tokens, `new_tokens` each, at temperature 1.
--- Returns {tokens_per_s, prefill_tokens_per_s, ms_per_step, roofline_share, peak_rss_bytes, runs}. tokens_per_s_best is that of
--- the fastest decode step.
function bench.sample(model, o)
  local rates, prefill, steps, fastest = {}, {}, {}, math.huge
  local m = o.dtype == "int8" and model:quantize() or model
  for rep = 0, o.reps do
    local st = decode(m, o, rep)
    if rep > 0 then  -- the first warms up
      rates[#rates + 1] = st.new_tokens / st.decode_seconds
      prefill[#prefill + 1] = st.prompt_tokens / st.prefill_seconds
      steps[#steps + 1] = st.decode_seconds / st.decode_steps * 1e3
      fastest = math.min(fastest, st.fastest_step_seconds)
    end
  end
  local rate = median(rates)
  local flops = layer_flops(model, o.prompt_tokens + o.new_tokens / 2) + head_flops(model)
  return { tokens_per_s = rate, tokens_per_s_best = o.batch / fastest, prefill_tokens_per_s = median(prefill), ms_per_step = median(steps),
    roofline_share = rate * flops / peak_of(model, o.dtype), peak_gflops = peak_of(model, o.dtype) * 1e-9, dtype = o.dtype or model.compute,
    memory_share = rate / o.batch * m.packed_bytes / bandwidth(), memory_gbs = bandwidth() * 1e-9,
    profile = o.profile and bench.profile(function() decode(m, o, 0) end) or nil,
    peak_rss_bytes = tonumber(C.tl_peak_rss_bytes()), batch = o.batch, prompt_tokens = o.prompt_tokens, new_tokens = o.new_tokens, reps = o.reps }
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
  local function step()
    o.adapter:zero_gradient()
    local p = pass.create(model, batch, { adapter = o.adapter, backward = true, memory = require("tl.memory").of_pass(model, o.memory) })
    for i = 0, p.n_micro - 1 do
      p:forward(i, lp, nil)
      p:backward(i, d, nil)
    end
    last = { micro_batches = p.n_micro, recomputes = p.recomputes, activation_bytes = p.planned_bytes }
    p:free()
  end
  for rep = 0, o.reps do
    local t0 = C.tl_seconds()
    step()
    if rep > 0 then seconds[#seconds + 1] = C.tl_seconds() - t0 end
  end
  local profile = o.profile and bench.profile(step) or nil
  batch:free()
  local s = median(seconds)
  local tokens = o.sequences * o.tokens
  local flops = tokens * (layer_flops(model, o.tokens / 2) * (last.recomputes and 3 or 2) + head_flops(model) * 3)
  last.tokens_per_s, last.tokens_per_s_best, last.ms_per_step = tokens / s, tokens / math.min(unpack(seconds)), s * 1e3
  last.profile = profile
  last.roofline_share, last.peak_gflops = flops / s / peak_of(model), peak_of(model) * 1e-9
  last.peak_rss_bytes, last.sequences, last.tokens, last.reps = tonumber(C.tl_peak_rss_bytes()), o.sequences, o.tokens, o.reps
  return last
end

-- a reward that depends on the text, if ms is given after waiting so long, as a verifier does that asks another program
local function text_reward(ms)
  if not ms or ms == 0 then return function(_, completion) return #completion.text % 2 end end
  return loadstring(([[return function(problem, completion)
    os.execute("sleep %.3f")
    return #completion.text %% 2
  end]]):format(ms / 1000))()
end

local function trainer_of(model, o, adapter, verify_ms)
  return require("tl.grpo").trainer { model = model, adapter = adapter, num_generations = o.group, lr = 1e-3, gate = false,
    max_completion_length = o.new_tokens, rollouts = o.rollouts, verifier = o.verifier, prompt = o.prompt, memory = o.memory, seed = 1,
    workers = o.workers, timeout_ms = 10000 + (verify_ms or 0),
    reward = not o.verifier and text_reward(verify_ms) or nil, max_sequences = o.max_sequences }
end

-- the problems of step `rep`
local function problems_of(o, rep)
  local batch = {}
  for i = 1, o.prompts do batch[i] = o.problems[(rep * o.prompts + i - 1) % #o.problems + 1] end
  return batch
end

--- GRPO steps: `prompts` prompts x `group` completions of up to `new_tokens` tokens. problems: a list; reward by the verifier.
--- So that a step has something to train on, the reward of a benchmark may be random (verifier = nil): it depends on the text.
--- verify_ms: the verifier waits that long for every completion.
function bench.grpo(model, o)
  local trainer = trainer_of(model, o, o.adapter, o.verify_ms)
  local t, sampling, verify, update, tokens, lengths, equal = {}, {}, {}, {}, {}, {}, {}
  local function step(rep) return trainer:step(problems_of(o, rep)) end
  local difference, weight, kept, predicted
  for rep = 0, o.reps do
    local m, r = step(rep)
    if m["sampling/sampling_logp_difference/mean"] then
      difference, weight = m["sampling/sampling_logp_difference/mean"], m["sampling/importance_sampling_ratio/mean"]
    end
    if rep > 0 or o.reps == 0 then
      t[#t + 1], sampling[#sampling + 1], verify[#verify + 1], update[#update + 1] = m.step_time, m.sample_s, m.verify_s, m.update_s
      kept, predicted = m.layers_kept, m.predicted_rss_bytes
      tokens[#tokens + 1], lengths[#lengths + 1], equal[#equal + 1] = r.n_tokens, m["completions/mean_length"], m["frac_reward_zero_std"]
    end
  end
  local profile = o.profile and bench.profile(function() step(0) end) or nil
  trainer:free()
  return { profile = profile, rollouts = o.rollouts, logp_difference = difference, layers_kept = kept, predicted_rss_bytes = predicted, importance_weight = weight, seconds_per_step = median(t), seconds_per_step_best = math.min(unpack(t)), sample_s = median(sampling), verify_s = median(verify),
    update_s = median(update), tokens_per_step = median(tokens), mean_length = median(lengths), equal_groups = median(equal), peak_rss_bytes = tonumber(C.tl_peak_rss_bytes()),
    prompts = o.prompts, group = o.group, new_tokens = o.new_tokens, reps = o.reps, peak_gflops = peak_of(model) * 1e-9 }
end

--- A population of `members` adapters beside as many trainers of their own, in one process: the same problems, seeds and numbers, hence the
--- same completions; in every repetition first the trainers' steps one by one, then the population's. The ratios are the medians of those
--- within a repetition. Loading the model, which separate processes would do again and again, is not counted.
function bench.population(model, o)
  local tl, list, singles = require "tl", {}, {}
  local common = { model = model, num_generations = o.group, max_completion_length = o.new_tokens, rollouts = o.rollouts, gate = false, lr = 1e-3,
    verifier = o.verifier, reward = not o.verifier and text_reward() or nil, workers = 1, timeout_ms = 10000 }
  local first
  for k = 1, o.members do
    local own = { seed = k, adapter = { seed = k, dtype = "bf16" } }
    list[k] = own
    local single = { adapter = tl.adapter.tinylora(model, { seed = k, dtype = "bf16", basis = first }), seed = k, memory = o.memory }
    for name, v in pairs(common) do single[name] = v end
    first = first or single.adapter
    singles[k] = require("tl.grpo").trainer(single)
  end
  common.members, common.memory = list, o.memory
  local pop, r = require("tl.population").grpo(common), { sample = {}, update = {}, ratio = {}, single_s = {}, population_s = {}, tokens = {}, idle = {} }
  for rep = 0, o.reps do
    local batch, alone, sampling, updating = {}, 0, 0, 0
    for i = 1, o.prompts do batch[i] = o.problems[(rep * o.prompts + i - 1) % #o.problems + 1] end
    for _, t in ipairs(singles) do
      local m = t:step(batch)
      alone, sampling, updating = alone + m.step_time, sampling + m.sample_s, updating + m.update_s
    end
    local of_members, _, whole = pop:step(batch)
    if rep > 0 then
      for _, m in ipairs(of_members) do r.idle[#r.idle + 1] = m.frac_reward_zero_std end
      local function add(name, v) r[name][#r[name] + 1] = v end
      add("single_s", alone); add("population_s", whole.step_time); add("ratio", alone / whole.step_time)
      add("sample", sampling / whole.sample_s); add("update", updating / whole.update_s); add("tokens", whole.n_tokens)
    end
  end
  local equal = true
  for k, t in ipairs(singles) do
    local a, b = t.adapter:parameters(), pop.members[k].adapter:parameters()
    for i = 1, #a do equal = equal and a[i] == b[i] end
    t:free()
  end
  pop:free()
  return { members = o.members, prompts = o.prompts, group = o.group, new_tokens = o.new_tokens, reps = o.reps, rollouts = o.rollouts,
    seconds_one_by_one = median(r.single_s), seconds_population = median(r.population_s), ratio = median(r.ratio), ratio_sampling = median(r.sample),
    ratio_update = median(r.update), tokens_per_step = median(r.tokens), groups_without_gradient = mean(r.idle), equal = equal, peak_rss_bytes = tonumber(C.tl_peak_rss_bytes()) }
end

--- A GRPO step whose verifier waits verify_ms for every completion, beside one whose verifier does not: two trainers take turns,
--- so that a drift of the machine's speed meets both. slowdown: the median of the ratios of neighbours.
function bench.overlap(model, o)
  local times, ratios, waited = { {}, {} }, {}, {}
  local ms = { 0, o.verify_ms and o.verify_ms > 0 and o.verify_ms or 50 }
  local trainers = {}
  for i = 1, 2 do trainers[i] = trainer_of(model, o, o.adapters[i], ms[i]) end
  for rep = 0, o.reps do
    local t = {}
    for i = 1, 2 do
      local m = trainers[i]:step(problems_of(o, 0))
      t[i] = m.step_time
      if rep > 0 and i == 2 then waited[#waited + 1] = m.verify_s end
    end
    if rep > 0 then
      times[1][rep], times[2][rep], ratios[rep] = t[1], t[2], t[2] / t[1]
    end
  end
  for i = 1, 2 do trainers[i]:free() end
  return { verify_ms = ms[2], workers = o.workers, seconds_per_step = median(times[2]), seconds_per_step_without = median(times[1]),
    waited_s = median(waited), slowdown = median(ratios), prompts = o.prompts, group = o.group, new_tokens = o.new_tokens, reps = o.reps }
end

--- A model with random weights in the shape of a known one (tl.plan.shapes), or nil: what a step costs at a size that is not here.
function bench.shaped(name, dtype)
  local s = require("tl.plan.shapes").find(name)
  return s and bench.of_shape(s, dtype)
end

--- The same of a shape as tl.plan.shapes has them.
function bench.of_shape(s, dtype)
  local json, path = require "tl.json", os.tmpname()
  local class = { llama = "LlamaForCausalLM", qwen2 = "Qwen2ForCausalLM", qwen3 = "Qwen3ForCausalLM" }
  local text = json.encode { architectures = { class[s.family] }, model_type = s.family, num_hidden_layers = s.layers, hidden_size = s.width,
    num_attention_heads = s.heads, num_key_value_heads = s.kv_heads, head_dim = s.head_dim, intermediate_size = s.ffn, vocab_size = s.vocab,
    rms_norm_eps = 1e-5, rope_theta = 10000, max_position_embeddings = 4096, tie_word_embeddings = s.tied, hidden_act = "silu", eos_token_id = 2 }
  F.check(C.tl_write_file(path, text, #text))
  local ok, m = pcall(require("tl.model").create, path, { dtype = dtype })
  os.remove(path)
  if not ok then error(m, 0) end
  m.tok = false  -- there is none
  return m
end

return bench
