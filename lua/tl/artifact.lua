--- artifact.lua: adapters on disk, looked at without their model: what a compact file or a PEFT directory says of itself, in at most
--- ten lines, and the signatures of compact files.
local F = require "tl.ffi"
local ffi = require "ffi"
local fs = require "tl.fs"
local json = require "tl.json"
local C, check = F.C, F.check

local artifact = {}

local METHODS = { tinylora = "TinyLoRA", lora_xs = "LoRA-XS", lora = "LoRA" }
local KINDS = { "q", "k", "v", "o", "gate", "up", "down" }

-- what every manifest has, by the types of Lua
local MANIFEST = { method = "string", parameters = "number", dtype = "string", targets = "table", base = "table", provenance = "table" }

-- ---- what a path holds, as tables

local function compact(path)
  local out = ffi.new "char *[1]"
  check(C.tl_artifact_inspect(path, out))
  local d = json.decode(F.take_string(out[0]))
  for key, kind in pairs(MANIFEST) do
    if type(d.manifest[key]) ~= kind then error(("%s: manifest field %s is no %s"):format(path, key, kind), 4) end
  end
  return json.object({ kind = "adapter", format = "compact", path = path, bytes = d.bytes, sha256 = d.sha256, values = d.values,
    signature = d.signature, manifest = d.manifest }, { "kind", "format", "path", "bytes", "sha256", "manifest", "values", "signature" })
end

local function peft(path)
  local c = json.load(path .. "/adapter_config.json")
  return json.object({ kind = "adapter", format = "peft", path = path, peft_type = c.peft_type, rank = c.r, u = c.u, targets = c.target_modules,
    base_model = c.base_model_name_or_path, bytes = fs.bytes(path .. "/adapter_model.safetensors"), config = c },
    { "kind", "format", "path", "peft_type", "rank", "u", "targets", "base_model", "bytes", "config" })
end

--- Whether a file begins as a compact adapter does.
function artifact.is_compact(path)
  local f = fs.kind(path) == "file" and io.open(path, "rb")
  local head = f and f:read(8)
  if f then f:close() end
  return head == "TLADAPT\1"
end

--- What an adapter's path says of itself, as a table; a damaged compact file is an error.
function artifact.describe(path)
  local found, kind = require("tl.adapter").find(fs.path("artifact.describe", path))
  if not found then error(kind, 2) end
  return (kind == "compact" and compact or peft)(found)
end

--- The base model's name that an adapter's path gives; nil: none.
function artifact.base_name(path)
  local d = artifact.describe(path)
  local name = d.manifest and d.manifest.base and d.manifest.base.name or d.base_model
  return type(name) == "string" and name ~= "" and name or nil
end

-- ---- in words

local function number(x) return type(x) == "number" and ("%.4g"):format(x) or "?" end

-- text of a file on its way to a terminal: nothing in it may move the cursor
local function string_or(x, other) return type(x) == "string" and x ~= "" and x:gsub("%c", "?") or other end

