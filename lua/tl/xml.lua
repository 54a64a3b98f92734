--- xml.lua: is a text well-formed XML? (expat)
local F = require "tl.ffi"
local ffi = require "ffi"

local xml = {}

--- What is wrong with an XML text, with line and column; nil when it is well-formed.
---@param text string
function xml.error(text)
  if F.C.tl_xml_check(text, #text) == 0 then return nil end
  return ffi.string(F.C.tl_last_error())
end

return xml
