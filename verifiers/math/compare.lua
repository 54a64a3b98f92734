--- math/compare.lua: do two answers say the same? compare.equal(answer, gold, options), both as they stand in a solution.
---
--- In this order, each step cheap before the next:
---   1. the same digits; the same text after grammar.spelling
---   2. both read by the grammar: exact fractions, then normal forms (math/form.lua), then values at points (math/numeric.lua)
---   3. what the grammar does not read: the same letters and signs, without spaces
---
--- Beyond equal expressions
---   x = 5 is 5 on either side when the left side is made of symbols only ((p, q) = (3, 2), |AB| = 1, f(x) = 1 too); a chain a = b = c has
---   its last part as value; what follows an approximation sign counts only as a rounding (within 2%) of what stands before it. Two equations agree when one is a multiple of the other,
---   two inequalities when it is a positive multiple; 2x + z = 1 is not 1.
---   28% is 28 and 0.28. A decimal with options.decimals (6) places or more is taken as rounded there: 0.333333 is 1/3, 0.33 is not.
---   m + n = 5 is 5 as an answer; a gold x + y = 5 is a line. Ratios are proportions: 2:4:6 is 1:2:3.
---   Lists (1, 2 and 3), sets, and unions of intervals do not depend on order; tuples do. a \pm b is the set of both.
---   (1, 2) is a tuple or an open interval; -2 <= x < 7 is [-2, 7), \mathbb{R} is (-\infty, \infty). Matrices are compared part by part, sums and products worked out.
---   options.tolerance: a relative error that is accepted between numbers. options.rename: variables count by the order in which they
---   appear, f(x) is f(y). options.relation_as_set = false: an inequality is no answer to a gold that is an interval.
---
--- The work of one comparison is bounded (number.begin), so that it ends within milliseconds; beyond, the answers count as different.
local grammar = require "verifiers.math.grammar"
local number = require "verifiers.math.number"
local form = require "verifiers.math.form"
local numeric = require "verifiers.math.numeric"

local compare = {}

local WORK = 6000          -- units of number.spend, about a microsecond each
local MAX_PARTS = 64
local equal                -- equal(answer tree, gold tree, options)

-- ---- constants

local function shown_decimals(t)
  if t.op == "num" then return t.q.decimals or 0 end
  local most = 0
  for i = 1, #t do
    if type(t[i]) == "table" then most = math.max(most, shown_decimals(t[i])) end
  end
  for _, a in ipairs(t.args or t.parts or {}) do most = math.max(most, shown_decimals(a)) end
  return most
end

local function rounded(x, places) return math.floor(x * 10 ^ places + 0.5) end

local function close_numbers(x, y, a, b, o)
  if o.tolerance and math.abs(x - y) <= o.tolerance * math.abs(y) then return true end
  local places = o.decimals or 6
  if math.max(shown_decimals(a), shown_decimals(b)) < places then return false end
  return rounded(x, places) == rounded(y, places) and math.abs(x - y) <= 10 ^ (2 - places) * math.max(math.abs(x), math.abs(y))
end

local function real_value(t, f)
  local q = f and form.fraction(f)
  if q then return number.double(q) end
  local x, y = numeric.value(t)
  if x and math.abs(y) <= 1e-12 * math.max(1, math.abs(x)) then return x end
end

local function algebra(a, b, o)
  local f, g = form.of(a), form.of(b)
  if f and g then
    local ok, same = pcall(form.equal, f, g)
    if ok and same then return true end
    if not ok and same == number.TOO_MUCH then error(same, 0) end
    if ok and f.exact and g.exact then
      local x, y = real_value(a, f), real_value(b, g)
      return x ~= nil and y ~= nil and close_numbers(x, y, a, b, o)
    end
  end
  if numeric.equal(a, b) then return true end
  local x, y = real_value(a, f), real_value(b, g)
  return x ~= nil and y ~= nil and close_numbers(x, y, a, b, o)
end

-- 28% and -28% as 28 and -28; nil for what is no percentage
local function without_percent(t)
  if t.op == "percent" then return t[1] end
  if t.op == "neg" and t[1].op == "percent" then return { op = "neg", t[1][1] } end
end

-- ---- plus-minus

