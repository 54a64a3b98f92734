--- model.lua: a language model: its weights as the runtime computes with them, its modules, its tokenizer.
---
---   local m = tl.model.load("tiny", { dtype = "bf16" })
---   m.n_layers, m.vocab, m.n_parameters ...; m:modules()[1].name; m:weight(0); m:logprobs { 1, 2, 3 }
local F = require "tl.ffi"
local ffi = require "ffi"
local fs = require "tl.fs"
local hub = require "tl.hub"
local log = require "tl.log"
local names = require "tl.names"
local options = require "tl.options"
local C, check = F.C, F.check

local model = {}
local Model = F.class "model"

local DTYPES = { f32 = 0, fp32 = 0, float32 = 0, bf16 = 1, bfloat16 = 1, f16 = 2, fp16 = 2, float16 = 2 }
local NAMES = { [0] = "f32", "bf16", "f16" }

local function dtype_of(name, default, level)
  local d = DTYPES[name or default]
  if not d then error("unknown dtype '" .. tostring(name) .. "': f32, bf16 or f16", level + 1) end
  return d
end

-- ---- names

-- the model in a folder: the folder itself when it has a config.json, or the one GGUF file in it
local function in_folder(dir)
  if fs.kind(dir .. "/config.json") == "file" then return dir end
  local found
  for _, name in ipairs(fs.list(dir) or {}) do
    if name:lower():match "%.gguf$" then
      if found then return nil end
      found = dir .. "/" .. name
    end
  end
  return found
end

