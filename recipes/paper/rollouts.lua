-- rollouts.lua: (j) where the rollouts come from: the native path (the sampler's logprobs are the trainer's to the bit), merged
-- and rounded weights, int8 weights; the last two with and without truncated importance sampling.
local tl = require "tl"
local p = tl.recipe(tl.paper.options { name = "rollouts", description = "Merged and quantised rollouts, with and without truncated importance sampling." })

local points = {}
for i, way in ipairs { { "native" }, { "merged", "truncate" }, { "merged", "off" }, { "int8", "truncate" }, { "int8", "off" } } do
  points[i] = { method = "grpo", adapter = "tinylora", rank = 2, u = 13, tie = "full", rollouts = way[1], is_mode = way[2] }
end
local rows, missing = tl.paper.run(p, tl.paper.runs(p, points, { quick = { 1e-2 } }))
if not rows or #rows == 0 then return end
for _, r in ipairs(rows) do r.way = r.rollouts .. (r.is_mode == "truncate" and ", corrected" or r.is_mode == "off" and ", not corrected" or "") end
local n, words, s, names = rows[1].test, {}, { points = {} }, {}
local list = tl.experiment.best(rows, { by = { "way" }, best = "lr", judge = "judged" })
for i, q in ipairs(list) do
  local difference = tl.experiment.best(q.rows, { by = { "way" }, value = "sampling/sampling_logp_difference/mean" })[1]
  q.difference = difference and difference.n > 0 and ("%.3g"):format(difference.mean) or q.way == "native" and "0 (the same bits)" or ""
  names[i], s.points[i] = q.way, tl.paper.point(i, q, n, q.way)
  if q.way ~= "native" and list[1].way == "native" then
    local d, se, word = tl.paper.compare(q, list[1], n)
    words[#words + 1] = ("%s: %+.1f ± %.1f points (%s)"):format(q.way, 100 * d, 100 * se, word)
  end
end
return tl.paper.publish(p, { title = "Rollouts from merged and quantised weights", missing = missing,
  claim = "rollouts from merged weights train as well as native ones when the mismatch is corrected by truncated importance sampling",
  verdict = #words == 0 and "not decided" or table.concat(words, " "):find "lower%)" and "not reproduced" or "not contradicted", finding = "Against the native path: " .. table.concat(words, "; ") .. ".",
  charts = { { title = "bars: one standard error", x = { values = names, label = "rollouts" }, y = { label = "accuracy", percent = true, min = 0 }, series = { s } } },
  tables = { tl.paper.rows_of(list, n, { "way", "difference" }, { "rollouts", "mean |logprob difference|" }) } })
