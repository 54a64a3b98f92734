--- length.lua: rewards for how long a completion is, n = its length in config.unit: "tokens" (default), "words" or "chars".
---
---   config.shape = "overlong"   DAPO's soft punishment (Yu et al. 2025, arXiv:2503.14476, eq. 13): 0 up to limit - buffer, falling
---                               linearly to -1 at limit, -1 beyond. Needs limit; buffer defaults to a fifth of it.
---                = "limit"      1 when n <= limit, else 0
---                = "target"     1 at n = target, falling linearly to 0 at a distance of `width` (default: target)
--- The default shape is what the config has: target, else limit. problem.target and problem.limit go before the config's.
local M = {}

local function words(s)
  local _, n = s:gsub("%S+", "")
  return n
end

local units = {
  tokens = function(c) return c.n_tokens or error("the completion has no n_tokens; use unit = \"words\"", 0) end,
  words = function(c) return words(c.text) end,
  chars = function(c)
    local _, continuation = c.text:gsub("[\128-\191]", "")
    return #c.text - continuation
  end,
}

local shapes = {}

function shapes.overlong(n, problem, config)
  local limit = problem.limit or config.limit
  local buffer = config.buffer or limit / 5
  if n <= limit - buffer then return 0 end
  if n > limit then return -1 end
  return (limit - buffer - n) / buffer
end

function shapes.limit(n, problem, config) return n <= (problem.limit or config.limit) and 1 or 0 end

function shapes.target(n, problem, config)
  local target = problem.target or config.target
  return math.max(0, 1 - math.abs(n - target) / (config.width or target))
end

--- The verifier for a config { shape =, unit =, limit =, buffer =, target =, width = }.
function M.make(config)
  config = config or {}
  local shape = config.shape or (config.target and "target" or "limit")
  local count = units[config.unit or "tokens"] or error("verifiers.length: unit is '" .. tostring(config.unit) .. "'; tokens, words or chars", 2)
  local reward = shapes[shape] or error("verifiers.length: shape is '" .. tostring(shape) .. "'; overlong, limit or target", 2)
  local need = shape == "target" and "target" or "limit"
  return function(problem, completion)
    if not problem[need] and not config[need] then error(("neither the problem nor the config has a %s"):format(need)) end
    local n = count(completion)
    return reward(n, problem, config), { length = n, unit = config.unit or "tokens" }
  end
end

M.verify = M.make()

return setmetatable(M, { __call = function(_, problem, completion) return M.verify(problem, completion) end })
