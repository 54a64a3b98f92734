-- pretrain_tiny.lua: trains an embedded model from scratch: tokenizer, config and weights of a Hugging Face folder, by full
-- finetuning on the word problems of lua/tl/wordproblems.lua. Each document is a chat: the question, then one answer, in
-- one of two styles; the loss is on the answer. A share of the questions asks for a style and gets it.
--   first part    of the other answers nearly all are step by step: here the model learns to read and to calculate
--   last part     their share of steps falls to `steps`: the model can still do both, and mostly answers at once
-- The result solves a problem step by step when asked to, cannot solve it at once, and is undecided when not asked.
-- --size chooses one of the family: the same data, seed and schedule for each. Beside the weights stays the training log.
-- Every problem is new (one pass, no repetition) and of the split "train"; "test" chains are never seen.
local tl = require "tl"
local word, bpe = tl.wordproblems, tl.bpe_train

local p = tl.recipe {
  name        = "pretrain_tiny",
  description = "Trains the embedded model from scratch on synthetic word problems.",
  size        = { "m", "the family's size; it gives what of the next seven is not given", choices = { "xs", "s", "m", "l" } },
  save        = { nil, "folder of the model", type = "string" },
  width       = { nil, "width C", type = "number", integer = true },
  layers      = { nil, "transformer layers", type = "number", integer = true },
  heads       = { nil, "query heads", type = "number", integer = true },
  kv_heads    = { nil, "key/value heads", type = "number", integer = true },
  ffn         = { nil, "feed-forward width F", type = "number", integer = true },
  lr          = { nil, "AdamW peak learning rate", type = "number" },
  vocab       = { 512, "vocabulary, bytes and special tokens included", integer = true },
  total       = { 1800, "optimiser steps", integer = true, min = 1 },
  batch       = { 64, "documents a step", integer = true, min = 1 },
  decay       = { 0.01, "AdamW weight decay" },
  asked       = { 0.3, "share of questions that ask for a style" },
  first       = { 0.9, "share of step-by-step answers to the others, first part" },
  steps       = { 0.4, "share of step-by-step answers to the others, last part" },
  last        = { 0.2, "length of the last part, as a share of training" },
  min_ops     = { 2, "fewest operations of a problem", integer = true },
  max_ops     = { 4, "most operations of a problem", integer = true },
  save_every  = { 500, "the weights are written every so many steps", integer = true, min = 1 },
  eval        = { 300, "held-out problems measured at the end", integer = true, min = 1 },
  dtype       = { "bf16", "compute dtype", choices = { "bf16", "f16", "f32" } },
  checkpoint  = tl.checkpoint.EVERY,
  resume      = tl.checkpoint.FROM,
}

-- The family. m, the first made, is the embedded model that "tiny" means; wider models want smaller learning rates.
local SIZES = {
  xs = { save = "models/tiny/tiny-xs", width = 64, layers = 4, heads = 2, kv_heads = 1, ffn = 192, lr = 3e-3 },
  s  = { save = "models/tiny/tiny-s", width = 96, layers = 5, heads = 3, kv_heads = 1, ffn = 288, lr = 3e-3 },
  m  = { save = "models/tiny/wordproblems", width = 128, layers = 6, heads = 4, kv_heads = 2, ffn = 384, lr = 3e-3 },
  l  = { save = "models/tiny/tiny-l", width = 256, layers = 5, heads = 8, kv_heads = 4, ffn = 704, lr = 2e-3 },
}
for name, value in pairs(SIZES[p.size]) do
  if p[name] == nil then p[name] = value end
end

local TEMPLATE = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' "
  .. "+ '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"

local function write(name, text) tl.fs.write(p.save .. "/" .. name, text) end

local function write_tokenizer()
  local texts = { " " .. word.requests.steps, " " .. word.requests.direct }
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

