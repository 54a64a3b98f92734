--- experiment/grid.lua: every combination of the values of named axes.

--- A list of tables, one a combination; a value that is no table is the same in all of them. Axes vary by their names' order, the last
--- fastest; the one named `slowest` (nil: none) comes before the others.
---@param axes table
---@param slowest string?
return function(axes, slowest)
  local names, list = {}, { {} }
  for name in pairs(axes) do names[#names + 1] = name end
  table.sort(names, function(a, b)
    if (a == slowest) ~= (b == slowest) then return a == slowest end
    return a < b
  end)
  for _, name in ipairs(names) do
    local values, longer = axes[name], {}
    for _, t in ipairs(list) do
      for _, v in ipairs(type(values) == "table" and values or { values }) do
        local copy = { [name] = v }
        for k, x in pairs(t) do copy[k] = x end
        longer[#longer + 1] = copy
      end
    end
    list = longer
  end
  return list
end
