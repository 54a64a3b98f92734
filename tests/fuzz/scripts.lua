-- scripts.lua: the Lua side of the targets of scripts.c. Each function takes an input and returns whether it was read, and
-- what was wrong with how it was or was not, or nothing.
local hub = require "tl.hub"
local jinja = require "tl.jinja"
local json = require "tl.json"
local V = require "tl.jinja.values"

-- a fuzzer wants many short runs
V.MAX_WORK, V.MAX_TEXT, V.MAX_LIST = 2e5, 2 ^ 20, 2e4

local context = json.decode([[{
  "messages": [{"role": "system", "content": "s x y"}, {"role": "user", "content": "ünï\n"}, {"role": "assistant", "content": ""}],
  "l": [3, 1.5, "b", null, true, [1], {"a": 2}], "d": {"b": 1, "a": [2.0]}, "y": "é", "add_generation_prompt": true,
  "tools": [{"type": "function", "function": {"name": "f", "parameters": {"properties": {"a": {"type": "string"}}}}}]
}]], V.json_number)

local fuzz, runs = {}, 0

-- an error of the program itself, not of its input
local function is_own(message) return message:find "%.lua:%d+:" ~= nil or message:find "^attempt to " ~= nil end

function fuzz.jinja(source)
  runs = runs + 1
  if runs % 500 == 0 then collectgarbage() end
  local ok, result = pcall(jinja.render, source, context)
  if type(result) ~= "string" then return false, "neither a text nor a message: " .. tostring(result) end
  if ok then return true end
  if not result:find "^chat template, line %d+: " or is_own(result) then return false, "not an error of a template: " .. result end
  return false
end

function fuzz.json(text)
  local v, why = json.parse(text, V.json_number)
  if v == nil then
    if type(why) ~= "string" or why:find "\n" or is_own(why) then return false, "not a message: " .. tostring(why) end
    return false
  end
  local plain = json.parse(text)
  local written = json.encode(plain)
  -- bytes that are not UTF-8 are written as U+FFFD, which may make one key of two
  if not written:find("\239\191\189", 1, true) and json.encode((json.parse(written))) ~= written then return true, "what is written is read as something else" end
  return true
end

function fuzz.hub(text)
  local ok, commit, files, paths = pcall(hub.answer, text, "the hub", { kind = "model", repo = "org/name", revision = "main" })
  if not ok then
    if type(commit) ~= "string" or is_own(commit) then return false, "not a message: " .. tostring(commit) end
    return false
  end
  for _, p in ipairs(paths) do
    if p:find("..", 1, true) or p:sub(1, 1) == "/" or not files[p] then return true, "a path that must not be: " .. p end
  end
  return true
end

return fuzz
