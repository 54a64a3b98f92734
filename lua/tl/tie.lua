--- tie.lua: which modules share their trained numbers. A tying pattern is a function from a module's description
--- {index, layer, kind, name, out, in, position, count} to a group key (any Lua value); modules with equal keys share one v.
--- position is 0-based among the adapter's targets in definition order, count is how many there are.
---
---   trained numbers = groups * u        (modules * u / n_tie when all groups have n_tie members)
local tie = {}

--- Every module has its own v.
function tie.none(m) return m.index end

--- One v for all modules.
function tie.full() return 0 end

--- Modules of one kind (all q, all k, ...) share: at most 7 groups.
function tie.structured(m) return m.kind end

--- Contiguous blocks of n modules in depth order share: neighbours in depth, whatever their kind.
---@param n integer modules in a block
function tie.tiled(n)
  if type(n) ~= "number" or n < 1 or n % 1 ~= 0 then error("tie.tiled wants how many modules share, a whole number from 1; got " .. tostring(n), 2) end
  return function(m) return math.floor(m.position / n) end
end

--- Contiguous blocks of n layers, each kind by itself.
---@param n integer layers in a block
function tie.structured_tiled(n)
  if type(n) ~= "number" or n < 1 or n % 1 ~= 0 then error("tie.structured_tiled wants a number of layers from 1; got " .. tostring(n), 2) end
  return function(m) return m.kind .. ":" .. math.floor(m.layer / n) end
end

local function round_half_even(x)
  local r = math.floor(x + 0.5)
  if x + 0.5 == r and r % 2 == 1 then r = r - 1 end
  return r
end

--- PEFT's weight_tying: 0 none, 1 all. groups = max(1, round(N (1 - t))), size = max(1, N // groups),
--- group = min(position // size, groups - 1).
---@param t number between 0 and 1
function tie.ratio(t)
  if type(t) ~= "number" or t < 0 or t > 1 then error("tie.ratio wants a number between 0 and 1; got " .. tostring(t), 2) end
  return function(m)
    local groups = math.max(1, round_half_even(m.count * (1 - t)))
    local size = math.max(1, math.floor(m.count / groups))
    return math.min(math.floor(m.position / size), groups - 1)
  end
end

--- Group numbers 0, 1, ... in order of first appearance, for a list of module descriptions.
---@return integer[] groups, integer n_groups
function tie.assign(fn, modules)
  local groups, seen, n = {}, {}, 0
  for i, m in ipairs(modules) do
    m.position, m.count = i - 1, #modules
    local key = fn(m)
    if key == nil or key ~= key then error(("the tying function returned %s for %s; it must return a group key"):format(tostring(key), m.name), 3) end
    if not seen[key] then seen[key] = n; n = n + 1 end
    groups[i] = seen[key]
  end
  return groups, n
end

--- A tying pattern by name or function: "none", "full", "structured", "tiled:N", "ratio:T", or the function itself.
function tie.named(x)
  if type(x) == "function" then return x end
  if x == "none" or x == "full" or x == "structured" then return tie[x] end
  local kind, n = tostring(x):match("^(%a+):([%d.]+)$")
  if kind == "tiled" then return tie.tiled(tonumber(n)) end
  if kind == "ratio" then return tie.ratio(tonumber(n)) end
  error("unknown tying '" .. tostring(x) .. "': none, full, structured, tiled:N, ratio:T or a function", 3)
end

return tie
