-- calculator_13param.lua: completions of several turns. The smallest embedded model may use a calculator: when it writes "=", the function
-- `calculator` replies with the result, and it goes on from there. GRPO on 13 numbers, which sees only whether the final answer is right, teaches
-- it to write its steps down, where it used to guess. With --no-tool it has to calculate by itself.
local tl = require "tl"

local p = tl.recipe {
  name        = "calculator_13param",
  description = "13 numbers teach the smallest model to solve word problems with a calculator.",
  model       = { "tiny-xs", "model directory, GGUF file or name" },
  tool        = { true, "reply to \"2+3=\" with the result" },
  total       = { 40, "GRPO steps", integer = true, min = 1 },
  batch       = { 16, "problems a step", integer = true, min = 1 },
  group       = { 16, "completions a problem", integer = true, min = 2 },
  lr          = { 3e-2, "AdamW learning rate at the start; a cosine takes it to a tenth", min = 0 },
  eval        = { 300, "held-out problems, greedy, before and after", integer = true, min = 1 },
  new_tokens  = { 64, "longest completion in tokens, replies included", integer = true, min = 1 },
  checkpoint  = tl.checkpoint.EVERY,
  resume      = tl.checkpoint.FROM,
}

local OPERATIONS = {
  ["+"] = function(a, b) return a + b end, ["-"] = function(a, b) return a - b end,
  ["*"] = function(a, b) return a * b end, ["/"] = function(a, b) return a / b end,
}
local function calculator(_, completion)
  local a, operation, b = completion.text:match "(%d+)([-+*/])(%d+)=$"
  return a and ("%g"):format(OPERATIONS[operation](tonumber(a), tonumber(b)))  -- nil: nothing to calculate, the completion is done
end

local model = tl.model.load(p.model, { dtype = "bf16", device = p.device })
local train = tl.data.load("wordproblems", { n = p.total * p.batch, seed = p.seed, split = "train" })
local held_out = tl.data.load("wordproblems", { n = p.eval, seed = p.seed + 1000, split = "test" })
local adapter = tl.adapter.tinylora(model, { rank = 2, u = 13, tie = tl.tie.full, dtype = "bf16" })
local run = tl.report.run { name = p.name, out = p.out, config = p, seed = p.seed, total = p.total }
run:log("%s", tostring(adapter))
local began, reply, stop = os.time(), p.tool and calculator or nil, p.tool and "=" or nil

local function measure(name, a)
  local r = tl.eval.run { model = model, adapter = a, problems = held_out, verifier = "verifiers.math", max_new_tokens = p.new_tokens,
    reply = reply, stop = stop }
  local replies = 0
  for _, item in ipairs(r.items) do replies = replies + (item.turns and math.floor(#item.turns / 2) or 0) end
  run:log("%-28s %s right, %.1f tokens and %.1f replies an answer", name, tl.report.interval(r.accuracy, r.ci95), r.mean_length, replies / r.n)
  run:scalars("eval", { accuracy = r.accuracy, mean_length = r.mean_length, replies = replies / r.n })
  return tl.eval.summary(r)
end

local before = measure "before"
local trainer = tl.grpo.trainer { model = model, adapter = adapter, verifier = "verifiers.math", reply = reply, stop = stop,
  lr = tl.optim.cosine(p.lr, 0, 0.1), num_generations = p.group, max_completion_length = p.new_tokens, total_steps = p.total, seed = p.seed,
  gate = p.gate, memory = p.memory, checkpoint = p.checkpoint, resume = p.resume, run = run, progress = run:ticker() }
for batch in train:batches { size = p.batch, epochs = 1, seed = p.seed, skip = trainer.steps } do trainer:step(batch) end
trainer:free()
adapter:save(run:file("adapter"))
local result = { run = run.path, trained_parameters = adapter.n_parameters, trained_bytes = adapter.n_bytes, before = before,
  after = measure("after GRPO, 13 numbers", adapter), seconds = os.time() - began }
run:log("the run is in %s, %d s", run.path, result.seconds)
run:finish(result)
return result
