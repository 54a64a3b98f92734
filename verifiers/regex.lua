--- regex.lua: a regular expression (PCRE2) decides, given by the problem or by the config.
---
---   pattern   problem.pattern, else config.pattern
---   flags     problem.flags, else config.flags: i caseless, m multi-line, s dot matches newline, x extended
---   which     "last" (default), "first", or "full": the whole completion, spaces at its ends aside
---   compare   what is done with the group named `answer`, or else group 1, when the pattern has one and the problem an answer:
---             "math" (default: equal as verifiers.math says), "text" (the same text, spaces at the ends aside), "none"
---
--- Reward 1 when the pattern matches and the compared group equals problem.answer, else 0. Without a group or an answer the match
--- alone counts. A pattern that backtracks without end is an error, not a 0.
local regex = require "tl.regex"
local math_verifier = require "verifiers.math"

local M = {}

local function trim(s) return s:match("^%s*(.*%S)") or "" end

local function find(re, text, which)
  if which == "first" then return re:match(text) end
  if which == "full" then
    text = trim(text)
    local first, last, captures = re:find(text)
    return first == 1 and last == #text and captures or nil
  end
  local found
  for captures in re:each(text) do found = captures end
  return found
end

local function one_of(name, value, allowed)
  if not (" " .. allowed .. " "):find(" " .. value .. " ", 1, true) then
    error(("verifiers.regex: %s is '%s'; it is one of %s"):format(name, tostring(value), allowed), 3)
  end
  return value
end

--- The verifier for a config { pattern =, flags =, which =, compare = }.
function M.make(config)
  config = config or {}
  local which = one_of("which", config.which or "last", "last first full")
  local compare = one_of("compare", config.compare or "math", "math text none")
  if config.pattern then regex.compile(config.pattern, config.flags) end -- a wrong pattern shows at the start
  return function(problem, completion)
    local pattern = problem.pattern or config.pattern or error("neither the problem nor the config has a pattern")
    local captures = find(regex.compile(pattern, problem.flags or config.flags), completion.text, which)
    if not captures then return 0, { reason = "no match" } end
    local got = captures.answer or captures[1]
    if not got or compare == "none" or problem.answer == nil then return 1, { match = captures[0] } end
    local gold = math_verifier.gold(problem.answer)
    local same
    if compare == "math" then same = math_verifier.equal(got, gold) else same = trim(got) == trim(gold) end
    return same and 1 or 0, { answer = got, gold = gold }
  end
end

M.verify = M.make()

return setmetatable(M, { __call = function(_, problem, completion) return M.verify(problem, completion) end })
