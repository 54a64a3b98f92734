--- structured/schema.lua: JSON Schema, draft 2020-12 (json-schema.org), over values as tl.json decodes them.
---
---   local s = schema.compile(document, { remotes = { [uri] = document }, formats = true })
---   local ok, why = s:check(value)       -- why: the first failure, "/items/0: is a string, wants integer"
---
--- Every keyword of the core, applicator, unevaluated and validation vocabularies; $ref, $anchor, $dynamicRef over $id, within the document
--- and what `remotes` holds (nothing is fetched). `format` and the content keywords are annotations, as the draft has them; formats = true
--- asserts date, time, date-time, email, ipv4, uuid, uri and regex. Patterns are PCRE2's. The meta-schema itself is not built in: a schema
--- that refers to it wants it among the remotes.
---
--- How it works. Compiling walks the document once: each schema object learns its resource (the document part under one $id), and each
--- resource its anchors. Checking is one recursive function over (schema, value) that gives back what it evaluated, for unevaluated*;
--- `scope` is the list of resources that were entered, for $dynamicRef.
local tl = require "tl"
local regex = require "tl.regex"
local json = tl.json

local schema = {}
local MAX_DEPTH = 120

-- ---- values

local function is_array(v) return type(v) == "table" and v ~= json.null and getmetatable(v) and getmetatable(v).__array == true end
local function is_object(v) return type(v) == "table" and v ~= json.null and not is_array(v) end

local function type_of(v)
  if v == json.null then return "null" end
  local t = type(v)
  if t == "table" then return is_array(v) and "array" or "object" end
  return t
end

local function is_type(v, name)
  local t = type_of(v)
  return t == name or name == "integer" and t == "number" and v % 1 == 0 and v - v == 0
end

