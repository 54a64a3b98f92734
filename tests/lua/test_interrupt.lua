-- a step that is interrupted, or fails, in the middle leaves its trainer as it was before: the next steps give the bits that they give without it, and
-- no verdict of it is taken for another's
package.path = arg[0]:match "^(.*)/" .. "/?.lua;" .. package.path
local check = require "check"
local tl = require "tl"
local F = require "tl.ffi"
local equal, raises, test = check.equal, check.raises, check.test
local model = tl.model.load("tiny", { dtype = "bf16" })
local problems = tl.data.load("wordproblems", { n = 6, seed = 3, min_ops = 2, max_ops = 2 })
local batch = { problems[1], problems[2], problems[3] }

-- a slow verifier: when the step is interrupted, most verdicts are still to come
local function slow(_, completion)
  os.execute "sleep 0.02"
  return #completion.text % 3
end

local armed   -- what is done, once, at the count-th call of strike
local function strike()
  if not armed then return end
  armed.count = armed.count - 1
  if armed.count > 0 then return end
  local how = armed.how
  armed = nil
  if how == "error" then error("interrupted", 0) end
  F.C.tl_interrupt()   -- as Ctrl-C does: the next long call of C ends with an error
end

local function objective(t, out)
  strike()
  for s = t.first, t.first + t.count - 1 do
    for i = tonumber(t.offsets[s]), tonumber(t.offsets[s + 1]) - 1 do out.dlogprob[i] = -t.advantage[s] / t.total_tokens end
  end
end

local function with(base, more)
  local t = {}
  for k, v in pairs(base) do t[k] = v end
  for k, v in pairs(more) do t[k] = v end
  return t
end

local function new(o) return tl.adapter.tinylora(model, with({ u = 5, dtype = "bf16" }, o or {})) end
local COMMON = { model = model, reward = slow, lr = 3e-2, num_generations = 4, max_completion_length = 24, gate = false, timeout_ms = 5000, workers = 2 }

local kinds = {}
function kinds.grpo(o)
  local t = tl.grpo.trainer(with(COMMON, with({ adapter = new(), progress = strike }, o)))
  return t, function() return t.adapter:parameters() end
end
function kinds.objective(o) return kinds.grpo(with({ progress = false, objective = objective }, o)) end
function kinds.merged(o) return kinds.grpo(with({ rollouts = "merged" }, o)) end
function kinds.population(o)
  local struck = function(p) strike() return p.question end
  local t = tl.population(with(COMMON, with({ adapter = { u = 5 }, members = { { seed = 1 }, { seed = 2, prompt = struck } } }, o)))
  return t, function() return { t.members[1].adapter:parameters(), t.members[2].adapter:parameters() } end
end
function kinds.sft()
  local t = tl.sft.trainer { model = model, adapter = new(), lr = 1e-2, target = function(p) strike() return p.solution end }
  return t, function() return t.adapter:parameters() end
end
function kinds.es()
  local t = tl.es.trainer { model = model, adapter = new(), reward = slow, members = 4, num_generations = 2, max_completion_length = 12, gate = false, timeout_ms = 5000,
    prompt = function(p) strike() return p.question end }
  return t, function() return t.adapter:parameters() end
end

local wanted = {}
local function undisturbed(kind)
  if not wanted[kind] then
    local t, numbers = kinds[kind] {}
    t:step(batch)
    t:step(batch)
    wanted[kind] = { numbers = numbers(), steps = t.steps, num_tokens = t.num_tokens }
  end
  return wanted[kind]
end

local function interrupted(kind, how, count)
  test(("%s, %s at call %d: the next steps are those of a trainer that was not interrupted"):format(kind, how, count), function()
    local want = undisturbed(kind)
    local t, numbers = kinds[kind] {}
    for round = 1, 2 do
      local before = { numbers(), t.steps, t.num_tokens, t.sequences }
      armed = { how = how, count = count }
      raises("interrupted", t.step, t, batch)
      F.C.tl_interrupt_clear()
      armed = nil
      equal({ numbers(), t.steps, t.num_tokens, t.sequences }, before, "round " .. round)
      t:step(batch)
    end
    equal({ numbers = numbers(), steps = t.steps, num_tokens = t.num_tokens }, want)
    if t.free then t:free() end
  end)
end

interrupted("grpo", "error", 5)
interrupted("grpo", "error", 12)
interrupted("grpo", "Ctrl-C", 1)
interrupted("merged", "error", 5)
interrupted("objective", "error", 1)
interrupted("objective", "Ctrl-C", 1)
interrupted("population", "error", 3)
interrupted("population", "Ctrl-C", 3)
interrupted("sft", "error", 3)
interrupted("sft", "Ctrl-C", 3)
interrupted("es", "error", 7)
interrupted("es", "Ctrl-C", 7)

test("after an update the step counts, whatever fails then", function()
  local t = tl.grpo.trainer(with(COMMON, { adapter = new(), run = { step = function() error("the disk is full", 0) end } }))
  raises("the disk is full", t.step, t, batch)
  equal({ t.steps, t.sequences }, { 1, 12 })
  t:free()
end)

test("the attack before the first step is not taken for the step's completions", function()
  local calls = 0
  local function honest(p, c)
    os.execute "sleep 0.005"
    return require("verifiers.math").verify(p, c)
  end
  local t = tl.grpo.trainer(with(COMMON, { adapter = new(), gate = true, reward = honest, progress = function()
    calls = calls + 1
    if calls == 3 then error("interrupted", 0) end
  end }))
  raises("interrupted", t.step, t, batch)
  equal(t.steps, 0)
  local m = t:step(batch)
  equal(m.step, 1)
  t:free()
end)

test("an interrupt inside an inline verifier is none of its errors", function()
  local pool = tl.verify.pool { inline = true, verifier = function()
    F.C.tl_interrupt()
    error("interrupted", 0)   -- as the hook does after Ctrl-C
  end }
  raises("^interrupted$", pool.submit, pool, problems[1], { text = "1" })
  F.C.tl_interrupt_clear()
  equal(pool:pending(), 0)
end)

check.done()
