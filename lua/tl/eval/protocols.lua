--- eval/protocols.lua: prompts, settings and scoring of known evaluations, by name. Options of the command line go before a protocol's.
---
---   tlrun                  gsm8k-hash prompt (chat for wordproblems and puzzles), greedy, verifiers.math: strict, beside extract = "any"
---   simplerl-qwen-boxed    SimpleRL-Zoo: chat, \boxed{}; temperature 1, top-p 0.95; relative tolerance 1e-4; 32 samples on AIME
---   simplerl-simple        SimpleRL-Zoo's "simple" prompt for base models; the same settings
---   lm-eval                lm-evaluation-harness' gsm8k: "Question: ...\nAnswer:", 5 worked examples, greedy, stop at "Question:";
---                          strict-match beside flexible-extract, compared as text. Its examples are drawn by Python's generator; here they are
---                          the first of the training set, so the prompts agree in form and not in which examples they show
local protocols = {}

local simplerl = { temperature = 1, top_p = 0.95, max_new_tokens = 2048, verifier = "verifiers.math", config = { extract = "boxed", tolerance = 1e-4 },
  flexible = { extract = "any", tolerance = 1e-4 }, samples = { aime24 = 32 } }

local function with(base, more)
  local t = {}
  for k, v in pairs(base) do t[k] = v end
  for k, v in pairs(more) do t[k] = v end
  return t
end

protocols.list = {
  tlrun = { style = "gsm8k-hash", styles = { wordproblems = "chat" }, temperature = 0, max_new_tokens = 256, verifier = "verifiers.math", config = {}, flexible = { extract = "any" } },
  ["simplerl-qwen-boxed"] = with(simplerl, { style = "qwen-boxed" }),
  ["simplerl-simple"] = with(simplerl, { style = "simple", config = { extract = "phrase", tolerance = 1e-4 }, stop = { "\nQuestion:" } }),
  ["lm-eval"] = { style = "qa", shots = 5, temperature = 0, max_new_tokens = 256, stop = { "Question:", "</s>", "<|im_end|>" }, verifier = "verifiers.lm_eval",
    config = { filter = "strict-match" }, flexible = { filter = "flexible-extract" } },
}

--- The names, sorted.
function protocols.names()
  local list = {}
  for name in pairs(protocols.list) do list[#list + 1] = name end
  table.sort(list)
  return list
end

--- The prompt of a problem after n worked examples: "Question: ...\nAnswer: ..." blocks with an empty line between.
function protocols.few_shot(examples)
  local parts = {}
  for i, e in ipairs(examples) do parts[i] = "Question: " .. e.question .. "\nAnswer: " .. (e.solution or e.answer) .. "\n\n" end
  local head = table.concat(parts)
  return function(problem) return head .. "Question: " .. problem.question .. "\nAnswer:" end
end

return protocols
