-- quickstart.lua: 13 numbers, 26 bytes, trained by GRPO, make a small language model better at word problems.
--
-- The model (models/tiny, trained from scratch by recipes/pretrain_tiny.lua) can solve these problems step by step and cannot solve
-- them at once; left to itself it is undecided which to do. GRPO sees only whether the final answer is right. The problems it is
-- measured on come from another seed and share no chain of numbers with those it trains on.
local tl = require "tl"

local p = tl.recipe {
  name        = "quickstart",
  description = "GRPO on 13 numbers: a small model learns to solve word problems step by step.",
  model       = { "tiny", "model directory, GGUF file or name" },
  total       = { 40, "GRPO steps", integer = true, min = 1 },
  batch       = { 16, "problems a step", integer = true, min = 1 },
  group       = { 16, "completions a problem", integer = true, min = 2 },
  lr          = { 3e-2, "AdamW learning rate at the start; a cosine takes it to a tenth", min = 0 },
  eval        = { 300, "held-out problems, greedy, before and after", integer = true, min = 1 },
  new_tokens  = { 64, "longest answer in tokens", integer = true, min = 1 },
  sft         = { true, "train the same 13 numbers by SFT on the same problems too, to compare" },
  checkpoint  = tl.checkpoint.EVERY,
  resume      = tl.checkpoint.FROM,
}

local model = tl.model.load(p.model, { dtype = "bf16", device = p.device })
local train = tl.data.load("wordproblems", { n = p.total * p.batch, seed = p.seed, split = "train" })
local held_out = tl.data.load("wordproblems", { n = p.eval, seed = p.seed + 1000, split = "test" })
local run = tl.report.run { name = p.name, out = p.out, config = p, seed = p.seed, total = p.total, quiet = false }
local began, lr = os.time(), tl.optim.cosine(p.lr, 0, 0.1)

local function adapter()
  return tl.adapter.tinylora(model, { rank = 2, u = 13, tie = tl.tie.full, dtype = "bf16" })
end
local function measure(name, a, prefix)
  local r = tl.eval.run { model = model, adapter = a, problems = held_out, verifier = "verifiers.math", max_new_tokens = p.new_tokens }
  run:log("%-28s %s right, %.1f tokens an answer", name, tl.report.interval(r.accuracy, r.ci95), r.mean_length)
  run:scalars(prefix or "eval", { accuracy = r.accuracy, mean_length = r.mean_length })
  return tl.eval.summary(r)
end

local result = { run = run.path, before = measure("before") }

local grpo = adapter()
run:log("%s", tostring(grpo))
local trainer = tl.grpo.trainer { model = model, adapter = grpo, verifier = "verifiers.math", lr = lr, num_generations = p.group,
  max_completion_length = p.new_tokens, total_steps = p.total, seed = p.seed, gate = p.gate, memory = p.memory,
  checkpoint = p.checkpoint, resume = p.resume, run = run, progress = run:ticker() }
for batch in train:batches { size = p.batch, epochs = 1, seed = p.seed, skip = trainer.steps } do trainer:step(batch) end
trainer:free()
result.after = measure("after GRPO, 13 numbers", grpo)
result.trained_parameters, result.trained_bytes = grpo.n_parameters, grpo.n_bytes
grpo:save(run:file("adapter"))

if p.sft then
  local same = adapter()
  local teacher = tl.sft.trainer { model = model, adapter = same, lr = lr, total_steps = p.total, memory = p.memory }
  for batch in train:batches { size = p.batch, epochs = 1, seed = p.seed } do teacher:step(batch) end
  result.sft = measure("after SFT, 13 numbers", same, "sft/eval")
end

result.seconds = os.time() - began
run:log("13 numbers: %s", table.concat((function(t) for i, v in ipairs(t) do t[i] = ("%.4f"):format(v) end return t end)(grpo:parameters()), " "))
run:log("the run is in %s, %d s", run.path, result.seconds)
run:finish(result)
return result
