--- text.lua: strings as Python sees them, over Lua's bytes: code points, whitespace, case, printf, the repr of numbers.
--- Strings are UTF-8; a byte that is not counts as one character.
local F = require "tl.ffi"
local ffi = require "ffi"

local text = {}

local CHAR = "[%z\1-\127\194-\244][\128-\191]*"

--- The characters of s as a list of strings.
function text.chars(s)
  local out, n = {}, 0
  if not s:find "[\128-\255]" then
    for i = 1, #s do out[i] = s:sub(i, i) end
    return out
  end
  for c in s:gmatch(CHAR) do n = n + 1; out[n] = c end
  return out
end

--- Number of characters.
function text.length(s)
  if not s:find "[\128-\255]" then return #s end
  local _, n = s:gsub(CHAR, "")
  return n
end

-- Beyond ASCII, what str.isspace takes.
local SPACE = { ["\194\133"] = true, ["\194\160"] = true, ["\225\154\128"] = true, ["\226\128\168"] = true, ["\226\128\169"] = true,
  ["\226\128\175"] = true, ["\226\129\159"] = true, ["\227\128\128"] = true }
for i = 0x80, 0x8A do SPACE["\226\128" .. string.char(i)] = true end

--- Whether c, one character, is white space.
function text.is_space(c)
  return c:find "^[ \t-\r\28-\31]$" ~= nil or SPACE[c] == true
end

local function left_of(s, drop)
  local at = 1
  while at <= #s do
    local c = s:match("^" .. CHAR, at) or s:sub(at, at)
    if not drop(c) then break end
    at = at + #c
  end
  return at
end

local function right_of(s, drop, from)
  local last = #s
  while last >= from do
    local first = last
    while first > from and s:byte(first) >= 0x80 and s:byte(first) < 0xC0 do first = first - 1 end
    if not drop(s:sub(first, last)) then break end
    last = first - 1
  end
  return last
end

local function dropper(set)
  if set == nil then return text.is_space end
  local among = {}
  for _, c in ipairs(text.chars(set)) do among[c] = true end
  return function(c) return among[c] end
end

--- str.strip, lstrip, rstrip; set: the characters to take away, white space unless given.
function text.strip(s, set)
  local drop = dropper(set)
  local from = left_of(s, drop)
  return s:sub(from, right_of(s, drop, from))
end
function text.lstrip(s, set) return s:sub(left_of(s, dropper(set))) end
function text.rstrip(s, set) return s:sub(1, right_of(s, dropper(set), 1)) end

