--- process.lua: this process; and programs that it runs to their end: with limits on their time and output, or beside its own terminal.
local F = require "tl.ffi"
local ffi = require "ffi"

ffi.cdef "int getpid(void);"

local process = {}

--- This process's number.
---@return integer
function process.pid() return F.C.getpid() end

--- Runs a program. o: argv (a list; argv[1] is looked up in PATH), input (""), wall_ms (10000), max_output (1 MiB, for each of stdout and stderr).
--- Returns { exit, signal, timed_out, flooded, out, err, seconds, cpu_seconds, peak_bytes }: exit is the code, or nil when a signal ended it.
--- Errors when it cannot be started.
---@param o table
function process.run(o)
  local argv = ffi.new("const char *[?]", #o.argv + 1)
  for i, a in ipairs(o.argv) do argv[i - 1] = a end
  local r, input = ffi.new "tl_process_result", o.input or ""
  F.check(F.C.tl_process_run(argv, input, #input, o.wall_ms or 10000, o.max_output or 1048576, r))
  local out = { exit = r.exit_code >= 0 and r.exit_code or nil, signal = r.signal ~= 0 and r.signal or nil, timed_out = r.timed_out, flooded = r.flooded,
    out = ffi.string(r.out, r.n_out), err = ffi.string(r.err, r.n_err), seconds = r.seconds, cpu_seconds = r.cpu_seconds, peak_bytes = tonumber(r.peak_bytes) }
  F.C.tl_string_free(r.out)
  F.C.tl_string_free(r.err)
  return out
end

--- Runs a program with this process's environment, terminal and folder, and waits for its end. log: a file its output is appended to instead.
--- It is ended when this process is interrupted. Returns its exit code, or nil and the signal that ended it.
---@param argv string[]
---@param log string?
function process.attend(argv, log)
  local list = ffi.new("const char *[?]", #argv + 1)
  for i, a in ipairs(argv) do list[i - 1] = a end
  local pid, code, signal = ffi.new "int64_t[1]", ffi.new "int[1]", ffi.new "int[1]"
  F.check(F.C.tl_child_start(list, nil, log, pid))
  while not F.C.tl_child_poll(pid[0], code, signal) do
    if F.C.tl_interrupted() then
      F.C.tl_child_kill(pid[0])
      error("interrupted", 0)
    end
    F.C.tl_sleep(0.02)
  end
  if code[0] >= 0 then return code[0] end
  return nil, signal[0]
end

return process
