--- grpo.lua: GRPO, with TRL's formulas and names. One step is the calls of Trainer:step, in that order:
---
---   rollout     sample every prompt's group; each completion goes to the verifier pool as it ends
---   judge       rewards and their outcomes, advantages A = (r - mean) / (std + 1e-4) in the group
---   pack        the completions that can carry a gradient, each group's prompt once
---   update      micro-batch by micro-batch: forward, objective, backward; then AdamW
---
--- sample, pack and update work on a list of parts, one trainer's share each: a trainer alone has one, a population (tl.population)
--- one a member.
---
--- On the native path (the default) the sampler's logprobs are the trainer's, bit for bit, so the importance ratio of the first
--- update is exactly 1. rollouts = "merged" samples from W + dW rounded to the weights' dtype instead, "int8" from int8 weights;
--- then is_mode corrects with importance weights, and the metrics sampling/... say how far the two are apart.
local F = require "tl.ffi"
local verify = require "tl.verify"
local ffi = require "ffi"
local pass = require "tl.pass"
local sample = require "tl.sample"
local turns = require "tl.turns"
local optim = require "tl.optim"
local masks = require "tl.masks"
local memory = require "tl.memory"
local comm = require "tl.comm"
local checkpoint = require "tl.checkpoint"
local data = require "tl.data"
local options = require "tl.options"
local step = require "tl.step"
local C, check, array = F.C, F.check, masks.array

local grpo = {}
local Trainer = {}
Trainer.__index = Trainer

local LOSS = { grpo = 0, dr_grpo = 1, dapo = 2, bnpo = 3, cispo = 4, sapo = 5, luspo = 6 }
local SCALE = { group = 0, batch = 1, none = 2 }
local LEVEL = { token = 0, sequence = 1 }
local MODE = { off = 0, truncate = 1, mask = 2 }