--- str.split: without sep at runs of white space; at most limit cuts.
function text.split(s, sep, limit)
  local out, at = {}, 1
  limit = limit and limit >= 0 and limit or math.huge
  if sep then
    while #out < limit do
      local i, j = s:find(sep, at, true)
      if not i then break end
      out[#out + 1] = s:sub(at, i - 1)
      at = j + 1
    end
    out[#out + 1] = s:sub(at)
    return out
  end
  s = text.lstrip(s)
  while s ~= "" do
    if #out >= limit then
      out[#out + 1] = s  -- as it is, with the white space at its end
      break
    end
    local stop = 1
    while stop <= #s do
      local c = s:match("^" .. CHAR, stop) or s:sub(stop, stop)
      if text.is_space(c) then break end
      stop = stop + #c
    end
    out[#out + 1] = s:sub(1, stop - 1)
    s = text.lstrip(s:sub(stop))
  end
  return out
end

--- str.rsplit with a separator.
function text.rsplit(s, sep, limit)
  local all = text.split(s, sep)
  if not limit or limit < 0 or #all - 1 <= limit then return all end
  local out, keep = {}, #all - limit
  local cut = 0
  for i = 1, keep do cut = cut + #all[i] + (i > 1 and #(sep or " ") or 0) end
  out[1] = s:sub(1, cut)
  for i = keep + 1, #all do out[#out + 1] = all[i] end
  return out
end

--- str.splitlines for the line ends that occur: \n, \r\n, \r.
function text.lines(s, keep)
  local out, at = {}, 1
  while at <= #s do
    local i = s:find("[\r\n]", at)
    if not i then
      out[#out + 1] = s:sub(at)
      break
    end
    local j = s:sub(i, i + 1) == "\r\n" and i + 1 or i
    out[#out + 1] = s:sub(at, keep and j or i - 1)
    at = j + 1
  end
  return out
end

--- str.replace: at most limit times.
function text.replace(s, old, new, limit)
  limit = limit and limit >= 0 and limit or math.huge
  local out, at, n = {}, 1, 0
  if old == "" then
    local chars = text.chars(s)
    for i = 0, #chars do
      if i > 0 then out[#out + 1] = chars[i] end
      if n < limit then out[#out + 1], n = new, n + 1 end
    end
    return table.concat(out)
  end
  while n < limit do
    local i, j = s:find(old, at, true)
    if not i then break end
    out[#out + 1] = s:sub(at, i - 1)
    out[#out + 1] = new
    at, n = j + 1, n + 1
  end
  out[#out + 1] = s:sub(at)
  return table.concat(out)
end

-- Case beyond ASCII is utf8proc's: one character to one character.
ffi.cdef "int32_t utf8proc_toupper(int32_t c); int32_t utf8proc_tolower(int32_t c); int32_t utf8proc_totitle(int32_t c);"
local function unicode_case(name) return F.C["utf8proc_to" .. name] end

--- The code point of one character, and the character of a code point.
function text.code(c)
  local a, b, d, e = c:byte(1, 4)
  if a < 0x80 then return a end
  if a < 0xE0 and b then return (a % 32) * 64 + b % 64 end
  if a < 0xF0 and d then return (a % 16) * 4096 + (b % 64) * 64 + d % 64 end
  if e then return (a % 8) * 262144 + (b % 64) * 4096 + (d % 64) * 64 + e % 64 end
  return a
end
function text.char(n)
  local char, floor = string.char, math.floor
  if n < 0x80 then return char(n) end
  if n < 0x800 then return char(0xC0 + floor(n / 64), 0x80 + n % 64) end
  if n < 0x10000 then return char(0xE0 + floor(n / 4096), 0x80 + floor(n / 64) % 64, 0x80 + n % 64) end
  return char(0xF0 + floor(n / 262144), 0x80 + floor(n / 4096) % 64, 0x80 + floor(n / 64) % 64, 0x80 + n % 64)
end

local function map_case(s, ascii, name)
  if not s:find "[\128-\255]" then return ascii(s) end
  local fn = unicode_case(name)
  return (s:gsub(CHAR, function(c)
    if #c == 1 then return ascii(c) end
    if c == "\195\159" and name ~= "lower" then return name == "upper" and "SS" or "Ss" end
    return text.char(fn(text.code(c)))
  end))
end
function text.upper(s) return map_case(s, string.upper, "upper") end
function text.lower(s) return map_case(s, string.lower, "lower") end
local function title_case(c) return map_case(c, string.upper, "title") end

--- Whether a character has case.
function text.is_cased(c) return text.upper(c) ~= text.lower(c) end

-- Whether all cased characters are of that case, and there is one.
function text.is_upper(s) return text.upper(s) == s and text.lower(s) ~= s end
function text.is_lower(s) return text.lower(s) == s and text.upper(s) ~= s end

ffi.cdef "const char *utf8proc_category_string(int32_t c);"
--- Whether a character is a letter (the categories L*).
function text.is_letter(c)
  if #c == 1 then return c:find "^%a$" ~= nil end
  return ffi.string(F.C.utf8proc_category_string(text.code(c))):sub(1, 1) == "L"
end

--- str.title: the first cased character of each run of cased ones up, the others down.
function text.title(s)
  local out, inside = text.chars(s), false
  for i, c in ipairs(out) do
    out[i] = inside and text.lower(c) or title_case(c)
    inside = text.is_cased(c)
  end
  return table.concat(out)
end

--- str.capitalize.
function text.capitalize(s)
  local first = s:match("^" .. CHAR)
  return first and title_case(first) .. text.lower(s:sub(#first + 1)) or s
end

--- A number as Python's repr writes it.
function text.integer(x) return (("%.0f"):format(x):gsub("^%-0$", "0")) end
function text.float(x)
  if x ~= x then return "nan" end
  if x == math.huge then return "inf" elseif x == -math.huge then return "-inf" end
  if x % 1 == 0 and math.abs(x) < 1e16 then return ("%.1f"):format(x) end
  for digits = 15, 17 do
    local s = ("%." .. digits .. "g"):format(x)
    if tonumber(s) == x then
      -- %g turns to exponents at its precision, Python at 16 digits; whole numbers were handled above
      return s
    end
  end
end

ffi.cdef "int snprintf(char *out, size_t n, const char *format, ...);"
local buffer = ffi.new "char[1024]"

--- C's printf of one double; spec without "%", with ".*" for the precision, which is at most 300. Exact halves go to the even
--- digit, as in Python (LuaJIT's string.format: away from 0).
function text.printf(spec, precision, x)
  return ffi.string(buffer, F.C.snprintf(buffer, 1024, "%" .. spec, ffi.cast("int", precision), ffi.cast("double", x)))
end

--- x with so many digits after the point.
function text.fixed(x, digits) return text.printf(".*f", digits, x) end

local ESCAPE = { ["\n"] = "\\n", ["\r"] = "\\r", ["\t"] = "\\t", ["\\"] = "\\\\" }

-- Whether Python shows a character beyond ASCII as it is: not the categories C* and Z*.
local function is_printable(c)
  local category = ffi.string(F.C.utf8proc_category_string(text.code(c)))
  return not category:find "^[CZ]"
end
local function escaped(c)
  local n = #c == 1 and c:byte() or text.code(c)
  return (n < 0x100 and "\\x%02x" or n < 0x10000 and "\\u%04x" or "\\U%08x"):format(n)
end

--- A string as Python's repr writes it.
function text.quote(s)
  local q = s:find("'", 1, true) and not s:find('"', 1, true) and '"' or "'"
  s = s:gsub("[%c\127\\" .. q .. "]", function(c)
    if c == q then return "\\" .. c end
    return ESCAPE[c] or escaped(c)
  end)
  if s:find "[\128-\255]" then
    s = s:gsub("[\194-\244][\128-\191]+", function(c) if not is_printable(c) then return escaped(c) end end)
  end
  return q .. s .. q
end

--- A repr with everything beyond ASCII escaped, Python's ascii().
function text.ascii(s) return (s:gsub("[\194-\244][\128-\191]+", escaped)) end

local JSON_ESCAPE = { ['"'] = '\\"', ["\\"] = "\\\\", ["\b"] = "\\b", ["\f"] = "\\f", ["\n"] = "\\n", ["\r"] = "\\r", ["\t"] = "\\t" }

--- A string as json.dumps writes it; ascii: with everything beyond ASCII as \u escapes.
function text.json(s, ascii)
  s = s:gsub('[%z\1-\31"\\]', function(c) return JSON_ESCAPE[c] or ("\\u%04x"):format(c:byte()) end)
  if ascii then
    s = s:gsub(CHAR, function(c)
      if #c == 1 then return c end
      local n = text.code(c)
      if n < 0x10000 then return ("\\u%04x"):format(n) end
      n = n - 0x10000
      return ("\\u%04x\\u%04x"):format(0xD800 + math.floor(n / 1024), 0xDC00 + n % 1024)
    end)
  end
  return '"' .. s .. '"'
end

--- s in a field of `width` characters; align "<", ">" or "^".
function text.pad(s, width, align, fill)
  local n = width - text.length(s)
  fill = fill or " "
  if n <= 0 then return s end
  if align == "<" then return s .. fill:rep(n) end
  if align == ">" then return fill:rep(n) .. s end
  local left = math.floor(n / 2)
  return fill:rep(left) .. s .. fill:rep(n - left)
end

return text
