--- values.lua: the values of a template, after Python's: what is true, equal, ordered, iterable, and how each is printed.
---
---   None       json.null                      list    table whose metatable has __array (tuples: __tuple, ranges: __range too)
---   undefined  table with metatable UNDEFINED dict    table whose metatable has __order, the list of its keys
---   int        whole Lua number               float   Lua number with a fraction, or V.float(x) for a whole one
---   str, bool  string, boolean                callable  V.callable(fn), fn(args, kwargs); or a plain Lua function
---   generator  V.generator(next), run through once, as what map and select give; view: what dict.items() and the like give
---
--- Tables that come without these marks are lists when they have [1], dicts otherwise (their keys then are sorted). Integers
--- are doubles: exact to 2^53; JSON's beyond that keep their digits when they are only printed (V.json_number).
---
--- Work is counted: every node, list element and 64 bytes of text costs one; a rendering may spend MAX_WORK, and no text or
--- list may be longer than MAX_TEXT or MAX_LIST, so a template ends in an error before it fills the memory.
local text = require "tl.jinja.text"
local has_json, json = pcall(require, "tl.json")

local V = {}
V.none = has_json and json.null or setmetatable({}, { __tostring = function() return "null" end })

local UNDEFINED, FLOAT, BIG, CALLABLE, NAMESPACE, LOOP, GENERATOR = {}, {}, {}, {}, {}, {}, {}
local LIST, TUPLE = { __array = true }, { __array = true, __tuple = true }

V.MAX_WORK, V.MAX_TEXT, V.MAX_LIST, V.MAX_DEPTH = 1e7, 64 * 2 ^ 20, 1e6, 200

local work = 0

--- Raises an error of the template; the line is added where it is rendered.
function V.fail(message, ...)
  error(setmetatable({ message = select("#", ...) > 0 and message:format(...) or message }, V), 0)
end

--- Spends n units of the rendering's work.
function V.spend(n)
  work = work - n
  if work < 0 then V.fail("the template does not end: it took more than %d steps", V.MAX_WORK) end
end

--- Before a text of n bytes is made.
function V.spend_text(n)
  if n > V.MAX_TEXT then V.fail("a text would be too long (%.0f bytes; at most %d)", n, V.MAX_TEXT) end
  V.spend(n / 64)
end

--- Before a list of n elements is made.
function V.spend_list(n)
  if n > V.MAX_LIST then V.fail("a list would be too long (%.0f elements; at most %d)", n, V.MAX_LIST) end
  V.spend(n)
end

--- Gives the next rendering its work; returns what the one around it has left, for V.resume.
function V.begin()
  local left = work
  work = V.MAX_WORK
  return left
end
function V.resume(left) work = left end

function V.list(t) return setmetatable(t or {}, LIST) end
function V.tuple(t) return setmetatable(t, TUPLE) end
function V.dict() return setmetatable({}, { __order = {} }) end

local GROUP = { __array = true, __tuple = true, __group = true }
--- What groupby gives: a pair whose parts are also called grouper and list.
function V.group(key, list) return setmetatable({ key, list }, GROUP) end

function V.namespace() return setmetatable({}, NAMESPACE) end
function V.callable(fn) return setmetatable({ call = fn }, CALLABLE) end
function V.loop(t) return setmetatable(t, LOOP) end
function V.undefined(why) return setmetatable({ why = why }, UNDEFINED) end
function V.float(x) return x % 1 == 0 and setmetatable({ x = x }, FLOAT) or x end
function V.generator(next_value) return setmetatable({ next = next_value }, GENERATOR) end

--- A range: a list that is printed as the call that makes it; a dict's view: printed under its name.
function V.range(t, shown) return setmetatable(t, { __array = true, __range = shown }) end
function V.view(t, name) return setmetatable(t, { __view = name }) end

--- A number as JSON wrote it: 2.0 is a float, and an integer beyond 2^53 keeps its digits.
function V.json_number(x, literal)
  if literal:find "[.eE]" then return V.float(x) end
  return math.abs(x) > 2 ^ 53 and setmetatable({ x = x, text = literal }, BIG) or x
end

