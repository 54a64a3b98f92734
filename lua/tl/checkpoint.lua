--- checkpoint.lua: a training run's state in its folder, and going on from it.
---
---   RUN/checkpoint-000040/optimizer.safetensors   master copy of the trained numbers, AdamW's moments, its step count
---   RUN/checkpoint.json                           which folder that is, and the trainer's counts
---
--- checkpoint.json is replaced, at once, when the new folder is complete; only then is the folder before it removed. Whenever a run is
--- killed, checkpoint.json names a whole checkpoint. Everything else a step depends on is a function of (seed, step): a run that goes on
--- from a checkpoint gets the bits of one that was never stopped, with as many ranks as it likes.
local F = require "tl.ffi"
local comm = require "tl.comm"
local fs = require "tl.fs"
local json = require "tl.json"
local C, check = F.C, F.check

local checkpoint = {}

--- The parameters of a recipe whose trainer takes them: checkpoint = tl.checkpoint.EVERY, resume = tl.checkpoint.FROM.
checkpoint.EVERY = { 0, "steps from one checkpoint to the next; 0: none", integer = true, min = 0 }
checkpoint.FROM = { nil, "run directory whose last checkpoint this run goes on from", type = "string", value = "DIR" }

local function remove(folder) require("tl.process").run { argv = { "rm", "-rf", "--", folder } } end

--- Writes a checkpoint of a trainer (tl.grpo, tl.sft) into a folder. Rank 0 writes.
function checkpoint.save(trainer, folder)
  if comm.rank > 0 then return end
  local name = ("checkpoint-%06d"):format(trainer.steps)
  fs.mkdirs(folder .. "/" .. name)
  trainer.optimizer:save(folder .. "/" .. name .. "/optimizer.safetensors")
  local before = fs.kind(folder .. "/checkpoint.json") == "file" and json.parse(fs.read(folder .. "/checkpoint.json"))
  local text = json.encode({ folder = name, steps = trainer.steps, sequences = trainer.sequences, num_tokens = trainer.num_tokens, seed = trainer.seed,
    n_parameters = trainer.adapter.n_parameters }, { pretty = true }) .. "\n"
  check(C.tl_write_file(folder .. "/checkpoint.json", text, #text), 2)
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
  if fs.kind(path) ~= "file" then error(("%s has no checkpoint (checkpoint.json): the run wrote none"):format(folder), 0) end
  local doc, why = json.parse(fs.read(path))
  if type(doc) ~= "table" then error(("%s: %s"):format(path, why or "not an object"), 0) end
  local steps = count(doc, "steps", path)
  if type(doc.folder) ~= "string" or not doc.folder:match "^checkpoint%-%d+$" then error(path .. ": folder is no checkpoint's name", 0) end
  if doc.n_parameters ~= trainer.adapter.n_parameters then
    error(("%s is of an adapter with %s numbers, this one has %d"):format(path, tostring(doc.n_parameters), trainer.adapter.n_parameters), 0)
  end
  if trainer.seed and doc.seed ~= trainer.seed then error(("%s is of a run with seed %s, this one has %s"):format(path, tostring(doc.seed), tostring(trainer.seed)), 0) end
  trainer.optimizer:load(folder .. "/" .. doc.folder .. "/optimizer.safetensors")
  trainer.steps, trainer.num_tokens = steps, count(doc, "num_tokens", path)
  if trainer.sequences then trainer.sequences = count(doc, "sequences", path) end
end

return checkpoint
