-- test_population.lua: members of a population end with the bytes that trainers of their own give them, by GRPO and by SFT, whatever
-- they differ in. Would catch: seeds, learning rates or AdamW states that are mixed up between members, a completion judged for another
-- member, an objective normalised over the whole batch, a member without a gradient that takes a step all the same.
package.path = arg[0]:match "^(.*)/" .. "/?.lua;" .. package.path
local check = require "check"
local equal, raises, bytes = check.equal, check.raises, check.numbers
local tl = require "tl"

local model = tl.model.load("tiny", { dtype = "bf16" })
local problems = tl.data.load("wordproblems", { n = 12, seed = 5, split = "train", min_ops = 2, max_ops = 2 })
local function batch(step, k) return { problems[2 * step - 1 + (k or 0)], problems[2 * step + (k or 0)] } end

-- what the four share, and what is their own
local COMMON = { model = model, verifier = "verifiers.math", num_generations = 8, max_completion_length = 40, gate = false }
local OWN = {
  { lr = 3e-2, seed = 1, adapter = { u = 13, tie = "full", dtype = "bf16" } },
  { lr = tl.optim.cosine(1e-1, 0, 0.1), seed = 1, adapter = { u = 3, tie = "structured", seed = 7 }, total_steps = 3, beta = 0.05 },
  { lr = 1e-2, seed = 9, adapter = { kind = "loraxs", rank = 2 }, loss_type = "grpo", weight_decay = 0.1 },
  { lr = 3e-2, seed = 1, adapter = { u = 1, tie = "none" }, num_generations = 10, max_grad_norm = 0.1 },
}

local function with(base, own)
  local t = {}
  for k, v in pairs(base) do t[k] = v end
  for k, v in pairs(own) do t[k] = v end
  return t
end

local SHOWN = { "reward", "loss", "grad_norm", "learning_rate", "num_tokens", "entropy", "completions/mean_length", "samples_trained", "frac_reward_zero_std" }
local function shown(m)
  local t = {}
  for _, k in ipairs(SHOWN) do t[k] = ("%.17g"):format(m[k]) end
  return t
end

local alone = {}
local function single(k)
  if alone[k] then return alone[k] end
  local own = with(COMMON, OWN[k])
  own.adapter = tl.adapter.create(model, own.adapter.kind or "tinylora", own.adapter)
  local trainer, last = tl.grpo.trainer(own), nil
  for step = 1, 3 do last = shown((trainer:step(batch(step, k % 2)))) end
  trainer:free()
  alone[k] = { bytes = bytes(own.adapter), last = last }
  return alone[k]
end

local function grpo(name, more)
  check.test(name, function()
    local pop, last = tl.population(with(with(COMMON, { members = OWN }), more)), nil
    for step = 1, 3 do last = pop:step(function(k) return batch(step, k % 2) end) end
    for k, t in ipairs(pop.members) do
      equal(shown(last[k]), single(k).last, "metrics of member " .. k)
      equal(bytes(t.adapter), single(k).bytes, "member " .. k)
      if not bytes(t.adapter):find "[1-9]" then error("member " .. k .. " did not move: equal bytes say nothing") end
    end
    pop:free()
  end)
end
grpo("GRPO: four that differ, as each alone", {})
grpo("GRPO: few at once, one verifier thread", { max_sequences = 5, workers = 1 })

check.test("members go on from their checkpoints", function()
  local folder = os.tmpname()
  os.remove(folder)
  local function members(more)
    local list = {}
    for i, k in ipairs { 1, 2 } do list[i] = with(OWN[k], more(folder .. "/" .. k)) end
    return tl.population(with(COMMON, { members = list }))
  end
  local first = members(function(path) return { checkpoint = 2, run = tl.report.run { out = path, quiet = true } } end)
  for step = 1, 2 do first:step(function(k) return batch(step, k % 2) end) end
  first:free()
  local second = members(function(path) return { resume = path } end)
  local last = second:step(function(k) return batch(3, k % 2) end)
  for k, t in ipairs(second.members) do
    equal(shown(last[k]), single(k).last, "metrics of member " .. k)
    equal(bytes(t.adapter), single(k).bytes, "member " .. k)
  end
  second:free()
  os.execute("rm -rf '" .. folder .. "'")
end)

check.test("SFT: as each alone", function()
  local own = { { lr = 1e-2, adapter = { u = 13 } }, { lr = 3e-2, adapter = { u = 2, seed = 3, tie = "none" } }, { lr = 1e-2, adapter = { kind = "loraxs" } } }
  local pop = tl.population.sft { model = model, members = own }
  for step = 1, 2 do pop:step(function(k) return batch(step, k) end) end
  for k, o in ipairs(own) do
    local a = tl.adapter.create(model, o.adapter.kind or "tinylora", o.adapter)
    local t = tl.sft.trainer { model = model, adapter = a, lr = o.lr }
    for step = 1, 2 do t:step(batch(step, k)) end
    equal(bytes(pop.members[k].adapter), bytes(a), "member " .. k)
  end
  pop:free()
end)

check.test("int8 rollouts, as each alone", function()
  local c = with(COMMON, { rollouts = "int8" })
  local pop = tl.population(with(c, { members = { OWN[1], OWN[3] } }))
  pop:step(batch(1))
  for i, k in ipairs { 1, 3 } do
    local own = with(c, OWN[k])
    own.adapter = tl.adapter.create(model, own.adapter.kind or "tinylora", own.adapter)
    local t = tl.grpo.trainer(own)
    t:step(batch(1))
    equal(bytes(pop.members[i].adapter), bytes(own.adapter), "member " .. i)
    t:free()
  end
  pop:free()
end)

check.test("a grid is every combination", function()
  local g = tl.population.grid { lr = { 1, 2 }, seed = { 3, 4, 5 } }
  equal(#g, 6)
  equal({ g[1], g[2], g[4] }, { { lr = 1, seed = 3 }, { lr = 1, seed = 4 }, { lr = 2, seed = 3 } })
end)

check.test("what cannot be a population is said", function()
  raises("wants members", tl.population, COMMON)
  raises("temperature is 2 in member 2 and 1 in member 1", tl.population, with(COMMON, { members = { {}, { temperature = 2 } } }))
  raises("verifier is verifiers.json in member 2 and verifiers.math in member 1", tl.population, with(COMMON, { members = { {}, { verifier = "verifiers.json" } } }))
  raises("trains more than R", tl.population, with(COMMON, { members = { {}, { adapter = { kind = "lora" } } } }))
  raises("basis_of has other", tl.population, with(COMMON, { members = { {}, { adapter = { rank = 3 } } } }))
  raises("no merged weights", tl.population, with(COMMON, { rollouts = "merged", members = { {} } }))
  raises("grid: lr wants", tl.population, with(COMMON, { grid = { lr = 3 } }))
end)

check.done()
