--- filters_list.lua: the filters of lists and dicts. Those that are generators in Python (map, select, unique, batch, ...) are
--- generators here: run through once, and true even when nothing comes.
local V = require "tl.jinja.values"
local text = require "tl.jinja.text"
local methods = require "tl.jinja.methods"
local access = require "tl.jinja.access"
local tests = require "tl.jinja.tests"
local signature = require "tl.jinja.signature"

local filters = {}
local function define(name, parameters, fn) filters[name] = signature(name, parameters, fn) end

local function is_set(v) return v ~= nil and V.truth(v) end

-- a generator over a list that is made when the first element is asked for
local function later(make)
  local items, at
  return V.generator(function()
    if not items then items, at = make(), 0 end
    at = at + 1
    return items[at]
  end)
end

-- the elements one by one; only a generator is not taken whole
local function stepper(v)
  if V.type(v) == "generator" then return v.next end
  local items, at
  return function()
    if not items then items, at = V.iter(v), 0 end
    at = at + 1
    return items[at]
  end
end

-- the same of what map and select are given: nothing of what is false, whatever it is
local function truthy_stepper(v) return V.truth(v) and stepper(v) or function() end end

-- ---------------------------------------------------------------- one value out of many
define("length", "", V.length)
define("list", "", function(v) return V.slice(V.list(V.iter(v))) end)
define("first", "", function(v)
  local x = stepper(v)()
  if x == nil then return V.undefined "No first item, sequence was empty." end
  return x
end)
define("last", "", function(v)
  if V.type(v) == "generator" then V.fail "'generator' object is not reversible" end
  local items = V.iter(v)
  local x = items[#items]
  if x == nil then return V.undefined "No last item, sequence was empty." end
  return x
end)
define("default", "default_value? boolean?", function(v, default, boolean)
  if not V.is_undefined(v) and not (is_set(boolean) and not V.truth(v)) then return v end
  if default == nil then return "" end
  return default
end)
define("attr", "name", function(v, name)
  local found = methods.find(v, name)
  if found == nil then return V.undefined(("no attribute '%s'"):format(V.string(name))) end
  return found
end)

define("join", "d? attribute?", function(v, d, attribute)
  local out, bytes, get = {}, 0, access.getter(attribute)
  local between = d == nil and "" or V.string(d)
  for i, x in ipairs(V.iter(v)) do
    out[i] = V.string(get(x))
    bytes = bytes + #out[i] + #between
  end
  V.spend_text(bytes)
  return table.concat(out, between)
end)

define("sum", "attribute? start?", function(v, attribute, start)
  local get = access.getter(attribute)
  local total, float = V.number(start == nil and 0 or start)
  if not total then V.fail("sum wants a number to start with, not %s", V.python_type(start)) end
  for _, x in ipairs(V.iter(v)) do
    local y, y_float = V.number(V.defined(get(x)))
    if not y then V.fail("unsupported operand type(s) for +: 'int' and '%s'", V.python_type(get(x))) end
    total, float = total + y, float or y_float
  end
  return float and V.float(total) or total
end)

-- ---------------------------------------------------------------- many out of many
define("reverse", "", function(v)
  if type(v) == "string" then return V.slice(v, nil, nil, -1) end
  local items, out = V.iter(v), {}
  for i = #items, 1, -1 do out[#out + 1] = items[i] end
  if V.type(v) == "undefined" or V.type(v) == "generator" then return V.list(out) end
  return later(function() return out end)
end)
define("items", "", function(v)
  return later(function()
    if V.is_undefined(v) then return {} end
    if V.type(v) ~= "dict" then V.fail "Can only get item pairs from a mapping." end
    return methods.items(v)
  end)
end)

function filters.map(v, args, named)
  local apply, next_value = nil, truthy_stepper(v)
  if args[1] == nil and named.attribute ~= nil then
    for _, k in ipairs(named) do
      if k ~= "attribute" and k ~= "default" then V.fail("map has no argument '%s'", k) end
    end
    apply = access.getter(named.attribute, named.default)
  else
    local fn = type(args[1]) == "string" and require "tl.jinja.filters"[args[1]]
    if not fn then V.fail("no filter named '%s'", V.string(args[1] == nil and "" or args[1])) end
    local rest = { unpack(args, 2) }
    apply = function(x) return fn(x, rest, named) end
  end
  return V.generator(function()
    local x = next_value()
    if x ~= nil then return apply(x) end
  end)
end

-- select, reject, selectattr, rejectattr: what passes the test (truth when there is none), or what does not
local function selecting(by_attribute, wanted)
  return function(v, args)
    local at = by_attribute and 2 or 1
    if by_attribute and args[1] == nil then V.fail "missing parameter for attribute name" end
    local name, rest = args[at], { unpack(args, at + 1) }
    local get = by_attribute and access.getter(args[1]) or function(x) return x end
    local test = name == nil and V.truth or tests[name]
    if not test then V.fail("no test named '%s'", V.string(name)) end
    local next_value = truthy_stepper(v)
    return V.generator(function()
      for x in next_value do
        V.spend(1)
        if (test(get(x), rest[1], rest) and true or false) == wanted then return x end
      end
    end)
  end
end
filters.select, filters.reject = selecting(false, true), selecting(false, false)
filters.selectattr, filters.rejectattr = selecting(true, true), selecting(true, false)

local function folded(v, case_sensitive)
  return not case_sensitive and type(v) == "string" and text.lower(v) or v
end

-- Merge sort: stable, and each pair is compared in the order Python's would be asked: is the later one less?
local function merge_sort(list, less)
  local n = #list
  if n < 2 then return list end
  local half = math.floor(n / 2)
  local a, b = {}, {}
  for i = 1, n do
    if i <= half then a[i] = list[i] else b[i - half] = list[i] end
  end
  a, b = merge_sort(a, less), merge_sort(b, less)
  local out, i, j = {}, 1, 1
  while i <= #a and j <= #b do
    if less(b[j], a[i]) then out[#out + 1], j = b[j], j + 1 else out[#out + 1], i = a[i], i + 1 end
  end
  for k = i, #a do out[#out + 1] = a[k] end
  for k = j, #b do out[#out + 1] = b[k] end
  return out
end

local function sorted(items, key, reverse)
  local list = {}
  for i, v in ipairs(items) do list[i] = { key = key(v), v = v } end
  list = merge_sort(list, reverse and function(a, b) return V.less(b.key, a.key) end or function(a, b) return V.less(a.key, b.key) end)
  local out = {}
  for i, e in ipairs(list) do out[i] = e.v end
  return V.list(out)
end

-- the key of one attribute, case folded unless it counts
local function key_of(attribute, case_sensitive, default)
  local get, case = access.getter(attribute, default), is_set(case_sensitive)
  return function(v) return folded(get(v), case) end
end

define("sort", "reverse? case_sensitive? attribute?", function(v, reverse, case_sensitive, attribute)
  local keys = {}
  if type(attribute) == "string" then
    for _, a in ipairs(text.split(attribute, ",")) do keys[#keys + 1] = key_of(a, case_sensitive) end
  else
    keys[1] = key_of(attribute, case_sensitive)
  end
  return sorted(V.iter(v), function(x)
    local all = {}
    for i, key in ipairs(keys) do all[i] = key(x) end
    return V.list(all)
  end, is_set(reverse))
end)
define("dictsort", "case_sensitive? by? reverse?", function(v, case_sensitive, by, reverse)
  if V.type(v) ~= "dict" then V.fail("dictsort wants a dict, not %s", V.python_type(V.defined(v))) end
  if by ~= nil and by ~= "key" and by ~= "value" then V.fail "dictsort goes by 'key' or 'value'" end
  local at, case = by == "value" and 2 or 1, is_set(case_sensitive)
  return sorted(methods.items(v), function(pair) return folded(pair[at], case) end, is_set(reverse))
end)

define("unique", "case_sensitive? attribute?", function(v, case_sensitive, attribute)
  local key, seen, others, next_value = key_of(attribute, case_sensitive), {}, V.list {}, stepper(v)
  local function known(k)
    k = V.hashable(type(k) == "boolean" and (k and 1 or 0) or k)
    if type(k) ~= "table" or k == V.none then
      local was = seen[k]
      seen[k] = true
      return was
    end
    if V.contains(others, k) then return true end
    others[#others + 1] = k
  end
  return V.generator(function()
    for x in next_value do
      V.spend(1)
      if not known(key(x)) then return x end
    end
  end)
end)

local function extreme(sign)
  return function(v, case_sensitive, attribute)
    local key, best, best_key = key_of(attribute, case_sensitive), nil, nil
    for _, x in ipairs(V.iter(v)) do
      local k = key(x)
      if best == nil or sign < 0 and V.less(k, best_key) or sign > 0 and V.less(best_key, k) then best, best_key = x, k end
    end
    if best == nil then return V.undefined "No aggregated item, sequence was empty." end
    return best
  end
end
define("min", "case_sensitive? attribute?", extreme(-1))
define("max", "case_sensitive? attribute?", extreme(1))

local function count_of(v, what)
  local n, float = V.number(V.defined(v))
  if not n or float then V.fail("%s wants an integer, not %s", what, V.python_type(v)) end
  return n
end

define("batch", "linecount fill_with?", function(v, linecount, fill)
  return later(function()
    local size, out, row = count_of(linecount, "batch"), {}, V.list {}
    for _, x in ipairs(V.iter(v)) do
      if #row == size then
        out[#out + 1] = row
        row = V.list {}
      end
      row[#row + 1] = x
    end
    if #row == 0 then return out end
    if fill ~= nil and fill ~= V.none then
      V.spend_list(math.max(0, size - #row))
      while #row < size do row[#row + 1] = fill end
    end
    out[#out + 1] = row
    return out
  end)
end)
define("slice", "slices fill_with?", function(v, slices, fill)
  return later(function()
    local items, n, out, at = V.iter(v), count_of(slices, "slice"), {}, 0
    if n == 0 then V.fail "slice: division by zero" end
    V.spend_list(math.max(0, n))
    local each, extra = math.floor(#items / n), #items % n
    for i = 0, n - 1 do
      local row = V.list {}
      for _ = 1, each + (i < extra and 1 or 0) do
        at = at + 1
        row[#row + 1] = items[at]
      end
      if i >= extra and fill ~= nil and fill ~= V.none then row[#row + 1] = fill end
      out[i + 1] = row
    end
    return out
  end)
end)

define("groupby", "attribute default? case_sensitive?", function(v, attribute, default, case_sensitive)
  local key, get = key_of(attribute, case_sensitive, default), access.getter(attribute, default)
  local out, last, last_key = {}, nil, nil
  for _, x in ipairs(sorted(V.iter(v), key, false)) do
    local k = key(x)
    if not last or not V.equal(last_key, k) then
      last, last_key = V.group(get(x), V.list {}), k
      out[#out + 1] = last
    end
    last[2][#last[2] + 1] = x
  end
  return V.list(out)
end)

return filters
