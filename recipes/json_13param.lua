-- json_13param.lua: an engineer's case. A model that was never tuned for it shall answer word problems with JSON and nothing else:
-- {"answer": <number>}. The reward is a Lua function; 13 numbers are trained by GRPO. Measured on held-out problems at the
-- temperature of use: how often the form is right, and how often the number is right too.
--
--   tlrun fetch smollm2-135m-instruct && tlrun recipes/json_13param.lua
local tl = require "tl"

local p = tl.recipe {
  name        = "json_13param",
  description = "13 numbers teach a model to answer with JSON only.",
  model       = { "smollm2-135m-instruct", "model directory, GGUF file or name" },
  task        = { "mawps", "problem set" },
  total       = { 60, "GRPO steps", integer = true, min = 1 },
  batch       = { 8, "problems a step", integer = true, min = 1 },
  group       = { 8, "completions a problem", integer = true, min = 2 },
  lr          = { 3e-3, "AdamW learning rate", min = 0 },
  temperature = { 0.7, "of the rollouts and of the sampled measurement", min = 0 },
  new_tokens  = { 48, "longest completion in tokens", integer = true, min = 1 },
  eval        = { 100, "held-out problems", integer = true, min = 1 },
  samples     = { 2, "sampled answers to each of them, beside the greedy one", integer = true, min = 1 },
  checkpoint  = tl.checkpoint.EVERY,
  resume      = tl.checkpoint.FROM,
}

local function reward(problem, completion)  -- 1 for the form, 1 more for the number
  local number = completion.text:match '^%s*{%s*"answer"%s*:%s*(%-?%d+%.?%d*)%s*}%s*$'
  if not number or completion.finish ~= "stop" then return 0 end
  return tonumber(number) == tonumber(problem.answer) and 2 or 1
end

local function style(problem)
  return { { role = "user", content = problem.question .. '\nReply with JSON only: {"answer": <number>}' } }
end

local model = tl.model.load(p.model, { device = p.device })
local train = tl.data.load(p.task, { split = "train", style = style })
local held_out = tl.data.load(p.task, { split = "test", style = style }):take(p.eval)
local adapter = tl.adapter.tinylora(model, { rank = 2, u = 13, tie = tl.tie.full, dtype = "bf16" })
local run = tl.report.run { name = p.name, out = p.out, config = p, seed = p.seed, total = p.total, completions = 8 }
run:log("%s", tostring(adapter))
local began = os.time()

local function measure(name, a)  -- right: the form is
  local r = tl.eval.greedy_and_sampled { model = model, adapter = a, problems = held_out, verifier = reward, max_new_tokens = p.new_tokens,
    temperature = p.temperature, samples = p.samples, seed = p.seed, headline = "sampled", name = name,
    also = { number_right = function(item) return item.reward == 2 end }, log = function(...) run:log(...) end }
  run:scalars("eval", { json = r.accuracy, number_right = r.number_right })
  return r
end

local before = measure "before"
local trainer = tl.grpo.trainer { model = model, adapter = adapter, reward = reward, lr = p.lr, num_generations = p.group,
  temperature = p.temperature, max_completion_length = p.new_tokens, total_steps = p.total, seed = p.seed, gate = p.gate,
  memory = p.memory,
  checkpoint = p.checkpoint, resume = p.resume, run = run, progress = run:ticker() }
for batch in train:batches { size = p.batch, epochs = 10, seed = p.seed, steps = p.total, skip = trainer.steps } do trainer:step(batch) end
trainer:free()
adapter:save(run:file("adapter"))
local result = { run = run.path, trained_parameters = adapter.n_parameters, trained_bytes = adapter.n_bytes, before = before,
  after = measure("after", adapter), seconds = os.time() - began }
run:finish(result)
return result
