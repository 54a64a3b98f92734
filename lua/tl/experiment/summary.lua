--- experiment/summary.lua: rows of a store put together: means and spreads over seeds, the best of a swept setting, tables as text.
local F = require "tl.ffi"
local options = require "tl.options"

local summary = {}

--- Mean, standard deviation (n - 1), smallest and largest of a list of numbers.
---@param values number[]
---@return table {n, mean, std, min, max, values}
function summary.spread(values)
  local r = { n = #values, mean = 0 / 0, std = 0, min = math.huge, max = -math.huge, values = values }
  if r.n == 0 then return r end
  local sum, square = 0, 0
  for _, v in ipairs(values) do sum, r.min, r.max = sum + v, math.min(r.min, v), math.max(r.max, v) end
  r.mean = sum / r.n
  for _, v in ipairs(values) do square = square + (v - r.mean) ^ 2 end
  if r.n > 1 then r.std = math.sqrt(square / (r.n - 1)) end
  return r
end

local function key_of(row, names)
  local parts = {}
  for i, name in ipairs(names) do parts[i] = tostring(row[name]) end
  return table.concat(parts, "\0")
end

--- Groups rows by the named fields, in order of first appearance: a list of lists; each has the fields too.
---@param rows table[]
---@param names string[]
function summary.groups(rows, names)
  local list, at = {}, {}
  for _, row in ipairs(rows) do
    local key = key_of(row, names)
    local g = at[key]
    if not g then
      g = {}
      for _, name in ipairs(names) do g[name] = row[name] end
      list[#list + 1], at[key] = g, g
    end
    g[#g + 1] = row
  end
  return list
end

--- The numbers that rows have as a field, in their order; rows without one are left out.
---@param rows table[]
---@param name string
---@return number[]
function summary.values(rows, name)
  local values = {}
  for _, row in ipairs(rows) do
    if type(row[name]) == "number" then values[#values + 1] = row[name] end
  end
  return values
end

local function matches(row, want)
  if type(want) == "function" then return want(row) end
  for k, v in pairs(want) do
    local x = row[k]
    if type(v) == "table" then
      local any = false
      for _, y in ipairs(v) do any = any or x == y end
      if not any then return false end
    elseif x ~= v then return false end
  end
  return true
end

--- The rows whose fields are these: summary.where(rows, { method = "grpo", u = { 1, 13 } }); or for which a function of the row says so.
---@param rows table[]
---@param want table|function
---@return table[]
function summary.where(rows, want)
  if type(want) ~= "table" and type(want) ~= "function" then error("experiment.where wants fields with their values, or a function of a row; got " .. F.shown(want), 2) end
  local out = {}
  for _, row in ipairs(rows) do if matches(row, want) then out[#out + 1] = row end end
  return out
end

local BEST = options.names { any = "by value best judge" }

--- One entry a group of rows: its mean and spread of `value`, over whatever is not named (seeds).
---   by        fields that tell groups apart: { "method", "u" }
---   value     the metric ("accuracy")
---   best      a swept setting ("lr"): in each group its value with the best mean of `judge` is taken, and the others are left out
---   judge     what the choice goes by (value itself; better: a metric of other problems, so that the choice does not flatter the value)
--- Returns a list of { by-fields, best-field, n, mean, std, min, max, values, rows, tried = how many values of best there were }.
---@param rows table[] done runs
function summary.best(rows, o)
  options.only("experiment.best", o, BEST)
  if type(o.by) ~= "table" then error("experiment.best wants by, a list of fields' names; got " .. F.shown(o.by), 2) end
  local value, out = o.value or "accuracy", {}
  for _, group in ipairs(summary.groups(rows, o.by)) do
    local candidates = o.best and summary.groups(group, { o.best }) or { group }
    local chosen, top
    for _, c in ipairs(candidates) do
      local mean = summary.spread(summary.values(c, o.judge or value)).mean
      if mean == mean and (not top or mean > top) then chosen, top = c, mean end
    end
    if chosen then
      local r = summary.spread(summary.values(chosen, value))
      for _, name in ipairs(o.by) do r[name] = group[name] end
      if o.best then r[o.best] = chosen[o.best] end
      r.rows, r.tried = chosen, #candidates
      out[#out + 1] = r
    end
  end
  return out
end

local function cell(v)
  if v == nil then return "" end
  if type(v) == "number" and v % 1 ~= 0 then return ("%.4g"):format(v) end
  if type(v) == "number" then return ("%.0f"):format(v) end
  return tostring(v)
end

--- Rows as lines of text, in columns: summary.table(rows, { "u", "lr", "accuracy" })
---@param rows table[]
---@param names string[]
---@return string
function summary.table(rows, names)
  if type(names) ~= "table" then error("experiment.table wants a list of fields' names; got " .. F.shown(names), 2) end
  local width, lines = {}, {}
  for i, name in ipairs(names) do
    width[i] = #name
    for _, row in ipairs(rows) do width[i] = math.max(width[i], #cell(row[name])) end
  end
  local function line(text)
    local parts = {}
    for i, name in ipairs(names) do parts[i] = ("%-" .. width[i] .. "s"):format(text(name)) end
    lines[#lines + 1] = (table.concat(parts, "  "):gsub("%s+$", ""))
  end
  line(function(name) return name end)
  for _, row in ipairs(rows) do line(function(name) return cell(row[name]) end) end
  return table.concat(lines, "\n")
end

return summary
