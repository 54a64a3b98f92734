--- checkpoint.lua: a training run's state in its folder, and going on from it.
---
---   RUN/checkpoint-000040/optimizer.safetensors   master copy of the trained numbers, AdamW's moments, its step count
---   RUN/checkpoint.json                           which folder that is, the trainer's counts, the base model, the adapter's form, the settings
---
--- checkpoint.json is replaced, at once, when the new folder is complete; only then is the folder before it removed. Whenever a run is
--- killed, checkpoint.json names a whole checkpoint. Everything else a step depends on is a function of (seed, step): a run that goes on
--- from a checkpoint gets the bits of one that was never stopped, with as many ranks as it likes.
local F = require "tl.ffi"
local comm = require "tl.comm"
local fs = require "tl.fs"
local json = require "tl.json"
local log = require "tl.log"
local C, check = F.C, F.check

local checkpoint = {}

--- The parameters of a recipe whose trainer takes them: checkpoint = tl.checkpoint.EVERY, resume = tl.checkpoint.FROM.
checkpoint.EVERY = { 0, "steps from one checkpoint to the next; 0: none", integer = true, min = 0 }
checkpoint.FROM = { nil, "run directory whose last checkpoint this run goes on from", type = "string", value = "DIR" }

--- Refuses options of a trainer that could not do what they say: run, checkpoint and resume. what: the trainer.
function checkpoint.only(what, o)
  local run = o.run
  if run and not (type(run) == "table" and type(run.step) == "function") then F.raise(("%s: run is a tl.report.run; got %s"):format(what, F.shown(run))) end
  if (o.checkpoint or 0) > 0 and not run then F.raise(("%s: checkpoint = %d wants run, in whose folder it is written"):format(what, o.checkpoint)) end
  if o.resume and type(o.resume) ~= "string" then F.raise(("%s: resume is a run's folder; got %s"):format(what, F.shown(o.resume))) end
end

local function remove(folder) require("tl.process").run { argv = { "rm", "-rf", "--", folder } } end

-- ---- what a checkpoint's numbers mean something for

