-- real_model.lua: accuracy against trained numbers on a model that others trained: 13, 104 and 1050 numbers of TinyLoRA and LoRA of rank 1
-- by GRPO, 13 by SFT, and the base model on the same problems. The task is to answer word problems with one JSON object and nothing
-- else, {"answer": <number>}, and to stop: what SmolLM2-135M sometimes does when asked, where its arithmetic almost never is right
-- (docs/results.md). Accuracy is the share of greedy answers with that form; that of right numbers stands beside it.
--   tlrun fetch smollm2-135m-instruct && tlrun recipes/paper/real_model.lua
local tl = require "tl"
local p = tl.recipe(tl.paper.options { name = "real_model", description = "GRPO on a real model: accuracy against trained numbers.",
  model = { "smollm2-135m-instruct", "model directory, GGUF file or name" }, task = { "mawps", "problem set", type = "string" },
  steps = { 20, "steps of a run", integer = true, min = 1 }, batch = { 8, "problems a step", integer = true, min = 1 },
  group = { 8, "completions a problem", integer = true, min = 2 }, new_tokens = { 48, "longest completion", integer = true, min = 1 },
  valid = { 60, "held-out problems by which learning rates are chosen", integer = true, min = 1 }, test = { 140, "held-out problems of the reported accuracy", integer = true, min = 1 },
  seeds = { 2, "seeds of every point", integer = true, min = 1 }, sweep_seeds = { 1, "seeds that try every learning rate", integer = true, min = 1 },
  temperature = { 0.7, "of the rollouts", min = 0 }, quick = { false, "fewer and shorter runs: a quarter of the time" } })
local smaller = p.ci and { steps = 1, batch = 2, group = 4, new_tokens = 16, valid = 4, test = 8, seeds = 1 } or p.quick and { steps = 10, valid = 40, test = 100, seeds = 1 } or {}
for name, v in pairs(smaller) do if tl.recipe.given(p)[name] == nil then p[name] = v end end

local function form(_, completion)
  return completion.finish == "stop" and completion.text:match '^%s*{%s*"answer"%s*:%s*%-?%d+%.?%d*%s*}%s*$' and 1 or 0
end

local function style(problem) return { { role = "user", content = problem.question .. '\nReply with JSON only: {"answer": <number>}' } } end

local function target(problem) return ('{"answer": %s}'):format(problem.answer) end

local function problems(s, split) return tl.data.load(s.task, { split = split, style = style }) end

local function train(s)
  local d = { model = s.model, method = s.method }
  if s.method == "base" then return d end
  local groups = tonumber((s.tie or ""):match "^groups:(%d+)$")
  d.adapter = { kind = s.adapter, rank = s.rank, u = s.u, seed = 42 + s.seed, dtype = "f32",
    tie = s.adapter == "tinylora" and (groups and function(m) return math.floor(m.position * groups / m.count) end or s.tie) or nil }
  d.lr, d.total_steps, d.seed, d.steps = tl.optim.cosine(s.lr, 0, 0.1), s.steps, s.seed, s.steps
  function d.batches() return problems(s, "train"):batches { size = s.batch, epochs = 1000, seed = s.seed, steps = s.steps } end
  if s.method == "sft" then
    d.target = target
  else
    d.verifier, d.num_generations, d.max_completion_length, d.temperature, d.gate, d.loss_type = form, s.group, s.new_tokens, s.temperature, false, "grpo"
  end
  return d
end

