-- sft_baseline.lua: supervised finetuning of the same adapter on the same problems, the paper's comparison: the loss is on the
-- worked solution. Accuracy before and after as in gsm8k_13param.lua.
local tl = require "tl"

local p = tl.recipe {
  name        = "sft_baseline",
  description = "SFT with the adapter of gsm8k_13param on the same data.",
  model       = { "tiny", "model directory, GGUF file or name" },
  task        = { nil, "gsm8k, wordproblems, ... (a set with worked solutions); default as in gsm8k_13param", type = "string" },
  style       = { nil, "prompt style", type = "string" },
  adapter     = { "tinylora", "what is trained", choices = { "tinylora", "loraxs", "lora", "full" } },
  rank        = { 2, "rank", integer = true, min = 1 },
  u           = { 13, "TinyLoRA: trained numbers of a tied group", integer = true, min = 1 },
  tie         = { "full", "TinyLoRA: none, full, structured, tiled:N or ratio:T" },
  dtype       = { "bf16", "storage of the trained numbers", choices = { "f32", "bf16", "f16" } },
  lr          = { 1e-3, "AdamW learning rate", min = 0 },
  batch       = { 64, "problems a step", integer = true, min = 1 },
  epochs      = { 3, "times through the problems", integer = true, min = 1 },
  total       = { 0, "steps; 0: as many as the epochs have", integer = true, min = 0 },
  limit       = { 0, "train on the first so many problems; 0: all", integer = true, min = 0 },
  new_tokens  = { 512, "longest completion in the evaluation", integer = true, min = 1 },
  eval        = { 200, "held-out problems; 0: no evaluation", integer = true, min = 0 },
  checkpoint  = tl.checkpoint.EVERY,
  resume      = tl.checkpoint.FROM,
}

local model = tl.model.load(p.model, { device = p.device })
local own = p.model == "tiny" or model.vocab < 1024
local task = p.task or own and "wordproblems" or "gsm8k"
local style = p.style or task == "wordproblems" and "chat" or "gsm8k-hash"
local train = tl.data.load(task, { style = style, seed = p.seed, n = p.limit > 0 and p.limit or 2048 })
if p.limit > 0 then train = train:take(math.min(p.limit, #train)) end
local held_out = p.eval > 0 and tl.data.load(task, { split = "test", style = style, seed = p.seed + 1000, n = p.eval }):take(p.eval)

local adapter = tl.adapter.create(model, p.adapter, { rank = p.rank, u = p.u, tie = p.tie, dtype = p.dtype })
local total = train:n_batches { size = p.batch, epochs = p.epochs }
if p.total > 0 then total = math.min(total, p.total) end
local run = tl.report.run { name = p.name, out = p.out, config = p, seed = p.seed, total = total }
run:log("%s on %s, %d problems", tostring(adapter), task, #train)
local began = os.time()

local function measure(name, a)
  if not held_out then return end
  local r = tl.eval.run { model = model, adapter = a, problems = held_out, max_new_tokens = p.new_tokens }
  run:log("%-8s %s right of %d, %.1f tokens an answer", name, tl.report.interval(r.accuracy, r.ci95), r.n, r.mean_length)
  run:scalars("eval", { accuracy = r.accuracy, mean_length = r.mean_length })
  return tl.eval.summary(r)
end

local before = measure("before")
local trainer = tl.sft.trainer { model = model, adapter = adapter, lr = p.lr, total_steps = total, memory = p.memory,
  checkpoint = p.checkpoint, resume = p.resume, run = run }
for batch in train:batches { size = p.batch, epochs = p.epochs, seed = p.seed, steps = total, skip = trainer.steps } do trainer:step(batch) end
local result = { run = run.path, trained_parameters = adapter.n_parameters, trained_bytes = adapter.n_bytes, before = before,
  after = measure("after", adapter), seconds = os.time() - began }
adapter:save(run:file("adapter"))
run:finish(result)
return result
