--- tlrun adapter: adapters on disk: what they are, into other formats, merged, signed, compared
local artifact = require "tl.artifact"
local json = require "tl.json"
local options = require "tl.options"

local command = { summary = "inspects, converts, merges, signs and compares adapters", usage = "inspect|merge|export|import|diff|keygen|sign|verify ..." }

local MODEL = { "model", { nil, "the base: Hugging Face folder, GGUF file or name; default: the one the adapter names", type = "string", value = "M" } }
local OUT = { "out", { nil, "where to write", type = "string", value = "PATH", required = true, short = "o" } }
local FORCE = { "force", { false, "even on weights that a compact file was not made for" } }
local COMPUTE = { "compute", { "f32", "dtype of the base's weights", choices = { "f32", "fp32", "bf16", "f16", "fp16" } } }

-- the words after the command, as many as are wanted
local function words(rest, n, usage)
  if #rest ~= n then options.usage("usage: tlrun adapter %s", usage) end
  return unpack(rest)
end

local function load(p, path)
  local name = p.model or artifact.base_name(path)
  if not name then options.usage("%s names no base model: give --model M", path) end
  local model = require("tl.model").load(name, { dtype = p.compute })
  return require("tl.adapter").load(model, path, { force = p.force }), model
end

local function report(p, doc, line)
  print(p.json and json.encode(doc) or line)
  return 0
end

local inspect = { summary = "what an adapter says of itself, in at most ten lines", usage = "PATH", words = 1, parameters = {} }
function inspect.run(p, rest)
  local d = artifact.describe(words(rest, 1, "inspect PATH"))
  return report(p, d, table.concat(artifact.lines(d), "\n"))
end

local merge = { summary = "writes the base with the adapter merged in, as a Hugging Face folder", usage = "ADAPTER [--model M] -o DIR", words = 1,
  parameters = { MODEL, OUT, { "dtype", { "bf16", "of the written weights; W + dW is rounded once", choices = { "bf16", "f16", "f32" } } }, FORCE, COMPUTE } }
function merge.run(p, rest)
  local adapter, model = load(p, words(rest, 1, merge.usage))
  model:save(p.out, { adapter = adapter, dtype = p.dtype })
  return report(p, { out = p.out, dtype = p.dtype }, ("%s: %s with the adapter merged in, %s"):format(p.out, model.name, p.dtype))
end

local export = { summary = "writes the adapter in another format", usage = "ADAPTER [--model M] --format F -o PATH", words = 1,
  parameters = { MODEL, OUT, { "format", { "peft-lora", "of what is written", choices = { "compact", "peft-tinylora", "peft-lora", "lora-gguf" } } },
    { "carry", { false, "compact: write A and B into the file" } }, FORCE, COMPUTE } }
export.help = "peft-lora: TinyLoRA and LoRA-XS as the rank-r LoRA that they equal (lora_A = A, lora_B = B R, alpha = r), a LoRA as it is.\n"
  .. "peft-tinylora: TinyLoRA, or LoRA-XS with matrix units for P. compact: one file; see also tlrun adapter import.\n"
  .. "lora-gguf: one file for llama.cpp's --lora."
function export.run(p, rest)
  local adapter = load(p, words(rest, 1, export.usage))
  if p.format == "lora-gguf" then adapter:save_gguf(p.out) else adapter:save(p.out, { format = p.format, carry = p.carry }) end
  return report(p, { out = p.out, format = p.format, parameters = adapter.n_parameters }, ("%s: %s"):format(p.out, p.format))
end

local import = { summary = "makes a compact file of a PEFT directory", usage = "DIR [--model M] -o FILE.tla", words = 1,
  parameters = { MODEL, OUT, { "carry", { false, "write A, B and P into the file where they are not this program's own" } },
    { "tolerance", { 0.01, "how far a singular pair of the file may be from the base's, of its size", min = 0, max = 1 } }, COMPUTE } }
import.help = "A TinyLoRA's A and B must be the singular pairs of the base's weights, and P what its seed draws; the signs of the pairs are kept.\n"
  .. "Otherwise the file is refused with the reason, or with --carry made larger by what it has to carry. A LoRA keeps its A and B."
function import.run(p, rest)
  local path = words(rest, 1, import.usage)
  local adapter = load(p, path)
  local worst
  if adapter.kind ~= "lora" and not p.carry then adapter, worst = adapter:rebase { tolerance = p.tolerance } end
  adapter:save(p.out, { format = "compact", carry = p.carry, provenance = { from = "PEFT" } })
  local bytes = require("tl.fs").bytes(p.out)
  return report(p, { out = p.out, bytes = bytes, parameters = adapter.n_parameters, largest_difference = worst },
    ("%s: %d numbers, %d bytes%s"):format(p.out, adapter.n_parameters, bytes, worst and (", singular pairs within %.1e"):format(worst) or ""))
