--- information.lua: how many bits a training gets, how many an adapter holds, and what they save.
---
---   rewards       bits received by reinforcement learning: the empirical entropy of the rewards in their groups. A right-or-wrong reward
---                 carries one bit a sample at most; a group whose rewards are all equal carries none.
---   code_length   bits of texts under a model: - sum log2 p(token | before). Of demonstrations under the base model it is what SFT is given.
---   adapter       bits that an adapter is stored in, and the bits of a shorter description of the same numbers: rounded to multiples of a
---                 step, each written with the universal code for integers (Rissanen 1983: log* n + log2 2.865064)
---   two_part      the two-part code of data: bits of the adapter + bits of the data given the adapter, beside bits of the data under
---                 the base (Rissanen 1978, minimum description length). The step of the description may be searched.
---   gradients     the gradient of v over epochs of the same problems, sampled anew in each (RL) or with their solutions again (SFT)
---   separation    signal and noise of such a list of gradients
---
--- The entropy of n samples is the plug-in estimate, which is low by about (k - 1) / (2 n ln 2) bits a sample for k values seen
--- (Miller 1955): small groups understate what they carry.
local F = require "tl.ffi"
local options = require "tl.options"
local pass = require "tl.pass"

local information = {}

local LN2 = math.log(2)

-- ---- bits received

--- Entropy, in bits a sample, of a list of values by their frequencies. NaN (a sample left out) does not count.
---@param values number[]
---@return number bits, integer n
function information.entropy(values)
  local count, n, bits = {}, 0, 0
  for _, v in ipairs(values) do
    if v == v then count[v], n = (count[v] or 0) + 1, n + 1 end
  end
  for _, c in pairs(count) do bits = bits - c / n * math.log(c / n) / LN2 end
  return math.max(0, bits), n
end

--- Bits in the rewards of groups (a list of lists): { samples, bits, per_sample, silent = share of groups that carry none }.
---@param groups number[][]
function information.rewards(groups)
  local r = { samples = 0, bits = 0, silent = 0 }
  for _, group in ipairs(groups) do
    local bits, n = information.entropy(group)
    r.samples, r.bits, r.silent = r.samples + n, r.bits + n * bits, r.silent + (bits == 0 and 1 or 0)
  end
  r.per_sample = r.samples > 0 and r.bits / r.samples or 0
  r.silent = #groups > 0 and r.silent / #groups or 0
  return r
end

--- The rewards of a step's rollout (what trainer:step returns second), for tl.information.rewards.
function information.groups(rollout)
  local out = {}
  for i, g in ipairs(rollout.groups) do
    out[i] = {}
    for k, c in ipairs(g.completions) do out[i][k] = c.reward end
  end
  return out
end

-- ---- bits of texts

local CODE = options.names { any = "adapter target prompt", boolean = "eos" }
local TWO_PART = options.names { any = "target prompt", boolean = "eos search" }

local function demonstrations(model, problems, o)
  local sft, batch = require "tl.sft", pass.batch()
  for i, p in ipairs(problems) do sft.add(batch, model, p, o, i) end
  return batch
end

--- Code length of the demonstrations of problems (their solutions after their prompts). Options: adapter (nil: the base), target, prompt,
--- eos, as in tl.sft.trainer. Returns { bits, tokens, per_token }.
---@param model table
---@param problems table[]
---@param o table?
function information.code_length(model, problems, o)
  o = o or {}
  F.object("information.code_length", model, "model")
  options.only("information.code_length", o, CODE)
  local batch = demonstrations(model, problems, o)
  local logprobs, nats, n = pass.logprobs(model, batch, { adapter = o.adapter }), 0, batch:n_tokens()
  for i = 0, n - 1 do nats = nats - logprobs[i] end
  batch:free()
  return { bits = nats / LN2, tokens = n, per_token = nats / LN2 / math.max(1, n) }
end

-- ---- bits of an adapter

--- Length in bits of the universal code of a whole number n >= 1: log2 2.865064 + log2 n + log2 log2 n + ... (the positive terms).
---@param n integer
function information.universal(n)
  local bits, x = math.log(2.865064) / LN2, n
  if not (type(n) == "number" and n >= 1 and n < math.huge) then error("information.universal wants a whole number from 1; got " .. F.shown(n), 2) end
  while true do
    x = math.log(x) / LN2
    if x <= 0 then return bits end
    bits = bits + x
  end
end

--- Bits of a list of numbers rounded to multiples of `step`: 0, 1, -1, 2, ... are written as 1, 2, 3, 4, ...
---@param values number[]
---@param step number
---@return number bits, number[] rounded
function information.description(values, step)
  if not (type(step) == "number" and step > 0) then error("information.description wants a step above 0; got " .. F.shown(step), 2) end
  local bits, rounded = 0, {}
  for i, v in ipairs(values) do
    local q = math.floor(v / step + 0.5)
    if q - q ~= 0 then error(("information.description: number %d of the list is %s, in steps of %g: there is no finite code for it"):format(i, tostring(v), step), 2) end
    bits, rounded[i] = bits + information.universal(q <= 0 and 1 - 2 * q or 2 * q), q * step
  end
  return bits, rounded
