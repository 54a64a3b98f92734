--- methods.lua: the methods of strings, lists and dicts that templates call, and Python's two ways to format a string.
local V = require "tl.jinja.values"
local text = require "tl.jinja.text"

local methods = {}
local STRING, LIST, DICT = {}, {}, {}

local function optional_string(v, what)
  if v == nil or v == V.none then return nil end
  if type(v) ~= "string" then V.fail("%s wants a string, not %s", what, V.python_type(V.defined(v))) end
  return v
end
local function string_of(v, what)
  return optional_string(v, what) or V.fail("%s wants a string", what)
end
local function optional_int(v, what)
  if v == nil or v == V.none then return nil end
  local x, float = V.number(V.defined(v))
  if not x or float then V.fail("%s wants an integer, not %s", what, V.python_type(v)) end
  return x
end

-- ---------------------------------------------------------------- strings
for _, name in ipairs { "strip", "lstrip", "rstrip" } do
  STRING[name] = function(s, args) return text[name](s, optional_string(args[1], name)) end
end
for _, name in ipairs { "upper", "lower", "title", "capitalize" } do
  STRING[name] = function(s) return text[name](s) end
end

function STRING.split(s, args, named)
  local sep = optional_string(args[1] or named.sep, "split")
  if sep == "" then V.fail "split wants a separator that is not empty" end
  return V.list(text.split(s, sep, optional_int(args[2] or named.maxsplit, "split")))
