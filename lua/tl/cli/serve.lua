--- tlrun serve: many adapters of one base behind OpenAI's API
local input = require "tl.input"
local options = require "tl.options"

local command = { summary = "an OpenAI-compatible server: one base, any adapter per request", usage = "--model M [--adapters DIR] [--port 8000]" }

command.help = "Serves a model and any number of its adapters over HTTP, as OpenAI's API: POST /v1/chat/completions and /v1/completions (with \"stream\" too),\n"
  .. "GET /v1/models, /health and /metrics. A request's \"model\" names an adapter, or the base. TinyLoRA and LoRA-XS adapters are decoded in one batch.\n"
  .. "Adapters that come into a folder while it is served are found when they are asked for. docs/serving.md has more."

command.parameters = {
  input.MODEL, input.DEVICE,
  { "adapters", { nil, "a folder of adapters (NAME.tla, PEFT folders, run folders), each served under its name; may be given several times", type = "list", repeated = true, value = "DIR" } },
  { "adapter", { nil, "one adapter, served under this name; may be given several times", type = "list", repeated = true, value = "NAME=PATH" } },
  { "key", { nil, "serve only compact adapters that this public key has signed (tlrun adapter sign)", type = "string", value = "KEY.pub" } },
  input.FORCE,
  { "name", { nil, "the base's name in requests; default: the model's", type = "string" } },
  { "host", { "127.0.0.1", "the address to listen at; 0.0.0.0: all of this machine's" } },
  { "port", { 8000, "0: one that is free", integer = true, min = 0, max = 65535 } },
  { "token", { nil, "what clients must give as their API key; without the word, the variable TLRUN_API_KEY, if it is set", type = "string" } },
  { "allowed_origin", { nil, "whose pages in a browser may ask too (CORS), as http://localhost:3000; *: any page's", type = "string", value = "ORIGIN" } },
  { "max_sequences", { 64, "completions that are decoded at once; others wait", integer = true, min = 1, max = 4096 } },
  { "prefill_per_step", { 128, "tokens of prompts that are computed between two decode steps; 0: all that wait, though others wait for them", integer = true, min = 0 } },
  { "prefix_cache", { true, "prompts that begin as earlier prompts or answers did take their keys and values: the same bytes, sooner" } },
  { "memory", { 2 ^ 30, "bytes for keys and values, of the adapters that share a batch (a LoRA adapter takes as much beside it)", type = "size" } },
  { "context", { 0, "longest prompt and answer together, in tokens; 0: the model's", integer = true, min = 0 } },
  { "max_new_tokens", { 1024, "tokens of a chat answer whose request names no number", integer = true, min = 1 } },
  { "log", { true, "a line on stderr for every answer" } },
  { "compute", { "bf16", "dtype of weights and activations; int8: bf16 with int8 weights, faster, answers differ a little", choices = { "bf16", "fp16", "f16", "fp32", "f32", "int8" } } },
}

local function named(list)
  local out = {}
  for _, word in ipairs(list or {}) do
    local name, path = word:match "^([^=]+)=(.+)$"
    if not name then options.usage("--adapter wants NAME=PATH; got '%s'", word) end
    if out[name] then options.usage("--adapter: the name %s is given twice", name) end
    out[name] = path
  end
  return out
end

function command.run(p)
  local names = named(p.adapter)
  local model = input.model({ model = p.model }, p.compute == "int8" and "bf16" or p.compute)
  input.tokenizer(model)
  local token = p.token or os.getenv "TLRUN_API_KEY"
  local server = require("tl.serve").start { model = model, folders = p.adapters, named = names, key = p.key, force = p.force, int8 = p.compute == "int8", name = p.name, host = p.host, port = p.port,
    token = token ~= "" and token or nil, origin = p.allowed_origin, max_sequences = p.max_sequences, prefill_per_step = p.prefill_per_step, prefix_cache = p.prefix_cache, memory = p.memory, context = p.context, new_tokens = p.max_new_tokens, log = p.log }
  if p.json then
    print(require("tl.json").encode { port = server.port, model = server.base, adapters = require("tl.json").array(server.adapters:names()) })
    io.stdout:flush()
  end
  io.stderr:write((tostring(server):gsub("; :run%(%) answers$", " (Ctrl-C ends)")), "\n")
  io.stderr:flush()
  server:run(true)
  return 0
end

return command
