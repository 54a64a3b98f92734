--- tlrun probe: steering or learning? What an adapter changed, measured from several sides, with a reading in plain words
local input = require "tl.input"
local json = require "tl.json"
local options = require "tl.options"

local command = { summary = "what an adapter changed in a model: steering or learning?", usage = "--model M --adapter A --task T [--transfer T2,...]" }

local PARTS = { "reach", "length", "divergence", "scale", "transfer", "control" }

command.help = "Measures what an adapter does to a model, and ends in a reading in plain words with its caveats.\n"
  .. "  reach        k samples a problem: pass@k of the base against pass@1 with the adapter; problems solved that the base never solves in k\n"
  .. "  length       pass@1 of the base that is kept writing for as many tokens as the adapted model; with --ask also told\n"
  .. "  divergence   KL per token from the base along the adapter's own completions, and where in them it sits\n"
  .. "  scale        greedy accuracy with v scaled from -1 to 2\n"
  .. "  transfer     greedy accuracy on the sets of --transfer\n"
  .. "  control      random answers: how many bits a fresh adapter of the same family can be made to hold\n"
  .. "The problems are the first of the task's test split; use ones that the adapter was not trained on."

command.parameters = {
  input.MODEL, input.ADAPTER, input.FORCE, input.DEVICE,
  { "task", { nil, "problem set or .jsonl file; puzzles:KIND", type = "string" } },
  { "transfer", { {}, "other problem sets, separated by commas", type = "list", value = "T2,..." } },
  { "parts", { PARTS, "what to measure", type = "list", value = "LIST" } },
  { "limit", { 100, "first so many problems of each set", integer = true, min = 1 } },
  { "k", { 16, "samples a problem for the reach", integer = true, min = 2 } },
  { "ask", { nil, "words after the question, for a base that is told what to do", type = "string", value = "TEXT" } },
  { "temperature", { 1, "of the sampled measurements", min = 0.01 } },
  { "max_new_tokens", { 256, "longest completion", integer = true, min = 1 } },
  { "scales", { nil, "numbers that v is multiplied by; default -1 to 2", type = "string", value = "LIST" } },
  { "control_n", { 16, "problems of the random-answer control", integer = true, min = 2 } },
  { "control_steps", { 60, "its steps, each over all of them", integer = true, min = 1 } },
  { "control_lrs", { "3e-3,3e-2", "its learning rates; the best one counts", value = "LIST" } },
  { "style", { nil, "prompt style; default as tlrun eval's", type = "string" } },
  { "verifier", { nil, "module that says what is right; default verifiers.math, for puzzles verifiers.puzzles", type = "string" } },
  { "split", { nil, "split; default test where there is one", type = "string" } },
  { "seed", { 0, "seed of the draws, and of generated problems", integer = true, min = 0, max = 2 ^ 53 } },
  { "compute", { "bf16", "dtype of weights and activations", choices = { "bf16", "fp16", "f16", "fp32", "f32" } } },
}

local function log(...) io.stderr:write(("probe: " .. ...):format(select(2, ...)), "\n") end

