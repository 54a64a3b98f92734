--- json.lua: JSON text to Lua values and back. Reading is cJSON's work; writing is done here.
---
---   object   a table whose metatable has __order, the list of its keys as they stood in the text
---   array    a table 1..n whose metatable has __array = true
---   null     json.null, a value of its own, so that an array keeps its length and an object its key
---
--- Written: objects with their keys in __order (then the others, sorted), or sorted; whole numbers without a point; other
--- numbers with the fewest digits that read back to the same value (9 for values that came from fp32); NaN and infinities as
--- null, since JSON has no word for them. A table is an array when it is marked as one or has only keys 1..n (n > 0).
local F = require "tl.ffi"
local ffi = require "ffi"

ffi.cdef [[
typedef struct cJSON {
  struct cJSON *next, *prev, *child;
  int type;
  char *valuestring;
  int valueint;
  double valuedouble;
  char *string;
} cJSON;
cJSON *cJSON_ParseWithLengthOpts(const char *value, size_t n, const char **return_parse_end, int require_null_terminated);
void cJSON_Delete(cJSON *item);
]]
local C = F.C

local json = {}

--- The null of JSON documents.
json.null = setmetatable({}, { __tostring = function() return "null" end, __newindex = function() error("json.null cannot be changed", 2) end })

local ARRAY = { __array = true }

--- Marks a table as an array, so that it is written as [] even when it is empty.
function json.array(t)
  return setmetatable(t or {}, ARRAY)
end

--- Marks a table as an object whose keys are written in this order.
---@param t table
---@param order string[]
function json.object(t, order)
  return setmetatable(t or {}, { __order = order or {} })
end

-- cJSON ends a string at \u0000. Where a text has one, it is read as a noncharacter (U+FDD0 to U+FDEF) that the text does not
-- have, and turned back in each string; both escapes have six bytes, so that errors keep their place.
local function hide_nul(text)
  if not text:find("\\u0000", 1, true) then return text end
  local lower = text:lower()
  for low = 0x90, 0xaf do
    local mark, escape = "\239\183" .. string.char(low), ("\\ufd%02x"):format(low + 0x40)
    if not text:find(mark, 1, true) and not lower:find(escape, 1, true) then
      return text:gsub("\\(.)(0?0?0?0?)", function(c, zeros) if c == "u" and zeros == "0000" then return escape end end), mark
    end
  end
  return text
end

local nul_mark  -- of the text that is being read

local function string_of(p)
  local s = ffi.string(p)
  return nul_mark and s:gsub(nul_mark, "\0") or s
end

-- cJSON's type bits
local FALSE, TRUE, NULL, NUMBER, STRING, LIST, OBJECT = 1, 2, 4, 8, 16, 32, 64

