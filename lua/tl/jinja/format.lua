--- format.lua: Python's two ways to format: "..." % arguments and "...".format(arguments).
---
--- Both come down to a field {fill, align, sign, alternate, zero, width, grouping, precision, kind} and a value.
local V = require "tl.jinja.values"
local text = require "tl.jinja.text"

local format = {}

local MAX_WIDTH, MAX_PRECISION = 10000, 300

local function bounded(n, most, what)
  if n and n > most then V.fail("a format's %s is at most %d, not %d", what, most, n) end
  return n
end

-- ---------------------------------------------------------------- numbers without their sign
local RADIX = { x = 16, X = 16, o = 8, b = 2 }
local PREFIX = { x = "0x", X = "0X", o = "0o", b = "0b" }
local DIGITS = "0123456789abcdef"

local function in_radix(x, kind, alternate)
  local base, out = RADIX[kind], {}
  repeat
    local d = x % base
    out[#out + 1] = DIGITS:sub(d + 1, d + 1)
    x = (x - d) / base
  until x == 0
  local s = table.concat(out):reverse()
  if kind == "X" then s = s:upper() end
  return (alternate and PREFIX[kind] or "") .. s
end

-- a float by e, f, g, % or Python's own way (kind "", which shows a fraction always)
local function float_body(x, kind, precision, alternate)
  if x ~= x then return kind:find "[EFG]" and "NAN" or "nan" end
  if x == math.huge then return (kind:find "[EFG]" and "INF" or "inf") .. (kind == "%" and "%" or "") end
  if kind == "%" then return text.printf(alternate and "#.*f" or ".*f", precision or 6, x * 100) .. "%" end
  if kind ~= "" then return text.printf((alternate and "#.*" or ".*") .. (kind == "n" and "g" or kind), precision or 6, x) end
  if not precision then return text.float(x) end
  local s = text.printf(".*g", precision, x)
  local digits, exponent = s:match "^([%d.]+)(e?.*)$"
  -- unlike g, at least one digit stands after the point, and the exponent comes one digit earlier
  if exponent == "" and not digits:find(".", 1, true) then
    if #digits >= math.max(1, precision) and #digits > 0 and x >= 10 ^ (math.max(1, precision) - 1) and math.max(1, precision) <= #digits then
      s = text.printf(".*e", math.max(1, precision) - 1, x)
      local mantissa, e = s:match "^([^e]*)(e.*)$"
      if mantissa:find(".", 1, true) then mantissa = mantissa:gsub("0+$", ""):gsub("%.$", "") end
      return mantissa .. e
    end
    return digits .. ".0"
  end
  return s
end

-- thousands apart
local function grouped(s, separator)
  local whole, rest = s:match "^(%d+)(.*)$"
  if not whole then return s end
  local out = whole:reverse():gsub("(%d%d%d)", "%1" .. separator):reverse()
  if out:sub(1, 1) == separator then out = out:sub(2) end
  return out .. rest
end

-- sign, prefix and body in a field; align "=" puts the fill after the sign
local function placed(sign, body, f, default_align)
  local width, fill, align = bounded(f.width, MAX_WIDTH, "width") or 0, f.fill or " ", f.align or default_align
  if f.zero then
    fill = f.fill or "0"
    align = f.align or (default_align == ">" and "=" or default_align)
  end
  if align == "=" then
    local prefix = body:match "^0[xXobB]" or ""
    local rest = body:sub(#prefix + 1)
    return sign .. prefix .. text.pad(rest, width - #sign - #prefix, ">", fill)
  end
  return text.pad(sign .. body, width, align, fill)
end

local function sign_of(x, f)
  if x < 0 or x == 0 and 1 / x < 0 then return "-" end
  return (f.sign == "+" or f.sign == " ") and f.sign or ""
end

local function place_number(x, body, f)
  return placed(sign_of(x, f), f.grouping and f.grouping ~= "" and grouped(body, f.grouping) or body, f, ">")
end

-- ---------------------------------------------------------------- %
local function percent_value(v, f)
  local kind, x, float = f.kind, V.number(v)
  if kind == "s" or kind == "r" or kind == "a" then
    local s = kind == "s" and V.string(v) or V.repr(v)
    if kind == "a" then s = text.ascii(s) end
    if f.precision then s = V.slice(s, 0, f.precision) end
    f.zero = false
    return placed("", s, f, ">")
  end
  if kind == "c" then
    if type(v) == "string" and text.length(v) == 1 then return placed("", v, f, ">") end
    if not x or float or x < 0 or x > 0x10FFFF then V.fail "%c wants a character or its code" end
    f.zero = false
    return placed("", text.char(x), f, ">")
  end
  if not x then V.fail("%%%s wants a number, not %s", kind, V.python_type(V.defined(v))) end
  if kind:find "[diu]" then
    if x ~= x or math.abs(x) == math.huge then V.fail("%%%s cannot show %s", kind, V.repr(v)) end
    x = x < 0 and math.ceil(x) or math.floor(x)
    local body = text.integer(math.abs(x))
    if f.precision then body = ("0"):rep(bounded(f.precision, MAX_PRECISION, "precision") - #body) .. body end
    return place_number(x == 0 and 0 or x, body, f)
  end
  if RADIX[kind] then
    if float then V.fail("%%%s wants an integer, not float", kind) end
    return place_number(x, in_radix(math.abs(x), kind, f.alternate), f)
  end
  if math.abs(x) == math.huge or x ~= x then f.zero = false end
  return place_number(x, float_body(math.abs(x), kind, bounded(f.precision, MAX_PRECISION, "precision"), f.alternate), f)
end

local function is_mapping(v)
  local t = V.type(v)
  return t == "dict" or t == "undefined" or t == "list" and V.python_type(v) ~= "tuple"
end

--- s % arguments: a tuple's elements, a dict's by name, or one value.
function format.percent(s, arguments)
  local list = V.python_type(arguments) == "tuple" and arguments or { arguments }
  local at, n, out = 1, 0, {}
  local function next_argument()
    n = n + 1
    if list[n] == nil then V.fail "not enough arguments for format string" end
    return list[n]
  end
  local function star(digits)
    if digits ~= "*" then return tonumber(digits) end
    local x, float = V.number(next_argument())
    if not x or float then V.fail "* wants an integer" end
    return x
  end
  while true do
    local i = s:find("%", at, true)
    if not i then break end
    out[#out + 1] = s:sub(at, i - 1)
    local name, after = s:match("^%(([^)]*)%)()", i + 1)
    local flags, width, dot, digits, kind, stop = s:match("^([-+ 0#]*)([%d*]*)(%.?)([%d*]*)[hlL]?([%a%%])()", after or i + 1)
    if not kind then V.fail "incomplete format" end
    if kind == "%" then
      out[#out + 1] = "%"
    else
      if name and V.type(arguments) ~= "dict" then V.fail "format requires a mapping" end
      local f = { align = flags:find("-", 1, true) and "<" or nil, sign = flags:match "%+" or flags:match " ", alternate = flags:find "#" ~= nil,
        zero = flags:find("0", 1, true) and not flags:find("-", 1, true), kind = kind }
      f.width = star(width)
      if dot ~= "" then f.precision = star(digits) or 0 end
      if not kind:find "[srauidxXoeEfFgGc]" then V.fail("unsupported format character '%s'", kind) end
      local v
      if name then v = arguments[name] else v = next_argument() end
      if v == nil then V.fail("the format's name '%s' is not there", name) end
      out[#out + 1] = percent_value(v, f)
    end
    at = stop
  end
  if n < #list and not is_mapping(arguments) then V.fail "not all arguments converted during string formatting" end
  out[#out + 1] = s:sub(at)
  return table.concat(out)
end

-- ---------------------------------------------------------------- str.format
-- "*>+#010,.3f" to a field
local function parse_spec(spec)
  local f = {}
  local first = spec:match("^[%z\1-\127\194-\244][\128-\191]*")
  if first and spec:find("^[<>=^]", #first + 1) then
    f.fill, f.align, spec = first, spec:sub(#first + 1, #first + 1), spec:sub(#first + 2)
  elseif spec:find "^[<>=^]" then
    f.align, spec = spec:sub(1, 1), spec:sub(2)
  end
  local sign, alternate, zero, width, grouping, dot, precision, kind = spec:match "^([+ -]?)(#?)(0?)(%d*)([,_]?)(%.?)(%d*)([a-zA-Z%%]?)$"
  if not sign or dot ~= "" and precision == "" or dot == "" and precision ~= "" then V.fail("Invalid format specifier '%s'", spec) end
  f.sign, f.alternate, f.zero, f.width = sign ~= "" and sign or nil, alternate ~= "", zero ~= "", tonumber(width)
  f.grouping, f.precision, f.kind = grouping, bounded(tonumber(precision), MAX_PRECISION, "precision"), kind
  return f
end

local function format_text(v, f)
  if f.kind ~= "" and f.kind ~= "s" then V.fail("Unknown format code '%s' for object of type 'str'", f.kind) end
  if f.sign or f.alternate or f.grouping ~= "" or f.align == "=" then V.fail "this format is for numbers, not for a str" end
  return placed("", f.precision and V.slice(v, 0, f.precision) or v, f, "<")
end

local function format_number(v, f)
  local x, float = V.number(v)
  local kind, size = f.kind, math.abs(x)
  if not float and (kind == "" or kind:find "^[dnxXobc]$") then
    if f.precision then V.fail "Precision not allowed in integer format specifier" end
    if kind == "c" then return placed("", text.char(x), f, ">") end
    if RADIX[kind] and f.grouping == "," then V.fail("Cannot specify ',' with '%s'", kind) end
    return place_number(x, RADIX[kind] and in_radix(size, kind, f.alternate) or text.integer(size), f)
  end
  if not kind:find "^[eEfFgGn%%]?$" then V.fail("Unknown format code '%s' for object of type '%s'", kind, V.python_type(v)) end
  return place_number(x, float_body(size, kind, f.precision, f.alternate), f)
end

local function format_value(v, spec)
  if spec == "" then return V.string(v) end
  if type(v) == "string" then return format_text(v, parse_spec(spec)) end
  if V.number(v) then return format_number(v, parse_spec(spec)) end
  V.fail("unsupported format string passed to %s.__format__", V.python_type(v))
end

-- the value that "name.field[0]" stands for; auto counts the fields without a name
local function lookup(field, args, named, auto)
  local access = require "tl.jinja.access"
  local head, path = field:match "^([^.%[]*)(.*)$"
  local v
  if head == "" or head:find "^%d+$" then
    local manual = head ~= ""
    if auto.manual ~= nil and auto.manual ~= manual then V.fail "format cannot mix {} and {0}" end
    auto.manual, auto.n = manual, auto.n + 1
    v = args[manual and tonumber(head) + 1 or auto.n]
    if v == nil then V.fail "Replacement index out of range for positional args tuple" end
  else
    v = named[head]
    if v == nil then V.fail("format has no value for '%s'", head) end
  end
  while path ~= "" do
    local name, rest = path:match "^%.([^.%[]+)(.*)$"
    local key, after = path:match "^%[([^%]]+)%](.*)$"
    if not name and not key then V.fail("format does not understand '%s'", path) end
    if name then v = access.attribute(v, name) else v = access.item(v, key:find "^%d+$" and tonumber(key) or key) end
    path = rest or after
  end
  return v
end

-- the place of the "}" that ends a field whose inside begins at `at`
local function field_end(s, at)
  local depth = 1
  while true do
    local i = s:find("[{}]", at)
    if not i then V.fail "expected '}' before end of string" end
    depth = depth + (s:sub(i, i) == "{" and 1 or -1)
    if depth == 0 then return i end
    at = i + 1
  end
end

local function expand(s, args, named, auto, depth)
  if depth > 2 then V.fail "Max string recursion exceeded" end
  local out, at = {}, 1
  while true do
    local i = s:find("[{}]", at)
    if not i then break end
    out[#out + 1] = s:sub(at, i - 1)
    local c = s:sub(i, i)
    if s:sub(i + 1, i + 1) == c then
      out[#out + 1] = c
      at = i + 2
    else
      if c == "}" then V.fail "Single '}' encountered in format string" end
      local stop = field_end(s, i + 1)
      local field, conversion, spec = s:sub(i + 1, stop - 1):match "^([^!:]*)(!?[^:]*):?(.*)$"
      local v = lookup(field, args, named, auto)
      if conversion == "!r" then v = V.repr(v)
      elseif conversion == "!s" then v = V.string(v)
      elseif conversion == "!a" then v = text.ascii(V.repr(v))
      elseif conversion ~= "" then V.fail("Unknown conversion specifier '%s'", conversion) end
      out[#out + 1] = format_value(v, expand(spec, args, named, auto, depth + 1))
      at = stop + 1
    end
  end
  out[#out + 1] = s:sub(at)
  return table.concat(out)
end

--- s.format(*args, **named)
function format.format(s, args, named) return expand(s, args, named, { n = 0 }, 1) end

return format
