--- eval.lua: runs a template's tree. Expressions return values (see values.lua), statements append to rt.out.
---
--- A scope is a Lua table whose __index is the scope around it: loops, macros and `with` open one, `if` does not, so what a
--- loop sets is gone with the iteration, and only a namespace carries values out, as in Jinja.
local V = require "tl.jinja.values"
local text = require "tl.jinja.text"
local methods = require "tl.jinja.methods"
local filters = require "tl.jinja.filters"
local tests = require "tl.jinja.tests"

local eval = {}
local E = {}  -- expressions by kind: E.kind(node, scope, rt) -> value
local S = {}  -- statements by kind: S.kind(node, scope, rt) -> nil, "break" or "continue"

local MAX_TEXT = 256 * 1024 * 1024

local function value_of(node, scope, rt) return E[node.t](node, scope, rt) end
local function child(scope) return setmetatable({}, { __index = scope }) end

local function run(nodes, scope, rt)
  for i = 1, #nodes do
    local node = nodes[i]
    rt.line = node.line
    local signal = S[node.t](node, scope, rt)
    if signal then return signal end
  end
end

local function captured(nodes, scope, rt)
  local out = rt.out
  rt.out = {}
  run(nodes, scope, rt)
  local result = table.concat(rt.out)
  rt.out = out
  return result
end

-- ---------------------------------------------------------------- expressions
function E.constant(node) return node.value end

function E.name(node, scope)
  local v = scope[node.name]
  if v == nil then return V.undefined(("'%s' is undefined"):format(node.name)) end
  return v
end

local function values(nodes, scope, rt)
  local out = {}
  for i, n in ipairs(nodes) do out[i] = value_of(n, scope, rt) end
  return out
end
function E.list(node, scope, rt) return V.list(values(node.items, scope, rt)) end
function E.tuple(node, scope, rt) return V.tuple(values(node.items, scope, rt)) end
function E.dict(node, scope, rt)
  local d = V.dict()
  for i, k in ipairs(node.keys) do V.set(d, value_of(k, scope, rt), value_of(node.values[i], scope, rt)) end
  return d
end

function E.condition(node, scope, rt)
  if V.truth(value_of(node.condition, scope, rt)) then return value_of(node.yes, scope, rt) end
  if node.no then return value_of(node.no, scope, rt) end
  return V.undefined "the inline if-expression evaluated to false and no else section was defined"
end

E["or"] = function(node, scope, rt)
  local v = value_of(node.left, scope, rt)
  return V.truth(v) and v or value_of(node.right, scope, rt)
end
E["and"] = function(node, scope, rt)
  local v = value_of(node.left, scope, rt)
  if not V.truth(v) then return v end
  return value_of(node.right, scope, rt)
end
E["not"] = function(node, scope, rt) return not V.truth(value_of(node.value, scope, rt)) end

local COMPARE = {
  ["=="] = V.equal,
  ["!="] = function(a, b) return not V.equal(a, b) end,
  ["<"] = function(a, b) return V.less(a, b, "<") end,
  [">"] = function(a, b) return V.less(b, a, ">") end,
  ["<="] = function(a, b) return V.less(a, b, "<=") or V.equal(a, b) end,
  [">="] = function(a, b) return V.less(b, a, ">=") or V.equal(a, b) end,
  ["in"] = function(a, b) return V.contains(b, a) end,
  ["not in"] = function(a, b) return not V.contains(b, a) end,
}

function E.compare(node, scope, rt)
  local left = value_of(node.first, scope, rt)
  for _, part in ipairs(node.parts) do
    local right = value_of(part.value, scope, rt)
    if not COMPARE[part.op](left, right) then return false end
    left = right
  end
  return true
end

local function arithmetic(op, compute)
  return function(node, scope, rt)
    local a, b = value_of(node.left, scope, rt), value_of(node.right, scope, rt)
    local x, x_float = V.number(a)
    local y, y_float = V.number(b)
    if x and y then return compute(x, y, x_float or y_float) end
    V.defined(a)
    V.defined(b)
    local special = eval["on_" .. op]
    local v = special and special(a, b, V.type(a), V.type(b))
    if v ~= nil then return v end
    V.fail("unsupported operand type(s) for %s: '%s' and '%s'", op, V.python_type(a), V.python_type(b))
  end
end

local function typed(v, float) return float and V.float(v) or v end
local function nonzero(y) if y == 0 then V.fail "division by zero" end end

