-- bytes.lua: (g) bytes, not numbers: v held in fp32, bf16, fp16 or int8 with a scale, at equal bytes, rounded to the nearest or
-- stochastically. What is held is all there is: no fp32 copy of v beside it (the optimiser's moments stay in fp32).
local tl = require "tl"
local p = tl.recipe(tl.paper.options { name = "bytes", description = "v in fp32, bf16, fp16 and int8 at equal bytes.", bytes = { {}, "byte budgets; none: the size's", of = "number" } })

local budgets, points = #p.bytes > 0 and p.bytes or tl.paper.pick(p, { 8, 16, 32, 64 }, { 16 }, { 16 }), {}
local FORMS = { { "f32" }, { "bf16", "nearest" }, { "bf16", "stochastic" }, { "int8", "nearest" }, { "int8", "stochastic" } }
if tl.paper.size(p) ~= "quick" then table.insert(FORMS, 4, { "f16", "nearest" }) table.insert(FORMS, 5, { "f16", "stochastic" }) end
for _, bytes in ipairs(budgets) do
  for _, form in ipairs(FORMS) do
    local u = form[1] == "int8" and bytes - 4 or math.floor(bytes / (form[1] == "f32" and 4 or 2))
    if u >= 1 then points[#points + 1] = { method = "grpo", adapter = "tinylora", rank = 2, u = u, tie = "full", store = form[1], rounding = form[2], budget = bytes } end
  end
end
local rows, missing = tl.paper.run(p, tl.paper.runs(p, points))
if not rows or #rows == 0 then return end
for _, r in ipairs(rows) do r.form = r.store .. (r.rounding and ", " .. r.rounding or "") end
local n, series, words, best, decided = rows[1].test, {}, {}, 0, 0
local list = tl.experiment.best(rows, { by = { "budget", "form", "u" }, best = "lr", judge = "judged" })
for _, g in ipairs(tl.experiment.groups(list, { "form" })) do
  series[#series + 1] = tl.paper.line({ name = g.form, bars = true }, g, "budget", n)
end
local groups = tl.experiment.groups(list, { "budget" })
for _, g in ipairs(groups) do
  local full, over = nil, {}
  for _, q in ipairs(g) do if q.form == "f32" then full = q end end
  for _, q in ipairs(g) do
    local _, _, word = tl.paper.compare(q, full or q, n)
    if word == "higher" then over[#over + 1] = q.form end
  end
  decided, best = decided + (full and #g > 1 and 1 or 0), best + (#over == 0 and 1 or 0)
  words[#words + 1] = not full and ("in %d bytes no run of fp32 is done"):format(g.budget) or ("in %d bytes fp32 has %s and %s"):format(g.budget, tl.paper.text(full, n),
    #over == 0 and "nothing is higher" or "is beaten by " .. table.concat(over, ", "))
end
return tl.paper.publish(p, { title = "Bytes, not numbers", missing = missing, claim = "byte for byte fp32 is the best way to hold v",
  verdict = decided < #groups and "not decided" or best == #groups and "not contradicted" or "not reproduced", finding = table.concat(words, "; ") .. ".",
  charts = { { title = "accuracy at equal bytes; bars: one standard error", x = { label = "bytes", log = true }, y = { label = "accuracy", percent = true, min = 0 }, series = series } },
  tables = { tl.paper.rows_of(list, n, { "budget", "form", "u" }, { "bytes", "held as", "u" }) } })
