--- structured.lua: 1 when a completion is well-formed in the asked format (and says what it must), else 0, with the first thing that is wrong.
---
---   format    problem.format, else config.format: "json" (default), "yaml", "xml", "csv", "regex", "grammar"
---   schema    json, yaml: a JSON Schema (draft 2020-12) that the value must satisfy; problem.schema before config.schema. formats = true also
---             asserts `format`. See structured/schema.lua
---   value     json, yaml: problem.value, when there is one, must be the very value
---   columns   csv: the names of the header, in order (or how many columns there are); rows = n, min_rows, separator (",")
---   pattern   regex: the whole completion must match it (PCRE2), with flags
---   grammar   grammar: an LPeg grammar in the re notation; the whole completion must match it. In Lua, verifiers may use tl.lpeg directly
---   fence     true: the text may stand in one ```fence``` (default: it must stand alone, spaces at its ends aside)
---
--- JSON is taken strictly, as RFC 8259 has it: no trailing comma, no comment, no leading zero, no control character in a string. YAML is read
--- as tl.yaml reads it: one document, no aliases, no tags. XML is checked for well-formedness by expat. Empty text is never well-formed,
--- and text that is no UTF-8 no JSON. What is nested deeper than a parser follows (JSON: 1,000 levels) is not well-formed either.
local tl = require "tl"
local lpeg = require "tl.lpeg"
local schema = require "verifiers.structured.schema"

local M = {}

lpeg.setmaxstack(10000) -- of LPeg's 400, a level of JSON takes two

local function trim(s) return s:match("^%s*(.*%S)") or "" end

-- the text of the one fence that the completion consists of
local function unfence(text)
  local inner = text:match("^```[%w]*[ \t]*\r?\n(.-)\r?\n?```$")
  return inner and not inner:find("```", 1, true) and inner or nil
end

-- ---- JSON's syntax, as in RFC 8259

local P, R, S, V = lpeg.P, lpeg.R, lpeg.S, lpeg.V
local space = S(" \t\n\r") ^ 0
local hex = R("09", "af", "AF")
local more = R("\128\191")
local wide = R("\194\223") * more + ("\224" * R("\160\191") + (R("\225\236") + R("\238\239")) * more + "\237" * R("\128\159")) * more
  + ("\240" * R("\144\191") + R("\241\243") * more + "\244" * R("\128\143")) * more * more
local text_character = (R("\32\127") - S('"\\')) + wide + "\\" * (S('"\\/bfnrt') + "u" * hex * hex * hex * hex)
local json_text = P {
  space * V "value" * space * -1,
  value = V "object" + V "array" + V "string" + V "number" + "true" + "false" + "null",
  object = "{" * space * (V "member" * (space * "," * space * V "member") ^ 0) ^ -1 * space * "}",
  member = V "string" * space * ":" * space * V "value",
  array = "[" * space * (V "value" * (space * "," * space * V "value") ^ 0) ^ -1 * space * "]",
  string = '"' * text_character ^ 0 * '"',
  number = P"-" ^ -1 * ("0" + R "19" * R "09" ^ 0) * ("." * R "09" ^ 1) ^ -1 * (S "eE" * S "+-" ^ -1 * R "09" ^ 1) ^ -1,
}

-- what the pattern matches; nil, and why when it is nested too deeply
local function matched(pattern, text)
  local ok, value = pcall(pattern.match, pattern, text)
  if ok then return value end
  if not tostring(value):find("stack overflow", 1, true) then error(value, 0) end
  return nil, "nested too deeply"
end

-- ---- CSV, as in RFC 4180: a list of rows

local csv_grammars = {}
local function csv_rows(text, separator)
  local g = csv_grammars[separator]
  if not g then
    local newline = P"\r" ^ -1 * "\n"
    local quoted = '"' * lpeg.Cs(((P(1) - '"') + P'""' / '"') ^ 0) * '"'
    local bare = lpeg.C((P(1) - S('\r\n"' .. separator)) ^ 0)
    local row = lpeg.Ct((quoted + bare) * (P(separator) * (quoted + bare)) ^ 0)
    g = lpeg.Ct(row * (newline * row) ^ 0) * -1
    csv_grammars[separator] = g
  end
  return g:match(text)
end

-- ---- schemas and grammars are compiled once

local compiled = setmetatable({}, { __mode = "k" })
local function schema_of(document, formats)
  if type(document) == "string" then document = tl.json.decode(document) end
  if type(document) ~= "table" then return schema.compile(document) end
  if not compiled[document] then compiled[document] = schema.compile(tl.json.decode(tl.json.encode(document)), { formats = formats }) end
  return compiled[document]
end

