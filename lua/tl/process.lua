--- process.lua: runs a program to its end, with limits on its time and its output.
local F = require "tl.ffi"
local ffi = require "ffi"

local process = {}

--- Runs a program. o: argv (a list; argv[1] is looked up in PATH), input (""), wall_ms (10000), max_output (1 MiB, for each of stdout and stderr).
--- Returns { exit, signal, timed_out, flooded, out, err, seconds, cpu_seconds, peak_bytes }: exit is the code, or nil when a signal ended it.
--- Errors when it cannot be started.
---@param o table
function process.run(o)
  local argv = ffi.new("const char *[?]", #o.argv + 1)
  for i, a in ipairs(o.argv) do argv[i - 1] = a end
  local r, input = ffi.new "tl_process_result", o.input or ""
  F.check(F.C.tl_process_run(argv, input, #input, o.wall_ms or 10000, o.max_output or 1048576, r), 2)
  local out = { exit = r.exit_code >= 0 and r.exit_code or nil, signal = r.signal ~= 0 and r.signal or nil, timed_out = r.timed_out, flooded = r.flooded,
    out = ffi.string(r.out, r.n_out), err = ffi.string(r.err, r.n_err), seconds = r.seconds, cpu_seconds = r.cpu_seconds, peak_bytes = tonumber(r.peak_bytes) }
  F.C.tl_string_free(r.out)
  F.C.tl_string_free(r.err)
  return out
end

return process