end
function STRING.rsplit(s, args, named)
  local sep, limit = optional_string(args[1] or named.sep, "rsplit"), optional_int(args[2] or named.maxsplit, "rsplit")
  if sep == "" then V.fail "rsplit wants a separator that is not empty" end
  if sep or not limit or limit < 0 then return V.list(text.rsplit(s, sep, limit)) end
  local words, rest = text.split(s), text.rstrip(s)
  local out = {}
  for i = #words, math.max(1, #words - limit + 1), -1 do
    table.insert(out, 1, words[i])
    rest = text.rstrip(rest:sub(1, #rest - #words[i]))
  end
  if rest ~= "" then table.insert(out, 1, rest) end
  return V.list(out)
end
function STRING.splitlines(s, args, named) return V.list(text.lines(s, V.truth(args[1] or named.keepends or false))) end

local function edge(name, matches)
  STRING[name] = function(s, args)
    local start, stop = optional_int(args[2], name), optional_int(args[3], name)
    if start or stop then s = V.slice(s, start, stop) end
    local wanted = V.type(args[1]) == "list" and args[1] or { string_of(args[1], name) }
    for _, w in ipairs(wanted) do
      if matches(s, string_of(w, name)) then return true end
    end
    return false
  end
end
edge("startswith", function(s, w) return s:sub(1, #w) == w end)
edge("endswith", function(s, w) return w == "" or s:sub(-#w) == w end)

function STRING.replace(s, args, named)
  return text.replace(s, string_of(args[1], "replace"), string_of(args[2], "replace"), optional_int(args[3] or named.count, "replace"))
end
function STRING.removeprefix(s, args)
  local p = string_of(args[1], "removeprefix")
  return s:sub(1, #p) == p and s:sub(#p + 1) or s
end
function STRING.removesuffix(s, args)
  local p = string_of(args[1], "removesuffix")
  return p ~= "" and s:sub(-#p) == p and s:sub(1, -#p - 1) or s
end

-- find and rfind count characters; offsets of the search are characters too
local function finder(name, last, missing)
  STRING[name] = function(s, args)
    local sub, start = string_of(args[1], name), optional_int(args[2], name) or 0
    local stop = optional_int(args[3], name)
    local n = text.length(s)
    if start < 0 then start = math.max(0, n + start) end
    if start > n then return missing() end
    local part = V.slice(s, start, stop)
    local at, found = 1, nil
    repeat
      local i = part:find(sub, at, true)
      if not i then break end
      found = i
      at = i + 1
    until not last
    if not found then return missing() end
    return start + text.length(part:sub(1, found - 1))
  end
end
finder("find", false, function() return -1 end)
finder("rfind", true, function() return -1 end)
finder("index", false, function() V.fail "substring not found" end)
finder("rindex", true, function() V.fail "substring not found" end)

function STRING.count(s, args)
  local sub = string_of(args[1], "count")
  if sub == "" then return text.length(s) + 1 end
  return #text.split(s, sub) - 1
end
function STRING.join(s, args)
  local out = {}
  for i, v in ipairs(V.iter(V.defined(args[1]))) do out[i] = string_of(v, "join") end
  return table.concat(out, s)
end
function STRING.partition(s, args)
  local i, j = s:find(string_of(args[1], "partition"), 1, true)
  if not i then return V.tuple { s, "", "" } end
  return V.tuple { s:sub(1, i - 1), s:sub(i, j), s:sub(j + 1) }
end
function STRING.rpartition(s, args)
  local sep = string_of(args[1], "rpartition")
  local parts = text.rsplit(s, sep, 1)
  if #parts == 1 then return V.tuple { "", "", s } end
  return V.tuple { parts[1], sep, parts[2] }
end
function STRING.zfill(s, args)
  local sign = s:match "^[+-]" or ""
  local width = optional_int(args[1], "zfill") or 0
  return sign .. text.pad(s:sub(#sign + 1), width - #sign, ">", "0")
end
for name, align in pairs { ljust = "<", rjust = ">" } do
  STRING[name] = function(s, args) return text.pad(s, optional_int(args[1], name) or 0, align, optional_string(args[2], name)) end
end
function STRING.center(s, args)
  -- str.center puts the odd blank on the left when the width is odd
  local width, fill = optional_int(args[1], "center") or 0, optional_string(args[2], "center") or " "
  local n = width - text.length(s)
  if n <= 0 then return s end
  local left = math.floor(n / 2) + (n % 2 == 1 and width % 2 == 1 and 1 or 0)
  return fill:rep(left) .. s .. fill:rep(n - left)
end

local function all(name, matches)
  STRING[name] = function(s)
    local chars = text.chars(s)
    for _, c in ipairs(chars) do
      if not matches(c) then return false end
    end
    return #chars > 0
  end
end
local function is_digit(c) return c:find "^%d$" ~= nil end
local function is_letter(c) return #c == 1 and c:find "%a" ~= nil or #c > 1 and (text.is_cased(c) or text.code(c) >= 0x3040) end
all("isspace", text.is_space)
all("isdigit", is_digit)
all("isnumeric", is_digit)
all("isdecimal", is_digit)
all("isalpha", is_letter)
all("isalnum", function(c) return is_digit(c) or is_letter(c) end)
function STRING.isupper(s) return text.upper(s) == s and text.lower(s) ~= s end
function STRING.islower(s) return text.lower(s) == s and text.upper(s) ~= s end
function STRING.swapcase(s)
  local out = text.chars(s)
  for i, c in ipairs(out) do out[i] = text.upper(c) == c and text.lower(c) or text.upper(c) end
  return table.concat(out)
end

-- ---------------------------------------------------------------- formatting
-- A value by a format: flags, width, precision, conversion.
local function formatted(v, align, sign, zero, width, comma, precision, kind)
  local x, float = V.number(v)
  local s
  if kind == "" then kind = type(v) == "string" and "s" or x and type(v) ~= "boolean" and (float and "g" or "d") or "s" end
  if kind == "s" or kind == "r" then
    s = kind == "r" and V.repr(v) or V.string(v)
    if precision then s = V.slice(s, 0, precision) end
  elseif not x then
    V.fail("a number is wanted for format '%s', not %s", kind, V.python_type(V.defined(v)))
  elseif kind == "d" or kind == "i" then
    s = text.integer(x < 0 and math.ceil(x) or math.floor(x))
  elseif kind == "x" or kind == "X" or kind == "o" then
    s = (x < 0 and "-" or "") .. ("%" .. kind):format(math.abs(x))
  elseif kind == "%" then
    s = text.fixed(x * 100, math.min(precision or 6, 99)) .. "%"
  elseif kind == "g" and not precision then
    s = V.string(v)
  elseif kind == "f" or kind == "F" then
    s = text.fixed(x, math.min(precision or 6, 99))
  else
    s = ("%." .. math.min(precision or 6, 99) .. kind):format(x)
  end
  if comma then
    local minus, whole, rest = s:match "^(%-?)(%d+)(.*)$"
    s = minus .. whole:reverse():gsub("(%d%d%d)", "%1,"):reverse():gsub("^,", "") .. rest
  end
  if x and (sign == "+" or sign == " ") and s:sub(1, 1) ~= "-" then s = sign .. s end
  width = math.min(width or 0, 10000)
  if zero and x and align == "" then
    local lead = s:match "^[+ -]?"
    return lead .. text.pad(s:sub(#lead + 1), width - #lead, ">", "0")
  end
  if align == "" then align = x and kind ~= "s" and ">" or "<" end
  return text.pad(s, width, align)
end

--- s % arguments
function methods.percent(s, arguments)
  local list = (getmetatable(arguments) or {}).__tuple and arguments or { arguments }
  local at, n = 1, 0
  local out = {}
  while true do
    local i = s:find("%", at, true)
    if not i then break end
    out[#out + 1] = s:sub(at, i - 1)
    local name, after = s:match("^%(([^)]*)%)()", i + 1)
    local flags, width, dot, digits, kind, stop = s:match("^([-+ 0#]*)(%d*)(%.?)(%d*)([%a%%])()", after or i + 1)
    if not kind then V.fail "incomplete format" end
    if kind == "%" then
      out[#out + 1] = "%"
    else
      local v
      if name then
        v = arguments[name]
      else
        n = n + 1
        v = list[n]
      end
      if v == nil then V.fail "not enough arguments for format string" end
      if not kind:find "[srdixXofFeEgG]" then V.fail("unsupported format character '%s'", kind) end
      out[#out + 1] = formatted(v, flags:find("-", 1, true) and "<" or kind:find "[sr]" and ">" or "", flags:match "[+ ]" or "",
        flags:find("0", 1, true), tonumber(width), false, dot ~= "" and (tonumber(digits) or 0) or nil, kind)
    end
    at = stop
  end
  if n < #list and V.type(arguments) ~= "dict" then V.fail "not all arguments converted during string formatting" end
  out[#out + 1] = s:sub(at)
  return table.concat(out)
end

-- "{name.field[0]!r:>10}" with its value
local function replaced(spec, args, named, auto)
  local name, conversion, format = spec:match "^([^!:]*)!?([rs]?):?(.*)$"
  local head, path = name:match "^([%w_]*)(.*)$"
  local v
  if head == "" then
    auto.n = auto.n + 1
    v = args[auto.n]
  elseif head:find "^%d+$" then
    v = args[tonumber(head) + 1]
  else
    v = named[head]
  end
  if v == nil then V.fail("format has no value for '{%s}'", spec) end
  for dot, key in path:gmatch "([.%[])([%w_]+)%]?" do
    local k = dot == "[" and tonumber(key)
    v = k and V.type(v) == "list" and V.index(v, k) or type(v) == "table" and v[key] or nil
    if v == nil then V.fail("format finds nothing at '{%s}'", spec) end
  end
  if conversion == "r" then v = V.repr(v) end
  local align, sign, zero, width, comma, dot, digits, kind = format:match "^([<>^]?)([+ -]?)(0?)(%d*)(,?)(%.?)(%d*)([a-zA-Z%%]?)$"
  if not align then V.fail("unsupported format '%s'", format) end
  return formatted(v, align, sign, zero == "0", tonumber(width), comma == ",", dot ~= "" and tonumber(digits) or nil, kind)
end

function STRING.format(s, args, named)
  local out, at, auto = {}, 1, { n = 0 }
  while true do
    local i = s:find("[{}]", at)
    if not i then break end
    out[#out + 1] = s:sub(at, i - 1)
    local c = s:sub(i, i)
    if s:sub(i + 1, i + 1) == c then
      out[#out + 1] = c
      at = i + 2
    else
      local stop = c == "{" and s:find("}", i, true)
      if not stop then V.fail("single '%s' in a format string", c) end
      out[#out + 1] = replaced(s:sub(i + 1, stop - 1), args, named, auto)
      at = stop + 1
    end
  end
  out[#out + 1] = s:sub(at)
  return table.concat(out)
end

-- ---------------------------------------------------------------- lists
function LIST.append(l, args)
  l[#l + 1] = args[1]
  return V.none
end
function LIST.extend(l, args)
  for _, v in ipairs(V.iter(args[1])) do l[#l + 1] = v end
  return V.none
end
function LIST.insert(l, args)
  local i = optional_int(args[1], "insert")
  if i < 0 then i = math.max(0, #l + i) end
  table.insert(l, math.min(i, #l) + 1, args[2])
  return V.none
end
function LIST.pop(l, args)
  local i = optional_int(args[1], "pop") or -1
  if i < 0 then i = #l + i end
  if i < 0 or i >= #l then V.fail "pop index out of range" end
  return table.remove(l, i + 1)
end
function LIST.index(l, args)
  for i, v in ipairs(l) do
    if V.equal(v, args[1]) then return i - 1 end
  end
  V.fail("%s is not in list", V.repr(args[1]))
end
function LIST.count(l, args)
  local n = 0
  for _, v in ipairs(l) do n = n + (V.equal(v, args[1]) and 1 or 0) end
  return n
end
function LIST.copy(l) return V.slice(l) end
function LIST.reverse(l)
  for i = 1, math.floor(#l / 2) do l[i], l[#l - i + 1] = l[#l - i + 1], l[i] end
  return V.none
end

-- ---------------------------------------------------------------- dicts
--- The pairs of a dict, in order.
function methods.items(d)
  local out = {}
  for i, k in ipairs(V.keys(d)) do out[i] = V.tuple { k, d[k] } end
  return V.list(out)
end
function DICT.items(d) return methods.items(d) end
function DICT.keys(d) return V.list(V.keys(d)) end
function DICT.values(d)
  local out = {}
  for i, k in ipairs(V.keys(d)) do out[i] = d[k] end
  return V.list(out)
end
function DICT.get(d, args)
  local v = d[V.number(args[1]) or args[1]]
  if v == nil then v = args[2] end
  return V.from_lua(v)
end
function DICT.copy(d)
  local out = V.dict()
  for _, k in ipairs(V.keys(d)) do V.set(out, k, d[k]) end
  return out
end
function DICT.update(d, args, named)
  if args[1] then
    for _, k in ipairs(V.keys(args[1])) do V.set(d, k, args[1][k]) end
  end
  for _, k in ipairs(named) do V.set(d, k, named[k]) end
  return V.none
end
function DICT.setdefault(d, args)
  if d[args[1]] == nil then V.set(d, args[1], V.from_lua(args[2])) end
  return d[args[1]]
end
function DICT.pop(d, args)
  local v = d[args[1]]
  if v == nil then
    if args[2] == nil then V.fail("key %s is not in the dict", V.repr(args[1])) end
    return args[2]
  end
  local order = (getmetatable(d) or {}).__order or {}
  for i = #order, 1, -1 do
    if order[i] == args[1] then table.remove(order, i) end
  end
  d[args[1]] = nil
  return v
end

local BY_TYPE = { string = STRING, list = LIST, dict = DICT }

--- The method `name` of v, bound to v; nil when its type has none.
function methods.find(v, name)
  local of = BY_TYPE[V.type(v)]
  local fn = of and of[name]
  return fn and V.callable(function(args, named) return fn(v, args, named or {}) end) or nil
end

return methods