local function lines_of(map)
  local names, out = {}, {}
  for k in pairs(map) do names[#names + 1] = k end
  table.sort(names)
  for i, k in ipairs(names) do out[i] = k .. " " .. tostring(map[k]) end
  return table.concat(out, ", ")
end

-- The base model and the adapter's form as a compact file's manifest says them, once a trainer; nil of what has no manifest (full finetuning,
-- whose weights are the trained numbers). All ranks call it: those that share a model hash it together.
local function identity(trainer)
  if trainer.identity ~= nil then return trainer.identity or nil end
  trainer.identity = false
  if trainer.adapter.kind == "full" then return nil end
  local path = os.tmpname()
  local ok, m = pcall(function()
    trainer.adapter:save(path, { format = "compact" })
    return require("tl.artifact").describe(path).manifest
  end)
  os.remove(path)
  if not ok then return nil end
  local form = {}
  for _, k in ipairs { "method", "rank", "u", "sigma", "scale", "tying" } do form[k] = m[k] end
  form.targets = lines_of(m.targets)
  if type(m.projection) == "table" then form.projection = lines_of(m.projection) end
  trainer.identity = { base = { name = m.base.name, hash = m.base.hash }, form = form }
  return trainer.identity
end

-- settings that change no number of a run, or that have a check of their own
local FREE = {}
for name in ([[model adapter run progress pool memory workers checkpoint resume max_sequences sequences gate total_steps total seed inline instructions
  timeout_ms completions out json threads device tensor_parallel config eval eval_task args name sft lr]]):gmatch "%S+" do FREE[name] = true end

-- The settings of a run by name: its recipe's parameters, else the trainer's own plain options; and the learning rate of the next step.
local function settings(trainer, next_step)
  local out, config = {}, trainer.o.run and trainer.o.run.config
  for k, v in pairs(config or trainer.o) do
    if type(v) == "table" then v = config and json.encode(v) or nil end
    if type(k) == "string" and not FREE[k] and (type(v) == "number" or type(v) == "string" or type(v) == "boolean") then out[k] = v end
  end
  return out, trainer.lr(next_step, trainer.o.total_steps and math.max(next_step, trainer.o.total_steps))
end

local function shown(v)
  if v == nil or v == json.null then return "not given" end
  return type(v) == "number" and ("%.6g"):format(v) or tostring(v)
end

-- What is said when a run goes on with other settings than it began with.
local function warn_of_changes(trainer, doc, folder)
  if type(doc.settings) ~= "table" or comm.rank > 0 then return end
  local now, lr = settings(trainer, doc.steps + 1)
  local changed, known = {}, {}
  if type(doc.next_lr) == "number" and type(lr) == "number" and math.abs(doc.next_lr - lr) > 1e-9 * math.abs(lr) then
    changed[1] = ("the learning rate of step %d was to be %s and is %s"):format(doc.steps + 1, shown(doc.next_lr), shown(lr))
  end
  for k in pairs(doc.settings) do known[#known + 1] = k end
  table.sort(known)
  -- a script may open its run without a config: only what both have can be compared
  for _, k in ipairs(known) do
    if now[k] ~= nil and now[k] ~= doc.settings[k] then changed[#changed + 1] = ("%s was %s and is %s"):format(k, shown(doc.settings[k]), shown(now[k])) end
  end
  if #changed > 0 then log.warn("the run goes on from %s with other settings: %s", folder, table.concat(changed, "; ")) end
end

--- Writes a checkpoint of a trainer (tl.grpo, tl.sft) into a folder. Rank 0 writes.
function checkpoint.save(trainer, folder)
  local id = identity(trainer)
  if comm.rank > 0 then return end
  local name = ("checkpoint-%06d"):format(trainer.steps)
  fs.mkdirs(folder .. "/" .. name)
  trainer.optimizer:save(folder .. "/" .. name .. "/optimizer.safetensors")
  local before = fs.kind(folder .. "/checkpoint.json") == "file" and json.parse(fs.read(folder .. "/checkpoint.json"))
  local set, lr = settings(trainer, trainer.steps + 1)
  local text = json.encode({ folder = name, steps = trainer.steps, sequences = trainer.sequences, num_tokens = trainer.num_tokens, seed = trainer.seed,
    n_parameters = trainer.adapter.n_parameters, base = id and id.base, adapter = id and id.form, settings = json.object(set), next_lr = lr }, { pretty = true }) .. "\n"
  check(C.tl_write_file(folder .. "/checkpoint.json", text, #text))
  if type(before) == "table" and type(before.folder) == "string" and before.folder:match "^checkpoint%-%d+$" and before.folder ~= name then
    remove(folder .. "/" .. before.folder)
  end
end

--- After a step: a checkpoint when the trainer's option `checkpoint` says so, and its run has a folder.
function checkpoint.after(trainer)
  local every, run = trainer.o.checkpoint or 0, trainer.o.run
  if every > 0 and run and trainer.steps % every == 0 then checkpoint.save(trainer, run.path) end
end

local function count(doc, field, path)
  local v = doc[field]
  if type(v) ~= "number" or v % 1 ~= 0 or v < 0 then error(("%s: %s is %s; wanted a count"):format(path, field, tostring(v)), 0) end
  return v
end

--- Loads a run's last checkpoint into a trainer that was made with the same options.
function checkpoint.load(trainer, folder)
  local path = folder .. "/checkpoint.json"
  if fs.kind(folder) ~= "folder" then error(("resume: there is no run folder %s"):format(folder), 0) end
  if fs.kind(path) ~= "file" then error(("%s has no checkpoint (checkpoint.json): the run wrote none"):format(folder), 0) end
  local doc, why = json.parse(fs.read(path))
  if type(doc) ~= "table" then error(("%s: %s"):format(path, why or "not an object"), 0) end
  local steps = count(doc, "steps", path)
  if type(doc.folder) ~= "string" or not doc.folder:match "^checkpoint%-%d+$" then error(path .. ": folder is no checkpoint's name", 0) end
  local id = type(doc.base) == "table" and identity(trainer)
  if id and doc.base.hash ~= id.base.hash then
    error(("%s is of a run on the base model %s (weights %s), this one is on %s (weights %s)"):format(path, shown(doc.base.name), shown(doc.base.hash),
      id.base.name, id.base.hash), 0)
  end
  if doc.n_parameters ~= trainer.adapter.n_parameters then
    error(("%s is of an adapter with %s numbers, this one has %d"):format(path, tostring(doc.n_parameters), trainer.adapter.n_parameters), 0)
  end
  if trainer.seed and doc.seed ~= trainer.seed then error(("%s is of a run with seed %s, this one has %s"):format(path, tostring(doc.seed), tostring(trainer.seed)), 0) end
  for k, v in pairs(id and type(doc.adapter) == "table" and id.form or {}) do
    if doc.adapter[k] ~= v then error(("%s is of an adapter with %s %s, this one has %s"):format(path, k, shown(doc.adapter[k]), shown(v)), 0) end
  end
  warn_of_changes(trainer, doc, folder)
  trainer.optimizer:load(folder .. "/" .. doc.folder .. "/optimizer.safetensors")
  trainer.steps, trainer.num_tokens = steps, count(doc, "num_tokens", path)
  if trainer.sequences then trainer.sequences = count(doc, "sequences", path) end
  local run = trainer.o.run
  if run and fs.kind(run.path .. "/checkpoint.json") == "file" and fs.stamp(run.path .. "/checkpoint.json") == fs.stamp(path) then run:go_back(steps) end
end

return checkpoint
