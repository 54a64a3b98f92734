-- tying.lua: (f) tiled (contiguous blocks in depth), structured (by kind of module) and full tying with as many trained numbers.
local tl = require "tl"
local p = tl.recipe(tl.paper.options { name = "tying", description = "Tiled, structured and full tying with as many trained numbers.", us = { {}, "u of the seven groups; none: the size's", of = "number" } })

local us, points = #p.us > 0 and p.us or tl.paper.pick(p, { 1, 2, 4 }, { 2 }, { 1 }), {}
for _, u in ipairs(us) do
  for _, tie in ipairs { "groups:7", "structured", "full" } do
    points[#points + 1] = { method = "grpo", adapter = "tinylora", rank = 2, u = tie == "full" and 7 * u or u, tie = tie }
  end
end
local rows, missing = tl.paper.run(p, tl.paper.runs(p, points))
if not rows or #rows == 0 then return end
local NAMES = { ["groups:7"] = "tiled", structured = "structured", full = "full" }
for _, r in ipairs(rows) do r.tying = NAMES[r.tie] end
local n, series, words, up, down = rows[1].test, {}, {}, 0, 0
local list = tl.experiment.best(rows, { by = { "tying", "trained_parameters", "u" }, best = "lr", judge = "judged" })
for _, g in ipairs(tl.experiment.groups(list, { "tying" })) do
  series[#series + 1] = tl.paper.line({ name = g.tying, bars = true }, g, "trained_parameters", n)
end
for _, g in ipairs(tl.experiment.groups(list, { "trained_parameters" })) do
  local by = {}
  for _, q in ipairs(g) do by[q.tying] = q end
  if by.tiled and by.structured then
    local d, se, word = tl.paper.compare(by.tiled, by.structured, n)
    up, down = up + (word == "higher" and 1 or 0), down + (word == "lower" and 1 or 0)
    words[#words + 1] = ("with %d numbers tiled is %s than structured (%+.1f ± %.1f points)"):format(g.trained_parameters, word == "no different" and "no better or worse" or word, 100 * d, 100 * se)
  end
end
return tl.paper.publish(p, { title = "Tiled, structured and full tying", missing = missing, claim = "tying neighbours in depth (tiled) is better than tying modules of one kind (structured)",
  verdict = #words == 0 and "not decided" or up > 0 and down == 0 and "reproduced" or down > 0 and "not reproduced" or "no difference seen",
  finding = #words > 0 and table.concat(words, "; ") .. "." or "too few runs are done",
  charts = { { title = "bars: one standard error", x = { label = "trained numbers", log = true }, y = { label = "accuracy", percent = true, min = 0 }, series = series } },
  tables = { tl.paper.rows_of(list, n, { "tying", "trained_parameters", "u" }, { "tying", "trained numbers", "u" }) } })
