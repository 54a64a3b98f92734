--- fs.lua: paths and folders.
local F = require "tl.ffi"
local ffi = require "ffi"

local fs = {}

--- A path, or an error that says what was given instead, at the line of the script. what: who wants it.
function fs.path(what, path)
  if type(path) == "string" then return path end
  F.raise(("%s wants a path; got %s"):format(what, F.shown(path)))
end

--- "file", "folder", "other", or nil when nothing is there.
function fs.kind(path)
  return ({ [0] = nil, "file", "folder", "other" })[F.C.tl_path_kind(fs.path("fs.kind", path))]
end

--- The names in a folder, sorted; nil and a message when it cannot be read.
function fs.list(path)
  local out = ffi.new "char *[1]"
  if F.C.tl_list_dir(fs.path("fs.list", path), out) ~= 0 then return nil, ffi.string(F.C.tl_last_error()) end
  return require("tl.json").decode(F.take_string(out[0]))
end

--- Size of a file in bytes, or nil.
function fs.bytes(path)
  local n = tonumber(F.C.tl_file_bytes(fs.path("fs.bytes", path)))
  return n >= 0 and n or nil
end

--- What changes when a file is written or replaced, as text: its size, the time of its last change in nanoseconds, device and inode. "" when
--- nothing is there. Two writes of the same size within one tick of the system's clock (some milliseconds) may look like one.
---@return string
function fs.stamp(path)
  local s = ffi.new "int64_t[4]"
  if not F.C.tl_file_stamp(fs.path("fs.stamp", path), s) then return "" end
  local parts = {}
  for i = 0, 3 do parts[i + 1] = tostring(s[i]):match "%-?%d+" end
  return table.concat(parts, "/")
end

--- What the first line that matches a pattern has captured (no pattern: the first line); nil when there is none, or no file.
---@param path string
---@param pattern string?
---@return string?
function fs.first_line(path, pattern)
  local file = io.open(path, "r")
  if not file then return nil end
  local found
  for line in file:lines() do
    found = line:match(pattern or "^.*$")
    if found then break end
  end
  file:close()
  return found
end

--- Makes a folder, and those above it.
function fs.mkdirs(path) F.check(F.C.tl_mkdirs(fs.path("fs.mkdirs", path))) end

--- A file opened for reading, as io.open gives it; a folder is none: nil and why.
function fs.open(path)
  local f, why = io.open(path, "rb")
  if not f or fs.kind(path) ~= "folder" then return f, why end
  f:close()
  return nil, path .. ": Is a directory"
end

--- The whole content of a file.
function fs.read(path)
  local f, why = io.open(fs.path("fs.read", path), "rb")
  if not f then error(why, 2) end
  local text, bad = f:read "*a"
  f:close()
  if not text then error(path .. ": " .. tostring(bad), 2) end
  return text
end

--- Writes a whole file: the old content or the new is there, never a part.
function fs.write(path, text)
  fs.path("fs.write", path)
  if type(text) ~= "string" then F.raise("fs.write wants a text; got " .. F.shown(text)) end
  F.check(F.C.tl_write_file(path, text, #text))
end

--- A symbolic link at path to target; replaces a link that was there.
function fs.symlink(target, path) F.check(F.C.tl_symlink(fs.path("fs.symlink", target), fs.path("fs.symlink", path))) end

--- SHA-256 of a file, in hexadecimal.
function fs.sha256(path)
  local out = ffi.new "char[65]"
  F.check(F.C.tl_sha256_file(fs.path("fs.sha256", path), out))
  return ffi.string(out)
end

return fs
