--- lm_eval.lua: GSM8K as lm-evaluation-harness scores it: an answer is taken out by a regular expression and compared with the gold as text.
---
---   config.filter  "strict-match" (default)   the first `#### (\-?[0-9\.\,]+)`
---                  "flexible-extract"         the last match of (-?[$0-9.,]{2,})|(-?[0-9]+)
--- Before comparing, "," and "$", everything up to "#### ", and a full stop at the end are taken away, and case is ignored. For training use
--- verifiers.math: here 5.0 is not 5.
local regex = require "tl.regex"

local M = {}

local strict, flexible = regex.compile("#### (\\-?[0-9\\.\\,]+)"), regex.compile("(-?[$0-9.,]{2,})|(-?[0-9]+)")

local function plain(s) return (s:gsub(",", ""):gsub("%$", ""):gsub("^.*#### ", ""):gsub("%.$", ""):lower()) end

local filters = {
  ["strict-match"] = function(text)
    local found = strict:match(text)
    return found and found[1]
  end,
  ["flexible-extract"] = function(text)
    local last
    for captures in flexible:each(text) do last = captures[0] end
    return last
  end,
}

--- The verifier for a config { filter = }.
function M.make(config)
  local name = config and config.filter or "strict-match"
  local filter = filters[name] or error("verifiers.lm_eval: filter is '" .. tostring(name) .. "'; strict-match or flexible-extract", 2)
  return function(problem, completion)
    local gold = tostring(problem.answer or error("problem.answer is missing"))
    local answer = filter(completion.text)
    if not answer then return 0, { reason = "no answer" } end
    return plain(answer) == plain(gold) and 1 or 0, { answer = answer, gold = gold }
  end
end

M.about = { name = "lm_eval", wants = { "answer" }, range = { 0, 1 }, summary = "GSM8K as lm-evaluation-harness scores it" }
M.verify = M.make()

return setmetatable(M, { __call = function(_, problem, completion) return M.verify(problem, completion) end })
