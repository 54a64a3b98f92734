--- filters.lua: what may follow `|`. filters.name(value, args, named) -> value
local V = require "tl.jinja.values"
local text = require "tl.jinja.text"
local methods = require "tl.jinja.methods"
local tests = require "tl.jinja.tests"

local filters = {}

-- Argument i, or the one of that name, or a default.
local function argument(args, named, i, name, default)
  local v = args[i]
  if v == nil then v = named[name] end
  if v == nil then return default end
  return v
end

local function number_of(v, what)
  local x = V.number(V.defined(v))
  if not x then V.fail("%s wants a number, not %s", what, V.python_type(v)) end
  return x
end

-- ---------------------------------------------------------------- strings
function filters.trim(v, args, named) return text.strip(V.string(v), argument(args, named, 1, "chars")) end
function filters.upper(v) return text.upper(V.string(v)) end
function filters.lower(v) return text.lower(V.string(v)) end
function filters.capitalize(v) return text.capitalize(V.string(v)) end
function filters.string(v) return V.string(v) end
function filters.safe(v) return V.string(v) end

--- Every word's first letter up, the others down; words begin after blanks, dashes and opening brackets.
function filters.title(v)
  local out, start = text.chars(V.string(v)), true
  for i, c in ipairs(out) do
    out[i] = start and text.upper(c) or text.lower(c)
    start = c:find "^[%-%({%[<]$" ~= nil or text.is_space(c)
  end
  return table.concat(out)
end

