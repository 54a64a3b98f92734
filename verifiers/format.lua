--- format.lua: 1 when a completion has the asked form, whatever its answer; 0 else. For the reward's format part, or to train one.
---
--- config.form, one of
---   "hash"     ends in one line `#### NUMBER`, and has no other `####` (default)
---   "boxed"    has one \boxed{...}, closed and not empty
---   "think"    <think>...</think> then <answer>...</answer>, each once, neither empty, nothing before or after
---   "json"     is one JSON value, and nothing else
--- or config.pattern (PCRE2, with config.flags), or config.lua_pattern: the whole completion must match it, spaces at its ends aside.
--- config.min_words: that many words must stand before the answer (hash, boxed) or inside <think>: an answer without its reasoning
--- has not the form. config.stopped = true: a completion that was cut off at the length limit has not the form either.
local M = {}

local function trim(s) return s:match("^%s*(.*%S)") or "" end

local function words(s)
  local _, n = s:gsub("%S+", "")
  return n
end

-- Each takes the trimmed text and gives the reasoning before the answer, or nil and why not.
local forms = {}

function forms.hash(text)
  local before, answer = text:match("^(.-)####[ \t]*([^\r\n]*)$")
  if not before then return nil, "does not end in a line of ####" end
  if (before .. answer):find("####", 1, true) then return nil, "more than one ####" end
  if not answer:find("^%-?%$?[%d,]*%.?%d+$") then return nil, "no number after ####" end
  if before ~= "" and not before:find("\n[ \t]*$") then return nil, "#### is not on its own line" end
  return before
end

function forms.boxed(text)
  local _, n = text:gsub("\\boxed", "")
  if n ~= 1 then return nil, n .. " boxes" end
  local before, box = text:match("^(.-)\\boxed%s*(%b{})")
  if not box or not box:find("[^%s{}]") then return nil, "the box is not closed or is empty" end
  return before
end

function forms.think(text)
  local thought, answer = text:match("^<think>(.-)</think>%s*<answer>(.-)</answer>$")
  if not thought then return nil, "not <think>...</think><answer>...</answer>" end
  if (thought .. answer):find("</?think>") or (thought .. answer):find("</?answer>") then return nil, "a tag stands twice" end
  if trim(thought) == "" or trim(answer) == "" then return nil, "an empty block" end
  return thought
end

function forms.json(text)
  local ok, why = pcall(require("tl").json.decode, text)
  if not ok then return nil, "not JSON: " .. tostring(why) end
  return text
end

local function pattern_form(config)
  if config.lua_pattern then
    local pattern = "^" .. config.lua_pattern:gsub("^%^", ""):gsub("%$$", "") .. "$"
    return function(text) return text:find(pattern) and text or nil, "does not match" end
  end
  local re = require("tl.regex").compile(config.pattern, config.flags)
  return function(text) return re:full(text) and text or nil, "does not match" end
end

--- The verifier for a config { form =, pattern =, flags =, lua_pattern =, min_words =, stopped = }.
function M.make(config)
  config = config or {}
  local form = (config.pattern or config.lua_pattern) and pattern_form(config) or forms[config.form or "hash"]
  if not form then error("verifiers.format: form is '" .. tostring(config.form) .. "'; hash, boxed, think or json", 2) end
  return function(_, completion)
    if config.stopped and completion.finish == "length" then return 0, { reason = "cut off" } end
    local reasoning, why = form(trim(completion.text))
    if not reasoning then return 0, { reason = why } end
    if config.min_words and words(reasoning) < config.min_words then return 0, { reason = "reasoning is too short" } end
    return 1
  end
end

M.verify = M.make()

return setmetatable(M, { __call = function(_, problem, completion) return M.verify(problem, completion) end })
