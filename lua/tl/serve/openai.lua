--- serve/openai.lua: the bodies of OpenAI's HTTP API, read and written (https://platform.openai.com/docs/api-reference: chat completions,
--- completions, models), with the fields that vLLM adds (top_k, min_p, min_tokens, ignore_eos, chat_template_kwargs).
---
--- What would change the answer and is not done here is refused by its name; what would not (user, metadata ...) is passed over.
local json = require "tl.json"
local names = require "tl.names"

local openai = {}

-- ---- refusing

local Refusal = { __tostring = function(r) return r.message end }

--- An error that becomes an answer: status, what is wrong, and which field it is about.
function openai.refuse(status, param, format, ...)
  error(setmetatable({ status = status, param = param, message = select("#", ...) > 0 and format:format(...) or format }, Refusal), 0)
end
function openai.is_refusal(e) return getmetatable(e) == Refusal end

--- The body of an answer that refuses.
function openai.error(status, message, param)
  return { error = json.object({ message = message, type = status >= 500 and "server_error" or status == 404 and "not_found_error" or "invalid_request_error",
    param = param or json.null, code = status }, { "message", "type", "param", "code" }) }
end

-- ---- reading fields

local function given(body, name)
  local v = body[name]
  if v == json.null then return nil end
  return v
end

local function shown(v)
  if type(v) == "string" and #v > 100 then return ("a string of %d bytes"):format(#v) end
  return type(v) == "table" and v ~= json.null and "a list or an object" or json.encode(v)
end

local function is_list(v) return type(v) == "table" and (getmetatable(v) or {}).__array end

local function number(body, name, o)
  local v = given(body, name)
  if v == nil then return o.default end
  local ok = type(v) == "number" and v == v and (not o.integer or v % 1 == 0) and (not o.min or v >= o.min) and (not o.max or v <= o.max)
  if not ok then
    openai.refuse(400, name, "%s is %s; wanted %s%s%s", name, shown(v), o.integer and "a whole number" or "a number", o.min and (" from %.16g"):format(o.min) or "",
      o.max and (" to %.16g"):format(o.max) or "")
  end
  return v
end

local function flag(body, name)
  local v = given(body, name)
  if v ~= nil and type(v) ~= "boolean" then openai.refuse(400, name, "%s is %s; wanted true or false", name, shown(v)) end
  return v or false
end

local function words(body, name, most)
  local v = given(body, name)
  if v == nil then return {} end
  if type(v) == "string" then v = json.array { v } end
  if not is_list(v) then openai.refuse(400, name, "%s is %s; wanted a string or a list of strings", name, shown(v)) end
  local list = {}
  for i, s in ipairs(v) do
    if type(s) ~= "string" or s == "" then openai.refuse(400, name, "%s[%d] is %s; wanted a string with something in it", name, i - 1, shown(s)) end
    list[i] = s
  end
  if #list > most then openai.refuse(400, name, "%s has %d strings; at most %d", name, #list, most) end
  return list
end

-- fields that would change the answer, and the values that would not
local NOT_DONE = {
  presence_penalty = { 0 }, frequency_penalty = { 0 }, repetition_penalty = { 1 }, logit_bias = {}, tools = {}, tool_choice = { "none", "auto" },
  functions = {}, function_call = {}, audio = {}, prediction = {}, suffix = { "" }, best_of = { 1 },
  use_beam_search = { false }, stop_token_ids = {}, bad_words = {}, allowed_token_ids = {}, logits_processors = {}, structured_outputs = {}, chat_template = {},
  documents = {}, truncate_prompt_tokens = {}, include_stop_str_in_output = { false }, skip_special_tokens = { true }, continue_final_message = { false },
  add_special_tokens = {}, return_tokens_as_token_ids = { false }, prompt_embeds = {}, length_penalty = { 1 }, guided_json = {}, guided_regex = {}, guided_choice = {}, guided_grammar = {},
  prompt_logprobs = {}, reasoning_effort = {}, web_search_options = {},
}