-- a text that equal values share
local function identity(v)
  local t = type_of(v)
  if t == "string" then return "s" .. #v .. ":" .. v end
  if t == "number" then return ("n%.17g"):format(v == 0 and 0 or v) end
  if t == "boolean" or t == "null" then return t .. tostring(v) end
  local parts = {}
  if t == "array" then
    for i, x in ipairs(v) do parts[i] = identity(x) end
    return "[" .. table.concat(parts, ",") .. "]"
  end
  for k, x in pairs(v) do parts[#parts + 1] = identity(k) .. "=" .. identity(x) end
  table.sort(parts)
  return "{" .. table.concat(parts, ",") .. "}"
end

local function characters(s)
  local _, continuation = s:gsub("[\128-\191]", "")
  return #s - continuation
end

local function count(t)
  local n = 0
  for _ in pairs(t) do n = n + 1 end
  return n
end

-- ---- URIs (RFC 3986, 5.2)

local function split_uri(uri)
  local before, fragment = uri:match("^([^#]*)#?(.*)$")
  return before, fragment
end

local function resolve(base, ref)
  if ref:find("^[%a][%w+.-]*:") then return ref end
  if ref == "" then return base end
  base = split_uri(base)
  if ref:sub(1, 1) == "#" then return base .. ref end
  local root, path = base:match("^([%a][%w+.-]*://[^/?]*)([^?]*)")
  if not root then
    if base:find("^urn:") then return ref end
    root, path = "", base:match("^[^?]*")
  end
  if ref:sub(1, 2) == "//" then return (root:match("^([%a][%w+.-]*:)") or "") .. ref end
  local full = ref:sub(1, 1) == "/" and ref or (path:match("^(.*/)") or (root ~= "" and "/" or "")) .. ref
  local tail = full:match("[?#].*$") or ""
  full = full:sub(1, #full - #tail)
  local out = {}
  for part in (full .. "/"):gmatch("([^/]*)/") do
    if part == ".." then
      if #out > 1 then out[#out] = nil end
    elseif part ~= "." then
      out[#out + 1] = part
    end
  end
  return root .. table.concat(out, "/") .. tail
end

local function unescape_pointer(part)
  return (part:gsub("%%(%x%x)", function(h) return string.char(tonumber(h, 16)) end):gsub("~1", "/"):gsub("~0", "~"))
end

-- ---- resources

local ONE = { "not", "if", "then", "else", "items", "contains", "additionalProperties", "propertyNames", "unevaluatedItems", "unevaluatedProperties", "contentSchema" }
local LIST = { "allOf", "anyOf", "oneOf", "prefixItems" }
local MAP = { "properties", "patternProperties", "$defs", "definitions", "dependentSchemas" }

local Schema = {}
Schema.__index = Schema

function Schema:index(s, resource)
  if not is_object(s) or self.resource_of[s] then return end
  if type(s["$id"]) == "string" then
    local uri = split_uri(resolve(resource.base, s["$id"]))
    resource = { base = uri, root = s, anchors = {}, dynamic = {} }
    self.resources[uri] = self.resources[uri] or resource
  end
  self.resource_of[s] = resource
  if type(s["$anchor"]) == "string" then resource.anchors[s["$anchor"]] = s end
  if type(s["$dynamicAnchor"]) == "string" then resource.anchors[s["$dynamicAnchor"]], resource.dynamic[s["$dynamicAnchor"]] = s, s end
  for _, k in ipairs(ONE) do self:index(s[k], resource) end
  for _, k in ipairs(LIST) do
    if is_array(s[k]) then for _, x in ipairs(s[k]) do self:index(x, resource) end end
  end
  for _, k in ipairs(MAP) do
    if is_object(s[k]) then for _, x in pairs(s[k]) do self:index(x, resource) end end
  end
end

function Schema:add(uri, document)
  local resource = { base = uri, root = document, anchors = {}, dynamic = {} }
  self.resources[uri] = resource
  self:index(document, resource)
  return resource
end

function Schema:resource(uri)
  if not self.resources[uri] and self.remotes[uri] then self:add(uri, self.remotes[uri]) end
  return self.resources[uri]
end

-- the schema that a reference names, and its resource and fragment
function Schema:lookup(from, ref)
  local uri, fragment = split_uri(resolve(from.base, ref))
  local resource = uri == from.base and from or self:resource(uri)
  if not resource then error(("schema: $ref %s names %s, which is not here"):format(ref, uri), 0) end
  if fragment == "" then return resource.root, self.resource_of[resource.root] or resource, fragment end
  if fragment:sub(1, 1) ~= "/" then
    local s = resource.anchors[unescape_pointer(fragment)]
    if s == nil then error(("schema: there is no anchor %s in %s"):format(fragment, uri), 0) end
    return s, self.resource_of[s] or resource, fragment
  end
  local at, home = resource.root, resource
  for part in fragment:gmatch("/([^/]*)") do
    part = unescape_pointer(part)
    local key = is_array(at) and tonumber(part) and tonumber(part) + 1 or part
    if type(at) == "table" then at = at[key] else at = nil end
    if at == nil then error(("schema: $ref %s: there is no %s"):format(ref, fragment), 0) end
    home = self.resource_of[at] or home
  end
  self:index(at, home)
  return at, self.resource_of[at] or home, fragment
end

-- ---- formats, only when they are asked for

local formats = {
  date = "^\\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\\d|3[01])$",
  time = "^([01]\\d|2[0-3]):[0-5]\\d:([0-5]\\d|60)(\\.\\d+)?([zZ]|[+-]([01]\\d|2[0-3]):[0-5]\\d)$",
  ["date-time"] = "^\\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\\d|3[01])[tT]([01]\\d|2[0-3]):[0-5]\\d:([0-5]\\d|60)(\\.\\d+)?([zZ]|[+-]([01]\\d|2[0-3]):[0-5]\\d)$",
  email = "^[^\\s@\"]+@[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?$",
  ipv4 = "^((25[0-5]|2[0-4]\\d|1\\d\\d|[1-9]?\\d)(\\.|$)){4}(?<!\\.)$",
  uuid = "^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$",
  uri = "^[A-Za-z][A-Za-z0-9+.-]*:[^\\s<>\"{}|\\\\^`]*$",
}

local function format_ok(name, v)
  if type(v) ~= "string" then return true end
  if name == "regex" then return (pcall(regex.compile, v)) end
  return not formats[name] or regex.compile(formats[name]):find(v) ~= nil
end

-- ---- keywords: each (self, s, v, run) -> nil, or what is wrong. `run` has the place, the scope, and what was evaluated:
-- run.props[name], run.items (how many from the front), run.item[i].

local keywords, validation = {}, {} -- `validation` may be switched off by a meta-schema without that vocabulary
local order = { "$ref", "$dynamicRef", "allOf", "anyOf", "oneOf", "not", "if", "dependentSchemas", "prefixItems", "items", "contains", "properties", "propertyNames" }

local function note(run, from)
  if not from then return end
  for k in pairs(from.props) do run.props[k] = true end
  for i in pairs(from.item) do run.item[i] = true end
  run.items = math.max(run.items, from.items)
end

local evaluate

-- checks a subschema on the same value; its evaluations count when it holds
local function sub(self, s, v, run)
  local ok, why, from = evaluate(self, s, v, run.resource, run.scope, run.at, run.depth + 1)
  if ok then note(run, from) end
  return ok, why
end

local function part(self, s, v, run, step) return evaluate(self, s, v, run.resource, run.scope, run.at .. "/" .. step, run.depth + 1) end

keywords["$ref"] = function(self, s, v, run)
  local target, resource = self:lookup(run.resource, s["$ref"])
  local ok, why, from = evaluate(self, target, v, resource, run.scope, run.at, run.depth + 1)
  if not ok then return why end
  note(run, from)
end

keywords["$dynamicRef"] = function(self, s, v, run)
  local target, resource, fragment = self:lookup(run.resource, s["$dynamicRef"])
  if is_object(target) and target["$dynamicAnchor"] == fragment and fragment ~= "" then
    for _, r in ipairs(run.scope) do
      if r.dynamic[fragment] then
        target, resource = r.dynamic[fragment], r
        break
      end
    end
  end
  local ok, why, from = evaluate(self, target, v, resource, run.scope, run.at, run.depth + 1)
  if not ok then return why end
  note(run, from)
end

function keywords.allOf(self, s, v, run)
  for _, x in ipairs(s.allOf) do
    local ok, why = sub(self, x, v, run)
    if not ok then return why end
  end
end

function keywords.anyOf(self, s, v, run)
  local any, first = false, nil
  for _, x in ipairs(s.anyOf) do
    local ok, why = sub(self, x, v, run)
    any, first = any or ok, first or why
  end
  if not any then return first end
end

function keywords.oneOf(self, s, v, run)
  local n, first = 0, nil
  for _, x in ipairs(s.oneOf) do
    local ok, why = sub(self, x, v, run)
    n, first = n + (ok and 1 or 0), first or why
  end
  if n ~= 1 then return n == 0 and first or run.at .. ": satisfies " .. n .. " schemas of oneOf" end
end

keywords["not"] = function(self, s, v, run)
  if evaluate(self, s["not"], v, run.resource, run.scope, run.at, run.depth + 1) then return run.at .. ": satisfies what `not` forbids" end
end

keywords["if"] = function(self, s, v, run)
  local branch
  if sub(self, s["if"], v, run) then branch = s["then"] else branch = s["else"] end
  if branch == nil then return end
  local ok, why = sub(self, branch, v, run)
  if not ok then return why end
end

function keywords.dependentSchemas(self, s, v, run)
  if not is_object(v) then return end
  for name, x in pairs(s.dependentSchemas) do
    if v[name] ~= nil then
      local ok, why = sub(self, x, v, run)
      if not ok then return why end
    end
  end
end

function keywords.prefixItems(self, s, v, run)
  if not is_array(v) then return end
  for i = 1, math.min(#v, #s.prefixItems) do
    local ok, why = part(self, s.prefixItems[i], v[i], run, i - 1)
    if not ok then return why end
  end
  run.items = math.max(run.items, math.min(#v, #s.prefixItems))
end

function keywords.items(self, s, v, run)
  if not is_array(v) then return end
  for i = (is_array(s.prefixItems) and #s.prefixItems or 0) + 1, #v do
    local ok, why = part(self, s.items, v[i], run, i - 1)
    if not ok then return why end
  end
  run.items = math.max(run.items, #v)
end

function keywords.contains(self, s, v, run)
  if not is_array(v) then return end
  local n = 0
  for i, x in ipairs(v) do
    if part(self, s.contains, x, run, i - 1) then
      n = n + 1
      run.item[i] = true
    end
  end
  if n < (self.validates and s.minContains or 1) then return ("%s: contains %d such items, wants %d"):format(run.at, n, s.minContains or 1) end
  if self.validates and s.maxContains and n > s.maxContains then return ("%s: contains %d such items, at most %d may be"):format(run.at, n, s.maxContains) end
end

-- properties, patternProperties and additionalProperties look at the same names
function keywords.properties(self, s, v, run)
  if not is_object(v) then return end
  local known, patterns, more = s.properties, s.patternProperties, s.additionalProperties
  for name, x in pairs(v) do
    local seen = false
    local function check(x_schema)
      seen = true
      local ok, why = part(self, x_schema, x, run, name)
      return not ok and why or nil
    end
    local why = is_object(known) and known[name] ~= nil and check(known[name])
    if not why and is_object(patterns) then
      for pattern, p in pairs(patterns) do
        if not why and regex.compile(pattern):find(name) then why = check(p) end
      end
    end
    if not why and not seen and more ~= nil then
      why = check(more)
      if why and more == false then why = run.at .. ": has the property " .. name .. ", which is not among those allowed" end
    end
    if why then return why end
    if seen then run.props[name] = true end
  end
end

function keywords.propertyNames(self, s, v, run)
  if not is_object(v) then return end
  for name in pairs(v) do
    local ok, why = part(self, s.propertyNames, name, run, name)
    if not ok then return why end
  end
end

local function unevaluated(self, s, v, run)
  local items, props = s.unevaluatedItems, s.unevaluatedProperties
  if items ~= nil and is_array(v) then
    for i = run.items + 1, #v do
      if not run.item[i] then
        local ok, why = part(self, items, v[i], run, i - 1)
        if not ok then return items == false and ("%s: item %d is not among those allowed"):format(run.at, i - 1) or why end
      end
    end
    run.items = #v
  end
  if props ~= nil and is_object(v) then
    for name, x in pairs(v) do
      if not run.props[name] then
        local ok, why = part(self, props, x, run, name)
        if not ok then return props == false and run.at .. ": has the property " .. name .. ", which is not among those allowed" or why end
        run.props[name] = true
      end
    end
  end
end

local function list_text(list)
  local out = {}
  for i, x in ipairs(list) do out[i] = json.encode(x) end
  return table.concat(out, ", ")
end

function validation.type(k, v)
  for _, name in ipairs(type(k) == "string" and { k } or k) do
    if is_type(v, name) then return end
  end
  return "is " .. (type_of(v):find("^[aio]") and "an " or "a ") .. type_of(v) .. ", wants " .. (type(k) == "string" and k or table.concat(k, " or "))
end
validation["enum"] = function(k, v)
  local id = identity(v)
  for _, x in ipairs(k) do
    if identity(x) == id then return end
  end
  return "is none of " .. list_text(k)
end
validation["const"] = function(k, v) if identity(k) ~= identity(v) then return "is not " .. json.encode(k) end end

local function numbers(test, words)
  return function(k, v) if type(v) == "number" and not test(v, k) then return ("is %g, wants %s %g"):format(v, words, k) end end
end
validation.maximum = numbers(function(v, k) return v <= k end, "at most")
validation.minimum = numbers(function(v, k) return v >= k end, "at least")
validation.exclusiveMaximum = numbers(function(v, k) return v < k end, "less than")
validation.exclusiveMinimum = numbers(function(v, k) return v > k end, "more than")
validation.multipleOf = numbers(function(v, k)
  if math.fmod(v, k) == 0 then return true end
  local q = v / k
  if v % 1 == 0 and (1 / k) % 1 == 0 then return q - q == 0 end -- any whole number is a multiple of 1e-8
  return math.abs(q) < 1e9 and math.abs(q - math.floor(q + 0.5)) < 1e-9 -- 0.0075 is 75 times 0.0001
end, "a multiple of")

local function sizes(kind, measure, test, words)
  return function(k, v)
    if type_of(v) ~= kind then return end
    local n = measure(v)
    if not test(n, k) then return ("has the length %d, wants %s %d"):format(n, words, k) end
  end
end
local function most(n, k) return n <= k end
local function least(n, k) return n >= k end
local function length(v) return #v end
validation.maxLength, validation.minLength = sizes("string", characters, most, "at most"), sizes("string", characters, least, "at least")
validation.maxItems, validation.minItems = sizes("array", length, most, "at most"), sizes("array", length, least, "at least")
validation.maxProperties, validation.minProperties = sizes("object", count, most, "at most"), sizes("object", count, least, "at least")

function validation.pattern(k, v) if type(v) == "string" and not regex.compile(k):find(v) then return "does not match " .. k end end
function validation.uniqueItems(k, v)
  if not k or not is_array(v) then return end
  local seen = {}
  for i, x in ipairs(v) do
    local id = identity(x)
    if seen[id] then return ("items %d and %d are the same"):format(seen[id] - 1, i - 1) end
    seen[id] = i
  end
end
function validation.required(k, v)
  if not is_object(v) then return end
  for _, name in ipairs(k) do
    if v[name] == nil then return "lacks the property " .. name end
  end
end
function validation.dependentRequired(k, v)
  if not is_object(v) then return end
  for name, wants in pairs(k) do
    for _, other in ipairs(v[name] ~= nil and wants or {}) do
      if v[other] == nil then return ("has %s and lacks %s"):format(name, other) end
    end
  end
end

-- ---- one schema on one value: holds?, why not, what it evaluated

function evaluate(self, s, v, resource, scope, at, depth)
  if s == true then return true, nil, nil end
  if s == false then return false, (at == "" and "/" or at) .. ": nothing is allowed here" end
  if not is_object(s) then error("schema: a schema is an object or a boolean; found " .. type_of(s), 0) end
  if depth > MAX_DEPTH then error("schema: nested too deeply, or a reference without end", 0) end
  resource = self.resource_of[s] or resource
  if scope[#scope] ~= resource then
    local longer = { unpack(scope) }
    longer[#longer + 1] = resource
    scope = longer
  end
  local run = { resource = resource, scope = scope, at = at, depth = depth, props = {}, item = {}, items = 0 }
  if self.validates then
    for k, check in pairs(validation) do
      if s[k] ~= nil then
        local why = check(s[k], v)
        if why then return false, (at == "" and "/" or at) .. ": " .. why end
      end
    end
  end
  if self.formats and s.format and not format_ok(s.format, v) then return false, (at == "" and "/" or at) .. ": is no " .. s.format end
  for _, k in ipairs(order) do
    if s[k] ~= nil or k == "properties" and (s.patternProperties ~= nil or s.additionalProperties ~= nil) then
      local why = keywords[k](self, s, v, run)
      if why then return false, why end
    end
  end
  local why = unevaluated(self, s, v, run)
  if why then return false, why end
  return true, nil, run
end

--- Does the value satisfy the schema? false and the first failure otherwise. Errors when the schema itself is wrong.
function Schema:check(value)
  local ok, why = evaluate(self, self.root, value, self.home, {}, "", 0)
  if ok then return true end
  return false, why
end

--- Compiles a schema document (a table as tl.json decodes it, or true or false).
---@param document table|boolean
---@param o table|nil { remotes = { [uri] = document }, formats = false }
function schema.compile(document, o)
  o = o or {}
  local self = setmetatable({ root = document, resources = {}, resource_of = {}, remotes = o.remotes or {}, formats = o.formats, validates = true }, Schema)
  self.home = self:add("", document)
  if is_object(document) and type(document["$schema"]) == "string" then
    local meta = self.remotes[(split_uri(document["$schema"]))]
    local vocabulary = is_object(meta) and meta["$vocabulary"]
    if is_object(vocabulary) then self.validates = vocabulary["https://json-schema.org/draft/2020-12/vocab/validation"] ~= nil end
  end
  return self
end

return schema
