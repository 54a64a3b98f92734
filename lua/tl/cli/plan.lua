--- tlrun plan: memory and time of a GRPO step, predicted part by part
local devices = require "tl.plan.devices"
local json = require "tl.json"
local log = require "tl.log"
local options = require "tl.options"
local plan = require "tl.plan"
local shapes = require "tl.plan.shapes"

local command = { summary = "memory and step time predicted, part by part", usage = "--model M --gpu NAME [--count N] [--tensor-parallel N] ..." }

command.help = "Predicts what a GRPO step takes: memory part by part, and time from the FLOPs and bytes of every op, the device's\n"
  .. "peaks, and assumptions that are printed. M is also the name of a known model that is not here (Qwen2.5-7B). --gpu cpu is this\n"
  .. "machine, measured. --check runs the step here too and compares (without other options: 16 x 16 x 64 tokens of the embedded model);\n"
  .. "it fails when the two are more than 30 % apart."

command.parameters = {
  { "model", { "Qwen2.5-7B", "known model, Hugging Face folder, GGUF file or name", value = "M" } },
  { "gpu", { "h100", "device: " .. table.concat(devices.names(), ", ") .. "; cpu: this machine" } },
  { "count", { 1, "devices; they share the prompts of a step", integer = true, min = 1 } },
  { "tensor_parallel", { 1, "devices that share one model: the prompts go to groups of so many", integer = true, min = 1 } },
  { "prompts", { 64, "problems a step, on all devices together", integer = true, min = 1 } },
  { "group", { 4, "completions a problem", integer = true, min = 2 } },
  { "prompt_tokens", { 128, "tokens a prompt", integer = true, min = 1 } },
  { "new_tokens", { 512, "longest completion in tokens", integer = true, min = 1 } },
  { "mean_tokens", { 0, "mean completion in tokens; 0: all are as long as the longest", min = 0 } },
  { "sequences", { 64, "completions decoded at once", integer = true, min = 1 } },
  { "trained", { 1, "share of completions in groups that carry a gradient", min = 0, max = 1 } },
  { "dtype", { "bf16", "weights and activations", choices = { "bf16", "f16", "f32" } } },
  { "adapter", { "tinylora", "what is trained", choices = { "tinylora", "loraxs", "lora", "full" } } },
  { "rank", { 2, "rank r", integer = true, min = 1 } },
  { "u", { 13, "trained numbers (TinyLoRA)", integer = true, min = 1 } },
  { "rollouts", { "native", "what samples", choices = { "native", "merged" } } },
  { "memory", { 0, "bytes that a device may give (60G); 0: what it has", type = "size" } },
  { "check", { false, "run the step on this machine and compare" } },
  { "reps", { 3, "check: measured steps; the one with the median ratio is shown", integer = true, min = 1 } },
}

local function shape_of(name)
  local known = shapes.find(name)
  if known then return known end
  local model = require "tl.model"
  local ok, path = pcall(model.resolve, name)
  if not ok then
    options.exit(1, ("no model '%s'%s; known by name: %s; or a Hugging Face folder or a GGUF file"):format(name,
      require("tl.names").hint(name:lower(), shapes.names()), table.concat(shapes.names(), ", ")))
  end
  return shapes.of_files(model.inspect(path))
end

local function workload(p)
  if p.count % p.tensor_parallel ~= 0 then options.usage("--count %d devices cannot be put into groups of --tensor-parallel %d", p.count, p.tensor_parallel) end
  local groups = p.count / p.tensor_parallel
  if p.prompts % groups ~= 0 then
    options.usage("--prompts %d cannot be shared by --count %d devices%s", p.prompts, p.count, groups < p.count and (" in %d groups"):format(groups) or "")
  end
  local w = { count = p.count, prompts = p.prompts / groups, group = p.group, prompt_tokens = p.prompt_tokens, max_tokens = p.new_tokens,
    mean_tokens = p.mean_tokens > 0 and math.min(p.mean_tokens, p.new_tokens) or p.new_tokens, sequences = p.sequences, trained = p.trained,
    dtype = p.dtype, adapter = p.adapter, rank = p.rank, u = p.u, rollouts = p.rollouts, memory = p.memory > 0 and p.memory or nil }
  w.last_tokens = p.mean_tokens > 0 and p.new_tokens or w.mean_tokens
  return w
