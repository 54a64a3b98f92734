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

-- what is wanted of an argument that is an object
local WANTED = { model = "a model, as tl.model.load gives it", adapter = "an adapter, as tl.adapter.tinylora gives it", population = "a population, as tl.population.of gives it",
  sampler = "a sampler, as tl.sample.sampler gives it", batch = "a batch, as tl.pass.batch gives it", ["room for activations"] = "room for activations, as tl.sample.kept gives it" }
local CLASS = {}  -- of an object's metatable the name of its class

--- A class of objects that hold a handle of the C library. One without a handle was freed: asking for it is an error, where C would be
--- given NULL (and would crash, or take it for "none").
function F.class(name)
  local class = {}
  class.__index = class
  CLASS[class] = name
  return setmetatable(class, { __index = function(_, key)
    if key == "handle" then F.raise(("this %s was freed"):format(name)) end
  end })
end

--- The name of an object's class ("adapter"); nil of what is no such object.
function F.class_of(v) return type(v) == "table" and CLASS[getmetatable(v)] or nil end

--- What a value is, in messages: nothing, 'text', 3, a table, a model.
function F.shown(v)
  if v == nil then return "nothing" end
  if type(v) == "string" then return "'" .. v .. "'" end
  if type(v) == "number" or type(v) == "boolean" then return tostring(v) end
  local name = F.class_of(v) or type(v)
  return (name:find "^[aeiou]" and "an " or "a ") .. name
end

--- An object of a class, or an error that says what was given instead. what: who wants it; name: the class.
function F.object(what, v, name)
  if F.class_of(v) == name and rawget(v, "handle") ~= nil then return v end
  F.raise(("%s wants %s; got %s"):format(what, WANTED[name], F.class_of(v) == name and "one that was freed" or F.shown(v)))
end

--- The handle of an object that need not be given: nil then.
function F.handle(what, v, name) return v and F.object(what, v, name).handle or nil end

--- A whole number that C's int holds, or an error. what: who wants it; name: what it is, "a token id".
function F.whole(what, v, name)
  if type(v) == "number" and v % 1 == 0 and math.abs(v) < 2 ^ 31 then return v end
  F.raise(("%s wants %s, a whole number; got %s"):format(what, name, F.shown(v)))
end

--- A list of token ids as C takes it, or an error that says what is no id. what: who wants it.
function F.ids(what, ids)
  if type(ids) ~= "table" or F.class_of(ids) then F.raise(("%s wants a list of token ids; got %s"):format(what, F.shown(ids))) end
  local list = ffi.new("int32_t[?]", math.max(1, #ids))
  for i = 1, #ids do
    local id = ids[i]
    if type(id) ~= "number" or id % 1 ~= 0 or math.abs(id) >= 2 ^ 31 then
      F.raise(("%s: token id %d of %d is %s, not a whole number"):format(what, i, #ids, F.shown(id)))
    end
    list[i - 1] = id
  end
  return list
end

--- Raises the message of the last failure when status is not 0, at the line of the script.
function F.check(status)
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
