-- min_new_tokens: what ends a completion comes after so many tokens; requests that are cancelled. Catches: an end that is drawn too early or ignored for ever after,
-- logprobs renormalised over what is left, a stop string that was complete too early and is found later; a cancelled request that changes
-- what the others get, or keeps its place.
package.path = arg[0]:match "^(.*)/" .. "/?.lua;" .. package.path
local check = require "check"
local tl = require "tl"

local model = tl.model.load "tiny"
local problems = tl.data.load("wordproblems", { n = 6, split = "test", style = "chat", seed = 3 })
local prompts, is_eos = {}, {}
for i, p in ipairs(problems) do prompts[i] = tl.grpo.prompt_ids(model:tokenizer(), nil, p) end
for _, id in ipairs(model.eos) do is_eos[id] = true end

local function generate(o)
  local settings = { n = 4, temperature = 1, seed = 5, max_new_tokens = 40 }
  for k, v in pairs(o) do settings[k] = v end
  local flat = {}
  for _, list in ipairs(tl.sample.generate(model, prompts, settings)) do for _, c in ipairs(list) do flat[#flat + 1] = c end end
  return flat
end
local function ends(c) return is_eos[c.ids[#c.ids]] or false end
local free = generate {}

for name, how in pairs { sampled = {}, greedy = { temperature = 0 }, ["top_k 3"] = { top_k = 3 }, ["top_p 0.8, min_p 0.05"] = { top_p = 0.8, min_p = 0.05 } } do
  check.test("a completion ends after min_new_tokens, " .. name, function()
    local before, shorter, later = generate(how), 0, 0
    how.min_new_tokens = 12
    for i, c in ipairs(generate(how)) do
      local was = before[i]
      for t = 1, math.min(12, #c.ids) do if is_eos[c.ids[t]] then error(("completion %d has an end at token %d"):format(i, t)) end end
      check.equal({ #c.ids > 12, c.finish, ends(c) }, { true, #c.ids < 40 and "stop" or c.finish, c.finish == "stop" }, "completion " .. i)
      -- without the end among them the others' share of the draw is larger: another token may be drawn, from the same distribution
      local t = 1
      while c.ids[t] == was.ids[t] and was.ids[t + 1] do
        check.equal({ c.logprobs[t], c.entropy[t] }, { was.logprobs[t], was.entropy[t] }, ("completion %d, token %d"):format(i, t))
        t = t + 1
      end
      check.equal(c.entropy[t], was.entropy[t], "the entropy is of all tokens")
      if #was.ids <= 12 then shorter = shorter + 1 end
      if how.temperature == 0 then check.equal(t, #was.ids, "greedy, the way is the same up to the end") end
      later = later + (c.finish == "stop" and 1 or 0)
    end
    check.equal({ shorter > 2, later > 2 }, { true, true }, "some would have ended earlier, and some end")
  end)
end

-- the drawn token's probability beside a banned one is that of the whole vocabulary
check.test("logprobs are those of the whole vocabulary", function()
  for i, c in ipairs(generate { min_new_tokens = 40, n = 1, temperature = 0 }) do
    local ids = { unpack(prompts[i]) }
    for _, id in ipairs(c.ids) do ids[#ids + 1] = id end
    local all = model:logprobs(ids)
    for t = 1, #c.ids do check.near(c.logprobs[t], all[#prompts[i] + t - 1], 1e-6, ("completion %d, token %d: "):format(i, t)) end
    check.equal({ #c.ids, c.finish, ends(c) }, { 40, "length", false })
  end
end)

check.test("ignore_eos with min_new_tokens: no end before, any number after", function()
  for _, c in ipairs(generate { min_new_tokens = 12, ignore_eos = true }) do
    for t = 1, 12 do check.equal(is_eos[c.ids[t]] or false, false) end
    check.equal(#c.ids, 40)
  end
end)

check.test("a completion ends where the model's context does, and a prompt that fills it is refused", function()
  local long, context = {}, model.max_positions
  for t = 1, context - 5 do long[t] = prompts[1][(t - 1) % #prompts[1] + 1] end
  local c = tl.sample.generate(model, { long }, { max_new_tokens = 40, ignore_eos = true, min_new_tokens = 20 })[1][1]
  check.equal({ #c.ids, c.finish }, { 5, "length" })
  for _ = 1, 5 do long[#long + 1] = 1 end
  check.raises(("the prompt has %d tokens; the model's context has %d"):format(context, context), tl.sample.generate, model, { long }, {})
end)

-- "#" is complete with the first "####"; the longer stop string keeps it in the tail of bytes, where it must not be found later
check.test("stop strings are looked for after min_new_tokens", function()
  local tok, seen = model:tokenizer(), 0
  for i, c in ipairs(generate { min_new_tokens = 8, stop = { "7", "no such text at all" } }) do
    local function has(from, to)
      local ids = {}
      for t = from, to do ids[#ids + 1] = c.ids[t] end
      return tok:decode(ids, {}):find("7", 1, true) ~= nil
    end
    if c.finish == "stop" and not ends(c) then
      seen = seen + 1
      check.equal({ has(#c.ids, #c.ids), has(9, #c.ids - 1), #c.ids > 8 }, { true, false, true }, "completion " .. i)
    else
      check.equal(has(9, #c.ids), false, "completion " .. i)
    end
  end
  check.equal(seen > 0, true, "none ended at the stop string")
end)

-- transformers' own (tests/parity/make_generate_fixtures.py)
check.test("greedy completions with a minimum are transformers'", function()
  local fixtures = tl.root .. "/tests/parity/fixtures/"
  local config = tl.json.load(fixtures .. "models/llama_plain/config.json")
  local folder = os.tmpname()
  os.remove(folder)
  tl.fs.mkdirs(folder)
  tl.fs.symlink(fixtures .. "models/weights/llama_plain.safetensors", folder .. "/model.safetensors")
  for i, case in ipairs(tl.json.load(fixtures .. "generate.json")) do
    config.eos_token_id = tl.json.array(case.eos)
    tl.json.save(folder .. "/config.json", config)
    local m = tl.model.load(folder, { dtype = "f32" })
    local out = tl.sample.generate(m, { case.prompt }, { temperature = 0, min_new_tokens = case.min_new_tokens, max_new_tokens = case.max_new_tokens })
    check.equal(out[1][1].ids, case.ids, "case " .. i)
    m:free()
  end
  os.execute("rm -rf '" .. folder .. "'")
end)

-- a prompt's rows in other cuts, between decode steps of others: a bit that depends on them, a completion that starts before its prompt is whole
check.test("prompts cut in pieces between decode steps give the same bits", function()
  local long = {}
  for k = 1, 5 do for _, id in ipairs(prompts[k]) do long[#long + 1] = id end end
  local function run(o)
    local s, out = tl.sample.sampler(model, { max_sequences = 5, prefill_tokens = o.cut, prefill_per_step = o.per_step }), {}
    for i, ids in ipairs { prompts[1], long, prompts[2], prompts[3], long, prompts[4] } do
      s:submit(ids, 2, i * 10, { temperature = 1, seed = 5, max_new_tokens = 12, ignore_eos = true })
    end
    if o.late then for _ = 1, 9 do s:run(1) end end
    s:submit(long, 1, 100, { temperature = 1, seed = 5, max_new_tokens = 12, ignore_eos = true })
    for c in s:completions() do
      out[c.request] = out[c.request] or {}
      out[c.request][c.index] = { c.ids, c.logprobs }
    end
    local stats = s:stats()
    s:free()
    return out, stats
  end
  local whole, stats = run {}
  check.equal(stats.prompt_tokens, 3 * #long + #prompts[1] + #prompts[2] + #prompts[3] + #prompts[4])
  for _, o in ipairs { { per_step = 1 }, { per_step = 7 }, { per_step = 64, cut = 13 }, { per_step = 50, late = true }, { cut = 20 }, { per_step = #prompts[1], late = true } } do
    local got, s = run(o)
    check.equal(got, whole, ("per_step %s, cut %s"):format(o.per_step, o.cut))
    check.equal(s.prompt_tokens, stats.prompt_tokens)
  end
end)

-- rows that are used again: another member's or another version's, rows that were given away meanwhile, a row too many or too few
check.test("prompts that begin alike give the same bits from the prefix cache", function()
  local function tiny(seed)
    local a = tl.adapter.tinylora(model, { rank = 2, u = 4, seed = seed })
    a:v { 0.1, -0.1, 0.05, 0.2 }
    return a
  end
  local one, two = tiny(1), tiny(2)
  local set = tl.population.of { one, two }
  local function join(...)
    local out = {}
    for _, list in ipairs { ... } do for _, id in ipairs(list) do out[#out + 1] = id end end
    return out
  end
  local function run(o)
    o.population, o.max_sequences = set, o.max_sequences or 4
    one:v { 0.1, -0.1, 0.05, 0.2 }
    local s, out, reused = tl.sample.sampler(model, o), {}, {}
    local function ask(ids, member, n)
      local got = {}
      local before = s:stats().reused_tokens
      s:submit(ids, n or 1, 0, { temperature = 1, seed = 5, max_new_tokens = 10, ignore_eos = true, member = member })
      for c in s:completions() do got[c.index] = { c.ids, c.logprobs } end
      out[#out + 1] = got
      reused[#reused + 1] = s:stats().reused_tokens - before
      return got[1][1]
    end
    local p, q = prompts[1], prompts[2]
    ask(p, 0)                                            -- 1: nothing is there
    local answer = ask(p, 0, 3)                          -- 2: the same: all but the last token
    ask(p, 1)                                            -- 3: another member: nothing
    ask(p, -1)                                           -- 4: the base: nothing
    ask(join(p, q), 0)                                   -- 5: begins with it
    ask(join(p, answer, q), 0)                           -- 6: with the answer too, but for its last token
    ask({ unpack(p, 1, #p - 3) }, 0)                     -- 7: a part of it
    ask(join({ unpack(p, 1, 20) }, q), 0)                -- 8: parts at 20
    one:v(2, 0.3)
    ask(p, 0)                                            -- 9: the member has changed: nothing
    ask(p, 1)                                            -- 10: the other has not
    for k = 1, 6 do s:submit(join(p, { unpack(prompts[k], 1, 5 + k) }), 2, 100 * k, { temperature = 1, seed = 5, max_new_tokens = 10, ignore_eos = true, member = k % 3 - 1 }) end
    local all = {}
    for c in s:completions() do all[c.request * 10 + c.index] = { c.ids, c.logprobs } end
    out[#out + 1] = all
    local stats = s:stats()
    s:free()
    return out, reused, stats
  end
  local want, none = run {}
  for _, n in ipairs(none) do check.equal(n, 0) end
  local n = #prompts[1]
  local row = model.n_layers * 2 * model.n_kv_heads * model.head_dim * 2
  local got, reused, stats = run { prefix_cache = true, memory = 2000 * row, whole_cache = true }
  check.equal(got, want)
  check.equal({ unpack(reused, 1, 8) }, { 0, n - 1, 0, 0, n, n + 9, n - 4, 20 })
  check.equal({ unpack(reused, 9, 10) }, { 0, n - 1 })
  check.equal(stats.reused_tokens > 4 * n, true)
  for _, rows in ipairs { 4 * n, 6 * n + 60, 12 * n } do  -- short of room: sequences are forgotten
    for _, o in ipairs { {}, { per_step = 5 }, { per_step = 40, whole = true } } do
      got = run { prefix_cache = true, memory = rows * row, prefill_per_step = o.per_step, whole_cache = o.whole }
      check.equal(got, want, ("%d rows, per_step %s"):format(rows, o.per_step))
    end
  end
  set:free()
end)

check.test("cancelled requests leave nothing behind, and the others their bits", function()
  local o = { temperature = 1, seed = 5, max_new_tokens = 40, ignore_eos = true }
  local function ids_of(list) local t = {} for _, c in ipairs(list) do t[#t + 1] = c.ids end return t end
  local want = ids_of(tl.sample.generate(model, { prompts[1] }, { n = 3, temperature = 1, seed = 5, max_new_tokens = 40, ignore_eos = true })[1])
  local s = tl.sample.sampler(model, { max_sequences = 4 })
  for round = 1, 50 do  -- more than fit into the cache, if places were lost
    local mine = s:submit(prompts[1], 3, 0, o)
    local whole = s:submit(prompts[2], 2, 0, o)   -- one is decoded, one waits
    local waiting = s:submit(prompts[3], 5, 0, o)
    check.equal(s:cancel(waiting), true)
    for _ = 1, round % 7 do s:run(1) end
    check.equal({ s:cancel(whole), s:cancel(whole), s:cancel(12345), s.pending }, { true, false, false, 3 })
    local got = {}
    for c in s:completions() do
      check.equal(c.request, mine)
      got[c.index] = c.ids
    end
    check.equal(got, want, "round " .. round)
    check.equal({ s:cancel(mine), s.pending }, { false, 0 })
  end
  local half = s:submit(prompts[1], 6, 0, { temperature = 1, seed = 5, max_new_tokens = 40, stop = "a" })  -- some finish before, some wait
  local seen = 0
  while s:run() > 3 do while s:pop() do seen = seen + 1 end end
  while s:pop() do seen = seen + 1 end
  check.equal({ s:cancel(half), s.pending, s:pop() == nil, seen > 0 }, { true, 0, true, true })
  s:free()
end)

check.test("what cannot be is refused", function()
  check.raises("min_new_tokens is 41, it must be within 0 and max_new_tokens, 40", generate, { min_new_tokens = 41 })
  check.raises("min_new_tokens wants a whole number from 0; got %-1", generate, { min_new_tokens = -1 })
  check.equal(#free, 24)
end)

-- a NULL where C wants an object is a crash; where it means "no adapter" it is the base model's answer
check.test("what was freed is said", function()
  local m = tl.model.load "tiny"
  local a, ids = tl.adapter.tinylora(m, { cache = false, targets = "q" }), prompts[1]
  local s, kept, batch = tl.sample.sampler(m, { adapter = a }), tl.sample.kept(1e6), require("tl.pass").batch()
  local set, tensor = tl.population.of { a }, tl.tensor.zeros(2, 2)
  for _, o in ipairs { s, kept, batch, set, tensor, a } do o:free() o:free() end
  check.raises("this sampler was freed", s.run, s)
  check.raises("this room for activations was freed", kept.info, kept)
  check.raises("this batch was freed", batch.prompt, batch, ids)
  check.raises("one that was freed", tl.sample.sampler, m, { population = set })
  check.raises("this tensor was freed", function() return tensor[1][1] end)
  check.raises("one that was freed", m.logprobs, m, ids, a)
  check.raises("this adapter was freed", a.parameters, a)
  m:free()
  check.raises("this model was freed", m.logprobs, m, ids)
  check.raises("one that was freed", tl.sample.sampler, m)
end)
check.done()
