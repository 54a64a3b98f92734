--- turns.lua: completions of several turns. Whenever the model stops, a function of the recipe's replies (a tool's result, a hint, the next
--- question) or says that the completion is done; the reply's tokens follow the model's own, and the model goes on. They are context: no
--- loss, no length, no entropy is theirs.
---
---   reply       function(problem, completion) -> text, messages, or nil: done. A function is called in this Lua state, between two decode steps; the
---               name of a module or a file, which returns one (or a table with it as `reply`), in worker threads while sampling goes on;
---               "tl.python" is one: a Python interpreter in the sandbox
---   completion  { text = what the model wrote last, turns = { { role = "assistant"|"reply", text = }, ... }, state = {} (the function's own, from turn to
---               turn), n_tokens = the model's so far, finish = "stop" }
---
--- A text goes in as it is, after the model's last token: with stop = "=" a calculator's result after "2+3=". Messages are rendered by the chat
--- template as what follows the model's turn, which they end, and open its next one. The whole completion, replies included, has at most
--- max_completion_length tokens; a reply with no room for it and a token more ends it (finish "length").
---
--- A turn is a request of its own to the sampler, whose prefix cache has the keys and values of what came before, to the bit; it draws with a
--- sequence id of its own. So what a completion is depends neither on the batch around it nor on when its replies came.
local F = require "tl.ffi"
local sample = require "tl.sample"
local verify = require "tl.verify"
local reply = require "tl.reply"
local json = require "tl.json"
local comm = require "tl.comm"

local turns = {}
local Turns = {}
Turns.__index = Turns

local TURN = 2 ^ 40       -- from a turn's sequence id to the next one's
local WHILE_WAITING = 4   -- decode steps between two looks at the replies

--- What replies, or nil where nothing does. o: reply, and workers and timeout_ms as in tl.verify.pool.
---@param what string who wants it
---@param o table
function turns.of(what, o)
  local given = o.reply
  if given == nil then return nil end
  local pool
  if type(given) == "function" then
    pool = verify.pool { verifier = reply.wrap(given), inline = true }
  elseif type(given) == "string" then
    local module, path = given, package.path
    if given:find "%.lua$" then module, path = verify.file_module("reply", given)
    elseif not package.searchpath(given, path) then F.raise(("%s: there is no module '%s' to reply with"):format(what, given)) end
    local timeout_ms = o.timeout_ms or verify.about(module, path).timeout_ms
    pool = verify.pool { verifier = "tl.reply", config = { module = module, path = path }, workers = o.workers, timeout_ms = timeout_ms, nice = 0 }
  else
    F.raise(("%s: reply is a function(problem, completion), a module's name or a file; got %s"):format(what, F.shown(given)))
  end
  return setmetatable({ pool = pool, name = type(given) == "string" and verify.name(given) or "reply" }, Turns)
end

-- what follows the model's turn in a chat: the end of its message and the messages after it, up to where it writes again
local SAID = "what the model said"
local function after_message(tokenizer, messages)
  local chat = { { role = "user", content = "?" }, { role = "assistant", content = SAID } }
  for _, m in ipairs(messages) do chat[#chat + 1] = m end
  return tokenizer:chat(chat, { add_generation_prompt = true }):match("^.*" .. SAID .. "(.*)$")
    or error("the chat template does not show what the model said: reply with a text", 0)
end

-- the tokens of a reply after ids
local function tokens_of(tokenizer, r, ids)
  if type(r) == "table" then
    r = after_message(tokenizer, r)
    local last = ids[#ids]
    local ended = tokenizer:is_special(last) and tokenizer:token(last) or ""  -- the token that ends a message is there already
    if r:sub(1, #ended) == ended then r = r:sub(#ended + 1) end
  end
  return tokenizer:encode(r, { parse_special = true })
end

local function append(c, ids, mask, logprobs, entropy)
  local n = #c.ids
  for i = 1, #ids do
    c.ids[n + i], c.mask[n + i] = ids[i], mask
    c.logprobs[n + i], c.entropy[n + i] = logprobs and logprobs[i] or 0, entropy and entropy[i] or 0
  end
end

-- a finished request: the next part of a completion w. Returns w, and whether the limit ended it.
local function turn(self, s, part, about)
  local w = self.open[part.request]
  self.open[part.request] = nil
  if not w then
    w = about(part.request, part.index)
    w.c = { request = part.request, index = part.index, ids = {}, logprobs = {}, entropy = {}, mask = {}, turns = {}, state = {}, n_tokens = 0 }
    w.requests = 1
  end
  local c = w.c
  append(c, part.ids, 1, part.logprobs, part.entropy)
  c.text, c.finish, c.n_tokens = sample.text(s.tokenizer, part), part.finish, c.n_tokens + #part.ids
  c.turns[#c.turns + 1] = { role = "assistant", text = c.text }
  return w, c.finish ~= "stop"
end

local function whole(s, c)
  c.transcript = s.tokenizer:decode(c.ids)
  return c
end

-- a verdict on completion w: the reply. Returns the completion when there is none, or no room for it.
local function answered(self, s, w, v)
  local c = w.c
  if v.outcome ~= "ok" then  -- what becomes of the sample is for on_error to say, as where a verifier fails
    c.verdict = { outcome = v.outcome, reward = 0 / 0, message = ("%s: %s"):format(self.name, v.message) }
    return whole(s, c)
  end
  local info = json.decode(v.message)
  if type(info.state) == "table" and not self.pool.fn then c.state = info.state end  -- a worker had a copy
  local r = info.reply
  if r == nil or r == json.null then return whole(s, c) end
  local ids, most = tokens_of(s.tokenizer, r, c.ids), w.settings.max_new_tokens
  if #c.ids + #ids >= most then
    c.finish = "length"
    return whole(s, c)
  end
  append(c, ids, 0)
  c.turns[#c.turns + 1] = { role = "reply", text = sample.text(s.tokenizer, { ids = ids }) }
  local prompt, settings = {}, {}
  for i, id in ipairs(w.prompt) do prompt[i] = id end
  for _, id in ipairs(c.ids) do prompt[#prompt + 1] = id end
  for k, value in pairs(w.settings) do settings[k] = value end
  settings.max_new_tokens = most - #c.ids
  self.open[s:submit(prompt, 1, w.sequence_id + w.requests * TURN, settings)] = w
  w.requests = w.requests + 1
end

-- asks for the reply to completion w. Ranks that share a model must go on alike: the first one's reply is all ranks', at once.
local function ask(self, s, w)
  local c, v = w.c, nil
  local job = comm.shard == 0 and self.pool:submit(w.problem, { text = c.text, turns = c.turns, state = c.state, n_tokens = c.n_tokens, finish = c.finish })
  if comm.shards == 1 then
    self.jobs[job], self.waiting = w, self.waiting + 1
    return
  end
  while comm.shard == 0 and not (v and v.job == job) do v = self.pool:take(1000) end
  v = comm.lead("a reply", v and { outcome = v.outcome, message = v.message })
  return answered(self, s, w, v)
end

-- one reply, when it comes within wait_ms: whether one came, and the completion that it ended
local function take(self, s, wait_ms)
  local v = self.pool:take(wait_ms)
  if not v then return false end
  local w = self.jobs[v.job]
  if not w then return true end  -- of an earlier step, which did not come to its end
  self.jobs[v.job], self.waiting = nil, self.waiting - 1
  return true, answered(self, s, w, v)
end

--- Iterates over the whole completions of a sampler as they are done: { request, index, ids, logprobs, entropy, finish } as sampler:pop's, and
--- mask (1: the model's token, 0: a reply's, whose logprob and entropy are 0), text (of the last turn), turns, state, n_tokens (the model's),
--- transcript (the text of all, special tokens included), verdict (where the reply failed).
---@param s table a sampler, with prefix_cache and whole_cache
---@param about fun(request: integer, index: integer): table { problem =, prompt = ids, settings =, sequence_id = (the completion's) }
function Turns:completions(s, about)
  self.open, self.jobs, self.waiting = {}, {}, 0
  return function()
    while true do
      local part, c = s:pop(), nil
      if part then
        local w, ended = turn(self, s, part, about)
        if ended then c = whole(s, w.c) else c = ask(self, s, w) end
      elseif self.waiting > 0 then
        local came
        came, c = take(self, s, s.pending > 0 and 0 or 1000)
        if not came and s.pending > 0 then s:run(WHILE_WAITING) end
      elseif s.pending > 0 then
        s:run()
      else
        return nil
      end
      if c then return c end
    end
  end
end

function Turns:free() self.pool:free() end

return turns
