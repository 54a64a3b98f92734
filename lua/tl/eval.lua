--- eval.lua: accuracy of a model on problems, with its 95% interval (Wilson), and always beside the same-prompt base model.
local sample = require "tl.sample"
local grpo = require "tl.grpo"

local eval = {}

--- Accuracy on problems. Options: model, adapter (nil: the base), problems, verifier ("verifiers.math"), verifier_config, prompt,
--- max_new_tokens (256), temperature (0: greedy), samples (1; more are averaged), seed, max_sequences, correct (0.5: a reward
--- above this counts as right), progress: function(done, total).
--- Returns {n, accuracy, ci95 = {lo, hi}, mean_length, clipped_ratio, outcomes, items}.
function eval.run(o)
  local tok = o.model:tokenizer()
  local prompts, k = {}, o.samples or 1
  for i, problem in ipairs(o.problems) do prompts[i] = grpo.prompt_ids(tok, o.prompt, problem) end
  local out, stats = sample.generate(o.model, prompts, { adapter = o.adapter, n = k, temperature = o.temperature or 0, top_p = o.top_p,
    max_new_tokens = o.max_new_tokens or 256, seed = o.seed or 0, max_sequences = o.max_sequences, progress = o.progress, stop = o.stop })
  local pool = require("tl.verify").pool { verifier = o.verifier or "verifiers.math", config = o.verifier_config, timeout_ms = o.timeout_ms, workers = o.workers }
  local job_of, waiting = {}, 0
  for i, problem in ipairs(o.problems) do
    for _, c in ipairs(out[i]) do
      job_of[pool:submit(problem, { text = c.text, n_tokens = #c.ids, finish = c.finish })] = c
      waiting = waiting + 1
    end
  end
  while waiting > 0 do
    local v = pool:take(1000)
    if v then job_of[v.job].verdict, waiting = v, waiting - 1 end
  end
  pool:free()
  local r = { n = #o.problems, items = {}, outcomes = {} }
  local right, length, clipped = 0, 0, 0
  for i, problem in ipairs(o.problems) do
    for _, c in ipairs(out[i]) do
      local v = c.verdict
      local ok = v.outcome == "ok" and v.reward > (o.correct or 0.5)
      r.outcomes[v.outcome] = (r.outcomes[v.outcome] or 0) + 1
      if ok then right = right + 1 end
      length, clipped = length + #c.ids, clipped + (c.finish == "length" and 1 or 0)
      r.items[#r.items + 1] = { id = problem.id, question = problem.question, answer = problem.answer, text = c.text, reward = v.reward,
        outcome = v.outcome, correct = ok, n_tokens = #c.ids, finish = c.finish }
    end
  end
  local total = math.max(1, #o.problems * k)
  r.accuracy, r.mean_length, r.clipped_ratio = right / total, length / total, clipped / total
  local lo, hi = require("tl.report").wilson(right, total)
  r.ci95, r.seconds = { lo, hi }, stats.prefill_seconds + stats.decode_seconds
  return r
end

--- The fields of a result that go into JSON documents.
function eval.summary(r) return { n = r.n, accuracy = r.accuracy, ci95 = r.ci95, mean_length = r.mean_length, clipped_ratio = r.clipped_ratio, outcomes = r.outcomes } end

return eval