-- fields that are read, and those that change no answer
local KNOWN = {}
for name in ([[model prompt messages n max_tokens max_completion_tokens temperature top_p top_k min_p min_tokens seed stop ignore_eos stream stream_options logprobs
  top_logprobs echo add_generation_prompt chat_template_kwargs response_format modalities
  user metadata store service_tier safety_identifier prompt_cache_key prompt_cache_options prompt_cache_retention parallel_tool_calls priority request_id cache_salt verbosity
  spaces_between_special_tokens]]):gmatch "%S+" do KNOWN[#KNOWN + 1], KNOWN[name] = name, true end

local function refuse_others(body, kind)
  for name in pairs(body) do
    if not KNOWN[name] and not NOT_DONE[name] then openai.refuse(400, name, "there is no field %s%s", shown(name), names.hint(tostring(name), KNOWN)) end
  end
  for name, harmless in pairs(NOT_DONE) do
    local v, fine = given(body, name), false
    for _, h in ipairs(harmless) do fine = fine or v == h end
    if name == "best_of" then fine = fine or v == body.n end
    if name == "add_special_tokens" then fine = v == (kind == "text") end  -- what is done anyway, as in vLLM
    local nothing = type(v) == "table" and next(v) == nil and not name:find "^guided"  -- an empty list of tools
    if v ~= nil and not fine and not nothing then openai.refuse(400, name, "%s is not supported", name) end
  end
  local format = given(body, "response_format")
  if format ~= nil and not (type(format) == "table" and format.type == "text") then openai.refuse(400, "response_format", "response_format: only {\"type\": \"text\"} is supported") end
  local modalities = given(body, "modalities")
  for _, m in ipairs(type(modalities) == "table" and modalities or {}) do
    if m ~= "text" then openai.refuse(400, "modalities", "modalities: only \"text\" is supported") end
  end
end

-- below 1e-6 logits over it leave fp32
local function temperature(body)
  local t = number(body, "temperature", { min = 0, max = 100, default = 1 })
  if t > 0 and t < 1e-6 then openai.refuse(400, "temperature", "temperature is %g; wanted 0 (greedy) or a number from 1e-6 to 100", t) end
  return t
end

local function settings(body)
  local o = {
    temperature = temperature(body), top_p = number(body, "top_p", { min = 0, max = 1, default = 1 }),
    top_k = number(body, "top_k", { integer = true, min = -1, max = 2 ^ 31 - 1, default = 0 }), min_p = number(body, "min_p", { min = 0, max = 1, default = 0 }),
    min_new_tokens = number(body, "min_tokens", { integer = true, min = 0, max = 2 ^ 30, default = 0 }),
    seed = number(body, "seed", { integer = true, min = -2 ^ 53, max = 2 ^ 53 }), stop = words(body, "stop", 16), ignore_eos = flag(body, "ignore_eos") }
  if o.top_k == -1 then o.top_k = 0 end  -- vLLM's word for all
  return o
end

-- ---- prompts

local function text_of(content, where)
  if type(content) == "string" then return content end
  if type(content) ~= "table" or content == json.null then openai.refuse(400, where, "%s is %s; wanted text", where, shown(content)) end
  local parts = {}
  for i, part in ipairs(content) do
    if type(part) ~= "table" or part.type ~= "text" or type(part.text) ~= "string" then
      openai.refuse(400, where, "%s[%d]: only parts {\"type\": \"text\", \"text\": ...} are supported", where, i - 1)
    end
    parts[i] = part.text
  end
  return table.concat(parts)
end

-- The ids of a text that the context can hold. One that is surely too long is not cut into tokens first: others wait for that.
local function encode(o, text, how, param)
  if #text > o.context * o.longest_token then
    openai.refuse(400, param, "the prompt has %d bytes; the model's context has %d tokens, of %d bytes at most", #text, o.context, o.longest_token)
  end
  return o.tokenizer:encode(text, how)
end

local function fitting(o, ids, param)
  if #ids >= o.context then openai.refuse(400, param, "the prompt has %d tokens; the model's context has %d, one of them for the answer", #ids, o.context) end
  return ids
end

local function chat_ids(o, body)
  local messages = given(body, "messages")
  if type(messages) ~= "table" or #messages == 0 then openai.refuse(400, "messages", "messages is missing or empty; wanted a list of {\"role\": ..., \"content\": ...}") end
  local list = json.array {}
  for i, m in ipairs(messages) do
    local where = ("messages[%d]"):format(i - 1)
    if type(m) ~= "table" or type(m.role) ~= "string" then openai.refuse(400, where, "%s has no role", where) end
    local copy = setmetatable({}, getmetatable(m))
    for k, v in pairs(m) do copy[k] = v end
    local nothing = m.role == "assistant" and (m.content == nil or m.content == json.null)  -- as beside tool_calls
    copy.content = nothing and "" or text_of(m.content, where .. ".content")
    list[i] = copy
  end
  local context = {}
  local more = given(body, "chat_template_kwargs")
  if more ~= nil and type(more) ~= "table" then openai.refuse(400, "chat_template_kwargs", "chat_template_kwargs is %s; wanted an object", shown(more)) end
  for k, v in pairs(more or {}) do context[k] = v end
  context.add_generation_prompt = given(body, "add_generation_prompt") == nil or flag(body, "add_generation_prompt")
  local ok, text = pcall(o.tokenizer.chat, o.tokenizer, list, context)
  if not ok then openai.refuse(400, "messages", "%s", (tostring(text):gsub("^%S+%.lua:%d+: ", ""))) end
  return fitting(o, encode(o, text, { parse_special = true }, "messages"), "messages")
end

local function is_ids(v) return type(v) == "table" and type(v[1]) == "number" end

-- lists of ids and, with echo, the texts of them; n: completions of each
local function text_prompts(o, body, n, echo)
  local v = given(body, "prompt")
  if type(v) == "string" or is_ids(v) then v = { v } end
  if type(v) ~= "table" or #v == 0 then openai.refuse(400, "prompt", "prompt is missing or empty; wanted a string, a list of strings, or token ids") end
  if #v * n > 4096 then openai.refuse(400, "n", "%d prompts with %d completions each are more than 4096", #v, n) end
  local out, texts = {}, {}
  for i, p in ipairs(v) do
    if type(p) == "string" then
      out[i] = encode(o, p, { add_special = true, parse_special = true }, "prompt")
    elseif is_ids(p) then
      for _, id in ipairs(p) do
        if type(id) ~= "number" or id % 1 ~= 0 or id < 0 or id >= o.vocab then openai.refuse(400, "prompt", "prompt: %s is not a token id; the vocabulary has %d", shown(id), o.vocab) end
      end
      out[i] = p
    else
      openai.refuse(400, "prompt", "prompt[%d] is neither text nor token ids", i - 1)
    end
    if #out[i] == 0 then openai.refuse(400, "prompt", "prompt[%d] is empty", i - 1) end
    fitting(o, out[i], "prompt")
    if echo then texts[i] = type(p) == "string" and p or o.tokenizer:decode(p) end
  end
  return out, texts
end

-- ---- a request

-- fields of the other path, which would be passed over here
local function not_here(body, kind)
  for name, instead in pairs(kind == "chat" and { prompt = "messages" } or { messages = "prompt", max_completion_tokens = "max_tokens" }) do
    if given(body, name) ~= nil then
      openai.refuse(400, name, "%s is a field of /v1/%s; here it is %s", name, kind == "chat" and "completions" or "chat/completions", instead)
    end
  end
end

-- whether a stream ends with the usage
local function wants_usage(body, streams)
  local o = given(body, "stream_options")
  if o == nil then return false end
  if type(o) ~= "table" or is_list(o) then openai.refuse(400, "stream_options", "stream_options is %s; wanted an object", is_list(o) and "a list" or shown(o)) end
  if not streams then openai.refuse(400, "stream_options", "stream_options wants \"stream\": true beside it") end
  for name in pairs(o) do
    local known = name == "include_usage" or name == "include_obfuscation" or name == "continuous_usage_stats" and not flag(o, name)
    if not known then openai.refuse(400, "stream_options", "stream_options.%s is not supported; there is include_usage", name) end
  end
  return flag(o, "include_usage")
end

-- the logprobs that are wanted: none, of the tokens, or with the likeliest n_top in their places; what a request is to give back of its prompt
local function what_else(r, body)
  if r.kind == "chat" then
    r.logprobs = flag(body, "logprobs")
    r.n_top = number(body, "top_logprobs", { integer = true, min = 0, max = 20, default = 0 })
    if r.n_top > 0 and not r.logprobs then openai.refuse(400, "top_logprobs", "top_logprobs is %d; it wants \"logprobs\": true beside it", r.n_top) end
    if flag(body, "echo") then openai.refuse(400, "echo", "echo is supported by /v1/completions alone") end
  else
    r.n_top = number(body, "logprobs", { integer = true, min = 0, max = 20 })
    r.logprobs, r.n_top, r.echo = r.n_top ~= nil, r.n_top or 0, flag(body, "echo")
    local top = given(body, "top_logprobs")
    if top ~= nil and top ~= 0 then openai.refuse(400, "top_logprobs", "top_logprobs is a field of /v1/chat/completions; here \"logprobs\": %s says it", shown(top)) end
  end
  r.settings.n_top, r.settings.prompt_logprobs = r.n_top, r.echo and r.logprobs
end

--- A request from its body: { kind = "chat" or "text", model, prompts (lists of ids), texts (theirs, when echo), n, stream, usage (wanted at a
--- stream's end), logprobs, n_top, echo, silent (no new token is wanted), settings (of a sampler, max_new_tokens among them) }. o: tokenizer, vocab, longest_token (bytes of
--- the vocabulary's longest), context (longest prompt and completion together), new_tokens (when the request names none).
function openai.request(kind, text, o)
  local body, why = json.parse(text)
  if body == nil then openai.refuse(400, nil, "the body is %s", why) end
  if type(body) ~= "table" or is_list(body) then openai.refuse(400, nil, "the body is no JSON object") end
  refuse_others(body, kind)
  local r = { kind = kind, model = given(body, "model"), n = number(body, "n", { integer = true, min = 1, max = 1024, default = 1 }), stream = flag(body, "stream"),
    settings = settings(body) }
  if r.model ~= nil and type(r.model) ~= "string" then openai.refuse(400, "model", "model is %s; wanted a name", shown(r.model)) end
  r.usage = wants_usage(body, r.stream)
  not_here(body, kind)
  what_else(r, body)
  if kind == "chat" then r.prompts = { chat_ids(o, body) }
  else r.prompts, r.texts = text_prompts(o, body, r.n, r.echo) end
  local longest = 0
  for _, ids in ipairs(r.prompts) do longest = math.max(longest, #ids) end
  local name = kind == "chat" and given(body, "max_completion_tokens") ~= nil and "max_completion_tokens" or "max_tokens"
  local most = number(body, name, { integer = true, min = r.echo and 0 or 1 })
  if most == 0 then most, r.silent = 1, true end  -- the prompt is wanted, and nothing after it
  if most and longest + most > o.context then
    openai.refuse(400, name, "the prompt's %d tokens and %s = %d are more than the model's context of %d", longest, name, most, o.context)
  end
  r.settings.max_new_tokens = most or math.min(kind == "chat" and o.new_tokens or 16, o.context - longest)
  if r.settings.min_new_tokens > r.settings.max_new_tokens then
    openai.refuse(400, "min_tokens", "min_tokens is %d, more than the %d tokens that the answer may have", r.settings.min_new_tokens, r.settings.max_new_tokens)
  end
  return r
end

-- ---- an answer

local function bytes_of(text)
  local list = json.array {}
  for i = 1, #text do list[i] = text:byte(i) end
  return list
end

local function characters(text) return select(2, text:gsub("[^\128-\191]", "")) end

-- the likeliest tokens of a place as OpenAI's chat API has them, and as its completions API has them: by their text, and the token itself too
local function as_list(tokenizer, top)
  local list = json.array {}
  for i, t in ipairs(top or {}) do
    list[i] = json.object({ token = tokenizer:decode { t.id }, logprob = t.logprob, bytes = bytes_of(tokenizer:bytes(t.id) or "") }, { "token", "logprob", "bytes" })
  end
  return list
end

local function by_text(tokenizer, top, id, logprob)
  local out, order = {}, {}
  local function add(text, value)
    if out[text] == nil then out[text], order[#order + 1] = value, text end  -- of tokens that look alike the likeliest
  end
  for _, t in ipairs(top) do add(tokenizer:decode { t.id }, t.logprob) end
  add(tokenizer:decode { id }, logprob)
  return json.object(out, order)
end

-- Of tokens c.ids with c.logprobs and, when likeliest are wanted, c.top; before: so many characters of the text stood before the first.
-- How many there are after the last. A logprob that is NaN, of a prompt's first token, becomes null.
local function logprobs_of(r, tokenizer, c, before)
  if not r.logprobs then return json.null, before end
  if r.kind == "chat" then
    local list = json.array {}
    for i, id in ipairs(c.ids) do
      list[i] = json.object({ token = tokenizer:decode { id }, logprob = c.logprobs[i], bytes = bytes_of(tokenizer:bytes(id) or ""), top_logprobs = as_list(tokenizer, c.top and c.top[i]) },
        { "token", "logprob", "bytes", "top_logprobs" })
    end
    return { content = list }, before
  end
  local l = json.object({ tokens = json.array {}, token_logprobs = json.array {}, top_logprobs = r.n_top > 0 and json.array {} or json.null, text_offset = json.array {} },
    { "tokens", "token_logprobs", "top_logprobs", "text_offset" })
  local at = before
  for i, id in ipairs(c.ids) do
    local text, known = tokenizer:decode { id }, c.logprobs[i] == c.logprobs[i]
    l.tokens[i], l.token_logprobs[i], l.text_offset[i] = text, known and c.logprobs[i] or json.null, at
    if r.n_top > 0 then l.top_logprobs[i] = known and by_text(tokenizer, c.top[i], id, c.logprobs[i]) or json.null end
    at = at + characters(text)
  end
  return l, at
end

local function append(to, list)
  for _, v in ipairs(list or {}) do to[#to + 1] = v end
  return to
end

-- what an echo shows of a completion: the prompt's tokens, then its own, if any are wanted
local function with_prompt(r, c, ids)
  local all = { ids = append({}, ids), logprobs = append({}, c.prompt_logprobs), top = append({}, c.prompt_top) }
  if r.silent then return all end
  append(all.ids, c.ids)
  append(all.logprobs, c.logprobs)
  append(all.top, c.top)
  return all
end

local function choice(r, index, c, tokenizer)
  local prompt = math.floor(index / r.n) + 1
  local shown_of = r.echo and r.logprobs and with_prompt(r, c, r.prompts[prompt]) or c
  local out = json.object({ index = index, finish_reason = r.silent and "length" or c.finish, logprobs = (logprobs_of(r, tokenizer, shown_of, 0)) }, { "index", "message", "text", "logprobs", "finish_reason" })
  if r.kind == "chat" then out.message = json.object({ role = "assistant", content = c.text }, { "role", "content" })
  else out.text = (r.echo and r.texts[prompt] or "") .. (r.silent and "" or c.text) end
  return out
end

local function usage(prompt, new)
  return json.object({ prompt_tokens = prompt, completion_tokens = new, total_tokens = prompt + new }, { "prompt_tokens", "completion_tokens", "total_tokens" })
end

local ORDER = { "id", "object", "created", "model", "choices", "usage" }

--- A whole answer. a: { id, created, model, completions (all, { text, ids, logprobs, finish }), prompt_tokens, new_tokens }
function openai.answer(r, a, tokenizer)
  local choices = json.array {}
  for i, c in ipairs(a.completions) do choices[i] = choice(r, i - 1, c, tokenizer) end
  return json.object({ id = a.id, object = r.kind == "chat" and "chat.completion" or "text_completion", created = a.created, model = a.model, choices = choices,
    usage = usage(a.prompt_tokens, a.new_tokens) }, ORDER)
end

--- A part of an answer that streams, as JSON: what completion `index` adds; finish: why it ended; nil text: the first part, which names the role.
--- tokens: { ids, logprobs, top } that came since the last part, emptied here where logprobs are wanted; tokens.before: characters before them.
function openai.part(r, a, index, text, finish, tokens, tokenizer)
  local logprobs = json.null
  if tokens and r.logprobs then
    logprobs, tokens.before = logprobs_of(r, tokenizer, tokens, tokens.before)
    tokens.ids, tokens.logprobs, tokens.top = {}, {}, {}
  end
  local one = json.object({ index = index, finish_reason = finish or json.null, logprobs = logprobs }, { "index", "delta", "text", "logprobs", "finish_reason" })
  if r.kind == "chat" then one.delta = text and json.object({ content = text }, { "content" }) or json.object({ role = "assistant", content = "" }, { "role", "content" })
  else one.text = text or "" end
  return json.encode(json.object({ id = a.id, object = r.kind == "chat" and "chat.completion.chunk" or "text_completion", created = a.created, model = a.model,
    choices = json.array { one }, usage = r.usage and json.null or nil }, ORDER))
end

--- The last part, where the usage was asked for.
function openai.usage_part(r, a)
  return json.encode(json.object({ id = a.id, object = r.kind == "chat" and "chat.completion.chunk" or "text_completion", created = a.created, model = a.model,
    choices = json.array {}, usage = usage(a.prompt_tokens, a.new_tokens) }, ORDER))
end

--- A model as it is listed: the base (no parent), or an adapter of it.
function openai.model(name, path, since, parent)
  return json.object({ id = name, object = "model", created = since, owned_by = "tlrun", root = path, parent = parent or json.null },
    { "id", "object", "created", "owned_by", "root", "parent" })
end

function openai.models(list) return json.object({ object = "list", data = json.array(list) }, { "object", "data" }) end

return openai
