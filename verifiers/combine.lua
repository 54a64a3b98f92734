--- combine.lua: one reward out of several verifiers.
---
---   config.parts  a list of { verifier = "verifiers.math", weight = 1, config = { ... }, name = "math" }; a module name without a
---                 dot is one of verifiers/
---   config.mode   "sum"   sum of weight * reward (default). A part that abstains is left out; when all do, so does the sum.
---                 "all"   1 when every part reaches config.threshold (0.5), else 0; an abstention makes it abstain
---                 "gate"  the first part is the gate: below config.threshold the reward is config.closed (0), else the weighted
---                         sum of the others. For rewards that count only when the form is kept.
--- An error in a part is an error of the whole. The info has each part's reward, and its info when it gave one.
local M = {}

-- the function of a part, by the rules of a verifier pool
local function load_part(part, index)
  local name = part.verifier
  if type(name) ~= "string" then error(("verifiers.combine: part %d has no `verifier` (a module name)"):format(index), 3) end
  if not name:find("%.") then name = "verifiers." .. name end
  local value = require(name)
  local config = part.config
  if type(value) == "table" then
    if type(value.make) == "function" and (config or not value.verify) then return value.make(config or {}) end
    if config then error(("verifiers.combine: %s takes no config"):format(name), 3) end
    return value.verify
  end
  if config then return value(config) end
  return value
end

local function weighted_sum(parts, rewards, first)
  local sum, counted = 0, false
  for i = first, #parts do
    if rewards[i] then sum, counted = sum + parts[i].weight * rewards[i], true end
  end
  return counted and sum or nil
end

local modes = {}

function modes.sum(parts, rewards) return weighted_sum(parts, rewards, 1) end

function modes.all(parts, rewards, config)
  for i = 1, #parts do
    if not rewards[i] then return nil end
    if rewards[i] < (config.threshold or 0.5) then return 0 end
  end
  return 1
end

function modes.gate(parts, rewards, config)
  if not rewards[1] then return nil end
  if rewards[1] < (config.threshold or 0.5) then return config.closed or 0 end
  return weighted_sum(parts, rewards, 2)
end

--- The verifier for a config { parts =, mode =, threshold =, closed = }.
function M.make(config)
  local mode = modes[config.mode or "sum"]
  if not mode then error("verifiers.combine: mode is '" .. tostring(config.mode) .. "'; sum, all or gate", 2) end
  if type(config.parts) ~= "table" or #config.parts == 0 then error("verifiers.combine wants config.parts, a list of verifiers", 2) end
  if config.mode == "gate" and #config.parts < 2 then error("verifiers.combine: a gate wants at least two parts", 2) end
  local parts = {}
  for i, part in ipairs(config.parts) do
    parts[i] = { fn = load_part(part, i), weight = part.weight or 1, name = part.name or part.verifier:match("[^.]+$") }
  end
  return function(problem, completion)
    local rewards, info = {}, {}
    for i, part in ipairs(parts) do
      local reward, detail = part.fn(problem, completion)
      if type(reward) == "boolean" then reward = reward and 1 or 0 end
      if reward ~= nil and type(reward) ~= "number" then error(("part %s returned a %s"):format(part.name, type(reward))) end
      rewards[i] = reward or false
      info[i] = { name = part.name, reward = reward, info = detail }
    end
    return mode(parts, rewards, config), info
  end
end

return M
