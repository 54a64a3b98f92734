--- tlrun bench: throughput, memory, and the share of this machine's measured limit
local input = require "tl.input"
local json = require "tl.json"
local options = require "tl.options"

local command = { summary = "throughput and memory, beside this machine's measured limit", usage = "sample|train|grpo --model M",
  words = 1 }

command.parameters = {
  input.MODEL,
  { "dtype", { "bf16", "dtype of weights and activations", choices = { "bf16", "f32" } } },
  { "batch", { 64, "sample: sequences decoded at once", integer = true, min = 1 } },
  { "prompt_tokens", { 64, "sample: length of the shared prompt", integer = true, min = 1 } },
  { "new_tokens", { 128, "sample and grpo: tokens a completion", integer = true, min = 1 } },
  { "sequences", { 16, "train: sequences", integer = true, min = 1 } },
  { "tokens", { 256, "train: tokens a sequence", integer = true, min = 2 } },
  { "adapter", { "tinylora", "train and grpo: what is trained", choices = { "tinylora", "loraxs", "lora", "full" } } },
  { "prompts", { 8, "grpo: problems a step", integer = true, min = 1 } },
  { "group", { 8, "grpo: completions a problem", integer = true, min = 2 } },
  { "task", { "wordproblems", "grpo: problem set, or a .jsonl file" } },
  { "style", { "gsm8k-hash", "grpo: prompt style" } },
  { "reps", { 3, "measured repetitions, after one to warm up", integer = true, min = 1 } },
  { "memory", { 0, "budget for activations; 0: the default", type = "size" } },
}

local function figures(r)
  local names = {}
  for k in pairs(r) do names[#names + 1] = k end
  table.sort(names)
  for _, k in ipairs(names) do
    local v = r[k]
    print(("%-26s %s"):format(k, type(v) == "number" and (v % 1 == 0 and ("%d"):format(v) or ("%.4g"):format(v)) or tostring(v)))
  end
end

function command.run(p, rest)
  local bench, tl = require "tl.bench", require "tl"
  local kind = rest and rest[1]
  if kind ~= "sample" and kind ~= "train" and kind ~= "grpo" or #rest > 1 then options.usage "tlrun bench wants one of sample, train, grpo" end
  local model = tl.model.load(p.model, { dtype = p.dtype })
  local o = { reps = p.reps, batch = p.batch, prompt_tokens = p.prompt_tokens, new_tokens = p.new_tokens, sequences = p.sequences,
    tokens = p.tokens, prompts = p.prompts, group = p.group, memory = p.memory }
  if kind ~= "sample" then o.adapter = tl.adapter.create(model, p.adapter, {}) end
  if kind == "grpo" then o.problems = tl.data.load(p.task, { style = p.style, limit = p.prompts * (p.reps + 1) }) end
  local r = bench[kind](model, o)
  if p.json then print(json.encode(r)) else figures(r) end
  return 0
end

return command
