--- eval.lua: runs a template's tree. Expressions return values (see values.lua), statements append to rt.out.
---
--- A scope is a Lua table whose __index is the scope around it: loops, macros and `with` open one, `if` does not, so what a
--- loop sets is gone with the iteration, and only a namespace carries values out, as in Jinja.
local V = require "tl.jinja.values"
local format = require "tl.jinja.format"
local access = require "tl.jinja.access"
local filters = require "tl.jinja.filters"
local tests = require "tl.jinja.tests"
local globals = require "tl.jinja.globals"

local eval = {}
local E = {}  -- expressions by kind: E.kind(node, scope, rt) -> value
local S = {}  -- statements by kind: S.kind(node, scope, rt) -> nil, "break" or "continue"

local function value_of(node, scope, rt)
  V.spend(1)
  return E[node.t](node, scope, rt)
end

-- Macros, recursive loops and blocks inside one another; n is 1 on the way in, -1 on the way out.
local function deeper(rt, n)
  rt.depth = rt.depth + n
  if rt.depth > V.MAX_DEPTH then V.fail("macros or loops call themselves more than %d deep", V.MAX_DEPTH) end
end
local function child(scope) return setmetatable({}, { __index = scope }) end

local function run(nodes, scope, rt)
  for i = 1, #nodes do
    local node = nodes[i]
    rt.line = node.line
    V.spend(1)
    local signal = S[node.t](node, scope, rt)
    if signal then return signal end
  end
end

