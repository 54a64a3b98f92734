--- probe.lua: steering or learning? What an adapter changed in a model, measured from several sides (tlrun probe):
---
---   reach        pass@k of the base against pass@1 of the adapted model; the problems that only the adapted one solves
---   length       pass@1 of the base when it writes as many tokens as the adapted model: does length alone explain the gain?
---   divergence   KL(adapted || base) per token on the adapted model's own completions, and where in them it sits
---   scale        accuracy with v scaled from -1 to 2: the share of the gain that is kept
---   transfer     accuracy of both on another data set
---   control      how many bits of random answers an adapter of this size can be made to hold
---
--- Each is a function of its own that returns a table for JSON; probe.reading puts them into plain words with their caveats.
--- The options are those of tl.eval.run (model, problems, verifier, verifier_config, prompt, max_new_tokens, seed, max_sequences, inline) and
--- adapter; temperature (1) is that of the sampled measurements.
local F = require "tl.ffi"
local eval = require "tl.eval"
local grpo = require "tl.grpo"
local options = require "tl.options"
local pass = require "tl.pass"
local philox = require "tl.philox"
local sample = require "tl.sample"
local stats = require "tl.eval.stats"

local probe = {}

-- one table of options serves all of them
local OPTIONS = options.names({ any = "ask", map = "scales lrs", fn = "fresh target log", count = "k steps", bytes = "memory" }, eval.OPTIONS)

-- level: as error's, 3 being who called a function of probe
local function given(what, o, level)
  level = level or 3
  options.only("probe." .. what, o, OPTIONS, level)
  F.object("probe." .. what, o.model, "model")
end

local function given_adapter(what, o)
  given(what, o, 4)
  F.object("probe." .. what, o.adapter, "adapter")
end

-- o with other fields before its own; false: none
local function over(o, more)
  return setmetatable({}, { __index = function(_, k)
    if more[k] ~= nil then return more[k] or nil end
    return o[k]
  end })
end

-- k samples of every problem from the base and from the adapted model: { base =, adapted = }, as from tl.eval.run
local function both_sampled(o)
  local function of(more) return eval.run(over(o, { samples = o.k or 16, temperature = o.temperature or 1, adapter = more })) end
  return { base = of(false), adapted = of(nil) }
end

-- ---- reach