local function has_pm(t)
  if t.op == "pm" or t.op == "mp" then return true end
  for i = 1, #t do
    if type(t[i]) == "table" and has_pm(t[i]) then return true end
  end
  for _, field in ipairs { "args", "parts" } do
    for _, a in ipairs(t[field] or {}) do
      if has_pm(a) then return true end
    end
  end
  return false
end

-- the tree with every plus-minus as + (upper) or - (lower)
local function choose(t, upper)
  local copy = {}
  for k, v in pairs(t) do
    if type(v) == "table" and v.op then
      copy[k] = choose(v, upper)
    elseif (k == "args" or k == "parts") then
      copy[k] = {}
      for i, a in ipairs(v) do copy[k][i] = choose(a, upper) end
    else
      copy[k] = v
    end
  end
  if t.op == "pm" then copy.op = upper and "+" or "-" elseif t.op == "mp" then copy.op = upper and "-" or "+" end
  return copy
end

local function expand(parts)
  local out
  for i, p in ipairs(parts) do
    if has_pm(p) then
      out = out or { unpack(parts, 1, i - 1) }
      out[#out + 1] = choose(p, true)
      out[#out + 1] = choose(p, false)
    elseif out then
      out[#out + 1] = p
    end
  end
  return out or parts
end

local function settle_pm(t)
  if t.op == "list" or t.op == "set" then
    return { op = t.op, parts = expand(t.parts) }
  elseif t.op ~= "tuple" and has_pm(t) then
    return { op = "list", parts = { choose(t, true), choose(t, false) } }
  end
  return t
end

-- ---- relations

local function only_symbols(t)
  if t.op == "var" or t.op == "word" or t.op == "text" then return true end
  if t.op == "const" then return t.name == "e" or t.name == "i" end
  if t.op == "*" or t.op == "/" then return only_symbols(t[1]) and only_symbols(t[2]) end
  if t.op == "fn" and t.name == "abs" then return only_symbols(t.args[1]) end
  if t.op == "ratio" or t.op == "tuple" then
    for _, p in ipairs(t.parts) do
      if not only_symbols(p) then return false end
    end
    return true
  end
  return false
end

-- f(2), W(n): a letter applied to something
local function applied(t) return t.op == "*" and t[1].op == "var" and t[1].name or nil end

local function is_equation(t)
  if t.op ~= "rel" then return false end
  for _, r in ipairs(t.rels) do
    if r ~= "=" and r ~= "==" then return false end
  end
  return true
end

-- the chain up to an approximation sign; "x ~ 11" alone becomes x = 11
local function without_approximation(t)
  if t.op ~= "rel" then return t end
  for i, r in ipairs(t.rels) do
    if r == "~" then
      if i == 1 then
        if #t.rels == 1 then return { op = "rel", parts = t.parts, rels = { "=" } } end
        return t.parts[1]
      end
      return { op = "rel", parts = { unpack(t.parts, 1, i) }, rels = { unpack(t.rels, 1, i - 1) } }
    end
  end
  return t
end

local ROUNDED = 0.02

-- of sqrt 2 ~ 1.414 both sides, the second one only when it may be a rounding of the first (5 ~ 6 is 5)
local function roundings(t)
  if t.op ~= "rel" then return nil end
  for i, r in ipairs(t.rels) do
    if r == "~" then
      local x, y = numeric.value(t.parts[i]), numeric.value(t.parts[i + 1])
      if not x or not y then return nil end
      return t.parts[i], math.abs(x - y) <= ROUNDED * math.max(math.abs(x), math.abs(y)) and t.parts[i + 1] or nil
    end
  end
end

-- m + n: an answer m + n = 5 may be 5, a gold x + y = 5 is a line
local function sum_of_letters(t)
  return t.op == "+" and (sum_of_letters(t[1]) or t[1].op == "var") and t[2].op == "var"
end
local function is_assignment(t) return is_equation(t) and (only_symbols(t.parts[1]) or applied(t.parts[1]) ~= nil and t.parts[1][2].op ~= "+" and t.parts[1][2].op ~= "-") end
local function is_letter(t) return t.op == "var" or t.op == "word" end
local function value_of(t) -- of 5 = x too
  return #t.parts == 2 and is_letter(t.parts[2]) and numeric.value(t.parts[1]) and t.parts[1] or t.parts[#t.parts]
end

-- are two ratios in proportion? 2:4:6 is 1:2:3
local function in_proportion(x, y, o)
  if #x ~= #y then return false end
  local zero, k = { op = "num", q = number.ZERO }, 1
  while k < #y and algebra(y[k], zero, o) do k = k + 1 end
  if algebra(x[k], zero, o) ~= algebra(y[k], zero, o) then return false end
  for i = 1, #x do
    if not algebra({ op = "*", x[i], y[k] }, { op = "*", y[i], x[k] }, o) then return false end
  end
  return true
end

local flipped = { [">"] = "<", [">="] = "<=" }
local plain_relation = { ["=="] = "=", ["<>"] = "!=" }

-- { difference form, relation } of each link of a chain, pointing to the left
local function links(t)
  local out = {}
  for i, r in ipairs(t.rels) do
    local a, b = t.parts[i], t.parts[i + 1]
    r = plain_relation[r] or r
    if flipped[r] then a, b, r = b, a, flipped[r] end
    if r == "in" then return nil end
    out[i] = { tree = { op = "-", a, b }, rel = r }
  end
  return out
end

local function same_link(x, y, o)
  if x.rel ~= y.rel then return false end
  if algebra(x.tree, y.tree, o) then return true end
  local f, g = form.of(x.tree), form.of(y.tree)
  if not f or not g then return false end
  local ok, k = pcall(form.ratio, f, g)
  if not ok then
    if k == number.TOO_MUCH then error(k, 0) end
    return false
  end
  return k ~= nil and (x.rel == "=" or x.rel == "!=" or number.sign(k) > 0)
end

local function same_relation(a, b, o)
  local x, y = links(a), links(b)
  if not x or not y or #x ~= #y then return false end
  local same = true
  for i = 1, #x do same = same and same_link(x[i], y[i], o) end
  if same then return true end
  for i = 1, #x do -- 5 >= x >= 1 and 1 <= x <= 5
    if not same_link(x[i], y[#y + 1 - i], o) then return false end
  end
  return true
end

local INF = { op = "const", name = "inf" }
local MINUS_INF = { op = "neg", INF }
local function interval(open, a, b, close) return { op = "tuple", open = open, close = close, parts = { a, b } } end
local function is_constant(t) return form.of(t) ~= nil and (numeric.value(t) ~= nil or t.op == "const" or t.op == "neg" and t[1].op == "const") end

-- An inequality in one unknown as the set of its values: an interval, or two for |x|; and the unknown. nil when it is not so simple.
local function as_set(t)
  if t.op ~= "rel" then return nil end
  if #t.rels == 1 and t.rels[1] == "in" then return t.parts[2], t.parts[1] end
  local unknown, low, high = nil, nil, nil
  for i, r in ipairs(t.rels) do
    local a, b = t.parts[i], t.parts[i + 1]
    if flipped[r] then a, b, r = b, a, flipped[r] end
    if r ~= "<" and r ~= "<=" then return nil end
    local ca, cb = is_constant(a), is_constant(b)
    if ca == cb then return nil end
    if ca then low, unknown = { a, r }, b else high, unknown = { b, r }, a end
  end
  if #t.rels == 2 and not (low and high) or #t.rels > 2 then return nil end
  if unknown.op == "fn" and unknown.name == "abs" then
    if not low or not high then return nil end
    local lo, hi = low[2] == "<=" and "[" or "(", high[2] == "<=" and "]" or ")"
    return { op = "cup", interval(hi == "]" and "[" or "(", { op = "neg", high[1] }, { op = "neg", low[1] }, lo == "[" and "]" or ")"), interval(lo, low[1], high[1], hi) }, unknown.args[1]
  end
  if not only_symbols(unknown) and not applied(unknown) then return nil end
  return interval(low and low[2] == "<=" and "[" or "(", low and low[1] or MINUS_INF, high and high[1] or INF, high and high[2] == "<=" and "]" or ")"), unknown
end

-- ---- collections

local function is_collection(t) return t.op == "list" or t.op == "set" or t.op == "tuple" or t.op == "cup" or t.op == "cap" or t.op == "minus" end

local function in_order(x, y, o)
  if #x ~= #y then return false end
  for i = 1, #x do
    if not equal(x[i], y[i], o) then return false end
  end
  return true
end

-- each of x equals another of y
local function any_order(x, y, o)
  if #x ~= #y or #x > MAX_PARTS then return false end
  local taken = {}
  for i = 1, #x do
    local found
    for shift = 0, #y - 1 do
      local j = (i - 1 + shift) % #y + 1
      if not taken[j] and equal(x[i], y[j], o) then found = j break end
    end
    if not found then return false end
    taken[found] = true
  end
  return true
end

local function distinct(parts, o)
  if #parts > MAX_PARTS then return parts end
  local out = {}
  for _, p in ipairs(parts) do
    local old = false
    for _, q in ipairs(out) do old = old or equal(p, q, o) end
    if not old then out[#out + 1] = p end
  end
  return out
end

local function union_parts(t, out)
  if t.op == "cup" then
    union_parts(t[1], out)
    union_parts(t[2], out)
  elseif t.op == "rel" and #t.rels == 1 and t.rels[1] == "in" then
    out[#out + 1] = t.parts[2]
  else
    out[#out + 1] = t
  end
  return out
end

local function same_collection(a, b, o)
  if a.op == "cup" or b.op == "cup" then return any_order(union_parts(a, {}), union_parts(b, {}), o) end
  if a.op == "cap" or b.op == "cap" or a.op == "minus" or b.op == "minus" then return a.op == b.op and equal(a[1], b[1], o) and equal(a[2], b[2], o) end
  if not is_collection(a) or not is_collection(b) then
    local one, other = is_collection(a) and a or b, is_collection(a) and b or a
    return one.op ~= "tuple" and #one.parts == 1 and equal(a == one and one.parts[1] or other, a == one and other or one.parts[1], o)
  end
  if a.op == "tuple" and b.op == "tuple" then return a.open == b.open and a.close == b.close and in_order(a.parts, b.parts, o) end
  if (a.op == "tuple" or b.op == "tuple") and (a.op == "set" or b.op == "set") and #a.parts > 1 then return false end
  if a.op == "tuple" or b.op == "tuple" then -- (1, 2) against 1, 2
    local tuple, other = a.op == "tuple" and a or b, a.op == "tuple" and b or a
    if tuple.open == "(" and tuple.close == ")" and in_order(a.parts, b.parts, o) then return true end
    return #other.parts == 1 and equal(a == other and a.parts[1] or a, b == other and b.parts[1] or b, o)
  end
  return any_order(distinct(a.parts, o), distinct(b.parts, o), o)
end

-- ---- matrices

local function matrix_of(t)
  if t.op == "matrix" then return t.rows end
  if (t.op == "+" or t.op == "-") then
    local x, y = matrix_of(t[1]), matrix_of(t[2])
    if not x or not y or #x ~= #y or #x[1] ~= #y[1] then return nil end
    local rows = {}
    for i = 1, #x do
      rows[i] = {}
      for j = 1, #x[i] do rows[i][j] = { op = t.op, x[i][j], y[i][j] or { op = "num", q = number.ZERO } } end
    end
    return rows
  end
  if t.op ~= "*" then return nil end
  local x, y = matrix_of(t[1]), matrix_of(t[2])
  local rows = {}
  if x and y then
    if #x[1] ~= #y then return nil end
    for i = 1, #x do
      rows[i] = {}
      for j = 1, #y[1] do
        local sum
        for k = 1, #y do
          local term = { op = "*", x[i][k], y[k][j] }
          sum = sum and { op = "+", sum, term } or term
        end
        rows[i][j] = sum
      end
    end
  elseif x or y then
    for i, row in ipairs(x or y) do
      rows[i] = {}
      for j, e in ipairs(row) do rows[i][j] = { op = "*", x and t[2] or t[1], e } end
    end
  else
    return nil
  end
  return rows
end

local function same_matrix(x, y, o)
  if #x ~= #y then return false end
  for i = 1, #x do
    if not in_order(x[i], y[i], o) then return false end
  end
  return true
end

-- ---- texts

local function letters(t)
  if t.op == "word" then return t.w end
  if t.op == "text" then return t.s end
  if t.op == "var" or t.op == "const" then return t.name end
  if t.op == "*" then
    local a, b = letters(t[1]), letters(t[2])
    return a and b and a .. " " .. b
  end
end

--- A text without spaces but those between digits, brackets around it, and LaTeX's \text; words of two letters or more in lower case.
local function plain(s)
  s = s:gsub("\\text%s*{([^{}]*)}", "%1"):gsub("\\frac%s*(%w)%s*(%w)", "\\frac{%1}{%2}"):gsub("([_^])%s*{(%w)}", "%1%2"):gsub("\\sqrt%s*{(%w)}", "\\sqrt%1")
  s = s:gsub("[%s.,;:!?]+$", ""):gsub("^%s+", "")
  s = s:match("^%(([^%(%)]*)%)$") or s
  s = s:gsub("(%d)%s+%f[%d]", "%1\0"):gsub("%s+", "") -- 1 2 is not 12
  return s:find("^%a%a+[%a'%-,]*$") and s:lower() or s
end

-- ---- all of it

local function same_text(a, b)
  local x, y = letters(a), letters(b)
  if not x or not y then return nil end
  return plain(x) == plain(y)
end

local function texts(a, b) -- words are compared as words, and \text{E} with E
  if a.op == "text" or b.op == "text" or a.op == "word" and b.op == "word" then return same_text(a, b) end
end

local function as_interval(t) return t.op == "const" and t.name == "reals" and interval("(", MINUS_INF, INF, ")") or t end

-- x < 2 or x > 3 as the union of its intervals
local function as_union(t)
  if t.op ~= "list" or not t.parts.either then return t end
  local union, unknown
  for _, p in ipairs(t.parts) do
    local set, letter = as_set(p)
    if not set or unknown and not equal(letter, unknown, {}) then return t end
    union, unknown = union and { op = "cup", union, set } or set, letter
  end
  return union
end

function equal(a, b, o)
  if b.op ~= "rel" then
    local exact, rounded_value = roundings(a)
    if exact then return equal(exact, b, o) or rounded_value ~= nil and equal(rounded_value, b, o) end
  elseif a.op ~= "rel" then
    local exact, rounded_value = roundings(b)
    if exact then return equal(a, exact, o) or rounded_value ~= nil and equal(a, rounded_value, o) end
  end
  a, b = as_interval(settle_pm(without_approximation(a))), as_interval(settle_pm(without_approximation(b)))
  local equation = is_equation(a)
  if equation and not is_equation(b) and (is_assignment(a) or numeric.value(a.parts[1]) or sum_of_letters(a.parts[1])) then
    a = value_of(a)
  elseif is_assignment(b) and not equation then
    b = value_of(b)
  end
  if a.op == "rel" and b.op == "rel" then
    if is_assignment(a) and is_assignment(b) then
      local x, y = a.parts[1], b.parts[1]
      local same = equal(x, y, o) or applied(x) and applied(x) == applied(y) and x[2].op == "var" and y[2].op == "var"
      if same and equal(value_of(a), value_of(b), o) then return true end
      if #a.rels > 1 or #b.rels > 1 then return false end
    end
    if #a.rels == 1 and a.rels[1] == "in" and #b.rels == 1 and b.rels[1] == "in" then return equal(a.parts[2], b.parts[2], o) end
    if same_relation(a, b, o) then return true end
    local x, unknown = as_set(a)
    local y, other = as_set(b)
    if x and b.rels[1] == "in" and a.rels[1] ~= "in" and o.relation_as_set == false then return false end
    return x ~= nil and y ~= nil and equal(unknown, other, o) and equal(x, y, o)
  end
  if a.op == "rel" or b.op == "rel" then
    local other = a.op == "rel" and b or a
    if not is_collection(other) then return false end
    local set = as_set(a.op == "rel" and a or b)
    if not set or a.op == "rel" and a.rels[1] ~= "in" and o.relation_as_set == false then return false end
    if a.op == "rel" then return equal(set, b, o) end
    return equal(a, set, o)
  end
  if a.op == "cup" then b = as_union(b) elseif b.op == "cup" then a = as_union(a) end
  if is_collection(a) or is_collection(b) then return same_collection(a, b, o) end
  local text = texts(a, b)
  if text ~= nil then return text end
  local x, y = matrix_of(a), matrix_of(b)
  if x or y then return x ~= nil and y ~= nil and same_matrix(x, y, o) end
  if a.op == "const" and b.op == "const" then return a.name == b.name end
  if a.op == "ratio" and b.op == "ratio" and in_order(a.parts, b.parts, o) then return true end
  local many = a.op == "ratio" and #a.parts > 2 or b.op == "ratio" and #b.parts > 2
  if many then return a.op == b.op and in_proportion(a.parts, b.parts, o) end
  if algebra(a, b, o) then return true end
  local p, q = without_percent(a), without_percent(b)
  if (p == nil) ~= (q == nil) then return algebra(p or a, q or b, o) end
  return same_text(a, b) == true
end

-- the tree with its variables named by the order in which they appear
local function renamed(t, names)
  if t.op == "var" then
    if not names[t.name] then
      names.n = (names.n or 0) + 1
      names[t.name] = "v" .. names.n
    end
    return { op = "var", name = names[t.name] }
  end
  local copy = {}
  for k, v in pairs(t) do copy[k] = v end
  for i = 1, #t do
    if type(t[i]) == "table" then copy[i] = renamed(t[i], names) end
  end
  for _, field in ipairs { "args", "parts" } do
    if t[field] then
      copy[field] = {}
      for i, a in ipairs(t[field]) do copy[field][i] = renamed(a, names) end
    end
  end
  return copy
end

local trees, n_trees = {}, 0 -- of golds: a group of completions shares its gold

local function tree_of(text, keep)
  local t = trees[text]
  if t ~= nil then return t end
  t = grammar.parse(text)
  if not t and not text:find("[,;]") then -- of a chain that is not read as a whole, its last part
    local last = text:match("[^<>!]=([^=]+)$")
    t = last and grammar.parse(last)
  end
  t = t or false
  if keep then
    if n_trees >= 64 then trees, n_trees = {}, 0 end
    trees[text], n_trees = t, n_trees + 1
  end
  return t
end

-- "2,74" read as 2.74
local function decimal_comma(text)
  local a, b = text:match("^(%-?%d+),(%d+)$")
  return a and a .. "." .. b
end

local spelled, n_spelled = {}, 0
local function spelling(text)
  local s = spelled[text]
  if not s then
    s = grammar.spelling(text)
    if n_spelled >= 64 then spelled, n_spelled = {}, 0 end
    spelled[text], n_spelled = s, n_spelled + 1
  end
  return s
end

--- Are two answers equal? options: tolerance (relative), decimals (6), decimal_comma (false: "1,5" is a list).
---@param answer string
---@param gold string
---@param o table|nil
---@return boolean, string|nil why  "too much work for one comparison" when it was given up
function compare.equal(answer, gold, o)
  o = o or {}
  if answer == gold and answer:find("%S") then return true end
  local y = spelling(gold)
  local x = grammar.spelling(answer)
  if x == "" or y == "" then return false end
  if x == y then return true end
  local half, other = x:match("%d ([AP]M)$"), y:match("%d ([AP]M)$")
  if half and other and half ~= other then return false end
  if x:find("^%-?[1-9]%d*$") and #x < 15 and y:find("^%-?[1-9]%d*$") and #y < 15 and not o.tolerance then return x == y end
  number.begin(WORK)
  local ok, same = pcall(function()
    local a, b = tree_of(x), tree_of(y, true)
    if a and b then
      if o.rename then a, b = renamed(a, {}), renamed(b, {}) end
      if equal(a, b, o) then return true end
      if not o.decimal_comma then return false end
      local p, q = decimal_comma(x), decimal_comma(y)
      return (p or q) and equal(p and tree_of(p) or a, q and tree_of(q) or b, o) or false
    end
    return plain(x) == plain(y)
  end)
  number.begin(math.huge)
  if ok then return same end
  if same ~= number.TOO_MUCH and same ~= number.TOO_LARGE then error(same, 0) end
  return false, same
end

return compare