local function measure(s, t)
  local held_out, m = problems(s, "test"), { model_parameters = t.model.n_parameters }
  if t.adapter then m.trained_parameters, m.trained_bytes = t.adapter.n_parameters, t.adapter.n_bytes end
  for name, from in pairs { judged = s.test, accuracy = 0 } do
    local n = name == "judged" and s.valid or s.test
    local right = {}
    local r = tl.eval.run { model = t.model, adapter = t.adapter, verifier = form, max_new_tokens = s.new_tokens,
      problems = held_out:filter(function(_, i) return i > from and i <= from + n end) }
    m[name] = r.accuracy
    if name == "accuracy" then
      for _, item in ipairs(r.items) do
        if item.reward == 1 and tonumber(item.text:match "%-?%d+%.?%d*") == tonumber(item.answer) then right[#right + 1] = item end
      end
      m.mean_length, m.number_right = r.mean_length, #right / n
    end
  end
  return m
end

-- seconds on one thread for the plan, as SmolLM2-135M takes them on an AMD EPYC with AVX-512; what done runs took corrects it
local function cost(s)
  return 0.14 * (s.valid + s.test) + (s.method == "base" and 0 or 0.16 * s.steps * s.batch * (s.group or 1))
end

local points = { { method = "base" } }
local function point(method, adapter, rates, more)
  local q = { method = method, adapter = adapter, temperature = method == "grpo" and p.temperature or nil }
  for k, v in pairs(more) do q[k] = v end
  for _, lr in ipairs(#p.lrs > 0 and p.lrs or rates) do
    local one = { lr = lr }
    for k, v in pairs(q) do one[k] = v end
    points[#points + 1] = one
  end
end
point("grpo", "tinylora", { 3e-3, 1e-2 }, { rank = 2, u = 13, tie = "full" })
point("grpo", "tinylora", { 1e-3, 3e-3 }, { rank = 2, u = 13, tie = "groups:8" })
point("grpo", "tinylora", { 1e-3, 3e-3 }, { rank = 2, u = 5, tie = "none" })
point("grpo", "lora", { 3e-4, 1e-3 }, { rank = 1 })
point("sft", "tinylora", { 3e-3, 1e-2 }, { rank = 2, u = 13, tie = "full" })

local rows, missing = tl.paper.run(p, tl.paper.runs(p, points), { name = "real_model", train = train, measure = measure, cost = cost })
if not rows or #rows == 0 then return end
local n, base = rows[1].test, tl.paper.base(rows)
local list, series = tl.paper.climb(tl.experiment.where(rows, { method = "grpo" }), n)
local sft = tl.paper.climb(tl.experiment.where(rows, { method = "sft" }), n)
if #sft > 0 then series[#series + 1] = tl.paper.line({ name = "TinyLoRA by SFT", colour = 4, bars = true }, sft, "trained_parameters", n) end
local function right(q) return ("%.1f"):format(100 * tl.experiment.spread(tl.experiment.values(q.rows, "number_right")).mean) end
local t = { columns = { "method", "adapter", "trained numbers", "learning rate", "form right", "seeds", "number right too, %", "tokens an answer" }, rows = {} }
local function row(method, q)
  t.rows[#t.rows + 1] = { method, q.adapter or "none", tostring(q.trained_parameters or 0), q.lr and ("%g"):format(q.lr) or "", tl.paper.text(q, n), tostring(q.n), right(q),
    ("%.1f"):format(tl.experiment.spread(tl.experiment.values(q.rows, "mean_length")).mean) }
end
if base then row("base", base) end
for _, q in ipairs(list) do row("GRPO", q) end
for _, q in ipairs(sft) do row("SFT", q) end
local small, best, finding, verdict = list[1], tl.paper.top(list), "too few runs are done", "not decided"
if base and best and best.mean <= base.mean then
  finding = ("No size is above the base model, which has %s."):format(tl.paper.text(base, n))
elseif base and best then
  local share = (small.mean - base.mean) / (best.mean - base.mean)
  local _, _, word = tl.paper.compare(best, base, n)
  verdict = word ~= "higher" and "not decided" or share >= 0.9 and "reproduced" or share >= 0.5 and "partly reproduced" or "not reproduced"
  finding = ("The base model has %s, %d trained numbers %s, the best size %s (%d numbers)."):format(tl.paper.text(base, n), small.trained_parameters, tl.paper.text(small, n),
    tl.paper.text(best, n), best.trained_parameters)
end
return tl.paper.publish(p, { title = "A real model: the form of an answer", missing = missing, verdict = verdict, finding = finding, tables = { t },
  claim = "13 trained numbers reach 90% of the gain of the best size by reinforcement learning",
  charts = { { title = "share of answers with the form; bars: one standard error", x = { label = "trained numbers", log = true },
    y = { label = "form right", percent = true, min = 0 }, series = series, lines = { base and { y = base.mean, name = "base model" } } } } })
