-- check.lua: what the Lua tests share. A test prints "ok NAME" or "not ok NAME: why"; done() ends with exit code 1 when one failed.
--   package.path = arg[0]:match "^(.*)/" .. "/?.lua;" .. package.path
--   local check = require "check"
local check = {}
local failed = false

function check.test(name, fn)
  local ok, why = xpcall(fn, function(e) return type(e) == "table" and tostring(e) or e end)
  print(ok and "ok " .. name or "not ok " .. name .. ": " .. tostring(why):gsub("\n", " | "))
  failed = failed or not ok
end

function check.skip(name, why) print("skip " .. name .. ": " .. why) end

local function text(v)
  if type(v) ~= "table" then return type(v) == "string" and ("%q"):format(v) or tostring(v) end
  local parts = {}
  for k, x in pairs(v) do parts[#parts + 1] = tostring(k) .. "=" .. text(x) end
  table.sort(parts)
  return "{" .. table.concat(parts, " ") .. "}"
end

--- Deep equality.
function check.equal(found, expected, what)
  if text(found) ~= text(expected) then error(("%s%s, expected %s"):format(what and what .. ": " or "", text(found), text(expected)), 2) end
end

function check.near(found, expected, tolerance, what)
  if not (math.abs(found - expected) <= tolerance) then error(("%s%g, expected %g within %g"):format(what and what .. ": " or "", found, expected, tolerance), 2) end
end

--- fn(...) raises a message that matches the pattern; returns the error value.
function check.raises(pattern, fn, ...)
  local ok, why = pcall(fn, ...)
  if ok then error("no error, expected one with '" .. pattern .. "'", 2) end
  if not tostring(why):find(pattern) then error(("the error is '%s', expected '%s'"):format(tostring(why), pattern), 2) end
  return why
end

--- An adapter's numbers as text, every bit of them.
function check.numbers(adapter)
  local t = {}
  for i, v in ipairs(adapter:parameters()) do t[i] = ("%.17g"):format(v) end
  return table.concat(t, " ")
end

function check.done() os.exit(failed and 1 or 0, true) end

--- Runs a shell command: exit code, stdout, stderr.
function check.run(command)
  local out, err = os.tmpname(), os.tmpname()
  local status = os.execute(("( %s ) >%s 2>%s"):format(command, out, err))
  local function read(path)
    local f = assert(io.open(path, "rb"))
    local s = f:read "*a"
    f:close()
    os.remove(path)
    return s
  end
  return status > 255 and math.floor(status / 256) or status, read(out), read(err)
end

--- Writes a temporary file; returns its path.
function check.file(content, suffix)
  local path = os.tmpname()
  if suffix then
    os.remove(path)
    path = path .. suffix
  end
  local f = assert(io.open(path, "wb"))
  f:write(content)
  f:close()
  return path
end

--- The program under test, quoted for the shell.
check.tlrun = "'" .. require("tl.ffi").exe .. "'"

return check
