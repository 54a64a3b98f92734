--- math.lua: 1 when a completion's final answer equals the problem's, else 0. `problem.answer` is the gold.
---
--- Where the answer is looked for (config.extract): "strict" (default: the last `####` line or \boxed{}, whichever stands later), "hash",
--- "boxed", "phrase", "flexible", "any"; verifiers/math/extract.lua says what each means. Only one answer counts, so naming several gains
--- nothing; with config.several = "reject" a completion that gives different ones gets 0.
---
--- When two answers are equal: verifiers/math/compare.lua. In short: exact fractions first, then the symbolic normal form, then values at
--- several points to 1e-10; sets, intervals, tuples, matrices, equations and inequalities, texts and choices by their own rules.
---   config.tolerance = 1e-4     accepts that relative error between numbers (SimpleRL's evaluation)
---   config.decimals = 6         a decimal that shows so many places is taken as rounded there
---   config.decimal_comma        "1,5" may be 1.5 (default: only with extract = "any")
---
--- The gold may be a number, a plain answer, GSM8K's solution (after ####) or a solution with \boxed{}.
--- No process is started and no signal is used; the work of a comparison is bounded to milliseconds (info.reason says when it was cut).
local compare = require "verifiers.math.compare"
local extract = require "verifiers.math.extract"

local M = {}
local MAX_EXTRA = 1000 -- bytes by which an answer may be longer than the gold; beyond, it is not equal

local function trim(s) return s:match("^%s*()") > #s and "" or s:match("^%s*(.*%S)") end

--- The answers that stand in a text, in their order: a list of { text =, kind = "hash"|"boxed"|..., at = }.
---@param text string
---@param how string|nil "strict" (default), "hash", "boxed", "phrase", "flexible", "any"
---@param kinds table|nil for "any": { latex = true, expr = true }
function M.answers(text, how, kinds) return extract.finders[how or "strict"](text, kinds) end

--- Are two answers equal? Both are texts as they stand in a solution, without the marker.
---@param answer string
---@param gold string
---@param options number|table|nil a relative tolerance, or { tolerance =, decimals =, decimal_comma = }
function M.equal(answer, gold, options)
  if #answer > #gold + MAX_EXTRA then return false end
  if type(options) == "number" then options = { tolerance = options } end
  return compare.equal(answer, gold, options)
end

--- The answer in a gold field: after GSM8K's ####, in the last \boxed{}, or the whole field.
---@param field string|number
function M.gold(field)
  if type(field) == "number" then return ("%.15g"):format(field) end
  if type(field) ~= "string" then error("a problem's answer is a text or a number; got a " .. type(field), 0) end
  if #field < 40 and not field:find("[#\\]") then return trim(field) end
  local found = extract.finders.strict(field)
  if #found > 0 then return trim(found[#found].text) end
  return trim(field)
end

local function check(config)
  local find = extract.finders[config.extract or "strict"]
  if not find then
    error("verifiers.math: extract is '" .. tostring(config.extract) .. "'; strict, hash, boxed, phrase, flexible or any", 3)
  end
  if config.several and config.several ~= "last" and config.several ~= "reject" then
    error("verifiers.math: several is '" .. tostring(config.several) .. "'; last or reject", 3)
  end
  for _, k in ipairs { "tolerance", "decimals" } do
    if config[k] and type(config[k]) ~= "number" then error("verifiers.math: " .. k .. " is a number", 3) end
  end
  return find
end

--- The verifier for a config { extract =, several = "last"|"reject", tolerance =, decimals =, decimal_comma = }.
function M.make(config)
  config = config or {}
  local find = check(config)
  local options = { tolerance = config.tolerance, decimals = config.decimals, decimal_comma = config.decimal_comma or config.extract == "any" }
  return function(problem, completion)
    if problem.answer == nil or problem.answer == "" then error("problem.answer is missing") end
    local gold, found = M.gold(problem.answer), find(completion.text)
    local last = found[#found]
    if not last then return 0, { reason = "no answer", gold = gold } end
    local info = { answer = trim(last.text), gold = gold, answers = #found, method = last.kind }
    if config.several == "reject" then
      for i = 1, #found - 1 do
        if not M.equal(found[i].text, last.text, options) then
          info.reason = "several answers"
          return 0, info
        end
      end
    end
    local same, why = M.equal(last.text, gold, options)
    info.reason = why
    return same and 1 or 0, info
  end
end

M.about = { name = "math", wants = { "answer" }, range = { 0, 1 }, summary = "the final answer equals the gold" }
M.verify = M.make()

return setmetatable(M, { __call = function(_, problem, completion) return M.verify(problem, completion) end })
