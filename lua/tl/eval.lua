--- eval.lua: accuracy of a model on problems, with its interval, and always beside the same-prompt base model (tlrun eval).
---
--- One sample a problem: the interval is Wilson's. k samples: avg@k (the accuracy), pass@k (unbiased), maj@k (the answer most samples give), and
--- the interval is the bootstrap's over problems (Wilson's on their number where all score alike). eval/stats.lua has the formulas, eval/protocols.lua the known evaluations by name, eval/items.lua
--- the file of items by which a run goes on and two runs are compared.
local F = require "tl.ffi"
local sample = require "tl.sample"
local turns = require "tl.turns"
local grpo = require "tl.grpo"
local verify = require "tl.verify"
local stats = require "tl.eval.stats"
local comm = require "tl.comm"
local log = require "tl.log"
local options = require "tl.options"
local data = require "tl.data"

local eval = {}

-- ---- sampling, with what is done already left out

-- Submits k completions of problem i: all alike, or with o.lengths those of equal length together. where[request] = { i, samples before it, ids }
local function submit(s, o, i, ids, k, settings, where)
  if not o.lengths then
    where[s:submit(ids, k, (i - 1) * k, settings)] = { i, 0, ids }
    return
  end
  local lengths, first = o.lengths(i), 1
  if type(lengths) ~= "table" or #lengths < k then error(("lengths gives %s; wanted the lengths of its %d samples"):format(F.shown(lengths), k), 0) end
  while first <= k do
    local last = first
    while last < k and lengths[last + 1] == lengths[first] do last = last + 1 end
    settings.min_new_tokens, settings.max_new_tokens = lengths[first] - 1, lengths[first]
    where[s:submit(ids, last - first + 1, (i - 1) * k + first - 1, settings)] = { i, first - 1 }
    first = last + 1
  end
end

