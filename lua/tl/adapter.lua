--- adapter.lua: the trained part of a model. Four kinds behind one interface:
---   tinylora   W + U S (sum_i v_i P_i) V^T, v in R^u trained and shared by tied modules; P frozen, seeded
---   loraxs     W + alpha/r U S R V^T, R (r, r) trained in every module
---   lora       W + alpha/r B A, A and B trained
---   full       every weight trained (a second copy; the base model stays as it is)
--- The base weights are never changed. `dtype` is what the trained numbers are stored and used in; the optimiser's copy is fp32.
---
--- On disk an adapter is a compact file (*.tla: the trained numbers, and a manifest that says on which base they mean what) or a PEFT
--- directory; docs/adapters.md describes both.
local F = require "tl.ffi"
local ffi = require "ffi"
local fs = require "tl.fs"
local json = require "tl.json"
local options = require "tl.options"
local tie = require "tl.tie"
local C, check = F.C, F.check

local adapter = {}
local Adapter = F.class "adapter"

local KINDS = { q = true, k = true, v = true, o = true, gate = true, up = true, down = true }
local DTYPES = { f32 = 0, fp32 = 0, float32 = 0, bf16 = 1, bfloat16 = 1, f16 = 2, fp16 = 2, float16 = 2 }
local FORMS = { peft = "TL_PEFT_NATIVE", ["peft-lora"] = "TL_PEFT_LORA", ["peft-tinylora"] = "TL_PEFT_TINYLORA" }
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
    for _, k in ipairs(want) do
      if type(k) ~= "string" then error("targets is a list of q, k, v, o, gate, up, down; got " .. F.shown(k) .. " in it", 4) end
    end
    return targets(model, table.concat(want, ","))
  elseif type(want) ~= "function" then
    error("targets is a text, a list of texts or a function of a module; got " .. F.shown(want), 4)
  end
  for _, m in ipairs(model:modules()) do
    if type(want) == "function" and want(m) or set[m.kind] then out[#out + 1] = m end
  end
  if #out == 0 then error("no module is targeted", 4) end
  return out
end

--- How many modules of a model are targeted ("all" unless said).
function adapter.count(model, want) return #targets(model, want or "all") end

local function wrap(model, handle)
  local a = setmetatable({ model = model, handle = ffi.gc(handle, C.tl_adapter_free) }, Adapter)
  a.kind = NAMES[tonumber(C.tl_adapter_get_kind(handle))]
  a.n_parameters = tonumber(C.tl_adapter_n_parameters(handle))
  a.n_bytes = tonumber(C.tl_adapter_n_bytes(handle))
  return a
end

-- folder of the SVD cache; nil: none is wanted
local function svd_cache(o)
  if o.cache == nil then return F.home() .. "/svd" end
  if o.cache and type(o.cache) ~= "string" then F.raise("cache is a folder, or false for none; got " .. F.shown(o.cache)) end
  return o.cache or nil
end

local function create(model, kind, o, level)
  F.object("an adapter", model, "model")
  local opt = ffi.new("tl_adapter_options", { kind = kind, rank = o.rank or 2, u = o.u or 13, alpha = o.alpha or o.rank or 2,
    storage = dtype_of(o.dtype or "f32", level + 1), seed = o.seed or 42, init_std = o.init or 0,
    train_embeddings = o.embeddings ~= false })
  if o.sigma and o.sigma ~= "paper" and o.sigma ~= "peft" then error("sigma is 'paper' or 'peft'; got " .. tostring(o.sigma), level + 1) end
  opt.sigma = o.sigma == "peft" and C.TL_SIGMA_PEFT or C.TL_SIGMA_PAPER
  if o.projection and o.projection ~= "philox" and o.projection ~= "torch" then
    error("projection is 'philox' or 'torch'; got " .. tostring(o.projection), level + 1)
  end
  opt.projection = o.projection == "torch" and C.TL_PROJECTION_TORCH or C.TL_PROJECTION_PHILOX
  local keep = {}
  if kind ~= C.TL_FULL then
    local mods = targets(model, o.targets or "all")
    local indices = ffi.new("int32_t[?]", #mods)
    local group = ffi.new("int32_t[?]", #mods)
    for i, m in ipairs(mods) do indices[i - 1] = m.index end  -- before the tying function has the descriptions in its hands
    local groups = tie.assign(kind == C.TL_TINYLORA and tie.named(o.tie or tie.full) or tie.none, mods)
    for i in ipairs(mods) do group[i - 1] = groups[i] end
    opt.modules, opt.groups, opt.n_modules = indices, group, #mods
    keep = { indices, group }
  end
  local cache = svd_cache(o)
  if cache then opt.cache_dir = cache; keep[#keep + 1] = cache end
  opt.basis_of = F.handle("an adapter's basis", o.basis, "adapter")
  local out = ffi.new("tl_adapter *[1]")
  check(C.tl_adapter_create(model.handle, opt, out))
  return wrap(model, out[0])
end

-- what each kind takes; tl.budget's tables have figures beside their options
local BUDGET = options.names { any = "groups n_tie params bytes unused" }
local TINYLORA = options.names({ any = "tie targets sigma dtype projection basis cache", number = "init", count = "rank u", seed = "seed" }, BUDGET)
local LORAXS = options.names { any = "targets sigma dtype basis cache", number = "alpha init", count = "rank", seed = "seed" }
local LORA = options.names { any = "targets dtype", number = "alpha", count = "rank", seed = "seed" }
local FULL = options.names { any = "dtype", boolean = "embeddings" }
adapter.OPTIONS = options.names({ any = "kind" }, TINYLORA, LORAXS, LORA, FULL)

local make = {}
function make.tinylora(model, o, level) return create(model, C.TL_TINYLORA, o, level + 1) end
function make.loraxs(model, o, level) return create(model, C.TL_LORA_XS, setmetatable({ rank = o.rank or 2 }, { __index = o }), level + 1) end
function make.lora(model, o, level)
  local rank = o.rank or 8
  return create(model, C.TL_LORA, setmetatable({ rank = rank, alpha = o.alpha or 2 * rank }, { __index = o }), level + 1)
end
function make.full(model, o, level) return create(model, C.TL_FULL, o, level + 1) end

--- TinyLoRA. Options: rank (2), u (13), tie (tl.tie.full), targets ("all"), sigma ("paper" or "peft"), dtype ("f32"; "bf16"
--- makes u = 13 an update of 26 bytes), seed (42), projection ("philox", or "torch": P as PEFT draws it from projection_seed =
--- seed), init (0: v starts at zero), basis (an adapter whose A and B are used too, instead of the same ones computed again), cache (folder that keeps SVDs; false:
--- none). A table from tl.budget is taken as it is.
---@param model table a tl.model
---@param o table? options
function adapter.tinylora(model, o)
  o = o or {}
  options.only("adapter.tinylora", o, TINYLORA)
  return make.tinylora(model, o, 2)
end

--- LoRA-XS. Options: rank (2), alpha (rank), targets, sigma, dtype, seed, init (standard deviation of R, 0), basis, cache (as tinylora's).
function adapter.loraxs(model, o)
  o = o or {}
  options.only("adapter.loraxs", o, LORAXS)
  return make.loraxs(model, o, 2)
end

--- LoRA. Options: rank (8), alpha (2 * rank), targets, dtype, seed.
function adapter.lora(model, o)
  o = o or {}
  options.only("adapter.lora", o, LORA)
  return make.lora(model, o, 2)
end

--- Full finetuning. Options: embeddings (true: embeddings, head and norms too), dtype.
function adapter.full(model, o)
  o = o or {}
  options.only("adapter.full", o, FULL)
  return make.full(model, o, 2)
end

--- An adapter by name: "tinylora", "loraxs", "lora" or "full", with that kind's options. Options of the other kinds are of no effect, so that one
--- table is good for all.
function adapter.create(model, kind, o)
  o = o or {}
  if not make[kind] then error("unknown adapter '" .. tostring(kind) .. "': tinylora, loraxs, lora or full", 2) end
  options.only("adapter.create", o, adapter.OPTIONS)
  return make[kind](model, o, 2)
end

--- The file or folder that a path means as an adapter: a compact file, a PEFT directory, or those of a run directory (the compact
--- file first). Returns the path and "compact" or "peft"; nil and what is wrong.
function adapter.find(path)
  if fs.kind(path) == "file" then return path, "compact" end
  if fs.kind(path) ~= "folder" then return nil, path .. ": there is no such file or folder" end
  if fs.kind(path .. "/adapter_config.json") == "file" then return path, "peft" end
  if fs.kind(path .. "/adapter.tla") == "file" then return path .. "/adapter.tla", "compact" end
  if fs.kind(path .. "/adapter/adapter_config.json") == "file" then return path .. "/adapter", "peft" end
  return nil, path .. ": neither a PEFT directory (adapter_config.json) nor a run with an adapter (adapter.tla)"
end

local LOAD = options.names { any = "basis cache", boolean = "force" }

--- Reads an adapter: a compact file, a PEFT directory (TinyLoRA or LoRA), or a run directory. A compact file is refused on a base
--- that it was not made for; option force: loads it all the same. Option cache: as in tl.adapter.tinylora; basis: an adapter of the same
--- model, whose A and B a compact file's adapter uses where they are those that it wants.
function adapter.load(model, path, o)
  o = o or {}
  options.only("adapter.load", o, LOAD)
  F.object("adapter.load", model, "model")
  local found, kind = adapter.find(fs.path("adapter.load", path))
  if not found then error(kind, 2) end
  local out = ffi.new("tl_adapter *[1]")
  if kind == "compact" then check(C.tl_artifact_read_beside(model.handle, found, o.force or false, svd_cache(o), F.handle("adapter.load's basis", o.basis, "adapter"), out))
  else check(C.tl_adapter_load(model.handle, found, out)) end
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
  for i = 1, type(values) == "table" and self.n_parameters or 1 do
    local v = type(values) == "table" and values[i] or values
    if type(v) ~= "number" or v - v ~= 0 then error(("an adapter's numbers are finite numbers; got %s for number %d"):format(F.shown(v), i), 2) end
  end
  for i = 1, self.n_parameters do p[i - 1] = type(values) == "table" and values[i] or values end
  check(C.tl_adapter_refresh(self.handle))
  return self
end

--- The trained numbers, read and set: a:v() is a table of them (TinyLoRA: the groups' v one after the other), a:v(3) the third, a:v(3, 0.5)
--- sets it; a:v { ... } or a:v(0) sets all of them, and then returns the adapter.
---@param i? integer|number|number[]
---@param x? number
function Adapter:v(i, x)
  if i == nil then return self:parameters() end
  if type(i) == "table" or x == nil and i == 0 then return self:set(i) end
  if type(i) ~= "number" or i % 1 ~= 0 or i < 1 or i > self.n_parameters then
    error(("v has numbers 1 to %d; got %s"):format(self.n_parameters, tostring(i)), 2)
  end
  local p = C.tl_adapter_parameters(self.handle)
  if x == nil then return p[i - 1] end
  if type(x) ~= "number" or x - x ~= 0 then error(("an adapter's numbers are finite numbers; got %s for number %d"):format(F.shown(x), i), 2) end
  p[i - 1] = x
  check(C.tl_adapter_refresh(self.handle))
  return self
end

--- Another adapter with the same numbers, on the same A, B and P. TinyLoRA and LoRA-XS only.
function Adapter:clone()
  local out = ffi.new "tl_adapter *[1]"
  check(C.tl_adapter_clone(self.handle, out))
  return wrap(self.model, out[0])
end

--- The adapter at (1 - t) a + t b: between two of one family (same kind, modules, tying and P), or beyond them (t outside 0 and 1).
--- b nil: t times a, the base at 0.
---@param a table
---@param b table?
---@param t number
function adapter.interpolate(a, b, t)
  if type(t) ~= "number" then error("interpolate wants a number t; got " .. type(t), 2) end
  F.object("interpolate", a, "adapter")
  if b then check(C.tl_adapter_alike(a.handle, F.object("interpolate", b, "adapter").handle)) end
  local v, w = a:parameters(), b and b:parameters()
  for i = 1, #v do v[i] = w and (1 - t) * v[i] + t * w[i] or t * v[i] end
  return a:clone():set(v)
end

--- The gradient as a Lua table.
function Adapter:gradient()
  local p, t = C.tl_adapter_gradient(self.handle), {}
  for i = 1, self.n_parameters do t[i] = p[i - 1] end
  return t
end

--- Sets the gradient to zero; a pass adds to it.
function Adapter:zero_gradient() C.tl_adapter_zero_gradient(self.handle) end

--- The update of module i (0-based index) as a tensor (out, in).
function Adapter:delta(i)
  local m = type(i) == "number" and self.model:modules()[i + 1]
  if not m then error(("there is no module %s: 0 to %d"):format(F.shown(i), self.model.n_modules - 1), 2) end
  local t = require("tl.tensor").zeros(m.out, m["in"])
  check(C.tl_adapter_delta(self.handle, i, t:data()))
  return t
end

-- what the file says of its making: the recipe and its seed, the run folder it is written into, and what the caller adds
local function provenance(path, o)
  local p = json.object({}, { "tlrun", "recipe", "seed", "run", "metrics" })
  local recipe = package.loaded["tl.recipe"] and package.loaded["tl.recipe"].last
  if recipe then p.recipe, p.seed = recipe.name, recipe.seed end
  local folder = path:match "^(.*)/[^/]*$"
  if folder and fs.kind(folder .. "/metrics.jsonl") == "file" then p.run = folder:match "([^/]+)/*$" end
  p.metrics = o.metrics
  for k, v in pairs(o.provenance or {}) do p[k] = v end
  p.tlrun = ffi.string(C.tl_version())
  return json.encode(p)
end

-- a base's name without the folders above it: a manifest says which model, not where somebody keeps it
local function plain_name(model)
  return ((model.name or model.path):gsub("/+$", ""):match "([^/]+)$")
end

local SAVE, REBASE = options.names { any = "format", map = "metrics provenance", boolean = "carry" }, options.names { any = "cache", number = "tolerance" }

--- Writes the adapter: the compact file PATH.tla and the PEFT directory PATH; only the compact file when PATH ends in ".tla".
--- Options: format (only this, exactly at PATH: "compact", "peft", "peft-lora" or "peft-tinylora"), metrics and provenance (tables
--- that the compact file records), carry (true: A and B go into the compact file). Full finetuning: a model directory.
function Adapter:save(path, o)
  o = o or {}
  options.only("adapter:save", o, SAVE)
  fs.path("adapter:save", path)
  if self.kind == "full" then
    check(C.tl_model_save(self.model.handle, self.handle, path, self.model.compute == "f32" and C.TL_F32 or C.TL_BF16))
    return
  end
  local format = o.format or path:match "%.tla$" and "compact"
  if format and format ~= "compact" and not FORMS[format] then
    error("unknown format '" .. tostring(format) .. "': compact, peft, peft-lora or peft-tinylora", 2)
  end
  if format ~= "compact" then
    check(C.tl_adapter_save_as(self.handle, path, self.model.name or self.model.path, C[FORMS[format or "peft"]]))
  end
  if format == "compact" or not format then
    local name, origin = plain_name(self.model), provenance(path, o)
    local opt = ffi.new("tl_artifact_options", { base_name = name, provenance = origin, carry = o.carry or false })
    check(C.tl_artifact_write(self.handle, format and path or path .. ".tla", opt))
  end
end

--- A TinyLoRA or LoRA-XS whose A and B came from a file, on the basis that this program computes, so that its compact file needs
--- neither. Returns the new adapter and the largest disagreement of a singular pair; an error when one is above tolerance (0.01).
--- Option cache: as in tl.adapter.tinylora.
function Adapter:rebase(o)
  o = o or {}
  options.only("adapter:rebase", o, REBASE)
  local out, worst = ffi.new("tl_adapter *[1]"), ffi.new("double[1]")
  check(C.tl_adapter_rebase(self.handle, svd_cache(o), o.tolerance or 0.01, worst, out))
  return wrap(self.model, out[0]), worst[0]
end

--- Two adapters of one model, module by module: a list of {name, norm_a, norm_b, distance, cosine} and the same over all modules.
--- distance = |dW - dW'| / |dW|, cosine = <dW, dW'> / (|dW| |dW'|), Frobenius.
function Adapter:compare(other)
  local out, list = ffi.new "double[3]", {}
  local theirs = F.object("adapter:compare", other, "adapter").handle
  local sum = { 0, 0, 0 }
  local function row(name, aa, bb, ab)
    local na, nb = math.sqrt(math.max(0, aa)), math.sqrt(math.max(0, bb))
    return json.object({ name = name, norm_a = na, norm_b = nb, distance = na > 0 and math.sqrt(math.max(0, aa + bb - 2 * ab)) / na or json.null,
      cosine = na > 0 and nb > 0 and ab / na / nb or json.null }, { "name", "norm_a", "norm_b", "distance", "cosine" })
  end
  for _, m in ipairs(self.model:modules()) do
    check(C.tl_adapter_compare(self.handle, theirs, m.index, out, out + 1, out + 2))
    if out[0] > 0 or out[1] > 0 then list[#list + 1] = row(m.name, out[0], out[1], out[2]) end
    for i = 1, 3 do sum[i] = sum[i] + out[i - 1] end
  end
  return list, row("all", unpack(sum))
end

--- Writes a LoRA that llama.cpp loads (a GGUF file).
function Adapter:save_gguf(path) check(C.tl_adapter_save_gguf(self.handle, fs.path("adapter:save_gguf", path))) end

--- Releases the memory now instead of at the next collection.
function Adapter:free()
  if rawget(self, "handle") then C.tl_adapter_free(ffi.gc(self.handle, nil)); self.handle = nil end
end

function Adapter:__tostring()
  return ("%s adapter: %d trained numbers, %d bytes"):format(self.kind, self.n_parameters, self.n_bytes)
end

return adapter
