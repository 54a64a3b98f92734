--- experiment.lua: many runs of one function, over a grid or a list of settings, kept in a store, done by worker processes.
---
---   local p = tl.recipe(tl.experiment.options { name = "sweep", lr = ... })       -- adds --store --workers --population --dry_run --hours
---   local rows = tl.experiment.run(p, {
---     runs = tl.experiment.grid { u = { 1, 4, 13 }, lr = { 1e-2, 3e-2 }, seed = { 1, 2, 3 } },
---     run  = function(s, job) ... return { accuracy = ... } end,                  -- one run: settings in, metrics out
---     cost = function(s) return 4 * s.u end,                                      -- seconds on one thread, for the plan
---   })
---   for _, r in ipairs(tl.experiment.best(rows, { by = { "u" }, best = "lr", judge = "valid" })) do print(r.u, r.lr, r.mean, r.std) end
---
--- A worker is this program with the same script and arguments: it gets to the same call, and there claims run after run until none
--- is left. So `run` may use everything the script has made before; it is never serialised. Workers die with the process that
--- started them. What is done is in the store and is never done again; a sweep that was killed goes on where it was when the same
--- command is given again. A run that raises an error is `failed`, with the message, and is tried again at the next call.
---
--- Trainings are described instead of done (train and measure for run): then runs that may be members of one population are trained as one.
---
--- Settings are plain values (numbers, texts, true, false). Which run it is goes by a hash of the experiment's name, `version` (raise it when
--- `run` changes its meaning) and the settings. docs/experiments.md goes through all of it; experiment/store.lua has the table.
local F = require "tl.ffi"
local ffi = require "ffi"
local json = require "tl.json"
local log = require "tl.log"
local options = require "tl.options"
local fs = require "tl.fs"
local process = require "tl.process"
local combinations = require "tl.experiment.grid"
local store = require "tl.experiment.store"
local summary = require "tl.experiment.summary"
local training = require "tl.experiment.training"
local C = F.C

local experiment = { best = summary.best, groups = summary.groups, spread = summary.spread, table = summary.table, values = summary.values, where = summary.where }

local ROLE = "TL_EXPERIMENT_WORKER"  -- in a worker's environment: "NAME CALL PARENT-PID UNTIL THREADS MOST"
local calls = {}  -- how often each experiment was run by this script: a worker works at the call that started it

--- Opens a store to ask it: tl.experiment.open("runs/sweep.db"):runs { status = "done" }; see `? tl.experiment.open` and Store:query.
---@param path string
function experiment.open(path)
  if fs.kind(fs.path("experiment.open", path)) ~= "file" then error(path .. ": there is no such store", 2) end
  local st = store.open(path, { readonly = true })
  local ok, why = pcall(st.query, st, "select id from runs limit 1")
  if not ok then F.raise(("%s is no store of experiments: %s"):format(path, (tostring(why):gsub("^.*: ", "")))) end
  return st
end

--- A recipe's parameters with those of an experiment after them, where it has not set its own.
---@param spec table as for tl.recipe
function experiment.options(spec)
  local own = {
    store = { nil, "SQLite file of the runs; default runs/NAME.db", type = "string", value = "FILE" },
    workers = { 1, "processes that run at once; 0: in this one", integer = true, min = 0 },
    population = { 8, "trainings that may be members of one population are done so many at once; 1: each by itself", integer = true, min = 1 },
    dry_run = { false, "print the plan with its cost, and run nothing" },
    hours = { 0, "begin no run after so long; 0: no limit. The same command goes on from there", min = 0 } }
  for name, v in pairs(own) do if spec[name] == nil then spec[name] = v end end
  return spec
end