-- warm-up, constant for three tenths of the steps, then a cosine to a twentieth
local function schedule(step, total)
  local x = math.max(0, (step / total - 0.3) / 0.7)
  return p.lr * math.min(1, step / 100) * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * x)))
end

tl.fs.mkdirs(p.save)
write_tokenizer()
write_config()
if tl.comm.size > 1 then error("pretrain_tiny writes a model outside of its run directory: start it without mpirun", 0) end
local run = tl.report.run { name = p.name, out = p.out, config = p, seed = p.seed, total = p.total }
local model = tl.model.create(p.save .. "/config.json", { seed = p.seed, dtype = p.dtype })
local tok = model:tokenizer()
local adapter = tl.adapter.full(model)
local trainer = tl.sft.trainer { model = model, adapter = adapter, lr = schedule, total_steps = p.total, beta2 = 0.95,
  weight_decay = p.decay, max_grad_norm = 1, memory = p.memory, checkpoint = p.checkpoint, resume = p.resume, run = run }
local trained_log = {}
local function note(...)  -- a line of the training log that stays beside the model
  trained_log[#trained_log + 1] = string.format(...)
  write("training.log", table.concat(trained_log, "\n") .. "\n")
end
note("recipes/pretrain_tiny.lua --size %s --seed %d --total %d: %d parameters", p.size, p.seed, p.total, model.n_parameters)
run:log("%d parameters, to %s", model.n_parameters, p.save)

local function documents(step)
  local share = step <= p.total * (1 - p.last) and p.first or p.steps
  local list = {}
  for i, d in ipairs(word.corpus { n = p.batch, first = (step - 1) * p.batch, seed = p.seed, min_ops = p.min_ops,
                                   max_ops = p.max_ops, split = "train", steps = share, asked = p.asked }) do
    local answer = tok:encode(d.answer)
    answer[#answer + 1] = tok:eos()
    list[i] = { prompt_ids = tl.grpo.prompt_ids(tok, nil, d), completion_ids = answer }
  end
  return list
end

local began, last = os.time(), nil
for step = trainer.steps + 1, p.total do
  last = trainer:step(documents(step))
  if step % 50 == 0 or step == p.total then
    note("step %d of %d  loss %.4f  lr %.5f  %.1f M tokens", step, p.total, last.loss, last.learning_rate, last.num_tokens / 1e6)
  end
  if step % p.save_every == 0 or step == p.total then adapter:save(p.save) end
end
local seconds = os.time() - began

-- Held-out problems of another seed: as the model answers when no style is asked for (greedy, and at temperature 1), and
-- when one is. in_steps: the share of answers that calculate.
local trained = tl.model.load(p.save, { dtype = p.dtype })

local function measure(temperature, request)
  local problems = word.generate { n = p.eval, seed = p.seed + 1000, split = "test" }
  if request then
    for _, x in ipairs(problems) do x.messages[1].content = x.question .. " " .. request end
  end
  local r = tl.eval.run { model = trained, problems = problems, verifier = "verifiers.math", max_new_tokens = 64,
    temperature = temperature, seed = p.seed }
  local in_steps = 0
  for _, item in ipairs(r.items) do
    if item.text:find("=", 1, true) then in_steps = in_steps + 1 end
  end
  local m = tl.eval.summary(r)
  m.in_steps = in_steps / #r.items
  return m
end

local result = { run = run.path, model = p.save, parameters = model.n_parameters, tokens = last.num_tokens, loss = last.loss,
  seconds = seconds, greedy = measure(0), sampled = measure(1), steps_asked = measure(0, word.requests.steps),
  direct_asked = measure(0, word.requests.direct) }
for _, name in ipairs { "greedy", "sampled", "steps_asked", "direct_asked" } do
  local m = result[name]
  local line = ("%-13s right %s  in steps %.0f%%  mean length %.1f"):format(name, tl.report.interval(m.accuracy, m.ci95), 100 * m.in_steps, m.mean_length)
  note("%s", line)
  run:log("%s", line)
end
run:finish(result)
return result