local function pass_curve(r, k)
  local curve = {}
  for at = 1, k do
    local sum = 0
    for _, score in ipairs(r.scores) do sum = sum + stats.pass_at_k(k, math.floor(score * k + 0.5), at) end
    curve[at] = sum / math.max(1, #r.scores)
  end
  return curve
end

--- k samples of every problem from the base and from the adapted model. Returns { k, n, base = pass@1..k, adapted = pass@1..k, base_ci95 and
--- adapted_ci95 (of pass@1), paired, base_needs = the least k at which the base passes what the adapted model passes at 1 (nil: more),
--- solved = problems that the adapted model solves in more than half of its samples, new_ids = those of them that the base never solves in k,
--- lost_ids = the other way round, unseen_bound = how likely a problem never solved in k may still be solved, at 95% }; and the two samplings, as
--- probe.length takes them.
function probe.reach(o)
  given_adapter("reach", o)
  local sampled = both_sampled(o)
  local k, base, with = o.k or 16, sampled.base, sampled.adapted
  local json = require "tl.json"
  local r = { k = k, n = base.n, base = pass_curve(base, k), adapted = pass_curve(with, k), base_ci95 = base.ci95, adapted_ci95 = with.ci95,
    base_length = base.mean_length, adapted_length = with.mean_length, paired = stats.paired(base.scores, with.scores, o.seed), solved = 0,
    new_ids = json.array {}, lost_ids = json.array {}, unseen_bound = 1 - 0.05 ^ (1 / k) }
  for i, p in ipairs(o.problems) do
    local id = tostring(p.id or i)
    if with.scores[i] > 0.5 then
      r.solved = r.solved + 1
      if base.scores[i] == 0 then r.new_ids[#r.new_ids + 1] = id end
    elseif with.scores[i] == 0 and base.scores[i] > 0.5 then
      r.lost_ids[#r.lost_ids + 1] = id
    end
  end
  for at = k, 1, -1 do if r.base[at] >= r.adapted[1] then r.base_needs = at end end
  return r, sampled
end

-- ---- length

-- of each problem the lengths of an evaluation's samples, in rising order: those of equal length are sampled as one request
local function lengths_of(r)
  local list = {}
  for i, items in ipairs(r.by_problem) do
    list[i] = {}
    for j, item in ipairs(items) do list[i][j] = item.n_tokens end
    table.sort(list[i])
  end
  return function(i) return list[i] end
end

--- A maker of prompts that puts words after what is asked: of the last message.
---@param words string
---@param make function? as the option prompt
function probe.asked(words, make)
  return function(problem)
    local p, messages = (make or grpo.default_prompt)(problem), {}
    if type(p) ~= "table" then error("the prompts of these problems are texts, not messages: there is no place for words to the model", 0) end
    for i, m in ipairs(p) do messages[i] = { role = m.role, content = i == #p and m.content .. words or m.content } end
    return messages
  end
end

--- The base model made to write as many tokens as the adapted one: of every problem, k samples with the lengths that the adapted model's k samples
--- have; the end is not drawn before (min_new_tokens), and the text is cut there. With o.ask also the base told by these words, free to end where it
--- wants. sampled: probe.reach's second result, else both are sampled here. Returns { n, k, base, adapted, forced, told = { accuracy, ci95,
--- mean_length } each, gain = adapted against base, paired, by_length = forced against base, paired, beyond = adapted against forced, paired, explained = the share of the gain that the
--- forced base has, told_explained = that of the told one (nil without a gain), ask }.
function probe.length(o, sampled)
  given_adapter("length", o)
  sampled = sampled or both_sampled(o)
  local base, with, k, temperature = sampled.base, sampled.adapted, o.k or 16, o.temperature or 1
  local forced = eval.run(over(o, { adapter = false, samples = k, temperature = temperature, lengths = lengths_of(with) }))
  local told = o.ask and eval.run(over(o, { adapter = false, samples = k, temperature = temperature, prompt = probe.asked(o.ask, o.prompt) })) or nil
  local function figures(r) return r and { accuracy = r.accuracy, ci95 = r.ci95, mean_length = r.mean_length } end
  local gain = with.accuracy - base.accuracy
  local function share(r) return r and gain > 0 and (r.accuracy - base.accuracy) / gain or nil end
  return { n = base.n, k = k, base = figures(base), adapted = figures(with), forced = figures(forced), told = figures(told), ask = o.ask,
    gain = stats.paired(base.scores, with.scores, o.seed), by_length = stats.paired(base.scores, forced.scores, o.seed), beyond = stats.paired(forced.scores, with.scores, o.seed),
    explained = share(forced), told_explained = share(told) }
end

-- ---- divergence

local DECILES, FIRST = 10, { 1, 2, 4, 8, 16, 32 }

-- the adapted model's completions, and the base's logprobs of their tokens: a list of { ids, kl (per token, in nats) }
local function compared(o)
  local tok, prompts = o.model:tokenizer(), {}
  for i, p in ipairs(o.problems) do prompts[i] = grpo.prompt_ids(tok, o.prompt, p) end
  local out = sample.generate(o.model, prompts, { adapter = o.adapter, temperature = o.temperature or 1, max_new_tokens = o.max_new_tokens or 256, seed = o.seed or 0,
    stop = o.stop, max_sequences = o.max_sequences })
  local batch, list = pass.batch(), {}
  for i, completions in ipairs(out) do
    batch:prompt(prompts[i])
    for _, c in ipairs(completions) do
      batch:completion(c.ids)
      list[#list + 1] = { ids = c.ids, logprobs = c.logprobs, kl = {} }
    end
  end
  local base = pass.logprobs(o.model, batch, { temperature = o.temperature or 1, memory = o.memory })
  local at = 0
  for _, c in ipairs(list) do
    for t = 1, #c.ids do
      local d = c.logprobs[t] - base[at] -- log(adapted / base) of a token that the adapted model drew
      c.kl[t], at = math.exp(-d) - 1 + d, at + 1
    end
  end
  batch:free()
  return list, tok
end

local function shares(sums, total)
  local out = {}
  for i, x in ipairs(sums) do out[i] = total > 0 and x / total or 0 end
  return out
end

-- the tokens that carry most of the sum: { text, share, count }
local function heaviest(list, tok, total)
  local by_id, rows = {}, {}
  for _, c in ipairs(list) do
    for t, id in ipairs(c.ids) do
      local row = by_id[id] or { id = id, sum = 0, count = 0 }
      by_id[id], row.sum, row.count = row, row.sum + c.kl[t], row.count + 1
    end
  end
  for _, row in pairs(by_id) do rows[#rows + 1] = row end
  table.sort(rows, function(a, b) return a.sum > b.sum or a.sum == b.sum and a.id < b.id end)
  local out = {}
  for i = 1, math.min(8, #rows) do out[i] = { text = tok:decode { rows[i].id }, share = total > 0 and rows[i].sum / total or 0, count = rows[i].count } end
  return out
end

--- KL(adapted || base) along the adapted model's own completions, one a problem, at the sampling temperature, estimated token by token as
--- r - 1 - log r with r = base / adapted (Schulman 2020, "Approximating KL divergence": unbiased, never negative). Returns { completions, tokens,
--- per_token and per_response in nats, per_response_ci95, deciles = shares of the sum by tenths of a response, first = { ["8"] = share of the first 8
--- tokens, ... }, top_tenth = the share that the tenth of the tokens with the highest KL holds, heaviest = { { text, share, count }, ... } }.
function probe.divergence(o)
  given_adapter("divergence", o)
  local list, tok = compared(o)
  local total, n, sums, all, deciles, first = 0, 0, {}, {}, {}, {}
  for i = 1, DECILES do deciles[i] = 0 end
  for i in ipairs(FIRST) do first[i] = 0 end
  for i, c in ipairs(list) do
    sums[i] = 0
    for t, kl in ipairs(c.kl) do
      sums[i], all[#all + 1] = sums[i] + kl, kl
      local tenth = math.min(DECILES, math.floor((t - 1) / #c.kl * DECILES) + 1)
      deciles[tenth] = deciles[tenth] + kl
      for k, most in ipairs(FIRST) do if t <= most then first[k] = first[k] + kl end end
    end
    total, n = total + sums[i], n + #c.kl
  end
  table.sort(all, function(a, b) return a > b end)
  local top = 0
  for i = 1, math.ceil(#all / 10) do top = top + all[i] end
  local lo, hi = stats.bootstrap(sums, o.seed)
  local r = { completions = #list, tokens = n, per_token = total / math.max(1, n), per_response = total / math.max(1, #list), per_response_ci95 = { lo, hi },
    deciles = shares(deciles, total), first = {}, top_tenth = total > 0 and top / total or 0, heaviest = heaviest(list, tok, total) }
  for k, most in ipairs(FIRST) do r.first[tostring(most)] = total > 0 and first[k] / total or 0 end
  return r
end

-- ---- scale

probe.SCALES = { -1, -0.5, 0, 0.25, 0.5, 0.75, 1, 1.5, 2 }

--- Is an adapter's update linear in its numbers, so that s times the numbers is s times the update?
function probe.is_linear(a) return a.kind == "tinylora" or a.kind == "loraxs" end

--- Greedy accuracy with the adapter's numbers scaled; 0 and 1 are always among the scales. Returns { gain, gain_ci95, curve = { { scale, accuracy,
--- ci95, mean_length, kept }, ... } }: kept is the share of the gain, nil when there is none. The adapter is as before when it returns.
function probe.scale(o)
  given_adapter("scale", o)
  if not probe.is_linear(o.adapter) then error(("the update of a %s adapter is not linear in its numbers; tinylora and loraxs are"):format(o.adapter.kind), 2) end
  local values, runs, list = o.adapter:parameters(), {}, {}
  local want = { [0] = true, [1] = true }
  for _, s in ipairs(o.scales or probe.SCALES) do
    if type(s) ~= "number" or s - s ~= 0 then F.raise("probe.scale: scales is a list of finite numbers; got " .. F.shown(s) .. " in it") end
    want[s] = true
  end
  for s in pairs(want) do list[#list + 1] = s end
  table.sort(list)
  local ok, why = pcall(function()
    for _, s in ipairs(list) do
      local scaled = {}
      for i, x in ipairs(values) do scaled[i] = x * s end
      o.adapter:set(scaled)
      runs[s] = eval.run(over(o, { samples = 1, temperature = 0 }))
      if o.log then o.log("v times %g: %.1f%%", s, 100 * runs[s].accuracy) end
    end
  end)
  o.adapter:set(values)
  if not ok then error(why, 0) end
  local paired = stats.paired(runs[0].scores, runs[1].scores, o.seed)
  local out = { gain = paired.difference, gain_ci95 = paired.ci95, p = paired.p, curve = {} }
  for i, s in ipairs(list) do
    local r = runs[s]
    out.curve[i] = { scale = s, accuracy = r.accuracy, ci95 = r.ci95, mean_length = r.mean_length,
      kept = paired.difference > 0 and (r.accuracy - runs[0].accuracy) / paired.difference or nil }
  end
  return out
end

-- ---- transfer

--- Greedy accuracy of both on other problems (o.problems). Returns { n, base, adapted, base_ci95, adapted_ci95, paired }.
function probe.transfer(o)
  given_adapter("transfer", o)
  local base = eval.run(over(o, { adapter = false, samples = 1, temperature = 0 }))
  local with = eval.run(over(o, { samples = 1, temperature = 0 }))
  return { n = base.n, base = base.accuracy, adapted = with.accuracy, base_ci95 = base.ci95, adapted_ci95 = with.ci95, paired = stats.paired(base.scores, with.scores, o.seed) }
end

-- ---- control

-- answers dealt out anew: a permutation under which, if it can be had, no problem has its own answer
local function deal(answers, g)
  local best, best_hits
  for _ = 1, 200 do
    local dealt, hits = {}, 0
    for i, a in ipairs(answers) do dealt[i] = a end
    for i = #dealt, 2, -1 do
      local j = g.integer(1, i)
      dealt[i], dealt[j] = dealt[j], dealt[i]
    end
    for i, a in ipairs(dealt) do hits = hits + (a == answers[i] and 1 or 0) end
    if not best or hits < best_hits then best, best_hits = dealt, hits end
    if best_hits == 0 then break end
  end
  return best
end

local function counted(answers)
  local list, count = {}, {}
  for _, a in ipairs(answers) do
    if not count[a] then list[#list + 1] = a end
    count[a] = (count[a] or 0) + 1
  end
  return list, count
end

-- cost[i][a]: -logprob, in nats, of answer a (of the distinct ones) to problem i
local function costs(o, adapter, list, target)
  local tok, batch, cost = o.model:tokenizer(), pass.batch(), {}
  local eos, ids = o.model:end_token(), {}
  for a, answer in ipairs(list) do
    ids[a] = tok:encode(target(answer))
    ids[a][#ids[a] + 1] = eos
  end
  for _, p in ipairs(o.problems) do
    batch:prompt(grpo.prompt_ids(tok, o.prompt, p))
    for a in ipairs(list) do batch:completion(ids[a]) end
  end
  local lp, at = pass.logprobs(o.model, batch, { adapter = adapter, memory = o.memory }), 0
  for i in ipairs(o.problems) do
    cost[i] = {}
    for a in ipairs(list) do
      local sum = 0
      for _ = 1, #ids[a] do sum, at = sum - lp[at], at + 1 end
      cost[i][a] = sum
    end
  end
  batch:free()
  return cost
end

-- How many bits the model knows of which answer was dealt to which problem: the sum over problems of log2 p(dealt answer) / share of that answer, with
-- p over the answers there are, from their costs less each answer's mean cost over the problems (an answer that became likelier everywhere tells
-- nothing), flattened by the power of BETAS that lets it know most (a model that is sure of other answers knows nothing, not less). From 0 to capacity.
local BETAS = { 0, 0.03, 0.1, 0.2, 0.4, 0.7, 1 }

local function known_bits(cost, list, count, dealt)
  local n, mean, best = #dealt, {}, -math.huge
  for a in ipairs(list) do
    mean[a] = 0
    for i = 1, n do mean[a] = mean[a] + cost[i][a] / n end
  end
  for _, beta in ipairs(BETAS) do
    local sum = 0
    for i = 1, n do
      local least, own, z = math.huge, nil, 0
      for a in ipairs(list) do least = math.min(least, cost[i][a] - mean[a]) end
      for a, answer in ipairs(list) do
        local x = beta * (least - cost[i][a] + mean[a])
        z = z + count[answer] / n * math.exp(x)
        if answer == dealt[i] then own = x end
      end
      sum = sum + (own - math.log(z)) / math.log(2)
    end
    best = math.max(best, sum)
  end
  return best
end

--- The random-label control: fresh adapters of the same family learn, by supervised finetuning with each of `lrs`, answers that were dealt out at random
--- among the problems. What they hold is how many bits they know of the dealing (see known_bits), less what the base seems to know by
--- chance. Options beside probe's: fresh = function() -> an adapter with no update yet; steps (60, each over all problems), lrs ({ 3e-3, 3e-2 }),
--- target = function(answer) -> text ("#### answer").
--- Returns { n, steps, numbers, bytes, rows = { { lr, first_loss, last_loss, held_bits }, ... }, held_bits = the best row's, capacity_bits = what
--- there is to know, the sum of log2(1 / share of an answer) }.
function probe.control(o)
  given("control", o)
  if type(o.fresh) ~= "function" then error("probe.control wants fresh, a function that makes an adapter; got " .. type(o.fresh), 2) end
  local answers = {}
  for i, p in ipairs(o.problems) do answers[i] = tostring(p.answer) end
  local dealt = deal(answers, philox.stream(o.seed or 0, 4077))
  local list, count = counted(answers)
  local target = o.target or function(answer) return "#### " .. answer end
  local out = { n = #answers, steps = o.steps or 60, rows = {}, held_bits = -math.huge, capacity_bits = 0 }
  for _, a in ipairs(answers) do out.capacity_bits = out.capacity_bits + math.log(#answers / count[a]) / math.log(2) end
  local examples = {}
  for i, p in ipairs(o.problems) do examples[i] = over(p, { dealt_answer = dealt[i] }) end
  local before = known_bits(costs(o, nil, list, target), list, count, dealt)
  for k, lr in ipairs(o.lrs or { 3e-3, 3e-2 }) do
    local adapter, row = o.fresh(), { lr = lr }
    local trainer = require("tl.sft").trainer { model = o.model, adapter = adapter, lr = lr, prompt = o.prompt, memory = o.memory, target = function(e) return target(e.dealt_answer) end }
    for step = 1, out.steps do
      local m = trainer:step(examples)
      row.first_loss, row.last_loss = row.first_loss or m.loss, m.loss
      if o.log and step % 20 == 0 then o.log("random answers, lr %g, step %d of %d: loss %.3f", lr, step, out.steps, m.loss) end
    end
    row.held_bits = known_bits(costs(o, adapter, list, target), list, count, dealt) - before
    out.rows[k], out.held_bits = row, math.max(out.held_bits, row.held_bits)
    out.numbers, out.bytes = adapter.n_parameters, adapter.n_bytes
    adapter:free()
  end
  return out
end

--- The parts of a report { reach, length, divergence, scale, transfer = { NAME = ... }, control } in plain words: { findings = lines, caveats = lines }.
function probe.reading(report) return require "tl.probe.reading"(report) end

return probe
