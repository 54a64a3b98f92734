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

local LIB = F.lua_dir .. "/tl/"

--- Raises a message at the line of the script that called into the library: of the first frame of the stack outside lua/tl.
function F.raise(message)
  for level = 2, 100 do
    local frame = debug.getinfo(level, "Sl")
    if not frame then break end
    if frame.currentline > 0 and frame.source:sub(2, #LIB + 1) ~= LIB then error(message, level) end
  end
  error(message, 0)
end

--- A class of objects that hold a handle of the C library. One without a handle was freed: asking for it is an error, where C would be
--- given NULL (and would crash, or take it for "none").
function F.class(name)
  local class = {}
  class.__index = class
  return setmetatable(class, { __index = function(_, key)
    if key == "handle" then F.raise(("this %s was freed"):format(name)) end
  end })
end

--- Raises the message of the last failure when status is not 0, at the line of the script. (level is what the caller would give to
--- error(); the line is found without it.)
function F.check(status, level)
  if status ~= 0 then F.raise(ffi.string(C.tl_last_error())) end
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
