-- test_turns.lua: completions of several turns. Would catch: a reply's tokens that carry loss, length or entropy; logprobs of the sampler that are
-- not the trainer's after a reply (a prefix that is not what was computed, positions off by one); completions that depend on the batch around
-- or on when replies come; replies beyond the limit; a verdict for another completion.
package.path = arg[0]:match "^(.*)/" .. "/?.lua;" .. package.path
local check = require "check"
local equal, raises, numbers = check.equal, check.raises, check.numbers
local tl = require "tl"

local model = tl.model.load("tiny-xs", { dtype = "bf16" })
local tokenizer = model:tokenizer()
local problems = tl.data.load("wordproblems", { n = 6, seed = 5, split = "train" })
local function steps(problem) return { { role = "user", content = problem.question .. " Show every step." } } end

local function calculator(_, c)
  local a, op, b = c.text:match "(%d+)([-+*/])(%d+)=$"
  if not a then return nil end
  a, b = tonumber(a), tonumber(b)
  return ("%d"):format(op == "+" and a + b or op == "-" and a - b or op == "*" and a * b or a / b)
end

local function trainer(o)
  local all = { model = model, adapter = tl.adapter.tinylora(model, { u = 13 }), num_generations = 4, max_completion_length = 60, lr = 1e-2, gate = false,
    seed = 3, reward = function(_, c) return #c.text % 3 end, reply = calculator, stop = "=", prompt = steps }
  for k, v in pairs(o or {}) do all[k] = v end
  if all.reply == false then all.reply = nil end
  return tl.grpo.trainer(all), all.adapter
end

local function completions(r)
  local list = {}
  for _, g in ipairs(r.groups) do
    for _, c in ipairs(g.completions) do list[#list + 1] = c end
  end
  return list
end

local function ids_of(r)
  local lines = {}
  for i, c in ipairs(completions(r)) do lines[i] = table.concat(c.ids, " ") end
  return table.concat(lines, "\n")
end

local function write(path, text)
  local f = assert(io.open(path, "w"))
  f:write(text)
  f:close()
  return path
end

check.test("the trainer's logprobs are the sampler's on the model's tokens, bit for bit; a reply's are masked", function()
  local masked, differ, unlike = 0, 0, 0
  local t = trainer { objective = function(b, out)
    local from = tonumber(b.offsets[b.first])
    for i = from, from + b.n - 1 do
      out.dlogprob[i] = 0
      if b.mask[i] == 0 then masked = masked + 1
      elseif b.logprob[i] ~= b.sampler[i] then differ = differ + 1 end
      if b.mask[i] == 0 and b.logprob[i] == b.sampler[i] then unlike = unlike + 1 end
    end
  end }
  local _, r = t:step(problems)
  local replies = 0
  for _, c in ipairs(completions(r)) do
    for i = 1, #c.ids do replies = replies + (1 - c.mask[i]) end
  end
  assert(replies > 100, "there are replies")
  equal({ masked, differ, unlike }, { replies, 0, 0 })
  t:free()
end)

check.test("turns alternate, their tokens are the completion's, and only the model's are counted", function()
  local t = trainer()
  local m, r = t:step(problems)
  local sampled, entropy, loss = 0, 0, 0
  for _, c in ipairs(completions(r)) do
    local own = 0
    for i = 1, #c.ids do
      own = own + c.mask[i]
      if c.mask[i] == 0 then equal({ c.logprobs[i], c.entropy[i] }, { 0, 0 }) end
      entropy = entropy + c.entropy[i]
    end
    equal(c.n_tokens, own)
    local text = ""
    for i, turn in ipairs(c.turns) do
      equal(turn.role, i % 2 == 1 and "assistant" or "reply")
      text = text .. turn.text
    end
    equal(c.transcript, text .. (c.finish == "stop" and "<|im_end|>" or ""))
    equal(c.text, c.turns[#c.turns].text)
    assert(#c.ids <= 60)
    sampled, loss = sampled + own, loss - c.advantage * own
  end
  equal(r.n_tokens, sampled)
  check.near(m["completions/mean_length"], sampled / 24, 1e-9)
  check.near(m.entropy, entropy / sampled, 1e-9)
  check.near(m.loss, loss / sampled, 1e-5, "dapo's, over the model's tokens")
  t:free()
end)

check.test("a reply's tokens have no gradient: the built-in loss and one written with the mask train the same numbers", function()
  local t, adapter = trainer()
  local norm = t:step(problems).grad_norm
  local mine, by_hand = trainer { objective = function(b, out)
    for s = b.first, b.first + b.count - 1 do
      for i = tonumber(b.offsets[s]), tonumber(b.offsets[s + 1]) - 1 do out.dlogprob[i] = -b.advantage[s] * b.mask[i] / b.total_tokens end
    end
  end }
  check.near(norm / mine:step(problems).grad_norm, 1, 1e-4, "the gradient's norm")
  local found, expected = adapter:parameters(), by_hand:parameters()
  for i = 1, #found do check.near(found[i], expected[i], 1e-6) end
  t:free()
  mine:free()
end)

check.test("a completion is the same at any number of sequences at once, and with replies from worker threads", function()
  local dir = os.getenv "TL_TEST_TMP" or os.tmpname()
  os.remove(dir)
  os.execute("mkdir -p '" .. dir .. "'")
  local file = write(dir .. "/slow_calculator.lua", [[
return { reply = function(_, c)
  local a, op, b = c.text:match "(%d+)([-+*/])(%d+)=$"
  if not a then return nil end
  for i = 1, #c.text * 2000 do c.n = i end  -- replies come in another order than their questions
  c.state.asked = (c.state.asked or 0) + 1
  a, b = tonumber(a), tonumber(b)
  return ("%d"):format(op == "+" and a + b or op == "-" and a - b or op == "*" and a * b or a / b)
end }
]])
  local function run(o)
    local t, adapter = trainer(o)
    local _, r = t:step(problems)
    t:free()
    return ids_of(r), numbers(adapter), r
  end
  local ids, trained = run()
  for _, o in ipairs { { max_sequences = 2 }, { max_sequences = 5, reply = file }, { reply = file } } do
    local i, n, r = run(o)
    equal(i, ids)
    equal(n, trained)
    if o.reply then
      for _, c in ipairs(completions(r)) do equal(c.state.asked or 0, math.floor(#c.turns / 2)) end
    end
  end
  local single = run { reply = false, stop = "=" }
  assert(single ~= ids, "replies make a difference")
  os.execute("rm -r '" .. dir .. "'")
end)

check.test("messages follow the model's turn as the chat template writes them", function()
  local t = trainer { stop = false, prompt = function(p) return { { role = "user", content = p.question } } end, max_completion_length = 200,
    reply = function(_, c)
      if #c.turns == 1 then return { { role = "user", content = "Are you sure? Show every step." } } end
    end }
  local _, r = t:step { problems[1], problems[2] }
  local seen = 0
  for _, g in ipairs(r.groups) do
    for _, c in ipairs(g.completions) do
      if #c.turns == 3 then
        local chat = tokenizer:chat({ { role = "user", content = g.problem.question }, { role = "assistant", content = c.turns[1].text },
          { role = "user", content = "Are you sure? Show every step." } }, { add_generation_prompt = true })
        local all = {}
        for _, id in ipairs(g.prompt) do all[#all + 1] = id end
        local last = #c.ids
        while c.mask[last] == 1 do last = last - 1 end
        for i = 1, last do all[#all + 1] = c.ids[i] end
        equal(tokenizer:decode(all, { skip_special = false }), chat)
        seen = seen + 1
      end
    end
  end
  assert(seen >= 4, "conversations of two turns")
  t:free()
end)

check.test("after a stop string, messages end the model's message first", function()
  local t = trainer { reply = function(_, c) return #c.turns == 1 and { { role = "user", content = "Go on." } } or nil end, max_completion_length = 100 }
  local _, r = t:step { problems[1] }
  local c = completions(r)[1]
  assert(tokenizer:decode(c.ids, { skip_special = false }):find("=<|im_end|>\n<|im_start|>user\nGo on.<|im_end|>\n<|im_start|>assistant\n", 1, true))
  t:free()
end)

check.test("state goes from turn to turn and to the verifier", function()
  local t = trainer { reply = function(p, c)
    c.state.turns = (c.state.turns or 0) + 1
    return calculator(p, c)
  end, reward = function(_, c) return c.state.turns == (#c.turns + 1) / 2 and #c.turns or -1 end, workers = 1 }
  local _, r = t:step(problems)
  for _, c in ipairs(completions(r)) do
    if c.finish == "stop" then equal(c.reward, #c.turns) end
  end
  t:free()
end)

check.test("the limit is of the whole completion: a reply that leaves no room ends it", function()
  local long = ("9"):rep(30)
  local t = trainer { reply = function() return long end, max_completion_length = 40 }
  local _, r = t:step { problems[1] }
  local cut = 0
  for _, c in ipairs(completions(r)) do
    assert(#c.ids <= 40)
    equal(c.finish, "length")
    cut = cut + (#c.turns <= 3 and 1 or 0)
  end
  equal(cut, 4)
  t:free()
end)

check.test("a reply that fails is its sample's verdict", function()
  local function fails(_, c)
    if c.turns[3] then error "the tool is broken" end
    return calculator(_, c)
  end
  local t = trainer { reply = fails }
  local m, r = t:step(problems)
  local failed = 0
  for _, c in ipairs(completions(r)) do
    if c.verdict.outcome == "error" then
      failed = failed + 1
      assert(c.verdict.message:find "reply: .*test_turns.lua:%d+: the tool is broken", c.verdict.message)
      assert(c.reward ~= c.reward and c.advantage == 0)
    end
  end
  assert(failed > 4)
  equal(m["verifier/error"], failed)
  t:free()
  local strict = trainer { reply = fails, on_error = "fail" }
  raises("the tool is broken", strict.step, strict, problems)
  equal(strict.steps, 0)
  strict:free()
  local odd = trainer { reply = function() return 7 end, on_error = "fail" }
  raises("a reply is a text, a list of messages", odd.step, odd, problems)
  odd:free()
end)

check.test("members of a population end with the bytes of runs of their own", function()
  local function alone(lr, seed)
    local t, adapter = trainer { lr = lr, seed = seed }
    for _ = 1, 2 do t:step(problems) end
    t:free()
    return numbers(adapter)
  end
  local p = tl.population { model = model, adapter = { u = 13 }, num_generations = 4, max_completion_length = 60, gate = false,
    reward = function(_, c) return #c.text % 3 end, reply = calculator, stop = "=", prompt = steps,
    members = { { lr = 1e-2, seed = 3 }, { lr = 3e-2, seed = 4 } } }
  for _ = 1, 2 do p:step(problems) end
  equal(numbers(p.members[1].adapter), alone(1e-2, 3))
  equal(numbers(p.members[2].adapter), alone(3e-2, 4))
  p:free()
end)

check.test("rollouts that are not the trainer's numbers, KL, an entropy bonus and several iterations", function()
  for _, o in ipairs { { rollouts = "merged" }, { rollouts = "int8" }, { beta = 0.1, num_iterations = 2 }, { entropy_coef = 0.01, loss_type = "grpo" } } do
    local t, adapter = trainer(o)
    local m = t:step(problems)
    assert(m.loss == m.loss and m.grad_norm > 0)
    if o.rollouts then assert(m["sampling/sampling_logp_difference/max"] < 0.5, "a reply's tokens are not compared") end
    assert(numbers(adapter):find "[1-9]")
    t:free()
  end
end)

check.test("tl.eval.run: a calculator makes every step right", function()
  local held_out = tl.data.load("wordproblems", { n = 60, seed = 1001, split = "test" })
  local function accuracy(o)
    local r = tl.eval.run { model = model, problems = held_out, prompt = steps, max_new_tokens = 64, reply = o.reply, stop = o.stop, samples = o.samples,
      temperature = o.samples and 1 or 0, max_sequences = o.max_sequences }
    return r
  end
  local by_head, with_tool = accuracy {}, accuracy { reply = calculator, stop = "=" }
  assert(by_head.accuracy < 0.9 and with_tool.accuracy > 0.97, ("%g %g"):format(by_head.accuracy, with_tool.accuracy))
  equal(with_tool.items[1].turns[2].role, "reply")
  local a, b = accuracy { reply = calculator, stop = "=", samples = 3 }, accuracy { reply = calculator, stop = "=", samples = 3, max_sequences = 7 }
  for i = 1, #a.items do equal(a.items[i].text, b.items[i].text) end
  raises("lengths are of completions of one turn", tl.eval.run, { model = model, problems = held_out, reply = calculator, lengths = function() return { 3 } end })
end)

check.test("what cannot reply is refused", function()
  raises("reply is a function%(problem, completion%), a module's name or a file; got 3", trainer, { reply = 3 })
  raises("there is no module 'no_such_tool'", trainer, { reply = "no_such_tool" })
  raises("reply /no/tool.lua: there is no such file", trainer, { reply = "/no/tool.lua" })
end)

-- Catches: another block than the last, an error that the model is not shown, a program that is waited for without end, output without end.
if tl.sandbox.why_not() then check.skip("a Python interpreter as a reply", tl.sandbox.why_not())
else check.test("a Python interpreter as a reply", function()
  local python = tl.python
  local function asked(program, after) return python.reply({}, { text = "Let us see.\n```python\n" .. program .. "\n```\n" .. (after or "```output") }) end
  equal(asked "print(6 * 7)", "\n42\n```\n")
  equal(asked("print(1)\n```\nno, rather\n```python\nimport math\nprint(math.comb(50, 25), end='')"), "\n126410606437752\n```\n")
  equal(asked "x = 1\nprint('so far')\nprint(x / 0)", "\nso far\nZeroDivisionError: division by zero\n```\n")
  equal(asked "pass", "\n```\n")
  equal(asked("print(1)", "so it is 1"), nil)
  equal(python.reply({}, { text = "```output" }), "\nthere is no block of Python before this\n```\n")
  equal(asked("print('a' * 3000)"), "\n" .. ("a"):rep(2000) .. "...\n```\n")
  assert(asked("open('/etc/passwd')"):find "No such file", "it sees no file of this machine")
  python.limits.wall_ms = 300
  assert(asked("while True: pass"):find "^\ntimeout: ", "it ends")
  python.limits.wall_ms = 5000
  local pool = tl.verify.pool { verifier = "tl.reply", config = { module = "tl.python", path = package.path }, timeout_ms = 20000 }
  pool:submit({}, { text = "```python\nprint(6 * 7)\n```\n```output", state = {} })
  local v = pool:take(20000)
  equal(v.outcome, "ok")
  equal(tl.json.decode(v.message).reply, "\n42\n```\n")
  pool:free()
end) end

-- Catches: verdicts that are lost when several wait.
check.test("an inline verifier's verdicts wait in the order of their jobs", function()
  local pool = tl.verify.pool { verifier = function(p) return p.n end, inline = true }
  for round = 1, 2 do
    for n = 1, 5 do pool:submit({ n = n }, { text = "" }) end
    equal(pool:pending(), 5)
    for n = 1, 5 do equal(pool:take(0).reward, n) end
    equal(pool:pending(), 0)
    assert(pool:take(0) == nil, "round " .. round)
  end
end)

check.done()
