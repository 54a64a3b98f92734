-- pretrain_tiny.lua: trains an embedded model from scratch: tokenizer, config and weights of models/tiny/NAME, by full
-- finetuning on the word problems of lua/tl/wordproblems.lua. Each document is a chat: the question, then one answer, in
-- one of two styles; the loss is on the answer.
--   first part    nearly all answers step by step: here the model learns to read the questions and to calculate
--   last part     the share of steps falls to `steps`: the model can still do both, and mostly answers at once
-- The result knows how to solve a problem step by step, cannot solve it at once, and is undecided which to do.
-- Every problem is new (one pass, no repetition) and of the split "train"; "test" chains are never seen.
local tl = require "tl"
local word, bpe = tl.wordproblems, tl.bpe_train

local p = tl.recipe {
  name       = "pretrain_tiny",
  out        = { "models/tiny/wordproblems", "directory of the model" },
  width      = { 128, "width C" },
  layers     = { 6, "transformer layers" },
  heads      = { 4, "query heads" },
  kv_heads   = { 2, "key/value heads" },
  ffn        = { 384, "feed-forward width F" },
  vocab      = { 512, "vocabulary, bytes and special tokens included" },
  train_steps = { 5000, "optimiser steps" },
  batch      = { 64, "documents a step" },
  lr         = { 3e-3, "AdamW peak learning rate" },
  first      = { 0.9, "share of step-by-step answers in the first part" },
  steps      = { 0.25, "share of step-by-step answers in the last part" },
  last       = { 0.2, "length of the last part, as a share of training" },
  min_ops    = { 2, "fewest operations of a problem" },
  max_ops    = { 4, "most operations of a problem" },
  save_every = { 500, "the weights are written every so many steps" },
  eval       = { 200, "held-out problems measured at the end" },
  dtype      = { "bf16", "compute dtype: bf16 or f32" },
  seed       = { 1, "of the weights and the problems" },
}

local TEMPLATE = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' "
  .. "+ '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"

local function write(name, text) tl.fs.write(p.out .. "/" .. name, text) end

local function write_tokenizer()
  local texts = {}
  for _, x in ipairs(word.generate { n = 4000, seed = p.seed, min_ops = p.min_ops, max_ops = p.max_ops, split = "train" }) do
    for _, t in ipairs { "system\n", "user\n", x.question, "assistant\n", x.steps, x.direct } do texts[#texts + 1] = t end
  end
  local trained = bpe.train(texts, { vocab = p.vocab, special = { "<|endoftext|>", "<|im_start|>", "<|im_end|>" } })
  write("tokenizer.json", bpe.tokenizer_json(trained))
  write("tokenizer_config.json", bpe.config_json { eos = "<|im_end|>", pad = "<|endoftext|>", max_length = 512, chat_template = TEMPLATE })
end

local function write_config()
  write("config.json", ([[{
  "architectures": ["LlamaForCausalLM"],
  "model_type": "llama",
  "hidden_size": %d,
  "intermediate_size": %d,
  "num_hidden_layers": %d,
  "num_attention_heads": %d,
  "num_key_value_heads": %d,
  "head_dim": %d,
  "vocab_size": %d,
  "max_position_embeddings": 512,
  "hidden_act": "silu",
  "rms_norm_eps": 1e-05,
  "rope_theta": 10000.0,
  "attention_bias": false,
  "mlp_bias": false,
  "initializer_range": 0.02,
  "tie_word_embeddings": true,
  "bos_token_id": null,
  "eos_token_id": 2,
  "pad_token_id": 0,
  "torch_dtype": "bfloat16"
}
]]):format(p.width, p.ffn, p.layers, p.heads, p.kv_heads, p.width / p.heads, p.vocab))
end

-- constant after the warm-up, then a cosine to a twentieth over the last 70 percent
local function schedule(step, total)
  local x = math.max(0, (step / total - 0.3) / 0.7)
  return p.lr * math.min(1, step / 100) * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * x)))
end

tl.fs.mkdirs(p.out)
write_tokenizer()
write_config()
local model = tl.model.create(p.out .. "/config.json", { seed = p.seed, dtype = p.dtype })
local tok = model:tokenizer()
local adapter = tl.adapter.full(model)
local trainer = tl.sft.trainer { model = model, adapter = adapter, lr = schedule, total_steps = p.train_steps, beta2 = 0.95,
  weight_decay = 0.01, max_grad_norm = 1 }
tl.log.info("%d parameters in %s", model.n_parameters, p.out)

local function documents(step)
  local share = step <= p.train_steps * (1 - p.last) and p.first or p.steps
  local list = {}
  for i, d in ipairs(word.corpus { n = p.batch, first = (step - 1) * p.batch, seed = p.seed, min_ops = p.min_ops,
                                   max_ops = p.max_ops, split = "train", steps = share }) do
    local answer = tok:encode(d.answer)
    answer[#answer + 1] = tok:eos()
    list[i] = { prompt_ids = tl.grpo.prompt_ids(tok, nil, d), completion_ids = answer }
  end
  return list
end

local loss, began, tokens = 0, os.time(), 0
for step = 1, p.train_steps do
  local m = trainer:step(documents(step))
  loss, tokens = step == 1 and m.loss or 0.97 * loss + 0.03 * m.loss, m.num_tokens
  if step % 50 == 0 then
    tl.log.info("step %d of %d  loss %.4f  lr %.5f  %.1f M tokens  %.0f tokens/s", step, p.train_steps, loss, m.learning_rate,
      tokens / 1e6, tokens / math.max(1, os.time() - began))
  end
  if step % p.save_every == 0 or step == p.train_steps then adapter:save(p.out) end
end

-- Held-out problems: as the model answers by itself (greedy, and how often in steps at temperature 1), and led to either
-- style by the first token of the answer.
local trained = tl.model.load(p.out, { dtype = p.dtype })
local held_out = word.generate { n = p.eval, seed = p.seed + 1000, split = "test" }

local function measure(temperature, lead)
  local prompts, right, in_steps = {}, 0, 0
  for i, x in ipairs(held_out) do
    prompts[i] = tl.grpo.prompt_ids(tok, nil, x)
    for _, id in ipairs(tok:encode(lead and lead(x) or "")) do prompts[i][#prompts[i] + 1] = id end
  end
  local out = tl.sample.generate(trained, prompts, { n = 1, temperature = temperature, max_new_tokens = 64, seed = p.seed })
  for i, x in ipairs(held_out) do
    local text = (lead and lead(x) or "") .. out[i][1].text
    if text:match "#### (%-?%d+)%s*$" == x.answer then right = right + 1 end
    if text:find "=" then in_steps = in_steps + 1 end
  end
  return right / #held_out, in_steps / #held_out
end

local function first_digit(x) return x.steps:sub(1, 1) end
local result = { parameters = model.n_parameters, tokens = tokens, loss = loss, seconds = os.time() - began }
result.greedy, result.greedy_in_steps = measure(0)
result.sampled, result.sampled_in_steps = measure(1)
result.step_by_step = measure(0, first_digit)
result.at_once = measure(0, function() return "####" end)
return result
