--- math/form.lua: the symbolic normal form of an expression: a quotient of two polynomials with exact coefficients.
---
--- A polynomial is { [key] = { c = fraction, m = monomial } }; a monomial is { [atom] = exponent in units of 1/5040 } (so that halves,
--- thirds, ... tenths are whole). Atoms are
---   "x"         variables              "pi!" "e!" "i!"   constants; i^2 = -1 is applied
---   "#7"        the root of a prime: sqrt(12) = 2 * #3^(1/2); its exponent lies in [0, 1), whole powers go into the coefficient
---   "sin(...)"  anything else, named by the form of its argument: opaque
--- A form is { n =, d =, exact = }. exact: no opaque atom, so two forms are equal if and only if n1 d2 - n2 d1 is zero (pi and e taken as
--- algebraically independent; roots of distinct primes are linearly independent over the fractions). With opaque atoms equality of
--- forms proves equality, and inequality proves nothing: math/numeric.lua decides.
local number = require "verifiers.math.number"

local form = {}

local UNIT, HALF = 5040, 2520
local MAX_TERMS, MAX_POWER = 150, 40
local floor = math.floor

-- ---- monomials and polynomials

local function key_of(m)
  local names = {}
  for a in pairs(m) do names[#names + 1] = a end
  if #names == 0 then return "" end
  if #names > 1 then table.sort(names) end
  for i, a in ipairs(names) do names[i] = a .. "^" .. m[a] end
  return table.concat(names, "*")
end

local function constant(q)
  if number.is_zero(q) then return {} end
  return { [""] = { c = q, m = {} } }
end

local ONE = constant(number.ONE)

local function add_term(p, c, m, key)
  key = key or key_of(m)
  local old = p[key]
  if not old then
    p[key] = { c = c, m = m }
    return
  end
  local sum = number.add(old.c, c)
  p[key] = not number.is_zero(sum) and { c = sum, m = m } or nil
end

local function count(p)
  local n = 0
  for _ in pairs(p) do n = n + 1 end
  return n
end

local function padd(a, b, sign)
  local p = {}
  for k, t in pairs(a) do p[k] = t end
  for k, t in pairs(b) do add_term(p, sign and number.negate(t.c) or t.c, t.m, k) end
  return p
end

-- a product of monomials: the exponents add; i and roots of primes are brought into their ranges
local function mono_mul(a, b)
  local m, c = {}, nil
  for k, e in pairs(a) do m[k] = e end
  for k, e in pairs(b) do
    local sum = (m[k] or 0) + e
    m[k] = sum ~= 0 and sum or nil
  end
  for k, e in pairs(m) do
    if k == "i!" and e % UNIT == 0 then
      local turn = (e / UNIT) % 4
      m[k] = turn % 2 == 1 and UNIT or nil
      if turn >= 2 then c = number.negate(c or number.ONE) end
    elseif k:byte() == 35 and (e >= UNIT or e < 0) then
      local whole = floor(e / UNIT)
      c = number.mul(c or number.ONE, number.pow(number.new(tonumber(k:sub(2))), whole))
      m[k] = e - whole * UNIT
      if m[k] == 0 then m[k] = nil end
    end
  end
  return m, c
end

local function pmul(a, b)
  if a == ONE then return b elseif b == ONE then return a end
  local p = {}
  for _, s in pairs(a) do
    for _, t in pairs(b) do
      number.spend(4)
      local m, c = mono_mul(s.m, t.m)
      local k = number.mul(s.c, t.c)
      add_term(p, c and number.mul(k, c) or k, m)
    end
  end
  if count(p) > MAX_TERMS then error(number.TOO_MUCH, 0) end
  return p
end

local function single(p)
  local k, t = next(p)
  if k and next(p, k) == nil then return t end
end

local function as_fraction(p)
  if next(p) == nil then return number.ZERO end
  local t = single(p)
  return t and next(t.m) == nil and t.c or nil
end

-- ---- forms

local function make(n, d, exact) return { n = n, d = d, exact = exact } end
local function of_fraction(q) return make(constant(q), ONE, true) end
local function atom(name, exact, exponent) return make({ [name .. "^" .. (exponent or UNIT)] = { c = number.ONE, m = { [name] = exponent or UNIT } } }, ONE, exact) end

--- The fraction that a form is, or nil.
function form.fraction(f)
  local n, d = as_fraction(f.n), as_fraction(f.d)
  return n and d and number.div(n, d) or nil
end

local function same_poly(a, b)
  if a == b then return true end
  for k, t in pairs(a) do
    if not b[k] or not number.equal(t.c, b[k].c) then return false end
  end
  for k in pairs(b) do
    if not a[k] then return false end
  end
  return true
end

local function fadd(a, b, sign)
  local exact = a.exact and b.exact
  if same_poly(a.d, b.d) then return make(padd(a.n, b.n, sign), a.d, exact) end
  return make(padd(pmul(a.n, b.d), pmul(b.n, a.d), sign), pmul(a.d, b.d), exact)
end

local function fmul(a, b) return make(pmul(a.n, b.n), pmul(a.d, b.d), a.exact and b.exact) end

local function fdiv(a, b)
  if next(b.n) == nil then error("division by zero", 0) end
  local t = single(b.n)
  if t and next(t.m) == nil then -- by a number
    return make(pmul(a.n, pmul(constant(number.div(number.ONE, t.c)), b.d)), a.d, a.exact and b.exact)
  end
  return make(pmul(a.n, b.d), pmul(a.d, b.n), a.exact and b.exact)
end

local function fneg(a) return make(pmul(constant(number.new(-1)), a.n), a.d, a.exact) end

local function poly_key(p, scale)
  local keys = {}
  for k in pairs(p) do keys[#keys + 1] = k end
  table.sort(keys)
  for i, k in ipairs(keys) do keys[i] = number.key(number.mul(p[k].c, scale)) .. "~" .. k end
  return table.concat(keys, "+")
end

--- A text that names the form; equal forms may have different keys when their quotient is not reduced.
function form.key(f)
  local first
  for k in pairs(f.d) do
    if not first or k < first then first = k end
  end
  local scale = number.div(number.ONE, f.d[first].c)
  return poly_key(f.n, scale) .. (f.d == ONE and "" or same_poly(f.d, ONE) and "" or "/" .. poly_key(f.d, scale))
end

--- Is a - b zero?
function form.equal(a, b)
  if same_poly(a.d, b.d) then return same_poly(a.n, b.n) end
  return next(padd(pmul(a.n, b.d), pmul(b.n, a.d), true)) == nil
end

--- The fraction k with a = k b, or nil when there is none (or b is zero).
function form.ratio(a, b)
  local p, q = pmul(a.n, b.d), pmul(b.n, a.d)
  local key, t = next(q)
  if not key or not p[key] then return nil end
  local k = number.div(p[key].c, t.c)
  return next(padd(p, pmul(constant(k), q), true)) == nil and k or nil
end

-- ---- powers

-- n = outside^k * inside with inside free of k-th powers, by trial division: as a monomial of roots of primes with exponent p/q
local function root_monomial(n, p, q)
  local m, c, exact = {}, number.ONE, true
  local function put(prime, times)
    local e = times * p * UNIT / q
    local whole = floor(e / UNIT)
    if whole ~= 0 then c = number.mul(c, number.pow(number.new(prime), whole)) end
    if e - whole * UNIT > 0 then m["#" .. ("%.0f"):format(prime)] = e - whole * UNIT end
  end
  local d = 2
  while d * d <= n and d < 2000 do
    local times = 0
    while n % d == 0 do n, times = n / d, times + 1 end
    if times > 0 then put(d, times) end
    d = d + (d == 2 and 1 or 2)
  end
  number.spend(d / 8)
  if n > 1 then
    local r = floor(n ^ (1 / q) + 0.5)
    if n >= 4e6 and r ^ q == n then put(r, q) else put(n, 1) end -- below 4e6 = 2000^2 what is left is prime
    exact = n < 4e6
  end
  return m, c, exact
end

-- a single term c * m to the power p/q (q > 1); nil when it is not one that may be taken apart
local function term_root(t, p, q)
  if UNIT % q ~= 0 or type(t.c.n) ~= "number" or type(t.c.d) ~= "number" then return nil end
  local sign, m, negative = 1, {}, t.c.n < 0
  if negative and q % 2 == 0 then
    if q ~= 2 then return nil end
    m["i!"] = UNIT * p
  elseif negative and p % 2 == 1 then
    sign = -1
  end
  for a, e in pairs(t.m) do
    local positive = a == "pi!" or a == "e!" or a:byte() == 35
    if a == "i!" or not positive and (e ~= UNIT or negative) then return nil end
    local power = e * p / q
    if power % 1 ~= 0 then return nil end
    m[a] = power
  end
  local top, c, exact = root_monomial(math.abs(t.c.n), p, q)
  local below, d, exact_below = root_monomial(t.c.d, p, q)
  for a, e in pairs(below) do below[a] = -e end
  local out, k = mono_mul(m, {})
  local value = number.mul(number.new(sign), number.div(c, d))
  if k then value = number.mul(value, k) end
  for _, part in ipairs { top, below } do
    out, k = mono_mul(out, part)
    if k then value = number.mul(value, k) end
  end
  return { [key_of(out)] = { c = value, m = out } }, exact and exact_below
end

local function whole_power(f, k)
  if k == 0 then return of_fraction(number.ONE) end
  if k < 0 then
    if next(f.n) == nil then error("division by zero", 0) end
    return whole_power(make(f.d, f.n, f.exact), -k)
  end
  local q = form.fraction(f)
  if q then return of_fraction(number.pow(q, k)) end
  if k > MAX_POWER and not (single(f.n) and single(f.d)) then error(number.TOO_MUCH, 0) end
  local r = of_fraction(number.ONE)
  while k > 0 do
    if k % 2 == 1 then r = fmul(r, f) end
    k = floor(k / 2)
    if k > 0 then f = fmul(f, f) end
  end
  return r
end

local function power(f, e)
  local q = form.fraction(e)
  if not q then
    local t = single(f.n)
    if t and next(t.m) and f.d == ONE and number.equal(t.c, number.ONE) and t.m["e!"] == UNIT and next(t.m, next(t.m)) == nil then
      return atom("exp(" .. form.key(e) .. ")", false)
    end
    return atom("(" .. form.key(f) .. ")^(" .. form.key(e) .. ")", false)
  end
  if type(q.n) ~= "number" or type(q.d) ~= "number" then error(number.TOO_LARGE, 0) end
  if q.d == 1 then return whole_power(f, q.n) end
  local p, root = q.n, q.d
  if next(f.n) == nil then return of_fraction(number.ZERO) end
  if p < 0 then return fdiv(of_fraction(number.ONE), power(f, of_fraction(number.negate(q)))) end
  local n, d = single(f.n), single(f.d)
  if n and d then
    local top, exact = term_root(n, p, root)
    local below, exact_below = term_root(d, p, root)
    if top and below and not (number.sign(d.c) < 0) then return make(top, below, f.exact and exact and exact_below) end
  end
  local whole = floor(p / root)
  if UNIT % root ~= 0 then return atom("(" .. form.key(f) .. ")^" .. p .. "/" .. root, false) end
  local rest = atom("(" .. form.key(f) .. ")", false, (p - whole * root) * UNIT / root)
  return whole == 0 and rest or fmul(whole_power(f, whole), rest)
end

-- ---- trees to forms

local of = {}
local function make_form(t)
  number.spend(2)
  local f = of[t.op]
  if not f then error("no form of " .. t.op, 0) end
  return f(t)
end

function of.num(t) return of_fraction(t.q) end
function of.var(t) return atom(t.name, true) end
function of.word(t)
  local f = of_fraction(number.ONE)
  for c in t.w:gmatch(".") do f = fmul(f, atom(c, true)) end
  return f
end
function of.const(t)
  if t.name == "empty" or t.name == "reals" or t.name == "integers" then error("a set", 0) end
  return atom(t.name .. "!", true)
end
function of.based(t) return atom(t.digits .. "_" .. t.base, true) end
of["+"] = function(t) return fadd(make_form(t[1]), make_form(t[2])) end
of["-"] = function(t) return fadd(make_form(t[1]), make_form(t[2]), true) end
of["*"] = function(t) return fmul(make_form(t[1]), make_form(t[2])) end
of["/"] = function(t) return fdiv(make_form(t[1]), make_form(t[2])) end
of["^"] = function(t) return power(make_form(t[1]), make_form(t[2])) end
function of.neg(t) return fneg(make_form(t[1])) end
function of.deg(t) return make_form(t[1]) end
function of.percent(t) return fmul(make_form(t[1]), of_fraction(number.new(1, 100))) end
function of.ratio(t)
  local f = make_form(t.parts[1])
  for i = 2, #t.parts do f = fdiv(f, make_form(t.parts[i])) end
  return f
end
function of.rel(t) -- inside sums and limits
  local keys = {}
  for i, p in ipairs(t.parts) do keys[#keys + 1] = (t.rels[i - 1] or "") .. form.key(make_form(p)) end
  return atom("[" .. table.concat(keys) .. "]", false)
end
function of.big(t)
  local keys = {}
  for _, field in ipairs { "lower", "upper", "body" } do keys[#keys + 1] = t[field] and form.key(make_form(t[field])) or "" end
  return atom(t.name .. "(" .. table.concat(keys, ";") .. ")", false)
end

local function whole_argument(f, most)
  local q = form.fraction(f)
  return q and q.d == 1 and type(q.n) == "number" and q.n >= 0 and q.n <= most and q.n or nil
end

local special = {}
function special.sqrt(x, t)
  local index = t.index and form.fraction(make_form(t.index)) or number.new(2)
  if not number.is_whole(index) then error("the root's degree is not whole", 0) end
  return power(x, of_fraction(number.div(number.ONE, index)))
end
function special.abs(x)
  local q = form.fraction(x)
  return q and of_fraction(number.abs(q))
end
function special.factorial(x)
  local n = whole_argument(x, 170)
  if not n then return nil end
  local r = number.ONE
  for k = 2, n do r = number.mul(r, number.new(k)) end
  return of_fraction(r)
end
function special.binom(x, t)
  local n, k = whole_argument(x, 500), whole_argument(make_form(t.args[2]), 500)
  if not n or not k then return nil end
  local r = k > n and number.ZERO or number.ONE
  for j = 1, math.min(k, n - k) do r = number.mul(r, number.new(n - j + 1, j)) end
  return of_fraction(r)
end
function special.exp(x) return power(atom("e!", true), x) end

function of.fn(t)
  local x = make_form(t.args[1])
  local f = special[t.name] and special[t.name](x, t)
  if f then return f end
  local keys = { form.key(x) }
  for i = 2, #t.args do keys[i] = form.key(make_form(t.args[i])) end
  local scaled = t.args[1].op == "deg" and "deg " or ""
  local name = t.name == "lg" and "log" or t.name
  return atom(name .. (t.index and "_" .. form.key(make_form(t.index)) or "") .. "(" .. scaled .. table.concat(keys, ",") .. ")", false)
end

--- The form of a tree; nil when it has none (sets, texts, matrices, a division by zero, too large).
---@param t table
function form.of(t)
  local ok, f = pcall(make_form, t)
  if ok then return f end
  if f == number.TOO_MUCH then error(f, 0) end
  return nil, f
end

form.subtract = function(a, b) return fadd(a, b, true) end

return form
