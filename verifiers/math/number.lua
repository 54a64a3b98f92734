--- math/number.lua: exact fractions of whole numbers of any length.
---
--- A whole number is a Lua number while its magnitude stays within 2^53 (doubles hold it exactly) and a `big` beyond: { s = 1|-1,
--- digits in base 10^7, least significant first }. A fraction is { n = whole, d = whole > 0 }. Small ones are in lowest terms; of two
--- bigs the common factor may stay (its search is quadratic), so equality multiplies across.
---
--- Products of two base digits and a carry stay below 2^53. Numbers of more than MAX_LIMBS base digits raise number.TOO_LARGE.
---
--- Work is counted, here and in the modules above, in units of about a microsecond: number.begin(units) starts a count, and what would
--- exceed it raises number.TOO_MUCH. So a comparison ends after a bounded time, on any machine after the same steps.
local number = {}
local left = math.huge

local BASE, WIDTH, SMALL = 1e7, 7, 2 ^ 53
local MAX_LIMBS, GCD_LIMBS = 320, 12
local floor, abs = math.floor, math.abs

number.TOO_LARGE, number.TOO_MUCH = "the number is too large", "too much work for one comparison"

--- Allows so many units of work from here.
function number.begin(units) left = units end

--- Counts units of work.
function number.spend(units)
  left = left - units
  if left < 0 then error(number.TOO_MUCH, 0) end
end
local spend = number.spend

-- ---- magnitudes: lists of base digits

local function compare(a, b)
  if #a ~= #b then return #a < #b and -1 or 1 end
  for i = #a, 1, -1 do
    if a[i] ~= b[i] then return a[i] < b[i] and -1 or 1 end
  end
  return 0
end

