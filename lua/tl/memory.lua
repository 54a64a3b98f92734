--- memory.lua: how a training step shares the memory that the process may take: the device's where one computes, else the host's.
---
---   resident     when the trainer is made: program, weights, adapter; on a device what these have asked for there
---   sampled      the copy that merged or int8 rollouts are sampled from
---   cache        keys and values of the step's prompts and of as many completions as run at once; free again before training
---   kept         activations that the sampler leaves for training (native rollouts of one turn only): as many layers as fit
---   pass         activations of the training pass, cut into micro-batches that fit
---   reserve      logits of a decode step, kernels' scratch, Lua
---
--- Ranks that share a model must cut a step alike: what they take is what the one with the least free memory can.
---
--- The cache comes first, at most half of what is left: fewer completions run at once when it is short; what is kept makes room when a later step
--- has longer prompts. A pass is not needed at the
--- same time, so it may take as much, and an eighth of what is left in any case (it works in smaller pieces at little cost). The rest
--- is for what is kept. The sum is what is predicted; the metrics say what the peak was.
local F = require "tl.ffi"
local sample = require "tl.sample"
local comm = require "tl.comm"
local C = F.C

local memory = {}

local MIB = 1024 * 1024
local DEFAULT = 2240 * MIB      -- beyond what is resident
local PASS_SHARE = 1 / 8        -- of what is left, for a pass
local LEAST = 8 * MIB           -- what is kept and a pass get at least this together

-- bytes of one row of the cache: k and v of every layer, of this rank's heads
local function cache_row(model)
  return model.n_layers * 2 * model.n_kv_heads / model.shards * model.head_dim * (model.compute == "f32" and 4 or 2)
end

--- Bytes beside what is planned, when so many sequences are sampled at once. On a CPU: a decode step's logits (at most 64 MiB: kernels/cpu/
--- sample.c), kernels' scratch, Lua. On a device, whose scratch grows and is kept: logits (at most 256 MiB: kernels/cuda/sample.cu) where
--- weights passed through in pieces of 64 MiB before (packed.cu) and attention's chunks lie (8: attention.cu), sums of parts of a long
--- reduction (80), the head's gradient (16), cuBLASLt's work space (32).
function memory.reserve(vocab, sequences, device)
  local logits = sequences * 4 * vocab
  if device then return math.max(64 * MIB, math.min(256 * MIB, logits)) + 128 * MIB end
  return math.min(64 * MIB, logits) + 48 * MIB
end
local function reserve(model, sequences) return memory.reserve(model.vocab, sequences or 64, C.tl_on_device()) end

-- what stays: a finished pass's block is taken again, or given back before other memory is
local function resident() return tonumber(C.tl_held_bytes()) end

--- What a process with this model takes in all when no limit is given, beside a copy to sample from.
function memory.default() return resident() + DEFAULT end

-- bytes of the copy that is sampled from: merged weights, or int8 ones, of full finetuning made of merged ones
local function sampled_from(t)
  if t.rollouts == "native" then return 0 end
  local whole = t.rollouts == "merged" or t.adapter and t.adapter.kind == "full"
  return t.model.packed_bytes * (whole and 1 or 0.5)
end

--- When a trainer is made: its limit, beyond what is resident now.
function memory.start(t)
  t.resident = resident()
  t.sampled = sampled_from(t)
  local limit = t.o.memory and t.o.memory > 0 and t.o.memory or memory.default() + t.sampled
  t.free_memory = comm.least("free memory", limit - t.resident - reserve(t.model, t.o.max_sequences) - t.sampled)
  if t.free_memory < LEAST then
    local device = C.tl_on_device()
    error(("memory: %d MiB%s are not enough: the %s and the model take %d MiB, scratch is reserved %d MiB, and a step needs at least %d MiB more")
      :format(limit / MIB, device and " of the device" or "", device and "adapter" or "program", math.ceil(t.resident / MIB),
        math.ceil((limit - t.resident - t.free_memory) / MIB), LEAST / MIB), 0)
  end
end

--- The budget of a step: { cache, kept, pass, predicted } in bytes. groups: with their prompts' ids.
function memory.plan(t, groups)
  local prompts, longest, new = 0, 0, t.new_tokens or t.o.max_completion_length or 512  -- a population's new_tokens: of the member with the longest
  for _, g in ipairs(groups) do prompts, longest = prompts + #g.prompt, math.max(longest, #g.prompt) end
  local at_once = math.min(t.o.max_sequences or 64, #groups * t.n)
  local row = cache_row(t.model)
  local cache = math.max(row * (longest + new), math.min(row * (prompts + at_once * new), math.floor(t.free_memory / 2)))
  if t.kept and cache > t.free_memory - t.kept_bytes then  -- longer prompts, or more, than in the steps before
    t.kept:free()
    t.kept = nil
  end
  if t.rollouts == "native" and not t.turns and not t.kept then
    t.kept_bytes = math.max(0, math.floor(t.free_memory - math.max(cache, t.free_memory * PASS_SHARE)))
    t.kept = sample.kept(t.kept_bytes)
  end
  local kept = t.kept_bytes or 0
  local pass = math.max(LEAST, t.free_memory - kept)
  return { cache = cache, kept = kept, pass = pass, predicted = t.resident + reserve(t.model, t.o.max_sequences) + t.sampled + kept + math.max(cache, pass) }
end

--- The budget of a pass for a process that may take `limit` bytes in all; nil or 0: the pass's own default.
function memory.of_pass(model, limit)
  if not limit or limit == 0 then return 0 end
  return comm.least("memory of a pass", math.max(LEAST, limit - resident() - reserve(model)))
end

return memory
