-- gsm8k_13param.lua: the paper's setting ("Learning to Reason in 13 Parameters", arXiv:2602.04118) on any model and problem set:
-- TinyLoRA with r = 2, u = 13, all modules tied, trained by GRPO without a KL term, 4 completions a problem, 64 problems a step.
-- Accuracy is measured before and after on held-out problems, same prompts, greedy.
--
--   tlrun recipes/gsm8k_13param.lua --model smollm2-135m-instruct --task mawps --group 8
local tl = require "tl"

local p = tl.recipe {
  name        = "gsm8k_13param",
  description = "TinyLoRA with 13 numbers, GRPO, any model, any problem set.",
  model       = { "tiny", "model directory, GGUF file or name" },
  task        = { nil, "gsm8k, mawps, asdiv, wordproblems, ... or a .jsonl file; default: gsm8k, and wordproblems for the embedded model", type = "string" },
  eval_task   = { nil, "set that is measured; default: the task's test split", type = "string" },
  style       = { nil, "prompt style: gsm8k-hash, qwen-boxed, simple, chat, raw, or a text with {question}", type = "string" },
  verifier    = { "verifiers.math", "module that rewards" },
  extract     = { nil, "for verifiers.math: strict, flexible, boxed or hash", type = "string" },
  rank        = { 2, "frozen rank r", integer = true, min = 1 },
  u           = { 13, "trained numbers of a tied group", integer = true, min = 1 },
  tie         = { "full", "none, full, structured, tiled:N or ratio:T" },
  sigma       = { "paper", "where the singular values stand", choices = { "paper", "peft" } },
  dtype       = { "bf16", "storage of the trained numbers", choices = { "f32", "bf16", "f16" } },
  lr          = { 1e-3, "AdamW learning rate; the best depends on the model's size: sweep it", min = 0 },
  batch       = { 64, "problems a step", integer = true, min = 1 },
  group       = { 4, "completions a problem", integer = true, min = 2 },
  epochs      = { 3, "times through the problems", integer = true, min = 1 },
  total       = { 0, "GRPO steps; 0: as many as the epochs have", integer = true, min = 0 },
  limit       = { 0, "train on the first so many problems; 0: all", integer = true, min = 0 },
  new_tokens  = { 512, "longest completion in tokens", integer = true, min = 1 },
  temperature = { 1, "of the rollouts", min = 0 },
  beta        = { 0, "KL coefficient", min = 0 },
  loss_type   = { "grpo", "loss", choices = { "grpo", "dr_grpo", "dapo", "bnpo", "sapo", "luspo" } },
  rollouts    = { "native", "sample with the adapter beside the weights, from merged weights, or from int8 weights", choices = { "native", "merged", "int8" } },
  eval        = { 200, "held-out problems; 0: no evaluation", integer = true, min = 0 },
  sequences   = { 64, "completions decoded at once", integer = true, min = 1 },
  checkpoint  = tl.checkpoint.EVERY,
  resume      = tl.checkpoint.FROM,
}

local model = tl.model.load(p.model, { device = p.device })
local own = p.model == "tiny" or model.vocab < 1024
local task = p.task or own and "wordproblems" or "gsm8k"
local style = p.style or task == "wordproblems" and "chat" or "gsm8k-hash"
local train = tl.data.load(task, { style = style, seed = p.seed, n = p.limit > 0 and p.limit or 2048 })
if p.limit > 0 then train = train:take(math.min(p.limit, #train)) end
local held_out = p.eval > 0 and tl.data.load(p.eval_task or task, { split = "test", style = style, seed = p.seed + 1000, n = p.eval }):take(p.eval)
local config = p.extract and { extract = p.extract } or nil

local adapter = tl.adapter.tinylora(model, { rank = p.rank, u = p.u, tie = p.tie, sigma = p.sigma, dtype = p.dtype })
local total = train:n_batches { size = p.batch, epochs = p.epochs }
if p.total > 0 then total = math.min(total, p.total) end
local run = tl.report.run { name = p.name, out = p.out, config = p, seed = p.seed, total = total, completions = 8 }
run:log("%s on %s, %d problems", tostring(adapter), task, #train)
local began = os.time()

local function measure(name, a)
  if not held_out then return end
  local r = tl.eval.run { model = model, adapter = a, problems = held_out, verifier = p.verifier, verifier_config = config,
    max_new_tokens = p.new_tokens, max_sequences = p.sequences }
  run:log("%-8s %s right of %d, %.1f tokens an answer, %.0f%% cut off", name, tl.report.interval(r.accuracy, r.ci95), r.n, r.mean_length, 100 * r.clipped_ratio)
  run:scalars("eval", { accuracy = r.accuracy, mean_length = r.mean_length })
  return tl.eval.summary(r)
end

local before = measure("before")
local trainer = tl.grpo.trainer { model = model, adapter = adapter, verifier = p.verifier, verifier_config = config, lr = p.lr,
  num_generations = p.group, max_completion_length = p.new_tokens, temperature = p.temperature, beta = p.beta, loss_type = p.loss_type,
  rollouts = p.rollouts, total_steps = total, seed = p.seed, gate = p.gate, memory = p.memory,
  checkpoint = p.checkpoint, resume = p.resume, max_sequences = p.sequences, run = run, progress = run:ticker() }
for batch in train:batches { size = p.batch, epochs = p.epochs, seed = p.seed, steps = total, skip = trainer.steps } do trainer:step(batch) end
trainer:free()
adapter:save(run:file("adapter"))
local result = { run = run.path, trained_parameters = adapter.n_parameters, trained_bytes = adapter.n_bytes, before = before,
  after = measure("after", adapter), seconds = os.time() - began }
run:log("the run is in %s, its adapter is %s, %d s", run.path, run:file "adapter.tla", result.seconds)
run:finish(result)
return result
