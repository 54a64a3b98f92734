--- sandbox.lua: runs a program that nobody trusts in bubblewrap (Debian: bubblewrap; needs unprivileged user namespaces).
---
--- What the program sees: /usr read-only, its own folder read-only as /job, an empty /tmp of limited size, /proc of its own PID space, a minimal
--- /dev. No network, no other file of this machine, no other process, no capability; as root the sandbox is entered as nobody. Limits:
--- wall and CPU seconds, address space and number of processes (prlimit), bytes written to /tmp and to its output; where control groups are
--- ours to make (tl.cgroup), the memory of all its processes together and their number. At a limit everything in the sandbox is killed. Where
--- bubblewrap cannot run, sandbox.why_not() says why, and nothing is ever run without it.
local F = require "tl.ffi"
local process = require "tl.process"
local fs = require "tl.fs"
local cgroup = require "tl.cgroup"

local sandbox = {}

local MIB = 1048576
local WRAPPERS = 2 -- bubblewrap outside and inside, which count among a group's processes

-- the words before the program: identity, namespaces, files
local function wrapper(o)
  local argv = {}
  local function add(...) for _, w in ipairs { ... } do argv[#argv + 1] = w end end
  if sandbox.is_root() then add("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups") end
  add("bwrap", "--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL", "--hostname", "sandbox", "--ro-bind", "/usr", "/usr",
    "--symlink", "usr/bin", "/bin", "--symlink", "usr/lib", "/lib", "--symlink", "usr/lib64", "/lib64", "--proc", "/proc", "--dev", "/dev",
    "--size", ("%d"):format(o.disk or 16 * MIB), "--tmpfs", "/tmp", "--ro-bind-try", "/etc/alternatives", "/etc/alternatives",
    "--ro-bind-try", "/etc/ld.so.cache", "/etc/ld.so.cache")
  for _, path in ipairs(o.binds or {}) do add("--ro-bind", path, path) end
  if o.folder then add("--ro-bind", o.folder, "/job") end
  add("--chdir", "/tmp", "--setenv", "HOME", "/tmp")
  return argv
end

local root, masked
--- Does this process run as root?
function sandbox.is_root()
  if root == nil then
    local f = io.open "/proc/self/status"
    local status = f and f:read "*a" or ""
    if f then f:close() end
    root = status:match "\nUid:%s+%d+%s+(%d+)" == "0"
    local umask = status:match "\nUmask:%s+(%d+)"
    masked = not umask or not umask:match "[02]$" -- others may not read what we write
  end
  return root
end

local refusal
--- Why no program can be run here; nil when one can. Tried once.
function sandbox.why_not()
  if refusal ~= nil then return refusal or nil end
  local argv = wrapper {}
  argv[#argv + 1] = "/bin/true"
  local ok, r = pcall(process.run, { argv = argv, wall_ms = 10000 })
  if not ok then
    refusal = "bubblewrap is not here (" .. tostring(r):gsub("^[^\n]-%.lua:%d+: ", "") .. "); on Debian: apt-get install bubblewrap"
  elseif r.exit ~= 0 then
    refusal = "bubblewrap cannot run here: " .. (r.err:match "[^\n]+" or ("exit code " .. tostring(r.exit)))
  else
    refusal = false
  end
  return refusal or nil
end

--- A fresh folder for the files of a job; its path. Free it with sandbox.remove.
---@param files table<string, string> name to content
function sandbox.folder(files)
  local path = os.tmpname()
  os.remove(path)
  F.check(F.C.tl_mkdirs(path))
  for name, content in pairs(files) do fs.write(path .. "/" .. name, content) end
  if sandbox.is_root() and masked then process.run { argv = { "chmod", "-R", "a+rX", path } } end -- the program runs as nobody
  return path
end

--- Removes a job's folder (files, no folders in it).
function sandbox.remove(path)
  for _, name in ipairs(fs.list(path) or {}) do os.remove(path .. "/" .. name) end
  os.remove(path)
end

-- what a program that failed tried to do, by the message it left: { status, a pattern of the message, what is told }
local tried = {
  { "memory", { "MemoryError", "not enough memory", "bad_alloc", "Cannot allocate memory", "out of memory" } },
  { "disk", { "No space left", "File too large" } },
  { "processes", { "Resource temporarily unavailable", "can't start new thread" } },
  { "network", { "Network is unreachable", "Temporary failure in name resolution", "Name or service not known" } },
  { "denied", { "Permission denied", "Read%-only file system", "Operation not permitted", "No such file or directory: '/([^/']+)", "/(%a+)[^%s:]*: No such file or directory" } },
}

local function by_message(err)
  for _, t in ipairs(tried) do
    for _, pattern in ipairs(t[2]) do
      local first, _, folder = err:find(pattern)
      if first and folder ~= "tmp" and folder ~= "job" then return t[1] end
    end
  end
end

-- how a run ended, in one word, and the line that tells
local function verdict(r, o)
  local last = r.err:match "([^\n]+)%s*$" or ""
  local group = r.group or { oom_kills = 0, refused_forks = 0 }
  if r.flooded then return "output", ("wrote more than %d bytes"):format(o.max_output or MIB) end
  if group.oom_kills > 0 then return "memory", ("its processes wanted more than %d bytes together"):format(o.memory or 512 * MIB) end
  if r.exit == 0 then return "ok" end
  if group.refused_forks > 0 then return "processes", ("wanted more than %d processes"):format(o.processes or 32) end
  if r.timed_out then return "timeout", ("over %g s of wall time"):format((o.wall_ms or 10000) / 1000) end
  local signal = r.signal or (r.exit and r.exit > 128 and r.exit < 160 and r.exit - 128) or nil
  if signal == 24 then return "timeout", ("over %d s of CPU time"):format(o.cpu_s or 10) end
  if signal == 25 then return "disk", last ~= "" and last or "over the limit on files" end
  local status = by_message(r.err)
  if status then return status, last end
  return "crash", signal and "ended by signal " .. signal or ("exit code %s: %s"):format(tostring(r.exit), last)
end

--- What bounds a program's memory and processes here: "cgroup" (all of it together), or "rlimits" and why it is not more (each process alone).
function sandbox.limits()
  local why = cgroup.why_not()
  return why and "rlimits" or "cgroup", why
end

--- Runs a program in the sandbox. o: argv (inside it; its files are below /job), folder, binds (paths that are shown read-only), input,
--- wall_ms (10000), cpu_s (10), memory (512 MiB of address space), processes (32), disk (16 MiB of /tmp), max_output (1 MiB).
--- Returns the result of tl.process.run with `status`: "ok" (exit code 0), "crash", "timeout", "memory", "processes", "disk", "output", and, told by
--- the message of a program that failed, "network" and "denied" (a file that it may not see or change); `why`; and `limits`, see sandbox.limits.
function sandbox.run(o)
  local why = sandbox.why_not()
  if why then error(why .. "; programs are not run unprotected", 0) end
  local argv = wrapper(o)
  local function add(...) for _, w in ipairs { ... } do argv[#argv + 1] = w end end
  local group = cgroup.create { memory = (o.memory or 512 * MIB) + (o.disk or 16 * MIB), processes = (o.processes or 32) + WRAPPERS }
  if group then
    local words = cgroup.argv(group)
    for _, w in ipairs(argv) do words[#words + 1] = w end
    argv = words
  end
  local processes = (o.processes or 32) + (group and 64 or 0) -- a group counts for itself, and tells
  add("prlimit", ("--as=%d"):format(o.memory or 512 * MIB), ("--cpu=%d:%d"):format(o.cpu_s or 10, (o.cpu_s or 10) + 1), ("--nproc=%d"):format(processes),
    ("--fsize=%d"):format(o.disk or 16 * MIB), "--core=0", "--nofile=64", "--")
  for _, w in ipairs(o.argv) do argv[#argv + 1] = w end
  local r = process.run { argv = argv, input = o.input, wall_ms = o.wall_ms or 10000, max_output = o.max_output or MIB }
  r.limits, r.group = group and "cgroup" or "rlimits", group and cgroup.finish(group)
  r.status, r.why = verdict(r, o)
  return r
end

return sandbox
