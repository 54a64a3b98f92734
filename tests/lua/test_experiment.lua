-- Grids, hashes, summaries and the store's queries; SQLite's values there and back. (Sweeps with processes: test_experiment.py.)
package.path = arg[0]:match "^(.*)/" .. "/?.lua;" .. package.path
local check = require "check"
local tl = require "tl"
local sqlite, store = require "tl.sqlite", require "tl.experiment.store"
local E = tl.experiment

local function temporary()
  local path = os.tmpname()
  os.remove(path)
  return path .. ".db"
end

-- a lost byte, a number turned into text, a statement beyond the first left out
check.test("sqlite: values there and back", function()
  local db = sqlite.open(temporary())
  db:exec "create table t (v); create table u (v)"
  local values = { 1, -3, 0.1, 2 ^ 52, "", "a\0b'\"", true, nil }
  for i = 1, 8 do db:run("insert into t values (?)", values[i]) end
  local rows, names = db:rows "select v, typeof(v) as kind from t order by rowid"
  check.equal(names, { "v", "kind" })
  local found = {}
  for i = 1, 8 do found[i] = (type(rows[i].v) == "number" and ("%.17g"):format(rows[i].v) or tostring(rows[i].v)) .. ":" .. rows[i].kind end
  check.equal(found, { "1:integer", "-3:integer", "0.10000000000000001:real", "4503599627370496:integer", ":text", "a\0b'\":text", "1:integer", "nil:null" })
  check.equal(db:run("update t set v = 5 where v = ?", 1), 2)
  check.raises("no such table: nowhere", db.rows, db, "select * from nowhere")
  check.raises("1 places for values, 2 given", db.rows, db, "select ?", 1, 2)
  check.raises("value 1 is a table", db.rows, db, "select ?", {})
  pcall(db.transaction, db, function() db:run("delete from t"); error "stop" end)
  check.equal(db:row("select count(*) as n from t").n, 8, "a transaction that fails is undone")
  db:exec "pragma foreign_keys = on; create table p (id integer primary key); create table c (p references p deferrable initially deferred)"
  check.raises("FOREIGN KEY constraint failed", db.transaction, db, function() db:run "insert into c values (1)" end)
  check.equal(db:transaction(function() return db:row("select count(*) as n from c").n end), 0, "a commit that fails is undone, and the next transaction can begin")
  db:close()
end)

check.test("grid: every combination once, seeds slowest", function()
  local list = E.grid({ seed = { 1, 2 }, u = { 1, 4 }, method = "tinylora" }, function(s) return not (s.seed == 2 and s.u == 4) end)
  local text = {}
  for i, s in ipairs(list) do text[i] = s.seed .. s.method .. s.u end
  check.equal(text, { "1tinylora1", "1tinylora4", "2tinylora1" })
end)

-- the hash must not depend on the order in which a table was filled, and must on everything else
check.test("a run's hash", function()
  local a = store.hash("e", nil, { u = 1, lr = 0.01 })
  local s = { lr = 0.01 }
  s.u = 1
  check.equal(store.hash("e", nil, s), a)
  for _, other in ipairs { store.hash("f", nil, s), store.hash("e", "2", s), store.hash("e", nil, { u = 1, lr = 0.02 }), store.hash("e", nil, { u = "1", lr = 0.01 }) } do
    check.equal(other == a, false)
  end
end)

