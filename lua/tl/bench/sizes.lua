--- bench/sizes.lua: what a token costs against a model's width, depth and vocabulary, the length of its sequences, and whole
--- known shapes: forward + backward of a LoRA of rank 2 (a TinyLoRA would first need the SVD of random weights), and decoding of 16
--- sequences, on random weights. The cost should follow the
--- FLOPs (the share of the limit stays level, no cliff), memory the number of tokens.
---
--- One axis is varied at a time about the base: 6 layers of SmolLM2-135M with a vocabulary of 8192 and 256 tokens a sequence.
local bench = require "tl.bench"
local shapes = require "tl.plan.shapes"

local BASE = { layers = 6, width = 576, heads = 9, kv_heads = 3, head_dim = 64, ffn = 1536, vocab = 8192, tied = true, family = "llama" }
local TRAIN_TOKENS = 1024  -- of a step, in sequences of the row's length
local AXES = {
  { "width", { 288, 576, 1152, 2304 } },
  { "layers", { 3, 6, 12, 24 } },
  { "vocab", { 2048, 8192, 32768, 131072 } },
  { "tokens", { 128, 256, 512, 1024, 2048 } },
}
local MODELS = { "smollm2-135m", "smollm2-360m", "qwen2.5-0.5b", "qwen2.5-1.5b" }

-- the base with another value on one axis; a width keeps the proportions of heads and feed-forward
local function varied(axis, value)
  local s = {}
  for k, v in pairs(BASE) do s[k] = v end
  if axis == "width" then
    s.heads, s.head_dim = 9, value / 9
    s.ffn = value * 8 / 3
  end
  if axis ~= "tokens" then s[axis] = value end
  return s
end

local function measure(name, shape, tokens, o)
  local model = bench.of_shape(shape, "bf16")
  local adapter = require("tl.adapter").create(model, "lora", { rank = 2 })
  local t = bench.train(model, { adapter = adapter, sequences = math.max(1, TRAIN_TOKENS / tokens), tokens = tokens, reps = o.reps, memory = o.memory })
  adapter:free()
  local s = bench.sample(model, { batch = 16, prompt_tokens = tokens - 32, new_tokens = 32, reps = o.reps })
  local parameters = 0
  for _, m in ipairs(model:modules()) do parameters = parameters + m.out * m["in"] end
  model:free()
  collectgarbage()
  return { name = name, tokens = tokens, parameters = parameters + shape.vocab * shape.width, train_us_per_token = 1e6 / t.tokens_per_s,
    train_share = t.roofline_share, train_bytes_per_token = t.activation_bytes / (t.sequences * t.tokens), micro_batches = t.micro_batches,
    decode_us_per_token = 1e6 / s.tokens_per_s, decode_share = math.max(s.roofline_share, s.memory_share) }
end

--- Returns the list of rows. o: reps, memory (bytes, for the training step), only (a Lua pattern of the rows' names), each (called
--- with every row as it is measured)
return function(o)
  local rows = {}
  local function row(name, shape, tokens)
    if o.only and not name:find(o.only) then return end
    rows[#rows + 1] = measure(name, shape, tokens, o)
    if o.each then o.each(rows[#rows]) end
  end
  for _, axis in ipairs(AXES) do
    for _, value in ipairs(axis[2]) do
      local tokens = axis[1] == "tokens" and value or 256
      row(("%s %d"):format(axis[1], value), varied(axis[1], value), tokens)
    end
  end
  for _, name in ipairs(MODELS) do row(name, shapes.find(name), 256) end
  return { rows = rows, peak_rss_bytes = tonumber(require("tl.ffi").C.tl_peak_rss_bytes()) }
end
