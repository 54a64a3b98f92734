--- math/numeric.lua: the value of an expression at a point, in complex doubles: the last resort of a comparison, for what the normal form
--- does not decide (trigonometric identities, logarithms, nested roots).
---
--- Two expressions without variables are equal when their values agree to 1e-10, relative (or to 1e-12 where sums or functions may have cancelled
--- to nothing: products have lost no digits, and 1e-19 pi is not 2e-19); with variables they must agree at POINTS
--- points where both are defined, drawn by a fixed sequence, half of them with negative coordinates. Roots and logarithms are the principal
--- ones, except \sqrt[n] of a negative number with n odd, which is real. Degrees count inside trigonometric functions: \sin 30^\circ = 1/2.
--- Where something has branches (floor, ceil, abs, roots), as many points more go up to a thousand, some whole, and all of them count:
--- \lfloor \sqrt{n} \rfloor is no 1, and |x - 5| is no 5 - x.
local number = require "verifiers.math.number"

local numeric = {}

local POINTS, TRIES = 4, 12
local RELATIVE, ABSOLUTE = 1e-10, 1e-12
local abs, floor, huge = math.abs, math.floor, math.huge

-- ---- complex numbers as pairs

local function mul(a, b, c, d) return a * c - b * d, a * d + b * c end

local function div(a, b, c, d)
  local n = c * c + d * d
  if n == 0 then error("undefined", 0) end
  return (a * c + b * d) / n, (b * c - a * d) / n
end

local function log(a, b)
  if a == 0 and b == 0 then error("undefined", 0) end
  return 0.5 * math.log(a * a + b * b), math.atan2(b, a)
end

local function exp(a, b)
  local r = math.exp(a)
  return r * math.cos(b), r * math.sin(b)
end

local function pow(a, b, c, d)
  if a == 0 and b == 0 then
    if d == 0 and c > 0 then return 0, 0 end
    if c == 0 and d == 0 then return 1, 0 end
    error("undefined", 0)
  end
  if b == 0 and d == 0 and (a > 0 or c % 1 == 0) then return a ^ c, 0 end
  if d == 0 and c % 1 == 0 and abs(c) <= 64 then -- exact turning of i
    local r, s = 1, 0
    for _ = 1, abs(c) do r, s = mul(r, s, a, b) end
    if c < 0 then return div(1, 0, r, s) end
    return r, s
  end
  local x, y = log(a, b)
  return exp(mul(x, y, c, d))
end

local function sqrt(a, b) return pow(a, b, 0.5, 0) end

-- ---- functions

-- Lanczos' approximation of the gamma function (g = 7, n = 9)
local LANCZOS = { 0.99999999999980993, 676.5203681218851, -1259.1392167224028, 771.32342877765313, -176.61502916214059, 12.507343278686905,
  -0.13857109526572012, 9.9843695780195716e-6, 1.5056327351493116e-7 }

local function gamma(x)
  if x % 1 == 0 and x <= 0 then error("undefined", 0) end
  if x < 0.5 then return math.pi / (math.sin(math.pi * x) * gamma(1 - x)) end
  x = x - 1
  local a, t = LANCZOS[1], x + 7.5
  for i = 1, 8 do a = a + LANCZOS[i + 1] / (x + i) end
  return math.sqrt(2 * math.pi) * t ^ (x + 0.5) * math.exp(-t) * a
end

local function real(b) if b ~= 0 then error("undefined", 0) end end

local f = {}
function f.sin(a, b) return math.sin(a) * math.cosh(b), math.cos(a) * math.sinh(b) end
function f.cos(a, b) return math.cos(a) * math.cosh(b), -math.sin(a) * math.sinh(b) end
local function quotient(top, below)
  return function(a, b)
    local c, d = 1, 0
    if top then c, d = f[top](a, b) end
    return div(c, d, f[below](a, b))
  end
end
f.tan, f.cot, f.sec, f.csc = quotient("sin", "cos"), quotient("cos", "sin"), quotient(nil, "cos"), quotient(nil, "sin")
function f.sinh(a, b) return math.sinh(a) * math.cos(b), math.cosh(a) * math.sin(b) end
function f.cosh(a, b) return math.cosh(a) * math.cos(b), math.sinh(a) * math.sin(b) end
f.tanh = quotient("sinh", "cosh")
f.exp, f.ln, f.sqrt = exp, log, sqrt
function f.abs(a, b) return math.sqrt(a * a + b * b), 0 end
function f.arg(a, b) return math.atan2(b, a), 0 end
function f.arcsin(a, b) real(b); if abs(a) > 1 then error("undefined", 0) end return math.asin(a), 0 end
function f.arccos(a, b) real(b); if abs(a) > 1 then error("undefined", 0) end return math.acos(a), 0 end
function f.arctan(a, b) real(b) return math.atan(a), 0 end
function f.arccot(a, b) real(b) return math.pi / 2 - math.atan(a), 0 end
function f.floor(a, b) real(b) return floor(a), 0 end
function f.ceil(a, b) real(b) return math.ceil(a), 0 end
function f.factorial(a, b) real(b) return gamma(a + 1), 0 end
f.deg = function(a, b) return a, b end

local peak = 0  -- the largest number that was added to another, or that a function was taken of: what may have cancelled
local function may_cancel(a, b, c, d) peak = math.max(peak, abs(a), abs(b), abs(c or 0), abs(d or 0)) end

local trigonometric = { sin = true, cos = true, tan = true, cot = true, sec = true, csc = true }

-- ---- trees

