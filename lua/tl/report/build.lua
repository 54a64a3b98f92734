--- report/build.lua: the page that `tlrun report` writes, from run directories and stores.
local fs = require "tl.fs"
local json = require "tl.json"
local page = require "tl.page"
local runs = require "tl.report.runs"
local tokens = require "tl.report.tokens"
local summary = require "tl.experiment.summary"

local build = {}

-- what is drawn, in this order, when a run has it
local CURVES = {
  { "reward", "reward" }, { "completions/mean_length", "tokens a completion" }, { "loss", "loss" }, { "grad_norm", "gradient norm", log = true }, { "entropy", "entropy (nats a token)" },
  { "reward_std", "spread of rewards" }, { "frac_reward_zero_std", "share of groups without a gradient" }, { "learning_rate", "learning rate" }, { "kl", "KL to the base (k3)" },
  { "sampling/sampling_logp_difference/mean", "mean |logprob difference| of sampler and trainer" }, { "completions/clipped_ratio", "share of completions cut off", percent = true },
  { "tokens_per_s", "tokens a second" },
}

local function text_of(v)
  if type(v) == "table" then return json.encode(v) end
  if type(v) == "number" and v % 1 ~= 0 then return ("%.6g"):format(v) end
  return tostring(v)
end

local function sorted_keys(t)
  local keys = {}
  for k in pairs(t) do keys[#keys + 1] = k end
  table.sort(keys)
  return keys
end

-- charts of the metrics of groups of runs
local function curves(groups)
  local out = {}
  for _, c in ipairs(CURVES) do
    local chart = { title = c[2], x = { label = "step" }, y = { label = c[2], log = c.log, percent = c.percent }, series = {} }
    for _, g in ipairs(groups) do
      local points = runs.curve(g, c[1])
      if #points > 0 then chart.series[#chart.series + 1] = { name = #groups > 1 and g.label or nil, points = points } end
    end
    if #chart.series > 0 then out[#out + 1] = chart end
  end
  return out
end

local function measure_text(m)
  if type(m) ~= "table" or type(m.accuracy) ~= "number" then return "" end
  local ci = type(m.ci95) == "table" and m.ci95 or nil
  return (ci and require("tl.report").interval(m.accuracy, ci) or ("%.1f%%"):format(100 * m.accuracy)) .. (m.mean_length and (", %.1f tokens"):format(m.mean_length) or "")
end

-- the last evaluation of the run's adapter, for runs that have no summary yet; lines of other names (sft/eval/...) are not of it
local function last_eval(r)
  for i = #r.evals, 1, -1 do
    local share = r.evals[i]["eval/accuracy"]
    if type(share) == "number" then return ("%.1f%%"):format(100 * share) end
  end
  return ""
end

-- the steps of a run; of how many, when it stopped before or still goes on
local function steps_text(r)
  local total, n = r.config.total, #r.steps
  return type(total) == "number" and n < total and next(r.summary) == nil and ("%d of %d"):format(n, total) or tostring(n)
end

local function overview(list)
  local t = { columns = { "run", "seed", "steps", "trained numbers", "bytes", "before", "after", "last reward" }, rows = {} }
  for _, r in ipairs(list) do
    local last = r.steps[#r.steps] or {}
    t.rows[#t.rows + 1] = { r.name, text_of(r.versions.seed or r.config.seed or ""), steps_text(r), text_of(r.summary.trained_parameters or ""), text_of(r.summary.trained_bytes or ""),
      measure_text(r.summary.before), r.summary.after and measure_text(r.summary.after) or last_eval(r), type(last.reward) == "number" and ("%.3f"):format(last.reward) or "" }
  end
  return t
end

-- n completions of a run: the last of them, and one of the first steps to compare with
local function chosen(r, n)
  local list, out = r.completions, {}
  if #list <= n then return list end
  local early = math.floor(n / 3)
  for i = 1, early do out[i] = list[i] end
  for i = #list - (n - early) + 1, #list do out[#out + 1] = list[i] end
  return out
end

local function prompt_text(p)
  if type(p) ~= "table" then return p ~= json.null and p or nil end
  local parts = {}
  for i, m in ipairs(p) do parts[i] = (m.role and m.role ~= "user" and m.role .. ": " or "") .. tostring(m.content) end
  return table.concat(parts, "\n")
end

local function completions(doc, r, o, models)
  local list = chosen(r, o.completions)
  if #list == 0 then return end
  doc:heading(("Completions of %s"):format(r.name), 3)
  local n, why
  if o.tokens then n, why = tokens.fill(r, list, models) end
  if n then
    doc:text("Tinted by how training changed each token's logprob, under the base and the final adapter: green likelier, red less likely; a full tint is 2 nats. The figures are in each token's title.", "dim")
  elseif o.tokens then
    doc:text("No change of logprobs is shown: " .. why .. ".", "dim")
  end
  for _, c in ipairs(list) do
    local shown = { outcome = type(c.outcome) == "string" and c.outcome or nil, step = c.step, prompt = prompt_text(c.prompt), completion = c.completion, tokens = c.tokens, finish = c.finish, n_tokens = c.n_tokens,
      answer = c.answer ~= json.null and c.answer or nil, reward = type(c.reward) == "number" and c.reward or nil, advantage = type(c.advantage) == "number" and c.advantage or nil }
    doc:completion(shown)
  end
end

-- a population's members, when the run's summary lists them
local function members(doc, r)
  local list, keys, at = type(r.summary.members) == "table" and r.summary.members or {}, {}, {}
  for _, m in ipairs(list) do
    for k, v in pairs(type(m) == "table" and m or {}) do
      if not at[k] and (type(v) == "number" or type(v) == "string") then keys[#keys + 1], at[k] = k, true end
    end
  end
  if #keys == 0 then return end
  table.sort(keys)
  local t = { columns = { "member", unpack(keys) }, rows = {} }
  for i, m in ipairs(list) do
    local row = { tostring(i) }
    for c, k in ipairs(keys) do row[c + 1] = m[k] ~= nil and m[k] ~= json.null and text_of(m[k]) or "" end
    t.rows[i] = row
  end
  doc:heading(("Members of %s"):format(r.name), 3)
  doc:table(t)
end

local function provenance(doc, r)
  local t = { columns = { "setting", "value" }, rows = {} }
  for _, k in ipairs(sorted_keys(r.config)) do t.rows[#t.rows + 1] = { k, text_of(r.config[k]) } end
  local v = { columns = { "made by", "" }, rows = {} }
  for _, k in ipairs(sorted_keys(r.versions)) do
    local value = r.versions[k]
    v.rows[#v.rows + 1] = { k, k == "command" and type(value) == "table" and table.concat(value, " ") or text_of(value) }
  end
  doc:details(r.name .. ": configuration and provenance", function()
    doc:table(t)
    doc:table(v)
  end)
end

local function run_part(doc, list, o)
  local groups, models = runs.grouped(list), {}
  doc:heading "Runs"
  doc:table(overview(list))
  local charts = curves(groups)
  if #charts > 0 then
    doc:heading "Curves"
    local many = false
    for _, g in ipairs(groups) do many = many or #g > 1 end
    if many then doc:text("Lines are means over seeds, bands go from the lowest to the highest.", "dim") end
    doc:charts(charts)
  end
  for _, r in ipairs(list) do members(doc, r) end
  local written = false
  for _, r in ipairs(list) do written = written or #r.completions > 0 end
  if o.completions > 0 and written then
    doc:heading "What was written"
    for i, r in ipairs(list) do if i <= 8 then completions(doc, r, o, models) end end
    if #list > 8 then doc:text(("Those of the first 8 of %d runs are shown."):format(#list), "dim") end
  end
  for _, m in pairs(models) do m:free() end
  doc:heading "Configuration and provenance"
  for _, r in ipairs(list) do provenance(doc, r) end
end

-- ---- stores

-- fields of rows that are not the same in all of them, seed left out
local function varying(rows, from)
  local first, names, seen = {}, {}, {}
  for _, r in ipairs(rows) do
    for k in pairs(r[from]) do seen[k] = true end
  end
  for k in pairs(seen) do
    first[k] = tostring(rows[1][from][k])
    for _, r in ipairs(rows) do
      if tostring(r[from][k]) ~= first[k] then names[#names + 1] = k break end
    end
  end
  table.sort(names)
  return names, seen
end

local function cell(s) return s.n == 0 and "" or s.n == 1 and text_of(s.mean) or ("%s ± %s"):format(("%.4g"):format(s.mean), ("%.2g"):format(s.std)) end

-- charts of a metric against every numeric setting (and trained_parameters) that varies in a store's done runs: the best run at each
-- value, and the range over all of them
local function store_charts(done, by, metric)
  local out, axes = {}, {}
  for _, k in ipairs(by) do axes[#axes + 1] = k end
  axes[#axes + 1] = "trained_parameters"
  for _, axis in ipairs(axes) do
    local points, numbers = {}, true  -- runs without the setting (those of another method) are left out
    for _, g in ipairs(summary.groups(done, { axis })) do
      if g[axis] ~= nil then
        local s = summary.spread(summary.values(g, metric))
        numbers = numbers and type(g[axis]) == "number"
        points[#points + 1] = numbers and s.n > 0 and { g[axis], s.max, s.min, s.max } or nil
      end
    end
    if numbers and #points > 1 then
      table.sort(points, function(a, b) return a[1] < b[1] end)
      local log = points[1][1] > 0 and points[#points][1] / points[1][1] >= 8
      out[#out + 1] = { title = ("%s by %s: the best run of each, and the range over all others"):format(metric, axis), x = { label = axis, log = log }, y = { label = metric }, series = { { points = points } } }
    end
  end
  return out
end

local function experiment_part(doc, name, rows, o)
  local done = summary.where(rows, { status = "done" })
  doc:heading("Experiment " .. name)
  local failed, seconds = 0, 0
  for _, r in ipairs(rows) do failed, seconds = failed + (r.status == "failed" and 1 or 0), seconds + (r.seconds or 0) end
  doc:text(("%d runs, %d done, %d failed; the done ones took %s."):format(#rows, #done, failed, require("tl.log").duration(seconds)), "dim")
  if #done == 0 then return end
  local all = varying(done, "settings")
  local by = {}
  for _, k in ipairs(all) do if k ~= "seed" then by[#by + 1] = k end end
  local _, metrics = varying(done, "metrics")
  local fields = sorted_keys(metrics)
  local first  -- before the settings, which may be many
  for i, k in ipairs(fields) do
    if k == o.metric then first = table.remove(fields, i) break end
  end
  local t = { title = "mean ± standard deviation over seeds", columns = {}, rows = {} }
  if first then t.columns[1] = first end
  for _, k in ipairs(by) do t.columns[#t.columns + 1] = k end
  t.columns[#t.columns + 1] = "runs"
  for _, k in ipairs(fields) do t.columns[#t.columns + 1] = k end
  for _, g in ipairs(summary.groups(done, by)) do
    local row = {}
    local function add(k)
      local values = {}
      for _, r in ipairs(g) do if type(r.metrics[k]) == "number" then values[#values + 1] = r.metrics[k] end end
      row[#row + 1] = cell(summary.spread(values))
    end
    if first then add(first) end
    for _, k in ipairs(by) do row[#row + 1] = g[k] ~= nil and text_of(g[k]) or "" end
    row[#row + 1] = tostring(#g)
    for _, k in ipairs(fields) do add(k) end
    t.rows[#t.rows + 1] = row
  end
  if metrics[o.metric] then doc:charts(store_charts(done, by, o.metric)) end
  doc:table(t)
end

local function counted(list)
  local out = {}
  for _, c in ipairs(list) do if c[1] > 0 then out[#out + 1] = ("%d %s%s"):format(c[1], c[2], c[1] == 1 and "" or "s") end end
  return out
end

--- The page of runs and stores. paths: run directories, folders of them, stores (*.db). o: completions (12 a run), tokens (true),
--- metric ("accuracy"), title.
---@param paths string[]
---@param o table
---@return tl.Page
function build.page(paths, o)
  local list, stores = {}, {}
  for _, path in ipairs(paths) do
    local kind = fs.kind(path)
    if kind == "file" then stores[#stores + 1] = path
    elseif kind == "folder" and runs.is_run(path) then list[#list + 1] = runs.load(path)
    elseif kind == "folder" then
      local before = #list
      for _, name in ipairs(fs.list(path)) do if runs.is_run(path .. "/" .. name) then list[#list + 1] = runs.load(path .. "/" .. name) end end
      if #list == before then error(("%s: neither a run directory (metrics.jsonl, versions.json) nor a folder of them"):format(path), 0) end
    else error(path .. ": there is no such file or folder", 0) end
  end
  local versions = require("tl.report").versions()
  local doc = page.new(o.title or #list == 1 and (list[1].config.name or list[1].name) or "Report",
    ("%s; report by tlrun %s"):format(table.concat(counted { { #list, "run" }, { #stores, "store" } }, ", "), versions.tlrun))
  for _, path in ipairs(stores) do
    local store = require("tl.experiment").open(path)
    for _, g in ipairs(summary.groups(store:runs(), { "experiment" })) do experiment_part(doc, g.experiment, g, o) end
    store:close()
  end
  if #list > 0 then run_part(doc, list, o) end
  return doc
end

return build
