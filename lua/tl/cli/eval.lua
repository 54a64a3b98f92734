--- tlrun eval: accuracy on problem sets, with intervals, beside the same-prompt base model
local input = require "tl.input"
local json = require "tl.json"
local options = require "tl.options"
local protocols = require "tl.eval.protocols"

local command = { summary = "accuracy on problem sets, with intervals, beside the base model",
  usage = "--model M [--adapter A] --task gsm8k,mawps | --compare A.jsonl B.jsonl", words = 2 }

command.help = "Accuracy of a model (and of an adapter, always beside the same-prompt base model) on problem sets.\n"
  .. "With --items FILE every completion is kept; the same command again goes on where it stopped. --compare tells two such files apart:\n"
  .. "which problems were fixed, which were broken, and McNemar's test.\n"
  .. "Protocols: " .. table.concat(protocols.names(), ", ") .. ". Options that are given go before the protocol's."

command.parameters = {
  input.MODEL, input.ADAPTER, input.FORCE, input.DEVICE, input.TENSOR_PARALLEL,
  { "task", { nil, "problem sets, or .jsonl files, separated by commas; puzzles:KIND", type = "string" } },
  { "protocol", { "tlrun", "prompt, settings and scoring by name", choices = protocols.names() } },
  { "limit", { 200, "first so many problems of each; 0: all", integer = true, min = 0 } },
  { "samples", { 1, "completions a problem: avg@k, pass@k, maj@k; more than 1 wants a temperature", integer = true, min = 1 } },
  { "temperature", { nil, "0 is greedy; default the protocol's", type = "number", min = 0 } },
  { "top_p", { nil, "nucleus; default the protocol's", type = "number", min = 0, max = 1 } },
  { "max_new_tokens", { nil, "longest completion; default the protocol's", type = "number", integer = true, min = 1 } },
  { "style", { nil, "prompt style; default the protocol's", type = "string" } },
  { "shots", { nil, "worked examples before the question; default the protocol's", type = "number", integer = true, min = 0 } },
  { "verifier", { nil, "module that says what is right; default the protocol's", type = "string" } },
  { "extract", { nil, "for verifiers.math: strict, flexible, boxed, hash, phrase or any", type = "string" } },
  { "reply", { nil, "module or file that replies whenever the model stops: completions of several turns (docs/recipes.md)", type = "string", value = "FILE" } },
  { "stop", { nil, "text at which a completion, or a turn, ends; may be given again", type = "list", of = "string", repeated = true, value = "TEXT" } },
  { "split", { nil, "split; default test where there is one", type = "string" } },
  { "seed", { 0, "seed of the draws, and of generated problems", integer = true, min = 0, max = 2 ^ 53 } },
  { "prefix_cache", { true, "compute once what prompts have in common; the same answers, sooner" } },
  { "items", { nil, "every completion to this .jsonl; goes on where an earlier run stopped", type = "string", value = "FILE" } },
  { "compare", { false, "compare two files of items" } },
  { "compute", { "bf16", "dtype of weights and activations", choices = { "bf16", "fp16", "f16", "fp32", "f32" } } },
}

local function first(...)
  for i = 1, select("#", ...) do
    local v = select(i, ...)
    if v ~= nil then return v end
  end
end

-- what is asked for a task: the protocol's settings with the command line's before them
local function settings_of(task, p)
  local protocol = protocols.list[p.protocol]
  local puzzle = task:find "^puzzles:"
  local s = { task = task, protocol = p.protocol, limit = p.limit, seed = p.seed, split = p.split, stop = first(p.stop, protocol.stop), reply = p.reply, shots = first(p.shots, protocol.shots, 0),
    style = first(p.style, puzzle and "chat" or protocol.styles and protocol.styles[task] or protocol.style), temperature = first(p.temperature, protocol.temperature),
    top_p = first(p.top_p, protocol.top_p), max_new_tokens = first(p.max_new_tokens, protocol.max_new_tokens), config = protocol.config, flexible = protocol.flexible,
    samples = p.given.samples and p.samples or protocol.samples and protocol.samples[task] or p.samples }
  s.verifier = first(p.verifier, puzzle and "verifiers.puzzles" or protocol.verifier)
  if p.verifier or puzzle then s.config, s.flexible = nil, nil end
  if p.extract then
    s.config = { tolerance = s.config and s.config.tolerance, extract = p.extract }
  end
  return s
end

local function load(s)
  local data = require "tl.data"
  local split = s.split
  if not split then for _, name in ipairs(data.splits(s.task) or {}) do if name == "test" then split = name end end end
  local n = s.limit > 0 and s.limit or nil
  local prompt
  if s.shots > 0 then prompt = protocols.few_shot(data.load(s.task, { split = "train", limit = s.shots })) end
  return data.load(s.task, { split = split, style = not prompt and s.style or nil, limit = n, n = n, seed = s.seed + 1000 }), prompt
end

