--- tlrun bench: throughput, memory, and the share of this machine's measured limit
local input = require "tl.input"
local json = require "tl.json"
local options = require "tl.options"

local command = { summary = "throughput and memory, beside this machine's measured limit", usage = "roofline|sample|train|grpo|population --model M",
  words = 1 }

command.parameters = {
  input.MODEL,
  { "dtype", { "bf16", "dtype of weights and activations; int8: of the weights of roofline and sample", choices = { "bf16", "f32", "int8" } } },
  { "batch", { 64, "sample: sequences decoded at once", integer = true, min = 1 } },
  { "prompt_tokens", { 64, "sample: length of the shared prompt", integer = true, min = 1 } },
  { "new_tokens", { 128, "sample, grpo and population: tokens a completion", integer = true, min = 1 } },
  { "sequences", { 16, "train: sequences", integer = true, min = 1 } },
  { "tokens", { 256, "train: tokens a sequence", integer = true, min = 2 } },
  { "adapter", { "tinylora", "train and grpo: what is trained", choices = { "tinylora", "loraxs", "lora", "full" } } },
  { "members", { 16, "population: adapters", integer = true, min = 1 } },
  { "prompts", { 8, "grpo and population: problems a step (of each member)", integer = true, min = 1 } },
  { "group", { 8, "grpo and population: completions a problem", integer = true, min = 2 } },
  { "task", { "wordproblems", "grpo and population: problem set, or a .jsonl file" } },
  { "style", { "gsm8k-hash", "grpo and population: prompt style" } },
  { "rollouts", { "native", "grpo: what samples", choices = { "native", "merged", "int8" } } },
  { "profile", { false, "one more repetition, op by op: time, FLOPs, bytes, share of this machine's limit" } },
  { "verify_ms", { 0, "grpo: how long the verifier waits for every completion", integer = true, min = 0 } },
  { "workers", { 2, "grpo: verifier threads", integer = true, min = 1 } },
  { "shape", { nil, "random weights in the shape of a model instead of --model (not for grpo)", type = "string", choices = require("tl.plan.shapes").names() } },
  { "reps", { 3, "measured repetitions, after one to warm up", integer = true, min = 1 } },
  { "memory", { 0, "what the process may take in all (4G); 0: 2 GiB beyond the model", type = "size" } },
}

local function number(v) return v % 1 == 0 and ("%d"):format(v) or ("%.4g"):format(v) end

local function profile_table(p)
  print(("%-28s %8s %9s %6s %9s %9s %6s"):format("profile", "calls", "ms", "time", "GFLOP/s", "GB/s", "limit"))
  for _, r in ipairs(p.rows) do
    print(("%-28s %8d %9.1f %5.1f%% %9.1f %9.1f %6s"):format(r.name, r.calls, r.seconds * 1e3, r.share_of_time * 100, r.flops / r.seconds * 1e-9,
      r.bytes / r.seconds * 1e-9, r.share_of_limit and ("%.0f%%"):format(r.share_of_limit * 100) or ""))
  end
  print(("%-28s %8s %9.1f  the runtime's rows are %.1f%% of it"):format("wall time", "", p.wall_s * 1e3, p.covered * 100))
end

local function figures(r)
  local names = {}
  for k, v in pairs(r) do if type(v) ~= "table" then names[#names + 1] = k end end
  table.sort(names)
  for _, k in ipairs(names) do print(("%-26s %s"):format(k, type(r[k]) == "number" and number(r[k]) or tostring(r[k]))) end
  for _, p in ipairs(r.products or {}) do
    print(("products, %4d rows         %8.2f ms  %6.1f GFLOP/s  %7.1f tokens/s  %3.0f%% of the limit"):format(p.rows, p.seconds * 1e3, p.gflops,
      p.tokens_per_s, p.share_of_limit * 100))
  end
  if r.profile then profile_table(r.profile) end
end

function command.run(p, rest)
  local bench, tl = require "tl.bench", require "tl"
  local kind = rest and rest[1]
  local kinds = { roofline = true, sample = true, train = true, grpo = true, population = true }
  if not kinds[kind] or #rest > 1 then options.usage "tlrun bench wants one of roofline, sample, train, grpo, population" end
  local int8 = p.dtype == "int8"
  if int8 and (kind == "train" or kind == "grpo" or kind == "population") then options.usage "int8 weights cannot be trained; tlrun bench grpo --rollouts int8 samples with them" end
  if p.shape and (kind == "grpo" or kind == "population") then options.usage "tlrun bench grpo and population need a model with a tokenizer: --shape is for roofline, sample and train" end
  local dtype = int8 and "bf16" or p.dtype
  local model = p.shape and bench.shaped(p.shape, dtype) or tl.model.load(p.model, { dtype = dtype })
  local o = { reps = p.reps, batch = p.batch, prompt_tokens = p.prompt_tokens, new_tokens = p.new_tokens, sequences = p.sequences,
    tokens = p.tokens, prompts = p.prompts, group = p.group, memory = p.memory, profile = p.profile, rollouts = p.rollouts, verify_ms = p.verify_ms, workers = p.workers, dtype = int8 and "int8" or nil }
  if kind == "train" or kind == "grpo" then o.adapter = tl.adapter.create(model, p.adapter, {}) end
  o.members = p.members
  if kind == "grpo" or kind == "population" then o.problems = tl.data.load(p.task, { style = p.style, limit = p.prompts * (p.reps + 1) }) end
  local r = bench[kind](model, o)
  if p.json then print(json.encode(r)) else figures(r) end
  return 0
end

return command
