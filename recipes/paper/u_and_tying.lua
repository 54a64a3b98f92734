-- u_and_tying.lua: (e) a fixed budget of trained numbers, spent on u or on less tying: u numbers for each of budget / u groups of modules.
local tl = require "tl"
local p = tl.recipe(tl.paper.options { name = "u_and_tying", description = "u against tying at fixed budgets.", budgets = { {}, "trained numbers; none: the size's", of = "number" } })

local budgets, points = #p.budgets > 0 and p.budgets or tl.paper.pick(p, { 8, 16, 32 }, { 16 }, { 4 }), {}
for _, budget in ipairs(budgets) do
  local u = 1
  while u <= budget do
    points[#points + 1] = { method = "grpo", adapter = "tinylora", rank = 2, u = u, tie = "groups:" .. math.floor(budget / u) }
    u = u * (tl.paper.size(p) == "full" and 2 or 4)
  end
end
local rows, missing = tl.paper.run(p, tl.paper.runs(p, points))
if not rows or #rows == 0 then return end
for _, r in ipairs(rows) do r.groups = tonumber(r.tie:match "%d+") end
local n, series, words, up, down = rows[1].test, {}, {}, 0, 0
local list = tl.experiment.best(rows, { by = { "trained_parameters", "groups", "u" }, best = "lr", judge = "judged" })
for _, g in ipairs(tl.experiment.groups(list, { "trained_parameters" })) do
  local least, most
  for _, q in ipairs(g) do
    if q.u == 1 then least = q end
    if q.groups == 1 then most = q end
  end
  series[#series + 1] = tl.paper.line({ name = g.trained_parameters .. " numbers" }, g, "u", n)
  if least and most and least ~= most then
    local d, se, word = tl.paper.compare(least, most, n)
    up, down = up + (word == "higher" and 1 or 0), down + (word == "lower" and 1 or 0)
    words[#words + 1] = ("with %d numbers, u = 1 in %d groups is %s than u = %d tied over all (%+.1f ± %.1f points)"):format(g.trained_parameters, least.groups,
      word == "no different" and "no better or worse" or word, most.u, 100 * d, 100 * se)
  end
end
return tl.paper.publish(p, { title = "u against tying", missing = missing, claim = "a budget is better spent on less tying than on u: u goes down to 1 before modules are tied",
  verdict = #words == 0 and "not decided" or up > 0 and down == 0 and "reproduced" or down > 0 and "not reproduced" or "no difference seen",
  finding = #words > 0 and table.concat(words, "; ") .. "." or "too few runs are done",
  charts = { { title = "the same number of trained numbers, as u numbers for each group; band: one standard error", x = { label = "u (groups = numbers / u)", log = true },
    y = { label = "accuracy", percent = true, min = 0 }, series = series } },
  tables = { tl.paper.rows_of(list, n, { "trained_parameters", "u", "groups" }, { "trained numbers", "u", "groups" }) } })