-- the choice of lr goes by `valid`, the figures by `accuracy`: choosing by accuracy itself would take lr 2 here
check.test("best: the choice by one metric, the figures of another", function()
  local rows = {}
  for seed = 1, 2 do
    rows[#rows + 1] = { u = 1, lr = 1, seed = seed, valid = 0.8, accuracy = 0.5 + 0.1 * seed }
    rows[#rows + 1] = { u = 1, lr = 2, seed = seed, valid = 0.7, accuracy = 0.9 }
  end
  rows[#rows + 1] = { u = 4, lr = 2, seed = 1, valid = 0.1, accuracy = 0.3 }
  local b = E.best(rows, { by = { "u" }, best = "lr", judge = "valid" })
  check.equal({ b[1].u, b[1].lr, b[1].n, b[1].tried, b[2].u, b[2].n, b[2].std }, { 1, 1, 2, 2, 4, 1, 0 })
  check.near(b[1].mean, 0.65, 1e-12)
  check.near(b[1].std, 0.1 / math.sqrt(2), 1e-12, "n - 1")
  check.equal(E.table(b, { "u", "lr", "n" }), "u  lr  n\n1  1   2\n4  2   1")
end)

check.test("a store is asked from Lua", function()
  local path = temporary()
  local rows, missing = E.run({ store = path, workers = 0, name = "q" }, { runs = E.grid { u = { 1, 2, 3, 4, 5 } }, run = function(s)
    if s.u == 3 then error("broken", 0) end
    return s.u == 4 and { u = 99 } or s.u == 5 and { f = print } or { accuracy = s.u / 10 }
  end })
  check.equal({ #rows, missing, rows[2].u, rows[2].metrics.accuracy, rows[2].accuracy }, { 2, 3, 2, 0.2, 0.2 })
  local s = E.open(path)
  check.equal(#s:runs { status = "done", u = { 2, 3 } }, 1)
  local failed = s:runs { status = "failed" }
  check.equal(failed[1].error, "broken")
  check.equal(failed[2].error:find "the metric 'u' has the name of a setting" ~= nil, true, "a metric that hides a setting")
  check.equal(failed[3].error:find "has no JSON form" ~= nil, true, "a metric that is no value")
  check.equal(s:query("select max(json_extract(metrics, '$.accuracy')) as top from runs where experiment = ?", "q")[1].top, 0.2)
  check.equal(tostring(s), ("store %s; q: 5 runs, 2 done, 3 failed"):format(path))
  check.raises("readonly", s.query, s, "delete from runs")
  check.raises("there is no such store", E.open, path .. "x")
end)

-- runs that may be done together are, in their order and no more than `most` at once; each gets its own metrics
check.test("runs of one family are done together", function()
  local calls = {}
  local rows = E.run({ store = temporary(), workers = 0, name = "f" }, { runs = E.grid { kind = { "a", "b" }, x = { 1, 2, 3 } }, population = 2,
    together = function(s) return s.kind == "a" and "family a" or nil end,
    run = function(s) calls[#calls + 1] = s.kind .. s.x return { y = s.x } end,
    run_together = function(list, jobs)
      local text, out = "", {}
      for i, s in ipairs(list) do text, out[i] = text .. s.kind .. s.x, { y = 10 * s.x } end
      check.equal({ #jobs, jobs[1].folder ~= jobs[2].folder }, { #list, true })
      calls[#calls + 1] = text
      return out
    end })
  check.equal(calls, { "a1a2", "a3", "b1", "b2", "b3" })
  check.equal({ rows[1].y, rows[2].y, rows[3].y, rows[4].y }, { 10, 20, 3, 1 })
end)

-- one that breaks is told by its own error, and takes none of the others with it
check.test("a run that breaks among others fails alone", function()
  local path = temporary()
  local function sweep(breaks)
    local calls = {}
    local rows, missing = E.run({ store = path, workers = 0, name = "b", population = 4 }, { runs = E.grid { x = { 1, 2, 3, 4 } }, together = function() return "all" end,
      run = function(s)
        calls[#calls + 1] = s.x
        return s.x == breaks and error("one is broken", 0) or { y = s.x }
      end,
      run_together = function(list)
        local out = {}
        for i, s in ipairs(list) do
          calls[#calls + 1] = -s.x
          if s.x == breaks then error("all are broken", 0) end
          out[i] = function() return s.x == 4 and breaks and error("no measure", 0) or { y = s.x } end
        end
        return out
      end })
    return calls, #rows, missing
  end
  check.equal({ sweep(3) }, { { -1, -2, -3, 1, 2, 3, 4 }, 3, 1 })
  check.equal(E.open(path):runs { status = "failed" }[1].error, "one is broken")
  check.equal({ sweep() }, { { 3 }, 4, 0 })
  path = temporary()
  check.equal({ sweep(0) }, { { -1, -2, -3, -4 }, 3, 1 }, "what was measured before is kept")
  check.equal(E.open(path):runs { status = "failed" }[1].error, "no measure")
end)

-- a seed, rate or tying mixed up between members, a run that cannot be a member taken for one, a family that is split or joined wrongly
check.test("trainings: members of a population end as each by itself", function()
  local model = tl.model.load "tiny"
  local problems = tl.data.load("wordproblems", { n = 8, seed = 5, split = "train", min_ops = 2, max_ops = 2 })
  local sizes, real = {}, tl.population.grpo
  local runs = E.grid { lr = { 3e-2, 1e-1 }, u = { 2, 13 }, kind = "tinylora" }
  for _, s in ipairs { { kind = "lora", lr = 1e-2 }, { kind = "none" }, { kind = "loraxs", lr = 3e-2 }, { kind = "tinylora", u = 2, lr = 3e-2, temperature = 0.7 }, { kind = "tinylora", u = 13, lr = 1e-2, steps = 1 } } do runs[#runs + 1] = s end
  local function sweep(n)
    sizes = {}
    local store = temporary()
    local rows, missing = E.run({ store = store, workers = 0, population = n }, { name = "t", runs = runs,
      train = function(s)
        if s.kind == "none" then return { model = model } end
        return { model = "tiny", adapter = { kind = s.kind, rank = 2, u = s.u, tie = s.u == 2 and "structured" or "full" }, lr = s.lr, seed = s.u or 1, temperature = s.temperature,
          verifier = "verifiers.math", num_generations = 8, max_completion_length = 32, gate = false, steps = s.steps or 2,
          batches = function() return problems:batches { size = 2, epochs = 9, seed = s.u or 1 } end }
      end,
      measure = function(s, t)
        local numbers = {}
        for i, v in ipairs(t.adapter and t.adapter:parameters() or {}) do if i <= 13 then numbers[i] = ("%.17g"):format(v) end end
        return { numbers = table.concat(numbers, " "), n = #t.steps, last = t.steps[#t.steps] and t.steps[#t.steps].reward }
      end })
    check.equal(missing, 0, rows[1] and "" or "none is done; ")
    local out = {}
    for i, r in ipairs(rows) do
      out[i] = r.metrics
      check.equal(r.folder ~= nil and tl.fs.kind(r.folder .. "/adapter.tla"), r.kind ~= "none" and "file", "the run's folder")
    end
    return out
  end
  tl.population.grpo = function(o)
    sizes[#sizes + 1] = #o.members
    return real(o)
  end
  local ok, why = pcall(function()
    local alone = sweep(1)
    check.equal(sizes, {})
    check.equal(sweep(8), alone)
    check.equal(sizes, { 5 }, "four and the LoRA-XS; not LoRA, another temperature, another number of steps")
    check.equal(sweep(3), alone)
    check.equal(sizes, { 3, 2 })
    check.equal(alone[1].numbers ~= alone[2].numbers and alone[1].numbers:find "[1-9]" ~= nil, true, "their agreement says something")
  end)
  tl.population.grpo = real
  if not ok then error(why, 0) end
end)

-- would catch: a sweep that forgets, when it runs out of hours, what earlier runs failed with
check.test("a failed run that a later sweep does not come to stays failed, with its message", function()
  local path = temporary()
  local function sweep(p, o)
    p.store, p.workers, o.name, o.runs = path, 0, "f", E.grid { x = { 1, 2 } }
    return E.run(p, o)
  end
  local function status() return E.table(E.open(path):query "select status, error, attempts from runs order by id", { "status", "error", "attempts" }) end
  local function broken(s) error("broken " .. s.x, 0) end
  sweep({}, { run = broken })
  local before = status()
  check.equal(before:find "failed +broken 1 +1" ~= nil and before:find "failed +broken 2 +1" ~= nil, true, before)
  sweep({ hours = 1e-9 }, { run = broken })  -- no time: nothing is begun
  check.equal(status(), before)
  local st = store.open(path)  -- killed before its end: pending, and the message is there
  st:want("f", { { hash = store.hash("f", nil, { x = 1 }), settings = { x = 1 } } }, true)
  st:close()
  check.equal(status():find "pending +broken 1" ~= nil, true, status())
  local families = 0
  sweep({}, { run = broken, together = function() return "all" end, run_together = function(list) families = families + #list; return { { a = 1 }, { a = 2 } } end })
  check.equal(families, 2, "runs that failed each by itself may be done together again")
  check.equal(#E.open(path):runs { status = "done" }, 2)
  -- another experiment's failures, or another version's, are not this one's to tell
  local log, said = require "tl.log", {}
  local warn = log.warn
  log.warn = function(...) said[#said + 1] = string.format(...) end
  local ok, why = pcall(function()
    sweep({}, { run = broken, version = "2" })
    sweep({}, { run = function() return { a = 1 } end, version = "3" })
  end)
  log.warn = warn
  check.equal({ ok, why }, { true })
  check.equal(said, { "failed: x=1: broken 1", "failed: x=2: broken 2" })
end)

-- would catch: runs lost between the pages in which the store is read
check.test("many runs are claimed in their order, and together over every page", function()
  local sizes, order = {}, {}
  local rows = E.run({ store = temporary(), workers = 0, population = 100 }, { name = "m", runs = E.grid { x = (function() local t = {} for i = 1, 300 do t[i] = i end return t end)() },
    run = function(s) order[#order + 1] = s.x return { a = s.x } end, together = function(s) return s.x % 2 == 0 and "even" or nil end,
    run_together = function(list)
      sizes[#sizes + 1] = #list
      local out = {}
      for i, s in ipairs(list) do out[i] = { a = s.x } end
      return out
    end })
  check.equal({ #rows, #order, sizes }, { 300, 150, { 100, 50 } })
  for i, x in ipairs(order) do check.equal(x, 2 * i - 1) end
end)

check.test("what would be passed over in silence is refused", function()
  check.raises("experiment%.open wants a path; got nothing", E.open)
  check.raises("grid: lr has no value, so there is no combination", E.grid, { u = { 1 }, lr = {} })
  check.raises("grid wants a table of axes, .*; got 5 and nothing", E.grid, 5)
  check.raises("table wants a list of fields' names; got 'u'", E.table, { { u = 1 } }, "u")
  check.raises("where wants fields with their values, .*; got nothing", E.where, { { u = 1 } })
  check.raises("/etc/passwd is no store of experiments: file is not a database", E.open, "/etc/passwd")
  local function run(o, p) return E.run(p or { store = temporary(), workers = 0 }, o) end
  local one = { { x = 1 } }
  check.raises("experiment%.run: there is no option 'verson'; did you mean 'version'%?", run, { runs = one, run = print, verson = 2 })
  check.raises("the setting 'seconds' has the name of a column of the store", run, { runs = { { seconds = 1 } }, run = print })
  check.raises("wants runs, a list of settings; got 'x'", run, { runs = "x", run = print })
  check.raises("run 1: settings are a table; got 5", run, { runs = { 5 }, run = print })
  check.raises("run 1: setting x is %-?nan; a finite number is wanted", run, { runs = { { x = 0 / 0 } }, run = print })
  check.raises("wants run, or train and measure", run, { runs = one, train = print })
  check.raises("run is a function; got 5", run, { runs = one, run = 5 })
  local log, said = require "tl.log", {}
  local warn = log.warn
  log.warn = function(...) said[#said + 1] = string.format(...):gsub("^failed: x=1: ", "") end
  local good = { model = "tiny", adapter = { u = 1 }, steps = 1, batches = print }
  for _, wrong in ipairs { { "method", "dpo" }, { "steps", 1.5 }, { "batches", 5 }, { "after", 5 }, { "numgen", 4 } } do
    local d = {}
    for k, v in pairs(good) do d[k] = v end
    d[wrong[1]] = wrong[2]
    run({ runs = one, train = function() return d end, measure = print })
  end
  log.warn = warn
  check.equal({ said[1], said[2], said[3], said[4] }, { 'method is "grpo" or "sft"; got \'dpo\'', "steps is a whole number from 0; got 1.5", "batches is a function; got 5", "after is a function; got 5" })
  check.equal(said[5]:find "^[^\n]*test_experiment%.lua:%d+: grpo%.trainer: there is no option 'numgen'" ~= nil, true, said[5])
  check.raises("workers wants a number from 0; got '2'", run, { runs = one, run = print }, { workers = "2" })
  check.raises("wants the recipe's parameters, .*; got nothing", E.run, nil, { runs = one, run = print })
  local path = temporary()
  run({ runs = one, run = function() return { seconds = 5 } end }, { store = path, workers = 0 })
  check.equal(E.open(path):runs()[1].error, "the metric 'seconds' has the name of a column of the store, which would hide it")
  check.raises("experiment%.best wants by, a list of fields' names; got 'u'", E.best, one, { by = "u" })
  check.raises("experiment%.best: there is no option 'metric'", E.best, one, { by = { "x" }, metric = "a" })
end)

check.test("what is to be done is said in one way", function()
  check.raises("wants run, or train and measure", E.run, { store = temporary(), workers = 0 }, { runs = {} })
  check.raises("wants run, or train and measure", E.run, { store = temporary(), workers = 0 }, { runs = {}, run = print, train = print })
  local rows = E.run({ store = temporary(), workers = 0 }, { runs = { { u = 1 } }, measure = function() return {} end,
    train = function() return { model = "tiny", adapter = {}, lr = 1, verifier = "verifiers.math", steps = 2, batches = function() return function() end end } end })
  check.equal(#rows, 0, "too few batches")
end)

check.test("settings that are no plain values are refused", function()
  check.raises("run 1: setting u is a table", E.run, { store = temporary(), workers = 0 }, { runs = { { u = {} } }, run = function() end })
end)

-- a process is told from another one that has its number by now
check.test("owners that are alive, and those that are not", function()
  local me = store.owner()
  check.equal(store.alive(me), true)
  check.equal(store.alive((me:gsub(" (%d+) %d+ (%d+) %d+$", " %1 1 %2 1"))), false)
  check.equal(store.alive((me:gsub(" %d+ (%d+) %d+ ", " 999999999 %1 999999999 "))), false)
  check.equal(store.alive((me:gsub(" %d+ %d+ ", " 999999999 1 ", 1))), true, "a dead worker of a living sweep is the sweep's")
end)

check.done()
