-- accuracy_grpo.lua: (a) accuracy against trained numbers, from 1 to all of them, by GRPO. Learning rates are swept at every size; the best
-- by its accuracy on other held-out problems is taken, with its spread over seeds.
local tl = require "tl"
local p = tl.recipe(tl.paper.options { name = "accuracy_grpo", description = "GRPO: accuracy against trained numbers, all methods." })

local points = tl.paper.ladder(p, "grpo")
table.insert(points, 1, { method = "base" })
local rows, missing = tl.paper.run(p, tl.paper.runs(p, points))
if not rows or #rows == 0 then return end
local n, base, trained = rows[1].test, tl.paper.base(rows), {}
for _, r in ipairs(rows) do if r.method == "grpo" then trained[#trained + 1] = r end end
local list, series = tl.paper.climb(trained, n)
local small, best
for _, q in ipairs(list) do
  if q.trained_parameters <= 13 and (not small or q.mean > small.mean) then small = q end
  if not best or q.mean > best.mean then best = q end
end
local finding, verdict = "too few runs are done", "not decided"
if base and small and best then
  local share = (small.mean - base.mean) / math.max(1e-9, best.mean - base.mean)
  finding = ("The base model has %s, the best of at most 13 trained numbers %s (%d numbers), the best of all sizes %s (%d): at most 13 numbers have %.0f%% of the gain."):format(
    tl.paper.text(base, n), tl.paper.text(small, n), small.trained_parameters, tl.paper.text(best, n), best.trained_parameters, 100 * share)
  local _, _, word = tl.paper.compare(best, base, n)
  verdict = word ~= "higher" and "not decided" or share >= 0.9 and "reproduced" or share >= 0.5 and "partly reproduced" or "not reproduced"
end
return tl.paper.publish(p, { title = "GRPO: accuracy against trained numbers", missing = missing, verdict = verdict, finding = finding,
  claim = "13 trained numbers reach 90% of the gain of full finetuning by reinforcement learning",
  charts = { { title = "GRPO, learning rate swept at every size; bars: one standard error", x = { label = "trained numbers", log = true },
    y = { label = "accuracy", percent = true, min = 0 }, series = series, lines = { base and { y = base.mean, name = "base model" } } } },
  tables = { tl.paper.rows_of(list, n, { "adapter", "trained_parameters", "rank", "u", "tie" }, { "adapter", "trained numbers", "r", "u", "tying" }) } })
