--- values.lua: the values of a template, after Python's: what is true, equal, ordered, iterable, and how each is printed.
---
---   None       json.null                      list    table whose metatable has __array (tuples: __tuple too)
---   undefined  table with metatable UNDEFINED dict    table whose metatable has __order, the list of its keys
---   int        whole Lua number               float   Lua number with a fraction, or V.float(x) for a whole one
---   str, bool  string, boolean                callable  V.callable(fn), fn(args, kwargs); or a plain Lua function
---
--- Tables that come without these marks are lists when they have [1], dicts otherwise (their keys then are sorted).
local text = require "tl.jinja.text"
local has_json, json = pcall(require, "tl.json")

local V = {}
V.none = has_json and json.null or setmetatable({}, { __tostring = function() return "null" end })

local UNDEFINED, FLOAT, CALLABLE, NAMESPACE, LOOP = {}, {}, {}, {}, {}
local LIST, TUPLE = { __array = true }, { __array = true, __tuple = true }

--- Raises an error of the template; the line is added where it is rendered.
function V.fail(message, ...)
  error(setmetatable({ message = select("#", ...) > 0 and message:format(...) or message }, V), 0)
end

function V.list(t) return setmetatable(t or {}, LIST) end
function V.tuple(t) return setmetatable(t, TUPLE) end
function V.dict() return setmetatable({}, { __order = {} }) end
function V.namespace() return setmetatable({}, NAMESPACE) end
function V.callable(fn) return setmetatable({ call = fn }, CALLABLE) end
function V.loop(t) return setmetatable(t, LOOP) end
function V.undefined(why) return setmetatable({ why = why }, UNDEFINED) end
function V.float(x) return x % 1 == 0 and setmetatable({ x = x }, FLOAT) or x end

--- nil, which Lua functions return, is None.
function V.from_lua(v) if v == nil then return V.none end return v end

--- The type's name, as tests and messages use it.
function V.type(v)
  local t = type(v)
  if t == "string" or t == "boolean" then return t end
  if t == "number" then return v % 1 == 0 and "int" or "float" end
  if t == "function" then return "callable" end
  if v == V.none then return "none" end
  if t ~= "table" then return t end
  local mt = getmetatable(v)
  if mt == nil then return v[1] ~= nil and "list" or "dict" end
  if mt == UNDEFINED then return "undefined" end
  if mt == FLOAT then return "float" end
  if mt == CALLABLE then return "callable" end
  if mt == NAMESPACE then return "namespace" end
  if mt == LOOP then return "loop" end
  if mt.__array then return "list" end
  if mt.__order then return "dict" end
  return v[1] ~= nil and "list" or "dict"
end
local type_of = V.type

local PYTHON = { string = "str", boolean = "bool", none = "NoneType", callable = "function", namespace = "Namespace",
  loop = "LoopContext", undefined = "Undefined" }
function V.python_type(v)
  local t = type_of(v)
  if t == "list" and (getmetatable(v) or {}).__tuple then return "tuple" end
  return PYTHON[t] or t
end

function V.is_undefined(v) return type(v) == "table" and getmetatable(v) == UNDEFINED end

--- Fails when v is undefined, with the reason it is.
function V.defined(v)
  if V.is_undefined(v) then V.fail("%s", v.why) end
  return v
end

--- The number in v and whether it is a float; nil when v is none. Booleans count, as in Python.
function V.number(v)
  local t = type(v)
  if t == "number" then return v, v % 1 ~= 0 end
  if t == "boolean" then return v and 1 or 0, false end
  if t == "table" and getmetatable(v) == FLOAT then return v.x, true end
end