local function arm_runner(model, s, p, file, old)
  local problems, prompt = load(s)
  return function(adapter, arm)
    local done = {}
    for _, item in ipairs(old) do if item.task == s.task and item.arm == arm then done[#done + 1] = item end end
    if #done > 0 then io.stderr:write(("%s, %s: %d completions are in %s\n"):format(s.task, arm, #done, p.items)) end
    return require("tl.eval").run { model = model, adapter = adapter, problems = problems, prompt = prompt, verifier = s.verifier, verifier_config = s.config,
      flexible = s.flexible, samples = s.samples, temperature = s.temperature, top_p = s.top_p, stop = s.stop, reply = s.reply, max_new_tokens = s.max_new_tokens, seed = s.seed,
      prefix_cache = p.prefix_cache, done = done, on_item = file and function(item)
        item.task, item.arm = s.task, arm
        require("tl.eval.items").append(file, item)
      end }
  end
end

local function figures(name, r)
  local report = require "tl.report"
  local parts = { ("%s %s"):format(name, report.interval(r.accuracy, r.ci95)) }
  if r.flexible then parts[#parts + 1] = "flexible " .. report.interval(r.flexible.accuracy, r.flexible.ci95) end
  if r.pass_at then
    for k = 1, r.samples do if k > 1 and r.pass_at[tostring(k)] then parts[#parts + 1] = ("pass@%d %.1f%%"):format(k, 100 * r.pass_at[tostring(k)]) end end
    if r.majority then parts[#parts + 1] = ("maj@%d %.1f%%"):format(r.samples, 100 * r.majority) end
  end
  parts[#parts + 1] = ("%.1f tokens, %.0f%% cut off, %.0f%% repeating"):format(r.mean_length, 100 * r.clipped_ratio, 100 * r.repetition_ratio)
  return table.concat(parts, ", ")
end

-- what was measured, for people: on stdout, unless that is for the document
local function show(to, s, base, with, paired)
  to:write(("%-14s %d problems, %s%s\n  %s\n"):format(s.task, base.n, s.protocol, s.samples > 1 and (", %d samples each"):format(s.samples) or "", figures("base   ", base)))
  if with then
    to:write(("  %s\n  paired: %d fixed, %d broken, difference %+.1f points [%.1f, %.1f], McNemar p = %.3g\n"):format(figures("adapter", with), paired.fixed, paired.broken,
      100 * paired.difference, 100 * paired.ci95[1], 100 * paired.ci95[2], paired.p))
  end
  to:flush()
end

local function compare(p, rest)
  if #rest ~= 2 then options.usage "tlrun eval --compare wants two files of items" end
  local out = require("tl.eval").compare(rest[1], rest[2])
  local tasks = {}
  for task in pairs(out) do tasks[#tasks + 1] = task end
  table.sort(tasks)
  for _, task in ipairs(tasks) do
    local r = out[task]
    local line = ("%s: %d problems in both, %.1f%% and %.1f%%; %d fixed, %d broken, difference %+.1f points [%.1f, %.1f], McNemar p = %.3g"):format(task, r.n, 100 * r.a, 100 * r.b,
      r.fixed, r.broken, 100 * r.difference, 100 * r.ci95[1], 100 * r.ci95[2], r.p)
    if not p.json then
      print(line)
      for _, name in ipairs { "fixed", "broken" } do
        local ids = r[name .. "_ids"]
        if #ids > 0 then print("  " .. name .. ": " .. table.concat(ids, " ", 1, math.min(20, #ids)) .. (#ids > 20 and (" and %d more"):format(#ids - 20) or "")) end
      end
    end
  end
  if p.json then print(json.encode { tasks = out }) end
  return 0
end

function command.run(p, rest)
  if p.compare then return compare(p, rest) end
  if p.items and require("tl.comm").size > 1 then options.usage "--items is written by one process: not under mpirun" end
  if #rest > 0 then options.usage("tlrun eval: unexpected argument '%s'", rest[1]) end
  if not p.task then options.usage "tlrun eval wants --task NAME,..." end
  local list = {}
  for task in p.task:gmatch "[^,%s]+" do
    local s = settings_of(task, p)
    if s.samples > 1 and s.temperature == 0 then options.usage "--samples above 1 are all alike at temperature 0" end
    list[#list + 1] = s
  end
  if #list == 0 then options.usage("--task wants NAME,...; got '%s'", p.task) end
  local eval, stats = require "tl.eval", require "tl.eval.stats"
  local file, old = nil, {}
  if p.items then
    file, old = require("tl.eval.items").open(p.items, { model = p.model, adapter = p.adapter or json.null, protocol = p.protocol, seed = p.seed, samples = list[1].samples,
      temperature = list[1].temperature, max_new_tokens = list[1].max_new_tokens, style = list[1].style, shots = list[1].shots, verifier = list[1].verifier, compute = p.compute,
      top_p = list[1].top_p or json.null, extract = p.extract or json.null, split = p.split or json.null, reply = p.reply or json.null, stop = p.stop or json.null })
  end
  local model, adapter = input.model(p, p.compute)
  local doc = {}
  for _, s in ipairs(list) do
    local run = arm_runner(model, s, p, file, old)
    local base = run(nil, "base")
    local with = adapter and run(adapter, "adapter") or nil
    local paired = with and stats.paired(base.scores, with.scores, p.seed) or nil
    show(p.json and io.stderr or io.stdout, s, base, with, paired)
    doc[s.task] = eval.summary(with or base)
    doc[s.task].base, doc[s.task].paired, doc[s.task].protocol = eval.summary(base), paired, s.protocol
  end
  if file then file:close() end
  if p.json then print(json.encode { tasks = doc }) end
  return 0
end

return command
