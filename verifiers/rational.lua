--- rational.lua: exact fractions of whole numbers of any length, for comparing answers without floating point.
--- A natural number is a list of digits in base 10^7, least significant first, no leading zeros (zero is the empty list).
--- A rational is { sign = 1|-1, num = natural, den = natural > 0 }; it is not reduced, comparison multiplies across.
--- Products of two base digits and a carry stay below 2^53, so doubles hold them exactly.
local rational = {}

local BASE, WIDTH = 1e7, 7
local MAX_DIGITS = 2000 -- longer inputs are not numbers to us: multiplication is quadratic

local function natural(digits)
  local n = {}
  for last = #digits, 1, -WIDTH do
    n[#n + 1] = tonumber(digits:sub(math.max(1, last - WIDTH + 1), last))
  end
  while n[#n] == 0 do n[#n] = nil end
  return n
end

local function multiply(a, b)
  local c = {}
  for i = 1, #a + #b do c[i] = 0 end
  for i = 1, #a do
    local carry = 0
    for j = 1, #b do
      local t = c[i + j - 1] + a[i] * b[j] + carry
      carry = math.floor(t / BASE)
      c[i + j - 1] = t - carry * BASE
    end
    c[i + #b] = c[i + #b] + carry
  end
  while c[#c] == 0 do c[#c] = nil end
  return c
end

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

--- The rational that a decimal says: "12", "-0.5", ".5", "5.", "4.5e33". nil when it is anything else.
---@param s string
function rational.decimal(s)
  local sign, body = s:match("^([+-]?)(.*)$")
  local mantissa, exponent = body:match("^([%d.]+)[eE]([+-]?%d+)$")
  mantissa = mantissa or body
  local whole, point, fraction = mantissa:match("^(%d*)(%.?)(%d*)$")
  if not whole or #whole + #fraction == 0 or #mantissa > MAX_DIGITS then return nil end
  if exponent and #exponent > 4 then return nil end
  local shift = (tonumber(exponent) or 0) - #fraction
  if math.abs(shift) > MAX_DIGITS then return nil end
  local num, den = whole .. fraction, "1"
  if shift >= 0 then num = num .. ("0"):rep(shift) else den = den .. ("0"):rep(-shift) end
  return { sign = sign == "-" and -1 or 1, num = natural(num), den = natural(den), decimals = point ~= "" and #fraction or 0 }
end

--- a / b; nil when b is 0.
function rational.divide(a, b)
  if #b.num == 0 then return nil end
  return { sign = a.sign * b.sign, num = multiply(a.num, b.den), den = multiply(a.den, b.num) }
end

--- a * b
function rational.multiply(a, b)
  return { sign = a.sign * b.sign, num = multiply(a.num, b.num), den = multiply(a.den, b.den) }
end

--- a + b
function rational.add(a, b)
  local x, y, den = multiply(a.num, b.den), multiply(b.num, a.den), multiply(a.den, b.den)
  if a.sign == b.sign then return { sign = a.sign, num = add(x, y), den = den } end
  if compare(x, y) >= 0 then return { sign = a.sign, num = subtract(x, y), den = den } end
  return { sign = b.sign, num = subtract(y, x), den = den }
end

--- |a|
function rational.abs(a) return { sign = 1, num = a.num, den = a.den } end

--- -a
function rational.negate(a) return { sign = -a.sign, num = a.num, den = a.den, decimals = a.decimals } end

--- -1, 0 or 1 as |a| is below, equal to or above |b|
function rational.compare_abs(a, b) return compare(multiply(a.num, b.den), multiply(b.num, a.den)) end

--- a == b, exactly
function rational.equal(a, b)
  if rational.compare_abs(a, b) ~= 0 then return false end
  return a.sign == b.sign or #a.num == 0
end

--- |a - b| <= limit
function rational.within(a, b, limit)
  return rational.compare_abs(rational.add(a, rational.negate(b)), limit) <= 0
end

return rational