--- Every combination of the values of named axes, as a list of settings; a value that is no table is the same in all of them. Axes
--- vary by their names' order, the last fastest; `seed` slowest. keep: function(settings) -> false to leave one out.
---@param axes table
---@param keep function?
function experiment.grid(axes, keep)
  if type(axes) ~= "table" or keep and type(keep) ~= "function" then
    error(("tl.experiment.grid wants a table of axes, and a function that leaves some out; got %s and %s"):format(F.shown(axes), F.shown(keep)), 2)
  end
  for name, values in pairs(axes) do
    if type(name) ~= "string" then error("tl.experiment.grid: every axis needs a name: u = { 1, 13 }", 2) end
    if type(values) == "table" and #values == 0 then error(("tl.experiment.grid: %s has no value, so there is no combination"):format(name), 2) end
  end
  -- seed slowest: what a sweep has done at any moment covers the settings before it repeats them
  local list, out = combinations(axes, "seed"), {}
  for _, s in ipairs(list) do
    if not keep or keep(s) then out[#out + 1] = s end
  end
  return out
end

-- the runs with their hashes; each once
local function identified(name, o)
  local list, seen = {}, {}
  if type(o.runs) ~= "table" then error("tl.experiment.run wants runs, a list of settings; got " .. F.shown(o.runs), 3) end
  for i, s in ipairs(o.runs) do
    if type(s) ~= "table" then error(("%s, run %d: settings are a table; got %s"):format(name, i, F.shown(s)), 3) end
    for k, v in pairs(s) do
      if type(k) ~= "string" or type(v) == "table" or type(v) == "function" or type(v) == "userdata" then
        error(("%s, run %d: setting %s is a %s; numbers, texts, true and false are wanted"):format(name, i, tostring(k), type(v)), 3)
      end
      if type(v) == "number" and v - v ~= 0 then error(("%s, run %d: setting %s is %s; a finite number is wanted"):format(name, i, k, tostring(v)), 3) end
      if store.COLUMNS[k] then error(("%s, run %d: the setting '%s' has the name of a column of the store; another name is wanted"):format(name, i, k), 3) end
    end
    local hash = store.hash(name, o.version, s)
    if not seen[hash] then list[#list + 1], seen[hash] = { hash = hash, settings = s }, true end
  end
  return list
end

local function code_version()
  local v = require("tl.report").versions()
  return v.tlrun .. (v.commit and " " .. v.commit:sub(1, 12) or "")
end

local function words(settings)
  local names, parts = {}, {}
  for k in pairs(settings) do names[#names + 1] = k end
  table.sort(names)
  for i, k in ipairs(names) do parts[i] = ("%s=%s"):format(k, type(settings[k]) == "number" and ("%.6g"):format(settings[k]) or tostring(settings[k])) end
  return table.concat(parts, " ")
end

-- ---- the plan

-- seconds a run will take: o.cost, scaled by what done runs took; without it what done runs took on average; nil: unknown
local function predictor(rows, o)
  local measured, predicted, n = 0, 0, 0
  for _, r in ipairs(rows) do
    if r.status == "done" and r.seconds then
      measured, n = measured + r.seconds, n + 1
      if o.cost then predicted = predicted + o.cost(r.settings) end
    end
  end
  if o.cost then
    local scale = predicted > 0 and measured / predicted or 1
    return function(s) return scale * o.cost(s) end, n
  end
  return function() return n > 0 and measured / n or nil end, n
end

local function plan(name, st, o, workers)
  local rows = st:standing()
  local predict, n = predictor(rows, o)
  local left, unknown, old, code = 0, false, 0, code_version()
  for _, r in ipairs(rows) do
    local seconds = r.status ~= "done" and predict(r.settings) or nil
    if r.status ~= "done" then left, unknown = left + (seconds or 0), unknown or not seconds end
    if r.status == "done" and r.code ~= code then old = old + 1 end
    local takes = seconds and log.duration(seconds) or r.status ~= "done" and "?" or ("took %s"):format(log.duration(r.seconds or 0))
    io.stdout:write(("%-8s %-14s %s\n"):format(r.status, takes, words(r.settings)))
  end
  local c = st:counts()
  io.stdout:write(("%s: %d runs, %d done, %d to do; %s of work%s, %s with %d worker%s%s\n"):format(name, #rows, c.done, #rows - c.done,
    unknown and "unknown seconds" or log.duration(left), n > 0 and (" (by %d done runs)"):format(n) or o.cost and " (estimated)" or "",
    unknown and "?" or log.duration(left / math.max(1, workers)), math.max(1, workers), workers == 1 and "" or "s",
    old > 0 and ("; %d of the done runs are of another version of the program"):format(old) or ""))
end

-- ---- a worker

local function role()
  local name, call, parent, till, threads, most = (os.getenv(ROLE) or ""):match "^(%S+) (%d+) (%d+) (%d+) (%d+) (%d+)$"
  return name and { name = name, call = tonumber(call), parent = tonumber(parent), till = tonumber(till), threads = tonumber(threads), most = tonumber(most) }
end

local function job_of(st, row)
  return { id = row.id, attempt = row.attempts, folder = ("%s-runs/%s%s"):format(st.path:gsub("%.db$", ""), row.hash:sub(1, 12), row.attempts > 1 and "-" .. row.attempts or "") }
end

-- the metrics of one row, or an error: they must be a table, and none may hide a setting
local function checked(row, metrics)
  if type(metrics) ~= "table" then error(("run returned a %s; a table of metrics is wanted"):format(type(metrics)), 0) end
  for k in pairs(metrics) do
    if row.settings[k] ~= nil then error(("the metric '%s' has the name of a setting; a row has one value of a name"):format(k), 0) end
    if store.COLUMNS[k] then error(("the metric '%s' has the name of a column of the store, which would hide it"):format(k), 0) end
  end
  json.encode(metrics)  -- raises here, where the run fails, for what has no JSON form
  return metrics
end

-- pcall, but an interrupt ends the sweep, not the run
local function attempt(fn, ...)
  local ok, result = pcall(fn, ...)
  if C.tl_interrupted() then error("interrupted", 0) end
  return ok, result
end

-- Records what make() gives as a claimed run's metrics, or why there are none. seconds: what it has taken so far
local function settle(st, owner, row, job, seconds, make)
  local began = C.tl_seconds()
  local ok, result = attempt(function() return checked(row, make()) end)
  if not ok then return st:failed(row, owner, tostring(result)) end
  st:done(row, owner, result, seconds + C.tl_seconds() - began, fs.kind(job.folder) == "folder" and job.folder or nil)
end

-- several claimed rows at once; when that fails they are tried again, each by itself
local function do_together(st, o, owner, rows, jobs)
  local settings, began = {}, C.tl_seconds()
  for i, row in ipairs(rows) do settings[i] = row.settings end
  local ok, out = attempt(o.run_together, settings, jobs)
  if not ok then
    log.warn("%d runs at once failed, each is tried by itself: %s", #rows, tostring(out))
    st:lost(owner, tostring(out))
    return
  end
  local seconds = (C.tl_seconds() - began) / #rows
  for i, row in ipairs(rows) do
    settle(st, owner, row, jobs[i], seconds, function()
      if type(out[i]) == "function" then return out[i]() end
      return out[i]
    end)
  end
end

-- hash -> the family of a run that is not done yet
local function families(st, o)
  local of = {}
  for _, row in ipairs(o.run_together and st:wanted() or {}) do
    local ok, family = pcall(o.together, row.settings)
    of[row.hash] = ok and family or nil  -- settings that are wrong are told when their run is done
  end
  return of
end

-- Claims and runs until nothing is left or the time is over. most: how many at once at most; sweep: the process that started this one
local function work(st, o, till, most, sweep)
  local owner, code, family = store.owner(nil, sweep), code_version(), families(st, o)
  while till == 0 or os.time() < till do
    local rows, jobs = st:claim(owner, code, function(row) return family[row.hash] end, most), {}
    if #rows == 0 then return end
    for i, row in ipairs(rows) do jobs[i] = job_of(st, row) end
    if #rows > 1 then do_together(st, o, owner, rows, jobs)
    else settle(st, owner, rows[1], jobs[1], 0, function() return o.run(rows[1].settings, jobs[1]) end) end
    collectgarbage()
  end
end

-- ---- the process that starts workers

local function script_argv()
  local a = rawget(_G, "arg")
  if not a or not a[0] or a[0] == "-e" or a[0] == "-" then return nil end
  local argv = { F.exe, a[0] }
  for _, word in ipairs(a) do argv[#argv + 1] = word end
  return argv
end

local function c_strings(list)
  local out = ffi.new("const char *[?]", #list + 1)
  for i, s in ipairs(list) do out[i - 1] = s end
  return out
end

-- k: which of the workers; each has a log of its own, which one that takes its place goes on writing
local function start(argv, name, k, till, threads, most, logs)
  local me, pid = process.pid(), ffi.new "int64_t[1]"
  local env = { ("%s=%s %d %d %d %d %d"):format(ROLE, name, calls[name], me, till, threads, most), "OMP_NUM_THREADS=" .. threads, "TL_DEVICE_SLOT=" .. k - 1 }
  local child = { k = k, log = ("%s-worker-%d.log"):format(logs, k) }
  child.log_from = fs.bytes(child.log) or 0
  F.check(C.tl_child_start(c_strings(argv), c_strings(env), child.log, pid))
  child.pid, child.owner = tonumber(pid[0]), store.owner(tonumber(pid[0]), me)
  return child
end

-- the last line that a worker has written
local function last_line(child)
  local last
  local f = io.open(child.log, "r")
  if not f then return "" end
  f:seek("set", child.log_from)
  for line in f:lines() do if line:find "%S" then last = line end end
  f:close()
  return last or ""
end

local function progress(name, st, began, done_before, final)
  local c = st:counts()
  local total, fresh = c.pending + c.running + c.done + c.failed, c.done - done_before
  local left = fresh > 0 and not final and (", %s left"):format(log.duration((C.tl_seconds() - began) / fresh * (c.pending + c.running))) or ""
  log.info("%s: %d of %d runs done%s%s", name, c.done, total, c.failed > 0 and (", %d failed"):format(c.failed) or "", left)
end

-- Looks after the workers until all have ended. One that ended badly in the middle of a run has failed that run, and is replaced;
-- one that ended badly before it began any is not.
local function supervise(name, st, children, restart)
  local began, done_before, shown, seen = C.tl_seconds(), st:counts().done, C.tl_seconds(), -1
  local code, sig = ffi.new "int[1]", ffi.new "int[1]"
  while #children > 0 do
    for i = #children, 1, -1 do
      local child = children[i]
      if C.tl_child_poll(child.pid, code, sig) then
        table.remove(children, i)
        if code[0] ~= 0 then
          local why = sig[0] ~= 0 and ("the worker was ended by signal %d"):format(sig[0])
            or ("the worker ended with code %d: %s"):format(code[0], last_line(child))
          if st:lost(child.owner, why) > 0 then children[#children + 1] = restart(child.k)
          else error(("%s: %s (%s)"):format(name, why, child.log), 0) end
        end
      end
    end
    local now = C.tl_seconds()
    if now - shown > 2 then
      local c = st:counts()
      if c.done + c.failed ~= seen then progress(name, st, began, done_before) end
      shown, seen = now, c.done + c.failed
    end
    if #children > 0 then C.tl_sleep(0.02) end
  end
  progress(name, st, began, done_before, true)
end

local function run_workers(name, st, workers, till, most)
  local argv, children = script_argv(), {}
  local threads, c = math.max(1, math.floor(C.tl_threads() / workers)), st:counts()
  most = math.min(most, math.ceil((c.pending + c.running) / workers))  -- what is done together leaves something for every worker
  local function one(k) return start(argv, name, k, till, threads, most, (st.path:gsub("%.db$", ""))) end
  local ok, why = pcall(function()
    for k = 1, workers do children[k] = one(k) end
    supervise(name, st, children, one)
  end)
  if ok then return end
  for _, child in ipairs(children) do C.tl_child_kill(child.pid) end
  error(why, 0)
end

local function tell_failures(st)
  for _, r in ipairs(summary.where(st:wanted(), { status = "failed" })) do log.warn("failed: %s: %s", words(r.settings), r.error or "") end
end

local OPTIONS = options.names { any = "name runs run train measure together run_together cost version", count = "population" }

--- Runs an experiment: everything in o.runs that the store does not have as done. p: the recipe's parameters (or a table with store,
--- workers, dry_run, hours, name). o:
---   name     the experiment's (p.name); without blanks
---   runs     a list of settings (tl.experiment.grid)
---   run      function(settings, job) -> table of metrics; job: {id, attempt, folder}: a folder of its own, that the run may make
---   train, measure   instead of run, for runs that are trainings: train(settings) describes one, as options of a trainer and adapter, steps, batches
---            (experiment/training.lua), measure(settings, {model, adapter, steps}, job) -> metrics. Runs that may be members of one population are
---            trained together, up to `population` at once (p's or this option, 8; 1: each by itself); what they end with is the same
---   together, run_together   the same for runs that are no trainings: those whose together(settings) is equal and not nil are done at once by
---            run_together(list of settings, list of jobs) -> list of metrics, or of functions that give them, which are called in turn
---   cost     function(settings) -> seconds, for the plan
---   version  part of every run's hash ("")
--- Returns the runs that are done, in the order of o.runs, with settings and metrics as fields (and with dry_run nil, after printing
--- the plan), and how many are not.
---@return table[]? rows, integer missing
function experiment.run(p, o)
  if require("tl.comm").size > 1 then error("an experiment starts its own workers: start it without mpirun", 2) end
  options.only("experiment.run", o, OPTIONS)
  if type(p) ~= "table" then error("tl.experiment.run wants the recipe's parameters, or a table with store, workers, hours; got " .. F.shown(p), 2) end
  for _, k in ipairs { "workers", "population", "hours" } do
    local v = rawget(p, k)
    if v ~= nil and not (type(v) == "number" and v >= 0) then error(("tl.experiment.run: %s wants a number from 0; got %s"):format(k, F.shown(v)), 2) end
  end
  for _, k in ipairs { "run", "train", "measure", "together", "run_together", "cost" } do
    if o[k] ~= nil and type(o[k]) ~= "function" then error(("tl.experiment.run: %s is a function; got %s"):format(k, F.shown(o[k])), 2) end
  end
  if not o.run == not o.train or not o.train ~= not o.measure then error("tl.experiment.run wants run, or train and measure", 2) end
  if o.train then o = training.expand(o) end
  local name = o.name or rawget(p, "name") or "experiment"
  if name:find "%s" then error(("an experiment's name has no blanks; got '%s'"):format(name), 2) end
  local me, path = role(), rawget(p, "store") or ("runs/%s.db"):format(name)
  local workers, hours, most = rawget(p, "workers") or 1, rawget(p, "hours") or 0, rawget(p, "population") or o.population or 8
  if not script_argv() then workers = 0 end
  calls[name] = (calls[name] or 0) + 1
  local st = store.open(path)
  st:want(name, identified(name, o), not me and not rawget(p, "dry_run"))
  if me then
    if me.name == name and me.call == calls[name] then
      C.tl_child_of(me.parent)
      C.tl_set_threads(me.threads)
      work(st, o, me.till, me.most, me.parent)
      st:close()
      os.exit(0, true)
    end
  elseif rawget(p, "dry_run") then
    plan(name, st, o, workers)
    st:close()
    return nil, 0
  else
    local c, till = st:counts(), hours > 0 and math.floor(os.time() + 3600 * hours) or 0
    if c.pending + c.running > 0 then
      local ok, why = pcall(function()
        if workers == 0 then work(st, o, till, most) else run_workers(name, st, math.min(workers, c.pending + c.running), till, most) end
      end)
      st:rest()
      if not ok then error(why, 0) end
      tell_failures(st)
    end
  end
  local all = st:wanted()
  local rows = summary.where(all, { status = "done" })
  st:close()
  return rows, #all - #rows
end

return experiment