-- "q k v o gate up down in layers 0-29", or each kind with its own layers
local function layers_of(t)
  local by_layers, order = {}, {}
  for _, kind in ipairs(KINDS) do
    local layers = string_or(t[kind])
    if layers then
      if not by_layers[layers] then by_layers[layers], order[#order + 1] = {}, layers end
      table.insert(by_layers[layers], kind)
    end
  end
  for i, layers in ipairs(order) do order[i] = table.concat(by_layers[layers], " ") .. " in layers " .. layers end
  return table.concat(order, "; ")
end

local function formula(m)
  local middle = m.method == "lora" and "scale B A" or m.sigma == "peft" and "U sqrt(S) R sqrt(S) V^T" or "U S R V^T"
  local r = m.method == "tinylora" and ", R = sum_i v_i P_i" or ""
  local rank = m.rank and ("; rank %s"):format(tostring(m.rank)) or "; ranks " .. string_or(m.ranks, "?")
  return ("W + %s%s%s"):format(middle, r, rank) .. (m.u and (", u %s"):format(tostring(m.u)) or "") .. (m.scale and ", scale " .. number(m.scale) or "")
end

local function basis(m)
  local b = type(m.basis) == "table" and m.basis or {}
  if m.method == "lora" then return "none: A and B are the trained numbers" end
  if b.from == "file" then return "A and B are in the file" end
  return ("recomputed from the weights and checked by probes; closest singular values %s of the largest apart"):format(number(b.closest))
end

local function origin(p)
  local words = { "tlrun " .. string_or(p.tlrun, "?") }
  for _, k in ipairs { "recipe", "seed", "run", "from" } do
    if p[k] ~= nil and p[k] ~= json.null then words[#words + 1] = k .. " " .. string_or(tostring(p[k]), "") end
  end
  if type(p.metrics) == "table" then words[#words + 1] = "metrics " .. json.encode(p.metrics) end
  return table.concat(words, ", ")
end

local function values(v)
  local shown = {}
  for i = 1, math.min(16, #v) do shown[i] = number(v[i]) end
  return table.concat(shown, " ") .. (#v > 16 and " ..." or "")
end

local function compact_lines(d)
  local m = d.manifest
  local base, p = m.base, m.projection
  local size = ({ F32 = 4, BF16 = 2, F16 = 2 })[m.dtype] or 0
  local lines = {
    ("%s: %s, %d trained numbers in %s (%d bytes); a file of %d bytes"):format(d.path, METHODS[m.method] or string_or(m.method, "?"),
      m.parameters, string_or(m.dtype, "?"), m.parameters * size, d.bytes),
    ("base     %s (%s, %s layers of width %s), weights %s"):format(string_or(base.name, "?"), string_or(base.architecture, "?"),
      tostring(base.layers), tostring(base.width), string_or(base.hash, "?")),
    "update   " .. formula(m),
    "targets  " .. layers_of(m.targets),
  }
  local tying = string_or(m.tying)
  if tying then lines[#lines + 1] = "tying    " .. (#tying > 160 and tying:sub(1, 157) .. "..." or tying) end
  if type(p) == "table" then
    local drawn = ("%s, seed %s"):format(string_or(p.generator, "?"), string_or(p.seed, "?"))
    lines[#lines + 1] = "P        " .. (p.generator == "stored" and "in the file" or drawn)
  end
  lines[#lines + 1] = "basis    " .. basis(m)
  lines[#lines + 1] = "numbers  " .. values(d.values or {})
  lines[#lines + 1] = "made by  " .. origin(m.provenance)
  lines[#lines + 1] = "signed   " .. (type(d.signature) == "table" and d.signature ~= json.null
    and ("by key %s, who calls itself '%s'"):format(d.signature.key, string_or(d.signature.signer, "")) or "no")
  return lines
end

local function peft_lines(d)
  local c = d.config
  local names = type(d.targets) == "table" and table.concat(d.targets, " ") or tostring(d.targets)
  local lines = {
    ("%s: PEFT %s, %d bytes of weights"):format(d.path, d.peft_type, d.bytes or 0),
    "base     " .. string_or(d.base_model, "not said"),
    "rank     " .. tostring(d.rank) .. (d.u and (", u %s"):format(d.u) or "") .. (c.lora_alpha and (", alpha %s"):format(c.lora_alpha) or ""),
    "targets  " .. (#names > 160 and names:sub(1, 157) .. "..." or names),
  }
  if c.weight_tying then lines[#lines + 1] = ("tying    ratio %s"):format(number(c.weight_tying)) end
  if c.projection_seed then
    lines[#lines + 1] = ("P        %s, seed %d"):format(c.save_projection == false and "drawn by torch's generator" or "in the file", c.projection_seed)
  end
  return lines
end

--- A description (artifact.describe) in at most ten lines.
function artifact.lines(d) return (d.format == "compact" and compact_lines or peft_lines)(d) end

-- ---- signatures

--- Makes an Ed25519 key: path (private) and path.pub.
function artifact.keygen(path) check(C.tl_artifact_keygen(fs.path("artifact.keygen", path))) end

--- Signs a compact file in place.
function artifact.sign(path, key, signer) check(C.tl_artifact_sign(fs.path("artifact.sign", path), fs.path("artifact.sign", key), signer or "")) end

--- An error unless the file is signed, unchanged since, and (public_key given) by that key. Returns its description.
function artifact.verify(path, public_key)
  check(C.tl_artifact_verify(fs.path("artifact.verify", path), public_key and fs.path("artifact.verify", public_key)))
  return compact(path)
end

return artifact
