-- The likeliest tokens of each place and the logprobs of a prompt's tokens (n_top, prompt_logprobs). Catches: likeliest tokens that are not,
-- or of another row of the batch; logprobs at another temperature than the drawn token's, or that a cut of the prompt, the prefix cache or what runs beside
-- changes; tokens that are drawn otherwise because somebody asked. Runs on every backend (TL_BACKEND); TL_TEST_FEW=1: short prompts, few tokens.
package.path = arg[0]:match "^(.*)/" .. "/?.lua;" .. package.path
local check = require "check"
local tl = require "tl"
local pass = require "tl.pass"

local dtype = os.getenv "TL_TEST_DTYPE" or "bf16"
local model = tl.model.load("tiny", { dtype = dtype })
local prompts = {}
for i, p in ipairs(tl.data.load("wordproblems", { n = 4, split = "test", style = "chat", seed = 3 })) do prompts[i] = tl.grpo.prompt_ids(model:tokenizer(), nil, p) end

local few = os.getenv "TL_TEST_FEW"
if few then prompts = { { unpack(prompts[1], 1, 20) }, { unpack(prompts[2], 1, 12) }, { unpack(prompts[3], 1, 9) } } end
local NEW = few and 3 or 10

local adapter = tl.adapter.tinylora(model, { seed = 1 })
local v = adapter:v()
for i = 1, #v do v[i] = 0.02 * math.sin(i) end
adapter:v(v)

-- completions of all prompts, those in `asks` with o, the others without
local function generate(o, sampler)
  local s, where, out = tl.sample.sampler(model, sampler or { adapter = adapter }), {}, {}
  for i, ids in ipairs(prompts) do
    local settings = { seed = 5, max_new_tokens = NEW, temperature = 0.8, ignore_eos = true }
    for k, value in pairs(i % 2 == 1 and o or {}) do settings[k] = value end
    where[s:submit(ids, 3, 10 * i, settings)] = i
    out[i] = {}
  end
  for c in s:completions() do out[where[c.request]][c.index] = c end
  s:free()
  return out
end
local plain, asked = generate {}, generate { n_top = 5, prompt_logprobs = true }

check.test("who asks draws the same tokens, and who does not gets nothing", function()
  for i = 1, #prompts do
    for k = 1, 3 do
      local a, b = plain[i][k], asked[i][k]
      check.equal({ b.ids, b.logprobs, b.entropy, b.finish }, { a.ids, a.logprobs, a.entropy, a.finish }, ("prompt %d, completion %d"):format(i, k))
      check.equal({ b.top ~= nil, b.prompt_logprobs ~= nil, b.prompt_top ~= nil }, { i % 2 == 1, i % 2 == 1, i % 2 == 1 })
    end
  end
end)

-- the trainer's logprob of one token after ids
local function logprob_of(ids, id, temperature)
  local b = pass.batch()
  b:prompt(ids)
  b:completion { id }
  local lp = pass.logprobs(model, b, { adapter = adapter, temperature = temperature })[0]
  b:free()
  return lp
end

