--- serve.lua: many adapters of one base, served at once (tlrun serve). Requests come by HTTP in the form of OpenAI's API; the field `model` says
--- which adapter answers. The base is in memory once, and requests to all adapters on the same A and B are decoded in one batch: the
--- weights are read once a step for all of them. docs/serving.md has more.
---
---   local s = tl.serve { model = model, folders = { "adapters" }, port = 8000 }
---   s:run()                                             -- until the process is interrupted
---
--- What a request gets does not depend on what else is being served: with the same seed, prompt and adapter it is the same bytes, alone or among
--- hundreds (the sampler's contract).
local F = require "tl.ffi"
local http = require "tl.serve.http"
local json = require "tl.json"
local log = require "tl.log"
local openai = require "tl.serve.openai"
local shelf = require "tl.serve.adapters"
local text = require "tl.serve.text"
local C = F.C

local Server = {}
Server.__index = Server

local MOST_LIVE = 4096  -- requests that are being answered or wait for their turn

local function longest_token(tokenizer, vocab)
  local n = 1
  for id = 0, vocab - 1 do n = math.max(n, #(tokenizer:bytes(id) or "")) end
  return n
end

--- Starts listening. o: model; folders, named, key, force (serve/adapters.lua); name (of the base; the model's own), host ("127.0.0.1"), port (0:
--- one that is free; the server's `port` says which), token (that clients must give), origin (whose pages may ask from a browser, "*": all), context (the model's), new_tokens (1024: of an answer
--- whose request names no number), max_sequences (64, decoded at once), prefill_per_step (128: tokens of prompts between two decode steps),
--- prefix_cache (true), int8 (decode with int8 weights beside the model's own: faster, answers differ a little from the model's), memory (bytes
--- for keys and values; 1 GiB), most_waiting (1024), log.
local function start(o)
  local tokenizer = o.model:tokenizer()
  if not tokenizer then error(("%s has no tokenizer beside it, so there is no text to serve"):format(o.model.path), 2) end
  if require("tl.comm").size > 1 then error("a server is one process's: start it without mpirun", 2) end
  local s = setmetatable({ o = o, model = o.model, tokenizer = tokenizer, base = o.name or o.model.name, began = os.time(), live = {}, asked = 0, served = 0, refused = 0,
    cancelled = 0, prompt_tokens = 0, new_tokens = 0, steps = 0 }, Server)
  local most = o.model.context
  s.longest_token = longest_token(tokenizer, o.model.vocab)
  s.context = math.min(o.context and o.context > 0 and o.context or most, most)
  s.adapters = shelf.new { model = o.model, decoder = o.int8 and o.model:quantize() or o.model, base = s.base, folders = o.folders, named = o.named, key = o.key, force = o.force,
    sampler = { max_sequences = o.max_sequences, memory = o.memory or 2 ^ 30, whole_cache = true, prefix_cache = o.prefix_cache ~= false, prefill_per_step = o.prefill_per_step or 128 } }
  s.http = http.listen { host = o.host, port = o.port, key = o.token, origin = o.origin, most_waiting = o.most_waiting }
  s.port = s.http.port
  return s
end

-- ---- requests

-- a seed for a request that names none: another one every time
local function any_seed(self)
  return (os.time() * 1000003 + self.asked * 7919 + math.floor(C.tl_seconds() * 1e6)) % 2 ^ 53
end

-- gives a request's prompts to the sampler of its adapter
local function submit(self, id, r)
  if #self.live >= MOST_LIVE then openai.refuse(503, nil, "the server is full: %d requests are being answered", #self.live) end
  local group, member = self.adapters:find(r.model)
  if not group then openai.refuse(404, "model", "%s", member) end
  self.asked = self.asked + 1
  local a = { http = id, request = r, group = group, id = ("%s-%x%06x"):format(r.kind == "chat" and "chatcmpl" or "cmpl", os.time(), self.asked),
    created = os.time(), model = r.model or self.base, began = C.tl_seconds(), choices = {}, completions = {}, of = {}, left = #r.prompts * r.n, prompt_tokens = 0, new_tokens = 0 }
  local o = r.settings
  o.member, o.seed = member, o.seed and o.seed % 2 ^ 53 or any_seed(self)
  for i, ids in ipairs(r.prompts) do
    local ok, request = pcall(group.sampler.submit, group.sampler, ids, r.n, (i - 1) * r.n, o)
    if not ok then
      for req in pairs(a.of) do group.sampler:cancel(req) end
      openai.refuse(400, nil, "%s", (tostring(request):gsub("^%S+%.lua:%d+: ", "")))
    end
    a.of[request] = (i - 1) * r.n
    a.prompt_tokens = a.prompt_tokens + #ids
  end
  a.member = member
  self.prompt_tokens = self.prompt_tokens + a.prompt_tokens
  self.adapters:use(group, member, 1)
  for k = 1, a.left do a.choices[k] = { text = text.new(self.tokenizer, o.stop), seen = 0, tokens = { ids = {}, logprobs = {}, top = {}, before = 0 } } end
  self.live[#self.live + 1] = a
  if r.stream and r.kind == "chat" then
    for k = 1, a.left do self.http:event(id, openai.part(r, a, k - 1, nil)) end
  elseif r.stream and r.echo and not r.logprobs then
    for k = 1, a.left do self.http:event(id, openai.part(r, a, k - 1, r.texts[math.floor((k - 1) / r.n) + 1])) end
  end
end

local function metrics(self)
  local waiting, reused = 0, self.adapters.reused
  for _, g in ipairs(self.adapters.groups) do waiting, reused = waiting + g.sampler.pending, reused + g.sampler:stats().reused_tokens end
  local lines = {}
  local function add(name, kind, help, value) lines[#lines + 1] = ("# HELP tlrun_%s %s\n# TYPE tlrun_%s %s\ntlrun_%s %.17g\n"):format(name, help, name, kind, name, value) end
  add("requests_total", "counter", "Requests answered with completions.", self.served)
  add("requests_refused_total", "counter", "Requests answered with an error.", self.refused)
  add("requests_cancelled_total", "counter", "Requests whose client left before the end.", self.cancelled)
  add("prompt_tokens_total", "counter", "Tokens of the prompts of requests that were taken.", self.prompt_tokens)
  add("prompt_tokens_reused_total", "counter", "Tokens of prompts whose keys and values were still there.", reused)
  add("generated_tokens_total", "counter", "Tokens of answered requests' completions.", self.new_tokens)
  add("decode_steps_total", "counter", "Decode steps, of all samplers.", self.steps)
  add("requests_running", "gauge", "Requests being answered.", #self.live)
  add("completions_pending", "gauge", "Completions being decoded or waiting for a place.", waiting)
  add("adapters", "gauge", "Adapters that are offered.", #self.adapters:names())
  return table.concat(lines)
end

-- the models that are offered: the base, then the adapters in the order of their names
local function models(self)
  self.adapters:scan()
  local list = { openai.model(self.base, self.model.path, self.began) }
  for i, name in ipairs(self.adapters:names()) do
    local e = self.adapters.entries[name]
    list[i + 1] = openai.model(name, e.path, e.since, self.base)
  end
  return list
end

local GET = {
  ["/health"] = function(self, q) self.http:answer(q.id, 200, "ok\n", "text/plain") end,
  ["/metrics"] = function(self, q) self.http:answer(q.id, 200, metrics(self), "text/plain; version=0.0.4") end,
  ["/v1/models"] = function(self, q) self.http:answer(q.id, 200, openai.models(models(self))) end,
  one_model = function(self, q, name)
    for _, m in ipairs(models(self)) do
      if m.id == name then return self.http:answer(q.id, 200, m) end
    end
    openai.refuse(404, "model", "there is no model %s; /v1/models lists what there is", name)
  end,
}
local POST = { ["/v1/chat/completions"] = "chat", ["/v1/completions"] = "text" }

local function dispatch(self, q)
  local name = q.path:match "^/v1/models/(.+)$"
  local post, get = POST[q.path], GET[name and "one_model" or q.path]
  if not post and not get then openai.refuse(404, nil, "there is no %s; there are /v1/chat/completions, /v1/completions, /v1/models, /health and /metrics", q.path) end
  if q.method ~= (post and "POST" or "GET") and not (get and q.method == "HEAD") then
    q.allow = post and "POST" or "GET, HEAD"
    openai.refuse(405, nil, "%s wants %s", q.path, post and "POST" or "GET")
  end
  if get then return get(self, q, name) end
  submit(self, q.id, openai.request(post, q.body, { tokenizer = self.tokenizer, vocab = self.model.vocab, longest_token = self.longest_token,
    context = self.context, new_tokens = self.o.new_tokens or 1024 }))
end

-- one request; whatever goes wrong with it is its answer
local function handle(self, q)
  local ok, e = xpcall(dispatch, function(e) return openai.is_refusal(e) and e or { status = 500, message = tostring(e), trace = debug.traceback(tostring(e), 2) } end, self, q)
  if ok then return end
  if e.trace then log.warn("%s %s: %s", q.method, q.path, e.trace) end
  self.refused = self.refused + 1
  self.http:answer(q.id, e.status, openai.error(e.status, e.message, e.param), nil, e.status == 405 and q.allow or nil)
end

-- ---- answers

local function forget(self, a)
  self.adapters:use(a.group, a.member, -1)
  for i, other in ipairs(self.live) do
    if other == a then table.remove(self.live, i) break end
  end
end

local function leave(self, a)
  for request in pairs(a.of) do a.group.sampler:cancel(request) end
  self.cancelled = self.cancelled + 1
  self.http:finish(a.http)
  forget(self, a)
end

local function complete(self, a)
  local r = a.request
  self.served, self.new_tokens = self.served + 1, self.new_tokens + a.new_tokens
  if r.stream then
    if r.usage then self.http:event(a.http, openai.usage_part(r, a)) end
    self.http:event(a.http, "[DONE]")
    self.http:finish(a.http)
  else
    self.http:answer(a.http, 200, openai.answer(r, a, self.tokenizer))
  end
  if self.o.log then log.info("%s: %d + %d tokens in %s", a.model, a.prompt_tokens, a.new_tokens, log.duration(C.tl_seconds() - a.began)) end
  forget(self, a)
end

-- tokens that came, until a part of the answer goes out
local function remember(one, ids, logprobs, top, from)
  local t = one.tokens
  for i = from, #ids do t.ids[#t.ids + 1], t.logprobs[#t.logprobs + 1], t.top[#t.top + 1] = ids[i], logprobs[i], top and top[i] end
end

-- the prompt of an answer that streams and shows it with its logprobs, once these are there
local function echo(self, a, k, logprobs, top)
  local r, one, prompt = a.request, a.choices[k], math.floor((k - 1) / a.request.n) + 1
  if one.echoed or not (r.echo and r.logprobs and logprobs) then return end
  one.echoed = true
  remember(one, r.prompts[prompt], logprobs, top, 1)
  self.http:event(a.http, openai.part(r, a, k - 1, r.texts[prompt], nil, one.tokens, self.tokenizer))
end

-- what has come of the answers that stream; false: the client is gone
local function stream(self, a)
  local sampler = a.group.sampler
  for request, first in pairs(a.of) do
    for index = 1, a.request.n do
      local k = first + index
      local one = a.choices[k]
      if not a.completions[k] and not a.request.silent then
        local ids = sampler:peek(request, index, one.seen + 1)
        if a.request.logprobs then
          local logprobs, top = sampler:peek_logprobs(request, index, one.seen + 1, a.request.n_top)
          if a.request.echo and one.seen == 0 and #ids > 0 then
            echo(self, a, k, sampler:peek_prompt(request, index, #a.request.prompts[first / a.request.n + 1], a.request.n_top))
          end
          remember(one, ids, logprobs, top, 1)
        end
        one.seen = one.seen + #ids
        local more = one.text:push(ids)
        if more ~= "" and not self.http:event(a.http, openai.part(a.request, a, k - 1, more, nil, one.tokens, self.tokenizer)) then return false end
      end
    end
  end
  return true
end

local function done(self, a, c)
  local k = a.of[c.request] + c.index
  local one = a.choices[k]
  local more = one.text:finish(c.ids, one.seen + 1, c.finish == "stop")
  c.text = one.text.text
  a.completions[k], a.left, a.new_tokens = c, a.left - 1, a.new_tokens + (a.request.silent and 0 or #c.ids)
  if a.request.stream then
    local silent = a.request.silent
    echo(self, a, k, c.prompt_logprobs, c.prompt_top)
    if a.request.logprobs and not silent then remember(one, c.ids, c.logprobs, c.top, one.seen + 1) end
    self.http:event(a.http, openai.part(a.request, a, k - 1, silent and "" or more, silent and "length" or c.finish, one.tokens, self.tokenizer))
  end
  if a.left == 0 then complete(self, a) end
end

-- Says why an answer does not come, or ends here.
local function give_up(self, a, why)
  self.refused = self.refused + 1
  local answer = openai.error(503, why)
  if a.request.stream then
    self.http:event(a.http, json.encode(answer))
    self.http:finish(a.http)
  else
    self.http:answer(a.http, 503, answer)
  end
  forget(self, a)
end

-- A sampler for which there is no memory left (on a device a group's keys and values take their room with its first request): what it has to
-- answer is refused, and the others go on.
local function refuse_all(self, g, why)
  log.warn("%s", why)
  for i = #self.live, 1, -1 do
    local a = self.live[i]
    if a.group == g then
      for request in pairs(a.of) do g.sampler:cancel(request) end
      give_up(self, a, why)
    end
  end
end

local function step(self, g)
  local ok, e = pcall(g.sampler.run, g.sampler, 1)
  if not ok then
    local why = tostring(e):gsub("^%S+%.lua:%d+: ", "")
    if C.tl_interrupted() or not why:find("^out of memory") then error(e, 0) end
    return refuse_all(self, g, why)
  end
  self.steps = self.steps + 1
  while true do
    local c = g.sampler:pop()
    if not c then break end
    for _, a in ipairs(self.live) do
      if a.group == g and a.of[c.request] then done(self, a, c) break end
    end
  end
end

--- One round: requests that have come, a decode step of every sampler with work, and what there is to send. wait: seconds to wait for a request
--- when there is no work.
function Server:tick(wait)
  local busy = false
  for _, g in ipairs(self.adapters.groups) do busy = busy or g.sampler.pending > 0 end
  local q = self.http:take(busy and 0 or wait or 0)
  while q do
    handle(self, q)
    q = self.http:take(0)
  end
  for _, g in ipairs(self.adapters.groups) do
    if g.sampler.pending > 0 then step(self, g) end
  end
  self.rounds = (self.rounds or 0) + 1
  for i = #self.live, 1, -1 do
    local a = self.live[i]
    if a.request.stream and not stream(self, a) or self.rounds % 16 == 0 and self.http:gone(a.http) then leave(self, a) end
  end
end

local function rounds(self)
  while not C.tl_interrupted() do self:tick(0.2) end
  debug.sethook()  -- the interruption that is seen here is not to be raised once more behind the pcall
end

--- Serves until the process is interrupted (term: or gets a SIGTERM). What is being answered then ends where it is, with an error.
function Server:run(term)
  if term then C.tl_interrupt_on_term() end
  local ok, e = pcall(rounds, self)
  if not ok and not C.tl_interrupted() then error(e, 0) end
  self:stop()
end

function Server:stop()
  if not self.http then return end
  for i = #self.live, 1, -1 do give_up(self, self.live[i], "the server is stopping") end
  self.http:stop()
  self.http = nil
end

function Server:__tostring()
  if not self.http then return ("server of %s (stopped)"):format(self.base) end
  local n = #self.adapters:names()
  return ("server of %s with %d adapter%s at http://%s:%d/v1; :run() answers"):format(self.base, n, n == 1 and "" or "s", self.o.host or "127.0.0.1", self.port)
end

return setmetatable({ start = start }, { __call = function(_, o) return start(o) end })
