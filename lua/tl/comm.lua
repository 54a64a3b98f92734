--- comm.lua: the ranks of a run: processes that mpirun or srun started and that share its work (docs/distributed.md).
---
---   mpirun -n 4 tlrun recipes/gsm8k_13param.lua ...
---
--- All ranks run the whole script; trainers and tl.eval share their prompts out and put the results together, so a recipe needs no
--- word about ranks. Rank 0 alone prints and has the run's folder; the others write into a folder of their own under TMPDIR that is
--- removed at the end, and their stderr is for errors. What a script does once for all (a file elsewhere) stands in
--- `if tl.comm.rank == 0`.
---
--- Ranks may share a model (tensor parallelism): `--tensor-parallel N`, or comm.split(N), puts them into groups of N, ranks 0 .. N-1 and so
--- on. A group is what a rank is otherwise: prompts go to groups. Its first rank asks verifiers, and tells the others.
local F = require "tl.ffi"
local ffi = require "ffi"
local C, check = F.C, F.check

ffi.cdef "int usleep(unsigned int microseconds);"

---@class tl.Comm
---@field rank integer this process's place, from 0
---@field size integer how many there are
---@field part integer which share of the prompts this rank has, from 0: its group's
---@field parts integer how many shares there are
---@field shard integer its place among the ranks that share its model, from 0
---@field shards integer how many share a model
local comm = {}

local errors = io.stderr   -- where a rank's error goes

local function read()
  local i = ffi.new "tl_comm_info"
  C.tl_comm_get_info(i)
  comm.rank, comm.size, comm.local_rank, comm.local_size = i.rank, i.size, i.local_rank, i.local_size
  comm.part, comm.parts, comm.shard, comm.shards = i.part, i.parts, i.shard, i.shards
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

--- The parameter of recipes and commands whose model ranks may share.
comm.TENSOR_PARALLEL = { 1, "ranks that share one model, each with 1/N of every layer (mpirun -n N, or a multiple)", integer = true, min = 1,
  value = "N" }

--- Puts the ranks into groups of n that share a model, before one is loaded. All ranks, once.
function comm.split(n, level)
  check(C.tl_comm_split(n))
  read()
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

--- Which of n things are this rank's: an iterator of their indices. Thing i goes to part (i - 1) mod parts.
function comm.mine(n)
  local i = comm.part + 1 - comm.parts
  return function()
    i = i + comm.parts
    if i <= n then return i end
  end
end

-- what each of the n ranks in scope gives
local function exchange(scope, n, tag, value)
  local json = require "tl.json"
  local text = json.encode { value }
  local all, sizes, list, at = ffi.new "char *[1]", ffi.new("int64_t[?]", n), {}, 0
  check(C.tl_comm_gather(scope, tag, text, #text, all, sizes))
  for r = 1, n do
    list[r] = json.decode(ffi.string(all[0] + at, sizes[r - 1]))[1]
    at = at + tonumber(sizes[r - 1])
  end
  C.tl_string_free(all[0])
  return list
end

--- A value that has a JSON form, of every part, in order: a list. All ranks call it together; tag: what is exchanged.
function comm.gather(tag, value)
  if comm.parts == 1 then return { value } end
  return exchange(C.TL_COMM_PARTS, comm.parts, tag, value)
end

--- The value of the first of the ranks that share this one's model, on all of them: value on the others is not looked at.
function comm.lead(tag, value)
  if comm.shards == 1 then return value end
  if comm.shard > 0 then value = nil end
  return exchange(C.TL_COMM_GROUP, comm.shards, tag, value)[1]
end

--- The smallest of a number, of the ranks that share this one's model: what must be the same on all of them and follows from what a
--- process has.
function comm.least(tag, number)
  if comm.shards == 1 then return number end
  return math.min(unpack(exchange(C.TL_COMM_GROUP, comm.shards, tag, number)))
end

--- The options of a run (tl.report.run) as this rank uses them: other ranks than 0 write into a folder that does not stay.
function comm.run_options(o)
  if comm.rank == 0 then return o end
  local own = setmetatable({ quiet = true, completions = 0, out = ("%s/tlrun-%d-rank%d"):format(os.getenv "TMPDIR" or "/tmp", require("tl.process").pid(), comm.rank) }, { __index = o })
  comm.scratch = own.out
  return own
end

return comm