local function value_of(item, number)
  local kind = bit.band(item.type, 0xff)
  if kind == NUMBER then return number and number(item.valuedouble) or item.valuedouble end
  if kind == STRING then return (string_of(item.valuestring)) end
  if kind == TRUE then return true end
  if kind == FALSE then return false end
  if kind == NULL then return json.null end
  local t, child = {}, item.child
  if kind == LIST then
    local n = 0
    while child ~= nil do
      n = n + 1
      t[n] = value_of(child, number)
      child = child.next
    end
    return setmetatable(t, ARRAY)
  end
  local order = {}
  while child ~= nil do
    local key = string_of(child.string)
    if t[key] == nil then order[#order + 1] = key end
    t[key] = value_of(child, number)
    child = child.next
  end
  return setmetatable(t, { __order = order })
end

local function where(text, offset)
  local line, last = 1, 0
  for at in text:sub(1, offset):gmatch "()\n" do line, last = line + 1, at end
  return ("line %d, column %d"):format(line, offset - last + 1)
end

-- The numbers of a text as they are written, one a call, in their order.
local function literals(text)
  local at = 1
  return function()
    while true do
      local i = text:find('["%d-]', at)
      if not i then return nil end
      if text:sub(i, i) ~= '"' then
        local literal, stop = text:match("^([-+.%deE]+)()", i)
        at = stop
        return literal
      end
      at = i + 1
      repeat  -- the string's end: a quote that no backslash takes
        local j = text:find('[\\"]', at)
        if not j then return nil end
        at = j + (text:sub(j, j) == "\\" and 2 or 1)
      until text:sub(j, j) == '"'
    end
  end
end

--- Reads one JSON text; nil and a message with the place when it is not JSON. number(x, literal), when given, makes a number's
--- value from the double and from how it is written, for those who tell 1 from 1.0.
---@param text string
---@param number function?
---@return any value, string? message
function json.parse(text, number)
  local at = ffi.new "const char *[1]"
  local nul = text:find("\0", 1, true)
  if nul then return nil, "not JSON at " .. where(text, nul - 1) end  -- cJSON would end a string there
  local text, mark = hide_nul(text)
  local buffer = ffi.cast("const char *", text)
  -- with the NUL that ends a Lua string, so that what follows the value is seen
  local root = C.cJSON_ParseWithLengthOpts(buffer, #text + 1, at, 1)
  if root == nil then
    local offset = at[0] ~= nil and tonumber(at[0] - buffer) or 0
    return nil, "not JSON at " .. where(text, math.min(offset, #text))
  end
  local next_literal = number and literals(text)
  nul_mark = mark
  local ok, v = pcall(value_of, root, number and function(x) return number(x, next_literal() or "") end)
  nul_mark = nil
  C.cJSON_Delete(root)
  if not ok then return nil, tostring(v) end
  return v
end

--- Reads one JSON text; raises at the caller's line when it is not JSON.
---@param text string
---@param number function?  as in json.parse
function json.decode(text, number)
  if type(text) ~= "string" then error("json.decode wants a string; got " .. type(text), 2) end
  local v, message = json.parse(text, number)
  if v == nil then error(message, 2) end
  return v
end

local ESCAPES = { ['"'] = '\\"', ["\\"] = "\\\\", ["\b"] = "\\b", ["\f"] = "\\f", ["\n"] = "\\n", ["\r"] = "\\r", ["\t"] = "\\t" }

local function escape(c) return ESCAPES[c] or ("\\u%04x"):format(c:byte()) end

-- a valid sequence of UTF-8 from position i: its length, or nil
local function sequence(s, i)
  local a, b, c, d = s:byte(i, i + 3)
  local function more(x) return x and x >= 0x80 and x < 0xc0 end
  if a < 0x80 then return 1 end
  if a >= 0xc2 and a < 0xe0 and more(b) then return 2 end
  if a >= 0xe0 and a < 0xf0 and more(b) and more(c) and not (a == 0xe0 and b < 0xa0) and not (a == 0xed and b >= 0xa0) then return 3 end
  if a >= 0xf0 and a < 0xf5 and more(b) and more(c) and more(d) and not (a == 0xf0 and b < 0x90) and not (a == 0xf4 and b >= 0x90) then return 4 end
end

-- bytes that are not UTF-8 become U+FFFD: half a character at a completion's end is no reason for a broken document
local function valid(s)
  if not s:find "[\128-\255]" then return s end
  local out, i, n = {}, 1, #s
  while i <= n do
    local next_high = s:find("[\128-\255]", i)
    if not next_high then out[#out + 1] = s:sub(i); break end
    if next_high > i then out[#out + 1] = s:sub(i, next_high - 1) end
    local len = sequence(s, next_high)
    out[#out + 1] = len and s:sub(next_high, next_high + len - 1) or "\239\191\189"
    i = next_high + (len or 1)
  end
  return table.concat(out)
end

local function quote(s) return '"' .. valid(s):gsub('[%c"\\\127]', escape) .. '"' end

local single = ffi.new "float[1]"

local function number(x)
  if x ~= x or x == math.huge or x == -math.huge then return "null" end
  if x % 1 == 0 and math.abs(x) < 2 ^ 53 then return ("%.0f"):format(x) end
  local s = ("%.9g"):format(x)
  single[0] = x
  if tonumber(s) == x or single[0] == x then return s end
  s = ("%.15g"):format(x)
  return tonumber(s) == x and s or ("%.17g"):format(x)
end

local function is_array(t, mt)
  if mt and mt.__array then return true end
  if mt and mt.__order then return false end
  local n = #t
  if n == 0 then return false end
  for k in pairs(t) do
    if type(k) ~= "number" or k < 1 or k > n or k % 1 ~= 0 then return false end
  end
  return true
end

-- the keys of an object in the order in which they are written
local function keys_of(t, mt)
  local keys, seen, rest = {}, {}, {}
  for _, k in ipairs(mt and mt.__order or {}) do
    if t[k] ~= nil and not seen[k] then keys[#keys + 1], seen[k] = k, true end
  end
  for k in pairs(t) do
    if type(k) == "number" then error("a table with both names and numbers as keys has no JSON form", 0) end
    if type(k) ~= "string" then error("a key of type " .. type(k) .. " has no JSON form", 0) end
    if not seen[k] then rest[#rest + 1] = k end
  end
  table.sort(rest)
  for _, k in ipairs(rest) do keys[#keys + 1] = k end
  return keys
end

local write

local function write_table(out, t, indent, depth, open)
  if open[t] then error("a table that contains itself has no JSON form", 0) end
  open[t] = true
  local mt = getmetatable(t)
  local list = is_array(t, mt)
  local keys = not list and keys_of(t, mt)
  local n = list and #t or #keys
  local inner = indent and "\n" .. indent:rep(depth + 1)
  out[#out + 1] = list and "[" or "{"
  for i = 1, n do
    if i > 1 then out[#out + 1] = "," end
    if indent then out[#out + 1] = inner end
    if not list then
      out[#out + 1] = quote(keys[i])
      out[#out + 1] = indent and ": " or ":"
    end
    write(out, list and t[i] or not list and t[keys[i]], indent, depth + 1, open)
  end
  if indent and n > 0 then out[#out + 1] = "\n" .. indent:rep(depth) end
  out[#out + 1] = list and "]" or "}"
  open[t] = nil
end

function write(out, v, indent, depth, open)
  local kind = type(v)
  if kind == "string" then out[#out + 1] = quote(v)
  elseif kind == "number" then out[#out + 1] = number(v)
  elseif kind == "boolean" then out[#out + 1] = v and "true" or "false"
  elseif v == nil or v == json.null then out[#out + 1] = "null"
  elseif kind == "table" then write_table(out, v, indent, depth, open)
  elseif kind == "cdata" and tonumber(v) then out[#out + 1] = (tostring(v):gsub("U?LL$", ""))
  else error("a value of type " .. kind .. " has no JSON form", 0) end
end

--- A value as JSON text on one line; with pretty = true on lines indented by two blanks.
---@param v any
---@param o table? {pretty = boolean}
function json.encode(v, o)
  local out = {}
  local ok, message = pcall(write, out, v, o and o.pretty and "  " or nil, 0, {})
  if not ok then error("json.encode: " .. tostring(message), 2) end
  return table.concat(out)
end

--- The value in a JSON file.
function json.load(path, number)
  local v, message = json.parse(require("tl.fs").read(path), number)
  if v == nil then error(path .. ": " .. message, 2) end
  return v
end

--- Writes a value to a JSON file, pretty unless o says otherwise; the old file stays whole when that fails.
function json.save(path, v, o)
  local text = json.encode(v, o or { pretty = true }) .. "\n"
  F.check(C.tl_write_file(require("tl.fs").path("json.save", path), text, #text))
end

return json
