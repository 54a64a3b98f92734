-- grpo.lua: a few GRPO steps whose rewards are dense, printed as one JSON line of rewards and trained numbers: tests/test_cusim.sh
-- compares what two devices make of them. In fp32 the same tokens are drawn, so rewards are equal and the numbers follow.
local tl = require "tl"

local p = tl.recipe {
  name        = "grpo",
  description = "a few GRPO steps, for comparing devices",
  dtype       = { "f32", "compute dtype" },
  total       = { 5, "steps", integer = true, min = 1 },
  rollouts    = { "native", "what samples" },
}
local model = tl.model.load("tiny", { dtype = p.dtype, device = p.device })
local adapter = tl.adapter.tinylora(model, { rank = 2, u = 13, tie = tl.tie.full })
local problems = tl.data.load("wordproblems", { n = p.total, seed = p.seed, split = "train" })
local function reward(_, completion)
  local digits = select(2, completion.text:gsub("%d", ""))
  return digits / math.max(1, #completion.text)
end
local trainer = tl.grpo.trainer { model = model, adapter = adapter, reward = reward, rollouts = p.rollouts, lr = 1e-2, num_generations = 4, max_completion_length = 8,
  total_steps = p.total, seed = p.seed, gate = false }
local rewards, v = {}, {}
for batch in problems:batches { size = 1, epochs = 1, seed = p.seed } do
  rewards[#rewards + 1] = trainer:step(batch).reward
  v[#v + 1] = adapter:parameters()
end
trainer:free()
return { device = p.device, rewards = rewards, v = v }
