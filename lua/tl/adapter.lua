--- adapter.lua: the trained part of a model. Four kinds behind one interface:
---   tinylora   W + U S (sum_i v_i P_i) V^T, v in R^u trained and shared by tied modules; P frozen, seeded
---   loraxs     W + alpha/r U S R V^T, R (r, r) trained in every module
---   lora       W + alpha/r B A, A and B trained
---   full       every weight trained (a second copy; the base model stays as it is)
--- The base weights are never changed. `dtype` is what the trained numbers are stored and used in; the optimiser's copy is fp32.
local F = require "tl.ffi"
local ffi = require "ffi"
local tie = require "tl.tie"
local C, check = F.C, F.check

local adapter = {}
local Adapter = {}
Adapter.__index = Adapter

local KINDS = { q = true, k = true, v = true, o = true, gate = true, up = true, down = true }
local DTYPES = { f32 = 0, fp32 = 0, float32 = 0, bf16 = 1, bfloat16 = 1, f16 = 2, fp16 = 2, float16 = 2 }
local NAMES = { [0] = "tinylora", "loraxs", "lora", "full" }

local function dtype_of(name, level)
  local d = DTYPES[name]
  if not d then error("unknown dtype '" .. tostring(name) .. "': f32, bf16 or f16", level + 1) end
  return d
end

