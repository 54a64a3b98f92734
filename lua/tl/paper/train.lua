--- paper/train.lua: one run of a study of the paper, from plain settings to metrics; and several of one family at once, as a population.
---
--- A run's settings (all plain values; left out: the default in brackets):
---   method     "grpo", "sft", or "base": no training
---   adapter    "tinylora", "loraxs", "lora", "full";  rank (2), u (13), tie ("full"; "none", "structured", "tiled:N", "groups:N")
---   dtype      storage of the trained numbers beside an fp32 copy ("f32"); store: the numbers themselves are held in "bf16", "f16" or
---              "int8" and nothing else is (tl.rounding), rounding "nearest" or "stochastic"
---   lr, seed;  rollouts ("native"; "merged", "int8"), is_mode
---   model, task, steps, batch, group, new_tokens, valid, test      from the size of the study
--- Its metrics: accuracy on `test` held-out problems (greedy), judged: that on `valid` others (by which learning rates are chosen),
--- mean_length, trained_parameters, trained_bytes, reward_first and reward_last (mean over the first and the last quarter of the steps), and
--- with rollouts that are not native sampling/... of the steps. Problems of training, valid and test are disjoint.
local summary = require "tl.experiment.summary"

local train = {}

local loaded = {}

--- Problems of the task (nil: word problems for the embedded models, GSM8K for others) with the prompts of the studies. o: split, seed, n,
--- as in tl.data.load: a set that is a file is read whole.
---@return tl.Dataset
function train.problems(model, task, o)
  task = task or (model.vocab < 1024 and "wordproblems" or "gsm8k")
  return require("tl.data").load(task, { split = o.split, style = task == "wordproblems" and "chat" or "gsm8k-hash", seed = o.seed, n = o.n })
end

--- What a run works on: { model, train, valid, test }. Models stay loaded, one at a time.
function train.world(s)
  local name = s.model or "tiny"
  if not loaded[name] then
    for _, w in pairs(loaded) do w:free() end
    loaded = { [name] = require("tl.model").load(name) }
  end
  local model = loaded[name]
  local function held_out(n, first)
    local d = train.problems(model, s.task, { split = "test", seed = 1000, n = first + n })
    if #d < first + n then error(("the task has %d test problems; %d are wanted"):format(#d, first + n), 0) end
    return d:filter(function(_, i) return i > first and i <= first + n end)
  end
  local w = { model = model, test = held_out(s.test, 0), valid = held_out(s.valid, s.test) }
  if s.method ~= "base" then
    w.train = train.problems(model, s.task, { split = "train", seed = s.seed, n = s.steps * s.batch })
  end
  return w
end

local function tying(tie)
  local n = type(tie) == "string" and tonumber(tie:match "^groups:(%d+)$")
  if not n then return tie or "full" end
  return function(m) return math.floor(m.position * n / m.count) end
end

-- basis: an adapter of the same family, whose A and B are used
local function adapter_of(model, s, basis)
  return require("tl.adapter").create(model, s.adapter, { rank = s.rank, u = s.u, tie = s.adapter == "tinylora" and tying(s.tie) or nil, dtype = s.dtype or "f32",
    seed = 42 + s.seed, basis = basis })
end

-- GRPO's options of a run, into those that SFT has too
local function as_grpo(o, s)
  o.verifier, o.num_generations, o.max_completion_length, o.gate, o.loss_type = "verifiers.math", s.group, s.new_tokens, false, "grpo"
  o.rollouts, o.is_mode = s.rollouts, s.is_mode
  return o
end

local function trainer_of(w, adapter, s, run)
  local o = { model = w.model, adapter = adapter, lr = require("tl.optim").cosine(s.lr, 0, 0.1), total_steps = s.steps, seed = s.seed, run = run }
  if s.method == "sft" then return require("tl.sft").trainer(o) end
  return require("tl.grpo").trainer(as_grpo(o, s))
end