local function folders_with_models(dir)
  local out = {}
  for _, name in ipairs(fs.kind(dir) == "folder" and fs.list(dir) or {}) do
    if fs.kind(dir .. "/" .. name) == "folder" and in_folder(dir .. "/" .. name) then out[#out + 1] = name end
  end
  return out
end

-- models/tiny/default names the folder that "tiny" means; without it, the first there is
local function embedded(name)
  local tiny = F.root .. "/models/tiny"
  if name == "tiny" then
    if in_folder(tiny) then return in_folder(tiny) end
    if fs.kind(tiny .. "/default") == "file" then name = fs.read(tiny .. "/default"):match "%S+" else name = folders_with_models(tiny)[1] end
  end
  return name and fs.kind(tiny .. "/" .. name) == "folder" and in_folder(tiny .. "/" .. name)
end

--- Names that tl.model.load understands without a path: the embedded models and those in the cache.
function model.names()
  local out = folders_with_models(F.root .. "/models/tiny")
  if #out > 0 then table.insert(out, 1, "tiny") end
  for _, name in ipairs(folders_with_models(F.home() .. "/models")) do out[#out + 1] = name end
  return out
end

--- The path that a model's name means: a Hugging Face folder, a GGUF file, an embedded model, or one in the cache.
---@param name string
---@return string path
function model.resolve(name)
  if type(name) ~= "string" or name == "" then error("a model is named by a folder, a GGUF file or a name; got " .. tostring(name), 2) end
  local kind = fs.kind(name)
  if kind == "folder" then
    return in_folder(name) or error(name .. ": a folder without config.json, and without one GGUF file; not a model", 2)
  elseif kind == "file" then
    return name
  end
  local path = embedded(name)
  if path then return path end
  local cached = F.home() .. "/models/" .. name
  if not name:find "%.%." and fs.kind(cached) == "folder" and in_folder(cached) then return in_folder(cached) end
  if hub.parse(name) then
    local there = hub.find(name)
    local inside = there and in_folder(there.path)
    if inside then return inside end
    if there then error(("%s is in the cache, but is no one model: give the path of one of its files in %s"):format(name, there.path), 2) end
    error(("model '%s' is not here yet; get it with: tlrun fetch %s"):format(name, name), 2)
  end
  if require("tl.fetch").knows("model", name) then error(("model '%s' is not here yet; get it with: tlrun fetch %s"):format(name, name), 2) end
  local all, there = model.names(), {}
  for _, n in ipairs(all) do there[n] = true end
  for _, n in ipairs(require("tl.fetch").names "model") do if not there[n] then all[#all + 1] = n end end
  error(("no model '%s'%s (known: %s; or give a Hugging Face folder or a GGUF file)"):format(name, names.hint(name, all), table.concat(all, ", ")), 2)
end

-- ---- loading

local FIELDS = { "n_layers", "width", "n_heads", "n_kv_heads", "head_dim", "ffn", "vocab", "max_positions", "context", "norm_eps", "rope_theta",
  "bos", "pad", "n_parameters", "packed_bytes", "quantised_bytes", "n_modules", "shards" }

local function wrap(handle, name)
  local info = ffi.new "tl_model_info"
  C.tl_model_get_info(handle, info)
  local m = { handle = ffi.gc(handle, C.tl_model_free), name = name, tied = info.tied, compute = NAMES[tonumber(info.compute)] }
  for _, k in ipairs(FIELDS) do m[k] = tonumber(info[k]) end
  for _, k in ipairs { "path", "format", "architecture", "file_dtype" } do m[k] = info[k] ~= nil and ffi.string(info[k]) or "" end
  m.eos = {}
  for i = 1, info.n_eos do m.eos[i] = info.eos[i - 1] end
  m.info = {}
  for k, v in pairs(m) do
    if type(v) ~= "cdata" and k ~= "info" then m.info[k] = v end
  end
  return setmetatable(m, Model)
end

local warned = false

local function open(o, level, fn, path, ...)
  local opt = ffi.new("tl_model_options", { compute = dtype_of(o.dtype, "bf16", level + 1) })
  if o.device ~= nil and type(o.device) ~= "string" then error('device is "cpu", "cuda" or "cuda:1"; got ' .. F.shown(o.device), level + 1) end
  opt.device, opt.split = o.device, true
  local out = ffi.new "tl_model *[1]"
  local n = select("#", ...)
  local args = { ... }
  args[n + 1] = out
  check(fn(path, opt, unpack(args, 1, n + 1)))
  local warning = C.tl_device_warning()
  if warning ~= nil and not warned then
    log.warn("%s", ffi.string(warning))
    warned = true
  end
  return out[0]
end

local LOAD, CREATE = options.names { any = "dtype device" }, options.names { any = "dtype device", seed = "seed" }

--- Loads a model; where ranks share one (tl.comm.split), this rank's part. Options: dtype ("bf16", "f16" or "f32": weights and activations;
--- sums are fp32), device ("cpu", "cuda", "cuda:1"; one a process).
---@param name string a Hugging Face folder, a GGUF file, or a name (tl.model.resolve)
---@param o table? options
function model.load(name, o)
  o = o or {}
  options.only("model.load", o, LOAD)
  local ok, path = pcall(model.resolve, name)
  if not ok then error((tostring(path):gsub("^.-model%.lua:%d+: ", "")), 2) end
  local handle = open(o, 2, C.tl_model_load, path)
  local m = wrap(handle, name)
  if m.quantised_bytes > 0 then
    local log = require "tl.log"
    log.info("%s: weights stored as %s are expanded to %s: %s, where keeping them quantised would take %s", tostring(name), m.file_dtype, m.compute,
      log.bytes(m.packed_bytes), log.bytes(m.quantised_bytes))
  end
  return m
end

--- A model with random weights from a config.json, for training from scratch. Options: seed (0), dtype, device.
---@param config string path of a config.json
function model.create(config, o)
  o = o or {}
  options.only("model.create", o, CREATE)
  local handle = open(o, 2, C.tl_model_create, fs.path("model.create", config), o.seed or 0)
  return wrap(handle, config)
end

--- What a model's file or folder says, without loading its weights (a table).
function model.inspect(path)
  local out = ffi.new "char *[1]"
  check(C.tl_model_inspect(fs.path("model.inspect", path), out))
  return require("tl.json").decode(F.take_string(out[0]))
end

-- ---- methods

--- The linear layers that an adapter can target: {index (0-based), layer, kind, name, out, in}, in definition order. The list is the caller's own.
function Model:modules()
  local list, info = {}, ffi.new "tl_module_info"
  for i = 0, self.n_modules - 1 do
    check(C.tl_model_module(self.handle, i, info))
    list[i + 1] = { index = info.index, layer = info.layer, kind = ffi.string(info.kind), name = ffi.string(info.name), out = info.out, ["in"] = info["in"] }
  end
  return list
end

--- The weight of module i (its index, 0-based) as a tensor (out, in), exactly as the model computes with it.
function Model:weight(i)
  local m = type(i) == "number" and self:modules()[i + 1]
  if not m then error(("there is no module %s: 0 to %d"):format(tostring(i), self.n_modules - 1), 2) end
  local t = require("tl.tensor").zeros(m.out, m["in"])
  check(C.tl_model_weight(self.handle, i, t:data()))
  return t
end

local function ids_within(self, what, ids)
  local buffer = F.ids(what, ids)
  if #ids > self.context then F.raise(("%s: %d token ids; the model's context has %d"):format(what, #ids, self.context)) end
  return buffer
end

--- The logprob of every token but the first, given those before it.
---@param ids integer[]
---@param adapter table? a tl.adapter
---@param temperature number? 1
function Model:logprobs(ids, adapter, temperature)
  local buffer = ids_within(self, "model:logprobs", ids)
  if #ids < 2 then error("logprobs wants at least two token ids", 2) end
  if temperature ~= nil and not (type(temperature) == "number" and temperature > 0) then
    error("model:logprobs wants a temperature above 0; got " .. F.shown(temperature), 2)
  end
  local out = ffi.new("float[?]", #ids - 1)
  check(C.tl_logprobs(self.handle, F.handle("model:logprobs", adapter, "adapter"), buffer, #ids, temperature or 1, out))
  local list = {}
  for i = 1, #ids - 1 do list[i] = out[i - 1] end
  return list
end

--- The logits (n, vocab) of a short sequence, as a tensor.
function Model:logits(ids, adapter)
  local buffer, t = ids_within(self, "model:logits", ids), require("tl.tensor").zeros(math.max(1, #ids), self.vocab)
  check(C.tl_logits(self.handle, F.handle("model:logits", adapter, "adapter"), buffer, #ids, t:data()))
  return t
end

--- The model's tokenizer; nil when its folder or GGUF file has none.
function Model:tokenizer()
  if self.tok == nil then
    local path = self.path
    if path:match "%.json$" then path = path:match "^(.*)/[^/]*$" or "." end
    if fs.kind(path) == "folder" and fs.kind(path .. "/tokenizer.json") ~= "file" then return nil end
    if self.format == "gguf" then
      local about = model.inspect(path).tokenizer
      if type(about) ~= "table" or about.kind == "none" then return nil end
    end
    self.tok = require("tl.tokenizer").load(path)
  end
  return self.tok
end

--- The token that is put after a text that is to end there: of those at which the model stops the tokenizer's own (of Llama 3's three the one that ends
--- an answer, and not the one that ends a document), else the first; nil when there is none.
function Model:end_token()
  local tok = self:tokenizer()
  local own = tok and tok:eos()
  for _, id in ipairs(self.eos) do if id == own then return id end end
  return self.eos[1] or own
end

local SAVE, EXPORT = options.names { any = "adapter dtype" }, options.names { any = "adapter dtype", boolean = "tokenizer" }

--- Writes a Hugging Face folder. Options: adapter (merged in fp32, then rounded once), dtype ("bf16").
function Model:save(dir, o)
  o = o or {}
  options.only("model:save", o, SAVE)
  check(C.tl_model_save(self.handle, F.handle("model:save", o.adapter, "adapter"), fs.path("model:save", dir), dtype_of(o.dtype, "bf16", 2)))
end

--- Writes the model for other programs: as a Hugging Face folder (format "hf") or as a GGUF file ("gguf"). Options: adapter
--- (merged in fp32, then rounded once), dtype ("bf16"; "f32", "f16"; as GGUF also "q8_0", "q5_1", "q5_0", "q4_1", "q4_0"),
--- tokenizer (true; false: without it).
---@param path string
---@param format string "hf" or "gguf"
---@param o table? options
function Model:export(path, format, o)
  o = o or {}
  options.only("model:export", o, EXPORT)
  if type(format) ~= "string" then error('model:export wants a format, "hf" or "gguf"; got ' .. tostring(format), 2) end
  check(C.tl_model_export(self.handle, F.handle("model:export", o.adapter, "adapter"), fs.path("model:export", path), format, o.dtype or "bf16", o.tokenizer ~= false))
end

--- A copy with an adapter merged in; shares what it does not change. relaxed: on a device its products may be a library's, which are
--- faster, but a token's logprob then depends on its batch: for rollouts that are corrected.
---@param relaxed boolean?
function Model:merge(adapter, relaxed)
  local out = ffi.new "tl_model *[1]"
  check(C.tl_model_merge(self.handle, F.object("model:merge", adapter, "adapter").handle, out))
  if relaxed then C.tl_model_relax(out[0]) end
  local m = wrap(out[0], self.name)
  m.tok = self:tokenizer()
  return m
end

--- A copy with int8 linears and head, for fast rollouts; its logprobs differ a little. Takes this model's adapters.
function Model:quantize()
  local out = ffi.new("tl_model *[1]")
  check(C.tl_model_quantize(self.handle, out))
  local m = wrap(out[0], self.name)
  m.tok = self:tokenizer()
  return m
end

--- Releases the memory now instead of at the next collection.
function Model:free()
  if rawget(self, "handle") then C.tl_model_free(ffi.gc(self.handle, nil)); self.handle = nil end
end

function Model:__tostring()
  return ("%s model %s: %d layers, width %d, %d parameters (%s in the file, %s computed)"):format(self.architecture, self.name or self.path,
    self.n_layers, self.width, self.n_parameters, self.file_dtype, self.compute)
end

return model