local of = {}
local function value(t, env)
  number.spend(0.5)
  local g = of[t.op]
  if not g then error("no value of " .. t.op, 0) end
  return g(t, env)
end

function of.num(t) return number.double(t.q), 0 end
function of.var(t, env) return env(t.name), 0 end
function of.word(t, env)
  local x = 1
  for c in t.w:gmatch(".") do x = x * env(c) end
  return x, 0
end
local constants = { pi = { math.pi, 0 }, e = { math.exp(1), 0 }, i = { 0, 1 } }
function of.const(t)
  local c = constants[t.name]
  if not c then error("no value of " .. t.name, 0) end
  return c[1], c[2]
end
of["+"] = function(t, env)
  local a, b = value(t[1], env)
  local c, d = value(t[2], env)
  may_cancel(a, b, c, d)
  return a + c, b + d
end
of["-"] = function(t, env)
  local a, b = value(t[1], env)
  local c, d = value(t[2], env)
  may_cancel(a, b, c, d)
  return a - c, b - d
end
local function binary(op)
  return function(t, env)
    local a, b = value(t[1], env)
    return op(a, b, value(t[2], env))
  end
end
of["*"], of["/"], of["^"] = binary(mul), binary(div), binary(pow)
function of.neg(t, env) local a, b = value(t[1], env) return -a, -b end
function of.deg(t, env) return value(t[1], env) end
function of.percent(t, env) local a, b = value(t[1], env) return a / 100, b / 100 end
function of.ratio(t, env)
  local a, b = value(t.parts[1], env)
  for i = 2, #t.parts do a, b = div(a, b, value(t.parts[i], env)) end
  return a, b
end

local function logarithm(t, env, a, b)
  local c, d = math.log(10), 0
  if t.index then c, d = log(value(t.index, env)) end
  local x, y = log(a, b)
  return div(x, y, c, d)
end

function of.fn(t, env)
  local a, b = value(t.args[1], env)
  if t.name ~= "sqrt" and t.name ~= "abs" then may_cancel(a, b) end
  if t.name == "log" or t.name == "lg" then return logarithm(t, env, a, b) end
  if t.name == "sqrt" and t.index then
    local n = value(t.index, env)
    if b == 0 and a < 0 and n % 2 == 1 then return -((-a) ^ (1 / n)), 0 end
    return pow(a, b, 1 / n, 0)
  end
  if t.name == "binom" then
    local k = value(t.args[2], env)
    return gamma(a + 1) / (gamma(k + 1) * gamma(a - k + 1)), 0
  end
  local g = f[t.name]
  if not g then error("no value of " .. t.name, 0) end
  if trigonometric[t.name] and t.args[1].op == "deg" then a, b = a * math.pi / 180, b * math.pi / 180 end
  return g(a, b)
end

-- ---- points

local BRANCHES = { floor = true, ceil = true, abs = true, sqrt = true }

local function branches(t)
  if t.op == "fn" and BRANCHES[t.name] then return true end
  if t.op == "^" and (t[2].op == "/" or t[2].op == "num" and not number.is_whole(t[2].q)) then return true end
  for i = 1, #t do
    if type(t[i]) == "table" and branches(t[i]) then return true end
  end
  for _, list in pairs { t.args or {}, t.parts or {} } do
    for _, x in ipairs(list) do
      if branches(x) then return true end
    end
  end
  return false
end

-- The environment of point k: a variable's value depends on its name and k alone. Those beyond TRIES are larger and larger, each third one whole.
local function point(k, seen)
  return function(name)
    local x = seen[name]
    if not x then
      local h = 17 + 7919 * k
      for i = 1, #name do h = (h * 31 + name:byte(i)) % 1000003 end
      h = (h * 48271) % 1000003
      x = 0.3 + 2 * h / 1000003
      if k > TRIES then x = x * 1.7 ^ (k - TRIES) end
      if k > TRIES and k % 3 == 0 then x = math.ceil(x) end
      if k % 2 == 0 then x = -x end
      seen[name] = x
    end
    return x
  end
end

--- The value of a tree without variables: real part, imaginary part; nil when it has none.
function numeric.value(t)
  local seen = {}
  local ok, a, b = pcall(value, t, point(1, seen))
  if not ok then
    if a == number.TOO_MUCH then error(a, 0) end
    return nil
  end
  if next(seen) or a ~= a or b ~= b then return nil end
  return a, b
end

local function close(a, b, c, d)
  local size = math.max(abs(a), abs(b), abs(c), abs(d))
  if size == huge or size ~= size then return nil end
  local limit = math.max(RELATIVE * size, ABSOLUTE * math.min(1, peak))
  return abs(a - c) <= limit and abs(b - d) <= limit
end

--- Do two trees have the same value? true or false; nil when too few points are defined.
function numeric.equal(t, u)
  local agreed, wide = 0, branches(t) or branches(u)
  for k = 1, wide and 2 * TRIES or TRIES do
    local seen = {}
    local env = point(k, seen)
    peak = 0
    local ok, a, b = pcall(value, t, env)
    if not ok and a == number.TOO_MUCH then error(a, 0) end
    local ok2, c, d = pcall(value, u, env)
    if not ok2 and c == number.TOO_MUCH then error(c, 0) end
    local constant = next(seen) == nil
    if ok and ok2 then
      local same = close(a, b, c, d)
      if same == false then return false end
      if same then agreed = agreed + 1 end
      if agreed > 0 and (constant or agreed >= POINTS and not wide) then return true end
    end
    if constant then return nil end
  end
  return agreed >= POINTS or nil
end

return numeric
