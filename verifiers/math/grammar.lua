--- math/grammar.lua: an answer's text, LaTeX or plain, to a tree. The grammar is LPeg's; what it does not read is nil, and compared as
--- text by math/compare.lua.
---
--- A tree is a table with `op`:
---   num {q}                 an exact fraction (math/number.lua); q.decimals counts the places that were shown
---   var {name}  word {w}    x, x_1; a run of letters that is no function
---   text {s}                \text{Evelyn}
---   const {name}            pi, e, i, inf, empty (the empty set), reals, integers
---   + - * / ^ neg pm mp     sums, products, quotients, powers, signs, plus-minus
---   fn {name, args, index}  sin, log (index: its base), sqrt (index: the degree), abs, factorial, binom, ...
---   percent deg based       x%, x degrees, 204_5
---   ratio {parts}           7:32
---   rel {parts, rels}       x < 1, a = b = c, x in S: n + 1 parts, n relations of < <= = != >= > in ~
---   list {parts}            1, 2 and 3 (no brackets)        tuple {open, close, parts}  (1, 2), [0, 1)
---   set {parts}             \{1, 2\}                        cup cap minus {parts}       unions and so on
---   matrix {rows}           big {name, lower, upper, body}  sums, products, integrals, limits
---
--- Reading conventions. A unit after a number is dropped, not converted: "12 apples", "5 \text{ cm}", "10 cm^2", "15 (balls)". Currency signs and
--- degrees at the end are dropped by the comparison. A unit of one letter is a variable (10 m), but in km/h, m/s^2. "3 million" is 3000000. 1,234 is one number outside brackets; in (100,200) the comma
--- separates. A whole number and a fraction side by side are a mixed number: 1\frac12, 1 1/2, 33\frac13\%. Two numbers side by side are not a
--- product; letters side by side are: xy^2 is x times y^2. 0.1\overline{6} and 0.1\bar{6} are repeating decimals; 1.5 x 10^3 is 1500.
local lpeg = require "tl.lpeg"
local number = require "verifiers.math.number"

local P, R, S, V, C, Cc, Ct, Cf, Cg, Cmt = lpeg.P, lpeg.R, lpeg.S, lpeg.V, lpeg.C, lpeg.Cc, lpeg.Ct, lpeg.Cf, lpeg.Cg, lpeg.Cmt

local grammar = {}

local MAX_BYTES, MAX_DEPTH = 1500, 40 -- longer and deeper texts are not read

-- ---- spelling: one way to write each thing