local function numbers(text, option)
  if not text then return nil end
  local list = {}
  for word in text:gmatch "[^,%s]+" do list[#list + 1] = tonumber(word) or options.usage("%s: '%s' is not a number", option, word) end
  if #list == 0 then options.usage("%s wants numbers separated by commas", option) end
  return list
end

local function parts_of(p)
  local want = {}
  for _, name in ipairs(p.parts) do
    local known = false
    for _, part in ipairs(PARTS) do known = known or part == name end
    if not known then options.usage("--parts has no '%s'%s: %s", name, require("tl.names").hint(name, PARTS), table.concat(PARTS, ", ")) end
    want[name] = true
  end
  return want
end

local function problems_of(task, p)
  local data, tlrun = require "tl.data", require("tl.eval.protocols").list.tlrun
  local puzzle, split = task:find "^puzzles:" ~= nil, p.split
  if not split then for _, name in ipairs(data.splits(task) or {}) do if name == "test" then split = name end end end
  local style = p.style or puzzle and "chat" or tlrun.styles[task] or tlrun.style
  return data.load(task, { split = split, style = style, limit = p.limit, n = p.limit, seed = p.seed + 1000 }), p.verifier or puzzle and "verifiers.puzzles" or tlrun.verifier
end

-- a fresh adapter of the family of a saved one: the same file with its numbers at zero
local function fresh(model, p)
  return function()
    local a = require("tl.adapter").load(model, p.adapter, { force = p.force })
    return a:set(0)
  end
end

local function interval(x, ci) return require("tl.report").interval(x, ci) end

local function show_reach(r)
  print(("reach: %d problems, %d samples each"):format(r.n, r.k))
  local at = {}
  for k = 1, r.k do if k == r.k or math.log(k) / math.log(2) % 1 == 0 then at[#at + 1] = k end end
  local function row(name, curve)
    local cells = {}
    for i, k in ipairs(at) do cells[i] = ("pass@%d %5.1f%%"):format(k, 100 * curve[k]) end
    print(("  %-8s %s"):format(name, table.concat(cells, "  ")))
  end
  row("base", r.base)
  row("adapted", r.adapted)
  print(("  pass@1: base %s, adapted %s; new %d of %d solved, lost %d"):format(interval(r.base[1], r.base_ci95), interval(r.adapted[1], r.adapted_ci95), #r.new_ids, r.solved, #r.lost_ids))
  if #r.new_ids > 0 then print("  new: " .. table.concat(r.new_ids, " ", 1, math.min(12, #r.new_ids)) .. (#r.new_ids > 12 and " ..." or "")) end
end

local function show_length(l)
  print(("length: %d problems, %d samples each"):format(l.n, l.k))
  for _, row in ipairs { { "base", l.base }, { "base, as long as adapted", l.forced }, { "base, told", l.told or false }, { "adapted", l.adapted } } do
    if row[2] then print(("  %-25s pass@1 %s, %.1f tokens"):format(row[1], interval(row[2].accuracy, row[2].ci95), row[2].mean_length)) end
  end
end

local function show_divergence(d)
  print(("divergence: %.5f nats a token, %.3f a response, over %d completions"):format(d.per_token, d.per_response, d.completions))
  local cells = {}
  for i, x in ipairs(d.deciles) do cells[i] = ("%.0f%%"):format(100 * x) end
  print("  by tenths of a response: " .. table.concat(cells, " "))
  cells = {}
  for i, k in ipairs { 1, 2, 4, 8, 16, 32 } do cells[i] = ("%d: %.0f%%"):format(k, 100 * d.first[tostring(k)]) end
  print("  in the first tokens:     " .. table.concat(cells, "  "))
  cells = {}
  for i, t in ipairs(d.heaviest) do cells[i] = ("%s %.0f%%"):format(json.encode(t.text), 100 * t.share) end
  print("  tokens that carry most:  " .. table.concat(cells, "  "))
end

local function show(report)
  if report.reach then show_reach(report.reach) end
  if report.length then show_length(report.length) end
  if report.divergence then show_divergence(report.divergence) end
  if report.scale then
    print(("scale: greedy, the gain is %+.1f points"):format(100 * report.scale.gain))
    for _, row in ipairs(report.scale.curve) do
      print(("  v x %-5g %s, %.1f tokens%s"):format(row.scale, interval(row.accuracy, row.ci95), row.mean_length, row.kept and (", %.0f%% of the gain"):format(100 * row.kept) or ""))
    end
  end
  for name, t in pairs(report.transfer or {}) do print(("transfer: %s: base %s, adapted %s"):format(name, interval(t.base, t.base_ci95), interval(t.adapted, t.adapted_ci95))) end
  if report.control then
    for _, row in ipairs(report.control.rows) do print(("control: lr %g: loss %.3f -> %.3f, holds %.1f bits of %.1f"):format(row.lr, row.first_loss, row.last_loss, row.held_bits, report.control.capacity_bits)) end
  end
  print "\nreading"
  for _, line in ipairs(report.reading.findings) do print("- " .. line) end
  print "caveats"
  for _, line in ipairs(report.reading.caveats) do print("- " .. line) end
end

function command.run(p)
  if not p.adapter then options.usage "tlrun probe wants --adapter A" end
  if not p.task then options.usage "tlrun probe wants --task T" end
  local want, scales, lrs = parts_of(p), numbers(p.scales, "--scales"), numbers(p.control_lrs, "--control-lrs")
  local probe = require "tl.probe"
  local problems, verifier = problems_of(p.task, p)
  local others = {}
  for _, task in ipairs(want.transfer and p.transfer or {}) do others[#others + 1] = { task, problems_of(task, p) } end
  local model, adapter = input.model(p, p.compute)
  local o = { model = model, adapter = adapter, problems = problems, verifier = verifier, max_new_tokens = p.max_new_tokens, seed = p.seed, k = p.k, temperature = p.temperature,
    scales = scales, ask = p.ask and " " .. p.ask, log = log }
  local report = { n = #problems, adapter = { kind = adapter.kind, numbers = adapter.n_parameters, bytes = adapter.n_bytes } }
  local function say(name) log("%s ...", name) end
  local sampled
  if want.reach then say "reach"; report.reach, sampled = probe.reach(o) end
  if want.length then say "length"; report.length = probe.length(o, sampled) end
  if want.divergence then say "divergence"; report.divergence = probe.divergence(o) end
  local linear = probe.is_linear(adapter)
  if not linear and (want.scale or want.control) then log("scale and control are left out: the update of a %s adapter is not linear in its numbers", adapter.kind) end
  if want.scale and linear then say "scale"; report.scale = probe.scale(o) end
  for _, other in ipairs(others) do
    say("transfer to " .. other[1])
    report.transfer = report.transfer or {}
    report.transfer[other[1]] = probe.transfer(setmetatable({ problems = other[2], verifier = other[3] }, { __index = o }))
  end
  if want.control and linear then
    say "control"
    report.control = probe.control(setmetatable({ problems = problems:take(p.control_n), fresh = fresh(model, p), steps = p.control_steps, lrs = lrs }, { __index = o }))
  end
  report.reading = probe.reading(report)
  if p.json then print(json.encode(report)) else show(report) end
  return 0
end

return command
