-- accuracy_grpo.lua: (a) accuracy against trained numbers, from 1 to all of them, by GRPO. Learning rates are swept at every size; the best
-- by its accuracy on other held-out problems is taken, with its spread over seeds.
local tl = require "tl"
local p = tl.recipe(tl.paper.options { name = "accuracy_grpo", description = "GRPO: accuracy against trained numbers, all methods." })

return tl.paper.accuracy(p, "grpo", "13 trained numbers reach 90% of the gain of full finetuning by reinforcement learning", function(list, base, n)
  local small, best = tl.paper.top(tl.experiment.where(list, function(q) return q.trained_parameters <= 13 end)), tl.paper.top(list)
  if not small then return end
  local share = (small.mean - base.mean) / math.max(1e-9, best.mean - base.mean)
  local _, _, word = tl.paper.compare(best, base, n)
  return word ~= "higher" and "not decided" or share >= 0.9 and "reproduced" or share >= 0.5 and "partly reproduced" or "not reproduced",
    ("The base model has %s, the best of at most 13 trained numbers %s (%d numbers), the best of all sizes %s (%d): at most 13 numbers have %.0f%% of the gain."):format(
      tl.paper.text(base, n), tl.paper.text(small, n), small.trained_parameters, tl.paper.text(best, n), best.trained_parameters, 100 * share)
end)
