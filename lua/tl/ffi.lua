--- ffi.lua: the C library as Lua sees it. Only this file and the thin wrappers beside it touch the raw namespace.
local ffi = require "ffi"

ffi.cdef [[
const char *tlrun_cdef(void);
const char *tlrun_lua_dir(void);
const char *tlrun_root(void);
const char *tlrun_exe(void);
]]
local C = ffi.C
ffi.cdef(ffi.string(C.tlrun_cdef()))

local F = { C = C }

--- Folder of the Lua side, and the folder above it with recipes, verifiers and models.
F.lua_dir = ffi.string(C.tlrun_lua_dir())
F.root = ffi.string(C.tlrun_root())
F.exe = ffi.string(C.tlrun_exe())

--- Raises the message of the last failure when status is not 0. level is as the function that calls check would give it to
--- error(): 1 its own line, 2 (the default) its caller's.
function F.check(status, level)
  if status ~= 0 then error(ffi.string(C.tl_last_error()), (level or 2) + 1) end
end

--- Calls fn(..., out) where out is a pointer to a handle, and returns the handle, released by free when it is collected.
---@param free function the C function that releases it
---@param ctype string "tl_model"
---@param level integer as for check
function F.create(free, ctype, level, fn, ...)
  local out = ffi.new(ctype .. " *[1]")
  local n = select("#", ...)
  local args = { ... }
  args[n + 1] = out
  F.check(fn(unpack(args, 1, n + 1)), level + 1)
  return ffi.gc(out[0], free)
end

--- A C string that the library allocated, as a Lua string; the C string is released.
function F.take_string(p)
  local s = ffi.string(p)
  C.tl_string_free(p)
  return s
end

--- The folder of downloads, caches and history: TL_HOME, or ~/.cache/tlrun.
function F.home()
  local home = os.getenv "TL_HOME"
  if home and home ~= "" then return home end
  local cache = os.getenv "XDG_CACHE_HOME"
  if not cache or cache == "" then cache = (os.getenv "HOME" or ".") .. "/.cache" end
  return cache .. "/tlrun"
end

return F
