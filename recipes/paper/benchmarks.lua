-- benchmarks.lua: (k) six benchmarks for a real model and an adapter of it, with the paper's averages as reference lines.
--   tlrun recipes/paper/benchmarks.lua --model Qwen2.5-7B-Instruct --adapter runs/gsm8k_13param-.../adapter.tla
-- The paper's rows (Qwen2.5-7B-Instruct, average of the six): base 40.3, 13 numbers 50.1, 196 numbers 53.2, 6272 numbers 53.8, full 55.2;
-- they are third-party transcriptions, kept for orientation.
local tl = require "tl"
local p = tl.recipe { name = "benchmarks", description = "Six benchmarks for a model and an adapter, beside the paper's rows.",
  model = { "tiny", "model directory, GGUF file or name" }, adapter = { nil, "adapter: compact file, PEFT folder or run folder", type = "string" },
  tasks = { { "gsm8k", "math500", "minerva_math", "olympiadbench", "aime24", "amc23" }, "problem sets" }, limit = { 0, "first so many problems of each; 0: all", integer = true, min = 0 },
  new_tokens = { 2048, "longest completion", integer = true, min = 1 }, out = { "runs/paper", "folder for the figures", value = "DIR" } }

local model = tl.model.load(p.model, { device = p.device })
local adapter = p.adapter and tl.adapter.load(model, p.adapter)
local t, names, arms, sums = { columns = { "benchmark", "problems", "base", adapter and "adapter" or nil }, rows = {} }, {}, { base = { name = "base", points = {} }, adapter = { name = "adapter", points = {} } }, { base = 0, adapter = 0 }
for i, task in ipairs(p.tasks) do
  local problems = tl.data.load(task, { split = "test", style = task == "wordproblems" and "chat" or "qwen-boxed", seed = 1000, n = p.limit > 0 and p.limit or 200 })
  if p.limit > 0 then problems = problems:take(math.min(p.limit, #problems)) end
  local row = { task, tostring(#problems) }
  names[i] = task
  for _, arm in ipairs(adapter and { "base", "adapter" } or { "base" }) do
    local r = tl.eval.run { model = model, adapter = arm == "adapter" and adapter or nil, problems = problems, verifier = "verifiers.math", max_new_tokens = p.new_tokens }
    row[#row + 1] = tl.report.interval(r.accuracy, r.ci95)
    arms[arm].points[i], sums[arm] = { i, r.accuracy, r.ci95[1], r.ci95[2], task }, sums[arm] + r.accuracy
    tl.log.info("%s, %s: %s", task, arm, row[#row])
  end
  t.rows[i] = row
end
t.rows[#t.rows + 1] = { "average", "", ("%.1f%%"):format(100 * sums.base / #p.tasks), adapter and ("%.1f%%"):format(100 * sums.adapter / #p.tasks) or nil }
local lines, paper = {}, { columns = { "the paper, Qwen2.5-7B-Instruct", "average of the six" }, rows = {} }
for _, l in ipairs { { 0.403, "base" }, { 0.501, "13 numbers" }, { 0.532, "196" }, { 0.538, "6,272" }, { 0.552, "full" } } do
  paper.rows[#paper.rows + 1] = { l[2], ("%.1f%%"):format(100 * l[1]) }
  if l[2] ~= "6,272" then lines[#lines + 1] = { y = l[1], name = l[2] == "base" and "paper: base" or l[2] } end  -- its name would lie over 196's
end
return tl.paper.publish(p, { title = "Six benchmarks", claim = "Qwen2.5-7B-Instruct on average over six benchmarks: 40.3% base, 50.1% with 13 numbers, 53.2% with 196, 53.8% with 6,272, 55.2% full",
  verdict = "not tried", finding = ("%s%s: average %.1f%%%s. The paper's figures are of another model unless this is Qwen2.5-7B-Instruct."):format(p.model, adapter and " and an adapter" or "",
    100 * sums.base / #p.tasks, adapter and (", with the adapter %.1f%%"):format(100 * sums.adapter / #p.tasks) or ""),
  charts = { { title = "bars: 95% intervals; lines: the paper's averages", x = { values = names }, y = { label = "accuracy", percent = true, min = 0 }, series = adapter and { arms.base, arms.adapter } or { arms.base }, lines = lines } },
  tables = { t, paper } })