end

local function gb(bytes) return ("%9.3f GB"):format(bytes * 1e-9) end

local function print_memory(m, limited)
  for _, part in ipairs(m.parts) do print(("  %-66s %s"):format(part.name, gb(part.bytes))) end
  print(("  %-66s %s%s"):format("at the same time at most (keys and values are free again before training)", gb(m.total),
    limited and (", usable %.1f GB"):format(m.limit * 1e-9) or ""))
end

local function print_step(step, w)
  print(("  %-9s %-24s %9s %11s %10s %9s %6s %8s"):format("", "op", "calls", "TFLOP", "GB", "ms", "time", "launches"))
  for _, o in ipairs(step.ops) do
    print(("  %-9s %-24s %9.0f %11.3f %10.2f %9.1f %5.1f%% %7.0f%%"):format(o.phase, o.name, o.calls, o.flops * 1e-12, o.bytes * 1e-9,
      o.seconds * 1e3, 100 * o.seconds / step.seconds, 100 * o.launch_s / o.seconds))
  end
  print(("  sampling %.3f s (%.0f decode steps of %.1f rows), update %.3f s, step %.3f s: %.0f tokens/s on %d device%s"):format(step.sample_s,
    step.decode_steps, step.rows_per_decode_step, step.update_s, step.seconds, step.tokens_per_step / step.seconds, w.count, w.count > 1 and "s" or ""))
end