end

-- the largest difference of the trained numbers; nil when they are not the same kind of numbers
local function largest_difference(a, b)
  if a.kind ~= b.kind or a.n_parameters ~= b.n_parameters then return nil end
  local x, y, most = a:parameters(), b:parameters(), 0
  for i = 1, #x do most = math.max(most, math.abs(x[i] - y[i])) end
  return most
end

local function text(x) return x == json.null and "-" or ("%.4g"):format(x) end

local diff = { summary = "how far two adapters of one base are from each other", usage = "A B [--model M]", words = 2, parameters = { MODEL, FORCE, COMPUTE } }
diff.help = "distance |dW - dW'| / |dW| and cosine of the updates, over all modules and for each; text shows the ten that differ most."
function diff.run(p, rest)
  local first, second = words(rest, 2, diff.usage)
  local a, model = load(p, first)
  local b = require("tl.adapter").load(model, second, { force = p.force })
  local list, all = a:compare(b)
  local values = largest_difference(a, b)
  if p.json then
    print(json.encode(json.object({ all = all, largest_difference = values, modules = json.array(list) }, { "all", "largest_difference", "modules" })))
    return 0
  end
  print(("all modules: distance %s, cosine %s%s"):format(text(all.distance), text(all.cosine),
    values and (", largest difference of a trained number %s"):format(text(values)) or ""))
  table.sort(list, function(x, y)
    local dx, dy = x.distance == json.null and math.huge or x.distance, y.distance == json.null and math.huge or y.distance
    if dx ~= dy then return dx > dy end
    return x.name < y.name
  end)
  for i = 1, math.min(10, #list) do
    local m = list[i]
    print(("%-40s distance %-9s cosine %-9s |dW| %s, %s"):format(m.name, text(m.distance), text(m.cosine), text(m.norm_a), text(m.norm_b)))
  end
  return 0
end

local keygen = { summary = "makes an Ed25519 key: PATH and PATH.pub", usage = "PATH", words = 1, parameters = {} }
function keygen.run(p, rest)
  local path = words(rest, 1, "keygen PATH")
  artifact.keygen(path)
  return report(p, { key = path, public_key = path .. ".pub" }, ("%s (keep it to yourself) and %s.pub (give it away)"):format(path, path))
end

local function signature_line(d)
  local s = d.signature
  return ("%s: signed by key %s, who calls itself '%s'; sha256 %s"):format(d.path, s.key, s.signer:gsub("%c", "?"), d.sha256)
end

local sign = { summary = "signs a compact file", usage = "FILE.tla --key KEY [--name WHO]", words = 1,
  parameters = { { "key", { nil, "private key (tlrun adapter keygen)", type = "string", value = "KEY", required = true } },
    { "name", { "", "the signer's name, as it will be shown" } } } }
function sign.run(p, rest)
  local path = words(rest, 1, sign.usage)
  artifact.sign(path, p.key, p.name)
  local d = artifact.describe(path)
  return report(p, d, signature_line(d))
end

local verify = { summary = "checks a compact file's signature", usage = "FILE.tla [--key KEY.pub]", words = 1,
  parameters = { { "key", { nil, "the public key that must have signed it", type = "string", value = "KEY.pub" } } } }
verify.help = "Exit code 0: the file is as it was when its key signed it. Without --key, whose key that is nobody has said."
function verify.run(p, rest)
  local d = artifact.verify(words(rest, 1, verify.usage), p.key)
  return report(p, json.object({ path = d.path, signer = d.signature.signer, key = d.signature.key, trusted = p.key ~= nil, sha256 = d.sha256,
    manifest = d.manifest }, { "path", "signer", "key", "trusted", "sha256", "manifest" }),
    signature_line(d) .. "\n" .. (p.key and "the key is the one given" or "whose key it is was not checked (--key KEY.pub does)") .. "\n"
      .. table.concat(artifact.lines(d), "\n", 1, 3))
end

command.sub = { inspect = inspect, merge = merge, export = export, import = import, diff = diff, keygen = keygen, sign = sign, verify = verify }

local ORDER = { "inspect", "merge", "export", "import", "diff", "keygen", "sign", "verify" }
local help = { "Adapters on disk: compact files (*.tla) and PEFT folders. Each of these has its own --help:" }
for _, name in ipairs(ORDER) do help[#help + 1] = ("  %-8s %-46s %s"):format(name, command.sub[name].usage, command.sub[name].summary) end
command.help = table.concat(help, "\n")

return command
