-- train.lua: a short run on the embedded model, for tests/test_ranks.sh: GRPO, then SFT on the same adapter. What goes wrong, and on
-- which rank, is asked for by parameters.
local tl = require "tl"

local p = tl.recipe {
  name    = "ranks",
  kind    = { "tinylora", "what is trained", choices = { "tinylora", "loraxs", "lora", "full" } },
  total   = { 4, "steps", integer = true },
  batch   = { 5, "problems a step", integer = true },
  scale   = { "batch", "scale_rewards: batch needs all ranks' rewards" },
  sft     = { 0, "SFT steps after it", integer = true },
  die     = { 0, "rank 1 is killed in this step", integer = true },
  fail    = { 0, "rank 1 raises an error in this step", integer = true },
  turns   = { false, "completions of several turns" },
  top     = { 1, "top_entropy_quantile: below 1 it needs the entropies of all ranks" },
  stray   = { false, "rank 1 asks for another evaluation than the others" },
  dtype   = { "bf16", "weights and activations" },
  checkpoint = tl.checkpoint.EVERY,
  resume  = tl.checkpoint.FROM,
}
local model = tl.model.load("tiny", { dtype = p.dtype })
local problems = tl.data.load("wordproblems", { n = 40, seed = p.seed })
local adapter = tl.adapter.create(model, p.kind, { rank = 2 })
local run = tl.report.run { name = p.name, out = p.out, config = p, seed = p.seed, total = p.total, completions = "all", quiet = true }

local function trouble(step)
  if tl.comm.rank ~= 1 then return end
  if step == p.die then os.execute "kill -9 $PPID" end
  if step == p.fail then error("the data of step " .. step .. " are bad", 0) end
end

local trainer = tl.grpo.trainer { model = model, adapter = adapter, lr = 1e-2, num_generations = 4, max_completion_length = p.turns and 40 or 12, seed = p.seed,
  reward = function(_, completion) return (#completion.text + tl.comm.shard) % 3 end,  -- of ranks that share a model the first one's counts
  reply = p.turns and function(_, c) return #c.turns < 5 and (" %d and"):format(#c.text + tl.comm.shard) or nil end or nil,  -- and its replies
  top_entropy_quantile = p.top, mask_truncated_completions = p.turns,
  inline = true, gate = false, scale_rewards = p.scale, run = run,
  checkpoint = p.checkpoint, resume = p.resume }
for batch, step in problems:batches { size = p.batch, epochs = 9, steps = p.total, seed = p.seed, skip = trainer.steps } do
  trouble(step)
  trainer:step(batch)
end
trainer:free()
local teacher = tl.sft.trainer { model = model, adapter = adapter, lr = 1e-2, run = run }
for batch in problems:batches { size = p.batch, epochs = 9, steps = p.sft, seed = p.seed } do teacher:step(batch) end
local r = tl.eval.run { model = model, adapter = adapter, problems = problems:take(7), max_new_tokens = 8, temperature = p.stray and tl.comm.rank or 0,
  seed = tl.comm.rank == 1 and p.stray and 2 or 1 }
adapter:save(run:file("adapter"))
run:finish { accuracy = r.accuracy, mean_length = r.mean_length, items = #r.items }