--- Sets a name of a namespace; as in transformers none may begin with an underscore.
function V.set_field(n, k, v)
  if type(k) == "string" and k:sub(1, 1) == "_" then V.fail("a namespace takes no name that begins with an underscore, as '%s'", k) end
  n[k] = v
end

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
  if mt == BIG then return "int" end
  if mt == GENERATOR then return "generator" end
  if mt.__view then return "view" end
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
  local mt = t == "list" and getmetatable(v) or t == "view" and getmetatable(v) or {}
  if mt.__tuple then return "tuple" end
  return mt.__range and "range" or mt.__view or PYTHON[t] or t
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
  if t ~= "table" then return nil end
  local mt = getmetatable(v)
  if mt == FLOAT then return v.x, true end
  if mt == BIG then return v.x, false end
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

--- The Lua key of a dict's key; fails for what Python cannot hash.
function V.hashable(k)
  if type(k) ~= "table" or k == V.none then return k end
  local x = V.number(k)
  if x then return x end
  local t = type_of(k)
  if t == "dict" or t == "view" or t == "list" and not (getmetatable(k) or {}).__tuple then V.fail("unhashable type: '%s'", V.python_type(k)) end
  return k
end

--- Sets a key of a dict made by V.dict.
function V.set(d, k, v)
  k = V.hashable(k)
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
  if t == "list" or t == "view" then return #v > 0 end
  if t == "dict" then return next(v) ~= nil end
  if t == "float" or t == "int" then return v.x ~= 0 end
  return t ~= "undefined"
end

--- The elements of anything that can be looped over, as a Lua list. A generator is used up.
function V.iter(v)
  local t = type_of(v)
  if t == "list" or t == "view" then return v end
  if t == "generator" then
    local out = {}
    for x in v.next do
      V.spend(1)
      out[#out + 1] = x
    end
    return out
  end
  if t == "dict" then return V.keys(v) end
  if t == "string" then
    V.spend_list(#v)
    return text.chars(v)
  end
  if t == "undefined" then return {} end
  V.fail("'%s' object is not iterable", V.python_type(v))
end

function V.length(v)
  local t = type_of(v)
  if t == "string" then return text.length(v) end
  if t == "list" or t == "view" then return #v end
  if t == "dict" then return #V.keys(v) end
  if t == "undefined" then return 0 end
  V.fail("object of type '%s' has no len()", V.python_type(v))
end

function V.equal(a, b)
  if rawequal(a, b) then return a == a end
  local x, y = V.number(a), V.number(b)
  if x or y then return x == y end
  local t = type_of(a)
  if t ~= type_of(b) or V.python_type(a) ~= V.python_type(b) then return false end
  V.spend(1)
  if t == "list" or t == "view" then
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
  V.spend(1)
  if t == type_of(b) and V.python_type(a) == V.python_type(b) and V.python_type(a) ~= "range" then
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
    return rawget(container, V.hashable(item)) ~= nil
  end
  if t ~= "list" and t ~= "undefined" and t ~= "view" and t ~= "generator" then V.fail("argument of type '%s' is not iterable", V.python_type(container)) end
  for _, v in ipairs(V.iter(container)) do
    if V.equal(v, item) then return true end
  end
  return false
end

local function repr_all(list, repr, open, close)
  local out, bytes = {}, 0
  for i, v in ipairs(list) do
    out[i] = repr(v)
    bytes = bytes + #out[i]
  end
  V.spend_text(bytes)
  return open .. table.concat(out, ", ") .. close
end

--- repr(v)
function V.repr(v)
  if type(v) == "string" then return text.quote(v) end
  if type(v) == "boolean" then return v and "True" or "False" end
  local t = type_of(v)
  if t == "int" then return type(v) == "table" and v.text or text.integer(v) end
  if t == "float" then return text.float((V.number(v))) end
  if t == "none" then return "None" end
  if t == "undefined" then return "Undefined" end
  if t == "list" then
    local mt = getmetatable(v) or {}
    if mt.__range then return mt.__range end
    if not mt.__tuple then return repr_all(v, V.repr, "[", "]") end
    return repr_all(v, V.repr, "(", #v == 1 and ",)" or ")")
  end
  if t == "view" then return repr_all(v, V.repr, getmetatable(v).__view .. "([", "])") end
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
  V.spend(1 + n / 4)
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
