--- report.lua: what a run leaves behind, and what it shows while it runs.
---
--- A run's folder (runs/NAME-TIME, or o.out):
---   config.json                  every parameter as it was resolved; functions by file and line
---   versions.json                program, compiler, backend, machine, commit, command line, seed
---   metrics.jsonl                one object a step, with TRL's metric names
---   events.out.tfevents.*        the same for TensorBoard, as train/NAME
---   completions.jsonl            some completions of each step with reward and advantage
---   summary.json                 what :finish was given
--- Whole files are replaced at once; lines are appended, and a line that does not fit on the disk is taken back: what was there
--- stays whole, and the error is one line.
local F = require "tl.ffi"
local ffi = require "ffi"
local fs = require "tl.fs"
local json = require "tl.json"
local options = require "tl.options"
local tensorboard = require "tl.tensorboard"
local C, check = F.C, F.check

ffi.cdef [[
int truncate(const char *path, long length);
int ioctl(int fd, unsigned long request, ...);
]]

local report = {}

-- ---- numbers for people

--- Wilson's 95% interval of k successes in n trials (Wilson 1927): the bounds are shares from 0 to 1.
---@param z number|nil quantile of the normal distribution (1.96 for 95%)
function report.wilson(k, n, z)
  if n == 0 then return 0, 1 end
  z = z or 1.959963984540054
  local p, zz = k / n, z * z / n
  local centre, half = p + zz / 2, z * math.sqrt(p * (1 - p) / n + zz / (4 * n))
  return math.max(0, (centre - half) / (1 + zz)), math.min(1, (centre + half) / (1 + zz))
end

--- "41.0% [34.4, 47.9]": k of n with Wilson's 95% interval.
function report.percent(k, n)
  local lo, hi = report.wilson(k, n)
  return report.interval(n > 0 and k / n or 0 / 0, { lo, hi })
end

--- The same from a share and its interval, as tl.eval gives them.
function report.interval(share, ci) return ("%.1f%% [%.1f, %.1f]"):format(100 * share, 100 * ci[1], 100 * ci[2]) end

local function clock(seconds)
  if seconds < 0 or seconds ~= seconds or seconds == math.huge then return "--:--" end
  local s = math.floor(seconds + 0.5)
  if s >= 3600 then return ("%d:%02d:%02d"):format(s / 3600, s % 3600 / 60, s % 60) end
  return ("%d:%02d"):format(s / 60, s % 60)
end

-- ---- files that only grow

local Appender = {}
Appender.__index = Appender

local function append_to(path)
  local file, why = io.open(path, "ab")
  if not file then error("cannot write " .. why, 0) end
  return setmetatable({ path = path, file = file }, Appender)
end

function Appender:write(text)
  local before = self.file:seek("end")
  local ok, why = self.file:write(text)
  if ok then ok, why = self.file:flush() end
  if ok then return end
  self.file:close()
  C.truncate(self.path, before)
  error(("cannot write %s: %s"):format(self.path, tostring(why):gsub("^" .. self.path:gsub("%p", "%%%0") .. ": ", "")), 0)
end

-- LuaJIT compiles file:flush with a guard on its result and, when the guard fails, calls it a second time; by then the C library
-- has dropped the buffer and the second call succeeds: the error would be lost. So this is never compiled.
jit.off(Appender.write)

function Appender:close()
  if self.file then self.file:close() end
  self.file = nil
end

-- ---- config and versions

