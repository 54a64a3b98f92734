-- expression_13param.lua: a real model and real word problems. The model reads a problem and writes the arithmetic expression that solves
-- it, "7 * (4 + 2)"; the verifier evaluates it. Calculating is the program's part, so that what is asked of a small model is what it can
-- do: find out what to do with the numbers. 13 numbers are trained by GRPO; measured on held-out problems, before and after.
--
--   tlrun fetch smollm2-135m-instruct && tlrun recipes/expression_13param.lua
local tl = require "tl"

local p = tl.recipe {
  name        = "expression_13param",
  description = "13 numbers make a model better at turning word problems into expressions.",
  model       = { "smollm2-135m-instruct", "model directory, GGUF file or name" },
  task        = { "mawps", "problem set" },
  rank        = { 2, "frozen rank r", integer = true, min = 1 },
  u           = { 13, "trained numbers of a tied group", integer = true, min = 1 },
  tie         = { "full", "none, full, structured, tiled:N or ratio:T" },
  total       = { 100, "GRPO steps", integer = true, min = 1 },
  batch       = { 16, "problems a step", integer = true, min = 1 },
  group       = { 16, "completions a problem", integer = true, min = 2 },
  lr          = { 3e-3, "AdamW learning rate", min = 0 },
  temperature = { 0.7, "of the rollouts and of the sampled measurement", min = 0 },
  new_tokens  = { 24, "longest expression in tokens", integer = true, min = 1 },
  eval        = { 400, "held-out problems", integer = true, min = 1 },
  samples     = { 4, "sampled answers to each of them, beside the greedy one", integer = true, min = 1 },
  checkpoint  = tl.checkpoint.EVERY,
  resume      = tl.checkpoint.FROM,
}

local EXAMPLES = [[
Question: Sam has 5 pens and buys 3 more. How many pens does he have now?
Expression: 5 + 3

Question: There are 12 birds on a tree and 4 fly away. How many birds are left?
Expression: 12 - 4

Question: Each of 6 boxes holds 7 books. How many books are there?
Expression: 6 * 7

Question: 20 sweets are shared by 4 children. How many does each child get?
Expression: 20 / 4

]]

local function reward(problem, completion)  -- 1 when the text is an expression and its value is the answer
  local text = completion.text:match "^%s*([%d%.%+%-%*/%(%) ]*[%+%-%*/][%d%.%+%-%*/%(%) ]*)%s*$"
  local evaluate = text and loadstring("return " .. text)
  local ok, value = pcall(evaluate or error)
  return ok and math.abs(value - tonumber(problem.answer)) < 1e-6
end

local function style(problem) return EXAMPLES .. "Question: " .. problem.question .. "\nExpression:" end

local model = tl.model.load(p.model, { device = p.device })
local train = tl.data.load(p.task, { split = "train", style = style })
local held_out = tl.data.load(p.task, { split = "test", style = style }):take(p.eval)
local adapter = tl.adapter.tinylora(model, { rank = p.rank, u = p.u, tie = p.tie, dtype = "bf16" })
local run = tl.report.run { name = p.name, out = p.out, config = p, seed = p.seed, total = p.total, completions = 8 }
run:log("%s", tostring(adapter))
local began = os.time()

local function measure(name, a)
  return tl.eval.greedy_and_sampled { model = model, adapter = a, problems = held_out, verifier = reward, max_new_tokens = p.new_tokens, stop = "\n",
    temperature = p.temperature, samples = p.samples, seed = p.seed, name = name, log = function(...) run:log(...) end }
end

local before = measure "before"
local trainer = tl.grpo.trainer { model = model, adapter = adapter, reward = reward, lr = p.lr, num_generations = p.group, stop = "\n",
  temperature = p.temperature, max_completion_length = p.new_tokens, total_steps = p.total, seed = p.seed, gate = p.gate, memory = p.memory,
  checkpoint = p.checkpoint, resume = p.resume, run = run,
  progress = run:ticker() }
for batch in train:batches { size = p.batch, epochs = 10, seed = p.seed, steps = p.total, skip = trainer.steps } do trainer:step(batch) end
trainer:free()
adapter:save(run:file("adapter"))
local result = { run = run.path, trained_parameters = adapter.n_parameters, trained_bytes = adapter.n_bytes, before = before,
  after = measure("after", adapter), seconds = os.time() - began }
run:finish(result)
return result
