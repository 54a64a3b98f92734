--- eval/items.lua: the file of an evaluation's items, a JSON object a line: first { "eval": settings }, then an item for each completion
--- { task, arm = "base" | "adapter", id, sample, question, answer, text, reward, outcome, correct, flexible, n_tokens, finish, repetitive;
--- message and flexible_outcome, where a verifier failed }. Of two items for one completion the later one counts.
---
--- Items are appended as completions end, so a run that was cut short goes on where it stopped: a second run with the same file and the same
--- settings takes what stands there and samples the rest; with other settings it refuses. A last line that was cut off is left out.
local fs = require "tl.fs"
local json = require "tl.json"

local items = {}

local function read_lines(path)
  if not fs.kind(path) then return nil end
  local text = fs.read(path)
  local list, n, good = {}, 0, 0
  for line, ending in text:gmatch "([^\n]*)(\n?)" do
    if line == "" and ending == "" then break end
    n = n + 1
    local v, why = json.parse(line)
    if type(v) ~= "table" then
      if ending == "" then break end
      error(("%s:%d: %s"):format(path, n, why or "not a JSON object"), 3)
    end
    if ending == "" then break end
    list[#list + 1] = v
    good = good + #line + 1
  end
  return list, text:sub(1, good)
end

--- Reads a file of items: the settings and the items.
function items.read(path)
  local list = read_lines(path)
  if not list then error(path .. ": no such file", 2) end
  if not list[1] or type(list[1].eval) ~= "table" then error(path .. ": the first line has no \"eval\"; not a file of items", 2) end
  return table.remove(list, 1).eval, list
end

--- Opens a file for appending, and gives what is in it: file, items. settings must be those of its first line.
function items.open(path, settings)
  local list, good = read_lines(path)
  local line = json.encode(settings)
  if list and list[1] then
    local old = type(list[1].eval) == "table" and list[1].eval or {}
    for k, v in pairs(settings) do
      if json.encode(old[k] == nil and json.null or old[k]) ~= json.encode(v) then
        error(("%s holds items of another evaluation: %s is %s there and %s now; give another file, or remove it"):format(path, k,
          json.encode(old[k] == nil and json.null or old[k]), json.encode(v)), 0)
      end
    end
    fs.write(path, good)
  else
    fs.write(path, '{"eval":' .. line .. "}\n")
    list = { {} }
  end
  local file, why = io.open(path, "ab")
  if not file then error(why, 0) end
  table.remove(list, 1)
  return file, list
end

--- Appends an item; an error when it cannot be written.
function items.append(file, item)
  local ok, why = file:write(json.encode(item), "\n")
  if ok then ok, why = file:flush() end
  if not ok then error("cannot write an evaluation's items: " .. tostring(why), 0) end
end
jit.off(items.append)  -- as tl.report's lines: a compiled flush that fails is called again, and then succeeds

return items