-- a copy that has a JSON form
local function recordable(v, depth)
  local kind = type(v)
  if kind == "function" then
    local at = debug.getinfo(v, "S")
    return ("function %s:%d"):format(at.short_src, at.linedefined)
  end
  if kind == "table" and v ~= json.null then
    if depth > 8 then return "..." end
    local mt, copy = getmetatable(v), {}
    for k, x in pairs(v) do
      if type(k) == "string" or type(k) == "number" then copy[#v == 0 and tostring(k) or k] = recordable(x, depth + 1) end
    end
    return mt and mt.__array and json.array(copy) or copy
  end
  if kind == "number" or kind == "string" or kind == "boolean" or v == json.null then return v end
  return tostring(v)
end

local function save(path, value)
  local text = json.encode(value, { pretty = true }) .. "\n"
  check(C.tl_write_file(path, text, #text))
end

local function count_cpus()
  local file, n = io.open("/proc/cpuinfo", "r"), 0
  if not file then return nil end
  for line in file:lines() do
    if line:find("^processor") then n = n + 1 end
  end
  file:close()
  return n > 0 and n or nil
end

local function under(folder, path) return path:sub(1, 1) == "/" and path or folder .. "/" .. path end

--- The commit of a git checkout, read from its files; nil when it is none. In a worktree .git is a file that names the worktree's own
--- folder (its HEAD), and commondir in that the one with the branches.
---@param root string
---@return string?
function report.commit(root)
  local own = root .. "/.git"
  if fs.kind(own) == "file" then own = under(root, fs.first_line(own, "^gitdir: (.+)$") or ".git") end
  local head = fs.first_line(own .. "/HEAD", "^(%S.*)$")
  if not head then return nil end
  local ref = head:match("^ref: (%S+)")
  if not ref then return head end
  local shared = under(own, fs.first_line(own .. "/commondir", "^(.+)$") or ".")
  return fs.first_line(shared .. "/" .. ref, "^(%x+)") or fs.first_line(shared .. "/packed-refs", "^(%x+) " .. ref:gsub("%p", "%%%0") .. "$")
end

--- What a run depends on besides its config.
function report.versions()
  return { tlrun = ffi.string(C.tl_version()), build = ffi.string(C.tl_build_info()), backend = ffi.string(C.tl_backend_name()),
    isa = ffi.string(C.tl_backend_isa()), threads = C.tl_threads(), cpus = count_cpus(),
    cpu = fs.first_line("/proc/cpuinfo", "^model name%s*:%s*(.*)$"), os = fs.first_line("/etc/os-release", '^PRETTY_NAME="?([^"]*)'),
    kernel = fs.first_line("/proc/sys/kernel/osrelease", "(%S+)"), luajit = require("jit").version, commit = report.commit(F.root) }
end

-- ---- the live line

local function terminal()
  local ok, host = pcall(require, "tl.host")
  return ok and host.isatty(2)
end

local Live = {}
Live.__index = Live

function Live:clear()
  if self.shown then io.stderr:write("\r\27[K") end
  self.shown = false
end

local TIOCGWINSZ = 0x5413

-- columns of the terminal: rows and columns are the first two of four 16-bit numbers
local function terminal_width()
  local size = ffi.new("uint16_t[4]")
  local known = C.ioctl(2, TIOCGWINSZ, size) == 0 and size[1] > 10
  return known and size[1] or tonumber(os.getenv("COLUMNS")) or 80
end

local function show_line(self, text)
  local width = terminal_width()
  io.stderr:write("\r\27[K", text:sub(1, width - 1))
  io.stderr:flush()
  self.shown = true
end

local function bar(share, width)
  local full = math.max(0, math.min(width, math.floor(share * width + 0.5)))
  return "[" .. ("#"):rep(full) .. ("."):rep(width - full) .. "]"
end

local function figures(m)
  local parts = {}
  local function add(format, v)
    if type(v) == "number" and v == v then parts[#parts + 1] = format:format(v) end
  end
  add("reward %.3f", m.reward)
  if not m.reward then add("loss %.4f", m.loss) end
  local bad = (m["verifier/error"] or 0) + (m["verifier/timeout"] or 0) + (m["verifier/memory"] or 0)
  if bad > 0 then parts[#parts + 1] = ("verifier failures %d"):format(bad) end
  if m.samples_trained == 0 then parts[#parts + 1] = "no gradient: " .. (m.reward == m.reward and "rewards are alike in every group" or "there is no reward") end
  add("length %.1f", m["completions/mean_length"])
  add("%.0f tok/s", m.tokens_per_s)
  return table.concat(parts, "  ")
end

-- ---- runs

---@class tl.Run
local Run = {}
Run.__index = Run

local function new_folder(o)
  if o.out then return o.out end
  local base = (o.dir or "runs") .. "/" .. (o.name or "run") .. "-" .. os.date("%Y%m%d-%H%M%S")
  local path, n = base, 1
  while io.open(path .. "/versions.json") do
    n = n + 1
    path = base .. "-" .. n
  end
  return path
end

-- A folder that holds a run takes no other: metrics.jsonl would hold both, config.json the second. A run that goes on from it (resume) may.
local function refuse_second(o)
  for _, name in ipairs { "name", "dir", "out", "resume" } do
    if o[name] and type(o[name]) ~= "string" then F.raise(("report.run: %s is a text; got %s"):format(name, F.shown(o[name]))) end
  end
  local n = o.completions
  if n and n ~= "all" and not (type(n) == "number" and n >= 0 and n % 1 == 0) then F.raise('report.run: completions is a whole number from 0, or "all"; got ' .. F.shown(n)) end
  local rank, config = require("tl.comm").rank, type(o.config) == "table" and o.config or {}
  local resume = o.resume or rawget(config, "resume")
  if resume and fs.kind(resume) ~= "folder" then error(("resume: there is no run folder %s"):format(resume), 0) end
  if rank > 0 or not o.out then return end
  for _, name in ipairs { "metrics.jsonl", "versions.json" } do
    if fs.kind(o.out .. "/" .. name) == "file" and not (resume and fs.stamp(resume .. "/" .. name) == fs.stamp(o.out .. "/" .. name)) then
      error(("%s holds a run already (%s); give another folder, remove this one, or go on from its checkpoint (--resume %s)"):format(o.out, name, o.out), 0)
    end
  end
end

local RUN = options.names { any = "name dir out config completions resume", count = "total", seed = "seed", boolean = "quiet" }

--- Opens a run's folder.
---   name, dir ("runs") or out   the folder: DIR/NAME-TIME, or OUT itself
---   config, seed                what goes into config.json and versions.json; the seed is the config's unless it is given
---   total                       how many steps there will be (for the time left); may be set later as run.total
---   completions                 how many completions of a step are kept (4); "all"; 0
---   quiet                       nothing is shown
---   resume                      the run that this one goes on from (config.resume); only that one's folder may be written into again
--- A trainer takes it as its option `run` and calls run:step(metrics, rollout).
---@return tl.Run
function report.run(o)
  options.only("report.run", o, RUN)
  refuse_second(o)
  o = require("tl.comm").run_options(o)
  local seed = o.seed or type(o.config) == "table" and rawget(o.config, "seed") or 0
  local r = setmetatable({ path = new_folder(o), name = o.name or "run", total = o.total, seed = seed, keep = o.completions or 4,
    quiet = o.quiet, began = C.tl_seconds(), steps = 0, live = setmetatable({}, Live) }, Run)
  r.terminal = not o.quiet and terminal()
  check(C.tl_mkdirs(r.path))
  r.config = o.config and recordable(o.config, 0)
  save(r.path .. "/config.json", r.config or {})
  local versions = report.versions()
  versions.seed, versions.started = r.seed, os.date("!%Y-%m-%dT%H:%M:%SZ")
  versions.command = rawget(_G, "arg") and { arg[0], unpack(arg) } or nil
  save(r.path .. "/versions.json", versions)
  r.metrics = append_to(r.path .. "/metrics.jsonl")
  local host = fs.first_line("/proc/sys/kernel/hostname", "(%S+)") or "localhost"
  r.events = append_to(r.path .. "/" .. tensorboard.filename(os.time(), host, require("tl.process").pid()))
  r.events:write(tensorboard.header(os.time()))
  return r
end

--- Forgets what was recorded after a step, for a run that goes on from its checkpoint of then in its own folder: those steps are made again.
function Run:go_back(step)
  for _, name in ipairs { "metrics.jsonl", "completions.jsonl" } do
    local path, kept, gone = self.path .. "/" .. name, {}, false
    for line in (fs.kind(path) == "file" and fs.read(path) or ""):gmatch "[^\n]+" do
      local doc = json.parse(line)
      local later = type(doc) == "table" and type(doc.step) == "number" and doc.step > step
      gone = gone or later
      if not later then kept[#kept + 1] = line .. "\n" end
    end
    if gone then fs.write(path, table.concat(kept)) end
  end
  self.metrics.file:close()
  self.metrics = append_to(self.path .. "/metrics.jsonl")
end

--- A path inside the run's folder: run:file("adapter").
function Run:file(name) return self.path .. "/" .. name end

local function completion_line(step, group, c)
  local p = group.problem
  local verdict = c.verdict or {}
  return json.encode { step = step, id = p.id, prompt = p.prompt or p.messages or p.question, completion = c.transcript or c.text, answer = p.answer,
    reward = c.reward, advantage = c.advantage, outcome = verdict.outcome, verifier = verdict.message ~= "" and verdict.message or nil,
    n_tokens = c.n_tokens or c.ids and #c.ids or nil, turns = c.turns and #c.turns or nil, finish = c.finish } .. "\n"
end

-- Which completions of a step are kept: a draw of (seed, step).
local function keep_completions(self, step, rollout)
  local all = {}
  for _, g in ipairs(rollout.groups) do
    for _, c in ipairs(g.completions) do all[#all + 1] = { g, c } end
  end
  local n = self.keep == "all" and #all or math.min(self.keep, #all)
  if n == 0 then return end
  local perm, picked, lines = ffi.new("int32_t[?]", #all), {}, {}
  C.tl_permutation(perm, #all, self.seed, step)
  for i = 1, n do picked[i] = perm[i - 1] + 1 end
  table.sort(picked)
  for i, k in ipairs(picked) do lines[i] = completion_line(step, all[k][1], all[k][2]) end
  if not self.samples then self.samples = append_to(self:file("completions.jsonl")) end
  self.samples:write(table.concat(lines))
end

--- Records a step: its metrics (m.step or one after the last) and, of a rollout, some completions; shows the line.
function Run:step(m, rollout)
  if type(m) ~= "table" then error("run:step wants a table of metrics; got " .. F.shown(m), 2) end
  if not self.metrics then error("run:step: this run was finished", 2) end
  if m.step ~= nil and type(m.step) ~= "number" then error("run:step: step is a number; got " .. F.shown(m.step), 2) end
  local step = m.step or self.steps + 1
  self.steps, self.last = step, m
  if m.step == nil then m.step = step end
  self.metrics:write(json.encode(m) .. "\n")
  local scalars = {}
  for k, v in pairs(m) do
    if k ~= "step" then scalars["train/" .. k] = v end
  end
  self.events:write(tensorboard.scalars(os.time(), step, scalars))
  if rollout and rollout.groups then keep_completions(self, step, rollout) end
  if rollout and rollout.complaint and not self.complained then
    self.complained = true
    self:log("the verifier fails: %s (counted as verifier/error, /timeout, /memory; this is said once)", rollout.complaint)
  end
  self:show(m)
end

--- Records numbers beside the steps (an evaluation): run:scalars("eval", { accuracy = 0.4 }, step).
function Run:scalars(prefix, values, step)
  if type(prefix) ~= "string" or type(values) ~= "table" or type(step or 0) ~= "number" then
    error(("run:scalars wants a name, a table of numbers and a step; got %s, %s and %s"):format(F.shown(prefix), F.shown(values), F.shown(step)), 2)
  end
  local line, scalars = { step = step or self.steps }, {}
  for k, v in pairs(values) do
    if type(v) == "number" then line[prefix .. "/" .. k], scalars[prefix .. "/" .. k] = v, v end
  end
  self.metrics:write(json.encode(line) .. "\n")
  self.events:write(tensorboard.scalars(os.time(), line.step, scalars))
end

local function time_left(self)
  if not self.total or self.steps == 0 then return nil end
  return (C.tl_seconds() - self.began) / self.steps * (self.total - self.steps)
end

--- Shows where the run is: one live line on a terminal, else a line for the first step, the last, and one every few seconds.
function Run:show(m)
  if self.quiet then return end
  local now, left = C.tl_seconds(), time_left(self)
  local place = self.total and ("%d/%d"):format(self.steps, self.total) or tostring(self.steps)
  local tail = ("  %s%s"):format(figures(m), left and "  left " .. clock(left) or "")
  if self.terminal then
    show_line(self.live, (self.total and bar(self.steps / self.total, 20) .. " " or "") .. place .. tail)
  elseif not self.shown_at or now - self.shown_at >= 2 or self.steps == self.total then
    self.shown_at = now
    io.stderr:write("step ", place, tail, "\n")
  end
end

--- Within a step, on a terminal: how far the sampling is. A trainer takes it as progress = run:ticker().
function Run:ticker()
  return function(trainer, rollout)
    local now = C.tl_seconds()
    if not self.terminal or now - (self.ticked or 0) < 0.2 then return end
    self.ticked = now
    local done = 0
    for _, g in ipairs(rollout.groups) do
      for _ in pairs(g.completions) do done = done + 1 end
    end
    local all = #rollout.groups * trainer.n
    local place = self.total and ("%s %d/%d"):format(bar((self.steps + done / all) / self.total, 20), self.steps + 1, self.total) or tostring(self.steps + 1)
    show_line(self.live, ("%s  sampled %d of %d%s"):format(place, done, all, self.last and "  (last: " .. figures(self.last) .. ")" or ""))
  end
end

--- A line of words between the live lines: run:log("before: %s", text)
function Run:log(format, ...)
  if self.quiet then return end
  self.live:clear()
  io.stderr:write(select("#", ...) > 0 and format:format(...) or format, "\n")
end

--- Ends the run: the summary goes to summary.json, the files are closed.
function Run:finish(summary)
  self.live:clear()
  if summary then save(self:file("summary.json"), recordable(summary, 0)) end
  self:free()
end

--- Closes the files.
function Run:free()
  self.live:clear()
  for _, name in ipairs { "metrics", "events", "samples" } do
    if self[name] then self[name]:close() end
    self[name] = nil
  end
end

return report
