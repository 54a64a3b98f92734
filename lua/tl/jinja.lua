--- jinja.lua: the template language of chat templates (Jinja), set as transformers sets it: trim_blocks, lstrip_blocks, the
--- loop controls, tojson without escapes for ASCII or HTML, raise_exception, strftime_now.
---
---   lexer.lua source -> tokens    parser.lua tokens -> tree    eval.lua tree -> text
---   values.lua what a value is    text.lua Python's strings    format.lua "%s" and "{}"    dumps.lua tojson
---   access.lua, methods.lua, filters*.lua, tests.lua, globals.lua: what templates may use
---
--- A template comes from whoever made the model: it cannot reach files or the program, cannot change what it is given, and ends
--- in an error when it takes too many steps, nests too deep or makes too long a text (values.lua has the limits).
---
--- Not there: inheritance, include and import, autoescape and Markup (escape and safe give plain text), i18n.
local parser = require "tl.jinja.parser"
local eval = require "tl.jinja.eval"
local V = require "tl.jinja.values"

local jinja = {}

--- None of templates; the same value as json.null.
jinja.none = V.none

--- The number of a JSON text as templates tell them apart (1 and 1.0), for json.parse and json.load.
jinja.json_number = V.json_number

local cache, cached = {}, 0
local CACHE = 64

local function message_of(err)
  if getmetatable(err) ~= V then return tostring(err) end
  return ("line %d: %s"):format(err.line or 1, err.message)
end

--- A template, parsed once: template:render(context). Raises "line N: what is wrong with it".
---@param source string
function jinja.compile(source)
  if type(source) ~= "string" then error("a template is a string; got " .. type(source), 0) end
  local template = cache[source]
  if template then return template end
  local ok, tree = pcall(parser.parse, source)
  if not ok then error("chat template, " .. message_of(tree), 0) end
  template = { tree = tree }
  function template:render(context)
    local fine, result = pcall(eval.render, self.tree, context or {})
    if not fine then error("chat template, " .. message_of(result), 0) end
    return result
  end
  if cached >= CACHE then cache, cached = {}, 0 end
  cache[source], cached = template, cached + 1
  return template
end

--- The text of a template with the context's values: strings, numbers, booleans, json.null, lists and dicts as json.decode
--- makes them (plain tables too), functions (called with the template's arguments).
---@param source string
---@param context table
---@return string
function jinja.render(source, context)
  local ok, result = pcall(function() return jinja.compile(source):render(context) end)
  if not ok then error(result, 0) end
  return result
end

return jinja
