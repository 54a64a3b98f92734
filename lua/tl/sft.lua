--- sft.lua: supervised finetuning, loss on the completion only: the mean over the step's completion tokens of -logprob.
--- Any adapter, full finetuning included: pre-training is sft with adapter.full on documents whose prompt is one token.
local F = require "tl.ffi"
local ffi = require "ffi"
local memory = require "tl.memory"
local pass = require "tl.pass"
local optim = require "tl.optim"
local grpo = require "tl.grpo"
local comm = require "tl.comm"
local checkpoint = require "tl.checkpoint"
local data = require "tl.data"
local options = require "tl.options"
local step = require "tl.step"
local C = F.C

local sft = {}
local Trainer = {}
Trainer.__index = Trainer

--- The options of sft.trainer; a population's members have them too.
sft.OPTIONS = options.names { any = "model adapter lr prompt run resume", fn = "target",
  number = "beta1 beta2 eps weight_decay", amount = "max_grad_norm", count = "total_steps checkpoint max_length", seed = "seed", bytes = "memory", boolean = "eos" }

--- An SFT trainer. Options: model, adapter, lr (number or function(step, total), 2e-5), prompt (as in tl.grpo), target:
--- function(problem) -> the completion's text (default problem.solution or problem.answer), max_grad_norm (1), beta1, beta2, eps,
--- weight_decay, total_steps, memory (bytes the process may take in all), eos (true: the end-of-sequence token is learnt too),
--- max_length (tokens of prompt and target together: what is longer is cut at its end; not given: what the model's context does not hold
--- is an error), run, checkpoint, resume (as in tl.grpo); seed is taken, and of no effect: nothing is drawn.
function sft.trainer(o)
  options.only("sft.trainer", o, sft.OPTIONS)
  local t = setmetatable({ o = o, model = F.object("sft.trainer", o.model, "model"), adapter = F.object("sft.trainer", o.adapter, "adapter") }, Trainer)
  checkpoint.only("sft.trainer", o)
  t.lr, t.optimizer, t.steps, t.num_tokens = optim.schedule(o.lr or 2e-5), optim.of(o), 0, 0
  if o.resume then checkpoint.load(t, o.resume) end
  return t
end

