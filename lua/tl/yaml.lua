--- yaml.lua: YAML files and texts to Lua values: maps, lists and scalars as tl.json gives them. Aliases, merge keys and tags are refused.
local F = require "tl.ffi"
local ffi = require "ffi"
local json = require "tl.json"

local yaml = {}

--- The value of the one document in a YAML file; errors name file:line:column.
---@param path string
function yaml.load(path)
  local out = ffi.new "char *[1]"
  F.check(F.C.tl_yaml_to_json(path, out))
  return json.decode(F.take_string(out[0]))
end

--- The value of a YAML text; errors name NAME:line:column.
---@param text string
---@param name string|nil what errors call it ("YAML")
function yaml.decode(text, name)
  local out = ffi.new "char *[1]"
  F.check(F.C.tl_yaml_text_to_json(text, #text, name or "YAML", out))
  return json.decode(F.take_string(out[0]))
end

return yaml
