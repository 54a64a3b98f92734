--- verify.lua: verifiers, functions (problem, completion) -> reward [, info], called in a pool of worker threads under a time limit
--- and a memory limit while sampling goes on.
---
---   problem     the problem's table; problem.answer is the gold
---   completion  { text =, n_tokens =, finish = "stop"|"length" }; of several turns (tl.turns) also turns = and state =
---   reward      a number; true is 1, false is 0; nil abstains
---   info        a table or text for the records (optional)
---
--- A verdict is { job =, reward =, outcome =, message =, seconds = }. outcome is "ok", "abstain", "error", "timeout" or "memory";
--- reward is NaN unless it is "ok"; message is what went wrong (with file and line), or the info as JSON. A verifier that fails is
--- never a silent 0. What reaches a worker is a copy: changing the problem or a global in a verifier changes nothing here.
local F = require "tl.ffi"
local ffi = require "ffi"
local json = require "tl.json"
local options = require "tl.options"
local C, check = F.C, F.check

local verify = {}

-- ---- what a verifier may be given as

-- An error where a file does not compile, with its line; what it does when it runs is told by the worker that loads it.
local function compiles(what, name, file)
  local ok, why = loadfile(file)
  if not ok then F.raise(("%s %s: %s"):format(what, name, why)) end
end

--- The module that a file ("my.lua") is: its name, and package.path of the workers. what: what it is called in errors.
function verify.file_module(what, name)
  local dir, stem = name:match("^(.*)[/\\]([^/\\]+)%.lua$")
  dir, stem = dir or ".", stem or name:match("^(.+)%.lua$")
  if require("tl.fs").kind(name) ~= "file" then F.raise(("%s %s: there is no such file"):format(what, name)) end
  compiles(what, name, name)
  if stem:find("%.") or _G[stem] ~= nil or package.preload[stem] then
    F.raise(("%s file %s: the name '%s' is taken or has a dot; rename the file"):format(what, name, stem))
  end
  return stem, (dir == "" and "/" or dir) .. "/?.lua;" .. package.path
end

