--- filters_text.lua: the filters of text, of numbers, and tojson.
local V = require "tl.jinja.values"
local text = require "tl.jinja.text"
local methods = require "tl.jinja.methods"
local format = require "tl.jinja.format"
local dumps = require "tl.jinja.dumps"
local signature = require "tl.jinja.signature"

local filters = {}
local function define(name, parameters, fn) filters[name] = signature(name, parameters, fn) end

-- an argument that is none counts as left out, where Python's default is None
local function given(v) if v ~= V.none then return v end end

local function number_of(v, what)
  local x, float = V.number(V.defined(v))
  if not x then V.fail("%s wants a number, not %s", what, V.python_type(v)) end
  return x, float
end
local function integer_of(v, what)
  local x, float = number_of(v, what)
  if float then V.fail("%s wants an integer, not float", what) end
  return x
end
local function string_of(v, what)
  if type(v) ~= "string" then V.fail("%s wants a text, not %s", what, V.python_type(V.defined(v))) end
  return v
end

-- ---------------------------------------------------------------- text
define("trim", "chars?", function(v, chars)
  chars = given(chars)
  return text.strip(V.string(v), chars and string_of(chars, "trim"))
end)
define("upper", "", function(v) return text.upper(V.string(v)) end)
define("lower", "", function(v) return text.lower(V.string(v)) end)
define("capitalize", "", function(v) return text.capitalize(V.string(v)) end)
define("string", "", V.string)
define("safe", "", V.string)

--- Every word's first letter up, the others down; words begin after blanks, dashes and opening brackets.
define("title", "", function(v)
  local out, start = text.chars(V.string(v)), true
  for i, c in ipairs(out) do
    out[i] = start and text.upper(c) or text.lower(c)
    start = c:find "^[%-%({%[<]$" ~= nil or text.is_space(c)
  end
  return table.concat(out)
end)