end

--- What an adapter is stored in: { numbers, bits }.
function information.adapter(adapter)
  F.object("information.adapter", adapter, "adapter")
  return { numbers = adapter.n_parameters, bits = 8 * adapter.n_bytes }
end

--- The two-part code of demonstrations, before and after: { before = bits under the base, adapter = bits of the adapter, data = bits given it,
--- after = adapter + data, saved = before - after }. With search = true the adapter is described by multiples of the step, a power of
--- two, that makes the sum shortest; step, and the adapter is left as it was. Other options as in code_length.
---@param model table
---@param adapter table
---@param problems table[]
---@param o table?
function information.two_part(model, adapter, problems, o)
  o = o or {}
  F.object("information.two_part", adapter, "adapter")
  options.only("information.two_part", o, TWO_PART)
  local with = setmetatable({ adapter = adapter }, { __index = o })
  local r = { before = information.code_length(model, problems, setmetatable({}, { __index = o })).bits, adapter = 8 * adapter.n_bytes }
  if not o.search then
    r.data = information.code_length(model, problems, with).bits
  else
    local values, best = adapter:parameters(), nil
    local ok, why = pcall(function()
      for e = 0, 16 do
        local bits, rounded = information.description(values, 2 ^ -e)
        adapter:set(rounded)
        local data = information.code_length(model, problems, with).bits
        if not best or bits + data < best.adapter + best.data then best = { adapter = bits, data = data, step = 2 ^ -e } end
      end
    end)
    adapter:set(values)
    if not ok then error(why, 0) end
    r.adapter, r.data, r.step = best.adapter, best.data, best.step
  end
  r.after = r.adapter + r.data
  r.saved = r.before - r.after
  return r
end

-- ---- signal and noise

--- The gradient of the adapter's numbers over several epochs of the same problems, nothing being updated. Options: model, adapter, problems,
--- epochs, method ("grpo": completions are sampled anew in each epoch; "sft": the solutions are the same), and those of the trainer
--- (verifier, num_generations, max_completion_length, target, ...). Returns a list of lists of numbers.
---@param o table
function information.gradients(o)
  local out = {}
  local own, sft = { lr = 0, max_grad_norm = 0, run = false }, type(o) == "table" and o.method == "sft"
  local method = require(sft and "tl.sft" or "tl.grpo")
  local known = options.names({ any = "problems method", count = "epochs" }, require("tl.grpo").OPTIONS, require("tl.sft").OPTIONS)
  options.only("information.gradients", o, known)  -- one table may serve both methods
  if not o.epochs then error("information.gradients wants epochs", 2) end
  if o.method and o.method ~= "grpo" and not sft then error('information.gradients: method is "grpo" or "sft"; got ' .. F.shown(o.method), 2) end
  if not sft then own.gate = false end
  local trainer = method.trainer(setmetatable(own, { __index = o }))
  for epoch = 1, o.epochs do
    o.adapter:zero_gradient()
    trainer:step(o.problems)
    out[epoch] = o.adapter:gradient()
  end
  if trainer.free then trainer:free() end
  return out
end

local function dot(a, b)
  local s = 0
  for i = 1, #a do s = s + a[i] * b[i] end
  return s
end

--- Signal and noise of gradients g_1 .. g_K: signal = mean of g_i . g_j over i ~= j, which is |E g|^2 without bias; noise = mean |g_i|^2 - signal.
--- The mean of k epochs has a ratio of k signal / noise. With `reference` (the gradient of many other problems) also alignment[k], the cosine
--- of the mean of the first k with it: under RL it grows with k when what the rewards say is common to the problems and the rest of a sample
--- is noise; under SFT epochs repeat the same tokens, and it does not change.
---@param list number[][]
---@param reference number[]?
---@return table { signal, noise, ratio, alignment }
function information.separation(list, reference)
  local k, sum, squares = #list, {}, 0
  if k < 2 then error("separation wants at least two gradients", 2) end
  local r = { alignment = reference and {} or nil }
  for i = 1, #list[1] do sum[i] = 0 end
  for n, g in ipairs(list) do
    squares = squares + dot(g, g)
    for i, v in ipairs(g) do sum[i] = sum[i] + v end
    if reference then
      local size = math.sqrt(dot(sum, sum) * dot(reference, reference))
      r.alignment[n] = size > 0 and dot(sum, reference) / size or 0
    end
  end
  r.signal = (dot(sum, sum) - squares) / (k * (k - 1))
  r.noise = squares / k - r.signal
  r.ratio = r.noise > 1e-12 * squares / k and r.signal / r.noise or math.huge
  return r
end

return information
