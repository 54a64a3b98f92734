-- report.lua: benchmarks on a device, every op beside the device's published peaks, as Markdown on stdout. Called by ./dev gpu:
--   TL_BACKEND=cuda tlrun tests/gpu/report.lua --device-name "NVIDIA H100 80GB HBM3"
-- The profile's own column is the host's limit; here FLOPs and bytes of an op are held against the device's (lua/tl/plan/devices.lua).
local tl = require "tl"
local bench = require "tl.bench"
local devices = require "tl.plan.devices"
local plan = require "tl.plan"

local p = tl.recipe {
  name       = "gpu_report",
  device_name = { "", "the device as nvidia-smi calls it" },
  model      = { "tiny", "model" },
  shape      = { "", "random weights in the shape of a known model, for sampling and training" },
  prompts    = { 16, "problems of a GRPO step", integer = true },
  group      = { 8, "completions a problem", integer = true },
  new_tokens = { 64, "tokens a completion", integer = true },
  batch      = { 64, "sequences of sampling", integer = true },
  tokens     = { 256, "tokens a sequence of training", integer = true },
  reps       = { 3, "repetitions", integer = true },
}
local peaks = devices.of_name(p.device_name)

local function table_of(title, profile, figures)
  print(("\n### %s\n\n%s\n"):format(title, figures))
  print "| op | calls | ms | time | GFLOP/s | GB/s | of the roofline |\n|---|---|---|---|---|---|---|"
  for _, r in ipairs(profile.rows) do
    local share = peaks and r.op and ("%.0f %%"):format(100 * math.max(r.flops / peaks.bf16, r.bytes / peaks.memory_rate) / r.seconds) or ""
    print(("| %s | %d | %.2f | %.1f %% | %.0f | %.0f | %s |"):format(r.name, r.calls, r.seconds * 1e3, 100 * r.share_of_time, r.flops / r.seconds * 1e-9, r.bytes / r.seconds * 1e-9, share))
  end
  print(("\nwall time %.1f ms, the runtime's rows are %.1f %% of it"):format(profile.wall_s * 1e3, 100 * profile.covered))
end

local model = p.shape ~= "" and bench.shaped(p.shape, "bf16") or tl.model.load(p.model, { dtype = "bf16" })
local adapter = tl.adapter.create(model, "tinylora", {})
print(("\n## Benchmarks\n\n%s, backend %s; peaks: %s"):format(p.shape ~= "" and p.shape .. " (random weights)" or p.model, tl.report.versions().backend .. " " .. tl.report.versions().isa,
  peaks and ("%s, %.0f TFLOP/s bf16, %.0f GB/s (%s)"):format(peaks.name, peaks.bf16 * 1e-12, peaks.memory_rate * 1e-9, peaks.source) or "not known for this device"))
local s = bench.sample(model, { batch = p.batch, prompt_tokens = 64, new_tokens = p.new_tokens, reps = p.reps, profile = true })
table_of(("sampling, %d sequences"):format(p.batch), s.profile, ("%.0f tokens/s, %.2f ms a decode step"):format(s.tokens_per_s, s.ms_per_step))
local t = bench.train(model, { adapter = adapter, sequences = 16, tokens = p.tokens, reps = p.reps, profile = true })
table_of(("training, 16 sequences of %d tokens"):format(p.tokens), t.profile, ("%.0f tokens/s, %.1f ms a step"):format(t.tokens_per_s, t.ms_per_step))
if p.shape == "" then
  local problems = tl.data.load("wordproblems", { style = "gsm8k-hash", limit = p.prompts * (p.reps + 1) })
  local g = bench.grpo(model, { adapter = adapter, prompts = p.prompts, group = p.group, new_tokens = p.new_tokens, problems = problems, reps = p.reps, profile = true })
  table_of(("a GRPO step, %d x %d x %d"):format(p.prompts, p.group, p.new_tokens), g.profile,
    ("%.3f s (sampling %.3f, update %.3f), %.0f tokens"):format(g.seconds_per_step, g.sample_s, g.update_s, g.tokens_per_step))
  if peaks then
    local w = { shape = require("tl.plan.check").shape(model), device = peaks, prompts = p.prompts, group = p.group, prompt_tokens = 64, mean_tokens = g.mean_length,
      last_tokens = p.new_tokens, max_tokens = p.new_tokens, sequences = 64, dtype = "bf16", adapter = "tinylora", rank = 2, u = 13, rollouts = "native", trained = 1, count = 1 }
    local step = plan.step(w, plan.memory(w))
    print(("\n`tlrun plan` says %.3f s a step: %.2f of what was measured."):format(step.seconds, step.seconds / g.seconds_per_step))
  end
end
