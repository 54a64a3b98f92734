--- tlrun logprobs: each token's logprob given those before it
local input = require "tl.input"
local json = require "tl.json"
local options = require "tl.options"

local command = { summary = "each token's logprob given those before it", usage = "--model M [--adapter A] --ids 1,2,3" }

command.parameters = {
  input.MODEL, input.ADAPTER, input.FORCE, input.DEVICE, input.TENSOR_PARALLEL,
  { "ids", { nil, "token ids; - reads them from stdin, @FILE from a file", type = "string", value = "IDS", required = true } },
  { "compute", { "fp32", "dtype of weights and activations", choices = { "fp32", "f32", "bf16", "fp16", "f16" } } },
  { "temperature", { 1, "logprobs are log_softmax(logits / temperature)", min = 1e-6 } },
}

function command.run(p)
  local ids = input.ids(p.ids, "--ids")
  if #ids < 2 then options.usage "--ids wants at least two token ids" end
  local model, adapter = input.model(p, p.compute)
  for _, id in ipairs(ids) do
    if id >= model.vocab then options.exit(1, ("token id %d: the vocabulary has %d"):format(id, model.vocab)) end
  end
  local list = model:logprobs(ids, adapter, p.temperature)
  if p.json then
    print(json.encode { logprobs = json.array(list) })
  else
    local t = model:tokenizer()
    for i, lp in ipairs(list) do print(("%8d  %10.5f  %s"):format(ids[i + 1], lp, t and ("%q"):format(t:decode({ ids[i + 1] })) or "")) end
  end
  return 0
end

return command
