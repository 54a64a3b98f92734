--- dumps.lua: the tojson filter, json.dumps as transformers calls it: nothing escaped for HTML, ensure_ascii off unless asked.
local V = require "tl.jinja.values"
local text = require "tl.jinja.text"

local NAMES = { none = "null", nan = "NaN", inf = "Infinity", ["-inf"] = "-Infinity" }

local function number(v)
  local _, float = V.number(v)
  local s = float and V.repr(v) or V.repr(v)
  return NAMES[s] or s
end

local function key_text(k)
  local t = V.type(k)
  if t == "string" then return k end
  if t == "none" then return "null" end
  if t == "boolean" then return k and "true" or "false" end
  if t == "int" or t == "float" then return number(k) end
  V.fail("keys must be str, int, float, bool or None, not %s", V.python_type(k))
end

local write

-- the keys or elements between brackets, each on a line of its own when there is an indent
local function write_all(out, o, depth, open, close, n, item)
  if depth > V.MAX_DEPTH then V.fail("tojson: nested more than %d deep", V.MAX_DEPTH) end
  if n == 0 then out[#out + 1] = open .. close return end
  local newline = o.indent and "\n" .. o.indent:rep(depth + 1)
  out[#out + 1] = open
  for i = 1, n do
    if i > 1 then out[#out + 1] = o.comma end
    if newline then out[#out + 1] = newline end
    item(i)
  end
  if newline then out[#out + 1] = "\n" .. o.indent:rep(depth) end
  out[#out + 1] = close
end

function write(out, v, o, depth)
  local t = V.type(v)
  V.spend(1)
  if t == "string" then
    V.spend_text(#v)
    out[#out + 1] = text.json(v, o.ascii)
  elseif t == "none" then out[#out + 1] = "null"
  elseif t == "boolean" then out[#out + 1] = v and "true" or "false"
  elseif t == "int" or t == "float" then out[#out + 1] = number(v)
  elseif t == "list" and V.python_type(v) ~= "range" then
    write_all(out, o, depth, "[", "]", #v, function(i) write(out, v[i], o, depth + 1) end)
  elseif t == "dict" then
    local keys = V.keys(v)
    if o.sort then table.sort(keys, function(a, b) return V.less(a, b) end) end
    write_all(out, o, depth, "{", "}", #keys, function(i)
      out[#out + 1] = text.json(key_text(keys[i]), o.ascii) .. o.colon
      write(out, v[keys[i]], o, depth + 1)
    end)
  else
    V.fail("Object of type %s is not JSON serializable", V.python_type(v))
  end
end

-- indent: a text, a number of blanks, or none
local function indent_text(v)
  if v == nil or v == V.none or type(v) == "string" then return type(v) == "string" and v or nil end
  local x, float = V.number(v)
  if not x or float then V.fail("tojson: indent is an integer or a text, not %s", V.python_type(v)) end
  return (" "):rep(math.max(0, math.min(x, 1000)))
end

--- v as JSON; the options are json.dumps's.
local function dumps(v, ensure_ascii, indent, separators, sort_keys)
  local given = separators ~= nil and separators ~= V.none and V.iter(separators)
  if given and (type(given[1]) ~= "string" or type(given[2]) ~= "string") then V.fail "tojson: separators are two texts" end
  local pad = indent_text(indent)
  local o = { indent = pad, sort = sort_keys ~= nil and V.truth(sort_keys), ascii = ensure_ascii ~= nil and V.truth(ensure_ascii),
    comma = given and given[1] or pad and "," or ", ", colon = given and given[2] or ": " }
  local out = {}
  write(out, v, o, 0)
  local bytes = 0
  for i = 1, #out do bytes = bytes + #out[i] end
  V.spend_text(bytes)
  return table.concat(out)
end

return dumps
