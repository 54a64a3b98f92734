--- optim.lua: AdamW over an adapter's numbers, and learning-rate schedules. A schedule is a function (step, total) -> rate with
--- step counted from 1; a number means a constant.
local F = require "tl.ffi"
local ffi = require "ffi"
local fs = require "tl.fs"
local log = require "tl.log"
local options = require "tl.options"
local C, check = F.C, F.check

local optim = {}
local AdamW = {}
AdamW.__index = AdamW

local ADAMW = options.names { number = "beta1 beta2 eps weight_decay", amount = "max_grad_norm" }

--- AdamW. Options: beta1 (0.9), beta2 (0.999), eps (1e-8), weight_decay (0), max_grad_norm (1; 0: no clipping).
function optim.adamw(adapter, o)
  o = o or {}
  options.only("optim.adamw", o, ADAMW)
  F.object("optim.adamw", adapter, "adapter")
  local out = ffi.new("tl_adamw *[1]")
  check(C.tl_adamw_create(adapter.handle, o.beta1 or 0.9, o.beta2 or 0.999, o.eps or 1e-8, o.weight_decay or 0, out))
  return setmetatable({ handle = ffi.gc(out[0], C.tl_adamw_free), adapter = adapter, max_grad_norm = o.max_grad_norm or 1 }, AdamW)
end

--- AdamW with those of a trainer's options that are AdamW's.
function optim.of(o)
  local own = {}
  for _, name in ipairs(ADAMW.list) do own[name] = o[name] end
  return optim.adamw(o.adapter, own)
end

-- a learning rate
local function usable(x) return type(x) == "number" and x >= 0 and x < math.huge end

local LARGE, LOOKED_AT = 1e6, 4096

-- Numbers that grew beyond all use are said once, those that are none end the run. Of many some are looked at, evenly spread.
local function watch(self, lr)
  local v, n, largest = C.tl_adapter_parameters(self.adapter.handle), tonumber(C.tl_adapter_n_parameters(self.adapter.handle)), 0
  for i = 0, n - 1, math.ceil(n / LOOKED_AT) do
    local x = math.abs(v[i])
    if not (x < math.huge) then error(("the adapter's numbers are not finite after an update with learning rate %g: it is too high"):format(lr), 0) end
    if x > largest then largest = x end
  end
  if largest > LARGE and not self.warned then
    self.warned = true
    log.warn("the adapter has numbers as large as %.3g after an update with learning rate %g: it is too high", largest, lr)
  end
end

--- One update with the gradient that the adapter holds; returns the gradient's norm before clipping.
function AdamW:step(lr)
  if not usable(lr) then error("adamw:step wants a learning rate, a finite number from 0; got " .. F.shown(lr), 2) end
  local norm = ffi.new("double[1]")
  check(C.tl_adamw_step(self.handle, lr, self.max_grad_norm, norm))
  watch(self, lr)
  return norm[0]
end

--- SHA-256 of an adapter's master copy.
function optim.fingerprint(adapter)
  local out = ffi.new "char[65]"
  F.object("optim.fingerprint", adapter, "adapter")
  check(C.tl_sha256_bytes(C.tl_adapter_parameters(adapter.handle), 4 * tonumber(C.tl_adapter_n_parameters(adapter.handle)), out))
  return ffi.string(out)
end

--- The moments, the step count and the master copy of the numbers: into a file, and back from it.
function AdamW:save(path) check(C.tl_adamw_save(self.handle, fs.path("adamw:save", path))) end
function AdamW:load(path) check(C.tl_adamw_load(self.handle, fs.path("adamw:load", path))) end

--- The rate of a step that is about to be made; an error when the schedule gives none.
function optim.rate(schedule, step, total)
  local rate = schedule(step, total)
  if usable(rate) then return rate end
  error(("lr: the schedule gave %s for step %d; wanted a finite number from 0"):format(type(rate) == "string" and "'" .. rate .. "'" or tostring(rate), step), 0)
end

--- A schedule as a function, from a number or a function.
function optim.schedule(lr)
  if type(lr) == "function" then return lr end
  if usable(lr) then return function() return lr end end
  F.raise("lr is a finite number from 0 or a function (step, total) -> number; got " .. F.shown(lr))
end

-- how many steps a schedule that ends is for: the trainer's total_steps, which recipes set
local function wanted(total, name)
  return total or error(("optim.%s ends at the last step: give the trainer total_steps"):format(name), 0)
end

--- Linear warm-up over `warmup` steps, then cosine decay to `floor` (0) times the peak at the last step.
function optim.cosine(peak, warmup, floor)
  floor = floor or 0
  return function(step, total)
    if step <= (warmup or 0) then return peak * step / warmup end
    local x = (step - (warmup or 0)) / math.max(1, wanted(total, "cosine") - (warmup or 0))
    return peak * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * math.min(1, x))))
  end
end

--- Linear warm-up, then linear decay to zero.
function optim.linear(peak, warmup)
  return function(step, total)
    if step <= (warmup or 0) then return peak * step / warmup end
    return peak * math.max(0, wanted(total, "linear") - step + 1) / math.max(1, total - (warmup or 0))
  end
end

return optim
