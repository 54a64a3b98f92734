--- tlrun bench: throughput, memory, and the share of this machine's measured limit
local input = require "tl.input"
local json = require "tl.json"
local options = require "tl.options"

local command = { summary = "throughput and memory, beside this machine's measured limit", usage = "roofline|sample|train|grpo|population|overlap|startup|sizes --model M",
  words = 1 }

command.parameters = {
  input.MODEL, input.DEVICE, input.TENSOR_PARALLEL,
  { "dtype", { "bf16", "dtype of weights and activations; int8: of the weights of roofline and sample", choices = { "bf16", "f16", "f32", "int8" } } },
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
  { "verifier", { nil, "grpo and population: a module that gives the rewards (verifiers.math); else they are made up, so that most groups train", type = "string" } },
  { "rollouts", { "native", "grpo: what samples", choices = { "native", "merged", "int8" } } },
  { "profile", { false, "one more repetition, op by op: time, FLOPs, bytes, share of this machine's limit" } },
  { "verify_ms", { 0, "grpo and overlap: how long the verifier waits for every completion (overlap: 50 if not given)", integer = true, min = 0 } },
  { "workers", { 2, "grpo and overlap: verifier threads", integer = true, min = 1 } },
  { "shape", { nil, "random weights in the shape of a model instead of --model (not for grpo)", type = "string", choices = require("tl.plan.shapes").names() } },
  { "only", { nil, "sizes: a Lua pattern of the rows to measure", type = "string" } },
  { "reps", { 3, "measured repetitions, after one to warm up", integer = true, min = 1 } },
  { "memory", { 0, "what the process may take in all (4G), on a device of its memory; 0: 2.2 GiB beyond the model", type = "size" } },
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

-- what has a module of its own (lua/tl/bench/): a list of rows
local function rows_of(kind, p)
  local function size_row(row)
    print(("%-16s %8.1f M  %22.0f %6.0f%% %14.0f  %22.0f %6.0f%%"):format(row.name, row.parameters * 1e-6, row.train_us_per_token, row.train_share * 100,
      row.train_bytes_per_token, row.decode_us_per_token, row.decode_share * 100))
    io.stdout:flush()
  end
  if kind == "sizes" and not p.json then
    print(("%-16s %10s  %22s %7s %14s  %22s %7s"):format("", "weights", "forward + backward, us", "limit", "bytes a token", "decode of 16, us", "limit"))
  end
  local r = require("tl.bench." .. kind) { model = p.model, reps = p.reps, memory = p.memory, only = p.only, each = not p.json and size_row or nil }
  if p.json then
    print(json.encode(r))
    return 0
  end
  for _, row in ipairs(kind == "startup" and r.rows or {}) do
    print(("%-48s %7.0f ms  %7.0f MiB at most"):format(row.name, row.seconds * 1e3, row.peak_bytes / 1048576))
  end
  return 0
end

function command.run(p, rest)
  local bench, tl = require "tl.bench", require "tl"
  local kind = rest and rest[1]
  local kinds = { roofline = true, sample = true, train = true, grpo = true, population = true, overlap = true, startup = true, sizes = true }
  if not kinds[kind] or #rest > 1 then options.usage "tlrun bench wants one of roofline, sample, train, grpo, population, overlap, startup, sizes" end
  if kind == "startup" or kind == "sizes" then return rows_of(kind, p) end
  local steps = kind == "grpo" or kind == "population" or kind == "overlap"
  local int8 = p.dtype == "int8"
  if int8 and (kind == "train" or steps) then options.usage "int8 weights cannot be trained; tlrun bench grpo --rollouts int8 samples with them" end
  if p.shape and steps then options.usage "tlrun bench grpo, overlap and population need a model with a tokenizer: --shape is for roofline, sample and train" end
  if p.tensor_parallel > 1 and kind ~= "sample" and kind ~= "train" and kind ~= "grpo" then options.usage("tlrun bench %s is of one process: --tensor-parallel is for sample, train and grpo", kind) end
  tl.comm.split(p.tensor_parallel)
  local dtype = int8 and "bf16" or p.dtype
  local model = p.shape and bench.shaped(p.shape, dtype) or tl.model.load(p.model, { dtype = dtype })
  local o = { reps = p.reps, batch = p.batch, prompt_tokens = p.prompt_tokens, new_tokens = p.new_tokens, sequences = p.sequences,
    tokens = p.tokens, prompts = p.prompts, group = p.group, memory = p.memory, profile = p.profile, rollouts = p.rollouts, verifier = p.verifier, verify_ms = p.verify_ms, workers = p.workers, dtype = int8 and "int8" or nil }
  if kind == "overlap" then o.adapters = { tl.adapter.create(model, p.adapter, {}), tl.adapter.create(model, p.adapter, {}) } end
  if kind == "train" or kind == "grpo" then o.adapter = tl.adapter.create(model, p.adapter, {}) end
  o.members = p.members
  if steps then o.problems = tl.data.load(p.task, { style = p.style, limit = p.prompts * (p.reps + 1) }) end
  local r = bench[kind](model, o)
  local F = require "tl.ffi"
  r.device = ("%s %s"):format(require("ffi").string(F.C.tl_backend_name()), require("ffi").string(F.C.tl_backend_isa()))
  if p.json then print(json.encode(r)) else figures(r) end
  return 0
end

return command
