--- pass.lua: batches of prompts and completions, and their passes through the model, for the trainers.
local F = require "tl.ffi"
local ffi = require "ffi"
local log = require "tl.log"
local options = require "tl.options"
local C, check = F.C, F.check

local pass = {}
local Batch, Pass = F.class "batch", F.class "pass"

--- An empty batch: b:prompt(ids), then b:completion(ids) for each of its completions.
function pass.batch()
  local out = ffi.new("tl_batch *[1]")
  check(C.tl_batch_create(out))
  return setmetatable({ handle = ffi.gc(out[0], C.tl_batch_free), at = -1 }, Batch)
end

--- Adds a prompt, a list of token ids.
function Batch:prompt(ids)
  local at = ffi.new("int[1]")
  check(C.tl_batch_prompt(self.handle, F.ids("batch:prompt", ids), #ids, at))
  self.at = at[0]
end

--- Says whose the prompts that follow are: a member of the pass's population, from 0 (at first 0; -1: the base, not trained).
function Batch:member(k) C.tl_batch_member(self.handle, F.whole("batch:member", k, "a member")) end

--- The last prompt's place among those of all ranks, from 1.
function Batch:place(k) check(C.tl_batch_place(self.handle, self.at, k)) end

--- Adds a completion of the last prompt; returns its index, from 0.
function Batch:completion(ids)
  local at = ffi.new("int[1]")
  check(C.tl_batch_completion(self.handle, self.at, F.ids("batch:completion", ids), #ids, at))
  return at[0]
end

--- Says that a completion is what the sampler drew with this sequence id, for a pass with kept activations.
function Batch:sampled(completion, sequence_id) check(C.tl_batch_sampled(self.handle, completion, sequence_id)) end

--- How many tokens the completions have, and how many completions there are.
function Batch:n_tokens() return tonumber(C.tl_batch_n_tokens(self.handle)) end
function Batch:n_completions() return C.tl_batch_n_completions(self.handle) end

--- offsets (n_completions + 1) of the completions' tokens in the per-token arrays
function Batch:offsets()
  local n = self:n_completions()
  local o = ffi.new("int64_t[?]", n + 1)
  for i = 0, n do o[i] = C.tl_batch_offset(self.handle, i) end
  return o
end

local OPTIONS = options.names { any = "adapter population kept", number = "temperature loss_scale", bytes = "memory", boolean = "backward entropy ranks" }

--- A pass over a batch. Options: adapter or population (a tl.population.of), temperature (1), memory (bytes), backward, entropy, kept (a sample.kept),
--- ranks (the gradient is all ranks': p:reduce() after the last backward), loss_scale (1; of a model in fp16 a power of two that gradients are
--- multiplied by on their way, so that fp16 holds them; the result is without it).
function pass.create(model, batch, o)
  o = o or {}
  options.only("pass.create", o, OPTIONS)
  local opt = ffi.new("tl_pass_options", { temperature = o.temperature or 1, memory_bytes = o.memory or 0,
    backward = o.backward or false, want_entropy = o.entropy or false, kept = F.handle("pass.create", o.kept, "room for activations"),
    population = F.handle("pass.create", o.population, "population"), ranks = o.ranks or false, loss_scale = o.loss_scale or 1 })
  local out = ffi.new("tl_pass *[1]")
  check(C.tl_pass_create(F.object("pass.create", model, "model").handle, F.handle("pass.create", o.adapter, "adapter"), F.object("pass.create", batch, "batch").handle, opt, out))
  return setmetatable({ handle = ffi.gc(out[0], C.tl_pass_free), batch = batch, n_micro = C.tl_pass_n_micro(out[0]),
    first_kept = C.tl_pass_first_kept(out[0]), recomputes = C.tl_pass_recomputes(out[0]), planned_bytes = tonumber(C.tl_pass_planned_bytes(out[0])) }, Pass)
end

local LOSS_SCALE, SMALLER = 2 ^ 14, 2 ^ 6

--- attempt(loss_scale) makes the gradient of the parts' adapters and returns the pass. A model in fp16 gets a loss scale, always the same, so that
--- a run does not depend on the steps before; a gradient that is not finite is made again with a smaller one
--- (in a population those of all members, whose last bits may then be others than alone).
function pass.scaled(model, parts, attempt)
  if model.compute ~= "f16" then return attempt(1) end
  local scale = LOSS_SCALE
  while true do
    local p, finite = attempt(scale), true
    for _, part in ipairs(parts) do finite = finite and C.tl_adapter_gradient_norm(part.trainer.adapter.handle) < math.huge end
    if finite then return p end
    p:free()
    if scale == 1 then error("the gradient is not finite: the model's numbers are beyond fp16's 65504; load it with dtype = \"bf16\"", 0) end
    scale = math.max(1, scale / SMALLER)
    log.warn("a gradient was beyond fp16: once more with a loss scale of %g", scale)
  end
end

--- First completion (from 0) and number of completions of micro-batch i (from 0).
function Pass:range(i)
  local r = ffi.new("int[2]")
  C.tl_pass_micro_range(self.handle, i, r, r + 1)
  return r[0], r[1]
end

function Pass:forward(i, logprobs, entropy) check(C.tl_pass_forward(self.handle, i, logprobs, entropy)) end
function Pass:backward(i, dlogprob, dentropy) check(C.tl_pass_backward(self.handle, i, dlogprob, dentropy)) end

--- Of a pass with `ranks`, by all ranks together: the gradient becomes the sum of all ranks'.
function Pass:reduce() check(C.tl_pass_reduce(self.handle)) end

--- Releases the memory now instead of at the next collection.
function Pass:free()
  if rawget(self, "handle") then C.tl_pass_free(ffi.gc(self.handle, nil)); self.handle = nil end
end
--- Releases the memory now instead of at the next collection.
function Batch:free()
  if rawget(self, "handle") then C.tl_batch_free(ffi.gc(self.handle, nil)); self.handle = nil end
end

--- logprobs of every completion token of a batch, as a float array (n_tokens), forward only
function pass.logprobs(model, batch, o)
  local p = pass.create(model, batch, o)
  local lp = ffi.new("float[?]", math.max(1, batch:n_tokens()))
  for i = 0, p.n_micro - 1 do p:forward(i, lp, nil) end
  p:free()
  return lp
end

return pass
