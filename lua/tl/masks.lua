--- masks.lua: which of a step's tokens a GRPO loss is of, and the per-token arrays of a batch.
---
---   mask          1: the token counts. 0: a reply's (tl.turns), or one of a completion that the limit cut off (mask_truncated_completions)
---   policy_mask   1: the clipped term is of it too. 0: its entropy is not among the step's highest (top_entropy_quantile)
local ffi = require "ffi"

local masks = {}

--- An array of n numbers, of one where there are none.
function masks.array(n) return ffi.new("float[?]", math.max(1, n)) end

--- Whether a completion is left out because the limit cut it off. t: its trainer.
function masks.is_truncated(t, c) return t.o.mask_truncated_completions == true and c.finish == "length" end

local function counts(t, c, k) return not masks.is_truncated(t, c) and (not c.mask or c.mask[k] == 1) end

--- How many of a rollout's sampled tokens are left out so.
function masks.truncated(t, r)
  local n = 0
  for _, g in ipairs(t.o.mask_truncated_completions and r.groups or {}) do
    for _, c in ipairs(g.completions) do n = n + (c.finish == "length" and c.n_tokens or 0) end
  end
  return n
end

--- The entropy from which on a token is among the highest of the step: torch.quantile's.
function masks.threshold(t, r)
  local list = {}
  for _, g in ipairs(r.groups) do
    for _, c in ipairs(g.completions) do
      for k = 1, #c.ids do if counts(t, c, k) then list[#list + 1] = c.entropy[k] end end
    end
  end
  table.sort(list)
  local at = (1 - t.top_entropy) * (#list - 1)
  local low, high = list[math.floor(at) + 1] or 0, list[math.ceil(at) + 1] or 0
  return low + (at % 1) * (high - low)
end

--- Makes the arrays of a batch: b.advantage, a completion; a token, b.sampler (the sampler's logprobs) and, where some token is left out, b.mask
--- and b.policy_mask. c.part of its completions says whose they are, part.threshold what masks.threshold does.
function masks.fill(b, parts)
  local masked, chosen = false, false
  for _, part in ipairs(parts) do chosen = chosen or part.trainer.top_entropy < 1 end
  for _, c in ipairs(b.list) do masked = masked or c.mask or masks.is_truncated(c.part.trainer, c) end
  b.sampler, b.advantage = masks.array(b.n_tokens), masks.array(#b.list)
  b.mask, b.policy_mask = masked and masks.array(b.n_tokens) or nil, chosen and masks.array(b.n_tokens) or nil
  local at = 0
  for i, c in ipairs(b.list) do
    local t = c.part.trainer
    b.advantage[i - 1] = c.advantage
    for k = 1, #c.ids do
      b.sampler[at] = c.logprobs[k]
      if masked then b.mask[at] = counts(t, c, k) and 1 or 0 end
      if chosen then b.policy_mask[at] = (t.top_entropy == 1 or c.entropy[k] >= c.part.threshold) and 1 or 0 end
      at = at + 1
    end
    c.part = nil
  end
end

return masks
