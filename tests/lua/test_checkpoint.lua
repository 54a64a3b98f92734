-- test_checkpoint.lua: a training run that goes on from a checkpoint. Would catch: state that is not saved (moments, step count, sequence
-- numbers), a pointer that names a folder which is not whole, checkpoints that pile up, damaged files that are taken.
package.path = arg[0]:match "^(.*)/" .. "/?.lua;" .. package.path
local check = require "check"
local equal, raises = check.equal, check.raises
local tl = require "tl"
local checkpoint = require "tl.checkpoint"
local fs = require "tl.fs"

local model = tl.model.load("tiny", { dtype = "bf16" })
local tlrun = tl.exe
local problems = tl.data.load("wordproblems", { n = 12, seed = 3 })
local dir = os.tmpname()
os.remove(dir)
fs.mkdirs(dir)

-- GRPO or SFT steps up to `total`; returns the adapter's numbers and the trainer
local function train(kind, total, o)
  local model = o.model or model
  local adapter = tl.adapter.tinylora(model, { rank = 2, u = 13, tie = tl.tie.full, seed = o.projection })
  local run = o.out and tl.report.run { name = "t", out = o.out, quiet = true, completions = 2, resume = o.resume } or nil
  local options = { model = model, adapter = adapter, lr = function(step) return 1e-2 / step end, run = run, checkpoint = o.checkpoint, resume = o.resume,
    seed = o.seed or 5 }
  if kind == "grpo" then
    options.num_generations, options.max_completion_length, options.gate, options.reward = 4, 8, false, function(_, c) return #c.text % 3 end
  end
  local trainer = tl[kind].trainer(options)
  for batch in problems:batches { size = 3, epochs = 9, steps = total, seed = 1, skip = trainer.steps } do trainer:step(batch) end
  if kind == "grpo" then trainer:free() end
  return adapter:parameters(), trainer, adapter
end

for _, kind in ipairs { "grpo", "sft" } do
  check.test(kind .. ": a run that goes on is the one that was never stopped", function()
    local whole = train(kind, 5, {})
    local out = dir .. "/" .. kind
    train(kind, 3, { out = out, checkpoint = 1 })
    local rest, trainer = train(kind, 5, { resume = out })
    equal(trainer.steps, 5)
    equal(rest, whole)
    local folders = 0
    for _, name in ipairs(fs.list(out)) do if name:match "^checkpoint%-" then folders = folders + 1 end end
    equal(folders, 1)
    equal(fs.kind(out .. "/checkpoint-000003/optimizer.safetensors"), "file")
  end)
end

check.test("in its own folder: steps after the checkpoint are recorded once", function()
  local out = dir .. "/again"
  train("grpo", 5, { out = out, checkpoint = 2 })
  train("grpo", 7, { out = out, resume = out, checkpoint = 2 })
  for _, name in ipairs { "metrics.jsonl", "completions.jsonl" } do
    local steps = {}
    for line in fs.read(out .. "/" .. name):gmatch "[^\n]+" do
      local step = tl.json.decode(line).step
      if steps[#steps] ~= step then steps[#steps + 1] = step end
    end
    equal(steps, { 1, 2, 3, 4, 5, 6, 7 }, name)
  end
end)

check.test("what is no checkpoint, or another run's, is one clear line", function()
  local out = dir .. "/grpo"
  local function load(o) return function() train("grpo", 4, o) end end
  raises("has no checkpoint %(checkpoint.json%)", load { resume = dir })
  raises("of a run with seed 5, this one has 6", load { resume = out, seed = 6 })
  local text = fs.read(out .. "/checkpoint.json")
  local function with(from, to)
    local changed = text:gsub(from, to)
    assert(changed ~= text)
    local bad = dir .. "/bad"
    fs.mkdirs(bad)
    fs.write(bad .. "/checkpoint.json", changed)
    return load { resume = bad }
  end
  raises("steps is %-3; wanted a count", with('"steps": 3', '"steps": -3'))
  raises("of an adapter with 14 numbers, this one has 13", with('"n_parameters": 13', '"n_parameters": 14'))
  raises("folder is no checkpoint's name", with("checkpoint%-000003", "../grpo/checkpoint-000003"))
  raises("checkpoint.json", with("}", ""))
  raises("resume: there is no run folder /tmp/no_such_run", load { resume = "/tmp/no_such_run" })
  local other = tl.model.load("tiny-s", { dtype = "bf16" })
  raises("is of a run on the base model tiny %(weights %x+%), this one is on tiny%-s %(weights %x+%)", load { resume = out, model = other })
  other:free()
  raises("an adapter with projection generator philox4x32%-10, seed 42, this one has generator philox4x32%-10, seed 7", load { resume = out, projection = 7 })
  raises("optimizer.safetensors", with("checkpoint%-000003", "checkpoint-000009"))
end)

check.test("a recipe's run: other settings are said, a folder holds one run", function()
  local recipe = ("%s %s/recipes/gsm8k_13param.lua --task wordproblems --eval 0 --batch 2 --new-tokens 8 --limit 8 --checkpoint 1 --no-gate"):format(tlrun, tl.root)
  local out = dir .. "/recipe"
  local code, _, err = check.run(("%s --total 1 --out %s"):format(recipe, out))
  equal(code, 0, err)
  local before = fs.read(out .. "/metrics.jsonl")
  code, _, err = check.run(("%s --total 1 --out %s --lr 1"):format(recipe, out))
  equal({ code, err:find(out .. " holds a run already", 1, true) ~= nil }, { 1, true }, err)
  equal(fs.read(out .. "/metrics.jsonl"), before)
  equal(fs.read(out .. "/config.json"):find('"lr": 0.001', 1, true) ~= nil, true, "config.json is the first run's")
  code, _, err = check.run(("%s --total 2 --out %s --resume %s"):format(recipe, out, out))
  equal({ code, err:find("other settings", 1, true) }, { 0, nil }, err)
  code, _, err = check.run(("%s --total 3 --out %s2 --resume %s --lr 0.5 --group 2"):format(recipe, out, out))
  equal(code, 0, err)
  equal(err:find("the learning rate of step 3 was to be 0.001 and is 0.5; group was 4 and is 2", 1, true) ~= nil, true, err)
  code, _, err = check.run(("%s --total 3 --out %s3 --resume %s/nope"):format(recipe, out, out))
  equal({ code, err:find("there is no run folder " .. out .. "/nope", 1, true) ~= nil, fs.kind(out .. "3") }, { 1, true, nil }, err)
end)

require("tl.process").run { argv = { "rm", "-rf", dir } }
check.done()
