--- population.lua: many adapters trained at once on one base in one process. Every prompt of a batch, with its completions, belongs
--- to a member; the base's products are computed for all of them together, so that the weights are read once for all. What a
--- member gets is, to the bit, what a trainer of its own gives it: its completions, gradients, AdamW state and numbers.
---
---   local pop = tl.population {                       -- GRPO; tl.population.sft {...} is the same for SFT
---     model = model, verifier = "verifiers.math", num_generations = 4,
---     adapter = { rank = 2, u = 13, tie = "full" },   -- for all; a table of tl.adapter.tinylora's options, kind = "loraxs" for others
---     grid = { lr = { 1e-3, 1e-2 }, seed = { 1, 2, 3 } },        -- six members; or members = { { lr = .., seed = .. }, ... }
---   }
---   for batch in problems:batches { size = 4, epochs = 1 } do pop:step(batch) end
---   pop.members[3].adapter:save "third"
---
--- A member is a table of the trainer's options (tl.grpo, tl.sft) that it does not share with the others: lr, seed, adapter (a table
--- over the common one, or an adapter), beta, loss_type, weight_decay, run ... Members may differ in all but the modules, the rank and
--- sigma of their adapters (A and B are the base's), the temperature, num_iterations, rollouts ("native" or "int8"), the verifier, and
--- whether they have an entropy bonus. LoRA and full finetuning train more than R and cannot be members.
local F = require "tl.ffi"
local verify = require "tl.verify"
local ffi = require "ffi"
local adapters = require "tl.adapter"
local checkpoint = require "tl.checkpoint"
local data = require "tl.data"
local grpo = require "tl.grpo"
local sft = require "tl.sft"
local pass = require "tl.pass"
local sample = require "tl.sample"
local turns = require "tl.turns"
local memory = require "tl.memory"
local optim = require "tl.optim"
local options = require "tl.options"
local step = require "tl.step"
local C, check = F.C, F.check

local population = {}

-- ---- adapters side by side, for the sampler and the pass

local Set = F.class "population"

--- Adapters of one model as the sampler and the pass take them together: sample.sampler(model, { population = set }), then
--- submit(..., { member = k }); pass.create(model, batch, { population = set }), with batch:member(k) before a member's prompts. k counts
--- from 0; -1 is the base.
---@param list table[] tl.adapter.tinylora or tl.adapter.loraxs, with equal targets, rank and sigma
function population.of(list)
  if type(list) ~= "table" or #list == 0 then error("population.of wants a list of adapters; got " .. F.shown(list), 2) end
  for _, a in ipairs(list) do F.object("population.of", a, "adapter") end
  local handles = ffi.new("tl_adapter *[?]", #list)
  for i, a in ipairs(list) do handles[i - 1] = a.handle end
  local out = ffi.new "tl_population *[1]"
  check(C.tl_population_create(handles, #list, out))
  return setmetatable({ handle = ffi.gc(out[0], C.tl_population_free), adapters = list, model = list[1].model }, Set)
end

--- Releases the memory now instead of at the next collection.
function Set:free()
  if rawget(self, "handle") then C.tl_population_free(ffi.gc(self.handle, nil)); self.handle = nil end
end

local REWARDS = options.names { any = "verifier reward pool prompt stop", map = "verifier_config", number = "temperature top_p correct",
  count = "n max_new_tokens max_sequences", seed = "seed" }

--- Rewards of every member of a set on the same problems, sampled together. o: verifier or reward, verifier_config (or pool, a tl.verify.pool), prompt, n (1
--- completions a problem), temperature (0: greedy), top_p, max_new_tokens (256), stop, seed (0), max_sequences, correct (0.5: a reward above
--- this counts as right). Members draw with the same random numbers. What a verifier could not judge counts 0;
--- when it could judge nothing at all that is an error.
--- Returns, a member: { reward (mean), accuracy, mean_length, n, failed, rewards = { of problem 1, ... (means) } }.
---@param set table a tl.population.of
---@param problems table[]
---@param o table
function population.rewards(set, problems, o)
  F.object("population.rewards", set, "population")
  options.only("population.rewards", o, REWARDS)
  data.check("population.rewards", problems, verify.wants_answer(o.verifier))
  local n, tok, of, waiting = o.n or 1, set.model:tokenizer(), {}, 0
  local pool = o.pool or verify.pool { verifier = verify.given("population.rewards", o.verifier, o.reward), config = o.verifier_config }
  local s = step.own(sample.sampler(set.model, { population = set, max_sequences = o.max_sequences }))
  local out, place, judged, complaint = {}, {}, 0, nil
  local settings = { temperature = o.temperature or 0, top_p = o.top_p, max_new_tokens = o.max_new_tokens or 256, stop = o.stop, seed = o.seed or 0 }
  for k = 1, #set.adapters do
    out[k] = { reward = 0, accuracy = 0, mean_length = 0, n = #problems * n, failed = 0, rewards = {} }
    settings.member = k - 1
    for i, problem in ipairs(problems) do
      out[k].rewards[i] = 0
      place[s:submit(grpo.prompt_ids(tok, o.prompt, problem, i), n, (i - 1) * n, settings)] = { out[k], i }
    end
  end
  local function take(wait_ms)
    local v = pool:take(wait_ms)
    if not v then return false end
    if not of[v.job] then return true end  -- an earlier step's, which did not come to its end
    local r, i = of[v.job][1], of[v.job][2]
    local reward = v.outcome == "ok" and v.reward or 0
    if v.outcome == "ok" then judged = judged + 1
    else r.failed, complaint = r.failed + 1, complaint or v.outcome ~= "abstain" and v.message or nil end
    r.rewards[i] = r.rewards[i] + reward / n
    r.accuracy, waiting = r.accuracy + (reward > (o.correct or 0.5) and 1 / r.n or 0), waiting - 1
    return true
  end
  for c in s:completions() do
    local at = place[c.request]
    at[1].mean_length = at[1].mean_length + #c.ids / at[1].n
    of[pool:submit(problems[at[2]], { text = sample.text(tok, c), n_tokens = #c.ids, finish = c.finish })] = at
    waiting = waiting + 1
    while take(0) do end
  end
  while waiting > 0 do take(1000) end
  s:free()
  if not o.pool then pool:free() end
  if judged == 0 and #problems > 0 then
    local all = #set.adapters * #problems * n
    error(("%d of %d answers could not be judged: %s"):format(all, all, complaint or "the verifier abstained"), 0)
  end
  for _, r in ipairs(out) do
    for i = 1, #problems do r.reward = r.reward + r.rewards[i] / #problems end
  end
  return out
end

-- ---- members

local function over(base, own)
  local t = {}
  for k, v in pairs(base or {}) do t[k] = v end
  for k, v in pairs(own or {}) do t[k] = v end
  return t
end

local function is_adapter(a) return F.class_of(a) ~= nil and F.object("a member's adapter", a, "adapter") ~= nil end

--- Every combination of a grid's values: { lr = {1, 2}, seed = {1, 2, 3} } -> six tables, names in alphabetical order, the last one
--- changing fastest.
function population.grid(grid)
  if type(grid) ~= "table" then error("population.grid wants a table of lists; got " .. F.shown(grid), 2) end
  for name, values in pairs(grid) do
    if type(values) ~= "table" or #values == 0 then error(("grid: %s wants a list of values; got %s"):format(tostring(name), type(values) == "table" and "none" or tostring(values)), 2) end
  end
  return require "tl.experiment.grid"(grid)
end

local function adapter_of(o, own, first)
  local a = own.adapter
  if is_adapter(a) then return a end
  a = over(is_adapter(o.adapter) and {} or o.adapter, a)
  local kind = a.kind or "tinylora"
  if kind == "tinylora" or kind == "loraxs" then a.basis = a.basis or first end
  return adapters.create(o.model, kind, a)
end

-- what a population has beside its trainers' options, which its members and the grid may name
local SETS = options.names { any = "members grid" }

-- refuses names that the trainers (known) do not have
local function check_names(what, o, known, level)
  local function check_adapter(at, a)
    if a ~= nil and not is_adapter(a) then options.only(at .. ", adapter", a, adapters.OPTIONS, level + 2) end
  end
  options.only(what, o, options.names({}, known, SETS), level + 1)
  check_adapter(what, o.adapter)
  for k, own in ipairs(o.members or {}) do
    local at = ("%s, member %d"):format(what, k)
    options.only(at, own, known, level + 1)
    check_adapter(at, own.adapter)
  end
  for name in pairs(o.grid or {}) do options.only(what .. ", grid", { [name] = false }, options.names { any = table.concat(known.list, " ") }, level + 1) end
end

-- the members' own options over the common ones, each with its adapter
local function options_of(what, o, known, level)
  F.object(what, o.model, "model")
  for _, name in ipairs { "members", "grid" } do
    if o[name] ~= nil and type(o[name]) ~= "table" then error(("%s: %s wants a table; got %s"):format(what, name, tostring(o[name])), level + 1) end
  end
  if require("tl.comm").size > 1 then error("a population is one process's: start it without mpirun", level + 1) end
  if (o.members == nil) == (o.grid == nil) then error("a population wants members = { {...}, ... } or grid = { lr = {...}, ... }", level + 1) end
  check_names(what, o, known, level + 1)
  if is_adapter(o.adapter) then error("a population's adapter is a table of options; give ready adapters to the members", level + 1) end
  local list, first = {}, nil
  for k, own in ipairs(o.members or population.grid(o.grid)) do
    list[k] = over(o, own)
    list[k].members, list[k].grid, list[k].run, list[k].progress = nil, nil, own.run, nil
    list[k].adapter = adapter_of(o, own, first)
    first = first or list[k].adapter
  end
  if #list == 0 then error("a population wants at least one member", level + 1) end
  local whose = {}
  for k, own in ipairs(list) do
    if whose[own.adapter] then error(("members %d and %d have the same adapter; each trains one of its own"):format(whose[own.adapter], k), level + 1) end
    whose[own.adapter] = k
  end
  return list
end

-- what the batch has once, with its default: equal for all members
local SHARED = { temperature = 1, num_iterations = 1, rollouts = "native" }
local JUDGES = { "verifier", "reward", "verifier_config", "reply" }

--- The options that are the whole population's: of every other a member may have its own.
population.WHOLE = { "model", "temperature", "num_iterations", "rollouts", "verifier", "reward", "verifier_config", "reply", "workers", "timeout_ms", "instructions", "inline", "gate",
  "max_sequences", "memory" }

local function has_bonus(o) return (o.entropy_coef or 0) ~= 0 end

-- a value as text: tables and functions are equal when they are the same
local function identity(v) return type(v) .. " " .. tostring(v) end

--- Which trainings may be members of one population: text that is equal for them, or nil for one that cannot be a member. o: a trainer's options,
--- adapter being a table of options. (What one of them gets is what it gets alone.)
---@param o table
---@return string?
function population.family(o)
  local a = o.adapter
  local kind = a.kind or "tinylora"
  if kind ~= "tinylora" and kind ~= "loraxs" or o.rollouts == "merged" or require("tl.comm").size > 1 then return nil end
  local parts = { identity(a.rank or 2), identity(a.sigma or "paper"), identity(a.basis), identity(has_bonus(o)) }
  parts[#parts + 1] = type(a.targets) == "table" and table.concat(a.targets, ",") or identity(a.targets or "all")
  for _, name in ipairs(population.WHOLE) do
    local v = o[name]
    if v == nil then v = SHARED[name] end
    parts[#parts + 1] = identity(v)
  end
  return table.concat(parts, "\n")
end

local function same(list, name, default, level)
  for k, own in ipairs(list) do
    local a, b = list[1][name], own[name]
    if a == nil then a = default end
    if b == nil then b = default end
    if a ~= b then error(("%s is %s in member %d and %s in member 1: it is one for the whole population"):format(name, tostring(b), k, tostring(a)), level + 1) end
  end
end

local function adapters_of(list)
  local out = {}
  for k, own in ipairs(list) do out[k] = own.adapter end
  return out
end

-- the problems of a step: one list for all, or what a function says for member k (from 1)
local function problems_of(problems, k) return type(problems) == "function" and problems(k) or problems end

-- the problems of a step, a function of them having been asked once; refuses lists that are empty, or that the verifier cannot judge
local function checked(members, problems)
  if type(problems) ~= "function" then
    data.check("a step", problems, members[1].wants_answer, 3)
    return problems
  end
  local lists = {}
  for k, t in ipairs(members) do
    lists[k] = problems(k)
    data.check("a step of member " .. k, lists[k], t.wants_answer, 3)
  end
  return function(k) return lists[k] end
end

-- ---- GRPO

local Grpo = {}
Grpo.__index = Grpo

--- A population trained by GRPO: the options of tl.grpo.trainer for all members, and members or grid (see `? tl.population`).
--- p.members[k] is the trainer of member k: .adapter, .steps, .optimizer; p.options[k] are its options.
---@param o table
function population.grpo(o)
  local list = options_of("population", o, grpo.OPTIONS, 2)
  local verifier = verify.given("population", o.verifier, o.reward)
  for name, default in pairs(SHARED) do same(list, name, default, 2) end
  for _, name in ipairs(JUDGES) do same(list, name, nil, 2) end
  local bonus = {}
  for k, own in ipairs(list) do bonus[k] = { ["an entropy bonus"] = has_bonus(own) } end
  same(bonus, "an entropy bonus", false, 2)
  if o.rollouts == "merged" then error('rollouts of a population are "native" or "int8": members have no merged weights of their own', 2) end
  local p = setmetatable({ o = o, model = o.model, options = list, members = {}, n = 0, steps = 0 }, Grpo)
  p.pool = verify.pool { verifier = verifier,
    workers = o.workers, timeout_ms = o.timeout_ms, instructions = o.instructions, config = o.verifier_config, inline = o.inline }
  for k, own in ipairs(list) do
    own.pool = p.pool
    p.members[k] = grpo.trainer(own)
    p.n, p.new_tokens = math.max(p.n, p.members[k].n), math.max(p.new_tokens or 0, own.max_completion_length or 512)
  end
  p.set, p.rollouts, p.reward_name = population.of(adapters_of(list)), p.members[1].rollouts, p.members[1].reward_name
  p.turns = turns.of("population", o)
  memory.start(p)
  return p
end

local function grpo_step(self, problems)
  local began = C.tl_seconds()
  if self.steps == 0 and self.o.gate ~= false then grpo.gate(self.pool, problems_of(problems, 1), self.reward_name) end
  self.steps = self.steps + 1
  local parts, groups = {}, {}
  for k, t in ipairs(self.members) do
    t.steps = t.steps + 1
    parts[k] = { trainer = t, member = k - 1, rollout = t:groups(problems_of(problems, k)), lr = optim.rate(t.lr, t.steps, t.o.total_steps) }
    for _, g in ipairs(parts[k].rollout.groups) do groups[#groups + 1] = g end
  end
  local budget = memory.plan(self, groups)
  if self.rollouts == "int8" then self.int8 = self.int8 or self.model:quantize() end
  local s = step.own(sample.sampler(self.int8 or self.model, { population = self.set, max_sequences = self.o.max_sequences, memory = budget.cache, kept = self.kept,
    prefix_cache = self.turns ~= nil, whole_cache = self.turns ~= nil }))
  grpo.sample(parts, s, self.turns)
  s:free()
  for _, part in ipairs(parts) do
    part.rollout.budget = budget
    part.trainer:judge(part.rollout)
  end
  local b = grpo.pack(parts)
  b.memory = budget.pass
  grpo.update(parts, b, { model = self.model, population = self.set, kept = self.kept })
  return self:report(parts, b, began)
end

--- One step of every member. problems: a list, for all; or function(k) -> the list of member k. Returns the members' metrics, their
--- rollouts, and { step_time, sample_s, verify_s, update_s, n_tokens } of the whole. One that is interrupted or fails leaves the members as they were.
function Grpo:step(problems)
  problems = checked(self.members, problems)
  return step.run(self, self.members, grpo_step, problems)
end

--- What a step returns, of its parts and batch; the members' runs and checkpoints are written.
function Grpo:report(parts, b, began)
  local list, rollouts, first = {}, {}, parts[1].rollout
  local whole = { sample_s = first.sample_s, verify_s = first.verify_s, update_s = b.update_s, n_tokens = 0 }
  for k, part in ipairs(parts) do
    list[k], rollouts[k] = part.trainer:metrics(part, b), part.rollout
    whole.n_tokens = whole.n_tokens + part.rollout.n_tokens
  end
  b.batch:free()
  whole.step_time = C.tl_seconds() - began
  for k, part in ipairs(parts) do
    list[k].step_time = whole.step_time
    if part.trainer.o.run then part.trainer.o.run:step(list[k], part.rollout) end
    checkpoint.after(part.trainer)
  end
  return list, rollouts, whole
end

--- Ends the verifiers, and releases what the members share; model and adapters stay.
function Grpo:free()
  for _, t in ipairs(self.members) do t:free() end
  if self.int8 then self.int8:free() end
  if self.kept then self.kept:free() end
  if self.turns then self.turns:free() end
  self.pool:free()
  self.set:free()
end

-- ---- SFT

local Sft = {}
Sft.__index = Sft

--- A population trained by SFT: the options of tl.sft.trainer for all members, and members or grid (see `? tl.population`).
---@param o table
function population.sft(o)
  local list = options_of("population.sft", o, sft.OPTIONS, 2)
  local p = setmetatable({ o = o, model = o.model, options = list, members = {} }, Sft)
  for k, own in ipairs(list) do p.members[k] = sft.trainer(own) end
  p.set = population.of(adapters_of(list))
  return p
end

local function sft_step(self, problems)
  local batch, parts = step.own(pass.batch()), {}
  for k, t in ipairs(self.members) do
    batch:member(k - 1)
    parts[k] = sft.pack(t, batch, problems_of(problems, k))
  end
  local list = sft.update(parts, batch, { model = self.model, population = self.set, memory = self.o.memory })
  batch:free()
  return list
end

--- One step of every member, as tl.population.grpo's; returns the members' metrics.
function Sft:step(problems)
  problems = checked(self.members, problems)
  return step.run(self, self.members, sft_step, problems)
end

--- Releases what the members share; model and adapters stay.
function Sft:free() self.set:free() end

return setmetatable(population, { __call = function(_, o) return population.grpo(o) end })