E.add = arithmetic("+", function(x, y, float) return typed(x + y, float) end)
E.sub = arithmetic("-", function(x, y, float) return typed(x - y, float) end)
E.mul = arithmetic("*", function(x, y, float) return typed(x * y, float) end)
E.div = arithmetic("/", function(x, y) nonzero(y) return V.float(x / y) end)
E.floordiv = arithmetic("//", function(x, y, float) nonzero(y) return typed(math.floor(x / y), float) end)
E.mod = arithmetic("%", function(x, y, float) nonzero(y) return typed(x % y, float) end)
E.pow = arithmetic("**", function(x, y, float) return typed(x ^ y, float or y < 0) end)

eval["on_+"] = function(a, b, ta, tb)
  if ta == "string" and tb == "string" then return a .. b end
  if ta ~= "list" or tb ~= "list" then return nil end
  local out = {}
  for i, v in ipairs(a) do out[i] = v end
  for _, v in ipairs(b) do out[#out + 1] = v end
  return V.list(out)
end
eval["on_*"] = function(a, b, ta, tb)
  if tb == "string" or tb == "list" then a, b, ta, tb = b, a, tb, ta end
  if tb ~= "int" and tb ~= "boolean" then return nil end
  local n = math.max(0, (V.number(b)))
  if ta == "string" then
    if #a * n > MAX_TEXT then V.fail "a repeated string would be too long" end
    return a:rep(n)
  end
  if ta ~= "list" then return nil end
  if #a * n > 1e6 then V.fail "a repeated list would be too long" end
  local out = {}
  for _ = 1, n do
    for _, v in ipairs(a) do out[#out + 1] = v end
  end
  return V.list(out)
end
eval["on_%"] = function(a, b, ta) if ta == "string" then return methods.percent(a, b) end end

function E.concat(node, scope, rt)
  return V.string(value_of(node.left, scope, rt)) .. V.string(value_of(node.right, scope, rt))
end

local function signed(sign)
  return function(node, scope, rt)
    local v = value_of(node.value, scope, rt)
    local x, float = V.number(V.defined(v))
    if not x then V.fail("bad operand type for unary %s: '%s'", sign < 0 and "-" or "+", V.python_type(v)) end
    return typed(sign * x, float)
  end
end
E.neg, E.pos = signed(-1), signed(1)

local function missing(v, name)
  return V.undefined(("'%s object' has no attribute '%s'"):format(V.python_type(v), V.string(name)))
end

-- a field of a mapping or a loop; nil: there is none
local function field(v, name)
  local t = V.type(v)
  if t == "loop" then
    local f = v[name]
    if name == "previtem" or name == "nextitem" then return f == nil and V.undefined "there is no such item" or f end
    return f
  end
  if t == "dict" or t == "namespace" then return rawget(v, name) end
end

function E.attribute(node, scope, rt)
  local v = V.defined(value_of(node.value, scope, rt))
  local found = methods.find(v, node.name)
  if found == nil then found = field(v, node.name) end
  return found == nil and missing(v, node.name) or found
end

function E.item(node, scope, rt)
  local v, key = V.defined(value_of(node.value, scope, rt)), value_of(node.key, scope, rt)
  local t, i, float = V.type(v), V.number(key)
  if t == "string" or t == "list" then
    if i and not float then
      local found = V.index(v, i)
      return found == nil and V.undefined(("%s has no element %s"):format(V.python_type(v), V.string(key))) or found
    end
  elseif t == "dict" or t == "namespace" or t == "loop" then
    local name = key
    if i and type(key) ~= "boolean" then name = i end
    local found = field(v, name)
    if found ~= nil then return found end
  end
  local method = type(key) == "string" and methods.find(v, key) or nil
  return method or missing(v, key)
end

local function whole(node, scope, rt)
  if not node then return nil end
  local v = value_of(node, scope, rt)
  if v == V.none then return nil end
  local x, float = V.number(v)
  if not x or float then V.fail "slice indices must be integers or None" end
  return x
end
function E.slice(node, scope, rt)
  local v = V.defined(value_of(node.value, scope, rt))
  local start, stop, step = whole(node.start, scope, rt), whole(node.stop, scope, rt), whole(node.step, scope, rt)
  local t = V.type(v)
  if t ~= "string" and t ~= "list" then V.fail("'%s' object cannot be sliced", V.python_type(v)) end
  return V.slice(v, start, stop, step)
end

local function arguments(list, scope, rt)
  local args, named = {}, {}
  for _, a in ipairs(list) do
    local v = value_of(a.value, scope, rt)
    if a.star == "*" then
      for _, x in ipairs(V.iter(v)) do args[#args + 1] = x end
    elseif a.star == "**" then
      for _, k in ipairs(V.keys(v)) do
        named[#named + 1] = k
        named[k] = v[k]
      end
    elseif a.name then
      named[#named + 1] = a.name
      named[a.name] = v
    else
      args[#args + 1] = v
    end
  end
  return args, named
end

-- Calls a value. named: by name, and the names in order at 1..n.
local function call(v, args, named)
  if type(v) == "function" then return V.from_lua(v(unpack(args))) end
  V.defined(v)
  if V.type(v) == "loop" and v.recurse then return v.recurse(args) end
  if V.type(v) ~= "callable" then V.fail("'%s' object is not callable", V.python_type(v)) end
  return v.call(args, named)
end

function E.call(node, scope, rt)
  local v = value_of(node.value, scope, rt)
  local args, named = arguments(node.args, scope, rt)
  rt.line = node.line
  return call(v, args, named)
end

local function apply_filter(node, v, scope, rt)
  local fn = filters[node.name]
  if not fn then V.fail("no filter named '%s'", node.name) end
  local args, named = arguments(node.args, scope, rt)
  rt.line = node.line
  return fn(v, args, named)
end
function E.filter(node, scope, rt) return apply_filter(node, value_of(node.value, scope, rt), scope, rt) end

function E.test(node, scope, rt)
  local fn = tests[node.name]
  if not fn then V.fail("no test named '%s'", node.name) end
  local v = value_of(node.value, scope, rt)
  local args = arguments(node.args, scope, rt)
  rt.line = node.line
  return fn(v, args[1], args) ~= node.negated
end

-- ---------------------------------------------------------------- statements
function S.data(node, scope, rt) rt.out[#rt.out + 1] = node.text end
function S.output(node, scope, rt)
  local s = V.string(value_of(node.value, scope, rt))
  rt.size = rt.size + #s
  if rt.size > MAX_TEXT then V.fail "the rendered text is too long" end
  rt.out[#rt.out + 1] = s
end

local function assign(target, v, scope)
  if target.t == "name" then
    scope[target.name] = v
  elseif target.t == "field" then
    local n = scope[target.name]
    if n == nil or V.type(n) ~= "namespace" then V.fail("cannot set '%s': '%s' is not a namespace", target.field, target.name) end
    n[target.field] = v
  else
    local items = V.iter(V.defined(v))
    if #items ~= #target.items then V.fail("%d values cannot be set to %d names", #items, #target.items) end
    for i, t in ipairs(target.items) do assign(t, items[i], scope) end
  end
end

function S.set(node, scope, rt) assign(node.target, value_of(node.value, scope, rt), scope) end

local function filtered(node, scope, rt)
  local v = captured(node.body, child(scope), rt)
  for _, f in ipairs(node.filters) do v = apply_filter(f, v, scope, rt) end
  return v
end
function S.set_block(node, scope, rt) assign(node.target, filtered(node, scope, rt), scope) end
function S.filter_block(node, scope, rt) rt.out[#rt.out + 1] = V.string(filtered(node, scope, rt)) end

S["if"] = function(node, scope, rt)
  for _, b in ipairs(node.branches) do
    if V.truth(value_of(b.condition, scope, rt)) then return run(b.body, scope, rt) end
  end
  if node.otherwise then return run(node.otherwise, scope, rt) end
end

function S.with(node, scope, rt)
  local inner = child(scope)
  for _, s in ipairs(node.sets) do assign(s.target, value_of(s.value, scope, rt), inner) end
  return run(node.body, inner, rt)
end

local function loop_fields(loop, items, i, depth)
  local n = #items
  loop.index, loop.index0, loop.revindex, loop.revindex0 = i, i - 1, n - i + 1, n - i
  loop.first, loop.last, loop.length = i == 1, i == n, n
  loop.previtem, loop.nextitem = items[i - 1], items[i + 1]
  loop.depth, loop.depth0 = depth, depth - 1
end

local function loop_functions(loop)
  loop.cycle = V.callable(function(args)
    if #args == 0 then V.fail "loop.cycle wants values" end
    return args[loop.index0 % #args + 1]
  end)
  local last
  loop.changed = V.callable(function(args)
    local same = last and V.equal(V.list(last), V.list(args))
    last = args
    return not same
  end)
end

local function loop_over(node, iterable, scope, rt, depth)
  local items = {}
  for _, v in ipairs(V.iter(iterable)) do
    local keep = true
    if node.condition then
      local inner = child(scope)
      assign(node.target, v, inner)
      keep = V.truth(value_of(node.condition, inner, rt))
    end
    if keep then items[#items + 1] = v end
  end
  if #items == 0 and node.otherwise then return run(node.otherwise, child(scope), rt) end
  local loop = V.loop {}
  loop_functions(loop)
  if node.recursive then
    loop.recurse = function(args)
      local out = rt.out
      rt.out = {}
      loop_over(node, args[1], scope, rt, depth + 1)
      local result = table.concat(rt.out)
      rt.out = out
      return result
    end
  end
  for i, v in ipairs(items) do
    loop_fields(loop, items, i, depth)
    local inner = child(scope)
    inner.loop = loop
    assign(node.target, v, inner)
    if run(node.body, inner, rt) == "break" then break end
  end
end
S["for"] = function(node, scope, rt) return loop_over(node, value_of(node.iter, scope, rt), scope, rt, 1) end
S["break"] = function() return "break" end
S["continue"] = function() return "continue" end

local function macro(node, scope, rt)
  return V.callable(function(args, named)
    local inner = child(scope)
    for i, p in ipairs(node.parameters) do
      local v = args[i]
      if v == nil then v = named[p.name] end
      if v == nil and p.default then v = value_of(p.default, inner, rt) end
      if v == nil then v = V.undefined(("parameter '%s' was not provided"):format(p.name)) end
      inner[p.name] = v
    end
    local known, extra = {}, V.dict()
    for _, p in ipairs(node.parameters) do known[p.name] = true end
    for _, name in ipairs(named) do
      if name ~= "caller" and not known[name] then V.set(extra, name, named[name]) end
    end
    inner.varargs, inner.kwargs = V.slice(V.tuple(args), #node.parameters), extra
    inner.caller = named.caller
    local line, result = rt.line, captured(node.body, inner, rt)
    rt.line = line
    return result
  end)
end
function S.macro(node, scope, rt) scope[node.name] = macro(node, scope, rt) end

function S.call_block(node, scope, rt)
  local args, named = arguments(node.call.args, scope, rt)
  named.caller = macro(node, scope, rt)
  rt.out[#rt.out + 1] = V.string(call(value_of(node.call.value, scope, rt), args, named))
end

-- ---------------------------------------------------------------- globals
local MAX_RANGE = 100000

local globals = {
  range = V.callable(function(args)
    local start, stop, step = 0, V.number(args[1]), 1
    if args[2] ~= nil then start, stop, step = stop, V.number(args[2]), args[3] == nil and 1 or V.number(args[3]) end
    if not start or not stop or not step or step == 0 then V.fail "range wants one to three integers, the step not 0" end
    if (stop - start) / step > MAX_RANGE then V.fail("range is limited to %d elements", MAX_RANGE) end
    local out = {}
    for i = start, stop - (step > 0 and 1 or -1), step do out[#out + 1] = i end
    return V.list(out)
  end),
  namespace = V.callable(function(args, named)
    local n = V.namespace()
    for _, k in ipairs(args[1] and V.keys(args[1]) or {}) do n[k] = args[1][k] end
    for _, k in ipairs(named) do n[k] = named[k] end
    return n
  end),
  dict = V.callable(function(args, named)
    local d = V.dict()
    if args[1] and V.type(args[1]) == "dict" then
      for _, k in ipairs(V.keys(args[1])) do V.set(d, k, args[1][k]) end
    elseif args[1] then
      for _, pair in ipairs(V.iter(args[1])) do V.set(d, pair[1], pair[2]) end
    end
    for _, k in ipairs(named) do V.set(d, k, named[k]) end
    return d
  end),
  raise_exception = V.callable(function(args) V.fail("%s", V.string(args[1] == nil and "" or args[1])) end),
  strftime_now = V.callable(function(args)
    if type(args[1]) ~= "string" then V.fail "strftime_now wants a format" end
    return os.date(args[1])
  end),
  joiner = V.callable(function(args, named)
    local sep, used = args[1] or named.sep or ", ", false
    return V.callable(function()
      if used then return sep end
      used = true
      return ""
    end)
  end),
}

--- Renders a tree with a context; errors carry the line in .line.
function eval.render(tree, context)
  local rt = { out = {}, size = 0, line = 1 }
  local scope = child(setmetatable({}, { __index = function(_, k)
    local v = context[k]
    if v == nil then v = globals[k] end
    return v
  end }))
  local ok, err = xpcall(function() run(tree, scope, rt) end, function(e)
    if getmetatable(e) == V then
      e.line = e.line or rt.line
      return e
    end
    return setmetatable({ message = tostring(e), line = rt.line }, V)
  end)
  if not ok then error(err, 0) end
  return table.concat(rt.out)
end

return eval
