--- sample.lua: the sampler. Many completions at once, a prompt computed once for all its completions, finished ones replaced by
--- waiting ones. The tokens of a completion depend only on (seed, its sequence id, its prompt, the settings, the weights).
local F = require "tl.ffi"
local ffi = require "ffi"
local options = require "tl.options"
local C, check = F.C, F.check

local sample = {}
local Sampler = F.class "sampler"

--- The settings of a request: the options of Sampler:submit.
sample.SETTINGS = options.names { any = "stop", boolean = "ignore_eos prompt_logprobs",
  number = "temperature top_p min_p member", count = "top_k max_new_tokens min_new_tokens n_top", seed = "seed" }

-- the settings of a request as C takes them, and what must live as long
local function settings(o, level)
  local stop = o.stop or {}
  if type(stop) == "string" then stop = { stop } end
  local texts = type(stop) == "table"
  for _, s in ipairs(texts and stop or {}) do texts = texts and type(s) == "string" end
  if not texts then error("stop wants a text or a list of texts; got " .. (type(stop) == "table" and "a list with something else" or tostring(stop)), level + 1) end
  local list = ffi.new("const char *[?]", math.max(1, #stop))
  for i, s in ipairs(stop) do list[i - 1] = s end
  local p = ffi.new("tl_sampling", { temperature = o.temperature or 1, top_p = o.top_p or 1, min_p = o.min_p or 0,
    top_k = o.top_k or 0, max_new_tokens = o.max_new_tokens or 512, min_new_tokens = o.min_new_tokens or 0, seed = o.seed or 0, n_stop = #stop,
    ignore_eos = o.ignore_eos or false, member = o.member or 0, n_top = o.n_top or 0, prompt_logprobs = o.prompt_logprobs or false })
  p.stop = list
  return p, { list, stop }
end

local Kept = F.class "room for activations"

--- Room, in bytes, for activations that a sampler keeps and a pass trains from; one for all steps.
function sample.kept(memory)
  if not (type(memory) == "number" and memory >= 0 and memory < 2 ^ 53) then error("sample.kept wants a number of bytes from 0; got " .. F.shown(memory), 2) end
  local out = ffi.new("tl_kept *[1]")
  check(C.tl_kept_create(memory, out))
  return setmetatable({ handle = ffi.gc(out[0], C.tl_kept_free) }, Kept)
end

--- {n_layers, rows, bytes} of what is kept now
function Kept:info()
  local i = ffi.new "tl_kept_info"
  C.tl_kept_get_info(self.handle, i)
  return { n_layers = i.n_layers, rows = tonumber(i.rows), bytes = tonumber(i.bytes) }
end

--- Releases the memory now instead of at the next collection.
function Kept:free()
  if rawget(self, "handle") then C.tl_kept_free(ffi.gc(self.handle, nil)); self.handle = nil end
end

sample.OPTIONS = options.names { any = "adapter kept population", count = "max_sequences prefill_tokens prefill_per_step", bytes = "memory",
  boolean = "whole_cache prefix_cache" }

local function create(model, o, level)
  F.object("a sampler", model, "model")
  local opt = ffi.new("tl_sampler_options", { max_sequences = o.max_sequences or 64, memory_bytes = o.memory or 0, whole_cache = o.whole_cache or false,
    prefill_tokens = o.prefill_tokens or 0, prefill_per_step = o.prefill_per_step or 0, prefix_cache = o.prefix_cache or false, kept = F.handle("a sampler", o.kept, "room for activations"),
    population = F.handle("a sampler", o.population, "population") })
  local tok = model:tokenizer()
  local out = ffi.new("tl_sampler *[1]")
  check(C.tl_sampler_create(model.handle, F.handle("a sampler", o.adapter, "adapter"), tok and tok.handle or nil, opt, out))
  return setmetatable({ handle = ffi.gc(out[0], C.tl_sampler_free), model = model, tokenizer = tok, adapter = o.adapter, population = o.population, kept = o.kept, pending = 0 }, Sampler)
end

--- A sampler. Options: adapter, max_sequences (64), memory (bytes for the cache), whole_cache (all of them from the start, for
--- requests that come while others are decoded; else the cache grows only when nothing runs), prefill_tokens (512), prefix_cache (prompts
--- that begin as earlier prompts or answers did are not computed again: the same bits), prefill_per_step (0: prompts that
--- wait are computed whole before the next decode step), kept (a sample.kept),
--- population (a tl.population.of, instead of adapter).
---@param model table a tl.model
function sample.sampler(model, o)
  o = o or {}
  options.only("sample.sampler", o, sample.OPTIONS)
  return create(model, o, 2)
end

local function submit(self, ids, n, sequence_id, o, level)
  local prompt = F.ids("the sampler", ids)
  for name, v in pairs { n = n or 1, sequence_id = sequence_id or 0 } do
    if type(v) ~= "number" or v % 1 ~= 0 then error(("the sampler wants a whole number as %s; got %s"):format(name, F.shown(v)), level + 1) end
  end
  local p, keep = settings(o, level + 1)
  local request = ffi.new("int64_t[1]")
  check(C.tl_sampler_submit(self.handle, prompt, #ids, n or 1, sequence_id or 0, p, request))
  self.pending = self.pending + (n or 1)
  keep = nil
  return tonumber(request[0])
end

--- n (1) completions of a prompt (a table of token ids). sequence_id (0): the first completion's; the others follow it. o: the settings of a request:
--- temperature (1; 0 is greedy), top_p (1), top_k (0), min_p (0), max_new_tokens (512), min_new_tokens (0:
--- before so many tokens a completion does not end), seed (0), stop (strings), ignore_eos, member (0: of the sampler's population, from 0; -1: the base),
--- n_top (0; at most 20: the so many likeliest tokens of every place are noted too), prompt_logprobs (those of the prompt's tokens too).
---@return integer request
function Sampler:submit(ids, n, sequence_id, o)
  o = o or {}
  options.only("sampler:submit", o, sample.SETTINGS)
  return submit(self, ids, n, sequence_id, o, 2)
end

--- Runs until a completion has finished (or max_steps decode steps are over); returns how many are not finished yet.
function Sampler:run(max_steps)
  if max_steps and not (type(max_steps) == "number" and max_steps >= 0) then error("sampler:run wants a number of steps; got " .. F.shown(max_steps), 2) end
  local pending = ffi.new("int[1]")
  check(C.tl_sampler_run(self.handle, math.min(max_steps or math.huge, 2147483647), pending))
  self.pending = pending[0]
  return pending[0]
end

-- n lists of the k likeliest tokens, { id =, logprob = } each
local function likeliest(ids, logprobs, n, k)
  local out = {}
  for i = 0, n - 1 do
    local list = {}
    for j = i * k, i * k + k - 1 do
      if ids[j] >= 0 then list[#list + 1] = { id = ids[j], logprob = logprobs[j] } end
    end
    out[i + 1] = list
  end
  return out
end

--- One finished completion {request, index (1-based), ids, logprobs, entropy, finish} or nil. With n_top also top: of every token a list of
--- { id =, logprob = }, the likeliest first. With prompt_logprobs also prompt_logprobs, of the prompt's tokens (the first one's is NaN), and
--- prompt_top (the first one's is empty).
function Sampler:pop()
  local c = ffi.new("tl_completion")
  if not C.tl_sampler_pop(self.handle, c) then return nil end
  local r = { request = tonumber(c.request), index = c.index + 1, finish = ffi.string(c.finish), ids = {}, logprobs = {}, entropy = {} }
  for i = 0, c.n_tokens - 1 do
    r.ids[i + 1], r.logprobs[i + 1], r.entropy[i + 1] = c.ids[i], c.logprobs[i], c.entropy[i]
  end
  if c.n_top > 0 then r.top = likeliest(c.top_ids, c.top_logprobs, c.n_tokens, c.n_top) end
  if c.prompt_logprobs ~= nil then
    r.prompt_logprobs = {}
    for i = 0, c.n_prompt - 1 do r.prompt_logprobs[i + 1] = c.prompt_logprobs[i] end
    if c.n_top > 0 then r.prompt_top = likeliest(c.prompt_top_ids, c.prompt_top_logprobs, c.n_prompt, c.n_top) end
  end
  return r
end

local room = 64
local peeked, peeked_logprobs = ffi.new("int32_t[?]", room), ffi.new("float[?]", room)  -- once for all: a server looks at every stream in every step

-- the outcome of a peeking function of C, with room for `wide` numbers a token
local function peek(fn, self, request, index, from, wide)
  F.whole("sampler:peek", request, "a request")
  local n = fn(self.handle, request, (index or 1) - 1, (from or 1) - 1, peeked, peeked_logprobs, math.floor(room / wide))
  if n * wide > room then
    room = n * wide
    peeked, peeked_logprobs = ffi.new("int32_t[?]", room), ffi.new("float[?]", room)
    n = fn(self.handle, request, (index or 1) - 1, (from or 1) - 1, peeked, peeked_logprobs, n)
  end
  return n
end

--- The ids so far of a completion that is being decoded (index from 1), from the from-th on (1); {} before and after.
---@return integer[] ids
function Sampler:peek(request, index, from)
  local ids = {}
  for i = 1, peek(C.tl_sampler_peek, self, request, index, from, 1) do ids[i] = peeked[i - 1] end
  return ids
end

--- The same of their logprobs and, when the request has so many n_top, of the likeliest tokens in their places (as pop's top; else nil).
---@return number[] logprobs
---@return table|nil top
function Sampler:peek_logprobs(request, index, from, n_top)
  local logprobs, top = {}, nil
  for i = 1, peek(C.tl_sampler_peek, self, request, index, from, 1) do logprobs[i] = peeked_logprobs[i - 1] end
  if n_top and n_top > 0 then
    local n = peek(C.tl_sampler_peek_top, self, request, index, from, n_top)
    top = likeliest(peeked, peeked_logprobs, n, n_top)
  end
  return logprobs, top
end

--- The logprobs of a request's n prompt tokens, and the likeliest in their places (as pop's prompt_logprobs and prompt_top), once a completion
--- that is being decoded has its first token; nil before and after, and without prompt_logprobs.
---@return number[]|nil logprobs
---@return table|nil top
function Sampler:peek_prompt(request, index, n, n_top)
  local logprobs, wide = ffi.new("float[?]", n), math.max(1, n * (n_top or 0))
  local top_ids, top_logprobs = ffi.new("int32_t[?]", wide), ffi.new("float[?]", wide)
  if C.tl_sampler_peek_prompt(self.handle, request, (index or 1) - 1, logprobs, top_ids, top_logprobs, n) == 0 then return nil end
  local list = {}
  for i = 0, n - 1 do list[i + 1] = logprobs[i] end
  return list, n_top and n_top > 0 and likeliest(top_ids, top_logprobs, n, n_top) or nil
end

--- Ends a request now: its completions that have not finished are dropped. False: there is no such request any more.
function Sampler:cancel(request)
  if not C.tl_sampler_cancel(self.handle, F.whole("sampler:cancel", request, "a request")) then return false end
  local pending = ffi.new "int[1]"
  check(C.tl_sampler_run(self.handle, 0, pending))
  self.pending = pending[0]
  return true
end

--- Puts a population with the same A and B in the place of the sampler's own: members keep their places, new ones stand behind them.
function Sampler:set_population(set)
  check(C.tl_sampler_set_population(self.handle, F.object("sampler:set_population", set, "population").handle))
  self.population = set
end

--- Iterates over completions as they finish, until none is left.
function Sampler:completions()
  return function()
    while true do
      local c = self:pop()
      if c then return c end
      if self.pending == 0 then return nil end
      self:run()
    end
  end
end

--- {prompt_tokens, reused_tokens, new_tokens, decode_steps, prefill_seconds, decode_seconds, fastest_step_seconds, kv_bytes} since the sampler was made
function Sampler:stats()
  local s = ffi.new("tl_sampler_stats")
  C.tl_sampler_get_stats(self.handle, s)
  local t = {}
  for _, k in ipairs { "prompt_tokens", "reused_tokens", "new_tokens", "decode_steps", "prefill_seconds", "decode_seconds", "fastest_step_seconds", "kv_bytes" } do t[k] = tonumber(s[k]) end
  return t
end

--- Releases the memory now instead of at the next collection.
function Sampler:free()
  if rawget(self, "handle") then C.tl_sampler_free(ffi.gc(self.handle, nil)); self.handle = nil end
end

local GENERATE = options.names({ fn = "progress", count = "n", seed = "sequence_id" }, sample.SETTINGS, sample.OPTIONS)

--- Completions of many prompts. prompts: a list of token-id tables. o: the request's settings, the sampler's options, and n (1),
--- sequence_id (0), progress: function(done, total). Returns a list, prompt by prompt, of lists of n completions with their text (nil
--- when the model has no tokenizer).
function sample.generate(model, prompts, o)
  o = o or {}
  options.only("sample.generate", o, GENERATE)
  if type(prompts) ~= "table" then error("sample.generate wants a list of prompts, each a list of token ids; got " .. F.shown(prompts), 2) end
  local s = create(model, o, 2)
  local n, where, out = o.n or 1, {}, {}
  for i, ids in ipairs(prompts) do
    where[submit(s, ids, n, (o.sequence_id or 0) + (i - 1) * n, o, 2)] = i
    out[i] = {}
  end
  local done, total = 0, #prompts * n
  for c in s:completions() do
    c.text = sample.text(s.tokenizer, c)
    out[where[c.request]][c.index] = c
    done = done + 1
    if o.progress then o.progress(done, total) end
  end
  local stats = s:stats()
  s:free()
  return out, stats
end

--- One completion of one prompt (a table of token ids), shown while it is made: show(text) is called with every part of its text,
--- whole characters only. All parts in a row are the completion's text. o: as generate's.
---@param show fun(text: string)
function sample.stream(model, ids, show, o)
  o = o or {}
  options.only("sample.stream", o, GENERATE)
  if type(show) ~= "function" then error("sample.stream wants show, a function of a text; got " .. F.shown(show), 2) end
  local s = create(model, o, 2)
  if not s.tokenizer then error(("%s has no tokenizer beside it, so there is no text to show"):format(model.path), 2) end
  local decoder, n = s.tokenizer:stream { skip_special = true }, 0
  local function push(list)
    for _, id in ipairs(list) do
      local text = decoder:push(id)
      if text ~= "" then show(text) end
    end
    n = n + #list
  end
  local request, c = submit(s, ids, 1, o.sequence_id or 0, o, 2), nil
  repeat
    s:run(1)
    push(s:peek(request, 1, n + 1))
    c = s:pop()
  until c
  local rest = {}
  for i = n + 1, #c.ids do rest[#rest + 1] = c.ids[i] end
  push(rest)
  local text = decoder:finish()
  if text ~= "" then show(text) end
  c.text = sample.text(s.tokenizer, c)
  local stats = s:stats()
  s:free()
  return c, stats
end

--- The text of a completion, without the token that ended it; nil when the model has no tokenizer.
function sample.text(tokenizer, c) return tokenizer and tokenizer:decode(c.ids, { skip_special = true }) end

return sample
