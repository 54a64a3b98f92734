--- step.lua: a training step that does not come to its end (Ctrl-C, a verifier whose error ends the run) leaves its trainer as it was before, or, once
--- an update has been made, as it is after the step. What it had taken is given back at once: the sampler with its completions, the pass, the
--- batch. Verdicts that are still to come belong to no step, and are dropped by whoever takes them.
---
--- A Ctrl-C may also strike here, between the step and what puts it right; then the next step does it first.
local step = {}

local current  -- the record of the step that is being made

-- a trainer's counts that a step raises
local COUNTS = { "steps", "sequences", "num_tokens" }

local function put_right(record)
  for i = #record.owned, 1, -1 do record.owned[i]:free() end
  for t, counts in pairs(record.updated and {} or record.before) do
    for _, name in ipairs(COUNTS) do t[name] = counts[name] end
  end
  while record.pool and record.pool:take(0) do end
  record.first.unfinished, current = nil, record.outer
end

local function traced(e)
  return type(e) == "string" and (os.getenv "TL_TRACE" or "") ~= "" and debug.traceback(e, 2) or e
end

local function finish(record, ok, ...)
  if not ok then
    put_right(record)
    error((...), 0)
  end
  record.first.unfinished, current = nil, record.outer
  return ...
end

--- Runs fn(trainer, ...), a step of a trainer, or of a population and its members, and returns what it returns.
---@param trainer table with pool, where it has one
---@param members table[]|nil
---@param fn function
function step.run(trainer, members, fn, ...)
  if trainer.unfinished then put_right(trainer.unfinished) end
  local record = { first = trainer, pool = trainer.pool, owned = {}, before = {}, outer = current }
  local function note(t)
    record.before[t] = {}
    for _, name in ipairs(COUNTS) do record.before[t][name] = t[name] end
  end
  note(trainer)
  for _, t in ipairs(members or {}) do note(t) end
  trainer.unfinished, current = record, record
  return finish(record, xpcall(fn, traced, trainer, ...))
end

--- Says that a thing with a method `free`, which may be called twice, is this step's; returns it. Outside of a step nothing happens.
function step.own(x)
  if current then current.owned[#current.owned + 1] = x end
  return x
end

--- Says that from here on numbers change: the step counts.
function step.updating()
  if current then current.updated = true end
end

--- Waits until a pool has nothing left of an earlier step: for who wants it idle.
function step.idle(pool)
  while pool:pending() > 0 do pool:take(1000) end
end

return step