-- a name or a file: module name and package.path of the workers
local function find_module(name)
  local path = package.path
  if name:find("%.lua$") then return verify.file_module("verifier", name) end
  if not name:find("%.") and package.searchpath("verifiers." .. name, path) then return "verifiers." .. name, path end
  local file = package.searchpath(name, path)
  if file then compiles("verifier", name, file) end
  if package.loaded[name] == nil and not file then
    local known = {}
    for _, file in ipairs(require("tl.fs").list(F.root .. "/verifiers") or {}) do known[#known + 1] = file:match("^([%w_]+)%.lua$") end
    error(("there is no verifier module '%s'%s"):format(name, require("tl.names").hint(name:gsub("^verifiers%.", ""), known)), 4)
  end
  return name, path
end

-- the bytecode of a function that needs nothing from here but globals and require
local function dump(fn)
  local ups = {}
  for i = 1, debug.getinfo(fn, "u").nups do ups[i] = "'" .. tostring((debug.getupvalue(fn, i))) .. "'" end
  if #ups > 0 then
    error(("the verifier function uses %s from around it, which a worker thread cannot see: define %s inside the function, put the "
      .. "function into a module and give its name, or set inline = true"):format(table.concat(ups, ", "), #ups > 1 and "them" or "it"), 4)
  end
  local ok, code = pcall(string.dump, fn)
  if not ok then error("the verifier is a C function; wrap it in a Lua function", 4) end
  return code
end

-- ---- the pool of threads

local Pool = {}
Pool.__index = Pool

local function encode(value, what)
  if type(value) ~= "table" then error(("a %s is a table; got %s"):format(what, type(value)), 3) end
  local ok, text = pcall(json.encode, value)
  if ok then return text end
  local plain = {} -- without the fields that cannot travel (functions, C data)
  for k, v in pairs(value) do
    if pcall(json.encode, v) then plain[k] = v end
  end
  return json.encode(plain)
end

--- Hands a problem and a completion to the workers.
---@param problem table
---@param completion table { text =, n_tokens =, finish = }
---@return integer job
function Pool:submit(problem, completion)
  -- the completions of a group share their problem: it is encoded once
  if self.last_problem ~= problem then self.last_problem, self.last_json = problem, encode(problem, "problem") end
  local id = ffi.new("int64_t[1]")
  check(C.tl_pool_submit(self:handle(), self.last_json, encode(completion, "completion"), id))
  return tonumber(id[0])
end

--- One verdict, in the order in which they are reached; nil when none comes within wait_ms (0: at once, negative: no limit) or
--- none is pending.
---@param wait_ms integer|nil
function Pool:take(wait_ms)
  local v, got = ffi.new("tl_verdict[1]"), ffi.new("bool[1]")
  check(C.tl_pool_take(self:handle(), F.whole("pool:take", wait_ms or 0, "milliseconds"), v, got))
  if not got[0] then return nil end
  v = v[0]
  return { job = tonumber(v.job), reward = v.reward, outcome = ffi.string(v.outcome), message = ffi.string(v.message), seconds = v.seconds }
end

--- How many jobs are submitted and not yet taken.
function Pool:pending() return C.tl_pool_pending(self:handle()) end

--- Ends the workers; jobs that are not done are dropped.
function Pool:free()
  if self.pool then C.tl_pool_free(ffi.gc(self.pool, nil)) end
  self.pool, self.last_problem = nil, nil
end

--- The pool as C has it; an error when it was freed.
function Pool:handle() return self.pool or F.raise "this verifier pool was freed" end

-- ---- inline: in this Lua state, without limits

local Inline = {}
Inline.__index = Inline

local function place(message)
  if type(message) == "string" and message:find(":%d+:") then return message end
  local at = debug.getinfo(2, "Sl")
  return ("%s:%d: %s"):format(at.short_src, at.currentline, tostring(message))
end

function Inline:submit(problem, completion)
  self.jobs = self.jobs + 1
  local began = C.tl_seconds()
  local ok, reward, info = xpcall(function() return self.fn(problem, completion) end, place)
  if not ok and C.tl_interrupted() then error("interrupted", 0) end  -- Ctrl-C is no mistake of the verifier
  local v = { job = self.jobs, reward = 0 / 0, outcome = "ok", message = "", seconds = 0 }
  if reward == true then reward = 1 elseif reward == false then reward = 0 end
  if not ok then
    v.outcome, v.message = "error", tostring(reward)
  elseif reward == nil then
    v.outcome = "abstain"
  elseif type(reward) ~= "number" or reward ~= reward or math.abs(reward) == math.huge then
    v.outcome, v.message = "error", ("the verifier returned %s; it may return a number, a boolean or nil"):format(tostring(reward))
  else
    v.reward = reward
  end
  if ok and info ~= nil and v.message == "" then
    local fine, text = pcall(json.encode, info)
    v.message = fine and text or "{}"  -- a function among it: no more than in a thread
  end
  v.seconds = C.tl_seconds() - began
  self.last = self.last + 1
  self.done[self.last] = v
  return v.job
end

function Inline:take()
  local v = self.done[self.first]
  if v then self.done[self.first], self.first = nil, self.first + 1 end
  return v
end

function Inline:pending() return self.last - self.first + 1 end
function Inline:free() end

-- the function that a module's value is, as runtime/verify/cell.c chooses it
local function inline_function(value, config, name)
  if type(value) == "table" then
    local make = type(value.make) == "function" and (config or value.verify == nil) and value.make
    if config and not make then error(name .. " takes no config: it has no function `make`", 4) end
    value = make and make(config or {}) or value.verify
  elseif type(value) == "function" and config then
    value = value(config)
  end
  if type(value) ~= "function" then error(name .. " does not give a function(problem, completion)", 4) end
  return value
end

-- ---- public

--- What a verifier is called: "verifiers.math" and "math" are math, "path/my.lua" is my, a function is "reward".
---@param verifier any
---@return string
function verify.name(verifier)
  if type(verifier) ~= "string" then return "reward" end
  local name = verifier:gsub("%.lua$", "")
  return name:match(name ~= verifier and "[^/]+$" or "[^.]+$") or verifier
end

--- What a verifier module says of itself: its table `about` { name, summary, wants = fields of a problem, range = { lowest, highest reward },
--- timeout_ms = what a call may need, nice = how far it gives way to sampling }; an empty table when it says nothing or does not load here.
function verify.about(module, path)
  local before = package.path
  package.path = path or before
  local ok, value = pcall(require, module)
  package.path = before
  return ok and type(value) == "table" and type(value.about) == "table" and value.about or {}
end

--- The name of a verifier that compares with a problem's answer; nil of one that does not, or does not say so (its about.wants).
---@param verifier any as in tl.verify.pool
function verify.wants_answer(verifier)
  if type(verifier) ~= "string" or verifier:find "%.lua$" then return nil end
  local module = not verifier:find "%." and package.searchpath("verifiers." .. verifier, package.path) and "verifiers." .. verifier or verifier
  for _, field in ipairs(verify.about(module).wants or {}) do
    if field == "answer" then return verifier end
  end
end

--- What judges, verifier or reward: a module's name, a file or a function; else an error. what: who wants it.
function verify.given(what, verifier, reward)
  if verifier and reward then error(what .. " wants a verifier or a reward, and got both: they are two names of one option", 3) end
  local given = verifier or reward
  if type(given) == "string" or type(given) == "function" then return given end
  error(("%s wants a verifier or a reward: a module's name, a file or a function; got %s"):format(what, given == nil and "nothing" or type(given) ~= "table" and tostring(given)
    or 'a table. Several are joined by one: verifier = "verifiers.combine", verifier_config = { parts = { { verifier = "verifiers.math" }, ... } }'), 3)
end

--- What becomes of a sample whose verdict is no reward: { error =, timeout =, memory =, abstain = }, each "drop" (left out), "zero" or "fail" (the run
--- ends). given: one of these words for error, timeout and memory, or a table for some of the four; the rest is "drop".
---@param given string|table|nil
function verify.policy(given)
  local out = { error = "drop", timeout = "drop", memory = "drop", abstain = "drop" }
  if type(given) == "string" then given = { error = given, timeout = given, memory = given } end
  if given ~= nil and type(given) ~= "table" then error("on_error is one of drop, fail, zero, or a table of them; got " .. F.shown(given), 3) end
  for outcome, what in pairs(given or {}) do
    if not out[outcome] then error(("on_error is for error, timeout, memory and abstain; got '%s'"):format(tostring(outcome)), 3) end
    if what ~= "drop" and what ~= "zero" and what ~= "fail" then error(("on_error is one of drop, fail, zero; got %s"):format(tostring(what)), 3) end
    out[outcome] = what
  end
  return out
end

local OPTIONS = options.names { any = "verifier", count = "workers timeout_ms nice", bytes = "memory", seed = "instructions", map = "config", boolean = "inline" }

--- A pool of verifiers.
---   verifier    a module name ("verifiers.math", or "math" for one of verifiers/), a file ("my.lua"), or a function
---               (problem, completion) -> reward [, info] that uses nothing from around it but globals and require
---   workers     threads (2)
---   timeout_ms  limit of one call (what the module's `about` says, else 1000)
---   memory      bytes of one worker's Lua state (256 MiB)
---   instructions  of the Lua VM in one call, counted in thousands (no limit); unlike the clock it strikes at the same place every time
---   nice        how far the workers give way to other threads, from 0 to 19 (what the module's `about` says, else 19, only what is left): sampling comes first. A
---               call's time does not count what it waits for a processor
---   config      a table for modules that take one
---   inline      true: call it in this Lua state when a job is submitted, without limits; any function will do
---@param o table
function verify.pool(o)
  options.only("verify.pool", o, OPTIONS)
  local verifier = o.verifier
  if type(verifier) ~= "string" and type(verifier) ~= "function" then
    error("verify.pool wants a verifier: a module name, a file or a function; got " .. type(verifier), 2)
  end
  local module, path = nil, package.path
  if type(verifier) == "string" then module, path = find_module(verifier) end
  if o.inline then
    local value = verifier
    if module then
      local before = package.path
      package.path = path
      local ok, loaded = pcall(require, module)
      package.path = before
      if not ok then error(loaded, 2) end
      value = loaded
    end
    return setmetatable({ fn = inline_function(value, o.config, module or "the verifier"), name = verify.name(verifier), jobs = 0, done = {}, first = 1, last = 0 }, Inline)
  end
  local about = module and verify.about(module, path) or {}
  local code = not module and dump(verifier) or nil
  local config = o.config and json.encode(o.config) or nil
  local opt = ffi.new("tl_pool_options", { n_workers = o.workers or 2, nice = o.nice or about.nice or 19, timeout_ms = o.timeout_ms or about.timeout_ms or 1000, memory_bytes = o.memory or 0, instructions = o.instructions or 0,
    lua_path = path, module = module, config_json = config, chunk = code, chunk_bytes = code and #code or 0 })
  local out = ffi.new("tl_pool *[1]")
  check(C.tl_pool_create(opt, out))
  return setmetatable({ pool = ffi.gc(out[0], C.tl_pool_free), name = verify.name(verifier) }, Pool)
end

return verify
