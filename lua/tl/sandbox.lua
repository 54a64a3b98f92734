--- sandbox.lua: runs a program that nobody trusts in bubblewrap (Debian: bubblewrap; needs unprivileged user namespaces).
---
--- What the program sees: /usr read-only, its own folder read-only as /job, an empty /tmp of limited size, /proc of its own PID space, a minimal
--- /dev. No network, no other file of this machine, no other process, no capability; as root the sandbox is entered as nobody. Limits:
--- wall and CPU seconds, address space and number of processes (prlimit), bytes written to /tmp and to its output. At a limit everything in
--- the sandbox is killed. Where bubblewrap cannot run, sandbox.why_not() says why, and nothing is ever run without it.
local F = require "tl.ffi"
local process = require "tl.process"
local fs = require "tl.fs"

local sandbox = {}

local MIB = 1048576

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

local root
--- Does this process run as root?
function sandbox.is_root()
  if root == nil then
    local f = io.open "/proc/self/status"
    root = f ~= nil and f:read("*a"):match "\nUid:%s+%d+%s+(%d+)" == "0"
    if f then f:close() end
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
  process.run { argv = { "chmod", "-R", "a+rX", path } }
  return path
end

function sandbox.remove(path) process.run { argv = { "rm", "-rf", path } } end

-- how a run ended, in one word, and the line that tells
local function verdict(r, o)
  local last = r.err:match "([^\n]+)%s*$" or ""
  if r.flooded then return "output", ("wrote more than %d bytes"):format(o.max_output or MIB) end
  if r.timed_out then return "timeout", ("over %g s of wall time"):format((o.wall_ms or 10000) / 1000) end
  local signal = r.signal or (r.exit and r.exit > 128 and r.exit < 160 and r.exit - 128) or nil
  if signal == 24 then return "timeout", ("over %d s of CPU time"):format(o.cpu_s or 10) end
  if r.err:find "MemoryError" or r.err:find "not enough memory" or r.err:find "bad_alloc" or r.err:find "Cannot allocate memory" or r.err:find "out of memory" then return "memory", last end
  if signal == 25 or r.err:find "No space left" or r.err:find "File too large" then return "disk", last ~= "" and last or "over the limit on files" end
  if r.exit == 0 then return "ok" end
  return "crash", signal and "ended by signal " .. signal or ("exit code %s: %s"):format(tostring(r.exit), last)
end

--- Runs a program in the sandbox. o: argv (inside it; its files are below /job), folder, binds (paths that are shown read-only), input,
--- wall_ms (10000), cpu_s (10), memory (512 MiB of address space), processes (32), disk (16 MiB of /tmp), max_output (1 MiB).
--- Returns the result of tl.process.run with `status`: "ok" (exit code 0), "crash", "timeout", "memory", "disk", "output", and `why`.
function sandbox.run(o)
  local why = sandbox.why_not()
  if why then error(why .. "; programs are not run unprotected", 0) end
  local argv = wrapper(o)
  local function add(...) for _, w in ipairs { ... } do argv[#argv + 1] = w end end
  add("prlimit", ("--as=%d"):format(o.memory or 512 * MIB), ("--cpu=%d:%d"):format(o.cpu_s or 10, (o.cpu_s or 10) + 1), ("--nproc=%d"):format(o.processes or 32),
    ("--fsize=%d"):format(o.disk or 16 * MIB), "--core=0", "--nofile=64", "--")
  for _, w in ipairs(o.argv) do argv[#argv + 1] = w end
  local r = process.run { argv = argv, input = o.input, wall_ms = o.wall_ms or 10000, max_output = o.max_output or MIB }
  r.status, r.why = verdict(r, o)
  return r
end

return sandbox