local latex_spelling = {
  { ",%s*\\!%s*", "," }, { "\\[!]", "" }, { "\\[,;:> ]", " " }, { "\\q?quad", " " },
  { "\\left%f[^%a]", "" }, { "\\right%f[^%a]", "" }, { "\\[bB]igg?[lrm]?%f[^%a]", "" }, { "\\displaystyle%f[%A]", "" }, { "\\limits%f[%A]", "" },
  { "\\[dtc]frac%f[%A]", "\\frac" }, { "\\[dt]binom%f[%A]", "\\binom" }, { "\\[%(%)%[%]]", " " },
  { "\\text%a*%s*{%s*and%s*}", " and " }, { "\\text%a*%s*{%s*or%s*}", " or " }, { "\\mbox%s*{%s*and%s*}", " and " },
  { "\\text%a*%s*{([^%a{}]*)}", "%1" }, { "\\mbox%s*{([^%a{}]*)}", "%1" },
  { "\\mathrm%s*{~?e}", "e" }, { "\\mathrm%s*{~?i}", "i" }, { "\\imath%f[%A]", "i" }, { "\\mathbf%s*{([^{}]*)}", "%1" }, { "\\mathf%a*%s*{([^{}]*)}", "%1" }, { "\\mathbb%s*{([^RZ{}]*)}", "%1" },
  { "\\text%a*%s*{", "\\text{" }, { "\\mbox%s*{", "\\text{" }, { "\\mathrm%s*{", "\\text{" }, { "\\operatorname%*?%s*{(%a+)}", "\\%1 " },
  { "\\f?boxe?d?%s*(%b{})", "%1" }, { "([_^])%s*{%s*\\text%s*{([^{}]*)}%s*}", "%1{%2}" }, { "{([^{}]*)\\over%f[%A]([^{}]*)}", "\\frac{%1}{%2}" },
  { "{([^{}]*)\\choose%f[%A]([^{}]*)}", "\\binom{%1}{%2}" }, { "\\text{%s*per%s?cents?%s*}", "%%" },
  { "\\le?q?slant%f[%A]", "<=" }, { "\\ge?q?slant%f[%A]", ">=" }, { "\\leq?q?%f[%A]", "<=" }, { "\\geq?q?%f[%A]", ">=" }, { "\\neq?%f[%A]", "<>" },
  { "\\lt%f[%A]", "<" }, { "\\gt%f[%A]", ">" }, { "\\not%s*=", "<>" }, { "\\approx%f[%A]", "~" }, { "\\simeq?%f[%A]", "~" }, { "\\in%f[%A]", " in " },
  { "\\times%f[%A]", "*" }, { "\\cdot%f[%A]", "*" }, { "\\ast%f[%A]", "*" }, { "\\div%f[%A]", "/" }, { "\\pm%f[%A]", "+-" }, { "\\mp%f[%A]", "-+" },
  { "\\colon%f[%A]", ":" }, { "\\degree%f[%A]", "^\\circ" }, { "\\lvert%f[%A]", "|" }, { "\\rvert%f[%A]", "|" }, { "\\[lr]Vert%f[%A]", "|" },
  { "\\l?vert%f[%A]", "|" }, { "\\mid%f[%A]", "|" }, { "\\infin?ty%f[%A]", "\\infty" }, { "\\varnothing%f[%A]", "\\emptyset" },
  { "\\dots%f[%A]", "..." }, { "\\ldots%f[%A]", "..." }, { "\\cdots%f[%A]", "..." }, { "\\lbrace%f[%A]", "\\{" }, { "\\rbrace%f[%A]", "\\}" },
  { "\\lbrack%f[%A]", "[" }, { "\\rbrack%f[%A]", "]" }, { "\\backslash%f[%A]", "\\setminus" }, { "\\sqrt%s+", "\\sqrt" }, { "\\hline%f[%A]", "" },
  { "\\implies%f[%A]", "," }, { "\\land%f[%A]", " and " }, { "\\lor%f[%A]", " or " }, { "\\[vl]phantom%s*%b{}", "" }, { "\\left%.", "" },
  { "\\end%s*{align%*?}", "" }, { "\\begin%s*{align%*?}", "" },
}

local unicode_spelling = {
  { "\226\136\146", "-" }, { "\226\128\147", "-" }, { "\195\151", "*" }, { "\195\183", "/" }, { "\194\183", "*" }, { "\226\139\133", "*" },
  { "\226\136\154%s*(%d+)", "\\sqrt{%1}" }, { "\226\136\154%s*%((.-)%)", "\\sqrt{%1}" }, { "\207\128", "\\pi " }, { "\194\176", "^\\circ " }, { "\194\186", "^\\circ " }, { "\203\154", "^\\circ " },
  { "\226\136\158", "\\infty " }, { "\226\137\164", "<=" }, { "\226\137\165", ">=" }, { "\226\137\160", "<>" }, { "\226\137\136", "~" },
  { "\226\136\170", "\\cup " }, { "\226\136\169", "\\cap " }, { "\226\136\136", " in " }, { "\194\177", "+-" },
  { "\194\189", "\\frac12 " }, { "\194\188", "\\frac14 " }, { "\194\190", "\\frac34 " }, { "\226\136\133", "\\emptyset " }, { "\226\132\157", "\\mathbb{R} " },
  { "\194\160", " " }, { "\226\128\175", " " }, { "\226\128\137", " " }, { "\226\128\139", "" }, { "\226\130\172", "" }, { "\194\163", "" }, { "\194\165", "" }, { "\226\130\185", "" }, { "\194\162", "" },
  { "\226\129\132", "/" },
}