local HTML = { ["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;", ["'"] = "&#39;", ['"'] = "&#34;" }
function filters.escape(v) return (V.string(v):gsub("[&<>'\"]", HTML)) end

function filters.replace(v, args, named)
  local old, new = argument(args, named, 1, "old"), argument(args, named, 2, "new")
  if old == nil or new == nil then V.fail "replace wants the old and the new text" end
  local limit = argument(args, named, 3, "count")
  return text.replace(V.string(v), V.string(old), V.string(new), limit and limit ~= V.none and number_of(limit, "replace") or nil)
end

function filters.indent(v, args, named)
  local width = argument(args, named, 1, "width", 4)
  local pad = type(width) == "string" and width or (" "):rep(math.min(number_of(width, "indent"), 10000))
  local blank = V.truth(argument(args, named, 3, "blank", false))
  local lines = text.lines(V.string(v) .. "\n")
  for i, line in ipairs(lines) do
    local first = i == 1
    if (not first or V.truth(argument(args, named, 2, "first", false))) and (blank or line ~= "" or first) then
      lines[i] = pad .. line
    end
  end
  return table.concat(lines, "\n")
end

function filters.center(v, args, named)
  return methods.find(V.string(v), "center").call({ argument(args, named, 1, "width", 80) })
end
function filters.format(v, args, named)
  if #named == 0 then return methods.percent(V.string(v), V.tuple(args)) end
  local d = V.dict()
  for _, k in ipairs(named) do V.set(d, k, named[k]) end
  return methods.percent(V.string(v), d)
end
function filters.wordcount(v)
  local _, n = V.string(v):gsub("[%w_\128-\255]+", "")
  return n
end
function filters.truncate(v, args, named)
  local s, length, whole = V.string(v), argument(args, named, 1, "length", 255), V.truth(argument(args, named, 2, "killwords", false))
  local tail, leeway = argument(args, named, 3, "end", "..."), argument(args, named, 4, "leeway", 5)
  if text.length(s) <= length + (leeway == V.none and 5 or leeway) then return s end
  local cut = V.slice(s, 0, length - text.length(tail))
  if not whole then cut = cut:match "^(.*) [^ ]*$" or cut end
  return cut .. tail
end

-- ---------------------------------------------------------------- numbers
function filters.int(v, args, named)
  local default, base = argument(args, named, 1, "default", 0), argument(args, named, 2, "base", 10)
  local x
  if type(v) == "string" then
    local s = text.strip(v):gsub("_", "")
    x = s:find "^[+-]?%w+$" and tonumber((s:gsub("^[+]", "")), base) or s:find "^[+-]?[%d.]+[eE]?[+-]?%d*$" and tonumber(s)
  else
    x = V.number(v)
  end
  if not x or x ~= x or math.abs(x) == math.huge then return default end
  return x < 0 and math.ceil(x) or math.floor(x)
end
function filters.float(v, args, named)
  local x
  if type(v) == "string" then
    local s = text.strip(v):gsub("_", "")
    x = not s:find "[xX]" and tonumber(s) or nil
  else
    x = V.number(v)
  end
  if not x then return argument(args, named, 1, "default", V.float(0)) end
  return V.float(x)
end
function filters.abs(v)
  local _, float = V.number(v)
  local x = math.abs(number_of(v, "abs"))
  return float and V.float(x) or x
end

-- Python's round: to even on the exact binary value, as printf does.
function filters.round(v, args, named)
  local x, digits = number_of(v, "round"), number_of(argument(args, named, 1, "precision", 0), "round")
  local how = argument(args, named, 2, "method", "common")
  if how == "ceil" or how == "floor" then return V.float(math[how](x * 10 ^ digits) / 10 ^ digits) end
  if how ~= "common" then V.fail "round's method is 'common', 'ceil' or 'floor'" end
  local _, float = V.number(v)
  local r
  if digits >= 0 then r = tonumber(text.fixed(x, math.min(digits, 40)))
  else r = tonumber(text.fixed(x * 10 ^ digits, 0)) * 10 ^ -digits end
  return (float or how ~= "common") and V.float(r) or r
end
function filters.sum(v, args, named)
  local total, float = V.number(argument(args, named, 2, "start", 0))
  for _, x in ipairs(V.iter(filters.pick(v, argument(args, named, 1, "attribute")))) do
    local y, y_float = V.number(V.defined(x))
    if not y then V.fail("sum of numbers and '%s'", V.python_type(x)) end
    total, float = total + y, float or y_float
  end
  return float and V.float(total) or total
end

-- ---------------------------------------------------------------- JSON
local function json_key(k)
  if type(k) == "string" then return k end
  if k == V.none then return "null" end
  if type(k) == "boolean" then return k and "true" or "false" end
  return V.string(k)
end

local function write_json(out, v, o, depth)
  local t = V.type(v)
  if t == "string" then out[#out + 1] = text.json(v, o.ascii)
  elseif t == "none" then out[#out + 1] = "null"
  elseif t == "boolean" then out[#out + 1] = v and "true" or "false"
  elseif t == "int" then out[#out + 1] = text.integer(v)
  elseif t == "float" then
    local s = text.float((V.number(v)))
    out[#out + 1] = s == "nan" and "NaN" or s == "inf" and "Infinity" or s == "-inf" and "-Infinity" or s
  elseif t == "list" or t == "dict" then
    if depth > 200 then V.fail "tojson: nested too deeply" end
    local keys = t == "dict" and V.keys(v) or nil
    if keys and o.sort then table.sort(keys, function(a, b) return json_key(a) < json_key(b) end) end
    local n, inner = keys and #keys or #v, o.indent and "\n" .. o.indent:rep(depth + 1)
    out[#out + 1] = keys and "{" or "["
    for i = 1, n do
      if i > 1 then out[#out + 1] = o.comma end
      if inner then out[#out + 1] = inner end
      if keys then out[#out + 1] = text.json(json_key(keys[i]), o.ascii) .. o.colon end
      write_json(out, keys and v[keys[i]] or not keys and v[i], o, depth + 1)
    end
    if inner and n > 0 then out[#out + 1] = "\n" .. o.indent:rep(depth) end
    out[#out + 1] = keys and "}" or "]"
  else
    V.fail("Object of type %s is not JSON serializable", V.python_type(v))
  end
end

--- json.dumps as transformers calls it: nothing escaped for ASCII or HTML; ensure_ascii, indent, separators, sort_keys.
function filters.tojson(v, args, named)
  local function given(i, name)
    local x = argument(args, named, i, name)
    if x ~= nil and x ~= V.none then return x end
  end
  local indent, separators = given(2, "indent"), given(3, "separators")
  if #args == 1 and named.indent == nil and V.type(args[1]) == "int" then indent = args[1] end
  if V.type(indent) == "int" then indent = (" "):rep(math.min(indent, 100)) end
  local o = { indent = indent, sort = V.truth(given(4, "sort_keys") or false), ascii = given(1, "ensure_ascii") == true,
    comma = separators and separators[1] or indent and "," or ", ", colon = separators and separators[2] or ": " }
  local out = {}
  write_json(out, v, o, 0)
  return table.concat(out)
end

-- ---------------------------------------------------------------- lists and dicts
function filters.length(v) return V.length(v) end
function filters.list(v) return V.slice(V.list(V.iter(v))) end
function filters.first(v)
  local x = V.iter(v)[1]
  return x == nil and V.undefined "No first item, sequence was empty." or x
end
function filters.last(v)
  local items = V.iter(v)
  local x = items[#items]
  return x == nil and V.undefined "No last item, sequence was empty." or x
end
function filters.reverse(v)
  if type(v) == "string" then return V.slice(v, nil, nil, -1) end
  local items, out = V.iter(v), {}
  for i = #items, 1, -1 do out[#out + 1] = items[i] end
  return V.list(out)
end
function filters.items(v)
  if V.is_undefined(v) then return V.list {} end
  if V.type(v) ~= "dict" then V.fail "Can only get item pairs from a mapping." end
  return methods.items(v)
end
filters["default"] = function(v, args, named)
  local boolean = V.truth(argument(args, named, 2, "boolean", false))
  if V.is_undefined(v) or boolean and not V.truth(v) then return argument(args, named, 1, "default_value", "") end
  return v
end

-- v.a.b.0 by a dotted name; undefined when there is no such thing
local function pick_one(v, path, default)
  local parts = type(path) == "string" and text.split(path, ".") or { path }
  for _, part in ipairs(parts) do
    local i, t = tonumber(part), V.type(v)
    local found
    if i and (t == "list" or t == "string") then found = V.index(v, i)
    elseif type(v) == "table" and t ~= "undefined" then found = v[i and v[part] == nil and i or part] end
    if found == nil and type(part) == "string" and not i then found = methods.find(v, part) end
    if found == nil then return default == nil and V.undefined(("no attribute '%s'"):format(part)) or default end
    v = found
  end
  return v
end

--- The list of v's elements, or of one attribute of each.
function filters.pick(v, attribute, default)
  if attribute == nil or attribute == V.none then return v end
  local out = {}
  for i, x in ipairs(V.iter(v)) do out[i] = pick_one(x, attribute, default) end
  return V.list(out)
end
function filters.attr(v, args) return pick_one(v, args[1]) end

function filters.join(v, args, named)
  local out = {}
  for i, x in ipairs(V.iter(filters.pick(v, argument(args, named, 2, "attribute")))) do out[i] = V.string(x) end
  return table.concat(out, V.string(argument(args, named, 1, "d", "")))
end

function filters.map(v, args, named)
  if args[1] == nil then
    if named.attribute == nil then V.fail "map wants a filter's name or attribute=" end
    return filters.pick(v, named.attribute, named.default)
  end
  local fn, rest, out = filters[args[1]], { unpack(args, 2) }, {}
  if not fn then V.fail("no filter named '%s'", V.string(args[1])) end
  for i, x in ipairs(V.iter(v)) do out[i] = fn(x, rest, named) end
  return V.list(out)
end

-- select, reject, selectattr, rejectattr: keep where the test (truth when there is none) gives `wanted`
local function selecting(by_attribute, wanted)
  return function(v, args)
    local at = by_attribute and 2 or 1
    local name, rest, out = args[at], { unpack(args, at + 1) }, {}
    local test = name == nil and V.truth or tests[name]
    if not test then V.fail("no test named '%s'", V.string(name)) end
    for _, x in ipairs(V.iter(v)) do
      local subject = x
      if by_attribute then subject = pick_one(x, args[1]) end
      if (test(subject, rest[1], rest) and true or false) == wanted then out[#out + 1] = x end
    end
    return V.list(out)
  end
end
filters.select, filters.reject = selecting(false, true), selecting(false, false)
filters.selectattr, filters.rejectattr = selecting(true, true), selecting(true, false)

local function folded(v, case_sensitive)
  return not case_sensitive and type(v) == "string" and text.lower(v) or v
end

-- A stable sort: equal elements keep their order, reversed or not.
local function sorted(items, key, reverse)
  local list = {}
  for i, v in ipairs(items) do list[i] = { key = key(v), i = i, v = v } end
  table.sort(list, function(a, b)
    if reverse and V.less(b.key, a.key) or not reverse and V.less(a.key, b.key) then return true end
    if reverse and V.less(a.key, b.key) or not reverse and V.less(b.key, a.key) then return false end
    return a.i < b.i
  end)
  local out = {}
  for i, e in ipairs(list) do out[i] = e.v end
  return V.list(out)
end

local function key_function(args, named, case_at, attribute_at)
  local case = V.truth(argument(args, named, case_at, "case_sensitive", false))
  local attribute = argument(args, named, attribute_at, "attribute")
  return function(v)
    if attribute == nil or attribute == V.none then return folded(v, case) end
    if type(attribute) == "string" and attribute:find(",", 1, true) then
      local keys = {}
      for i, a in ipairs(text.split(attribute, ",")) do keys[i] = folded(pick_one(v, a), case) end
      return V.list(keys)
    end
    return folded(pick_one(v, attribute), case)
  end
end

function filters.sort(v, args, named)
  return sorted(V.iter(v), key_function(args, named, 2, 3), V.truth(argument(args, named, 1, "reverse", false)))
end
function filters.dictsort(v, args, named)
  local case, by = V.truth(argument(args, named, 1, "case_sensitive", false)), argument(args, named, 2, "by", "key")
  local at = by == "value" and 2 or 1
  return sorted(methods.items(v), function(pair) return folded(pair[at], case) end, V.truth(argument(args, named, 3, "reverse", false)))
end
function filters.unique(v, args, named)
  local key, seen, out = key_function(args, named, 1, 2), {}, {}
  for _, x in ipairs(V.iter(v)) do
    local k = key(x)
    if not V.contains(V.list(seen), k) then
      seen[#seen + 1] = k
      out[#out + 1] = x
    end
  end
  return V.list(out)
end

local function extreme(sign)
  return function(v, args, named)
    local key, best, best_key = key_function(args, named, 1, 2), nil, nil
    for _, x in ipairs(V.iter(v)) do
      local k = key(x)
      if best == nil or sign < 0 and V.less(k, best_key) or sign > 0 and V.less(best_key, k) then best, best_key = x, k end
    end
    return best == nil and V.undefined "No aggregated item, sequence was empty." or best
  end
end
filters.min, filters.max = extreme(-1), extreme(1)

function filters.batch(v, args, named)
  local size, out, row = number_of(argument(args, named, 1, "linecount"), "batch"), {}, nil
  for _, x in ipairs(V.iter(v)) do
    if not row or #row >= size then
      row = V.list {}
      out[#out + 1] = row
    end
    row[#row + 1] = x
  end
  local fill = argument(args, named, 2, "fill_with")
  while row and fill ~= nil and fill ~= V.none and #row < size do row[#row + 1] = fill end
  return V.list(out)
end
function filters.groupby(v, args, named)
  local attribute = argument(args, named, 1, "attribute")
  local key = function(x) return folded(pick_one(x, attribute, named.default), false) end
  local out, last = {}, nil
  for _, x in ipairs(sorted(V.iter(v), key, false)) do
    if not last or not V.equal(key(last[2][1]), key(x)) then
      last = V.tuple { pick_one(x, attribute, named.default), V.list {} }
      out[#out + 1] = last
    end
    last[2][#last[2] + 1] = x
  end
  return V.list(out)
end

filters.count, filters.e, filters.d = filters.length, filters.escape, filters["default"]

return filters
