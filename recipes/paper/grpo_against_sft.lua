-- grpo_against_sft.lua: (c) both ladders in one picture. The runs are those of (a) and (b).
local tl = require "tl"
local p = tl.recipe(tl.paper.options { name = "grpo_against_sft", description = "GRPO and SFT at every number of trained numbers." })

local points = { { method = "base" } }
for _, method in ipairs { "grpo", "sft" } do
  for _, point in ipairs(tl.paper.ladder(p, method)) do points[#points + 1] = point end
end
local rows, missing = tl.paper.run(p, tl.paper.runs(p, points))
if not rows or #rows == 0 then return end
local n, base, of = rows[1].test, tl.paper.base(rows), {}
for _, method in ipairs { "grpo", "sft" } do
  local list = tl.paper.climb(tl.experiment.where(rows, { method = method }), n)
  of[method] = { list = list, at = {}, series = tl.paper.line({ name = method:upper() }, list, "trained_parameters", n) }
  for _, q in ipairs(list) do of[method].at[q.trained_parameters] = q end
end
local t, higher, lower, tiny, above, below = { columns = { "trained numbers", "GRPO", "SFT", "difference ± standard error", "GRPO is" }, rows = {} }, 0, 0, 0, 0, 0
for _, q in ipairs(of.grpo.list) do
  local s = of.sft.at[q.trained_parameters]
  if s then
    local d, se, word = tl.paper.compare(q, s, n)
    t.rows[#t.rows + 1] = { tostring(q.trained_parameters), tl.paper.text(q, n), tl.paper.text(s, n), ("%+.1f ± %.1f"):format(100 * d, 100 * se), word }
    if q.trained_parameters <= 100 then
      tiny = tiny + 1
      higher, lower = higher + (word == "higher" and 1 or 0), lower + (word == "lower" and 1 or 0)
    else
      above, below = above + (word == "higher" and 1 or 0), below + (word == "lower" and 1 or 0)
    end
  end
end
return tl.paper.publish(p, { title = "GRPO against SFT", missing = missing, claim = "in the tiny regime (at most 100 numbers) reinforcement learning is far above SFT",
  verdict = tiny == 0 and "not decided" or higher > tiny / 2 and "reproduced" or higher > 0 and lower == 0 and "partly reproduced" or "not reproduced",
  finding = ("Of %d sizes with at most 100 numbers GRPO is higher at %d, lower at %d, and no different (within two standard errors) at %d; of the larger ones it is higher at %d and lower at %d."):format(tiny,
    higher, lower, tiny - higher - lower, above, below),
  charts = { { title = "accuracy against trained numbers; bands: one standard error", x = { label = "trained numbers", log = true }, y = { label = "accuracy", percent = true, min = 0 },
    series = { of.grpo.series, of.sft.series }, lines = { base and { y = base.mean, name = "base model" } } } }, tables = { t } })