local function ids_of(model, e, o, i)
  if e.prompt_ids then return e.prompt_ids, e.completion_ids end
  local tok = model:tokenizer()
  local text = (o.target or function(p) return p.solution or p.answer end)(e)
  if type(text) ~= "string" then
    F.raise(("%s: what is learnt of a problem is a text, its solution or answer, or what `target` returns; got %s"):format(data.where(e, i), F.shown(text)))
  end
  local ids = tok:encode(text)
  if o.eos ~= false then ids[#ids + 1] = model:end_token() end
  return grpo.prompt_ids(tok, o.prompt, e, i), ids
end

--- Token ids of an example's prompt and of what is to follow it: the example's own (prompt_ids, completion_ids), or made from a problem.
--- Options: prompt, target, eos, max_length, as in sft.trainer. i: its number in a list, for messages.
function sft.example_ids(model, e, o, i)
  local prompt, ids = ids_of(model, e, o, i)
  if type(prompt) ~= "table" or type(ids) ~= "table" then return prompt, ids end  -- the batch says what they are to be
  local most = o.max_length or model.context
  local room = most - #prompt
  if #ids <= room then return prompt, ids end
  if room < 1 then
    F.raise(("%s: the prompt's %d tokens leave none of %s %d for what is to be learnt"):format(data.where(e, i), #prompt, o.max_length and "max_length =" or "the model's context of", most))
  elseif not o.max_length then
    F.raise(("%s: %d tokens after a prompt of %d are more than the model's context of %d; max_length cuts what is longer"):format(data.where(e, i), #ids, #prompt, most))
  end
  local cut = {}
  for k = 1, room do cut[k] = ids[k] end
  return prompt, cut
end

local function add(batch, prompt, completion, place)
  batch:prompt(prompt)
  if place then batch:place(place) end
  batch:completion(completion)
end

--- Adds an example, the i-th of a list, to a batch.
function sft.add(batch, model, e, o, i)
  local prompt, completion = sft.example_ids(model, e, o, i)
  data.about(e, i, add, batch, prompt, completion)
end

--- Adds a trainer's examples, those of this rank, to a batch; returns its part: { trainer =, first =, n = (its tokens from there),
--- total = (its tokens of all ranks), rows = (of all ranks) }.
function sft.pack(self, batch, examples)
  local part = { trainer = self, first = batch:n_tokens(), rows = 0, total = 0 }
  for i, e in ipairs(examples) do
    local prompt, completion = sft.example_ids(self.model, e, self.o, i)
    if (i - 1) % comm.parts == comm.part then data.about(e, i, add, batch, prompt, completion, i) end
    part.rows, part.total = part.rows + #prompt + #completion, part.total + #completion
  end
  part.n = batch:n_tokens() - part.first
  return part
end

--- One optimiser update of every part; returns the parts' metrics. o: model, adapter or population, memory.
function sft.update(parts, batch, o)
  local began, total, rows = C.tl_seconds(), batch:n_tokens(), 0
  local logprob, d = ffi.new("float[?]", total), ffi.new("float[?]", total)
  for _, part in ipairs(parts) do
    local t = part.trainer
    part.lr = optim.rate(t.lr, t.steps + 1, t.o.total_steps)
    for i = part.first, part.first + part.n - 1 do d[i] = -1 / part.total end
    rows = rows + part.rows
  end
  local p = pass.scaled(o.model, parts, function(scale)
    for _, part in ipairs(parts) do part.trainer.adapter:zero_gradient() end
    local p = step.own(pass.create(o.model, batch, { adapter = o.adapter, population = o.population, memory = memory.of_pass(o.model, o.memory), backward = true,
      ranks = comm.size > 1, loss_scale = scale }))
    for i = 0, p.n_micro - 1 do
      p:forward(i, logprob, nil)
      p:backward(i, d, nil)
    end
    if comm.size > 1 then p:reduce() end
    return p
  end)
  local list = {}
  for k, part in ipairs(parts) do
    local t, loss = part.trainer, 0
    for i = part.first, part.first + part.n - 1 do loss = loss - logprob[i] / part.total end
    if comm.parts > 1 then
      local all = comm.gather("loss of a step", loss)
      loss = 0
      for _, l in ipairs(all) do loss = loss + l end
    end
    step.updating()
    t.steps, t.num_tokens = t.steps + 1, t.num_tokens + part.rows
    list[k] = { step = t.steps, loss = loss, learning_rate = part.lr, grad_norm = t.optimizer:step(part.lr), num_tokens = t.num_tokens,
      completion_tokens = part.total, micro_batches = p.n_micro, activation_bytes = p.planned_bytes }
  end
  p:free()
  local seconds = C.tl_seconds() - began
  for k, m in ipairs(list) do
    m.step_time, m.tokens_per_s = seconds, rows / seconds
    if parts[k].trainer.o.run then parts[k].trainer.o.run:step(m) end
    checkpoint.after(parts[k].trainer)
  end
  return list
end

local function one_step(self, examples)
  local batch = step.own(pass.batch())
  local part = sft.pack(self, batch, examples)
  local m = sft.update({ part }, batch, { model = self.model, adapter = self.adapter, memory = self.o.memory })[1]
  batch:free()
  return m
end

--- One step on a list of problems, or of {prompt_ids, completion_ids}; returns its metrics. One that is interrupted or fails leaves the trainer as it was.
function Trainer:step(examples)
  data.check("a step", examples)
  return step.run(self, nil, one_step, examples)
end

--- There is nothing to release: for scripts that free any trainer.
function Trainer:free() end

--- Mean loss over examples, without training.
function Trainer:loss(examples)
  data.check("a loss", examples)
  local batch = pass.batch()
  for i, e in ipairs(examples) do sft.add(batch, self.model, e, self.o, i) end
  local n, sum = batch:n_tokens(), 0
  local lp = pass.logprobs(self.model, batch, { adapter = self.adapter, memory = memory.of_pass(self.model, self.o.memory) })
  for i = 0, n - 1 do sum = sum - lp[i] end
  batch:free()
  return sum / n
end

return sft
