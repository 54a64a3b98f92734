--- paper/train.lua: one run of a study of the paper, from plain settings to metrics: the description of its training, and what is measured after it
--- (tl.experiment's train and measure).
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
local training = require "tl.experiment.training"

local train = {}

--- Problems of the task (nil: word problems for the embedded models, GSM8K for others) with the prompts of the studies. o: split, seed, n,
--- as in tl.data.load: a set that is a file is read whole.
---@return tl.Dataset
function train.problems(model, task, o)
  task = task or (model.vocab < 1024 and "wordproblems" or "gsm8k")
  return require("tl.data").load(task, { split = o.split, style = task == "wordproblems" and "chat" or "gsm8k-hash", seed = o.seed, n = o.n })
end

--- The model of a run and the problems it is measured on: { model, valid, test }.
function train.world(s)
  local model = training.model(s.model or "tiny")
  local function held_out(n, first)
    local d = train.problems(model, s.task, { split = "test", seed = 1000, n = first + n })
    if #d < first + n then error(("the task has %d test problems; %d are wanted"):format(#d, first + n), 0) end
    return d:filter(function(_, i) return i > first and i <= first + n end)
  end
  return { model = model, test = held_out(s.test, 0), valid = held_out(s.valid, s.test) }
end

local function tying(tie)
  local n = type(tie) == "string" and tonumber(tie:match "^groups:(%d+)$")
  if not n then return tie or "full" end
  return function(m) return math.floor(m.position * n / m.count) end
end

--- The training that a run's settings mean, as tl.experiment wants it; of the base model none.
---@param s table settings
---@return table
function train.describe(s)
  local d = { model = s.model or "tiny", method = s.method }
  if s.method == "base" then return d end
  d.adapter = { kind = s.adapter, rank = s.rank, u = s.u, tie = s.adapter == "tinylora" and tying(s.tie) or nil, dtype = s.dtype or "f32", seed = 42 + s.seed }
  d.lr, d.total_steps, d.seed, d.steps = require("tl.optim").cosine(s.lr, 0, 0.1), s.steps, s.seed, s.steps
  function d.batches(model)
    return train.problems(model, s.task, { split = "train", seed = s.seed, n = s.steps * s.batch }):batches { size = s.batch, epochs = 1000, seed = s.seed, steps = s.steps }
  end
  if s.store then
    local round = require("tl.rounding").codec(s.store, s.rounding, s.seed)
    function d.after(adapter) adapter:set(round(adapter:parameters())) end
  end
  if s.method == "grpo" then
    d.verifier, d.num_generations, d.max_completion_length, d.gate, d.loss_type = "verifiers.math", s.group, s.new_tokens, false, "grpo"
    d.rollouts, d.is_mode = s.rollouts, s.is_mode
  end
  return d
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

local MISMATCH = { "sampling/sampling_logp_difference/mean", "sampling/sampling_logp_difference/max", "sampling/importance_sampling_ratio/mean" }

local function mean_of(steps, name) return summary.spread(summary.values(steps, name)).mean end

--- A run's metrics: of its steps, and accuracy on both held-out sets.
---@param s table settings
---@param t table { model, adapter, steps } of the training
---@return table
function train.measure(s, t)
  local w, steps = train.world(s), t.steps
  local m = { model_parameters = w.model.n_parameters }
  if t.adapter then
    m.trained_parameters, m.trained_bytes = t.adapter.n_parameters, s.store and require("tl.rounding").bytes(s.store, t.adapter.n_parameters) or t.adapter.n_bytes
    m.loss_first, m.loss_last = quarters(steps, "loss")
  end
  if s.method == "grpo" then
    m.reward_first, m.reward_last = quarters(steps, "reward")
    m.length_first, m.length_last = quarters(steps, "completions/mean_length")
    for _, name in ipairs(MISMATCH) do if steps[1][name] then m[name] = mean_of(steps, name) end end
  end
  for _, name in ipairs { "valid", "test" } do
    local r = require("tl.eval").run { model = w.model, adapter = t.adapter, problems = w[name], verifier = "verifiers.math", max_new_tokens = s.new_tokens }
    if name == "valid" then m.judged = r.accuracy else m.accuracy, m.mean_length = r.accuracy, r.mean_length end
  end
  return m
end

return train
