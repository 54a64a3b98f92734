--- signature.lua: the arguments of filters, by position or by name, as their Python functions take them.
local V = require "tl.jinja.values"

--- A filter name(value, args, named) out of fn(value, argument 1, argument 2, ...). parameters: their names in order, those that
--- may be left out with a "?" at the end; what is left out is nil.
---@param name string
---@param parameters string  names with blanks between
local function signature(name, parameters, fn)
  local order, at, least = {}, {}, 0
  for p in parameters:gmatch "%S+" do
    local plain = p:gsub("%?$", "")
    order[#order + 1] = plain
    at[plain] = #order
    if plain == p then least = #order end
  end
  return function(v, args, named)
    if #args > #order then V.fail("%s takes at most %d arguments, %d given", name, #order, #args) end
    local given = {}
    for i = 1, #args do given[i] = args[i] end
    for _, k in ipairs(named or {}) do
      local i = at[k]
      if not i then V.fail("%s has no argument '%s'", name, k) end
      if given[i] ~= nil then V.fail("%s: the argument '%s' is given twice", name, k) end
      given[i] = named[k]
    end
    for i = 1, least do
      if given[i] == nil then V.fail("%s wants the argument '%s'", name, order[i]) end
    end
    return fn(v, unpack(given, 1, #order))
  end
end

return signature