local HTML = { ["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;", ["'"] = "&#39;", ['"'] = "&#34;" }
define("escape", "", function(v) return (V.string(v):gsub("[&<>'\"]", HTML)) end)

define("replace", "old new count?", function(v, old, new, count)
  count = given(count)
  return methods.replace(V.string(v), V.string(old), V.string(new), count and integer_of(count, "replace"))
end)

define("indent", "width? first? blank?", function(v, width, first, blank)
  local pad = width == nil and "    " or width
  if type(pad) ~= "string" then pad = (" "):rep(math.max(0, math.min(integer_of(pad, "indent"), 10000))) end
  local lines = text.lines(string_of(v, "indent") .. "\n")
  V.spend_text(#v + #lines * #pad)
  blank = blank ~= nil and V.truth(blank)
  for i = 2, #lines do
    if blank or lines[i] ~= "" then lines[i] = pad .. lines[i] end
  end
  local s = table.concat(lines, "\n")
  return first ~= nil and V.truth(first) and pad .. s or s
end)

define("center", "width?", function(v, width)
  return methods.find(V.string(v), "center").call({ width == nil and 80 or width })
end)

filters.format = function(v, args, named)
  if #named == 0 then return format.percent(V.string(v), V.tuple(args)) end
  if #args > 0 then V.fail "format takes arguments by position or by name, not both" end
  local d = V.dict()
  for _, k in ipairs(named) do V.set(d, k, named[k]) end
  return format.percent(V.string(v), d)
end

define("wordcount", "", function(v)
  local n, inside = 0, false
  for _, c in ipairs(text.chars(V.string(v))) do
    local word = c:find "^[%w_]$" ~= nil or text.is_letter(c)
    if word and not inside then n = n + 1 end
    inside = word
  end
  return n
end)

define("truncate", "length? killwords? end? leeway?", function(v, length, killwords, tail, leeway)
  local s, width = string_of(v, "truncate"), length == nil and 255 or integer_of(length, "truncate")
  tail = tail == nil and "..." or string_of(tail, "truncate")
  local more = given(leeway) == nil and 5 or integer_of(leeway, "truncate")
  if width < text.length(tail) then V.fail("truncate: the length %d is less than the ending's", width) end
  if more < 0 then V.fail "truncate: the leeway is negative" end
  if text.length(s) <= width + more then return s end
  local cut = V.slice(s, 0, width - text.length(tail))
  if not (killwords ~= nil and V.truth(killwords)) then cut = cut:match "^(.*) [^ ]*$" or cut end
  return cut .. tail
end)

define("striptags", "", function(v)
  local s = V.string(v):gsub("<!%-%-.-%-%->", ""):gsub("<[^>]*>", "")
  s = s:gsub("&lt;", "<"):gsub("&gt;", ">"):gsub("&#39;", "'"):gsub("&#34;", '"'):gsub("&quot;", '"'):gsub("&amp;", "&")
  return table.concat(text.split(s), " ")
end)

local function percent_encoded(v, safe)
  return (V.string(v):gsub("[^%w_.~%-" .. safe .. "]", function(c) return ("%%%02X"):format(c:byte()) end))
end
define("urlencode", "", function(v)
  local t = V.type(v)
  if t ~= "list" and t ~= "dict" and t ~= "view" and t ~= "generator" then return percent_encoded(v, "/") end
  local out = {}
  for i, pair in ipairs(t == "dict" and methods.items(v) or V.iter(v)) do
    local two = V.iter(pair)
    if #two ~= 2 then V.fail "urlencode wants pairs" end
    out[i] = (percent_encoded(two[1], "") .. "=" .. percent_encoded(two[2], "")):gsub("%%20", "+")
  end
  return table.concat(out, "&")
end)

-- the shortest unit in which the number is at least 1
define("filesizeformat", "binary?", function(v, binary)
  local x = V.number(filters.float(v, {}, {}))
  local two = binary ~= nil and V.truth(binary)
  local base, units = two and 1024 or 1000, "kMGTPEZY"
  if x == 1 then return "1 Byte" end
  if x < base then return ("%d Bytes"):format(x) end
  for i = 1, 8 do
    if x < base ^ (i + 1) or i == 8 then
      return text.fixed(base * x / base ^ (i + 1), 1) .. " " .. (two and units:sub(i, i):upper() .. "iB" or units:sub(i, i) .. "B")
    end
  end
end)

define("tojson", "ensure_ascii? indent? separators? sort_keys?", dumps)

-- ---------------------------------------------------------------- numbers
-- int(s, base) of Python
local function parse_int(s, base)
  s = text.strip(s)
  if s:find "__" or s:find "^_" or s:find "_$" then return nil end
  local sign, digits = s:match "^([+-]?)(%w[%w_]*)$"
  if not digits then return nil end
  digits = digits:gsub("_", ""):lower()
  local prefix = ({ ["0x"] = 16, ["0o"] = 8, ["0b"] = 2 })[digits:sub(1, 2)]
  if prefix and (base == 0 or base == prefix) then
    digits, base = digits:sub(3), prefix
  elseif base == 0 then
    if digits:find "^0+[1-9]" then return nil end
    base = 10
  end
  if base < 2 or base > 36 then return nil end
  local x = tonumber(digits, base)
  return x and (sign == "-" and -x or x)
end

local WORDS = { inf = math.huge, infinity = math.huge, nan = 0 / 0 }
-- float(s) of Python
local function parse_float(s)
  s = text.strip(s)
  if s:find "__" or s:find "^_" or s:find "_$" then return nil end
  local sign, rest = s:gsub("_", ""):lower():match "^([+-]?)(.*)$"
  local x = WORDS[rest]
  if not x and (rest:find "^%d+%.?%d*[e]?[+-]?%d*$" or rest:find "^%.%d+[e]?[+-]?%d*$") then x = tonumber(rest) end
  return x and (sign == "-" and -x or x)
end

local function truncated(x)
  if not x or x ~= x or math.abs(x) == math.huge then return nil end
  return x < 0 and math.ceil(x) or math.floor(x)
end
define("int", "default? base?", function(v, default, base)
  if default == nil then default = 0 end
  local x
  if type(v) == "string" then
    local found = parse_int(v, base == nil and 10 or integer_of(base, "int"))
    x = found or truncated(parse_float(v))
  else
    V.defined(v)
    x = truncated((V.number(v)))
  end
  if x == nil then return default end
  return x
end)
define("float", "default?", function(v, default)
  local x
  if type(v) == "string" then x = parse_float(v) else x = V.number(V.defined(v)) end
  if x then return V.float(x) end
  if default == nil then return V.float(0) end
  return default
end)
define("abs", "", function(v)
  local x, float = number_of(v, "abs")
  return float and V.float(math.abs(x)) or math.abs(x)
end)

--- Python's round: to even on the exact binary value, as printf does.
define("round", "precision? method?", function(v, precision, method)
  local x, float = number_of(v, "round")
  local digits = precision == nil and 0 or integer_of(precision, "round")
  local how = method == nil and "common" or method
  if how ~= "ceil" and how ~= "floor" and how ~= "common" then V.fail "round's method is 'common', 'ceil' or 'floor'" end
  if x ~= x or math.abs(x) == math.huge then return v end
  if how ~= "common" then return V.float((math[how](x * 10 ^ digits) + 0) / 10 ^ digits) end
  local r
  if digits >= 0 then r = tonumber(text.fixed(x, math.min(digits, 40)))
  else r = tonumber(text.fixed(x * 10 ^ digits, 0)) * 10 ^ -digits end
  return float and V.float(r) or r
end)

return filters
