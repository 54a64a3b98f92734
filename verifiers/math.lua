--- math.lua: 1 when a completion's final answer equals the problem's, else 0. `problem.answer` is the gold.
---
--- Where the answer is looked for (config.extract):
---   "strict"    the last `#### x` line or the last \boxed{x}, whichever stands later in the text (default)
---   "hash"      the last `#### x` line only                       "boxed"  the last \boxed{x} only
---   "flexible"  the last match of lm-evaluation-harness' flexible-extract: (-?[$0-9.,]{2,})|(-?[0-9]+); unlike there, matches
---               without a digit are passed over
--- An answer that is cut off (\boxed{12 at the end) is no answer. Only one answer counts, so naming several gains nothing;
--- with config.several = "reject" a completion that gives different ones gets 0.
---
--- When two answers are equal
---   Numbers are compared as exact fractions of whole numbers of any length: 0.5 = 1/2 = \frac{1}{2} = .50 = 5e-1, 1,234 = 1234,
---   1\frac12 = 1.5, 4.5 \times 10^{3} = 4500. A currency sign, a percent sign and degrees are dropped (50% is 50, not 0.5).
---   A unit after the number is dropped and not converted ("12 apples", "5 \text{ cm}", "15 (balls)", "10 cm^2"); a variable is not
---   a unit (3x, 3 \pi are not 3); words that change the value or list alternatives (or, and, hundred, million, ...) make it no number.
---   A gold with six decimals or more is taken as rounded: equal within one unit of its last place. config.tolerance = 1e-4 accepts
---   that relative error instead of exact equality.
---   `x = 5` is 5, `3 + 4 = 7` is 7. Lists and tuples are compared part by part. Anything else must be the same text after removing
---   LaTeX's spacing, \text and the brackets around a single thing, (A); words of two letters or more may differ in case.
---
--- The gold may be a number, a plain answer, GSM8K's solution (after ####) or a solution with \boxed{}.
local rational = require "verifiers.rational"

local M = {}
local MAX_EXTRA = 1000 -- bytes by which an answer may be longer than the gold; beyond, it is not equal

local function trim(s)
  s = s:match("^%s*()") > #s and "" or s:sub((s:match("^%s*()")))
  local last = #s
  while last > 0 and s:find("^%s", last) do last = last - 1 end
  return s:sub(1, last)
end

-- ---- extraction

-- The text between the brace at `open` and its partner, and the partner's place; nil when it never closes.
local function braced(text, open)
  local depth, at = 0, open
  while true do
    at = text:find("[{}\\]", at)
    if not at then return nil end
    local c = text:sub(at, at)
    if c == "\\" then
      at = at + 1 -- \{ and \} are not braces
    else
      depth = depth + (c == "{" and 1 or -1)
      if depth == 0 then return text:sub(open + 1, at - 1), at end
    end
    at = at + 1
  end
end

-- Where every brace of the text closes: { [place of {] = place of } }. One pass, whatever the text.
local function closing_braces(text)
  local closes, open, n, at = {}, {}, 0, 1
  while true do
    at = text:find("[{}\\]", at)
    if not at then return closes end
    local c = text:sub(at, at)
    if c == "{" then
      n = n + 1
      open[n] = at
    elseif c == "}" and n > 0 then
      closes[open[n]], n = at, n - 1
    end
    at = at + (c == "\\" and 2 or 1)
  end
end

local function find_boxed(text, out)
  local closes, at = nil, 1
  while true do
    local first, last = text:find("\\f?boxe?d?%s*", at)
    if not first then return out end
    at = last + 1
    if not text:find("^\\box%A", first) then
      closes = closes or closing_braces(text)
      local close, content = closes[last + 1], nil
      if close then
        content, at = text:sub(last + 2, close - 1), close + 1
      elseif text:sub(last + 1, last + 1) ~= "{" then
        content = text:match("^[%w.,%-]+", last + 1) -- \boxed 7
      end
      if content then out[#out + 1] = { at = first, text = content, kind = "boxed" } end
    end
  end
end

local function find_hash(text, out)
  local at = text:find("####", 1, true)
  while at do
    local following = text:find("####", at + 4, true)
    local line = text:sub(at + 4, following and following - 1):match("^[ \t]*([^\r\n]*)")
    out[#out + 1] = { at = at, text = line, kind = "hash" }
    at = following
  end
  return out
end

local function find_flexible(text, out)
  local at = 1
  while true do
    local first = text:find("[%-$0-9.,]", at)
    if not first then return out end
    local match = text:match("^%-?[$0-9.,][$0-9.,]+", first) or text:match("^%-?[0-9]+", first)
    if match and match:find("%d") then out[#out + 1] = { at = first, text = match:gsub("[,$]", ""), kind = "flexible" } end
    at = first + (match and #match or 1)
  end
end

local finders = {
  hash = function(text) return find_hash(text, {}) end,
  boxed = function(text) return find_boxed(text, {}) end,
  flexible = function(text) return find_flexible(text, {}) end,
  strict = function(text)
    local all = find_boxed(text, find_hash(text, {}))
    table.sort(all, function(a, b) return a.at < b.at end)
    return all
  end,
}

--- The answers that stand in a text, in their order: a list of { text =, kind = "hash"|"boxed"|"flexible", at = }.
---@param text string
---@param extract string|nil "strict" (default), "hash", "boxed", "flexible"
function M.answers(text, extract) return finders[extract or "strict"](text) end

-- ---- normal form

local replacements = {
  { "\226\136\146", "-" },                   -- U+2212
  { "\194\160", " " },                       -- no-break space
  { "\\left%f[^%a]", "" }, { "\\right%f[^%a]", "" },
  { "\\[dt]frac", "\\frac" }, { "{,}", "," }, { "\\[!,]", "" }, { "\\[;: ]", " " }, { "~", " " },
  { "\\%$", "$" }, { "\\%%", "%%" },
  { "\\[%(%)%[%]]", "" },                    -- math delimiters
  { "\\displaystyle", "" },
}

local function normal(s)
  for _, r in ipairs(replacements) do s = s:gsub(r[1], r[2]) end
  local before
  repeat
    before = s
    s = trim(s)
    s = s:match("^%$([^$]*)%$$") or s:match("^%$%$([^$]*)%$%$$") or s:match("^%*+([^*]*)%*+$") or s:match("^`+([^`]*)`+$") or s
    s = s:match("^(.-)[.,;:]?$"):gsub("^:%s*", "")
    s = s:match("^\\text%a*%s*{([^{}]*)}$") or s:match("^\\math%a%a%s*{([^{}]*)}$") or s:match("^\\boxed%s*{([^{}]*)}$") or s
    s = s:match("^%(([^%(%)%[%],]*)%)$") or s -- (113), (A)
  until s == before
  return s
end

-- ---- numbers

local unit_breakers = {}
for word in ([[or and to plus minus times over of pi sqrt sin cos tan log ln mod not half hundred hundreds thousand thousands million
  millions billion billions trillion if then else infinity]]):gmatch("%a+") do unit_breakers[word] = true end
local attached_units = {}
for word in ([[mm cm km ft yd mi kg mg lb lbs oz ml mL gal hr hrs h min mins sec secs ms am pm mph kmh]]):gmatch("%a+") do attached_units[word] = true end

-- Is the text after a number a unit: words, perhaps in \text{} or parentheses, perhaps squared or cubed?
local function is_unit(rest)
  if rest == "" then return true end
  rest = rest:gsub("^%s*%%", ""):gsub("^%s*%^{?\\circ}?", ""):gsub("^%s*\194\176", ""):gsub("^%s*\\degree", "")
  if trim(rest) == "" then return true end
  local attached = rest:match("^%a+")
  if attached and not attached_units[attached] then return false end
  local spaced = rest:gsub("\\text%a*%s*{([^{}]*)}", " %1 "):gsub("\\mathrm%s*{([^{}]*)}", " %1 "):gsub("\\mbox%s*{([^{}]*)}", " %1 ")
  local in_text = spaced ~= rest
  spaced = spaced:gsub("%^{?%-?[23]}?", "")
  if not spaced:find("^[%a%s()/.,'%-]*$") then return false end
  for word in spaced:gmatch("%a+") do
    if unit_breakers[word:lower()] or (#word < 2 and not in_text and not attached) then return false end
  end
  return true
end

-- A plain decimal at the start of s: its rational and what follows it.
local function leading_decimal(s)
  local sign, rest = "", s
  for _ = 1, 2 do -- "-$5" and "$-5"
    local mark, after = rest:match("^([+-])%s*(.*)$")
    if mark and sign == "" then sign, rest = mark, after end
    rest = rest:gsub("^%$%s*", ""):gsub("^\226\130\172%s*", ""):gsub("^\194\163%s*", "")
  end
  local digits, after
  local grouped, tail = rest:match("^(%d%d?%d?,%d%d%d[%d,]*)(.*)$")
  if grouped then
    for group in (grouped .. ","):sub(grouped:find(",") + 1):gmatch("([^,]*),") do
      if #group ~= 3 then return nil end -- "1,3,5" is a list
    end
    local fraction = tail:match("^%.%d+") or ""
    digits, after = grouped:gsub(",", "") .. fraction, tail:sub(#fraction + 1)
  else
    digits = rest:match("^%d+%.?%d*") or rest:match("^%.%d+")
    if not digits then return nil end
    after = rest:sub(#digits + 1)
  end
  local exponent = after:match("^[eE][+-]?%d+") or ""
  after = after:sub(#exponent + 1)
  local value = rational.decimal(sign .. digits .. exponent)
  local power = after:match("^%s*\\times%s*10%s*%^%s*{?([+-]?%d+)}?") or after:match("^%s*\\cdot%s*10%s*%^%s*{?([+-]?%d+)}?")
  if value and power then
    after = after:gsub("^%s*\\%a+%s*10%s*%^%s*{?[+-]?%d+}?", "")
    local scale = rational.decimal("1e" .. power)
    value = scale and rational.multiply(value, scale)
  end
  return value, after, sign
end

local number

-- \frac{a}{b} and \frac12 at the start of s
local function leading_frac(s)
  local sign, rest = s:match("^([+-]?)%s*(\\frac.*)$")
  if not sign then return nil end
  local num, den, after = rest:match("^\\frac%s*(%d)%s*(%d)(.*)$")
  if not num then
    local open = rest:match("^\\frac%s*(){")
    local close, second
    if open then num, close = braced(rest, open) end
    if close then second = rest:match("^%s*(){", close + 1) end
    if second then den, close = braced(rest, second) end
    if not den then return nil end
    after = rest:sub(close + 1)
  end
  local a, b = number(num), number(den)
  local value = a and b and rational.divide(a, b)
  if value and sign == "-" then value = rational.negate(value) end
  return value, after
end

--- The rational that an answer in normal form says, or nil: integers, decimals, fractions, mixed numbers, with signs and units.
function number(s)
  s = trim(s)
  local value, after = leading_frac(s)
  if value then return is_unit(after) and value or nil end
  local sign
  value, after, sign = leading_decimal(s)
  if not value then return nil end
  local slash = after:match("^%s*/%s*(%d.*)$")
  if slash then
    local den, rest = leading_decimal(slash)
    value = den and rational.divide(value, den)
    return value and is_unit(rest) and value or nil
  end
  local part, part_after = leading_frac(trim(after))
  if not part then
    local a, b, rest = after:match("^%s+(%d+)%s*/%s*(%d+)(.*)$")
    if a then part, part_after = rational.divide(rational.decimal(a), rational.decimal(b)), rest end
  end
  if part and trim(after):sub(1, 1) ~= "-" then -- a mixed number
    if sign == "-" then part = rational.negate(part) end
    value, after = rational.add(value, part), part_after
  end
  return is_unit(after) and value or nil
end

-- ---- equality

-- The right side of a single "="; the text itself otherwise.
local function right_side(s)
  if s:find("[<>]") or s:find("\\[lg]e") then return s end
  return s:match("^[^=]*=([^=]+)$") or s
end

-- The parts between commas outside any bracket, with the enclosing brackets taken off; nil when there is only one part.
local function parts(s)
  local open, inner, close = s:match("^(\\?[%(%[{])(.*)(\\?[%)%]}])$")
  if open then
    if inner:sub(-1) == "\\" then inner, close = inner:sub(1, -2), "\\" .. close end
    local depth = 0
    for c in inner:gmatch("[%(%[{%)%]}]") do
      depth = depth + (c:find("[%(%[{]") and 1 or -1)
      if depth < 0 then open, inner, close = "", s, "" break end -- "(1,2),(3,4)"
    end
  else
    open, inner, close = "", s, ""
  end
  local list, depth, from = { open = open, close = close }, 0, 1
  for at, c in inner:gmatch("()([,%(%[{%)%]}])") do
    if c == "," then
      if depth == 0 then list[#list + 1] = inner:sub(from, at - 1); from = at + 1 end
    else
      depth = depth + (c:find("[%(%[{]") and 1 or -1)
    end
  end
  list[#list + 1] = inner:sub(from)
  return #list > 1 and list or nil
end

local function plain(s)
  s = s:gsub("\\text%a*%s*{([^{}]*)}", "%1"):gsub("\\mathrm%s*{([^{}]*)}", "%1"):gsub("\\mbox%s*{([^{}]*)}", "%1")
  s = s:gsub("\\frac%s*(%w)%s*(%w)", "\\frac{%1}{%2}"):gsub("([_^])%s*{(%w)}", "%1%2"):gsub("\\sqrt%s*{(%w)}", "\\sqrt%1")
  s = s:gsub("%s+", ""):gsub("%^\\circ", ""):gsub("%%$", "")
  return s:find("^%a%a+$") and s:lower() or s
end

local function equal_numbers(x, gold, tolerance)
  if tolerance and tolerance > 0 then
    local limit = rational.multiply(rational.abs(gold), rational.decimal(("%.17g"):format(tolerance)))
    if rational.within(x, gold, limit) then return true end
  end
  if (gold.decimals or 0) >= 6 then return rational.within(x, gold, rational.decimal("1e-" .. gold.decimals)) end
  return rational.equal(x, gold)
end

local function equal(answer, gold, tolerance)
  local g = number(gold)
  if g then
    local x = number(answer)
    return x ~= nil and equal_numbers(x, g, tolerance)
  end
  if plain(answer) == plain(gold) then return true end
  local a, b = parts(answer), parts(gold)
  if not a or not b or #a ~= #b or a.open ~= b.open or a.close ~= b.close then return false end
  for i = 1, #a do
    if not equal(normal(a[i]), normal(b[i]), tolerance) then return false end
  end
  return true
end

--- Are two answers equal? Both are texts as they stand in a solution, without the marker.
---@param answer string
---@param gold string
---@param tolerance number|nil relative
function M.equal(answer, gold, tolerance)
  if #answer > #gold + MAX_EXTRA then return false end
  return equal(normal(right_side(normal(answer))), normal(right_side(normal(gold))), tolerance)
end

--- The answer in a gold field: after GSM8K's ####, in the last \boxed{}, or the whole field.
---@param field string|number
function M.gold(field)
  if type(field) == "number" then return ("%.15g"):format(field) end
  local found = finders.strict(field)
  if #found > 0 then return trim(found[#found].text) end
  return trim(field)
end

--- The verifier for a config { extract =, several = "last"|"reject", tolerance = }.
function M.make(config)
  config = config or {}
  local find = finders[config.extract or "strict"]
  if not find then error("verifiers.math: extract is '" .. tostring(config.extract) .. "'; strict, hash, boxed or flexible", 2) end
  if config.several and config.several ~= "last" and config.several ~= "reject" then
    error("verifiers.math: several is '" .. tostring(config.several) .. "'; last or reject", 2)
  end
  if config.tolerance and type(config.tolerance) ~= "number" then error("verifiers.math: tolerance is a number", 2) end
  return function(problem, completion)
    if problem.answer == nil or problem.answer == "" then error("problem.answer is missing") end
    local gold, found = M.gold(problem.answer), find(completion.text)
    local last = found[#found]
    if not last then return 0, { reason = "no answer", gold = gold } end
    local info = { answer = trim(last.text), gold = gold, answers = #found, method = last.kind }
    if config.several == "reject" then
      for i = 1, #found - 1 do
        if not M.equal(found[i].text, last.text) then
          info.reason = "several answers"
          return 0, info
        end
      end
    end
    return M.equal(last.text, gold, config.tolerance) and 1 or 0, info
  end
end

M.verify = M.make()

return setmetatable(M, { __call = function(_, problem, completion) return M.verify(problem, completion) end })