check.test("the likeliest tokens are the likeliest, with the logprobs that the trainer gives them", function()
  local drawn, outside = 0, 0
  for i = 1, #prompts, 2 do
    local c, ids = asked[i][1], { unpack(prompts[i]) }
    for t, id in ipairs(c.ids) do
      local list, mass, seen = c.top[t], 0, false
      check.equal(#list, 5)
      for j, e in ipairs(list) do
        check.near(e.logprob, logprob_of(ids, e.id, 0.8), dtype == "f32" and 1e-5 or 2e-3, ("token %d, place %d: "):format(t, j))
        if j > 1 and e.logprob > list[j - 1].logprob then error(("token %d: place %d is likelier than the one before"):format(t, j)) end
        if e.id == id then check.equal(e.logprob, c.logprobs[t], "the drawn token's own") end
        seen, mass = seen or e.id == id, mass + math.exp(e.logprob)
      end
      if seen then drawn = drawn + 1 else outside = outside + 1 end
      if mass > 1 + 1e-4 then error("more than all: " .. mass) end
      if not seen and c.logprobs[t] > list[5].logprob + 1e-5 then error("the drawn token is likelier than the fifth, and not in the list") end
      ids[#ids + 1] = id
    end
  end
  check.equal({ drawn > (few and 1 or 5), few and true or outside < drawn }, { true, true }, "most of what is drawn is likely")
end)

check.test("greedy: the first of the list is drawn", function()
  for i, list in ipairs(generate { n_top = 1, temperature = 0 }) do
    local c = list[1]
    for t = 1, i % 2 == 1 and #c.ids or 0 do check.equal(c.top[t], { { id = c.ids[t], logprob = c.logprobs[t] } }, "token " .. t) end
  end
end)

check.test("a prompt's logprobs are the trainer's, to the bit where both are of one backend", function()
  for i = 1, #prompts, 2 do
    local c, b = asked[i][2], pass.batch()
    b:prompt { prompts[i][1] }
    b:completion { unpack(prompts[i], 2) }
    local lp = pass.logprobs(model, b, { adapter = adapter, temperature = 0.8 })
    check.equal({ #c.prompt_logprobs, #c.prompt_top, #c.prompt_top[1], c.prompt_logprobs[1] ~= c.prompt_logprobs[1] }, { #prompts[i], #prompts[i], 0, true })
    for t = 2, #prompts[i] do
      check.equal(c.prompt_logprobs[t], lp[t - 2], ("prompt %d, token %d"):format(i, t))
      local list = c.prompt_top[t]
      for j, e in ipairs(list) do if e.id == prompts[i][t] then check.equal(e.logprob, c.prompt_logprobs[t]) end end
      local before = { unpack(prompts[i], 1, t - 1) }
      if t % 7 == 0 then check.near(list[1].logprob, logprob_of(before, list[1].id, 0.8), 2e-3, ("prompt %d, token %d: "):format(i, t)) end
    end
    b:free()
  end
end)

check.test("cuts of the prompt, the prefix cache, a population and what runs beside change nothing", function()
  local set = tl.population.of { adapter }
  local function fields(c) return { c.ids, c.logprobs, c.top, { unpack(c.prompt_logprobs or { 0 }, 2) }, c.prompt_top } end
  for name, sampler in pairs { cuts = { adapter = adapter, prefill_tokens = 16 }, few = { adapter = adapter, max_sequences = 2 },
      ["some in each step"] = { adapter = adapter, prefill_per_step = 11 }, ["the prefix cache"] = { adapter = adapter, prefix_cache = true, whole_cache = true, memory = 2 ^ 26 },
      population = { population = set } } do
    for i, list in ipairs(generate({ n_top = 5, prompt_logprobs = true }, sampler)) do
      for k, c in ipairs(list) do check.equal(fields(c), fields(asked[i][k]), ("%s: prompt %d, completion %d"):format(name, i, k)) end
    end
  end
end)

check.test("while it is decoded: the same lists", function()
  local s = tl.sample.sampler(model, { adapter = adapter })
  local request, seen, lists = s:submit(prompts[1], 3, 10, { seed = 5, max_new_tokens = NEW, temperature = 0.8, ignore_eos = true, n_top = 5 }), 0, {}
  while seen < NEW - 1 do
    s:run(1)
    local ids = s:peek(request, 2, seen + 1)
    local logprobs, top = s:peek_logprobs(request, 2, seen + 1, 5)
    check.equal({ #logprobs, #top }, { #ids, #ids })
    for t = 1, #ids do lists[seen + t] = { ids[t], logprobs[t], top[t] } end
    seen = seen + #ids
  end
  local c = asked[1][2]
  for t = 1, seen do check.equal(lists[t], { c.ids[t], c.logprobs[t], c.top[t] }, "token " .. t) end
  s:cancel(request)
  s:free()
end)

check.test("more than there are tokens, or than are given, is refused", function()
  local s = tl.sample.sampler(model, {})
  check.raises("n_top is 21, it must be within 0 and 20", s.submit, s, prompts[1], 1, 0, { n_top = 21 })
  check.raises("n_top wants a whole number from 0; got %-1", s.submit, s, prompts[1], 1, 0, { n_top = -1 })
  s:free()
end)

check.done()