local function add(a, b)
  local c, carry = {}, 0
  for i = 1, math.max(#a, #b) do
    local t = (a[i] or 0) + (b[i] or 0) + carry
    carry = t >= BASE and 1 or 0
    c[i] = t - carry * BASE
  end
  if carry > 0 then c[#c + 1] = carry end
  return c
end

local function subtract(a, b) -- a >= b
  local c, borrow = {}, 0
  for i = 1, #a do
    local t = a[i] - (b[i] or 0) - borrow
    borrow = t < 0 and 1 or 0
    c[i] = t + borrow * BASE
  end
  while c[#c] == 0 do c[#c] = nil end
  return c
end

local function multiply(a, b)
  if #a + #b > MAX_LIMBS then error(number.TOO_LARGE, 0) end
  spend(#a * #b / 20)
  local c = {}
  for i = 1, #a + #b do c[i] = 0 end
  for i = 1, #a do
    local carry, x = 0, a[i]
    for j = 1, #b do
      local t = c[i + j - 1] + x * b[j] + carry
      carry = floor(t / BASE)
      c[i + j - 1] = t - carry * BASE
    end
    c[i + #b] = c[i + #b] + carry
  end
  while c[#c] == 0 do c[#c] = nil end
  return c
end

local function scale(a, k) -- k < BASE
  local c, carry = {}, 0
  for i = 1, #a do
    local t = a[i] * k + carry
    carry = floor(t / BASE)
    c[i] = t - carry * BASE
  end
  if carry > 0 then c[#c + 1] = carry end
  return c
end

-- remainder of a / b: schoolbook division, one quotient digit at a time
local function remainder(a, b)
  spend(#a * #b / 5)
  local r = {}
  for i = #a, 1, -1 do
    table.insert(r, 1, a[i])
    while r[#r] == 0 do r[#r] = nil end
    if compare(r, b) >= 0 then
      local n = #b
      local top = (r[n + 1] or 0) * BASE + (r[n] or 0) + (r[n - 1] or 0) / BASE
      local q = math.min(BASE - 1, floor(top / (b[n] + (b[n - 1] or 0) / BASE)))
      local t = scale(b, q)
      while compare(t, r) > 0 do t = subtract(t, b) end
      r = subtract(r, t)
      while compare(r, b) >= 0 do r = subtract(r, b) end
    end
  end
  return r
end

-- ---- whole numbers

local function big_of(x)
  if type(x) == "table" then return x end
  local b = { s = x < 0 and -1 or 1 }
  x = abs(x)
  while x > 0 do
    b[#b + 1] = x % BASE
    x = floor(x / BASE)
  end
  return b
end

local function small(b, s)
  if #b <= 2 or #b == 3 and b[3] < 80 then
    local x = 0
    for i = #b, 1, -1 do x = x * BASE + b[i] end
    return s * x
  end
  b.s = s
  return b
end

local function wmul(a, b)
  if type(a) == "number" and type(b) == "number" then
    local c = a * b
    if abs(c) < SMALL then return c end
  end
  a, b = big_of(a), big_of(b)
  return small(multiply(a, b), a.s * b.s)
end

local function wadd(a, b)
  if type(a) == "number" and type(b) == "number" then
    local c = a + b
    if abs(c) < SMALL then return c end
  end
  a, b = big_of(a), big_of(b)
  if a.s == b.s then return small(add(a, b), a.s) end
  local c = compare(a, b)
  if c == 0 then return 0 end
  if c > 0 then return small(subtract(a, b), a.s) end
  return small(subtract(b, a), b.s)
end

local function wneg(a)
  if type(a) == "number" then return -a end
  local c = { s = -a.s }
  for i = 1, #a do c[i] = a[i] end
  return c
end

local function wsign(a)
  if type(a) == "number" then return a < 0 and -1 or a > 0 and 1 or 0 end
  return a.s
end

local function gcd(a, b)
  while b ~= 0 do a, b = b, a % b end
  return a
end

local function digits_of(text)
  local b = { s = 1 }
  if #text > MAX_LIMBS * WIDTH then error(number.TOO_LARGE, 0) end
  for last = #text, 1, -WIDTH do b[#b + 1] = tonumber(text:sub(math.max(1, last - WIDTH + 1), last)) end
  while b[#b] == 0 do b[#b] = nil end
  return b
end

local function whole(text)
  if #text <= 15 then return tonumber(text) or 0 end
  return small(digits_of(text), 1)
end

-- A division of bigs by their greatest common divisor is only worth it while they are short.
local function reduce_big(n, d)
  local a, b = big_of(n), big_of(d)
  if #a > GCD_LIMBS or #b > GCD_LIMBS then return n, d end
  while #b > 0 do
    if type(small(a, 1)) == "number" and type(small(b, 1)) == "number" then break end
    a, b = b, remainder(a, b)
  end
  local g
  if #b == 0 then g = small(a, 1) else g = gcd(small(a, 1), small(b, 1)) end
  if g == 1 then return n, d end
  return number.quotient(n, g), number.quotient(d, g)
end

--- The whole number a / g where g divides a.
function number.quotient(a, g)
  if type(a) == "number" and type(g) == "number" then return a / g end
  local s, b = wsign(a) * wsign(g), big_of(g)
  local r, q = {}, {}
  a = big_of(a)
  spend(#a * #b * 2)
  for i = #a, 1, -1 do
    table.insert(r, 1, a[i])
    while r[#r] == 0 do r[#r] = nil end
    local lo, hi = 0, BASE - 1 -- the quotient digit by bisection: 24 comparisons, no estimate to correct
    while lo < hi do
      local mid = floor((lo + hi + 1) / 2)
      if compare(scale(b, mid), r) <= 0 then lo = mid else hi = mid - 1 end
    end
    if lo > 0 then r = subtract(r, scale(b, lo)) end
    q[i] = lo
  end
  while q[#q] == 0 do q[#q] = nil end
  return small(q, s)
end

-- ---- fractions

--- n / d, in lowest terms while both are small. d is not 0.
function number.new(n, d)
  d = d or 1
  if wsign(d) < 0 then n, d = wneg(n), wneg(d) end
  if type(n) == "number" and type(d) == "number" then
    if d ~= 1 then
      local g = gcd(abs(n), d)
      if g > 1 then n, d = n / g, d / g end
    end
    return { n = n, d = d }
  end
  n, d = reduce_big(n, d)
  return { n = n, d = d }
end

number.ZERO, number.ONE = { n = 0, d = 1 }, { n = 1, d = 1 }

--- The fraction that a decimal says: "12", "-0.5", ".5", "5.", "4.5e33"; its field `decimals` is the number of places shown.
--- nil when it is anything else.
---@param s string
function number.decimal(s)
  local sign, body = s:match("^([+-]?)(.*)$")
  local mantissa, exponent = body:match("^([%d.]+)[eE]([+-]?%d+)$")
  mantissa = mantissa or body
  local whole_part, point, fraction = mantissa:match("^(%d*)(%.?)(%d*)$")
  if not whole_part or #whole_part + #fraction == 0 or #mantissa > 2000 then return nil end
  if exponent and #exponent > 4 then return nil end
  local shift = (tonumber(exponent) or 0) - #fraction
  if abs(shift) > 2000 then return nil end
  local n = whole(whole_part .. fraction .. (shift > 0 and ("0"):rep(shift) or ""))
  local d = shift < 0 and whole("1" .. ("0"):rep(-shift)) or 1
  local q = number.new(sign == "-" and wneg(n) or n, d)
  q.decimals = (point ~= "" or exponent) and #fraction or 0
  return q
end

function number.add(a, b)
  if a.d == 1 and b.d == 1 then return { n = wadd(a.n, b.n), d = 1 } end
  return number.new(wadd(wmul(a.n, b.d), wmul(b.n, a.d)), wmul(a.d, b.d))
end

function number.negate(a) return { n = wneg(a.n), d = a.d, decimals = a.decimals } end
function number.sub(a, b) return number.add(a, number.negate(b)) end

function number.mul(a, b)
  if a.d == 1 and b.d == 1 then return { n = wmul(a.n, b.n), d = 1 } end
  return number.new(wmul(a.n, b.n), wmul(a.d, b.d))
end

--- a / b; nil when b is 0.
function number.div(a, b)
  if wsign(b.n) == 0 then return nil end
  return number.new(wmul(a.n, b.d), wmul(a.d, b.n))
end

--- a to a whole power; nil for 0 to a negative one.
function number.pow(a, k)
  if k < 0 then
    a = number.div(number.ONE, a)
    if not a then return nil end
    k = -k
  end
  if k > 1e5 then error(number.TOO_LARGE, 0) end
  local r = number.ONE
  while k > 0 do
    if k % 2 == 1 then r = number.mul(r, a) end
    k = floor(k / 2)
    if k > 0 then a = number.mul(a, a) end
  end
  return r
end

--- -1, 0 or 1.
function number.sign(a) return wsign(a.n) end
function number.abs(a) return wsign(a.n) < 0 and number.negate(a) or a end
function number.is_zero(a) return wsign(a.n) == 0 end
function number.is_whole(a) return a.d == 1 end

--- -1, 0 or 1 as a is below, equal to or above b.
function number.compare(a, b)
  if a.d == 1 and b.d == 1 and type(a.n) == "number" and type(b.n) == "number" then return a.n < b.n and -1 or a.n > b.n and 1 or 0 end
  return wsign(wadd(wmul(a.n, b.d), wneg(wmul(b.n, a.d))))
end

function number.equal(a, b) return number.compare(a, b) == 0 end

--- |a - b| <= limit
function number.within(a, b, limit) return number.compare(number.abs(number.sub(a, b)), limit) <= 0 end

local function double(w)
  if type(w) == "number" then return w end
  local x = 0
  for i = #w, math.max(1, #w - 3), -1 do x = x * BASE + w[i] end
  return w.s * x * BASE ^ math.max(0, #w - 4)
end

--- The nearest double, more or less (relative error below 1e-15); infinite beyond the range.
function number.double(a)
  local n, d = double(a.n), double(a.d)
  if n - n == 0 and d - d == 0 then return n / d end
  local bn, bd = big_of(a.n), big_of(a.d) -- one of them is out of range: compare their leading digits
  local function lead(b)
    local x = 0
    for i = #b, math.max(1, #b - 3), -1 do x = x * BASE + b[i] end
    return x, math.max(0, #b - 4)
  end
  local x, ex = lead(bn)
  local y, ey = lead(bd)
  return bn.s * x / y * BASE ^ (ex - ey)
end

--- A text that is the same for equal fractions (in lowest terms).
function number.key(a)
  local function text(w)
    if type(w) == "number" then return ("%.0f"):format(w) end
    local parts = { (w.s < 0 and "-" or "") .. ("%d"):format(w[#w]) }
    for i = #w - 1, 1, -1 do parts[#parts + 1] = ("%07d"):format(w[i]) end
    return table.concat(parts)
  end
  return a.d == 1 and text(a.n) or text(a.n) .. "/" .. text(a.d)
end

return number
