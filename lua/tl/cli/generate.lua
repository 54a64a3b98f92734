--- tlrun generate: completions of a prompt
local input = require "tl.input"
local json = require "tl.json"
local options = require "tl.options"
local sample = require "tl.sample"

local command = { summary = "completions of a prompt", usage = "--model M [--adapter A] --prompt TEXT [--chat] [-n N]" }

command.parameters = {
  input.MODEL, input.ADAPTER, input.FORCE, input.DEVICE, input.TENSOR_PARALLEL,
  { "prompt", { nil, "the prompt; - reads it from stdin, @FILE from a file", type = "string" } },
  { "ids", { nil, "the prompt as token ids instead; - reads them from stdin, @FILE from a file", type = "string", value = "IDS" } },
  { "chat", { false, "the prompt is a user's message: put it into the chat template" } },
  { "system", { nil, "with --chat: the system message", type = "string" } },
  { "n", { 1, "how many completions", integer = true, min = 1, short = "n" } },
  { "temperature", { 1, "0 is greedy", min = 0 } },
  { "top_p", { 1, "keep the most likely tokens up to this mass", min = 0, max = 1 } },
  { "top_k", { 0, "keep this many tokens; 0: all", integer = true, min = 0 } },
  { "min_p", { 0, "keep tokens with at least this share of the likeliest one's probability", min = 0, max = 1 } },
  { "max_new_tokens", { 128, "end after this many tokens", integer = true, min = 1 } },
  { "min_new_tokens", { 0, "do not end before this many tokens", integer = true, min = 0 } },
  { "seed", { 0, "seed of the draws", integer = true, min = 0, max = 2 ^ 53 } },
  { "stop", { nil, "text that ends a completion; may be given several times", type = "list", repeated = true } },
  { "stream", { nil, "show the text while it is made; without the word, on a terminal with one completion", type = "boolean" } },
  { "ignore_eos", { false, "go on after the end-of-sequence token" } },
  { "compute", { "bf16", "dtype of weights and activations", choices = { "bf16", "fp16", "f16", "fp32", "f32" } } },
}

local function text_of(word)
  if word == "-" then return io.read "*a" end
  return word:sub(1, 1) == "@" and require("tl.fs").read(word:sub(2)) or word
end

local function prompt_ids(p, model)
  if p.ids then return input.ids(p.ids, "--ids") end
  local t, text = input.tokenizer(model), text_of(p.prompt)
  if not p.chat then return t:encode(text, { add_special = true, parse_special = true }) end
  local messages = {}
  if p.system then messages[1] = { role = "system", content = p.system } end
  messages[#messages + 1] = { role = "user", content = text }
  return t:encode(t:chat(messages, { add_generation_prompt = true }), { parse_special = true })
end

-- the text of the one completion as it comes; its end on a line of its own
local function show(model, ids, o)
  io.stdout:setvbuf "no"
  local _, stats = sample.stream(model, ids, function(text) io.write(text) end, o)
  io.write "\n"
  return stats
end

local function print_all(p, n_prompt, completions)
  local list = json.array {}
  for i, c in ipairs(completions) do
    list[i] = json.object({ text = c.text or json.null, ids = json.array(c.ids), logprobs = json.array(c.logprobs), finish_reason = c.finish },
      { "text", "ids", "logprobs", "finish_reason" })
  end
  if p.json then
    print(json.encode(json.object({ completions = list, prompt_tokens = n_prompt }, { "completions" })))
    return
  end
  for i, c in ipairs(list) do
    if p.n > 1 then print(("--- %d of %d (%s)"):format(i, p.n, c.finish_reason)) end
    print(c.text)
  end
end

function command.run(p)
  if not p.prompt == not p.ids then options.usage "tlrun generate wants --prompt TEXT or --ids IDS" end
  if p.system and not p.chat then options.usage "--system goes with --chat" end
  if p.stream and (p.json or p.n > 1) then options.usage "--stream shows one completion as text: not with --json, nor with -n above 1" end
  local model, adapter = input.model(p, p.compute)
  if not p.json then input.tokenizer(model, "; --json gives the ids") end
  local ids = prompt_ids(p, model)
  for _, id in ipairs(ids) do
    if id >= model.vocab then options.exit(1, ("token id %d: the vocabulary has %d"):format(id, model.vocab)) end
  end
  local o = { adapter = adapter, n = p.n, temperature = p.temperature, top_p = p.top_p, top_k = p.top_k, min_p = p.min_p,
    max_new_tokens = p.max_new_tokens, min_new_tokens = p.min_new_tokens, seed = p.seed, stop = p.stop, ignore_eos = p.ignore_eos }
  local stream, stats = p.stream, nil
  if stream == nil then stream = p.n == 1 and not p.json and require("tl.host").isatty(1) end
  if stream then
    stats = show(model, ids, o)
  else
    local out
    out, stats = sample.generate(model, { ids }, o)
    print_all(p, #ids, out[1])
  end
  local seconds = stats.prefill_seconds + stats.decode_seconds
  io.stderr:write(("%d tokens in %.1f s (%.0f a second)\n"):format(stats.new_tokens, seconds, stats.new_tokens / math.max(1e-9, seconds)))
  return 0
end

return command
