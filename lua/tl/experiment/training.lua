--- experiment/training.lua: runs of an experiment that are trainings. tl.experiment.run's option `train` describes the training of one setting; here
--- it is done: by a trainer of its own, or with others that may be members of one population (tl.population) in the same process. What a run ends
--- with is the same, to the bit, either way.
---
--- A description is a table of the trainer's options (tl.grpo.trainer, tl.sft.trainer), in which
---   model      is a loaded model or a model's name (one named model stays loaded)
---   adapter    is a table of its options, kind = "tinylora" unless given; nil: nothing is trained, the base model is measured
---   method     "grpo" (unless given) or "sft"
---   steps      how many;  batches   function(model) -> an iterator of lists of problems, at least so many
---   after      function(adapter, step), called after every step;  completions   of each step that the run's folder keeps (2)
--- It is made more than once, also to see which runs may be done together, so making it is to cost nothing: what is loaded or generated belongs
--- into batches.
local F = require "tl.ffi"
local adapters = require "tl.adapter"
local json = require "tl.json"
local population = require "tl.population"

local training = {}

local loaded = {}

--- The model of a name; a loaded model is itself. One named model stays loaded.
function training.model(model)
  if type(model) ~= "string" then return model end
  if not loaded[model] then
    for _, m in pairs(loaded) do m:free() end
    loaded = { [model] = require("tl.model").load(model) }
  end
  return loaded[model]
end

--- Equal texts: may be trained together. nil: by itself only.
---@param d table
---@return string?
function training.family(d)
  local common = d.adapter and population.family(d)
  return common and json.encode { d.method or "grpo", d.steps, tostring(d.model), common }
end

-- the description of the training of some settings, which is refused where it says nothing that can be done
local function described(train, settings)
  local d = train(settings)
  if type(d) ~= "table" then error("train gives " .. F.shown(d) .. "; a table that describes a training is wanted", 0) end
  if not d.adapter then return d end  -- the base model, which is measured alone
  if d.method ~= nil and d.method ~= "grpo" and d.method ~= "sft" then error('method is "grpo" or "sft"; got ' .. F.shown(d.method), 0) end
  if type(d.steps) ~= "number" or d.steps < 0 or d.steps % 1 ~= 0 then error("steps is a whole number from 0; got " .. F.shown(d.steps), 0) end
  for _, name in ipairs { "batches", "after" } do
    if type(d[name]) ~= "function" and (name == "batches" or d[name] ~= nil) then error(("%s is a function; got %s"):format(name, F.shown(d[name])), 0) end
  end
  return d
end

local OWN = { method = true, steps = true, batches = true, after = true, completions = true }

-- what a training works with: its adapter, open run folder, iterator of batches and the metrics of its steps
local function begin(d, model, s, job, basis)
  local a, t = {}, { d = d, model = model, steps = {} }
  for k, v in pairs(d.adapter) do a[k] = v end
  local kind = a.kind or "tinylora"
  if kind == "tinylora" or kind == "loraxs" then a.basis = a.basis or basis end
  t.adapter = adapters.create(model, kind, a)
  t.run = require("tl.report").run { name = "run", out = job.folder, config = s, seed = s.seed, total = d.steps, completions = d.completions or 2, quiet = true }
  t.next_batch = d.batches(model)
  t.options = { adapter = t.adapter, model = model, run = t.run }
  for k, v in pairs(d) do if not OWN[k] and t.options[k] == nil then t.options[k] = v end end
  return t
end

local function batch_of(t)
  return t.next_batch() or error(("batches gives %d lists of problems; %d steps are wanted"):format(#t.steps, t.d.steps), 0)
end

local function record(t, metrics)
  t.steps[#t.steps + 1] = metrics
  if t.d.after then t.d.after(t.adapter, #t.steps) end
end

local function alone(t)
  local trainer = require(t.d.method == "sft" and "tl.sft" or "tl.grpo").trainer(t.options)
  for _ = 1, t.d.steps do record(t, (trainer:step(batch_of(t)))) end
  if trainer.free then trainer:free() end
end

local function together(list)
  local first, o = list[1], { members = {} }
  for _, name in ipairs(population.WHOLE) do o[name] = first.options[name] end
  for k, t in ipairs(list) do o.members[k] = t.options end
  local pop = population[first.d.method or "grpo"](o)
  for _ = 1, first.d.steps do
    local problems = {}
    for k, t in ipairs(list) do problems[k] = batch_of(t) end
    for k, metrics in ipairs(pop:step(function(k) return problems[k] end)) do record(list[k], metrics) end
  end
  pop:free()
end

-- the run's metrics; its folder is closed, with the adapter in it
local function finish(o, t, s, job)
  local metrics = o.measure(s, { model = t.model, adapter = t.adapter, steps = t.steps }, job)
  if t.adapter.kind ~= "full" then t.adapter:save(t.run:file "adapter.tla") end
  t.run:finish(metrics)
  t.adapter:free()
  return metrics
end

--- tl.experiment.run's options with run, together and run_together made of train and measure.
function training.expand(o)
  local out = setmetatable({}, { __index = o })
  function out.run(s, job)
    local d = described(o.train, s)
    local model = training.model(d.model)
    if not d.adapter then return o.measure(s, { model = model, steps = {} }, job) end
    local t = begin(d, model, s, job)
    alone(t)
    return finish(o, t, s, job)
  end
  function out.together(s) return training.family(described(o.train, s)) end
  function out.run_together(list, jobs)
    local trainings, out_of = {}, {}
    for k, s in ipairs(list) do
      local d = described(o.train, s)
      trainings[k] = begin(d, training.model(d.model), s, jobs[k], k > 1 and trainings[1].adapter or nil)
    end
    together(trainings)
    for k, t in ipairs(trainings) do out_of[k] = function() return finish(o, t, list[k], jobs[k]) end end
    return out_of
  end
  return out
end

return training