local grammars = {}
local function grammar_of(source)
  if not lpeg.re then error("verifiers.structured: a grammar wants LPeg's re module (Debian: lua-lpeg)", 0) end
  if not grammars[source] then
    local ok, g = pcall(lpeg.re.compile, source)
    if not ok then error("verifiers.structured: the grammar: " .. tostring(g), 0) end
    grammars[source] = g * -1
  end
  return grammars[source]
end

-- true, false, or nil when an empty table does not say
local function is_array(t)
  local mt = getmetatable(t)
  if mt and (mt.__array or mt.__order) then return mt.__array == true end
  if next(t) ~= nil then return #t > 0 end
end

local function same(a, b)
  if type(a) ~= "table" or type(b) ~= "table" or a == tl.json.null or b == tl.json.null then return a == b end
  local x, y = is_array(a), is_array(b)
  if x ~= nil and y ~= nil and x ~= y then return false end
  for k, v in pairs(a) do if not same(v, b[k]) then return false end end
  for k in pairs(b) do if a[k] == nil then return false end end
  return true
end

local function check_value(value, problem, config)
  local document = problem.schema
  if document == nil then document = config.schema end
  if document ~= nil then
    local ok, why = schema_of(document, config.formats):check(value)
    if not ok then return false, why end
  end
  if problem.value ~= nil and not same(value, problem.value) then return false, "is another value than the one that was asked for" end
  return true
end

-- ---- formats: (text, problem, config) -> true, or false and what is wrong

local formats = {}

function formats.json(text, problem, config)
  local well_formed, deep = matched(json_text, text)
  if not well_formed then
    if deep then return false, deep end
    local _, why = tl.json.parse(text)
    return false, "not JSON" .. (why and ": " .. why or ", strictly taken")
  end
  local value, why = tl.json.parse(text)
  if value == nil then return false, why end
  return check_value(value, problem, config)
end

function formats.yaml(text, problem, config)
  local ok, value = pcall(tl.yaml.decode, text)
  if not ok then return false, (tostring(value):gsub("^[^\n]-%.lua:%d+: ", "")) end
  return check_value(value, problem, config)
end

function formats.xml(text)
  local why = tl.xml.error(text)
  return why == nil, why
end

function formats.csv(text, problem, config)
  local rows = csv_rows(text, config.separator or ",")
  if not rows then return false, "not CSV: a quote that does not close, or stands inside a bare field" end
  local columns = problem.columns or config.columns
  local width = type(columns) == "number" and columns or type(columns) == "table" and #columns or #rows[1]
  for i, row in ipairs(rows) do
    if #row ~= width then return false, ("row %d has %d fields, wants %d"):format(i, #row, width) end
  end
  for i, name in ipairs(type(columns) == "table" and columns or {}) do
    if rows[1][i] ~= name then return false, ("column %d is '%s', wants '%s'"):format(i, rows[1][i], name) end
  end
  local n = #rows - (type(columns) == "table" and 1 or 0)
  local exact, least = problem.rows or config.rows, config.min_rows
  if exact and n ~= exact or least and n < least then return false, ("has %d rows, wants %s%d"):format(n, exact and "" or "at least ", exact or least) end
  return true
end

function formats.regex(text, problem, config)
  local pattern = problem.pattern or config.pattern or error("neither the problem nor the config has a pattern", 0)
  return tl.regex.compile(pattern, problem.flags or config.flags):full(text), "does not match the pattern"
end

function formats.grammar(text, problem, config)
  local g = grammar_of(problem.grammar or config.grammar or error("neither the problem nor the config has a grammar", 0))
  local found, why = matched(g, text)
  return found ~= nil, why or "does not match the grammar"
end

--- The verifier for a config; see the top of the file.
function M.make(config)
  config = config or {}
  if config.format and not formats[config.format] then
    error("verifiers.structured: format is '" .. tostring(config.format) .. "'; json, yaml, xml, csv, regex or grammar", 2)
  end
  if config.schema ~= nil then schema_of(config.schema, config.formats) end
  if config.grammar then grammar_of(config.grammar) end
  return function(problem, completion)
    local name = problem.format or config.format or "json"
    local check = formats[name] or error("problem.format is '" .. tostring(name) .. "'; json, yaml, xml, csv, regex or grammar", 0)
    local text = trim(completion.text)
    if config.fence then text = unfence(text) or text end
    if text == "" then return 0, { reason = "empty" } end
    local ok, why = check(text, problem, config)
    return ok and 1 or 0, not ok and { reason = why } or nil
  end
end

M.about = { name = "structured", wants = {}, range = { 0, 1 }, summary = "well-formed JSON, YAML, XML, CSV, or what a pattern or grammar says" }
M.verify = M.make()

return setmetatable(M, { __call = function(_, problem, completion) return M.verify(problem, completion) end })