-- done[i][s]: the item of sample s of problem i; on_completion gets every problem's number and completion whose item is missing
local function sample_missing(o, k, done, on_completion)
  local tok, where, several = o.model:tokenizer(), {}, turns.of("eval.run", o)
  local s = sample.sampler(o.model, { adapter = o.adapter, max_sequences = o.max_sequences, prefix_cache = o.prefix_cache ~= false })
  local settings = { temperature = o.temperature or 0, top_p = o.top_p, max_new_tokens = o.max_new_tokens or 256, min_new_tokens = o.min_new_tokens,
    seed = o.seed or 0, stop = o.stop, ignore_eos = o.ignore_eos }
  local total, finished = 0, 0
  for i in comm.mine(#o.problems) do
    local problem, missing = o.problems[i], false
    for j = 1, k do missing = missing or not (done[i] and done[i][j]) end
    if missing then
      data.about(problem, i, submit, s, o, i, grpo.prompt_ids(tok, o.prompt, problem, i), k, settings, where)
      total = total + k
    end
  end
  local function about(request, index)
    local i, _, ids = unpack(where[request])
    return { problem = o.problems[i], prompt = ids, settings = settings, sequence_id = (i - 1) * k + index - 1 }
  end
  for c in (several or s):completions(s, about) do
    c.text, c.n_tokens = c.text or sample.text(s.tokenizer, c), c.n_tokens or #c.ids
    finished = finished + 1
    local at = where[c.request]
    c.index = at[2] + c.index
    on_completion(at[1], c)
    if o.progress then o.progress(finished, total) end
  end
  local seconds = s:stats()
  s:free()
  if several then several:free() end
  return seconds.prefill_seconds + seconds.decode_seconds
end

local function answer_in(message)
  local ok, info = pcall(require("tl.json").decode, message)
  return ok and type(info) == "table" and type(info.answer) == "string" and info.answer or nil
end

-- a pool and what waits in it. Of ranks that share a model the first judges, and tells the others (share).
local function judge_with(o, config)
  if comm.shard > 0 then
    local function nothing() end
    return { submit = nothing, drain = nothing, free = nothing }
  end
  local pool = verify.pool { verifier = o.verifier or "verifiers.math", config = config, timeout_ms = o.timeout_ms, workers = o.workers, inline = o.inline }
  local of, waiting, j = {}, 0, {}
  function j.submit(problem, c, done)
    if c.verdict then return done(c.verdict) end  -- the reply failed
    of[pool:submit(problem, { text = c.text, n_tokens = c.n_tokens, finish = c.finish, turns = c.turns, state = c.state })] = done
    waiting = waiting + 1
  end
  function j.drain(wait_ms)
    while waiting > 0 do
      local v = pool:take(wait_ms)
      if not v then
        if wait_ms == 0 then return end
      else
        of[v.job](v)
        waiting = waiting - 1
      end
    end
  end
  function j.free() pool:free() end
  return j
end

-- ---- what could not be judged

local FAILED = { error = true, timeout = true, memory = true }

-- how many items' verifier failed, how many it had no opinion of, and the first message
local function unjudged(items, field)
  local failed, abstained, message = 0, 0, nil
  for _, item in ipairs(items) do
    local outcome = item[field]
    if FAILED[outcome] then failed, message = failed + 1, message or item.message end
    if outcome == "abstain" then abstained = abstained + 1 end
  end
  return failed, abstained, message
end

-- An accuracy of answers that nobody judged is none: said when there are some, an error when there is nothing else.
local function complain(r)
  local total, failed, abstained, message = #r.items, unjudged(r.items, "outcome")
  r.failed, r.abstained, r.message = failed, abstained, message
  if total > 0 and failed + abstained == total then
    error(failed > 0 and ("%d of %d answers could not be judged: %s"):format(total, total, message) or ("the verifier abstained on all %d answers"):format(total), 0)
  end
  if comm.rank > 0 then return end
  if failed > 0 then log.warn("%d of %d answers could not be judged: %s; they count as wrong", failed, total, message) end
  if abstained > 0 then log.warn("the verifier abstained on %d of %d answers; they count as wrong", abstained, total) end
end

-- ---- aggregation

-- right when the answer that most samples give is; the earliest of equals. An answer is what the verifier's info has as one
local function majority(list)
  local groups = {}
  for _, item in ipairs(list) do
    if item.given then
      local found
      for _, g in ipairs(groups) do
        if g.given == item.given or require("verifiers.math").equal(item.given, g.given) then found = g break end
      end
      if found then found.n = found.n + 1 else groups[#groups + 1] = { given = item.given, n = 1, correct = item.correct } end
    end
  end
  local best
  for _, g in ipairs(groups) do
    if not best or g.n > best.n then best = g end
  end
  return best ~= nil and best.correct
end

local function share(list, field)
  local n = 0
  for _, item in ipairs(list) do n = n + (item[field] and 1 or 0) end
  return n / math.max(1, #list)
end

-- accuracy of the field `correct` or `flexible` of all items: accuracy, interval, and the mean of each problem
local function accuracy(r, field, k, seed)
  local scores, right = {}, 0
  for i, list in ipairs(r.by_problem) do
    scores[i] = share(list, field)
    for _, item in ipairs(list) do right = right + (item[field] and 1 or 0) end
  end
  local total, n = math.max(1, #r.items), math.max(1, #r.by_problem)
  local lo, hi = 0, 0
  if k > 1 then lo, hi = stats.bootstrap(scores, seed) end
  if lo == hi then lo, hi = require("tl.report").wilson(right / total * n, n) end -- one sample; or all problems alike, where the bootstrap has no width
  return right / total, { lo, hi }, scores
end

local function aggregate(r, k, o)
  local length, clipped, repetitive = 0, 0, 0
  for _, item in ipairs(r.items) do
    length = length + item.n_tokens
    clipped = clipped + (item.finish == "length" and 1 or 0)
    repetitive = repetitive + (item.repetitive and 1 or 0)
    r.outcomes[item.outcome] = (r.outcomes[item.outcome] or 0) + 1
  end
  local total = math.max(1, #r.items)
  r.accuracy, r.ci95, r.scores = accuracy(r, "correct", k, o.seed)
  if o.flexible then
    r.flexible = {}
    r.flexible.accuracy, r.flexible.ci95 = accuracy(r, "flexible", k, o.seed)
    r.flexible.failed = unjudged(r.items, "flexible_outcome")
  end
  r.mean_length, r.clipped_ratio, r.repetition_ratio, r.samples = length / total, clipped / total, repetitive / total, k
  if k == 1 then return r end
  r.pass_at = {}
  local given, voted = share(r.items, "given"), 0
  for _, list in ipairs(r.by_problem) do voted = voted + (majority(list) and 1 or 0) end
  if given > 0 or r.accuracy == 0 then r.majority = voted / math.max(1, #r.by_problem) end
  local at = 1
  while at <= k do
    local sum = 0
    for _, list in ipairs(r.by_problem) do
      local c = 0
      for _, item in ipairs(list) do c = c + (item.correct and 1 or 0) end
      sum = sum + stats.pass_at_k(#list, c, at)
    end
    r.pass_at[tostring(at)] = sum / math.max(1, #r.by_problem)
    at = at < k and math.min(2 * at, k) or k + 1
  end
  return r
end

-- the items that others made, or judged, into done; what is asked is in the tag, so that ranks which ask for different things find out
local function share(o, k, done)
  local mine = {}
  for i in comm.mine(#o.problems) do mine[#mine + 1] = { i, done[i] } end
  local tag = ("evaluation of %d problems, %d samples at temperature %g, seed %d, %s"):format(#o.problems, k, o.temperature or 0, o.seed or 0,
    o.adapter and "adapter " .. require("tl.optim").fingerprint(o.adapter) or "base model")
  mine = comm.lead(tag, mine)
  for part, list in ipairs(comm.gather(tag, mine)) do
    for _, of in ipairs((part - 1 ~= comm.part or comm.shard > 0) and list or {}) do done[of[1]] = of[2] end
  end
end

--- The options of eval.run (options.names).
eval.OPTIONS = options.names {
  any = "model adapter problems verifier prompt stop reply", fn = "lengths progress on_item", map = "verifier_config flexible done",
  number = "temperature top_p correct", count = "max_new_tokens min_new_tokens samples max_sequences workers timeout_ms", seed = "seed", boolean = "ignore_eos prefix_cache inline",
}

--- Accuracy on problems. Options: model, adapter (nil: the base), problems, verifier ("verifiers.math"), verifier_config, flexible (a second
--- config of the same verifier, reported beside the first), prompt, max_new_tokens (256), min_new_tokens, temperature (0: greedy), top_p, stop, ignore_eos,
--- lengths (function(i) -> how many tokens each sample of problem i has: it does not end before and is cut there), samples (1; more are averaged), seed, max_sequences, prefix_cache (true: what prompts have in common is computed once), correct (0.5: a reward above this counts as right), progress: function(done, total); done: items of an earlier
--- run, on_item: function(item), called as each is judged; reply: as in tl.grpo.trainer, with max_new_tokens for all turns and replies together; workers, timeout_ms, inline: as in tl.verify.pool.
--- Returns { n, samples, accuracy, ci95, mean_length, clipped_ratio, repetition_ratio, outcomes, failed, abstained, items, scores; message, flexible, pass_at,
--- majority (nil where the verifier's info does not have the answers) }. failed: how many answers the verifier could not judge (an error, the time, the memory; message is the first one's), abstained: of how many
--- it had no opinion; these count as wrong, and a warning says so. When there are no others it is an error. Items of an earlier run whose verifier failed
--- are sampled and judged again.
function eval.run(o)
  options.only("eval.run", o, eval.OPTIONS)
  F.object("eval.run", o.model, "model")
  F.handle("eval.run", o.adapter, "adapter")
  verify.given("eval.run", o.verifier or "verifiers.math")
  if (o.samples or 1) < 1 then F.raise(("eval.run: samples wants a whole number from 1; got %d"):format(o.samples)) end
  if o.reply and o.lengths then F.raise("eval.run: lengths are of completions of one turn; reply makes several") end
  data.check("eval.run", o.problems, verify.wants_answer(o.verifier or "verifiers.math"))
  local k, done, index = o.samples or 1, {}, {}
  for i, p in ipairs(o.problems) do
    local id = tostring(p.id or i)
    if index[id] and (o.on_item or (o.done or {})[1]) then
      error(("%s: the id %s is that of %s too; items are told apart by it"):format(data.where(p, i), id, data.where(o.problems[index[id]], index[id])), 0)
    end
    index[id] = i
  end
  for _, item in ipairs(o.done or {}) do
    local i = not FAILED[item.outcome] and index[tostring(item.id)]
    if i then done[i] = done[i] or {}; done[i][item.sample] = item end
  end
  local main, second = judge_with(o, o.verifier_config), o.flexible and judge_with(o, o.flexible) or nil
  local seconds = sample_missing(o, k, done, function(i, c)
    done[i] = done[i] or {}
    if done[i][c.index] then return end
    local problem, waiting = o.problems[i], second and 2 or 1
    local item = { id = tostring(problem.id or i), sample = c.index, question = problem.question, answer = problem.answer, text = c.text, n_tokens = c.n_tokens,
      finish = c.finish, turns = c.turns, repetitive = stats.is_repetitive(c.ids) }
    done[i][c.index] = item
    local function settled()
      waiting = waiting - 1
      if waiting == 0 and o.on_item then o.on_item(item) end
    end
    main.submit(problem, c, function(v)
      item.outcome, item.correct = v.outcome, v.outcome == "ok" and v.reward > (o.correct or 0.5)
      item.reward, item.given = v.outcome == "ok" and v.reward or nil, answer_in(v.message)
      if FAILED[v.outcome] then item.message = v.message end
      settled()
    end)
    if second then
      second.submit(problem, c, function(v)
        item.flexible = v.outcome == "ok" and v.reward > (o.correct or 0.5)
        if v.outcome ~= "ok" then item.flexible_outcome = v.outcome end
        settled()
      end)
    end
    main.drain(0)
    if second then second.drain(0) end
  end)
  main.drain(1000)
  main.free()
  if second then second.drain(1000); second.free() end
  if comm.size > 1 then share(o, k, done) end
  local r = { n = #o.problems, items = {}, by_problem = {}, outcomes = {}, seconds = seconds }
  for i = 1, #o.problems do
    r.by_problem[i] = {}
    for j = 1, k do
      r.by_problem[i][j] = done[i][j]
      r.items[#r.items + 1] = done[i][j]
    end
  end
  complain(r)
  return aggregate(r, k, o)
end

--- The fields of a result that go into JSON documents.
function eval.summary(r)
  return { n = r.n, accuracy = r.accuracy, ci95 = r.ci95, mean_length = r.mean_length, clipped_ratio = r.clipped_ratio, repetition_ratio = r.repetition_ratio,
    outcomes = r.outcomes, failed = r.failed, abstained = r.abstained, message = r.message, samples = r.samples, flexible = r.flexible, pass_at = r.pass_at, majority = r.majority }
end

local BOTH = options.names({ any = "name headline", fn = "log", map = "also" }, eval.OPTIONS)

--- Greedy and sampled accuracy on the same problems, as a training recipe measures before and after. Options: those of eval.run, with `temperature`
--- and `samples` for the sampled half; name and log = function(format, ...): each half is told as a line; also = { NAME = function(item) -> boolean }:
--- shares of the completions that are counted beside the accuracy; headline ("greedy"): the half whose fields the result has at its top too.
--- Returns { greedy = summary, sampled = summary, and the headline's fields }.
function eval.greedy_and_sampled(o)
  options.only("eval.greedy_and_sampled", o, BOTH)
  local out = {}
  for _, mode in ipairs { "greedy", "sampled" } do
    local run = setmetatable(mode == "greedy" and { temperature = 0, samples = 1 } or {}, { __index = o })
    local r = eval.run(run)
    local s, words = eval.summary(r), {}
    for name, holds in pairs(o.also or {}) do
      local n = 0
      for _, item in ipairs(r.items) do n = n + (holds(item) and 1 or 0) end
      s[name] = n / math.max(1, #r.items)
      words[#words + 1] = (", %s %s"):format(name:gsub("_", " "), require("tl.report").percent(n, #r.items))
    end
    table.sort(words)
    if o.log then o.log("%s, %s: right %s%s, %.1f tokens", o.name or "model", mode, require("tl.report").interval(r.accuracy, r.ci95), table.concat(words), r.mean_length) end
    out[mode] = s
  end
  for k, v in pairs(out[o.headline or "greedy"]) do out[k] = v end
  return out
end

--- Two files of items, compared problem by problem: per task { n, a, b, fixed, broken, p, difference, ci95, fixed_ids, broken_ids }. arm: "adapter"
--- where a file has it, else "base".
function eval.compare(path_a, path_b)
  local function load(path)
    local _, list = require("tl.eval.items").read(path)
    local tasks, has_adapter, last = {}, {}, {}
    local function key(item) return ("%s\0%s\0%s\0%s"):format(item.task, item.arm, item.id, item.sample) end
    for i, item in ipairs(list) do
      last[key(item)] = i  -- what could not be judged at first may stand there once more
      if item.arm == "adapter" then has_adapter[item.task] = true end
    end
    for i, item in ipairs(list) do
      if last[key(item)] == i and item.arm == (has_adapter[item.task] and "adapter" or "base") then
        local t = tasks[item.task] or {}
        tasks[item.task] = t
        t[item.id] = t[item.id] or { n = 0, right = 0 }
        t[item.id].n, t[item.id].right = t[item.id].n + 1, t[item.id].right + (item.correct and 1 or 0)
      end
    end
    return tasks
  end
  local a, b, out = load(path_a), load(path_b), {}
  for task, in_a in pairs(a) do
    if b[task] then
      local ids, before, after, fixed, broken = {}, {}, {}, {}, {}
      for id in pairs(in_a) do if b[task][id] then ids[#ids + 1] = id end end
      table.sort(ids)
      for i, id in ipairs(ids) do
        before[i], after[i] = in_a[id].right / in_a[id].n, b[task][id].right / b[task][id].n
        if before[i] <= 0.5 and after[i] > 0.5 then fixed[#fixed + 1] = id elseif before[i] > 0.5 and after[i] <= 0.5 then broken[#broken + 1] = id end
      end
      local r, sum_a, sum_b = stats.paired(before, after), 0, 0
      for i = 1, #ids do sum_a, sum_b = sum_a + before[i], sum_b + after[i] end
      r.a, r.b = sum_a / math.max(1, #ids), sum_b / math.max(1, #ids)
      r.fixed_ids, r.broken_ids = require("tl.json").array(fixed), require("tl.json").array(broken)
      out[task] = r
    end
  end
  if not next(out) then error(("%s and %s have no task in common"):format(path_a, path_b), 2) end
  return out
end

return eval
