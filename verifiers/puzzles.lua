--- puzzles.lua: 1 when a completion solves its puzzle (a problem of tl.data.load "puzzles:KIND"), else 0. Any solution counts.
---
--- The answer is what stands in the last <answer>...</answer>; or, with config.marks = "any", in the last \boxed{...} or after the last ####.
--- config.format (0): the reward of an answer that stands between its marks and is wrong, to teach the form first.
local tl = require "tl"

local M = {}

local function answer_of(text, any)
  local found
  for inner in text:gmatch("<answer>(.-)</answer>") do found = inner end
  if found or not any then return found end
  for inner in text:gmatch("\\boxed(%b{})") do found = inner:sub(2, -2) end
  return found or text:match("^.*####%s*(.-)%s*$")
end

--- The verifier for a config { marks = "answer"|"any", format = 0 }.
function M.make(config)
  config = config or {}
  if config.marks and config.marks ~= "answer" and config.marks ~= "any" then error("verifiers.puzzles: marks is '" .. tostring(config.marks) .. "'; answer or any", 2) end
  return function(problem, completion)
    if type(problem.puzzle) ~= "table" then error("the problem has no puzzle; load it with tl.data.load \"puzzles:KIND\"", 0) end
    local answer = answer_of(completion.text, config.marks == "any")
    if not answer then return 0, { reason = "no answer" } end
    local ok, why = tl.puzzles.check(problem.puzzle, answer)
    return ok and 1 or config.format or 0, { answer = answer:sub(1, 200), reason = not ok and why or nil }
  end
end

M.about = { name = "puzzles", wants = { "puzzle" }, range = { 0, 1 }, summary = "the puzzle is solved" }
M.verify = M.make()

return setmetatable(M, { __call = function(_, problem, completion) return M.verify(problem, completion) end })
