--- budget.lua: how to spend a budget of trained numbers on TinyLoRA: on u first, on tying after.
---
---   tl.budget { model = model, params = 13 }                    -- 42 modules: u = 1, 13 groups of 3 or 4 modules
---   tl.budget { model = model, bytes = 336, dtype = "bf16" }    -- 168 numbers: u = 4, nothing tied
---   tl.adapter.tinylora(model, tl.budget { model = model, params = 100, rank = 2 })
---
--- A module without tying costs u numbers. A smaller budget is met by a smaller u, down to u = 1 a module; only below that are modules
--- tied, in contiguous blocks in depth order whose sizes differ by one at most ("Learning to Reason in 13 Parameters", which recommends
--- exhausting u before tying). u goes no higher than r^2, the size of the space that v spans in a module; what is left over is `unused`.
local options = require "tl.options"

local budget = {}

local OPTIONS = options.names { any = "model targets dtype params bytes", count = "modules rank" }

local BYTES = { f32 = 4, fp32 = 4, bf16 = 2, f16 = 2, fp16 = 2 }

local function spend(n, modules, rank)
  if n < modules then return 1, n end
  return math.min(rank * rank, math.floor(n / modules)), modules
end

--- What a budget buys. Options: model, or modules (how many are targeted); params or bytes (then dtype decides how many numbers they
--- are: "f32" unless given); rank (2); targets, kept for the adapter when given with model.
--- Returns { rank, u, tie, dtype, targets; groups, n_tie (modules a group, on average), params, bytes, unused }: options of
--- tl.adapter.tinylora, and what they come to.
---@param o table
---@return table
function budget.of(o)
  options.only("tl.budget", o, OPTIONS)
  local dtype, rank = o.dtype or "f32", o.rank or 2
  local width = BYTES[dtype] or error("tl.budget: unknown dtype '" .. tostring(dtype) .. "': f32, bf16 or f16", 2)
  if (o.params == nil) == (o.bytes == nil) then error("tl.budget wants params or bytes, one of them", 2) end
  local n = o.params or type(o.bytes) == "number" and math.floor(o.bytes / width)
  if type(n) ~= "number" or n % 1 ~= 0 or n < 1 then
    error(("tl.budget: %s is %s; it must pay for at least one number%s"):format(o.params and "params" or "bytes", tostring(o.params or o.bytes),
      o.bytes and (" of %d bytes"):format(width) or ""), 2)
  end
  local modules = o.modules or o.model and require("tl.adapter").count(require("tl.ffi").object("tl.budget", o.model, "model"), o.targets) or error("tl.budget wants a model, or modules", 2)
  if modules < 1 or rank < 1 then error(("tl.budget wants modules and rank from 1; got %d and %d"):format(modules, rank), 2) end
  local u, groups = spend(n, modules, rank)
  local used = u * groups
  return { rank = rank, u = u, dtype = dtype, targets = o.targets, groups = groups, n_tie = modules / groups, params = used, bytes = used * width, unused = n - used,
    tie = function(m) return math.floor(m.position * groups / m.count) end }
end

return setmetatable(budget, { __call = function(_, o) return budget.of(o) end })
