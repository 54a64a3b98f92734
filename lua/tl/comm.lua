--- comm.lua: the ranks of a run: processes that mpirun or srun started and that share its work (docs/distributed.md).
---
---   mpirun -n 4 tlrun recipes/gsm8k_13param.lua ...
---
--- All ranks run the whole script; trainers and tl.eval share their prompts out and put the results together, so a recipe needs no
--- word about ranks. Rank 0 alone prints and has the run's folder; the others write into a folder of their own under TMPDIR that is
--- removed at the end, and their stderr is for errors. What a script does once for all (a file elsewhere) stands in
--- `if tl.comm.rank == 0`.
local F = require "tl.ffi"
local ffi = require "ffi"
local C, check = F.C, F.check

ffi.cdef "int usleep(unsigned int microseconds);"

---@class tl.Comm
---@field rank integer this process's place, from 0
---@field size integer how many there are
local comm = {}

local errors = io.stderr   -- where a rank's error goes

local function read()
  local i = ffi.new "tl_comm_info"
  C.tl_comm_get_info(i)
  comm.rank, comm.size, comm.local_rank, comm.local_size = i.rank, i.size, i.local_rank, i.local_size
  comm.host, comm.kind = ffi.string(i.host), ffi.string(i.kind)
end
read()

local function quieten()
  local nothing = assert(io.open("/dev/null", "w"))
  io.stderr, io.stdout = nothing, nothing
  io.output(nothing)
  _G.print = function() end
end

--- Joins the ranks, when a launcher started several. The program calls it before anything else.
function comm.start()
  check(C.tl_comm_start())
  read()
  if comm.rank > 0 then quieten() end
end

--- What begins an error's line: "rank 2 of 4 (host): ", or nothing alone.
function comm.name() return comm.size > 1 and ("rank %d of %d (%s): "):format(comm.rank, comm.size, comm.host) or "" end

--- Writes an error's line, with the rank's name. When all ranks meet the same error the first line is enough: others than rank 0 wait
--- half a second, in which rank 0, if it fails too, has ended them all.
function comm.complain(message)
  if comm.rank > 0 then C.usleep(500000) end
  errors:write("tlrun: ", comm.name(), message, "\n")
  errors:flush()
end

--- The end of this process with an exit code; a failure ends every rank.
function comm.finish(code)
  if comm.scratch then require("tl.process").run { argv = { "rm", "-rf", comm.scratch } } end
  if comm.size == 1 then return end
  if code == 0 then C.tl_comm_leave() else C.tl_comm_stop(code) end
end

--- Which of n things are this rank's: an iterator of their indices. Thing i goes to rank (i - 1) mod size.
function comm.mine(n)
  local i = comm.rank + 1 - comm.size
  return function()
    i = i + comm.size
    if i <= n then return i end
  end
end

--- A value that has a JSON form, of every rank, in order: a list. All ranks call it together; tag: what is exchanged.
function comm.gather(tag, value)
  if comm.size == 1 then return { value } end
  local json = require "tl.json"
  local text = json.encode { value }
  local all, sizes, list, at = ffi.new "char *[1]", ffi.new("int64_t[?]", comm.size), {}, 0
  check(C.tl_comm_gather(tag, text, #text, all, sizes), 2)
  for r = 1, comm.size do
    list[r] = json.decode(ffi.string(all[0] + at, sizes[r - 1]))[1]
    at = at + tonumber(sizes[r - 1])
  end
  C.tl_string_free(all[0])
  return list
end

--- The device of this rank: "cuda" is the host's device of its place there ("cuda:3" for the fourth).
function comm.device(device)
  if comm.size > 1 and device == "cuda" then return "cuda:" .. comm.local_rank end
  return device
end

--- The options of a run (tl.report.run) as this rank uses them: other ranks than 0 write into a folder that does not stay.
function comm.run_options(o)
  if comm.rank == 0 then return o end
  local own = setmetatable({ quiet = true, completions = 0, out = ("%s/tlrun-%d-rank%d"):format(os.getenv "TMPDIR" or "/tmp", C.getpid(), comm.rank) }, { __index = o })
  comm.scratch = own.out
  return own
end

return comm
