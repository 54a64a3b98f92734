-- split.lua: what a model computes, alone or shared by ranks, as one JSON document, for tests/test_tensor_parallel.sh. For each model:
-- logprobs, gradients of TinyLoRA and LoRA-XS, sampled tokens, the bytes of its weights, and what of an adapter file's base is known.
-- `make` writes the models: random ones of three families, with biases wherever there can be some, norms on q and k, and as GGUF;
-- "random" is one whose weights are drawn.
local tl = require "tl"
local pass, json, fs = require "tl.pass", require "tl.json", require "tl.fs"

local p = tl.recipe {
  name   = "split",
  dir    = { nil, "folder of the models", type = "string", required = true },
  result = { nil, "the document", type = "string" },
  make   = { false, "write the models" },
  models = { { "llama", "qwen2", "qwen3", "llama.gguf", "random" }, "which of them" },
  dtype  = { "f32", "weights and activations" },
}

local CONFIG = [[{"model_type":"%s","hidden_size":48,"intermediate_size":72,"num_hidden_layers":3,"num_attention_heads":8,"num_key_value_heads":4,
  "head_dim":12,"vocab_size":97,"rms_norm_eps":1e-5,"rope_theta":10000.0,"max_position_embeddings":256,"tie_word_embeddings":%s,"hidden_act":"silu",
  "attention_bias":%s,"initializer_range":0.2,"bos_token_id":1,"eos_token_id":2}]]

-- biases are made zero: a full adapter gives them, and the norms, numbers
local function with_biases(model)
  local full = tl.adapter.full(model, { dtype = "f32" })
  local v = full:parameters()
  for i = 1, #v do v[i] = v[i] + 0.05 * math.sin(i * 0.7) end
  return full:set(v)
end

if p.make then
  for _, family in ipairs { "llama", "qwen2", "qwen3" } do
    local config = p.dir .. "/" .. family .. ".json"
    fs.mkdirs(p.dir)
    local f = assert(io.open(config, "w"))
    f:write(CONFIG:format(family, tostring(family == "llama"), tostring(family ~= "qwen2")))
    f:close()
    local model = tl.model.create(config, { seed = 3, dtype = "f32" })
    local full = with_biases(model)
    model:save(p.dir .. "/" .. family, { adapter = full, dtype = "f32" })
    if family == "llama" then
      local plain = config:gsub("%.json$", "-plain.json")
      f = assert(io.open(plain, "w"))
      f:write((CONFIG:format(family, "true", "false"):gsub('"hidden_size":48', '"hidden_size":64'):gsub('"intermediate_size":72', '"intermediate_size":96')))
      f:close()
      tl.model.create(plain, { seed = 4, dtype = "f32" }):export(p.dir .. "/llama.gguf", "gguf", { dtype = "q8_0", tokenizer = false })
    end
  end
  return
end

local function ids(n, seed)
  local list = {}
  for i = 1, n do list[i] = 3 + (i * i * 7 + seed * 13) % 90 end
  return list
end

local function gradient(model, a)
  local b = pass.batch()
  for k = 1, 3 do
    b:prompt(ids(4 + k, k))
    for j = 1, 2 do b:completion(ids(5 + j, 10 * k + j)) end
  end
  local n = b:n_tokens()
  local lp, d = require("ffi").new("float[?]", n), require("ffi").new("float[?]", n)
  for i = 0, n - 1 do d[i] = math.sin(i) end
  a:zero_gradient()
  local ps = pass.create(model, b, { adapter = a, backward = true })
  for i = 0, ps.n_micro - 1 do
    ps:forward(i, lp)
    ps:backward(i, d)
  end
  ps:free()
  return a:gradient()
end

local function numbers(a)
  local v = a:parameters()
  for i = 1, #v do v[i] = 0.05 * math.cos(i) end
  return a:set(v)
end

local doc = json.object({}, p.models)
for _, name in ipairs(p.models) do
  local model = name == "random" and tl.model.create(p.dir .. "/qwen2.json", { seed = 9, dtype = p.dtype }) or tl.model.load(p.dir .. "/" .. name, { dtype = p.dtype })
  local tiny = numbers(tl.adapter.tinylora(model, { u = 5, cache = false, tie = tl.tie.structured }))
  local xs = numbers(tl.adapter.loraxs(model, { rank = 2, cache = false }))
  local sampled = tl.sample.generate(model, { ids(6, 1), ids(4, 2) }, { adapter = tiny, n = 2, max_new_tokens = 8, seed = 5, ignore_eos = true })
  doc[name] = { logprobs = model:logprobs(ids(24, 0)), adapted = model:logprobs(ids(24, 0), tiny), tinylora = gradient(model, tiny), loraxs = gradient(model, xs),
    sampled = { sampled[1][1].ids, sampled[1][2].ids, sampled[2][1].ids, sampled[2][2].ids }, bytes = model.packed_bytes, parameters = model.n_parameters,
    merged = model:merge(tiny):logprobs(ids(24, 0)), int8 = model:quantize():logprobs(ids(24, 0)) }
  if tl.comm.rank == 0 then tiny:save(p.result .. "." .. name .. ".tla") end
end
if tl.comm.rank == 0 then
  local f = assert(io.open(p.result, "w"))
  f:write(json.encode(doc))
  f:close()
end