-- one third ... seven eighths, U+2153 to U+215E
for i, f in ipairs { "13", "23", "15", "25", "35", "45", "16", "56", "18", "38", "58", "78" } do
  unicode_spelling[#unicode_spelling + 1] = { "\226\133" .. string.char(146 + i), "\\frac" .. f .. " " }
end

-- raised digits and signs: 10⁻³
local raised = { ["\194\185"] = "1", ["\194\178"] = "2", ["\194\179"] = "3", ["\226\129\186"] = "+", ["\226\129\187"] = "-" }
for d = 0, 9 do
  if d == 0 or d >= 4 then raised["\226\129" .. string.char(176 + d)] = tostring(d) end
end
local function raise(s)
  local out, power = {}, ""
  for c in s:gmatch("[%z\1-\127\192-\255][\128-\191]*") do
    if raised[c] then
      power = power .. raised[c]
    else
      out[#out + 1], power = power ~= "" and "^{" .. power .. "}" .. c or c, ""
    end
  end
  return table.concat(out) .. (power ~= "" and "^{" .. power .. "}" or "")
end

-- 0.1\overline{6} -> (0.1+\frac{6}{90})
local function repeating(name)
  return { "(%d*)%.(%d*)\\" .. name .. "%s*{%s*(%d+)%s*}", function(whole, fixed, again)
    return ("(%s.%s+\\frac{%s}{%s%s})"):format(whole == "" and "0" or whole, fixed == "" and "0" or fixed, again, ("9"):rep(#again), ("0"):rep(#fixed))
  end }
end
table.insert(latex_spelling, repeating "overline")
table.insert(latex_spelling, repeating "bar")

-- 1,234,567 -> 1234567 and 1 000 -> 1000, outside brackets
local function join_thousands(s)
  local function join(at, sign)
    local before, depth = s:sub(1, at - 1), 0
    for c in before:gmatch("[%(%)%[%]]") do depth = depth + ((c == "(" or c == "[") and 1 or -1) end
    local _, opened = before:gsub("\\{", "")
    local _, closed = before:gsub("\\}", "")
    return depth <= 0 and opened <= closed
  end
  local pieces, at = {}, 1
  while true do
    local first, last, group = s:find("%f[%w%.,](%d%d?%d?[, ]%d%d%d[%d, ]*)", at)
    if not first then break end
    local separator = group:match("[, ]")
    local run = group:match(separator == "," and "^%d+[,%d]*" or "^%d+[ %d]*"):gsub("[, ]+$", "")
    local good = s:sub(first, first) ~= "0" and run:gsub("^%d%d?%d?", "", 1):gsub("[, ]%d%d%d", "") == "" and not s:find("^%d", first + #run)
    if good and separator == " " then good = not s:find("^%s*/", first + #run) end
    if good and join(first) then
      pieces[#pieces + 1] = s:sub(at, first - 1) .. run:gsub("[, ]", "")
    else
      pieces[#pieces + 1] = s:sub(at, first + #run - 1)
    end
    at = first + #run
  end
  return table.concat(pieces) .. s:sub(at)
end

local labels = { "^[Tt]he [Aa]nswer is:? ", "^[Ff]inal [Aa]nswer:? ", "^[Aa]nswer:? " }
local function half_of_day(digit, half) return digit .. " " .. half:upper() .. "M" end

-- words around a number: a label or a currency's letters before it, the half of the day, degrees of heat, abbreviated units
local function words(s)
  s = s:gsub("^\\text{([^{}]*)}%s*", function(t) return t:lower():find("answer", 1, true) and t .. " " or nil end)
  for _, label in ipairs(labels) do s = s:gsub(label, "") end
  s = s:gsub("^(%u)%)$", "%1"):gsub("^USD? ?(%-?%d)", "%1"):gsub("^Rs%.? ?(%-?%d)", "%1")
  s = s:gsub("\\text{%s*([AaPp]%.?%s?[Mm]%.?)%s*}$", " %1"):gsub("(%d) *([AaPp])%.? ?[Mm]%.?$", half_of_day)
  s = s:gsub("(\\circ%s*}?)%s*[CF]$", "%1")
  return (s:gsub("(%d) in$", "%1 inches"):gsub("(%d %a%a+)%. ", "%1 "))
end

--- The text with one spelling for each thing, without math delimiters, emphasis, and a full stop at its end.
---@param s string
function grammar.spelling(s)
  if s:find("[\128-\255]") then
    for _, r in ipairs(unicode_spelling) do s = s:gsub(r[1], r[2]) end
    if s:find("\194[\178\179\185]") or s:find("\226\129[\176-\187]") then s = raise(s) end
  end
  s = s:gsub("\\%$", "")
  if s:find("$", 1, true) then s = s:gsub("%$", "") end
  if s:find("{,", 1, true) then s = s:gsub("%s*{,%s*}%s*", ",") end
  if s:find("\\", 1, true) then
    s = s:gsub("\\%%", "%%")
    if s:find("\\\\", 1, true) then
      s = s:find("\\begin", 1, true) and s:gsub("\\\\%s*", "\\cr ") or s:gsub("\\\\(%a)", "\\%1"):gsub("\\\\", " ")
    end
    for _, r in ipairs(latex_spelling) do s = s:gsub(r[1], r[2]) end
  end
  s = s:gsub("[~]%s*%f[%a]", function(t) return s:find("~%s*[%d\\]") and t or " " end)
  s = s:gsub("^%s*%*+(.-)%*+%s*$", "%1"):gsub("^%s*`+(.-)`+%s*$", "%1"):gsub('^%s*"([^"]*)"%s*$', "%1"):gsub("^[%s:=~]+", ""):gsub("[%s.,;:]+$", ""):gsub("%s+", " ")
  if s:byte() == 123 then s = s:match("^{([^{}]*)}$") or s end
  if s:find("^\\text{%s*%-?[%d.]") then s = s:match("^\\text{%s*([^{}]*)}$") or s end
  s = s:gsub("%*%*", "^"):gsub(" !=", "<>"):gsub("(%d) ?[Pp]er ?cent$", "%1%%")
  if s:find("%a") then s = words(s) end
  if s:find("%d[, ]%d%d%d") then s = join_thousands(s) end
  if s:find("x", 1, true) then s = s:gsub("(%d) ?x ?10 ?%^", "%1*10^") end
  return s
end

-- ---- trees

local function num(q) return { op = "num", q = q } end
local function decimal(text) local q = number.decimal(text); return q and num(q) end

local known_units = {}
for w in ([[mm cm km ft yd mi kg mg lb lbs oz ml mL gal hr hrs h min mins sec secs ms am pm AM PM mph kmh kph sq cu in pt pts kW Hz kHz eV keV MeV kJ
  kPa Pa mol st nd rd th dollars dollar cents cent usd USD mW MW kN nm um erg ly AU pc Mpc]]):gmatch("%a+") do known_units[w] = true end
local unit_letters = {} -- after a unit of more letters: km/h, kg m/s^2
for w in ("h s m g L l K J N W V A C F T H"):gmatch("%a") do unit_letters[w] = true end
local not_units = {}
for w in ([[or and to plus minus times over of pi sqrt sin cos tan log ln mod not half if then else infinity inf where is
  squared cubed halves thirds tenths hundredths thousandths factorial below negative]]):gmatch("%a+") do not_units[w] = true end
local magnitudes = { hundred = 1e2, thousand = 1e3, million = 1e6, billion = 1e9, trillion = 1e12, dozen = 12 }

local changing = {} -- words that change the number before them, in a text as well
for w in ([[squared cubed halves thirds tenths hundredths thousandths factorial and or plus minus times over divided multiplied]]):gmatch("%a+") do changing[w] = true end

-- the power of ten, or the dozen, that a word or a text begins with
local function magnitude(t)
  local w = t.op == "word" and t.w or t.op == "text" and t.s:match("^%s*(%a+)")
  return w and magnitudes[w:lower():gsub("s$", "")]
end

-- Is this factor, after a number, part of a unit? `spaced`: a space stood before it.
local function is_unit(t, spaced)
  if t.op == "text" then return not t.s:find("%d") and not changing[t.s:match("^%s*(%a*)"):lower()] end
  if t.op == "word" then return not not_units[t.w] and (known_units[t.w] or spaced and #t.w >= 2) end
  if t.op == "paren" then return is_unit(t[1], true) or t[1].op == "*" and is_unit(t[1][1], true) end
  if t.op == "^" then return is_unit(t[1], spaced) end
  if t.op == "/" then return is_unit(t[1], spaced) end
  return false
end

local function numeric(t)
  if t.op == "num" then return true end
  if t.op == "neg" or t.op == "percent" then return numeric(t[1]) end
  return (t.op == "/" or t.op == "*" or t.op == "^" or t.mixed) and numeric(t[1]) and numeric(t[2])
end

local function unit_letter(t)
  return t.op == "var" and unit_letters[t.name] or t.op == "^" and t[1].op == "var" and unit_letters[t[1].name]
end
local function of_text(t) return t.op == "text" or t.op == "^" and t[1].op == "text" end

-- m/s, m/s^2 and g/cm^3, which no product of letters is likely to be
local function unit_quotient(factors, i)
  local u, v = factors[i], factors[i + 1]
  if not u.spaced or not unit_letter(u.t) or not v or v.by ~= "/" then return false end
  return is_unit(v.t, true) or u.t.name == "m" and (v.t.op == "^" and v.t[1] or v.t).name == "s"
end

local function is_zero(t) return t.op == "paren" and t[1].op == "num" and number.is_zero(t[1].q) end
local function at_zero(v) return { op = "var", name = v.name .. "(0)" } end

-- A product of its factors { tree, operator before it, spaced }: units dropped, mixed numbers put together; nil: two numbers side by side.
local function product(factors)
  local t = factors[1].t
  local n, i = #factors, 2
  while i <= n do
    local f = factors[i]
    local u = f.t
    if f.by == "" then
      local scale = magnitude(u)
      if numeric(t) and scale then
        t = { op = "*", t, num(number.new(scale)) }
      elseif (numeric(t) or of_text(u) and t.op ~= "text") and (is_unit(u, f.spaced) or unit_quotient(factors, i)) then
        while i < n and (is_unit(factors[i + 1].t, true) or unit_letter(factors[i + 1].t)) do i = i + 1 end
        if i < n then return nil end
      elseif t.op == "num" and number.is_whole(t.q) and t.q.decimals == 0 and (u.literal or u.op == "percent" and u[1].literal) then
        local mixed = { op = "+", t, u.literal and u or u[1], mixed = true }
        t = u.literal and mixed or { op = "percent", mixed }
      elseif u.op == "num" then
        return nil
      elseif is_zero(u) and (t.op == "var" or t.op == "*" and t[2].op == "var") then -- I(0) is no product, which would be 0
        if t.op == "var" then t = at_zero(t) else t = { op = "*", t[1], at_zero(t[2]) } end
      else
        t = { op = "*", t, u }
      end
    else
      t = { op = f.by, t, u }
    end
    i = i + 1
  end
  return t
end

-- ---- the grammar

local functions = {}
for w in ([[sin cos tan cot sec csc arcsin arccos arctan arccot sinh cosh tanh log ln lg exp min max gcd lcm det arg deg]]):gmatch("%a+") do functions[w] = true end
local plain_functions = { sqrt = true, abs = true, asin = "arcsin", acos = "arccos", atan = "arctan" }
local greek = {}
for w in ([[alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho sigma tau phi varphi chi psi omega
  Gamma Delta Theta Lambda Xi Sigma Phi Psi Omega ell hbar prime]]):gmatch("%a+") do greek[w] = true end

local s = S(" \t\r\n") ^ 0
local digit, letter = R("09"), R("az", "AZ")
local function sym(p) return P(p) * s end
local function command(name) return P("\\" .. name) * -letter * s end

local Number = (digit ^ 1 * ("." * digit ^ 0) ^ -1 + "." * digit ^ 1) * (S("eE") * S("+-") ^ -1 * digit ^ 1 * -letter) ^ -1

-- a word of letters: a function's name is no word
local Word = Cmt(C(letter ^ 1), function(_, _, w)
  if functions[w] or plain_functions[w] or w == "and" or w == "or" or w == "in" then return false end
  return true, w
end) * s

local function word(w)
  if #w == 1 then
    if w == "e" or w == "i" then return { op = "const", name = w } end
    return { op = "var", name = w }
  end
  if w == "pi" then return { op = "const", name = "pi" } end
  if w == "inf" or w == "infinity" then return { op = "const", name = "inf" } end
  return { op = "word", w = w }
end

local function named(name)
  return function() return { op = "const", name = name } end
end

local function fn(name, ...) return { op = "fn", name = name, args = { ... } } end

local function apply(name, power, index, power_after, argument)
  local t = fn(plain_functions[name] ~= true and plain_functions[name] or name, argument)
  t.index = index or nil
  power = power or power_after
  if not power then return t end
  if power.op == "neg" and power[1].op == "num" and number.equal(power[1].q, number.ONE) and ("sin cos tan"):find(name, 1, true) then
    return fn("arc" .. name, argument) -- \sin^{-1}
  end
  return { op = "^", t, power }
end

local function fold(t, operator, u) return { op = operator, t, u } end

local function relation(first, ...)
  local rest = { ... }
  if #rest == 0 then return first end
  local t = { op = "rel", parts = { first }, rels = {} }
  for i = 1, #rest, 2 do
    t.rels[#t.rels + 1] = rest[i]
    t.parts[#t.parts + 1] = rest[i + 1]
  end
  return t
end

local function bracket(open, parts, close)
  if #parts == 1 and not parts.comma then
    if open == "(" and close == ")" or open == "[" and close == "]" then return { op = "paren", parts[1], open = open } end
    return nil
  end
  return { op = "tuple", open = open, close = close, parts = parts }
end

local function collection(parts) return { op = "set", parts = parts } end

local optional_index = ("[" * s * V "Sum" * "]" * s) + Cc(false)
local group = "{" * s * V "Sum" * "}" * s
local power = C(digit ^ 1 * ("." * digit ^ 1) ^ -1) / decimal
local function negative(t) return { op = "neg", t } end
local script = group + power * s + (S("+-") * power / negative) * s + V "Simple" + "(" * s * V "Sum" * ")" * s
-- an argument of \frac, \sqrt: a group, one digit, or one letter or command
local argument = group + C(digit) / decimal * s + V "Simple"

local items = Ct(V "Item" * ((sym "," + sym ";") * Cg(Cc(true), "comma") * V "Item") ^ 0)

local relop = (C(P"<=" + ">=" + "!=" + "<>" + "==") + P"=<" / "<=" + P"=>" / ">=" + C(S "<>=~") + P"in" * -letter / "in") * s
local mulop = (P"*" ^ 1 / "*" + P"/" / "/" + P"\\cdot" / "*") * s

local rules = {
  "Answer",
  Answer = s * V "List" * -1,
  List = Ct(V "Groups" * (V "Separator" * V "Groups") ^ 0),
  Groups = V "Item",
  Separator = Cg(Cc(true), "comma") * (sym "," + sym ";") * (P"and" * -letter * s + P"or" * -letter * s) ^ -1 + Cg(Cc(true), "comma") * (P"and" + P"or" * Cg(Cc(true), "either")) * -letter * s,
  Item = V "Relation",
  Relation = V "Sets" * (relop * V "Sets") ^ 0 / relation,
  Sets = Cf(V "Ratio" * Cg((command "cup" / "cup" + command "cap" / "cap" + command "setminus" / "minus" + P"U" * #(s * S "([\\{") * s / "cup") * V "Ratio") ^ 0, fold),
  Ratio = Ct(V "Sum" * (sym ":" * V "Sum") ^ 0) / function(parts) return #parts == 1 and parts[1] or { op = "ratio", parts = parts } end,
  Sum = Cf((V "Signed" + V "Product") * Cg(V "Plus" * V "Product") ^ 0, fold),
  Plus = (P"+-" / "pm" + P"-+" / "mp" + C(S "+-") * -P(S "+-")) * s,
  Signed = (P"+-" / "pm" + P"-+" / "mp" + C(S "+-")) * s * -S "+-" * V "Product" / function(sign, t)
    if sign == "+" then return t end
    if sign == "-" then return { op = "neg", t } end
    return { op = sign, num(number.ZERO), t }
  end,
  Product = Cmt(Ct(Ct(Cg(V "Power", "t")) * V "Factor" ^ 0), function(_, _, factors)
    local t = product(factors)
    if not t then return false end
    return true, t
  end),
  Factor = Ct(Cg(mulop, "by") * Cg(V "Power" + "-" * s * V "Power" / function(t) return { op = "neg", t } end, "t"))
    + Ct(Cg(Cc "", "by") * Cg(Cmt(P(true), function(text, at) return true, text:find("^%s", at - 1) ~= nil end), "spaced") * Cg(V "Power", "t")),
  Power = Cf(V "Postfix" * Cg("^" * s * Cc "^" * script) ^ -1 * Cg(S "!" * s * Cc "!") ^ -1, function(t, operator, u)
    if operator == "!" then return fn("factorial", t) end
    return fold(t, operator, u)
  end),
  Postfix = Cf(V "Atom" * Cg(P"%" * s * Cc "percent" + P"^" * s * (P"{" * s * "\\circ" * s * "}" + "\\circ") * s * Cc "deg"
    + P"!" * s * Cc "factorial" + P"'" ^ 1 * s * Cc "prime") ^ 0, function(t, operator)
    if operator == "factorial" then return fn("factorial", t) end
    if operator == "prime" and t.op == "var" then return { op = "var", name = t.name .. "'" } end
    return { op = operator, t }
  end),
  Atom = V "Based" + V "Frac" + C(Number) / decimal * s + V "Root" + V "Apply" + V "Big" + V "Matrix" + V "Bracket" + V "Set" + V "Abs" + V "Simple",
  Based = C(digit ^ 1) * s * "_" * s * ("{" * s * C(digit ^ 1) * s * "}" + C(digit ^ 1)) * s / function(digits, base) return { op = "based", digits = digits:gsub("^0+(.)", "%1"), base = base } end,
  Frac = command "frac" * argument * argument / function(a, b) return { op = "/", a, b, literal = a.op == "num" and b.op == "num" } end
    + C(digit ^ 1) * P"/" * C(digit ^ 1) * -(P"." * digit) * s * -S "^!" / function(a, b) return { op = "/", decimal(a), decimal(b), literal = true } end
    + command "binom" * argument * argument / function(a, b) return fn("binom", a, b) end,
  Root = P"\\sqrt" * s * optional_index * argument / function(index, t) local r = fn("sqrt", t); r.index = index or nil; return r end
    + P"sqrt" * s * ("(" * s * V "Sum" * ")" * s + "{" * s * V "Sum" * "}" * s + C(Number) / decimal * s) / function(t) return fn("sqrt", t) end,
  Apply = Cmt(P"\\" ^ -1 * C(letter ^ 1), function(_, _, w) if functions[w] or plain_functions[w] then return true, w end return false end) * s
    * ("^" * s * script + Cc(false)) * ("_" * s * script + Cc(false)) * ("^" * s * script + Cc(false)) * V "Argument" / apply,
  Argument = ("(" * s * V "Sum" * ")" * s) * -(P"^") + "{" * s * V "Sum" * "}" * s + V "Tight",
  -- \sin 2x, \ln 3, \cos \frac{x}{2}: what stands close by, up to the next function
  Tight = Cf(V "TightFactor" * Cg(Cc "*" * V "TightFactor") ^ 0, fold),
  TightFactor = Cf((C(Number) / decimal * s + V "Frac" + V "Root" + V "Abs" + V "Bracket" + V "Simple") * Cg(P"^" * s * (P"{" * s * "\\circ" * s * "}" + "\\circ") * s * Cc "deg" * Cc(false)
    + "^" * s * Cc "^" * script) ^ 0, function(t, operator, u) return u and fold(t, operator, u) or { op = operator, t } end),
  Big = Cmt(P"\\" * C(letter ^ 1), function(_, _, w) return ({ sum = true, prod = true, int = true, lim = true })[w] or false, w end) * s
    * (P"_" * s * ("{" * s * V "Relation" * "}" * s + script) + Cc(false)) * (P"^" * s * script + Cc(false)) * V "Product"
    / function(name, lower, upper, body) return { op = "big", name = name, lower = lower or nil, upper = upper or nil, body = body } end,
  Matrix = P"\\begin" * s * "{" * ((C(S "pbvBV" ^ -1) * "matrix" + C(P"small") * "matrix") * P"}" + C(P"array") * "}" * s * (P"{" * (1 - P"}") ^ 0 * "}") ^ -1) * s * Ct(V "Row" * (command "cr" * V "Row") ^ 0)
    * command "cr" ^ -1 * P"\\end" * s * "{" * (1 - P"}") ^ 0 * "}" * s / function(kind, rows) return { op = "matrix", kind = kind, rows = rows } end,
  Row = Ct(V "Sum" * (sym "&" * V "Sum") ^ 0),
  Bracket = C(S "([") * s * items * C(S ")]") * s / bracket + command "langle" * items * command "rangle" / function(parts) return bracket("(", parts, ")") end,
  -- braces around one thing are grouping; \{x\} is a set of one
  Set = P"\\{" * s * items * P"\\}" * s / collection + P"\\{" * s * "\\}" * s / named "empty"
    + P"{" * s * items * "}" * s / function(parts) return #parts == 1 and { op = "paren", parts[1] } or collection(parts) end
    + P"{" * s * "}" * s / named "empty",
  Abs = sym "|" * V "Sum" * sym "|" / function(t) return fn("abs", t) end
    + command "lfloor" * V "Sum" * command "rfloor" / function(t) return fn("floor", t) end
    + command "lceil" * V "Sum" * command "rceil" / function(t) return fn("ceil", t) end,
  Simple = command "pi" / named "pi" + command "infty" / named "inf" + command "emptyset" / named "empty"
    + P"\\mathbb" * s * (P"{" * s * "R" * s * "}" + "R") * s / named "reals" + P"\\mathbb" * s * (P"{" * s * "Z" * s * "}" + "Z") * s / named "integers"
    + P"\\text{" * C((1 - S "{}") ^ 1) * "}" * s / function(text) return { op = "text", s = text } end
    + V "Symbol",
  Symbol = (Cmt(P"\\" * C(letter ^ 1), function(_, _, w) return greek[w] or false, w end) * s / function(w) return { op = "var", name = w } end + Word / word)
    * (P"_" * s * (P"{" * C((1 - S "{}") ^ 1) * "}" + C(letter + digit ^ 1)) * s + Cc(false)) / function(t, index)
      if not index then return t end
      return { op = "var", name = (t.name or t.w) .. "_" .. index:gsub("%s", "") }
    end,
}
local compiled = P(rules)

-- ---- afterwards

local children = { "parts", "args", "rows" }

-- xy^2 is x y^2: a power is the last letter's
local function power_of_last(t)
  local w, power = t[1].w, t[2]
  local out = word(w:sub(1, 1))
  for i = 2, #w - 1 do out = { op = "*", out, word(w:sub(i, i)) } end
  return { op = "*", out, { op = "^", word(w:sub(-1)), power } }
end

-- Parentheses that only group go, and the degrees and percent signs stay; the depth is bounded.
local function settle(t, depth)
  if depth > MAX_DEPTH then error("too deep", 0) end
  if t.op == "^" and t[1].op == "word" then t = power_of_last(t) end
  while t.op == "paren" do t = t[1] end
  for i = 1, #t do
    if type(t[i]) == "table" then t[i] = settle(t[i], depth + 1) end
  end
  for _, field in ipairs(children) do
    local list = t[field]
    if list then
      for i = 1, #list do
        if list[i].op then
          list[i] = settle(list[i], depth + 1)
        else
          for j = 1, #list[i] do list[i][j] = settle(list[i][j], depth + 1) end
        end
      end
    end
  end
  for _, field in ipairs { "index", "lower", "upper", "body" } do
    if t[field] then t[field] = settle(t[field], depth + 1) end
  end
  return t
end

local function list_of(parts) return #parts == 1 and not parts.comma and parts[1] or { op = "list", parts = parts } end

-- "p=5,q=2; p=7,q=2": groups between semicolons, each a tuple
local function semicolon_groups(text)
  local depth = 0
  local groups, from, commas = {}, 1, false
  for at, c in text:gmatch("()([%(%[{%)%]},;])") do
    if c == ";" and depth == 0 then
      groups[#groups + 1], from = text:sub(from, at - 1), at + 1
    elseif c == "," then
      commas = commas or depth == 0
    elseif c ~= ";" then
      depth = depth + ((c == "(" or c == "[" or c == "{") and 1 or -1)
    end
  end
  groups[#groups + 1] = text:sub(from)
  return #groups > 1 and commas and groups or nil
end

local function read(text)
  local parts = compiled:match(text)
  return parts and settle(list_of(parts), 0)
end

--- The tree of a text in grammar.spelling, or nil.
---@param text string
---@return table|nil
function grammar.parse(text)
  if #text > MAX_BYTES or text == "" then return nil end
  local groups = text:find(";", 1, true) and semicolon_groups(text)
  if groups then
    local list = { op = "list", parts = {} }
    for i, g in ipairs(groups) do
      local ok, t = pcall(read, g)
      if not ok or not t then return nil end
      list.parts[i] = t.op == "list" and { op = "tuple", open = "(", close = ")", parts = t.parts } or t
    end
    return list
  end
  local ok, t = pcall(read, text)
  if ok then return t or nil end
  return nil
end

return grammar
