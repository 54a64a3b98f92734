--- tlrun export: a model, merged with its adapter, as a Hugging Face folder or a GGUF file; an adapter as llama.cpp's LoRA
local fs = require "tl.fs"
local input = require "tl.input"
local json = require "tl.json"
local log = require "tl.log"
local options = require "tl.options"

local command = { summary = "a model as a Hugging Face folder or a GGUF file; an adapter as a LoRA for llama.cpp",
  usage = "--model M [--adapter A] --format hf|gguf|lora-gguf [--dtype T] -o PATH" }

command.help = "Writes what other programs load. hf: a folder for transformers (config.json, model.safetensors, the tokenizer).\n"
  .. "gguf: a file for llama.cpp. With --adapter the model is merged with it: W + dW in fp32, rounded once to --dtype.\n"
  .. "lora-gguf: the adapter alone, for llama.cpp's --lora. A failure, a full disk too, leaves the files that were there."

command.parameters = {
  { "model", { nil, "Hugging Face folder, GGUF file or name", type = "string", value = "M", required = true } },
  input.ADAPTER, input.FORCE,
  { "format", { nil, "what to write", type = "string", choices = { "hf", "gguf", "lora-gguf" }, required = true } },
  { "dtype", { nil, "of the weights: f32, f16 or bf16; as GGUF also q8_0, q5_1, q5_0, q4_1, q4_0. Default: bf16", type = "string",
    choices = { "f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0" } } },
  { "tokenizer", { true, "the tokenizer goes along" } },
  { "output", { nil, "the folder or file to write", type = "string", value = "PATH", short = "o", required = true } },
}

-- bf16 holds the weights of a bf16 file exactly, in half the memory; anything else is held in fp32
local function exact_dtype(path)
  for name in pairs(require("tl.model").inspect(path).dtypes) do
    if name ~= "BF16" then return "f32" end
  end
  return "bf16"
end

function command.run(p)
  local M = require "tl.model"
  local path = M.resolve(p.model)
  local lora = p.format == "lora-gguf"
  if lora and not p.adapter then options.usage "--format lora-gguf wants --adapter" end
  if lora and p.given.dtype then options.usage "--dtype does not go with lora-gguf: an adapter is written in fp32" end
  local model = M.load(path, { dtype = exact_dtype(path) })
  local adapter = p.adapter and require("tl.adapter").load(model, p.adapter, { force = p.force }) or nil
  local dtype = lora and "f32" or p.dtype or "bf16"
  if lora then adapter:save_gguf(p.output)
  else model:export(p.output, p.format, { adapter = adapter, dtype = dtype, tokenizer = p.tokenizer }) end
  local bytes = fs.bytes(p.format == "hf" and p.output .. "/model.safetensors" or p.output)
  if p.json then
    print(json.encode(json.object({ path = p.output, format = p.format, dtype = dtype, bytes = bytes }, { "path", "format", "dtype", "bytes" })))
  else
    print(("%s: %s in %s, %s"):format(p.output, lora and "a LoRA" or "the model", dtype, log.bytes(bytes)))
  end
  return 0
end

return command
