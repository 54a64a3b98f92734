--- sft.lua: supervised finetuning, loss on the completion only: the mean over the step's completion tokens of -logprob.
--- Any adapter, full finetuning included: pre-training is sft with adapter.full on documents whose prompt is one token.
local F = require "tl.ffi"
local ffi = require "ffi"
local memory = require "tl.memory"
local pass = require "tl.pass"
local optim = require "tl.optim"
local grpo = require "tl.grpo"
local C = F.C

local sft = {}
local Trainer = {}
Trainer.__index = Trainer

--- An SFT trainer. Options: model, adapter, lr (number or function(step, total), 2e-5), prompt (as in tl.grpo), target:
--- function(problem) -> the completion's text (default problem.solution or problem.answer), max_grad_norm (1), beta1, beta2, eps,
--- weight_decay, total_steps, memory (bytes the process may take in all), eos (true: the end-of-sequence token is learnt too), run.
function sft.trainer(o)
  local t = setmetatable({ o = o, model = o.model or error("sft.trainer wants a model", 2), adapter = o.adapter or error("sft.trainer wants an adapter", 2) }, Trainer)
  t.lr, t.optimizer, t.steps, t.num_tokens = optim.schedule(o.lr or 2e-5), optim.adamw(o.adapter, o), 0, 0
  return t
end

-- {prompt_ids, completion_ids} of an example: given as such, or made from a problem
local function example_ids(self, e)
  if e.prompt_ids then return e.prompt_ids, e.completion_ids end
  local tok = self.model:tokenizer()
  local text = (self.o.target or function(p) return p.solution or p.answer end)(e)
  if type(text) ~= "string" then error("the target of a problem is a text; got " .. type(text), 3) end
  local ids = tok:encode(text)
  if self.o.eos ~= false then ids[#ids + 1] = self.model.eos[1] or tok:eos() end
  return grpo.prompt_ids(tok, self.o.prompt, e), ids
end

--- One step on a list of problems, or of {prompt_ids, completion_ids}; returns its metrics.
function Trainer:step(examples)
  local began = C.tl_seconds()
  self.steps = self.steps + 1
  local batch, rows = pass.batch(), 0
  for _, e in ipairs(examples) do
    local prompt, completion = example_ids(self, e)
    batch:prompt(prompt)
    batch:completion(completion)
    rows = rows + #prompt + #completion
  end
  local n = batch:n_tokens()
  local logprob, d = ffi.new("float[?]", n), ffi.new("float[?]", n)
  for i = 0, n - 1 do d[i] = -1 / n end
  self.adapter:zero_gradient()
  local p = pass.create(self.model, batch, { adapter = self.adapter, memory = memory.of_pass(self.model, self.o.memory), backward = true })
  for i = 0, p.n_micro - 1 do
    p:forward(i, logprob, nil)
    p:backward(i, d, nil)
  end
  local loss = 0
  for i = 0, n - 1 do loss = loss - logprob[i] / n end
  local lr = self.lr(self.steps, self.o.total_steps or self.steps)
  local norm = self.optimizer:step(lr)
  self.num_tokens = self.num_tokens + rows
  local m = { step = self.steps, loss = loss, learning_rate = lr, grad_norm = norm, num_tokens = self.num_tokens,
    completion_tokens = n, micro_batches = p.n_micro, activation_bytes = p.planned_bytes }
  p:free()
  batch:free()
  m.step_time = C.tl_seconds() - began
  m.tokens_per_s = rows / m.step_time
  if self.o.run then self.o.run:step(m) end
  return m
end

--- Mean loss over examples, without training.
function Trainer:loss(examples)
  local batch = pass.batch()
  for _, e in ipairs(examples) do
    local prompt, completion = example_ids(self, e)
    batch:prompt(prompt)
    batch:completion(completion)
  end
  local n, sum = batch:n_tokens(), 0
  local lp = pass.logprobs(self.model, batch, { adapter = self.adapter, memory = memory.of_pass(self.model, self.o.memory) })
  for i = 0, n - 1 do sum = sum - lp[i] end
  batch:free()
  return sum / n
end

return sft