-- The text that statements write, and their signal.
local function captured(nodes, scope, rt)
  local out = rt.out
  rt.out = {}
  deeper(rt, 1)
  local signal = run(nodes, scope, rt)
  deeper(rt, -1)
  local result = table.concat(rt.out)
  V.spend_text(#result)
  rt.out = out
  return result, signal
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

-- what the operators do with other things than numbers: on[op](a, b, type of a, type of b) -> value, or nil where they do not
local on = {}

local function arithmetic(op, compute)
  return function(node, scope, rt)
    local a, b = value_of(node.left, scope, rt), value_of(node.right, scope, rt)
    local x, x_float = V.number(a)
    local y, y_float = V.number(b)
    if x and y then return compute(x, y, x_float or y_float) end
    if op == "%" and type(a) == "string" then return format.percent(a, b) end
    V.defined(a)
    V.defined(b)
    local v = on[op] and on[op](a, b, V.type(a), V.type(b))
    if v ~= nil then return v end
    V.fail("unsupported operand type(s) for %s: '%s' and '%s'", op, V.python_type(a), V.python_type(b))
  end
end

-- Integers stay below 2^53, where doubles are exact; beyond it Python's digits would be other ones.
local function typed(v, float)
  if float then return V.float(v) end
  if math.abs(v) > 2 ^ 53 then V.fail "an integer beyond 2^53 is not supported" end
  return v == 0 and 0 or v
end

-- Python's floored quotient and remainder, from the exact remainder of C
local function divmod(x, y)
  if y == 0 then V.fail "division by zero" end
  local m = math.fmod(x, y)
  local d = (x - m) / y
  if m ~= 0 and (y < 0) ~= (m < 0) then m, d = m + y, d - 1 end
  local whole = math.floor(d)
  if d - whole > 0.5 then whole = whole + 1 end
  if whole == 0 then whole = x / y < 0 and -0.0 or 0 end
  if m == 0 then m = y < 0 and -0.0 or 0 end
  return whole, m
end

local function power(x, y, float)
  if x == 0 and y < 0 then V.fail "0 cannot be raised to a negative power" end
  local v = x ^ y
  if v ~= v and x == x and y == y then V.fail "a negative number has no such power among the reals" end
  if math.abs(v) == math.huge and math.abs(x) < math.huge then V.fail "the power is too large" end
  return typed(v, float or y < 0)
end

E.add = arithmetic("+", function(x, y, float) return typed(x + y, float) end)
E.sub = arithmetic("-", function(x, y, float) return typed(x - y, float) end)
E.mul = arithmetic("*", function(x, y, float) return typed(x * y, float) end)
E.div = arithmetic("/", function(x, y)
  if y == 0 then V.fail "division by zero" end
  return V.float(x / y)
end)
E.floordiv = arithmetic("//", function(x, y, float) return typed((divmod(x, y)), float) end)
E.mod = arithmetic("%", function(x, y, float) return typed(select(2, divmod(x, y)), float) end)
E.pow = arithmetic("**", power)

local function copied(out, list)
  for i = 1, #list do out[#out + 1] = list[i] end
  return out
end
local function is_tuple(v) return V.python_type(v) == "tuple" end

on["+"] = function(a, b, ta, tb)
  if ta == "string" and tb == "string" then
    V.spend_text(#a + #b)
    return a .. b
  end
  if ta ~= "list" or tb ~= "list" or V.python_type(a) ~= V.python_type(b) or V.python_type(a) == "range" then return nil end
  V.spend_list(#a + #b)
  local out = copied(copied({}, a), b)
  return is_tuple(a) and V.tuple(out) or V.list(out)
end
on["*"] = function(a, b, ta, tb)
  if tb == "string" or tb == "list" then a, b, ta, tb = b, a, tb, ta end
  if tb ~= "int" and tb ~= "boolean" then return nil end
  local n = math.max(0, (V.number(b)))
  if ta == "string" then
    V.spend_text(#a * n)
    return a:rep(n)
  end
  if ta ~= "list" or V.python_type(a) == "range" then return nil end
  V.spend_list(#a * n)
  local out = {}
  for _ = 1, #a > 0 and n or 0 do copied(out, a) end
  return is_tuple(a) and V.tuple(out) or V.list(out)
end
function E.concat(node, scope, rt)
  local a, b = V.string(value_of(node.left, scope, rt)), V.string(value_of(node.right, scope, rt))
  V.spend_text(#a + #b)
  return a .. b
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

function E.attribute(node, scope, rt) return access.attribute(value_of(node.value, scope, rt), node.name) end
function E.item(node, scope, rt)
  local v = value_of(node.value, scope, rt)
  return access.item(v, value_of(node.key, scope, rt))
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
      if V.type(v) ~= "dict" then V.fail("the argument after ** is a mapping, not %s", V.python_type(V.defined(v))) end
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
function S.data(node, scope, rt)
  V.spend(#node.text / 64)
  rt.out[#rt.out + 1] = node.text
end
function S.output(node, scope, rt)
  local s = V.string(value_of(node.value, scope, rt))
  rt.size = rt.size + #s
  if rt.size > V.MAX_TEXT then V.fail("the rendered text is longer than %d bytes", V.MAX_TEXT) end
  rt.out[#rt.out + 1] = s
end

local function assign(target, v, scope)
  if target.t == "name" then
    scope[target.name] = v
  elseif target.t == "field" then
    local n = scope[target.name]
    if n == nil or V.type(n) ~= "namespace" then V.fail("cannot set '%s': '%s' is not a namespace", target.field, target.name) end
    V.set_field(n, target.field, v)
  else
    local items = V.iter(V.defined(v))
    if #items ~= #target.items then V.fail("%d values cannot be set to %d names", #items, #target.items) end
    for i, t in ipairs(target.items) do assign(t, items[i], scope) end
  end
end

function S.set(node, scope, rt) assign(node.target, value_of(node.value, scope, rt), scope) end

-- Calls take(text) with a block's filtered text; a break inside the block leaves it before that.
local function filtered(node, scope, rt, take)
  local v, signal = captured(node.body, child(scope), rt)
  if signal then return signal end
  for _, f in ipairs(node.filters) do v = apply_filter(f, v, scope, rt) end
  take(v)
end
function S.set_block(node, scope, rt) return filtered(node, scope, rt, function(v) assign(node.target, v, scope) end) end
function S.filter_block(node, scope, rt)
  return filtered(node, scope, rt, function(v) rt.out[#rt.out + 1] = V.string(v) end)
end

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

local loop_over

-- A loop's elements come one by one, as far as somebody asks (loop.last and nextitem look one ahead, length and revindex to the
-- end), so that a condition sees what the body has set so far.
local function lookahead(node, iterable, scope, rt)
  local all, at, items = V.iter(iterable), 0, {}
  return items, function(n)
    while #items < n and at < #all do
      at = at + 1
      local keep = true
      if node.condition then
        local inner = child(scope)
        assign(node.target, all[at], inner)
        keep = V.truth(value_of(node.condition, inner, rt))
      end
      if keep then items[#items + 1] = all[at] end
    end
    return items[n]
  end
end

-- loop(...) of a recursive loop: the text of the same loop over something else
local function recursion(node, scope, rt, level)
  return function(args)
    local out = rt.out
    rt.out = {}
    deeper(rt, 1)
    loop_over(node, args[1], scope, rt, level + 1)
    deeper(rt, -1)
    local result = table.concat(rt.out)
    V.spend_text(#result)
    rt.out = out
    return result
  end
end

function loop_over(node, iterable, scope, rt, level)
  local items, pull = lookahead(node, iterable, scope, rt)
  local loop = V.loop { items = items, pull = pull, level = level, recurse = node.recursive and recursion(node, scope, rt, level) }
  local i, finished = 1, false
  while pull(i) ~= nil do
    loop.i = i
    local inner = child(scope)
    inner.loop = loop
    assign(node.target, items[i], inner)
    local signal = run(node.body, inner, rt)
    if signal == "break" then break end
    finished = finished or not signal
    i = i + 1
  end
  -- as in Jinja, `else` is for a loop of which no turn came to its end
  if not finished and node.otherwise then return run(node.otherwise, child(scope), rt) end
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

-- What goes wrong, with the line it went wrong at.
local function located(rt, e)
  if getmetatable(e) ~= V then
    local message = tostring(e):find "stack overflow" and "nested too deeply" or tostring(e)
    e = setmetatable({ message = message }, V)
  end
  e.line = e.line or rt.line
  return e
end

--- Renders a tree with a context; errors carry the line in .line.
function eval.render(tree, context)
  local rt = { out = {}, size = 0, line = 1, depth = 0 }
  local scope = child(setmetatable({}, { __index = function(_, k)
    local v = context[k]
    if v == nil then v = globals[k] end
    return v
  end }))
  local left = V.begin()
  local ok, err = xpcall(function() run(tree, scope, rt) end, function(e) return located(rt, e) end)
  V.resume(left)
  if not ok then error(err, 0) end
  return table.concat(rt.out)
end

return eval
