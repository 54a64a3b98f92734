--- tlrun eval: accuracy on problem sets, with intervals, beside the same-prompt base model
local input = require "tl.input"
local json = require "tl.json"
local options = require "tl.options"

local command = { summary = "accuracy on problem sets, with intervals, beside the base model", usage = "--model M [--adapter A] --task gsm8k,mawps" }

command.parameters = {
  input.MODEL, input.ADAPTER, input.FORCE,
  { "task", { nil, "problem sets, or .jsonl files, separated by commas", type = "string" } },
  { "limit", { 200, "first so many problems of each; 0: all", integer = true, min = 0 } },
  { "samples", { 1, "completions a problem, averaged; more than 1 wants a temperature", integer = true, min = 1 } },
  { "temperature", { 0, "0 is greedy", min = 0 } },
  { "max_new_tokens", { 256, "longest completion", integer = true, min = 1 } },
  { "style", { nil, "prompt style; default gsm8k-hash, and chat for wordproblems", type = "string" } },
  { "verifier", { "verifiers.math", "module that says what is right" } },
  { "extract", { nil, "for verifiers.math: strict, flexible, boxed or hash", type = "string" } },
  { "split", { nil, "split; default test where there is one", type = "string" } },
  { "seed", { 0, "seed of the draws, and of generated problems", integer = true, min = 0 } },
  { "items", { nil, "write every problem's result to this .jsonl", type = "string", value = "FILE" } },
  { "compute", { "bf16", "dtype of weights and activations", choices = { "bf16", "fp32", "f32" } } },
}

local function measure(model, adapter, task, p)
  local data, eval = require "tl.data", require "tl.eval"
  local splits = data.splits(task) or {}
  local split = p.split
  if not split then for _, s in ipairs(splits) do if s == "test" then split = s end end end
  local problems = data.load(task, { split = split, style = p.style or task == "wordproblems" and "chat" or "gsm8k-hash",
    limit = p.limit > 0 and p.limit or nil, seed = p.seed + 1000, n = p.limit > 0 and p.limit or nil })
  local function one(a)
    return eval.run { model = model, adapter = a, problems = problems, verifier = p.verifier, samples = p.samples, temperature = p.temperature,
      verifier_config = p.extract and { extract = p.extract } or nil, max_new_tokens = p.max_new_tokens, seed = p.seed }
  end
  local base = one(nil)
  return base, adapter and one(adapter) or nil
end

function command.run(p)
  if not p.task then options.usage "tlrun eval wants --task NAME,..." end
  if p.samples > 1 and p.temperature == 0 then options.usage "--samples above 1 are all alike at temperature 0" end
  local model, adapter = input.model(p, p.compute)
  local eval, report = require "tl.eval", require "tl.report"
  local doc, lines = {}, {}
  for task in p.task:gmatch "[^,%s]+" do
    local base, with = measure(model, adapter, task, p)
    local shown = with or base
    doc[task] = eval.summary(shown)
    doc[task].base = eval.summary(base)
    io.stderr:write(("%-14s %4d problems  base %s, %.1f tokens"):format(task, base.n, report.interval(base.accuracy, base.ci95), base.mean_length))
    if with then io.stderr:write(("   adapter %s, %.1f tokens"):format(report.interval(with.accuracy, with.ci95), with.mean_length)) end
    io.stderr:write("\n")
    for _, item in ipairs(shown.items) do item.task = task; lines[#lines + 1] = json.encode(item) .. "\n" end
  end
  if p.items then require("tl.fs").write(p.items, table.concat(lines)) end
  if p.json then print(json.encode { tasks = doc }) end
  return 0
end

return command
