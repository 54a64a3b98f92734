--- filters.lua: what may follow `|`: filters.name(value, args, named) -> value, out of filters_text.lua and filters_list.lua.
--- Not there: urlize, xmlattr, pprint and random, which prompts have no use for; escape and safe give plain text.
local filters = {}

for _, part in ipairs { "tl.jinja.filters_text", "tl.jinja.filters_list" } do
  for name, fn in pairs(require(part)) do filters[name] = fn end
end

filters.count, filters.e, filters.d, filters.forceescape = filters.length, filters.escape, filters["default"], filters.escape

return filters
