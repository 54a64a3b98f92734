-- sweep.lua: learning rates x seeds in one process. Every (rate, seed) is a member of one population: its prompts stand in the same batch
-- as the others', and it ends with the bytes of a run of its own. All members are then measured together, the base among them.
local tl = require "tl"

local p = tl.recipe {
  name        = "sweep",
  description = "GRPO at several learning rates and seeds at once, as one population.",
  model       = { "tiny", "model directory, GGUF file or name" },
  rates       = { { 3e-3, 1e-2, 3e-2, 1e-1 }, "learning rates" },
  seeds       = { { 1, 2, 3 }, "seeds: of the problems' order and of sampling" },
  u           = { 13, "trained numbers, tied over all modules", integer = true, min = 1 },
  total       = { 20, "GRPO steps", integer = true, min = 1 },
  batch       = { 8, "problems a step, of each member", integer = true, min = 1 },
  group       = { 8, "completions a problem", integer = true, min = 2 },
  eval        = { 100, "held-out problems, greedy", integer = true, min = 1 },
  new_tokens  = { 64, "longest answer in tokens", integer = true, min = 1 },
}

local model = tl.model.load(p.model, { dtype = "bf16", device = p.device })
local train = tl.data.load("wordproblems", { n = p.total * p.batch, seed = p.seed, split = "train" })
local held_out = tl.data.load("wordproblems", { n = p.eval, seed = p.seed + 1000, split = "test" })
local run = tl.report.run { name = p.name, out = p.out, config = p, seed = p.seed, total = p.total }
local began = os.time()

local pop = tl.population { model = model, verifier = "verifiers.math", num_generations = p.group, max_completion_length = p.new_tokens,
  total_steps = p.total, gate = p.gate, memory = p.memory, adapter = { rank = 2, u = p.u, tie = "full", dtype = "bf16" },
  grid = { lr = p.rates, seed = p.seeds } }

-- every member sees the problems in the order of its own seed
local order = {}
for k, o in ipairs(pop.options) do
  order[k] = {}
  for batch in train:batches { size = p.batch, epochs = 1, seed = o.seed } do table.insert(order[k], batch) end
end
for step = 1, p.total do
  local metrics, _, whole = pop:step(function(k) return order[k][step] end)
  local mean = 0
  for _, m in ipairs(metrics) do mean = mean + m.reward / #metrics end
  run:step { step = step, reward = mean, tokens_per_s = whole.n_tokens / whole.step_time, step_time = whole.step_time, sample_s = whole.sample_s, update_s = whole.update_s }
end

local adapters = { tl.adapter.tinylora(model, { rank = 2, u = p.u, basis = pop.members[1].adapter }) }  -- v = 0: the base
for _, t in ipairs(pop.members) do adapters[#adapters + 1] = t.adapter end
local rewards = tl.population.rewards(tl.population.of(adapters), held_out, { verifier = "verifiers.math", max_new_tokens = p.new_tokens })

local result = { run = run.path, before = { accuracy = rewards[1].accuracy, n = p.eval }, members = {}, seconds = os.time() - began }
run:log("base        %5.1f%% of %d right", 100 * rewards[1].accuracy, p.eval)
for k, o in ipairs(pop.options) do
  local r = rewards[k + 1]
  result.members[k] = { lr = o.lr, seed = o.seed, accuracy = r.accuracy, mean_length = r.mean_length }
  run:log("lr %-7g seed %-3d %5.1f%% right, %.1f tokens", o.lr, o.seed, 100 * r.accuracy, r.mean_length)
  pop.members[k].adapter:save(run:file(("member-%02d"):format(k)))
end
run:finish(result)
return result