local function choice(o, key, default, set)
  local v = o[key] == nil and default or o[key]
  if v == false then v = "none" end
  if set[v] == nil then
    local names = {}
    for k in pairs(set) do names[#names + 1] = k end
    table.sort(names)
    error(("%s is one of %s; got %s"):format(key, table.concat(names, ", "), tostring(v)), 3)
  end
  return set[v]
end

--- The options of grpo.trainer; a population's members have them too.
grpo.OPTIONS = options.names {
  any = "model adapter verifier reward prompt lr stop loss_type scale_rewards importance_sampling_level rollouts is_mode is_level on_error gate "
    .. "resume run pool reply", fn = "objective progress", map = "verifier_config",
  number = "temperature top_p min_p epsilon epsilon_high beta entropy_coef beta1 beta2 eps weight_decay top_entropy_quantile",
  amount = "delta is_min is_max max_grad_norm sapo_temperature_pos sapo_temperature_neg",
  count = "num_generations max_completion_length top_k num_iterations total_steps checkpoint workers timeout_ms max_sequences",
  seed = "seed instructions", bytes = "memory", boolean = "use_bias_correction_kl inline mask_truncated_completions",
}

--- A GRPO trainer.
--- model, adapter        what is trained
--- verifier | reward     a module name ("verifiers.math"), or a function (problem, completion) -> reward
--- prompt                function(problem) -> messages or text; default: problem.messages, problem.prompt or problem.question
--- lr                    number or function(step, total) (1e-6, as in TRL)
--- num_generations (8; from 2: a reward counts beside the others of its group), max_completion_length (512), temperature (1), top_p, top_k, min_p, stop
--- loss_type ("dapo"; grpo, dr_grpo, bnpo, luspo; cispo, which wants epsilon_high: the largest ratio, as 5; sapo, with sapo_temperature_pos (1) and
--- sapo_temperature_neg (1.05)), epsilon (0.2), epsilon_high (= epsilon), delta, beta (0), entropy_coef (0)
--- use_bias_correction_kl (true: the KL term times the importance ratio, so that its gradient is unbiased; false: k3 as it is)
--- mask_truncated_completions (false; true: a completion that the limit cut off counts in its group's rewards, and is not trained on)
--- top_entropy_quantile (1; 0.2: the clipped term is of the fifth of the step's tokens with the highest entropies, whole steps, where TRL takes local batches)
--- scale_rewards ("group"; batch, none), importance_sampling_level ("token"; sequence), num_iterations (1)
--- rollouts ("native"; merged, int8), is_mode ("truncate" unless native), is_level ("sequence"), is_min (0), is_max (3)
--- on_error ("drop": the sample is left out; fail: the run ends; zero), or for each outcome { error =, timeout =, memory =, abstain = }
--- gate (true): before the first step the verifier is attacked, and refused when it pays for junk (tl.attack)
--- reply                 function(problem, completion) -> text, messages or nil, or a module that has one: completions of several turns, for tools and
---                       environments (tl.turns); with max_completion_length for all turns and replies together
--- objective             function(t, out): a per-token objective of your own, see docs/recipes.md
--- max_grad_norm (1), beta1, beta2, eps, weight_decay (0), total_steps (for schedules), seed (0)
--- memory (bytes the process may take in all, of a device's memory where one computes; default: what it takes when the trainer is made and
---                       2.2 GiB more, and the copy that merged or int8 rollouts are sampled from): what the cache needs comes first; the rest is for activations, kept from sampling (native rollouts: as many layers as
---                       fit need no forward pass) and of the training pass
--- checkpoint            steps from one checkpoint in the run's folder to the next (0: none); resume: a run's folder, whose last
---                       checkpoint is loaded: t.steps says how many steps are done (tl.checkpoint)
--- workers (2), timeout_ms (the verifier's own, else 1000), instructions (no limit), max_sequences (64), verifier_config, inline (as in tl.verify)
--- run (a tl.report.run that gets every step), progress: function(trainer, rollout), called after every completion; pool (a tl.verify.pool that is
--- others' too, instead of verifier)
---@param o table
function grpo.trainer(o)
  options.only("grpo.trainer", o, grpo.OPTIONS)
  local t = setmetatable({ o = o, model = F.object("grpo.trainer", o.model, "model"), adapter = F.object("grpo.trainer", o.adapter, "adapter") }, Trainer)
  local verifier = not o.pool and verify.given("grpo.trainer", o.verifier, o.reward)
  t.n = o.num_generations or 8
  if t.n < 2 or t.n % 1 ~= 0 then error(("grpo.trainer: num_generations wants a whole number from 2; got %s"):format(t.n), 2) end
  t.iterations = o.num_iterations or 1
  if t.iterations < 1 or t.iterations % 1 ~= 0 then error(("grpo.trainer: num_iterations wants a whole number from 1; got %s"):format(t.iterations), 2) end
  if (o.is_max or 3) > 0 and (o.is_min or 0) > (o.is_max or 3) then error(("grpo.trainer: is_min is %g, more than is_max, %g"):format(o.is_min, o.is_max or 3), 2) end
  checkpoint.only("grpo.trainer", o)
  t.lr = optim.schedule(o.lr or 1e-6)
  t.optimizer = optim.of(o)
  t.seed, t.steps, t.sequences = o.seed or 0, 0, 0
  t.tokenizer = t.model:tokenizer()
  t.rollouts = choice(o, "rollouts", "native", { native = "native", merged = "merged", int8 = "int8" })
  t.on_error = verify.policy(o.on_error)
  t.scale = choice(o, "scale_rewards", "group", SCALE)
  local eps = o.epsilon or 0.2
  if o.loss_type == "cispo" and not o.epsilon_high then F.raise 'grpo.trainer: loss_type = "cispo" wants epsilon_high, the largest ratio, as 5' end
  t.top_entropy = o.top_entropy_quantile or 1
  if not (t.top_entropy > 0 and t.top_entropy <= 1) then F.raise(("grpo.trainer: top_entropy_quantile wants a number above 0, to 1; got %s"):format(t.top_entropy)) end
  if t.top_entropy < 1 and (o.entropy_coef or 0) ~= 0 then F.raise "grpo.trainer: top_entropy_quantile and entropy_coef do not go together" end
  t.opt = ffi.new("tl_grpo_options", { loss_type = choice(o, "loss_type", "dapo", LOSS), epsilon = eps,
    epsilon_high = o.epsilon_high or eps, sapo_temperature_pos = o.sapo_temperature_pos or 1, sapo_temperature_neg = o.sapo_temperature_neg or 1.05, delta = o.delta or 0, beta = o.beta or 0,
    use_bias_correction_kl = o.use_bias_correction_kl ~= false, entropy_coef = o.entropy_coef or 0,
    max_completion_length = o.max_completion_length or 512, ratio_level = choice(o, "importance_sampling_level", "token", LEVEL),
    is_mode = choice(o, "is_mode", t.rollouts ~= "native" and "truncate" or "off", MODE), is_level = choice(o, "is_level", "sequence", LEVEL),
    is_min = o.is_min or 0, is_max = o.is_max or 3 })
  t.pool = o.pool or verify.pool { verifier = verifier,
    workers = o.workers, timeout_ms = o.timeout_ms, instructions = o.instructions, config = o.verifier_config, inline = o.inline }
  t.wants_answer = verify.wants_answer(o.verifier)
  if not o.pool then  -- else another's: a population looks after these
    t.turns = turns.of("grpo.trainer", o)
    memory.start(t)
  end
  t.reward_name = verify.name(o.verifier)
  if o.resume then checkpoint.load(t, o.resume) end
  return t
end

--- A problem's prompt where no option `prompt` makes another: messages, or text.
function grpo.default_prompt(problem) return problem.messages or problem.prompt or problem.question end

local function encoded(tokenizer, p)
  if type(p) == "table" then return tokenizer:encode(tokenizer:chat(p, { add_generation_prompt = true }), { parse_special = true }) end
  if type(p) == "string" then return tokenizer:encode(p, { add_special = true, parse_special = true }) end
  error("the prompt of a problem is messages (a table) or text; got " .. F.shown(p), 0)
end

--- Token ids of a problem's prompt: messages through the chat template, text as it is. i: its number in a list, for messages.
function grpo.prompt_ids(tokenizer, make, problem, i)
  if make ~= nil and type(make) ~= "function" then error("prompt is a function(problem) -> messages or text; got " .. F.shown(make), 3) end
  if not tokenizer then F.raise "the model has no tokenizer beside it, so a problem has no token ids" end
  return data.about(problem, i, encoded, tokenizer, (make or grpo.default_prompt)(problem))
end

--- The model to sample from, the adapter to sample with, and whether this step made the model. A low-rank adapter goes on top of
--- the int8 weights, which are then made once; a full one is merged first.
function Trainer:sampling_model()
  if self.rollouts == "native" then return self.model, self.adapter, false end
  if self.rollouts == "int8" and self.adapter.kind ~= "full" then
    self.int8 = self.int8 or self.model:quantize()
    return self.int8, self.adapter, false
  end
  local merged = self.model:merge(self.adapter, self.rollouts == "merged")
  if self.rollouts == "merged" then return merged, nil, true end
  local int8 = merged:quantize()
  merged:free()
  return int8, nil, true
end

--- The groups of a rollout that is not sampled yet, with the token ids of their prompts, and which part of the ranks has them.
function Trainer:groups(problems)
  local r = { groups = {}, problems = problems, n_tokens = 0, prompt_tokens = 0 }
  for i, problem in ipairs(problems) do
    local ids = grpo.prompt_ids(self.tokenizer, self.o.prompt, problem, i)
    r.groups[i] = { problem = problem, prompt = ids, completions = {}, part_of = (i - 1) % comm.parts }
    r.prompt_tokens = r.prompt_tokens + #ids
  end
  return r
end

-- the first rank's verdicts, on all ranks that share its model; list: completions, in the same order on all
local function share_verdicts(list)
  if comm.shards == 1 then return end
  local mine = {}
  for i, c in ipairs(comm.shard == 0 and list or {}) do
    mine[i] = { outcome = c.verdict.outcome, reward = ("%.17g"):format(c.verdict.reward or 0 / 0), message = c.verdict.message }
  end
  for i, v in ipairs(comm.lead("verdicts", mine)) do list[i].verdict = { outcome = v.outcome, reward = tonumber(v.reward) or 0 / 0, message = v.message } end
end

--- Samples, with one sampler, the groups of parts: a list of { trainer =, rollout =, member = (in the sampler's population) }. Each
--- completion goes to the first trainer's verifier pool as it ends. Of ranks that share a model the first has it judged. several: a tl.turns.of.
function grpo.sample(parts, s, several)
  local began, group_of, job_of, list, waiting = C.tl_seconds(), {}, {}, {}, 0
  local pool = parts[1].trainer.pool
  for _, part in ipairs(parts) do
    local t, o = part.trainer, part.trainer.o
    local settings = { temperature = o.temperature, top_p = o.top_p, top_k = o.top_k, min_p = o.min_p, stop = o.stop,
      max_new_tokens = o.max_completion_length or 512, seed = t.seed, member = part.member }
    for i, g in ipairs(part.rollout.groups) do
      g.sequence_id, g.part, g.settings = t.sequences, part, settings
      if g.part_of == comm.part then group_of[data.about(g.problem, i, s.submit, s, g.prompt, t.n, t.sequences, settings)] = g end
      t.sequences = t.sequences + t.n
    end
  end
  local function take(wait_ms)
    local v = pool:take(wait_ms)
    if not v then return false end
    local c = job_of[v.job]
    if c then c.verdict, waiting = v, waiting - 1 end  -- else an earlier step's, which did not come to its end
    return true
  end
  local function about(request, index)
    local g = group_of[request]
    return { problem = g.problem, prompt = g.prompt, settings = g.settings, sequence_id = g.sequence_id + index - 1 }
  end
  for c in (several or s):completions(s, about) do
    local g = group_of[c.request]
    local t, r = g.part.trainer, g.part.rollout
    c.text, c.n_tokens = c.text or sample.text(t.tokenizer, c), c.n_tokens or #c.ids
    g.completions[c.index], c.sequence_id = c, g.sequence_id + c.index - 1
    r.n_tokens = r.n_tokens + c.n_tokens
    list[#list + 1] = c
    if comm.shard == 0 and not c.verdict then
      job_of[pool:submit(g.problem, { text = c.text, n_tokens = c.n_tokens, finish = c.finish, turns = c.turns, state = c.state })] = c
      waiting = waiting + 1
    end
    while take(0) do end
    if t.o.progress then t.o.progress(t, r) end
  end
  local sampled = C.tl_seconds()
  while waiting > 0 do take(1000) end
  share_verdicts(list)
  local stats, sample_s, verify_s = s:stats(), sampled - began, C.tl_seconds() - sampled
  for _, part in ipairs(parts) do
    for _, g in ipairs(part.rollout.groups) do g.part, g.settings = nil, nil end
    part.rollout.stats, part.rollout.sample_s, part.rollout.verify_s = stats, sample_s, verify_s
  end
end

-- what the others are told of a completion
local function outline(self, c)
  local sum = 0
  for k = 1, #c.ids do sum = sum + c.entropy[k] end
  return { text = c.text, transcript = c.transcript, turns = c.turns, mask = c.mask, entropy = self.top_entropy < 1 and c.entropy or nil, ids = c.ids, n_tokens = c.n_tokens, finish = c.finish, entropy_sum = sum, outcome = c.verdict.outcome, reward = c.verdict.reward, message = c.verdict.message }
end

-- the completions of all parts, without their logprobs; of every rank the same from here on
local function share(self, r)
  local mine = {}
  for i, g in ipairs(r.groups) do
    if g.part_of == comm.part then
      local list = {}
      for k, c in ipairs(g.completions) do list[k] = outline(self, c) end
      mine[#mine + 1] = { group = i, completions = list }
    end
  end
  local all = comm.gather("rollouts", { groups = mine, n_tokens = r.n_tokens })
  r.n_tokens = 0
  for i, part in ipairs(all) do
    r.n_tokens = r.n_tokens + part.n_tokens
    for _, of in ipairs(i - 1 ~= comm.part and part.groups or {}) do
      for k, c in ipairs(of.completions) do
        c.verdict = { outcome = c.outcome, reward = type(c.reward) == "number" and c.reward or 0 / 0, message = c.message }
        r.groups[of.group].completions[k] = c
      end
    end
  end
end

local function of_this_part(groups)
  local list = {}
  for _, g in ipairs(groups) do if g.part_of == comm.part then list[#list + 1] = g end end
  return list
end

--- Samples n completions of every problem, each part of the ranks those of its own; each goes to the verifier pool as it ends.
function Trainer:rollout(problems)
  local r = self:groups(problems)
  local model, adapter, own = self:sampling_model()
  r.budget = memory.plan(self, of_this_part(r.groups))
  if own then step.own(model) end
  local s = step.own(sample.sampler(model, { adapter = adapter, max_sequences = self.o.max_sequences, memory = r.budget.cache, kept = self.kept,
    prefix_cache = self.turns ~= nil, whole_cache = self.turns ~= nil }))
  grpo.sample({ { trainer = self, rollout = r } }, s, self.turns)
  s:free()
  if own then model:free() end
  if comm.parts > 1 then share(self, r) end
  return r
end

-- a completion's reward, or NaN when its sample is to be left out
local function reward_of(self, c)
  local v = c.verdict
  if v.outcome == "ok" then return v.reward end
  local policy = self.on_error[v.outcome]
  if policy == "fail" then error(("verifier %s: %s: %s"):format(self.reward_name, v.outcome, v.message), 0) end
  return policy == "zero" and 0 or 0 / 0
end

--- Rewards, outcomes and advantages.
function Trainer:judge(r)
  local n = #r.groups * self.n
  local rewards, advantages, zero = ffi.new("float[?]", n), ffi.new("float[?]", n), ffi.new("int[1]")
  r.outcomes = { ok = 0, abstain = 0, error = 0, timeout = 0, memory = 0 }
  for i, g in ipairs(r.groups) do
    for k, c in ipairs(g.completions) do
      c.reward = reward_of(self, c)
      rewards[(i - 1) * self.n + k - 1] = c.reward
      r.outcomes[c.verdict.outcome] = r.outcomes[c.verdict.outcome] + 1
      if c.verdict.outcome ~= "ok" and c.verdict.outcome ~= "abstain" then r.complaint = r.complaint or c.verdict.message end
    end
  end
  check(C.tl_grpo_advantages(rewards, n, self.n, self.scale, advantages, zero))
  r.zero_std = zero[0]
  for i, g in ipairs(r.groups) do
    for k, c in ipairs(g.completions) do c.advantage = advantages[(i - 1) * self.n + k - 1] end
  end
end

--- The batch of the completions that can carry a gradient: without a KL term or an entropy bonus, those of groups with any
--- advantage. A part's own are the part.count from part.first (counted from 0) on; part.trained of all ranks.
function grpo.pack(parts)
  local b = { batch = step.own(pass.batch()), list = {} }
  for _, part in ipairs(parts) do
    local t, r = part.trainer, part.rollout
    -- bnpo: the token mean of a micro-batch is TRL's only with the tokens of all groups in it
    local all = t.opt.beta ~= 0 or t.opt.entropy_coef ~= 0 or t.o.objective or t.opt.loss_type == LOSS.bnpo
    part.first, part.total_sequences, part.total_tokens, part.trained = #b.list, #r.groups * t.n, r.n_tokens - masks.truncated(t, r), 0
    if t.top_entropy < 1 then part.threshold = masks.threshold(t, r) end
    b.batch:member(part.member or 0)
    for i, g in ipairs(r.groups) do
      local alive = all
      for _, c in ipairs(g.completions) do alive = alive or c.advantage ~= 0 and not masks.is_truncated(t, c) end
      part.trained = part.trained + (alive and #g.completions or 0)
      if alive and g.part_of == comm.part then
        b.batch:prompt(g.prompt)
        b.batch:place(i)
        for _, c in ipairs(g.completions) do
          local at = b.batch:completion(c.ids)
          if not c.mask then b.batch:sampled(at, c.sequence_id) end  -- several turns' activations are not kept
          c.part = part
          b.list[#b.list + 1] = c
        end
      end
    end
    part.count = #b.list - part.first
  end
  b.offsets, b.n_tokens = b.batch:offsets(), b.batch:n_tokens()
  masks.fill(b, parts)
  return b
end

-- the objective of a part's completions in one micro-batch: fills w.dlogprob (and w.dentropy)
local function objective(part, b, w, first, count)
  local self = part.trainer
  if self.o.objective then
    local t = { n = tonumber(b.offsets[first + count] - b.offsets[first]), first = first, count = count, offsets = b.offsets,
      logprob = w.logprob, old = w.old or w.logprob, ref = w.ref, sampler = b.sampler, entropy = w.entropy,
      mask = b.mask, advantage = b.advantage, total_sequences = part.total_sequences, total_tokens = part.total_tokens }
    local out, from = { dlogprob = w.dlogprob, dentropy = w.dentropy, loss = 0 }, tonumber(b.offsets[first])
    for _, d in ipairs { w.dlogprob, w.dentropy } do ffi.fill(d + from, 4 * t.n) end  -- what it leaves out is 0, not the iteration's before
    self.o.objective(t, out)
    if type(out.loss or 0) ~= "number" then error("the objective's out.loss is a number; got " .. F.shown(out.loss), 0) end
    part.stats.loss = part.stats.loss + (out.loss or 0)
    part.stats.n_tokens = part.stats.n_tokens + t.n
    return
  end
  check(C.tl_grpo_objective(self.opt, first, count, b.offsets, w.logprob, w.old, w.ref, self.opt.is_mode ~= 0 and b.sampler or nil,
    w.entropy, b.advantage, b.mask, b.policy_mask, part.total_sequences, part.total_tokens, w.dlogprob, w.dentropy, part.stats))
end

-- forward, objective and backward of the whole batch, with gradients times loss_scale on their way; returns the pass
local function gradients_at(parts, b, w, o, loss_scale)
  for _, part in ipairs(parts) do part.trainer.adapter:zero_gradient() end
  local p = step.own(pass.create(o.model, b.batch, { adapter = o.adapter, population = o.population, temperature = o.temperature, memory = b.memory,
    backward = true, entropy = w.entropy ~= nil, kept = o.kept, ranks = comm.size > 1, loss_scale = loss_scale }))
  for i = 0, p.n_micro - 1 do
    p:forward(i, w.logprob, w.entropy)
    local first, count = p:range(i)
    for _, part in ipairs(parts) do
      local from, to = math.max(first, part.first), math.min(first + count, part.first + part.count)
      if from < to then objective(part, b, w, from, to - from) end
    end
    p:backward(i, w.dlogprob, w.dentropy)
  end
  if comm.size > 1 then p:reduce() end
  return p
end

local function gradients(parts, b, w, o)
  local before = {}
  for k, part in ipairs(parts) do before[k] = ffi.new("tl_grpo_stats", part.stats) end
  return pass.scaled(o.model, parts, function(scale)
    for k, part in ipairs(parts) do ffi.copy(part.stats, before[k], ffi.sizeof "tl_grpo_stats") end
    return gradients_at(parts, b, w, o, scale)
  end)
end

--- One optimiser update of every part per iteration over the packed batch. o: model, adapter or population, kept. The number of
--- iterations, the temperature and whether there is an entropy bonus are the first trainer's. Fills part.stats, the objective's
--- statistics, and part.grad_norm.
function grpo.update(parts, b, o)
  local began, lead = C.tl_seconds(), parts[1].trainer
  local entropy, reference, trained = lead.opt.entropy_coef ~= 0, false, 0
  local w = { logprob = array(b.n_tokens), dlogprob = array(b.n_tokens), entropy = entropy and array(b.n_tokens) or nil,
    dentropy = entropy and array(b.n_tokens) or nil }
  for _, part in ipairs(parts) do
    part.stats = ffi.new "tl_grpo_stats"
    part.stats.is_min = math.huge
    reference, trained = reference or part.trainer.opt.beta ~= 0, trained + part.trained
  end
  o.temperature = lead.o.temperature
  if #b.list > 0 and reference then w.ref = pass.logprobs(o.model, b.batch, { temperature = o.temperature, memory = b.memory }) end
  for iteration = 1, trained > 0 and lead.iterations or 0 do
    local p = gradients(parts, b, w, o)
    b.planned_bytes, b.n_micro = p.planned_bytes, p.n_micro
    if iteration == 1 then b.layers_kept = o.model.n_layers - p.first_kept end
    p:free()
    if iteration == 1 and lead.iterations > 1 then
      w.old = array(b.n_tokens)
      ffi.copy(w.old, w.logprob, 4 * b.n_tokens)
    end
    step.updating()
    for _, part in ipairs(parts) do
      if part.trained > 0 then part.grad_norm = part.trainer.optimizer:step(part.lr) end
    end
  end
  b.update_s = C.tl_seconds() - began
end

local SUMS = { "loss", "kl", "entropy", "ratio", "clip_low", "clip_high", "logp_diff", "is_sum", "n_tokens", "n_sequences" }
local LARGEST = { "logp_diff_max", "is_max" }

-- the objective's statistics, times and memory of all ranks; and whether all ranks still have the same numbers
local function merge_figures(self, part, b)
  local s, r = part.stats, part.rollout
  local mine = { is_min = ("%.17g"):format(s.is_min), n_micro = b.n_micro or 0, planned = b.planned_bytes or 0, kept = b.layers_kept or self.model.n_layers,
    peak = tonumber(C.tl_peak_rss_bytes()), sample_s = r.sample_s, verify_s = r.verify_s, update_s = b.update_s, numbers = optim.fingerprint(self.adapter) }
  for _, k in ipairs(SUMS) do mine[k] = tonumber(s[k]) end
  for _, k in ipairs(LARGEST) do mine[k] = ("%.17g"):format(s[k]) end
  local function unlike(rank)
    error(("after step %d, rank %d has other numbers than rank %d: the ranks do not compute alike (other programs, or processors of another kind?)")
      :format(self.steps, rank, comm.rank), 0)
  end
  if comm.lead("numbers", mine.numbers) ~= mine.numbers then unlike(comm.rank - comm.shard) end
  local all = comm.gather("figures of a step", mine)
  for _, k in ipairs(SUMS) do
    local sum = 0
    for _, f in ipairs(all) do sum = sum + f[k] end
    s[k] = sum
  end
  for i, f in ipairs(all) do
    if f.numbers ~= mine.numbers then unlike((i - 1) * comm.shards + comm.shard) end
    for _, k in ipairs(LARGEST) do s[k] = math.max(s[k], tonumber(f[k])) end
    s.is_min = math.min(s.is_min, tonumber(f.is_min))
    b.n_micro, b.planned_bytes = math.max(b.n_micro or 0, f.n_micro), math.max(b.planned_bytes or 0, f.planned)
    b.layers_kept, b.peak = math.min(b.layers_kept or f.kept, f.kept), math.max(b.peak or 0, f.peak)
    r.sample_s, r.verify_s, b.update_s = math.max(r.sample_s, f.sample_s), math.max(r.verify_s, f.verify_s), math.max(b.update_s, f.update_s)
  end
end

--- Before the first step: an error when the verifier pays for junk.
function grpo.gate(pool, problems, name)
  step.idle(pool)
  require("tl.attack").gate(pool, problems, name)
end

local function one_step(self, problems)
  local began = C.tl_seconds()
  if self.steps == 0 and self.o.gate ~= false then grpo.gate(self.pool, problems, self.reward_name) end
  self.steps = self.steps + 1
  local lr = optim.rate(self.lr, self.steps, self.o.total_steps)
  local r = self:rollout(problems)
  self:judge(r)
  local part = { trainer = self, rollout = r, lr = lr }
  local b = grpo.pack { part }
  b.memory = r.budget.pass
  grpo.update({ part }, b, { model = self.model, adapter = self.adapter, kept = self.kept })
  if comm.size > 1 then merge_figures(self, part, b) end
  local m = self:metrics(part, b)
  m.step_time = C.tl_seconds() - began
  b.batch:free()
  if self.o.run then self.o.run:step(m, r) end
  checkpoint.after(self)
  return m, r
end

--- One step on a list of problems; returns its metrics (TRL's names) and the rollout. One that is interrupted or fails leaves the trainer as it was.
function Trainer:step(problems)
  data.check("a step", problems, self.wants_answer)
  return step.run(self, nil, one_step, problems)
end

local function spread(values)
  local n, sum, sq = 0, 0, 0
  for _, v in ipairs(values) do
    if v == v then n, sum = n + 1, sum + v end
  end
  local mean = n > 0 and sum / n or 0 / 0
  for _, v in ipairs(values) do
    if v == v then sq = sq + (v - mean) ^ 2 end
  end
  return mean, n > 1 and math.sqrt(sq / (n - 1)) or 0
end

--- TRL's metrics of a step, of this trainer's part of the batch.
function Trainer:metrics(part, b)
  local r, stats = part.rollout, part.stats
  local rewards, lengths, ended, entropy, longest, shortest, clipped = {}, {}, {}, 0, 0, math.huge, 0
  for _, g in ipairs(r.groups) do
    for _, c in ipairs(g.completions) do
      rewards[#rewards + 1] = c.reward
      local n = c.n_tokens
      lengths[#lengths + 1], longest, shortest = n, math.max(longest, n), math.min(shortest, n)
      if c.finish == "length" then clipped = clipped + 1 else ended[#ended + 1] = n end
      for k = 1, c.entropy_sum and 0 or #c.ids do entropy = entropy + c.entropy[k] end
      entropy = entropy + (c.entropy_sum or 0)
    end
  end
  -- the objective's sums are those of all iterations, over the tokens that were trained; clipped ones are none of the others
  local tokens = math.max(1, tonumber(stats.n_tokens))
  local of_all = self.iterations * math.max(1, self.opt.ratio_level == LEVEL.sequence and part.total_sequences or part.total_tokens)
  local reward, reward_std = spread(rewards)
  self.num_tokens = (self.num_tokens or 0) + r.n_tokens + r.prompt_tokens * self.n
  local m = { step = self.steps, reward = reward, reward_std = reward_std, frac_reward_zero_std = r.zero_std / #r.groups,
    ["rewards/" .. self.reward_name .. "/mean"] = reward, ["rewards/" .. self.reward_name .. "/std"] = reward_std,
    ["completions/mean_length"] = (spread(lengths)), ["completions/min_length"] = shortest, ["completions/max_length"] = longest,
    ["completions/mean_terminated_length"] = #ended > 0 and (spread(ended)) or 0, ["completions/clipped_ratio"] = clipped / #lengths,
    num_tokens = self.num_tokens, loss = stats.loss / self.iterations, learning_rate = part.lr, grad_norm = part.grad_norm or 0,
    entropy = r.n_tokens > 0 and entropy / r.n_tokens or 0,
    ["clip_ratio/low_mean"] = stats.clip_low / of_all, ["clip_ratio/high_mean"] = stats.clip_high / of_all,
    ["clip_ratio/region_mean"] = (stats.clip_low + stats.clip_high) / of_all,
    sample_s = r.sample_s, verify_s = r.verify_s, update_s = b.update_s, tokens_per_s = r.n_tokens / math.max(1e-9, r.sample_s + r.verify_s + b.update_s),
    ["verifier/abstain"] = r.outcomes.abstain, ["verifier/error"] = r.outcomes.error, ["verifier/timeout"] = r.outcomes.timeout, ["verifier/memory"] = r.outcomes.memory,
    samples_trained = part.trained, micro_batches = b.n_micro or 0, activation_bytes = b.planned_bytes or 0,
    layers_kept = b.layers_kept or 0, predicted_rss_bytes = r.budget.predicted, peak_rss_bytes = b.peak or tonumber(C.tl_peak_rss_bytes()) }
  if self.o.objective then return m end  -- the rest is the built-in objective's to count
  if self.opt.loss_type == LOSS.cispo or self.opt.loss_type == LOSS.sapo then
    for _, k in ipairs { "low_mean", "high_mean", "region_mean" } do m["clip_ratio/" .. k] = nil end
    if self.opt.loss_type == LOSS.cispo then m.cispo_clip_ratio = stats.clip_high / of_all end
  end
  if self.opt.beta ~= 0 then m.kl = stats.kl / tokens end
  if self.opt.is_mode ~= 0 and part.trained > 0 then
    m["sampling/sampling_logp_difference/mean"], m["sampling/sampling_logp_difference/max"] = stats.logp_diff / tokens, stats.logp_diff_max
    m["sampling/importance_sampling_ratio/mean"], m["sampling/importance_sampling_ratio/min"], m["sampling/importance_sampling_ratio/max"] =
      stats.is_sum / (self.opt.is_level == LEVEL.sequence and math.max(1, tonumber(stats.n_sequences)) or tokens), stats.is_min, stats.is_max
  end
  return m
end

--- Ends the verifiers, and releases what it has made for itself; model and adapter stay.
function Trainer:free()
  if self.int8 then self.int8:free() end
  if self.kept then self.kept:free() end
  if self.turns then self.turns:free() end
  if not self.o.pool then self.pool:free() end
end

return grpo