--- The keys of a dict, in order.
function V.keys(d)
  local order, seen, out = (getmetatable(d) or {}).__order, {}, {}
  for _, k in ipairs(order or {}) do
    if d[k] ~= nil and not seen[k] then out[#out + 1], seen[k] = k, true end
  end
  local rest = {}
  for k in pairs(d) do
    if not seen[k] then rest[#rest + 1] = k end
  end
  table.sort(rest, function(a, b) return tostring(a) < tostring(b) end)
  for _, k in ipairs(rest) do out[#out + 1] = k end
  return out
end

--- Sets a key of a dict made by V.dict.
function V.set(d, k, v)
  if type_of(k) == "float" then k = V.number(k) end
  if d[k] == nil then
    local mt = getmetatable(d)
    if mt and mt.__order then mt.__order[#mt.__order + 1] = k end
  end
  d[k] = v
end

function V.truth(v)
  local t = type(v)
  if t == "boolean" then return v end
  if t == "string" then return v ~= "" end
  if t == "number" then return v ~= 0 end
  if t == "function" then return true end
  if v == V.none then return false end
  t = type_of(v)
  if t == "list" then return #v > 0 end
  if t == "dict" then return next(v) ~= nil end
  if t == "float" then return v.x ~= 0 end
  return t ~= "undefined"
end

--- The elements of anything that can be looped over, as a Lua list.
function V.iter(v)
  local t = type_of(v)
  if t == "list" then return v end
  if t == "dict" then return V.keys(v) end
  if t == "string" then return text.chars(v) end
  if t == "undefined" then return {} end
  V.fail("'%s' object is not iterable", V.python_type(v))
end

function V.length(v)
  local t = type_of(v)
  if t == "string" then return text.length(v) end
  if t == "list" then return #v end
  if t == "dict" then return #V.keys(v) end
  if t == "undefined" then return 0 end
  V.fail("object of type '%s' has no len()", V.python_type(v))
end

function V.equal(a, b)
  if rawequal(a, b) then return a == a end
  local x, y = V.number(a), V.number(b)
  if x or y then return x == y end
  local t = type_of(a)
  if t ~= type_of(b) then return false end
  if t == "list" then
    if #a ~= #b then return false end
    for i = 1, #a do
      if not V.equal(a[i], b[i]) then return false end
    end
    return true
  end
  if t == "dict" then
    local keys = V.keys(a)
    if #keys ~= #V.keys(b) then return false end
    for _, k in ipairs(keys) do
      if b[k] == nil or not V.equal(a[k], b[k]) then return false end
    end
    return true
  end
  return t == "undefined"
end

--- a < b; op is for the message.
function V.less(a, b, op)
  local x, y = V.number(a), V.number(b)
  if x and y then return x < y end
  V.defined(a)
  V.defined(b)
  local t = type_of(a)
  if t == type_of(b) then
    if t == "string" then return a < b end
    if t == "list" then
      for i = 1, math.min(#a, #b) do
        if not V.equal(a[i], b[i]) then return V.less(a[i], b[i], op) end
      end
      return #a < #b
    end
  end
  V.fail("'%s' not supported between instances of '%s' and '%s'", op or "<", V.python_type(a), V.python_type(b))
end

--- item in container
function V.contains(container, item)
  local t = type_of(container)
  if t == "string" then
    if type(item) ~= "string" then V.fail("'in <string>' requires string as left operand, not %s", V.python_type(item)) end
    return container:find(item, 1, true) ~= nil
  end
  if t == "dict" then
    local key = V.number(item)
    if type(item) == "table" and not key then return item == V.none and container[item] ~= nil end
    if type(item) == "boolean" or not key then key = item end
    return container[key] ~= nil
  end
  if t ~= "list" and t ~= "undefined" then V.fail("argument of type '%s' is not iterable", V.python_type(container)) end
  for _, v in ipairs(V.iter(container)) do
    if V.equal(v, item) then return true end
  end
  return false
end

local function repr_all(list, repr, open, close)
  local out = {}
  for i, v in ipairs(list) do out[i] = repr(v) end
  return open .. table.concat(out, ", ") .. close
end

--- repr(v)
function V.repr(v)
  if type(v) == "string" then return text.quote(v) end
  if type(v) == "boolean" then return v and "True" or "False" end
  local t = type_of(v)
  if t == "int" then return text.integer(v) end
  if t == "float" then return text.float((V.number(v))) end
  if t == "none" then return "None" end
  if t == "undefined" then return "Undefined" end
  if t == "list" then
    if not (getmetatable(v) or {}).__tuple then return repr_all(v, V.repr, "[", "]") end
    return repr_all(v, V.repr, "(", #v == 1 and ",)" or ")")
  end
  if t == "dict" then
    return repr_all(V.keys(v), function(k) return V.repr(k) .. ": " .. V.repr(v[k]) end, "{", "}")
  end
  return "<" .. V.python_type(v) .. ">"
end

--- str(v), what {{ v }} prints
function V.string(v)
  if type(v) == "string" then return v end
  if V.is_undefined(v) then return "" end
  return V.repr(v)
end

--- list[i] and string[i] with Python's negative indices; nil when out of range
function V.index(v, i)
  if type(v) == "string" then v = text.chars(v) end
  return v[i < 0 and #v + i + 1 or i + 1]
end

--- v[start:stop:step] of a list or a string
function V.slice(v, start, stop, step)
  local items = type(v) == "string" and text.chars(v) or v
  local n, out = #items, {}
  step = step or 1
  if step == 0 then V.fail "slice step cannot be zero" end
  local function clamp(i, otherwise)
    if not i then return otherwise end
    if i < 0 then i = i + n end
    if step > 0 then return math.max(0, math.min(i, n)) end
    return math.max(-1, math.min(i, n - 1))
  end
  start = clamp(start, step > 0 and 0 or n - 1)
  stop = clamp(stop, step > 0 and n or -1)
  for i = start, stop - (step > 0 and 1 or -1), step do out[#out + 1] = items[i + 1] end
  if type(v) == "string" then return table.concat(out) end
  return setmetatable(out, (getmetatable(v) or {}).__tuple and TUPLE or LIST)
end

return V
