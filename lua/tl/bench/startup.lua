--- bench/startup.lua: how long a newcomer waits: whole processes from start to exit (an upper bound of what they wait for, since
--- ending counts too), medians. A file that is read or made the first time is warm from the repetition that is not counted.
local F = require "tl.ffi"
local process = require "tl.process"

-- this program, in this user's home (a program that is run here gets no other variable: runtime/base/process.c)
local function this_program()
  local stat = assert(io.open("/proc/self/stat"))
  local pid = stat:read "*n"
  stat:close()
  local p = assert(io.popen(("readlink /proc/%d/exe"):format(pid)))
  local path = p:read "*l"
  p:close()
  return { "env", "HOME=" .. (os.getenv "HOME" or "/"), "TL_HOME=" .. F.home(), path }
end

local function with(words, ...)
  local argv = {}
  for _, list in ipairs { words, { ... } } do
    for _, w in ipairs(list) do argv[#argv + 1] = w end
  end
  return argv
end

local function median(t)
  table.sort(t)
  return t[math.floor(#t / 2) + 1]
end

local function timed(name, argv, input, reps)
  local seconds, peak = {}, 0
  for i = 0, reps do
    local r = process.run { argv = argv, input = input, wall_ms = 120000 }
    if r.exit ~= 0 then error(("%s: exit %s: %s"):format(name, tostring(r.exit), r.err), 0) end
    if i > 0 then seconds[#seconds + 1], peak = r.seconds, math.max(peak, r.peak_bytes) end
  end
  return { name = name, seconds = median(seconds), peak_bytes = peak }
end

--- The REPL up to its first prompt, the embedded model up to its first token, and a model with its packed weights and a TinyLoRA
--- adapter (whose SVD is in the cache after the first time). o: model, reps
return function(o)
  local exe = this_program()
  local load = ('local m = require("tl").model.load(%q) require("tl").adapter.create(m, "tinylora", {})'):format(o.model)
  return { rows = {
    timed("REPL: prompt, end of input", exe, "", o.reps),
    timed("embedded model: first token", with(exe, "generate", "--model", "tiny", "--max-new-tokens", "1", "--prompt", "The"), "", o.reps),
    timed(o.model .. ": loaded, packed, adapter", with(exe, "-e", load), "", o.reps),
  } }
end
