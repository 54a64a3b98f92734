-- accuracy_sft.lua: (b) the same ladder by SFT on the worked solutions of the same problems.
local tl = require "tl"
local p = tl.recipe(tl.paper.options { name = "accuracy_sft", description = "SFT: accuracy against trained numbers, all methods." })

return tl.paper.accuracy(p, "sft", "SFT needs updates 100 to 1000 times larger than reinforcement learning", function(list, base, n)
  local best, enough = tl.paper.top(list), tl.paper.smallest(list, base, 0.9)
  if not enough then return end
  local _, _, word = tl.paper.compare(best, base, n)
  return word ~= "higher" and "not decided" or enough.trained_parameters >= 1000 and "reproduced" or "not reproduced",
    ("The base model has %s, the best size %s (%d numbers); the smallest with 90%% of that gain has %d numbers: %s."):format(tl.paper.text(base, n),
      tl.paper.text(best, n), best.trained_parameters, enough.trained_parameters, tl.paper.text(enough, n))
end)
