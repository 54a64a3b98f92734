-- accuracy_sft.lua: (b) the same ladder by SFT on the worked solutions of the same problems.
local tl = require "tl"
local p = tl.recipe(tl.paper.options { name = "accuracy_sft", description = "SFT: accuracy against trained numbers, all methods." })

local points = tl.paper.ladder(p, "sft")
table.insert(points, 1, { method = "base" })
local rows, missing = tl.paper.run(p, tl.paper.runs(p, points))
if not rows or #rows == 0 then return end
local n, base, trained = rows[1].test, tl.paper.base(rows), {}
for _, r in ipairs(rows) do if r.method == "sft" then trained[#trained + 1] = r end end
local list, series = tl.paper.climb(trained, n)
local best, enough
for _, q in ipairs(list) do if not best or q.mean > best.mean then best = q end end
for _, q in ipairs(list) do
  if base and not enough and q.mean - base.mean >= 0.9 * (best.mean - base.mean) then enough = q end
end
local finding = enough and ("The base model has %s, the best size %s (%d numbers); the smallest with 90%% of that gain has %d numbers: %s."):format(tl.paper.text(base, n),
  tl.paper.text(best, n), best.trained_parameters, enough.trained_parameters, tl.paper.text(enough, n)) or "too few runs are done"
return tl.paper.publish(p, { title = "SFT: accuracy against trained numbers", missing = missing, finding = finding,
  claim = "SFT needs updates 100 to 1000 times larger than reinforcement learning",
  verdict = not enough and "not decided" or select(3, tl.paper.compare(best, base, n)) ~= "higher" and "not decided" or enough.trained_parameters >= 1000 and "reproduced" or "not reproduced",
  charts = { { title = "SFT, learning rate swept at every size; bars: one standard error", x = { label = "trained numbers", log = true },
    y = { label = "accuracy", percent = true, min = 0 }, series = series, lines = { base and { y = base.mean, name = "base model" } } } },
  tables = { tl.paper.rows_of(list, n, { "adapter", "trained_parameters", "rank", "u", "tie" }, { "adapter", "trained numbers", "r", "u", "tying" }) } })
