--- plan/check.lua: the plan held against this machine: its peaks and the model's products are measured, GRPO steps are run, and
--- the step is predicted from the former. What the data decides is taken from the run (tokens a prompt and a completion, the longest
--- completion, how many completions carried a gradient); every second is predicted.
local F = require "tl.ffi"
local ffi = require "ffi"
local bench = require "tl.bench"
local devices = require "tl.plan.devices"
local plan = require "tl.plan"
local shapes = require "tl.plan.shapes"
local C = F.C

local check = {}

--- This machine as a device for a plan of this model: peaks, and the products at the rows that a step has.
function check.device(model, reps)
  local r = bench.roofline(model, { reps = reps or 3 })
  local products = {}
  for i, p in ipairs(r.products) do products[i] = { p.rows, p.gflops * 1e9 } end
  return devices.cpu({ bf16 = r.bf16_gflops * 1e9, f32 = r.f32_gflops * 1e9, memory = r.memory_gbs * 1e9, threads = r.threads }, products)
end

--- The shape of a loaded model.
function check.shape(model)
  local i = model.info
  return { name = model.name, source = i.path, layers = i.n_layers, width = i.width, heads = i.n_heads, kv_heads = i.n_kv_heads, head_dim = i.head_dim,
    ffn = i.ffn, vocab = i.vocab, tied = i.tied, family = i.architecture }
end

-- one measured step: its metrics and what the data decided
local function run_step(trainer, problems)
  local m, r = trainer:step(problems)
  local prompt, new, longest, n = 0, 0, 0, 0
  for _, g in ipairs(r.groups) do
    prompt = prompt + #g.prompt
    for _, c in ipairs(g.completions) do n, new, longest = n + 1, new + #c.ids, math.max(longest, #c.ids) end
  end
  return { seconds = m.step_time, sample_s = m.sample_s, update_s = m.update_s, layers_kept = m.layers_kept, predicted_rss_bytes = m.predicted_rss_bytes,
    prompt_tokens = prompt / #r.groups, mean_tokens = new / n, last_tokens = longest, trained = m.samples_trained / n }
end

-- How much of its best this machine gives right now: the products of 64 rows, one pass after another for a while, beside their best.
-- Other programs on the cores, and other computers on the same host, take the rest.
local function share_now(model, best)
  local seconds, sum, n = ffi.new "double[1]", 0, 0
  local until_ = C.tl_seconds() + 0.3
  while n < 3 or C.tl_seconds() < until_ do
    F.check(C.tl_model_products(model.handle, 64, 1, seconds))
    sum, n = sum + seconds[0], n + 1
  end
  return best / (sum / n)
end

local function median_of(list, key)
  table.sort(list, function(a, b) return a[key] < b[key] end)
  return list[math.ceil(#list / 2)]
end

-- one prediction for one measured step; available: the share of the machine's best that it had around it
local function compare(model, o, device, measured, available)
  local w = { shape = check.shape(model), device = device, prompts = o.prompts, group = o.group, prompt_tokens = measured.prompt_tokens,
    mean_tokens = measured.mean_tokens, max_tokens = o.new_tokens, last_tokens = measured.last_tokens, sequences = 64, dtype = model.compute,
    adapter = "tinylora", rank = o.rank, u = o.u, rollouts = "native", trained = measured.trained, count = 1, available = available,
    memory = o.memory and o.memory > 0 and o.memory or measured.predicted_rss_bytes }
  local m = plan.memory(w)
  m.kept_layers = measured.layers_kept
  local step = plan.step(w, m)
  return { workload = w, measured = measured, memory = m, step = step, ratio = step.seconds / measured.seconds, available = available }
end

--- Runs o.reps steps (one more to warm up) of o.prompts x o.group x up to o.new_tokens on word problems, each between two measurements
--- of what the machine gives. Returns the step with the median ratio: { workload, measured, memory, step, ratio, available,
--- peak_rss_bytes, memory_kept_to }.
function check.run(model, o)
  local problems = require("tl.data").load("wordproblems", { style = "gsm8k-hash", limit = o.prompts * (o.reps + 1) })
  local adapter = require("tl.adapter").tinylora(model, { rank = o.rank, u = o.u, tie = require("tl.tie").full })
  local device = check.device(model)
  local trainer = require("tl.grpo").trainer { model = model, adapter = adapter, num_generations = o.group, lr = 1e-3, gate = false, seed = 1,
    max_completion_length = o.new_tokens, memory = o.memory, reward = function(_, completion) return #completion.text % 2 end }
  local best64, seconds = math.huge, ffi.new "double[1]"
  local list = {}
  for rep = 0, o.reps do
    local batch = {}
    for i = 1, o.prompts do batch[i] = problems[rep * o.prompts + i] end
    F.check(C.tl_model_products(model.handle, 64, 8, seconds))
    best64 = math.min(best64, seconds[0])
    local before = share_now(model, best64)
    local measured = run_step(trainer, batch)
    local available = (before + share_now(model, best64)) / 2
    if rep > 0 then list[rep] = compare(model, o, device, measured, available) end
  end
  trainer:free()
  local r = median_of(list, "ratio")
  r.peak_rss_bytes = tonumber(C.tl_peak_rss_bytes())
  r.memory_kept_to = r.peak_rss_bytes <= r.measured.predicted_rss_bytes
  return r
end

return check
