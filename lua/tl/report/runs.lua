--- report/runs.lua: run directories read back, as they are, also while they grow: a line that is not whole yet is left out.
local fs = require "tl.fs"
local json = require "tl.json"

local runs = {}

local function object(path)
  if fs.kind(path) ~= "file" then return {} end
  local v = json.parse(fs.read(path))
  return type(v) == "table" and v or {}
end

local function lines(path)
  local out = {}
  if fs.kind(path) ~= "file" then return out end
  for line in io.lines(path) do
    local v = json.parse(line)
    if type(v) == "table" then out[#out + 1] = v end
  end
  return out
end

--- Is this folder a run's?
function runs.is_run(path) return fs.kind(path .. "/metrics.jsonl") == "file" or fs.kind(path .. "/versions.json") == "file" end

--- A run directory: { path, name, config, versions, summary, steps (lines of training), evals (lines of eval/...), completions }.
---@param path string
function runs.load(path)
  local r = { path = path, name = path:gsub("/+$", ""):match "([^/]+)$", config = object(path .. "/config.json"), versions = object(path .. "/versions.json"),
    summary = object(path .. "/summary.json"), completions = lines(path .. "/completions.jsonl"), steps = {}, evals = {} }
  for _, m in ipairs(lines(path .. "/metrics.jsonl")) do
    local kind = (m.loss ~= nil or m.reward ~= nil) and r.steps or r.evals
    kind[#kind + 1] = m
  end
  return r
end

local OWN = { seed = true, out = true, json = true, threads = true, config = true, memory = true, name = true, device = true, store = true, workers = true }

-- what tells runs apart beside the seed, as text
local function key_of(r)
  local c = {}
  for k, v in pairs(r.config) do if not OWN[k] then c[k] = v end end
  return json.encode { tostring(r.config.name or ""), c }
end

local function value_text(v) return type(v) == "table" and json.encode(v) or tostring(v) end

-- whether every group is of another recipe: then its name says which it is
local function apart(groups)
  local seen = {}
  for _, g in ipairs(groups) do
    local name = g[1].config.name
    if not name or seen[name] then return false end
    seen[name] = true
  end
  return true
end

-- names of the settings that differ between groups
local function differing(groups)
  local all, names = {}, {}
  for _, g in ipairs(groups) do for k in pairs(g[1].config) do if not OWN[k] or k == "name" then all[k] = true end end end
  for k in pairs(all) do
    local first = value_text(groups[1][1].config[k])
    for _, g in ipairs(groups) do
      if value_text(g[1].config[k]) ~= first then names[#names + 1] = k break end
    end
  end
  table.sort(names)
  return names
end

--- Runs put together that differ in their seed only: a list of lists, each with a label that says what tells it from the others.
---@param list table[] as from runs.load
function runs.grouped(list)
  local groups, at = {}, {}
  for _, r in ipairs(list) do
    local key = key_of(r)
    if not at[key] then
      at[key] = {}
      groups[#groups + 1] = at[key]
    end
    table.insert(at[key], r)
  end
  local by_name = apart(groups)
  local names = not by_name and #groups > 1 and differing(groups) or {}
  for _, g in ipairs(groups) do
    local parts = {}
    for _, name in ipairs(names) do
      if g[1].config[name] ~= nil then parts[#parts + 1] = name .. " " .. value_text(g[1].config[name]) end
    end
    g.label = (by_name or #groups == 1) and (g[1].config.name or g[1].name) or #parts > 0 and table.concat(parts, ", ") or g[1].name
    if #g > 1 then g.label = ("%s (%d seeds)"):format(g.label, #g) end
  end
  return groups
end

--- A metric of a group, step by step, as points { step, mean, lowest, highest } over its runs; the mean is NaN where no run has a finite number.
function runs.curve(group, field)
  local at, steps = {}, {}
  for _, r in ipairs(group) do
    for _, m in ipairs(r.steps) do
      local v = m[field]
      if v == json.null and m.step and not at[m.step] then -- it was no finite number
        at[m.step], steps[#steps + 1] = { sum = 0, n = 0, lo = math.huge, hi = -math.huge }, m.step
      elseif type(v) == "number" and m.step then
        local p = at[m.step]
        if not p then
          p = { sum = 0, n = 0, lo = math.huge, hi = -math.huge }
          at[m.step], steps[#steps + 1] = p, m.step
        end
        p.sum, p.n, p.lo, p.hi = p.sum + v, p.n + 1, math.min(p.lo, v), math.max(p.hi, v)
      end
    end
  end
  table.sort(steps)
  local out = {}
  for i, step in ipairs(steps) do
    local p = at[step]
    out[i] = { step, p.sum / p.n, p.n > 1 and p.lo or nil, p.n > 1 and p.hi or nil }
  end
  return out
end

return runs
