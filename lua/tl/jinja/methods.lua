--- methods.lua: the methods of strings, lists and dicts that templates call.
local V = require "tl.jinja.values"
local text = require "tl.jinja.text"
local format = require "tl.jinja.format"

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

function STRING.split(s, args)
  local sep = optional_string(args[1], "split")
  if sep == "" then V.fail "split wants a separator that is not empty" end
  return V.list(text.split(s, sep, optional_int(args[2], "split")))
end
function STRING.rsplit(s, args)
  local sep, limit = optional_string(args[1], "rsplit"), optional_int(args[2], "rsplit")
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
function STRING.splitlines(s, args) return V.list(text.lines(s, V.truth(args[1] or false))) end

local function edge(name, matches)
  STRING[name] = function(s, args)
    local start, stop = optional_int(args[2], name), optional_int(args[3], name)
    if start or stop then s = V.slice(s, start, stop) end
    local wanted = V.python_type(args[1]) == "tuple" and args[1] or { string_of(args[1], name) }
    for _, w in ipairs(wanted) do
      if matches(s, string_of(w, name)) then return true end
    end
    return false
  end
end
edge("startswith", function(s, w) return s:sub(1, #w) == w end)
edge("endswith", function(s, w) return w == "" or s:sub(-#w) == w end)

--- str.replace, its length known before it is made.
function methods.replace(s, old, new, limit)
  local n, at = 0, 1
  if old == "" then
    n = text.length(s) + 1
  elseif #new > #old then
    while true do
      local _, stop = s:find(old, at, true)
      if not stop then break end
      n, at = n + 1, stop + 1
    end
  end
  if limit and limit >= 0 then n = math.min(n, limit) end
  V.spend_text(#s + n * math.max(0, #new - #old))
  return text.replace(s, old, new, limit)
end
function STRING.replace(s, args)
  return methods.replace(s, string_of(args[1], "replace"), string_of(args[2], "replace"), optional_int(args[3], "replace"))
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
    while at <= #part + 1 do
      local i = part:find(sub, at, true)
      if not i then break end
      found = i
      if not last then break end
      at = i + 1
    end
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
  if args[2] or args[3] then
    local start = optional_int(args[2], "count")
    if start and start > text.length(s) then return 0 end
    s = V.slice(s, start, optional_int(args[3], "count"))
  end
  if sub == "" then return text.length(s) + 1 end
  return #text.split(s, sub) - 1
end
function STRING.join(s, args)
  local out = {}
  for i, v in ipairs(V.iter(V.defined(args[1]))) do out[i] = string_of(v, "join") end
  return table.concat(out, s)
end
local function separator(args, name)
  local sep = string_of(args[1], name)
  if sep == "" then V.fail("%s wants a separator that is not empty", name) end
  return sep
end
function STRING.partition(s, args)
  local i, j = s:find(separator(args, "partition"), 1, true)
  if not i then return V.tuple { s, "", "" } end
  return V.tuple { s:sub(1, i - 1), s:sub(i, j), s:sub(j + 1) }
end
function STRING.rpartition(s, args)
  local sep = separator(args, "rpartition")
  local parts = text.rsplit(s, sep, 1)
  if #parts == 1 then return V.tuple { "", "", s } end
  return V.tuple { parts[1], sep, parts[2] }
end
function STRING.zfill(s, args)
  local sign = s:match "^[+-]" or ""
  local width = optional_int(args[1], "zfill") or 0
  V.spend_text(width)
  return sign .. text.pad(s:sub(#sign + 1), width - #sign, ">", "0")
end
-- a width and the character that fills it
local function field_of(args, name)
  local width, fill = optional_int(args[1], name) or 0, optional_string(args[2], name) or " "
  if text.length(fill) ~= 1 then V.fail("%s: the fill character must be exactly one character long", name) end
  V.spend_text(width * #fill)
  return width, fill
end
for name, align in pairs { ljust = "<", rjust = ">" } do
  STRING[name] = function(s, args)
    local width, fill = field_of(args, name)
    return text.pad(s, width, align, fill)
  end
end
function STRING.center(s, args)
  -- str.center puts the odd blank on the left when the width is odd
  local width, fill = field_of(args, "center")
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
all("isspace", text.is_space)
all("isdigit", is_digit)
all("isnumeric", is_digit)
all("isdecimal", is_digit)
all("isalpha", text.is_letter)
all("isalnum", function(c) return is_digit(c) or text.is_letter(c) end)
function STRING.isupper(s) return text.is_upper(s) end
function STRING.islower(s) return text.is_lower(s) end
function STRING.istitle(s) return text.title(s) == s and text.upper(s) ~= text.lower(s) end
function STRING.casefold(s) return (text.lower(s):gsub("\195\159", "ss")) end
function STRING.expandtabs(s, args)
  local size, column, out = optional_int(args[1], "expandtabs") or 8, 0, {}
  for i, c in ipairs(text.chars(s)) do
    if c == "\t" then
      local n = size > 0 and size - column % size or 0
      V.spend_text(n)
      out[i], column = (" "):rep(n), column + n
    else
      out[i], column = c, (c == "\n" or c == "\r") and 0 or column + 1
    end
  end
  return table.concat(out)
end
function STRING.swapcase(s)
  local out = text.chars(s)
  for i, c in ipairs(out) do out[i] = text.upper(c) == c and text.lower(c) or text.upper(c) end
  return table.concat(out)
end

function STRING.format(s, args, named) return format.format(s, args, named) end

-- ---------------------------------------------------------------- lists
-- What the sandbox forbids, since it changes a value: reading the name gives an undefined that says so.
local FORBIDDEN = {
  list = { append = 1, clear = 1, extend = 1, insert = 1, pop = 1, remove = 1, reverse = 1, sort = 1 },
  dict = { clear = 1, pop = 1, popitem = 1, setdefault = 1, update = 1 },
}

function LIST.index(l, args)
  for i, v in ipairs(V.slice(l, optional_int(args[2], "index"), optional_int(args[3], "index"))) do
    if V.equal(v, args[1]) then return i - 1 + (optional_int(args[2], "index") or 0) end
  end
  V.fail("%s is not in list", V.repr(args[1]))
end
function LIST.count(l, args)
  local n = 0
  for _, v in ipairs(l) do n = n + (V.equal(v, args[1]) and 1 or 0) end
  return n
end
function LIST.copy(l) return V.slice(l) end

-- ---------------------------------------------------------------- dicts
--- The pairs of a dict, in order.
function methods.items(d)
  local out = {}
  for i, k in ipairs(V.keys(d)) do out[i] = V.tuple { k, d[k] } end
  return V.list(out)
end
function DICT.items(d) return V.view(methods.items(d), "dict_items") end
function DICT.keys(d) return V.view(V.keys(d), "dict_keys") end
function DICT.values(d)
  local out = {}
  for i, k in ipairs(V.keys(d)) do out[i] = d[k] end
  return V.view(out, "dict_values")
end
function DICT.get(d, args)
  local v = d[V.hashable(args[1])]
  if v == nil then v = args[2] end
  return V.from_lua(v)
end
function DICT.copy(d)
  local out = V.dict()
  for _, k in ipairs(V.keys(d)) do V.set(out, k, d[k]) end
  return out
end

-- how many arguments a method takes: { least, most }
local COUNTS = {
  string = { strip = { 0, 1 }, lstrip = { 0, 1 }, rstrip = { 0, 1 }, split = { 0, 2 }, rsplit = { 0, 2 }, splitlines = { 0, 1 },
    startswith = { 1, 3 }, endswith = { 1, 3 }, find = { 1, 3 }, rfind = { 1, 3 }, index = { 1, 3 }, rindex = { 1, 3 }, count = { 1, 3 },
    replace = { 2, 3 }, removeprefix = { 1, 1 }, removesuffix = { 1, 1 }, join = { 1, 1 }, partition = { 1, 1 }, rpartition = { 1, 1 },
    zfill = { 1, 1 }, ljust = { 1, 2 }, rjust = { 1, 2 }, center = { 1, 2 }, expandtabs = { 0, 1 }, format = { 0, math.huge } },
  list = { index = { 1, 3 }, count = { 1, 1 } },
  dict = { get = { 1, 2 } },
}
-- the arguments that may be given by name
local NAMED = { split = { sep = 1, maxsplit = 2 }, rsplit = { sep = 1, maxsplit = 2 }, splitlines = { keepends = 1 }, replace = { count = 3 },
  expandtabs = { tabsize = 1 } }
local NO_ARGUMENTS = { 0, 0 }

local function placed(name, args, named, count)
  local out, n = {}, #args
  for i = 1, n do out[i] = args[i] end
  for _, k in ipairs(named) do
    local at = (NAMED[name] or {})[k]
    if not at or out[at] ~= nil then V.fail("%s() has no argument '%s'", name, k) end
    out[at] = named[k]
    n = n + 1
  end
  if n < count[1] or n > count[2] then
    V.fail("%s() takes %s, %d given", name, count[1] == count[2] and ("%d arguments"):format(count[1])
      or ("%d to %d arguments"):format(count[1], count[2]), n)
  end
  return out
end

local BY_TYPE = { string = STRING, list = LIST, dict = DICT }

--- The method `name` of v, bound to v; nil when its type has none.
function methods.find(v, name)
  local t = V.type(v)
  local fn = BY_TYPE[t] and BY_TYPE[t][name]
  if t == "list" and getmetatable(v) and (getmetatable(v).__tuple or getmetatable(v).__range) then
    if getmetatable(v).__group and (name == "grouper" or name == "list") then return v[name == "list" and 2 or 1] end
    return (name == "index" or name == "count") and V.callable(function(args) return fn(v, args) end) or nil
  end
  if FORBIDDEN[t] and FORBIDDEN[t][name] then
    return V.undefined(("'%s' of a %s changes it, which a template may not do"):format(name, V.python_type(v)))
  end
  if not fn then return nil end
  local count = COUNTS[t][name] or NO_ARGUMENTS
  return V.callable(function(args, named)
    if name == "format" then return fn(v, args, named or {}) end
    return fn(v, placed(name, args, named or {}, count))
  end)
end

return methods