--- The targeted modules of a model: "all", "q,v", {"q", "v"}, or a function of the module's description.
local function targets(model, want)
  local out = {}
  local set = {}
  if type(want) == "string" then
    for k in want:gmatch("[^,%s]+") do
      k = k:gsub("_proj$", "")
      if k == "all" then for kind in pairs(KINDS) do set[kind] = true end
      elseif KINDS[k] then set[k] = true
      else error("unknown target '" .. k .. "': q, k, v, o, gate, up, down or all", 4) end
    end
  elseif type(want) == "table" then
    return targets(model, table.concat(want, ","))
  end
  for _, m in ipairs(model:modules()) do
    if type(want) == "function" and want(m) or set[m.kind] then out[#out + 1] = m end
  end
  if #out == 0 then error("no module is targeted", 4) end
  return out
end

local function wrap(model, handle)
  local a = setmetatable({ model = model, handle = ffi.gc(handle, C.tl_adapter_free) }, Adapter)
  a.kind = NAMES[tonumber(C.tl_adapter_get_kind(handle))]
  a.n_parameters = tonumber(C.tl_adapter_n_parameters(handle))
  a.n_bytes = tonumber(C.tl_adapter_n_bytes(handle))
  return a
end

local function create(model, kind, o, level)
  local opt = ffi.new("tl_adapter_options", { kind = kind, rank = o.rank or 2, u = o.u or 13, alpha = o.alpha or o.rank or 2,
    storage = dtype_of(o.dtype or "f32", level + 1), seed = o.seed or 42, init_std = o.init or 0,
    train_embeddings = o.embeddings ~= false })
  if o.sigma and o.sigma ~= "paper" and o.sigma ~= "peft" then error("sigma is 'paper' or 'peft'; got " .. tostring(o.sigma), level + 1) end
  opt.sigma = o.sigma == "peft" and C.TL_SIGMA_PEFT or C.TL_SIGMA_PAPER
  local keep = {}
  if kind ~= C.TL_FULL then
    local mods = targets(model, o.targets or "all")
    local groups = tie.assign(kind == C.TL_TINYLORA and tie.named(o.tie or tie.full) or tie.none, mods)
    local indices = ffi.new("int32_t[?]", #mods)
    local group = ffi.new("int32_t[?]", #mods)
    for i, m in ipairs(mods) do indices[i - 1], group[i - 1] = m.index, groups[i] end
    opt.modules, opt.groups, opt.n_modules = indices, group, #mods
    keep = { indices, group }
  end
  local cache = o.cache
  if cache == nil then cache = F.home() .. "/svd" end
  if cache then opt.cache_dir = cache; keep[#keep + 1] = cache end
  local out = ffi.new("tl_adapter *[1]")
  check(C.tl_adapter_create(model.handle, opt, out), level + 1)
  return wrap(model, out[0])
end

--- TinyLoRA. Options: rank (2), u (13), tie (tl.tie.full), targets ("all"), sigma ("paper" or "peft"), dtype ("f32"; "bf16"
--- makes u = 13 an update of 26 bytes), seed (42), init (0: v starts at zero).
---@param model table a tl.model
---@param o table? options
function adapter.tinylora(model, o) return create(model, C.TL_TINYLORA, o or {}, 2) end

--- LoRA-XS. Options: rank, alpha (rank), targets, sigma, dtype, seed, init (standard deviation of R, 0).
function adapter.loraxs(model, o)
  o = o or {}
  return create(model, C.TL_LORA_XS, setmetatable({ rank = o.rank or 2 }, { __index = o }), 2)
end

--- LoRA. Options: rank (8), alpha (2 * rank), targets, dtype, seed.
function adapter.lora(model, o)
  o = o or {}
  local rank = o.rank or 8
  return create(model, C.TL_LORA, setmetatable({ rank = rank, alpha = o.alpha or 2 * rank }, { __index = o }), 2)
end

--- Full finetuning. Options: embeddings (true: embeddings, head and norms too), dtype.
function adapter.full(model, o) return create(model, C.TL_FULL, o or {}, 2) end

--- An adapter by name: "tinylora", "loraxs", "lora" or "full", with that kind's options.
function adapter.create(model, kind, o)
  local make = { tinylora = adapter.tinylora, loraxs = adapter.loraxs, lora = adapter.lora, full = adapter.full }
  if not make[kind] then error("unknown adapter '" .. tostring(kind) .. "': tinylora, loraxs, lora or full", 2) end
  return make[kind](model, o)
end

--- Reads a PEFT directory (TinyLoRA or LoRA).
function adapter.load(model, dir)
  local out = ffi.new("tl_adapter *[1]")
  check(C.tl_adapter_load(model.handle, dir, out), 2)
  return wrap(model, out[0])
end

--- The trained numbers as a Lua table.
function Adapter:parameters()
  local p, t = C.tl_adapter_parameters(self.handle), {}
  for i = 1, self.n_parameters do t[i] = p[i - 1] end
  return t
end

--- Sets the trained numbers (a table of n_parameters numbers, or one number for all) and puts them to use.
function Adapter:set(values)
  local p = C.tl_adapter_parameters(self.handle)
  if type(values) == "table" and #values ~= self.n_parameters then
    error(("the adapter has %d numbers, %d given"):format(self.n_parameters, #values), 2)
  end
  for i = 1, self.n_parameters do p[i - 1] = type(values) == "table" and values[i] or values end
  check(C.tl_adapter_refresh(self.handle), 2)
  return self
end

--- The gradient as a Lua table.
function Adapter:gradient()
  local p, t = C.tl_adapter_gradient(self.handle), {}
  for i = 1, self.n_parameters do t[i] = p[i - 1] end
  return t
end

function Adapter:zero_gradient() C.tl_adapter_zero_gradient(self.handle) end

--- The update of module i (0-based index) as a tensor (out, in).
function Adapter:delta(i)
  local m = self.model:modules()[i + 1]
  if not m then error("there is no module " .. tostring(i), 2) end
  local t = require("tl.tensor").zeros(m.out, m["in"])
  check(C.tl_adapter_delta(self.handle, i, t:data()), 2)
  return t
end

--- Writes a PEFT directory: adapter_config.json and adapter_model.safetensors; full finetuning: a model directory.
function Adapter:save(dir)
  if self.kind == "full" then
    check(C.tl_model_save(self.model.handle, self.handle, dir, self.model.compute == "f32" and C.TL_F32 or C.TL_BF16), 2)
  else
    check(C.tl_adapter_save(self.handle, dir, self.model.name or self.model.path), 2)
  end
end

function Adapter:free()
  if self.handle then C.tl_adapter_free(ffi.gc(self.handle, nil)); self.handle = nil end
end

function Adapter:__tostring()
  return ("%s adapter: %d trained numbers, %d bytes"):format(self.kind, self.n_parameters, self.n_bytes)
end

return adapter
