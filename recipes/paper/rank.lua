-- rank.lua: (d) the frozen rank r of TinyLoRA, at 13 trained numbers tied over all modules.
local tl = require "tl"
local p = tl.recipe(tl.paper.options { name = "rank", description = "The frozen rank r at 13 trained numbers.", u = { 13, "trained numbers", integer = true, min = 1 } })

local points = {}
for i, r in ipairs(tl.paper.pick(p, { 1, 2, 4, 8, 16 }, nil, { 1, 2 })) do
  points[i] = { method = "grpo", adapter = "tinylora", rank = r, u = p.u, tie = "full" }
end
local rows, missing = tl.paper.run(p, tl.paper.runs(p, points, { quick = { 3e-3, 1e-2 } }))
if not rows or #rows == 0 then return end
local n, at = rows[1].test, {}
local list = tl.experiment.best(rows, { by = { "rank" }, best = "lr", judge = "judged" })
for _, q in ipairs(list) do at[q.rank] = q end
local verdict, finding = "not decided", "too few runs are done"
if at[2] then
  local beaten = {}
  for _, q in ipairs(list) do
    local _, _, word = tl.paper.compare(q, at[2], n)
    if word == "higher" then beaten[#beaten + 1] = "r = " .. q.rank end
  end
  verdict = #list < 3 and "not decided" or #beaten == 0 and "not contradicted" or "not reproduced"
  finding = #beaten == 0 and ("No other rank is higher than r = 2 (%s) by more than two standard errors."):format(tl.paper.text(at[2], n))
    or ("r = 2 (%s) is beaten by %s."):format(tl.paper.text(at[2], n), table.concat(beaten, ", "))
end
return tl.paper.publish(p, { title = "The frozen rank", missing = missing, claim = "a small frozen rank is best, r = 2; a higher one does not help", verdict = verdict, finding = finding,
  charts = { { title = "accuracy by frozen rank; band: one standard error", x = { label = "frozen rank r", log = true }, y = { label = "accuracy", percent = true, min = 0 }, series = { tl.paper.line({ name = "TinyLoRA" }, list, "rank", n) } } },
  tables = { tl.paper.rows_of(list, n, { "rank" }, { "r" }) } })
