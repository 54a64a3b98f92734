-- model_size.lua: (h) the smallest update that reaches 95% of a model's own best gain, for models of several sizes.
--   tlrun recipes/paper/model_size.lua --models tiny-xs,tiny-s,tiny,tiny-l
local tl = require "tl"
local p = tl.recipe(tl.paper.options { name = "model_size", description = "The smallest update that reaches 95% of the peak, by model size.",
  models = { { "tiny-xs", "tiny-s", "tiny", "tiny-l" }, "models, the smallest first" }, sizes = { { 1, 4, 13 }, "u of the updates that are tied over everything; then 1 and 4 numbers a module", of = "number" } })

local runs = {}
for _, name in ipairs(p.models) do
  local points = { { method = "base", model = name } }
  for _, u in ipairs(tl.paper.size(p) == "ci" and { 13 } or p.sizes) do points[#points + 1] = { method = "grpo", adapter = "tinylora", rank = 2, u = u, tie = "full", model = name } end
  for _, u in ipairs(tl.paper.size(p) == "ci" and {} or { 1, 4 }) do points[#points + 1] = { method = "grpo", adapter = "tinylora", rank = 2, u = u, tie = "none", model = name } end
  for _, s in ipairs(tl.paper.runs(p, points)) do runs[#runs + 1] = s end
end
table.sort(runs, function(a, b) return a.seed < b.seed end)
local rows, missing = tl.paper.run(p, runs)
if not rows or #rows == 0 then return end
local n, t, s, all = rows[1].test, { columns = { "model", "parameters", "base", "best", "smallest with 95% of the gain", "its accuracy" }, rows = {} }, { name = "smallest update", points = {} }, {}
for i, name in ipairs(p.models) do
  local mine = tl.experiment.where(rows, { model = name })
  local base, list = tl.paper.base(mine), tl.paper.climb(tl.experiment.where(mine, { method = "grpo" }), n)
  all[i] = tl.paper.line({ name = name, bars = true }, list, "trained_parameters", n)
  local enough = tl.paper.smallest(list, base, 0.95)
  if enough then
    local parameters = mine[1].model_parameters
    s.points[#s.points + 1] = { parameters, enough.trained_parameters }
    t.rows[#t.rows + 1] = { name, tostring(parameters), tl.paper.text(base, n), tl.paper.text(tl.paper.top(list), n), tostring(enough.trained_parameters), tl.paper.text(enough, n) }
  end
end
local falls, first, last = true, s.points[1], s.points[#s.points]
for i = 2, #s.points do falls = falls and s.points[i][2] <= s.points[i - 1][2] end
return tl.paper.publish(p, { title = "Model size", missing = missing, claim = "larger models need smaller updates", tables = { t },
  verdict = #s.points < 2 and "not tried" or falls and last[2] < first[2] and "reproduced" or "not reproduced",
  finding = #s.points < 2 and "Fewer than two model sizes were run." or ("From the smallest model to the largest the smallest sufficient update goes from %d to %d numbers."):format(first[2], last[2]),
  charts = { { title = "smallest update with 95% of the model's best gain", x = { label = "parameters of the model", log = true }, y = { label = "trained numbers", log = true }, series = { s } },
    { title = "every size of update", x = { label = "trained numbers", log = true }, y = { label = "accuracy", percent = true, min = 0 }, series = all } } })