local function quarters(list, field)
  local n = math.max(1, math.floor(#list / 4))
  local function mean(first)
    local sum = 0
    for i = first, first + n - 1 do sum = sum + (list[i] and list[i][field] or 0) end
    return sum / n
  end
  return mean(1), mean(#list - n + 1)
end

local function open_run(s, job)
  return require("tl.report").run { name = "run", out = job.folder, config = s, seed = s.seed, total = s.steps, completions = 2, quiet = true }
end

local function codec(s) return s.store and require("tl.rounding").codec(s.store, s.rounding, s.seed) end

local function order(w, s) return w.train:batches { size = s.batch, epochs = 1000, seed = s.seed, steps = s.steps } end

-- the steps' metrics of one run by itself
local function alone(w, adapter, s, run)
  local trainer, round, steps = trainer_of(w, adapter, s, run), codec(s), {}
  for batch in order(w, s) do
    steps[#steps + 1] = trainer:step(batch)
    if round then adapter:set(round(adapter:parameters())) end
  end
  if trainer.free then trainer:free() end
  return steps
end

local MISMATCH = { "sampling/sampling_logp_difference/mean", "sampling/sampling_logp_difference/max", "sampling/importance_sampling_ratio/mean" }

local function mean_of(steps, name) return summary.spread(summary.values(steps, name)).mean end

-- a run's metrics: of its steps, and accuracy on both held-out sets
local function figures(w, adapter, s, steps)
  local m = { model_parameters = w.model.n_parameters }
  if adapter then
    m.trained_parameters, m.trained_bytes = adapter.n_parameters, s.store and require("tl.rounding").bytes(s.store, adapter.n_parameters) or adapter.n_bytes
    m.loss_first, m.loss_last = quarters(steps, "loss")
  end
  if s.method == "grpo" then
    m.reward_first, m.reward_last = quarters(steps, "reward")
    m.length_first, m.length_last = quarters(steps, "completions/mean_length")
    for _, name in ipairs(MISMATCH) do if steps[1][name] then m[name] = mean_of(steps, name) end end
  end
  for _, name in ipairs { "valid", "test" } do
    local r = require("tl.eval").run { model = w.model, adapter = adapter, problems = w[name], verifier = "verifiers.math", max_new_tokens = s.new_tokens }
    if name == "valid" then m.judged = r.accuracy else m.accuracy, m.mean_length = r.accuracy, r.mean_length end
  end
  return m
end

local function close(adapter, run, m)
  if adapter.kind ~= "full" then adapter:save(run:file "adapter.tla") end
  run:finish(m)
  adapter:free()
end

--- Does one run; returns its metrics.
---@param s table settings
---@param job table as tl.experiment gives it
function train.run(s, job)
  local w = train.world(s)
  if s.method == "base" then return figures(w, nil, s) end
  local adapter, run = adapter_of(w.model, s), open_run(s, job)
  local m = figures(w, adapter, s, alone(w, adapter, s, run))
  close(adapter, run, m)
  return m
end

-- ---- populations

local APART = { seed = true, lr = true, u = true, tie = true, dtype = true, store = true, rounding = true, budget = true }

--- Which runs can be trained together: text that is equal for them, or nil for a run that cannot be a member (tl.population).
---@param s table
function train.family(s)
  if s.method == "base" or s.adapter ~= "tinylora" and s.adapter ~= "loraxs" or s.rollouts and s.rollouts ~= "native" then return nil end
  local common = {}
  for k, v in pairs(s) do if not APART[k] then common[k] = v end end
  return require("tl.json").encode(common)
end

local function population_of(worlds, adapters, list, runs)
  local s, members = list[1], {}
  for k, own in ipairs(list) do
    members[k] = { adapter = adapters[k], lr = require("tl.optim").cosine(own.lr, 0, 0.1), seed = own.seed, run = runs[k] }
  end
  local o = { model = worlds[1].model, members = members, total_steps = s.steps }
  if s.method == "sft" then return require("tl.population").sft(o) end
  return require("tl.population").grpo(as_grpo(o, s))
end

--- Does the runs of one family at once; returns their metrics, which are those of each run by itself.
---@param list table[] settings
---@param jobs table[]
function train.run_together(list, jobs)
  local worlds, adapters, runs, batches, rounds, steps, out = {}, {}, {}, {}, {}, {}, {}
  for k, s in ipairs(list) do
    worlds[k] = train.world(s)
    adapters[k] = adapter_of(worlds[k].model, s, adapters[1])
    runs[k], batches[k], rounds[k], steps[k] = open_run(s, jobs[k]), order(worlds[k], s), codec(s) or false, {}
  end
  local pop = population_of(worlds, adapters, list, runs)
  for step = 1, list[1].steps do
    local problems = {}
    for k in ipairs(list) do problems[k] = batches[k]() end
    for k, m in ipairs(pop:step(function(k) return problems[k] end)) do
      steps[k][step] = m
      if rounds[k] then adapters[k]:set(rounds[k](adapters[k]:parameters())) end
    end
  end
  pop:free()
  for k, s in ipairs(list) do
    out[k] = figures(worlds[k], adapters[k], s, steps[k])
    close(adapters[k], runs[k], out[k])
  end
  return out
end

return train
