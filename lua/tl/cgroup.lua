--- cgroup.lua: limits on what all processes of a sandboxed program use together, where Linux's control groups (version 2) let us set them.
---
--- A group is a folder below `parent`: memory.max and pids.max hold for everything in it, memory.events and pids.events count how often they
--- were met, and writing to cgroup.kill ends all of it. It needs a parent that is ours to divide and whose memory and pids controllers reach its
--- children (kernel: Documentation/admin-guide/cgroup-v2.rst, "Delegation" and "No Internal Process Constraint"):
---
---   TL_CGROUP       a folder of the cgroup2 file system, prepared by somebody: used as it is
---   our own group   as root in a container, or under `systemd-run --user --scope -p Delegate=yes tlrun ...`. A group with processes
---                   cannot hand its controllers on, so this process moves into a child of it first, when it is the only one in there
---
--- Where neither works cgroup.why_not() says why, and the sandbox has the limits of each process alone (prlimit).
local F = require "tl.ffi"
local fs = require "tl.fs"
local process = require "tl.process"

local cgroup = {}

local function read(path)
  local f = io.open(path)
  if not f then return nil end
  local text = f:read "*a"
  f:close()
  return text
end

-- one write call: a control group's files take a value at a time
local function write(path, text)
  local f, why = io.open(path, "w")
  if not f then return false, why end
  f:setvbuf "no"
  local ok, bad = f:write(text)
  f:close()
  return ok ~= nil, bad and path .. ": " .. bad
end

local function own_group()
  local mount
  for line in (read "/proc/self/mounts" or ""):gmatch "[^\n]+" do
    local at, kind = line:match "^%S+ (%S+) (%S+)"
    if kind == "cgroup2" then mount = at break end
  end
  local path = (read "/proc/self/cgroup" or ""):match "0::(/[^\n]*)"
  if not mount or not path then return nil, "no cgroup2 file system is mounted" end
  return mount .. (path == "/" and "" or path)
end

-- do memory and pids reach the children of a group? Asks for it where they do not.
local function hand_on(path)
  local control = path .. "/cgroup.subtree_control"
  local function reach()
    local have = " " .. (read(control) or ""):gsub("%s+", " ") .. " "
    return have:find(" memory ", 1, true) and have:find(" pids ", 1, true)
  end
  if reach() then return true end
  local available = " " .. (read(path .. "/cgroup.controllers") or ""):gsub("%s+", " ") .. " "
  for _, c in ipairs { "memory", "pids" } do
    if not available:find(" " .. c .. " ", 1, true) then return false, ("%s has no %s controller"):format(path, c) end
  end
  local ok, why = write(control, "+memory +pids")
  if ok and reach() then return true end
  return false, why or control .. " did not take +memory +pids"
end

local function only_ours(path)
  local pid, procs = read "/proc/self/stat", read(path .. "/cgroup.procs")
  return pid and procs and procs:match "^%s*(%d+)%s*$" == pid:match "^%d+"
end

local function find_parent()
  local given = os.getenv "TL_CGROUP"
  local path, why = given, nil
  if not given or given == "" then path, why = own_group() end
  if not path then return nil, why end
  local ok
  ok, why = hand_on(path)
  if not ok and not given and only_ours(path) then
    local child = path .. "/tlrun"
    if pcall(fs.mkdirs, child) and write(child .. "/cgroup.procs", "0") then ok, why = hand_on(path) end
  end
  if not ok then return nil, why end
  return path
end

local parent, refusal
--- Why no group can be made; nil when one can. Tried once for a Lua state.
function cgroup.why_not()
  if parent == nil then
    parent, refusal = find_parent()
    parent = parent or false
  end
  return refusal
end

local made = 0
--- A group: its path; nil and why not. o: memory (bytes of all its processes and of its files in /tmp), processes.
function cgroup.create(o)
  if cgroup.why_not() then return nil, refusal end
  made = made + 1
  local path = ("%s/job-%s-%d-%d"):format(parent, (read "/proc/thread-self/stat" or ""):match "^%d+" or "0", made, F.C.tl_seconds() * 1e6 % 1e9)
  local ok, why = pcall(fs.mkdirs, path)
  if not ok then return nil, why end
  write(path .. "/memory.swap.max", "0") -- not there without swap
  write(path .. "/memory.oom.group", "1") -- at the limit all of it ends
  for _, limit in ipairs { { "memory.max", o.memory }, { "pids.max", o.processes } } do
    ok, why = write(path .. "/" .. limit[1], ("%d"):format(limit[2]))
    if not ok then
      os.remove(path)
      return nil, why
    end
  end
  return path
end

--- The words that start a program in a group: they come before its own.
function cgroup.argv(path) return { "/bin/sh", "-c", 'echo 0 > "$0/cgroup.procs" && exec "$@"', path } end

local function count(path, file, key) return tonumber(((read(path .. "/" .. file) or ""):match("%f[%w_]" .. key .. " (%d+)"))) or 0 end

--- Ends what is in a group and removes it. Returns { oom_kills, refused_forks, peak_bytes }.
function cgroup.finish(path)
  local used = { oom_kills = count(path, "memory.events", "oom_kill"), refused_forks = count(path, "pids.events", "max"), peak_bytes = tonumber(read(path .. "/memory.peak") or nil) }
  write(path .. "/cgroup.kill", "1")
  for _ = 1, 500 do
    if os.remove(path) then return used end
    process.run { argv = { "sleep", "0.01" } } -- the kernel takes a moment to end them
  end
  return used
end

return cgroup