local function assumptions(w, step)
  local list = json.array {}
  for _, line in ipairs(w.device.basis) do list[#list + 1] = line end
  list[#list + 1] = ("prompts have %d tokens and completions %d each; %.0f %% of these are in groups with a gradient"):format(w.prompt_tokens, w.mean_tokens, 100 * w.trained)
  list[#list + 1] = "verifiers run beside sampling and are not counted; evaluation, loading and the SVD of the weights are not part of a step"
  if w.available then
    list[#list + 1] = ("around the measured step the machine gave %.0f %% of its own best (products of 64 rows, pass after pass); everything is planned at that share"):format(100 * w.available)
  end
  if w.tensor_parallel then
    local bytes = step.summed_bytes
    list[#list + 1] = ("embedding and head are whole on every device: %.1f GB"):format((w.shape.tied and 1 or 2) * w.shape.vocab * w.shape.width * (w.dtype == "f32" and 4 or 2) * 1e-9)
    list[#list + 1] = ("a device sums %.1f GB a step with the others, with NCCL over the devices' link; without it through the host, to which a device copies at "
      .. "%.0f GB/s: these copies alone take %.1f s"):format(bytes * 1e-9, w.device.host_link_rate * 1e-9, 2 * bytes / w.device.host_link_rate)
  end
  if w.count > 1 then list[#list + 1] = "devices wait for the slowest; here all get completions of the same lengths" end
  return list
end

local function document(w, m, step)
  return { model = w.whole or w.shape, device = { name = w.device.name, source = w.device.source, bf16_tflops = w.device.bf16 * 1e-12, f32_tflops = w.device.f32 * 1e-12,
    memory_gbs = w.device.memory_rate * 1e-9 }, count = w.count, memory = m, step = step, tensor_parallel = w.tensor_parallel or 1,
    assumptions = assumptions(w, step) }
end

local function print_plan(w, m, step)
  local s, d = w.whole or w.shape, w.device
  print(("%s (%d layers, width %d, vocabulary %d; %s)"):format(s.name, s.layers, s.width, s.vocab, s.source))
  print(("%d x %s: %.4g TFLOP/s bf16, %.0f GB/s (%s)"):format(w.count, d.name, d.bf16 * 1e-12, d.memory_rate * 1e-9, d.source))
  if w.tensor_parallel then print(("%d devices share a model: each has %d of %d heads, %d of %d key/value heads, %d of %d feed-forward columns"):format(w.tensor_parallel,
    w.shape.heads, s.heads, w.shape.kv_heads, s.kv_heads, w.shape.ffn, s.ffn)) end
  print(("\nmemory of a device: %d prompts x %d completions of up to %d tokens, %d decoded at once"):format(w.prompts, w.group, w.max_tokens, m.at_once))
  print_memory(m, m.limit < math.huge)
  print "\na step"
  print_step(step, w)
  print "\nassumptions"
  for _, line in ipairs(assumptions(w, step)) do print("  - " .. line) end
end

local function run_check(p)
  local model = require("tl.model").load(p.model, { dtype = p.dtype })
  local r = require("tl.plan.check").run(model, { prompts = p.prompts, group = p.group, new_tokens = p.new_tokens, rank = p.rank, u = p.u, reps = p.reps, memory = p.memory })
  local ok = math.abs(math.log(r.ratio)) <= math.log(1.3)
  if p.json then
    local doc = document(r.workload, r.memory, r.step)
    doc.measured, doc.ratio, doc.within, doc.peak_rss_bytes, doc.memory_kept_to = r.measured, r.ratio, ok, r.peak_rss_bytes, r.memory_kept_to
    doc.memory.limit = nil
    print(json.encode(doc))
  else
    print_plan(r.workload, r.memory, r.step)
    print(("\n%-20s %12s %12s %12s"):format("", "predicted", "measured", "ratio"))
    for _, row in ipairs { { "sampling, s", r.step.sample_s, r.measured.sample_s }, { "update, s", r.step.update_s, r.measured.update_s },
      { "step, s", r.step.seconds, r.measured.seconds }, { "memory, GB", r.memory.total * 1e-9, r.peak_rss_bytes * 1e-9 } } do
      print(("%-20s %12.3f %12.3f %12.2f"):format(row[1], row[2], row[3], row[2] / row[3]))
    end
    print(("the step is predicted %s 30 %%; memory stayed %s the %.3f GB that the run may take"):format(ok and "within" or "NOT within",
      r.memory_kept_to and "below" or "NOT below", r.measured.predicted_rss_bytes * 1e-9))
  end
  return ok and r.memory_kept_to and 0 or 1
end

function command.run(p)
  if p.check then
    for name, v in pairs { model = "tiny", prompts = 16, group = 16, new_tokens = 64 } do p[name] = p.given[name] or v end
    if p.count > 1 or p.adapter ~= "tinylora" or p.rollouts ~= "native" then options.usage "--check runs one process with TinyLoRA and native rollouts" end
    return run_check(p)
  end
  local w = workload(p)
  if p.gpu == "cpu" then
    local model = require("tl.model").load(p.model, { dtype = p.dtype })
    local check = require "tl.plan.check"
    w.shape, w.device = check.shape(model), check.device(model)
    w.memory = w.memory or require("tl.memory").default()
  else
    w.shape = shape_of(p.model)
    w.device = devices.gpu(p.gpu) or options.usage("--gpu %s is not known%s: %s, cpu", p.gpu, require("tl.names").hint(p.gpu, devices.names()), table.concat(devices.names(), ", "))
  end
  if p.tensor_parallel > 1 then
    if p.gpu == "cpu" then options.usage "--tensor-parallel plans GPUs: --gpu cpu is one process" end
    if p.adapter == "full" then options.usage "--adapter full needs the whole model on a device: not with --tensor-parallel" end
    local whole, why = w, nil
    w, why = plan.split(w, p.tensor_parallel)
    if not w then options.exit(1, ("%s: %s is %d, which --tensor-parallel %d does not divide"):format(whole.shape.name, why, whole.shape[why], p.tensor_parallel)) end
  end
  local m = plan.memory(w)
  if not m.fits then
    local text = ("it does not fit: %s"):format(m.why)
    if not p.json then print_memory(m, true) end
    options.exit(1, text)
  end
  local step = plan.step(w, m)
  if p.json then print(json.encode(document(w, m, step))) else print_plan(w, m, step) end
  return 0
end

return command
