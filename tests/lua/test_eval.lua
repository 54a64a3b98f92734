-- Evaluation and the gate: the statistics against their definitions, a run that goes on where it was cut, two files compared, lm-eval's scoring, and
-- what the attack says of good and bad verifiers. Catches: a biased pass@k, a resumed run that differs from a whole one, a verifier that pays for junk
-- and is trained on, an honest one that is refused.
package.path = arg[0]:match "^(.*)/" .. "/?.lua;" .. package.path
local check = require "check"
local tl = require "tl"
local stats = require "tl.eval.stats"

check.test("pass@k is the share of k-subsets with a right one", function()
  for n = 1, 7 do
    for c = 0, n do
      for k = 1, n do
        local hits, total = 0, 0
        for mask = 0, 2 ^ n - 1 do
          local size, right = 0, false
          for b = 0, n - 1 do
            if math.floor(mask / 2 ^ b) % 2 == 1 then size, right = size + 1, right or b < c end
          end
          if size == k then hits, total = hits + (right and 1 or 0), total + 1 end
        end
        check.near(stats.pass_at_k(n, c, k), hits / total, 1e-12, ("n %d, c %d, k %d"):format(n, c, k))
      end
    end
  end
  check.equal(stats.pass_at_k(3, 1, 4), nil)
end)

check.test("McNemar, the bootstrap, loops", function()
  check.near(stats.mcnemar(1, 7), 18 / 256, 1e-12)
  check.near(stats.mcnemar(0, 10), 2 / 1024, 1e-12)
  check.equal(stats.mcnemar(0, 0), 1)
  check.equal(stats.mcnemar(5, 5), 1)
  local values = {}
  for i = 1, 400 do values[i] = i % 4 == 0 and 1 or 0 end
  local lo, hi = stats.bootstrap(values, 1)
  local wlo, whi = tl.report.wilson(100, 400)
  check.near(lo, wlo, 0.012)
  check.near(hi, whi, 0.012)
  check.equal({ stats.bootstrap(values, 1) }, { lo, hi }, "the same seed")
  local ids = {}
  for i = 1, 200 do ids[i] = i end
  check.equal(stats.is_repetitive(ids), false)
  for i = 101, 200 do ids[i] = i % 5 end
  check.equal(stats.is_repetitive(ids), true, "period 5")
  check.equal(stats.is_repetitive { 1, 1, 1, 1 }, false, "too short to tell")
end)

check.test("lm-eval's scoring", function()
  local lm = require "verifiers.lm_eval"
  local function r(filter, text, gold) return (lm.make { filter = filter }({ answer = gold }, { text = text })) end
  check.equal(r("strict-match", "so\n#### 1,050.", "1050"), 1)
  check.equal(r("strict-match", "#### 5\n#### 6", "5"), 1, "the first")
  check.equal(r("strict-match", "the answer is 5", "5"), 0)
  check.equal(r("strict-match", "#### 5.0", "5"), 0, "compared as text")
  check.equal(r("flexible-extract", "it is $5, then 6", "6"), 1, "the last")
  check.equal(r("flexible-extract", "6 of them.", "6"), 1)
end)

-- Catches: a majority of 0% where the verifier does not say which answers there were.
check.test("the answer of most samples, where it is known", function()
  local o = { model = tl.model.load "tiny", problems = tl.data.load("wordproblems", { n = 6, split = "test", style = "chat" }), samples = 4, temperature = 1, max_new_tokens = 48 }
  local r = tl.eval.run(o)
  assert(r.accuracy > 0 and r.majority > 0, "verifiers.math says them")
  o.verifier = function(p, c) return c.text:match "#### (%-?%d+)$" == p.answer end
  local own = tl.eval.run(o)
  check.equal({ own.accuracy, own.majority }, { r.accuracy, nil }, "this one does not")
  o.verifier = function() return 0 end
  check.equal(tl.eval.run(o).majority, 0, "nothing is right, whatever was said")
end)

-- samples of one length are one request: a sample must keep its number, its draws and its own length
check.test("samples of given lengths", function()
  local o = { model = tl.model.load "tiny", problems = tl.data.load("wordproblems", { n = 3, split = "test", style = "chat" }), samples = 5, temperature = 1, seed = 2,
    verifier = function(_, c) return c.finish == "length" and c.n_tokens / 100 or 1 end, correct = 0.055, inline = true }
  local lengths = { { 3, 3, 7, 7, 9 }, { 1, 5, 5, 5, 5 }, { 4, 6, 8, 10, 12 } }
  o.lengths = function(i) return lengths[i] end
  local r = tl.eval.run(o)
  for i, list in ipairs(r.by_problem) do
    for j, item in ipairs(list) do
      check.equal({ item.sample, item.n_tokens }, { j, lengths[i][j] })
      if item.finish == "length" then check.equal(item.correct, item.n_tokens > 5, "judged as another sample") end
    end
  end
  o.lengths = function() return { 7, 7, 7, 7, 7 } end
  for j, item in ipairs(tl.eval.run(o).by_problem[1]) do
    if lengths[1][j] == 7 then check.equal(item.text, r.by_problem[1][j].text, "the draws of a sample in another request") end
  end
end)

local tlrun = check.tlrun
local function lines(path)
  local list = {}
  for line in io.lines(path) do list[#list + 1] = line end
  return list
end

-- would catch: items read by unpack, of which LuaJIT gives no more than 8,000
check.test("a file of many items is read, compared and gone on with", function()
  local items, json, lines = require "tl.eval.items", tl.json, { '{"eval":{"task":"t"}}' }
  for i = 1, 9000 do lines[i + 1] = json.encode { task = "t", arm = "base", id = tostring(i), sample = 1, correct = i % 3 == 0 } end
  local path = check.file(table.concat(lines, "\n") .. "\n", ".jsonl")
  local settings, list = items.read(path)
  check.equal({ settings.task, #list, list[1].id, list[9000].id }, { "t", 9000, "1", "9000" })
  check.equal({ tl.eval.compare(path, path).t.n, tl.eval.compare(path, path).t.a }, { 9000, 3000 / 9000 })
  local file, before = items.open(path, { task = "t" })
  check.equal({ #before, before[1].id }, { 9000, "1" })
  file:close()
  os.remove(path)
  local full = io.open("/dev/full", "a")
  if full then check.raises("cannot write an evaluation's items: ", items.append, full, { id = "1" }) end
end)

check.test("problems of one id have no items", function()
  local model, problems = tl.model.load "tiny-xs", { { id = "a", question = "1+1?", answer = "2" }, { id = "a", question = "1+2?", answer = "3" } }
  check.equal(tl.eval.run({ model = model, problems = problems, max_new_tokens = 4 }).n, 2, "without items")
  check.raises("^problem 2: the id a is that of problem 1 too", tl.eval.run, { model = model, problems = problems, max_new_tokens = 4, on_item = function() end })
end)

check.test("what was measured is on stdout: words, or with --json the document alone", function()
  local command = tlrun .. " eval --model tiny-xs --task wordproblems --limit 2 --max-new-tokens 4"
  local code, out, err = check.run(command)
  check.equal({ code, err }, { 0, "" })
  check.equal(out:find("^wordproblems +2 problems, tlrun\n  base +0%.0%% ") ~= nil, true, out)
  local code2, document, words = check.run(command .. " --json")
  check.equal({ code2, words, tl.json.decode(document).tasks.wordproblems.n }, { 0, out, 2 })
end)

check.test("an evaluation that was cut goes on to the same items", function()
  local whole, cut = os.tmpname(), os.tmpname()
  local options = " eval --task wordproblems --limit 12 --samples 2 --temperature 1 --max-new-tokens 40 --json --items "
  os.remove(whole)
  local code, a = check.run(tlrun .. options .. whole)
  check.equal(code, 0)
  local text = tl.fs.read(whole)
  tl.fs.write(cut, text:sub(1, math.floor(#text / 2)))
  local code2, b, err = check.run(tlrun .. options .. cut)
  check.equal(code2, 0, err)
  check.equal(b, a, "the documents")
  local x, y = lines(whole), lines(cut)
  table.sort(x)
  table.sort(y)
  check.equal(#x, 25)
  check.equal(y, x, "the items")
  local code3, _, why = check.run(tlrun .. options:gsub("--samples 2", "--samples 3") .. cut)
  check.equal(code3, 1)
  check.equal(why:find("another evaluation: samples is 2 there and 3 now", 1, true) ~= nil, true, why)
  for _, other in ipairs { "--extract any", "--top-p 0.9", "--split train" } do
    code3, _, why = check.run(tlrun .. " eval " .. other .. options:gsub("^ eval", "") .. cut)
    check.equal({ code3, why:find("another evaluation", 1, true) ~= nil }, { 1, true }, other)
  end
  -- compared with a copy in which one right answer is wrong and one wrong answer right
  local d = tl.json.decode(a).tasks.wordproblems
  check.equal(d.pass_at["1"] <= d.pass_at["2"], true)
  local code4, out = check.run(("%s eval --compare %s %s --json"):format(tlrun, whole, cut))
  check.equal(code4, 0)
  local r = tl.json.decode(out).tasks.wordproblems
  check.equal({ r.n, r.fixed, r.broken, r.p }, { 12, 0, 0, 1 })
  os.remove(whole)
  os.remove(cut)
end)

local function problems()
  local list = {}
  for i = 1, 12 do list[i] = { question = ("Ann has %d hens and buys %d more. How many?"):format(3 * i, i + 20), answer = tostring(4 * i + 20) } end
  return list
end

local function attack(verifier, config)
  local pool = tl.verify.pool { verifier = verifier, config = config }
  local r = tl.attack.run(pool, problems())
  pool:free()
  local names = {}
  for _, t in ipairs(r.failing) do names[t.name] = true end
  return r, names
end

check.test("what is paid for junk, and what is not", function()
  local r = attack "math"
  check.equal(#r.failing, 0)
  check.equal(r.decided, 12)
  local _, names = attack(function(p, c) return c.text:find(p.answer, 1, true) ~= nil end)
  check.equal(names["A or B or C"] and names["several boxed answers"] and names["a list of answers"], true, "a verifier that finds the gold anywhere")
  _, names = attack(function(p, c)
    for d in c.text:gmatch "%d+" do if d == p.answer then return 1 end end
    return 0
  end)
  check.equal(names["several #### lines"], true, "a verifier that takes any number")
  _, names = attack("math", { extract = "flexible" })
  check.equal(names["the gold in a comment after the answer"], true, "the last number, wherever it stands")
  for name, all in pairs { ["what pays for everything"] = function() return 1 end, ["what pays by length"] = function(_, c) return #c.text end,
    ["what pays short texts"] = function(_, c) return -#c.text + 5000 end, ["a rule on length"] = function(_, c) return #c.text < 1000 end } do
    r = attack(all)
    check.equal(#r.failing > 0, true, name)
  end
  for name, form in pairs { ["a form of its own"] = function(p, c) return c.text:match "^Answer: (.-) kg%.$" == p.answer end,
    ["a rule on form"] = function(_, c) return c.text:find "^{.*}$" ~= nil end, ["never a reward"] = function() return -1 end } do
    r = attack(form)
    check.equal({ #r.failing, r.undecided }, { 0, true }, name)
  end
end)

check.test("puzzles and instructions are attacked in their own forms", function()
  for _, kind in ipairs(tl.puzzles.kinds()) do
    local list = tl.data.load("puzzles:" .. kind, { n = 12, difficulty = { 1, 4 } })
    local pool = tl.verify.pool { verifier = "puzzles" }
    local r = tl.attack.run(pool, list)
    pool:free()
    check.equal({ #r.failing, r.decided, #r.errors }, { 0, 12, 0 }, kind .. ": " .. (r.failing[1] and r.failing[1].name .. " " .. r.failing[1].example or ""))
  end
  local bad = { -- each takes what it should not, and is told so
    { "countdown", "an answer in form and no solution", function(p, c)
      local inner = c.text:match "<answer>(.-)</answer>" or ""
      return require("tl").puzzles.check(p.puzzle, inner) or inner:match "(%d+)%D*$" == tostring(p.puzzle.target)
    end },
    { "sudoku", "an answer in form and no solution", function(p, c)
      local rows = 0
      for line in ((c.text:match "<answer>(.-)</answer>" or "") .. "\n"):gmatch "(.-)\n" do rows = rows + (line:find "%d" and 1 or 0) end
      return rows == p.puzzle.size
    end },
    { "chain", "several answers", function(p, c) return c.text:find("<answer>" .. p.answer .. "</answer>", 1, true) ~= nil end },
    { "sorting", "the solution and no tags", function(p, c) return c.text:find(p.answer, 1, true) ~= nil end },
  }
  for _, b in ipairs(bad) do
    local list = tl.data.load("puzzles:" .. b[1], { n = 12, difficulty = { 1, 4 } })
    local pool = tl.verify.pool { verifier = b[3] }
    local r, names = tl.attack.run(pool, list), {}
    pool:free()
    for _, t in ipairs(r.failing) do names[t.name] = true end
    check.equal(names[b[2]], true, b[1] .. ": " .. b[2])
  end
  local list = {}
  for i = 1, 6 do
    list[i] = { question = "Write about hens.", instructions = { { id = "length_constraints:number_words", relation = "at least", num_words = 20 + i }, { id = "keywords:existence", keywords = { "hen", "egg" } } } }
  end
  local pool = tl.verify.pool { verifier = "constraints" }
  local r = tl.attack.run(pool, list)
  pool:free()
  check.equal({ #r.failing, r.decided, #r.errors }, { 0, 6, 0 })
  pool = tl.verify.pool { verifier = function(_, c) return #c.text > 100 end }
  r = tl.attack.run(pool, list)
  pool:free()
  local names = {}
  for _, t in ipairs(r.failing) do names[t.name] = true end
  for what, problem in pairs { puzzles = tl.data.load("puzzles:chain", { n = 6 }), instructions = list,
    programs = { { question = "Double x.", asserts = "assert f(2) == 4" }, { question = "Halve x.", asserts = "assert f(2) == 1", solution = "def f(x): return x / 2" } } } do
    for _, all in ipairs { function() return 1 end, function(_, c) return #c.text end } do
      pool = tl.verify.pool { verifier = all }
      check.equal(#tl.attack.run(pool, problem).failing > 0, true, what .. ": a verifier that pays for everything")
      pool:free()
    end
  end
  check.equal({ names["characters that are not seen"], names["marks and no words"], names["one word over and over"] }, { true, true, nil })
end)

check.test("tlrun verify --test and --attack", function()
  local path = check.file('{"gold":"5","response":"#### 5","reward":1}\n{"gold":"5","response":"5","reward":0}\n', ".jsonl")
  local code, _, err = check.run(("%s verify --test %s"):format(tlrun, path))
  check.equal({ code, err }, { 0, "2 passed, 0 failed\n" })
  tl.fs.write(path, '{"gold":"5","response":"5","reward":1}\n')
  local code2, out = check.run(("%s verify --test %s"):format(tlrun, path))
  check.equal(code2, 1)
  check.equal(out:find(":1: reward 0, wants reward 1", 1, true) ~= nil, true, out)
  tl.fs.write(path, 'not json\n')
  local code3, _, why = check.run(("%s verify --test %s"):format(tlrun, path))
  check.equal({ code3, why:find("line 1", 1, true) ~= nil }, { 1, true }, why)
  os.remove(path)
  local code4 = check.run(([[printf '{"gold":"5"}\n{"gold":"77"}\n' | %s verify --attack]]):format(tlrun))
  check.equal(code4, 0)
  local bad = check.file("return function(p, c) return c.text:find(p.answer, 1, true) ~= nil end\n", ".lua")
  os.rename(bad, "/tmp/anywhere_verifier.lua")
  local code5, found = check.run(([[printf '{"gold":"5"}\n{"gold":"77"}\n' | %s verify --attack --verifier /tmp/anywhere_verifier.lua]]):format(tlrun))
  check.equal(code5, 1)
  check.equal(found:find("A or B or C %s+paid on 2 of 2") ~= nil, true, found)
  os.remove "/tmp/anywhere_verifier.lua"
end)

check.test("labelled solutions in the form of GSM8K's example_model_solutions.jsonl", function()
  local line = [[{"question": "2 hens lay 3 eggs each. How many eggs?", "ground_truth": "2 * 3 = <<2*3=6>>6\nA: 6", "6b_finetuning": {"is_correct": %s, "solution": "2 + 3 = <<2+3=5>>5\nA: 5"}, ]]
    .. [["175b_verification": {"is_correct": true, "solution": "6 eggs.\nA: 6"}, "175b_finetuning": {"is_correct": false, "solution": "A: 6\nbut the 2nd hen lays"}, ]]
    .. [["6b_verification": {"is_correct": true, "solution": "#### 6"}}]] .. "\n"
  local path = check.file(line:format "false", ".jsonl")
  local code, out, err = check.run(("%s verify --test %s"):format(tlrun, path))
  check.equal({ code, out, err }, { 0, "", "4 passed, 0 failed\n" })
  tl.fs.write(path, line:format "false" .. line:format "true")
  code, out = check.run(("%s verify --test %s"):format(tlrun, path))
  check.equal(code, 1)
  check.equal(out:find(":2: reward 0, wants reward 1", 1, true) ~= nil, true, out)
  for text, message in pairs { ['{"ground_truth": "A: 6"}'] = "no field { solution, is_correct }", ['{"ground_truth": "A: 6", "m": {"is_correct": 1, "solution": "x"}}'] = "m wants a text 'solution'",
    ['{"ground_truth": 6}'] = "ground_truth is not a text" } do
    tl.fs.write(path, text .. "\n")
    local bad, _, why = check.run(("%s verify --test %s"):format(tlrun, path))
    check.equal({ bad, why:find("line 1", 1, true) ~= nil and why:find(message, 1, true) ~= nil }, { 1, true }, why)
  end
  os.remove(path)
end)

check.test("worked examples that are computed once change no answer", function()
  local model = tl.model.load "tiny-xs"
  local problems = tl.data.load("wordproblems", { n = 24, split = "test", seed = 3 })
  local head = ("Question: Tom has 3 apples and buys 4. How many?\nAnswer: 3+4=7\n#### 7\n\n"):rep(3)
  local function run(prefix_cache)
    return tl.eval.run { model = model, problems = problems, verifier = "verifiers.math", samples = 2, temperature = 1, seed = 4, max_new_tokens = 20, max_sequences = 5,
      prefix_cache = prefix_cache, prompt = function(problem) return head .. (problem.question or problem.prompt) end }.items
  end
  local with, without = run(nil), run(false)
  check.equal(#with, 48)
  check.equal(with, without)
end)

check.test("an accuracy of answers that nobody judged is none", function()
  local o = { model = tl.model.load "tiny-xs", problems = tl.data.load("wordproblems", { n = 4, split = "test", style = "chat" }), max_new_tokens = 4 }
  local function run(verifier, more)
    o.verifier = verifier
    for k, v in pairs(more or {}) do o[k] = v end
    return tl.eval.run(o)
  end
  check.raises("4 of 4 answers could not be judged: [^\n]*oh no", run, function() error "oh no" end)
  check.raises("4 of 4 answers could not be judged: [^\n]*time", run, function() while true do end end, { timeout_ms = 20 })
  check.raises("the verifier abstained on all 4 answers", run, function() end)
  local r = run(function(p) if p.id == "0:1" then error "oh no" end if p.id == "0:2" then return nil end return 1 end, { timeout_ms = 1000 })
  check.equal({ r.failed, r.abstained, r.accuracy, r.message:find "oh no" ~= nil }, { 1, 1, 0.5, true })
  local s = tl.eval.summary(r)
  check.equal({ s.failed, s.abstained, s.message }, { 1, 1, r.message })
  check.equal(run(function() return 1 end).failed, 0)
  -- flexible: the same verifier with another config
  local path = check.file('return { make = function(config) return function() if config.bad then error "oh no" end return 1 end end }\n', ".lua")
  os.rename(path, "/tmp/tl_failing_verifier.lua")
  r = run("/tmp/tl_failing_verifier.lua", { flexible = { bad = true }, verifier_config = { good = true } })
  check.equal({ r.failed, r.flexible.failed }, { 0, 4 })
  os.remove "/tmp/tl_failing_verifier.lua"
  -- a set of adapters, and what trains by it
  local adapter = tl.adapter.tinylora(o.model, { u = 1 })
  local set = tl.population.of { adapter }
  check.raises("8 of 8 answers could not be judged: [^\n]*oh no", tl.population.rewards, set, o.problems, { reward = function() error "oh no" end, max_new_tokens = 4, n = 2 })
  set:free()
end)

check.test("tlrun eval with a verifier that fails: an error, or a warning and a count; what failed is judged again", function()
  local verifier, items = "/tmp/tl_failing_verifier.lua", os.tmpname()
  os.remove(items)
  local command = (" eval --model tiny-xs --task wordproblems --limit 6 --max-new-tokens 4 --json --verifier %s --items %s"):format(verifier, items)
  tl.fs.write(verifier, 'return function() error "oh no" end\n')
  local code, out, err = check.run(tlrun .. command)
  check.equal({ code, out, err:find("6 of 6 answers could not be judged", 1, true) ~= nil, err:find "oh no" ~= nil }, { 1, "", true, true }, err)
  tl.fs.write(verifier, 'return function(p) if p.id:find ":3$" then error "oh no" end return 1 end\n')
  code, out, err = check.run(tlrun .. command)
  check.equal({ code, err:find("warning: 1 of 6 answers could not be judged", 1, true) ~= nil }, { 0, true }, err)
  local r = tl.json.decode(out).tasks.wordproblems
  check.equal({ r.failed, r.abstained, r.outcomes.error }, { 1, 0, 1 })
  check.near(r.accuracy, 5 / 6, 1e-12)
  tl.fs.write(verifier, "return function() return 1 end\n")
  code, out, err = check.run(tlrun .. command)
  r = tl.json.decode(out).tasks.wordproblems
  check.equal({ code, r.failed, r.accuracy }, { 0, 0, 1 }, err)
  local both = tl.eval.compare(items, items)
  check.equal({ both.wordproblems.n, both.wordproblems.a }, { 6, 1 }, "the later item of a completion counts")
  os.remove(verifier)
  os.remove(items)
end)

check.test("an interval has a width where every problem scores alike", function()
  local r = tl.eval.greedy_and_sampled { model = tl.model.load "tiny", problems = tl.data.load("wordproblems", { n = 3, style = "chat" }), inline = true, temperature = 1, samples = 2,
    max_new_tokens = 2, headline = "sampled", verifier = function() return 0 end, also = { stopped = function(item) return item.finish == "stop" end } }
  check.equal({ r.accuracy, r.samples, r.greedy.samples, r.greedy.n }, { 0, 2, 1, 3 })
  check.near(r.ci95[2], select(2, tl.report.wilson(0, 3)), 1e-12)
  check.equal(r.stopped >= 0 and r.stopped <= 1 and r.greedy.stopped ~= nil, true)
end)

check.test("a trainer refuses a verifier that pays for junk, and takes each outcome as it is told", function()
  local model = tl.model.load "tiny"
  local adapter = tl.adapter.tinylora(model, { rank = 2, u = 1 })
  local list = {}
  for i, p in ipairs(problems()) do if i <= 2 then list[i] = p end end
  local function trainer(o)
    o.model, o.adapter, o.num_generations, o.max_completion_length = model, adapter, 2, 4
    return tl.grpo.trainer(o)
  end
  local t = trainer { reward = function(p, c) return c.text:find(p.answer, 1, true) ~= nil end }
  check.raises("pays for junk", t.step, t, list)
  t:free()
  t = trainer { reward = function(p, c) return c.text:find(p.answer, 1, true) ~= nil end, gate = false }
  t:step(list)
  t:free()
  t = trainer { reward = function() error "broken" end, on_error = { error = "zero", timeout = "fail" } }
  local m = t:step(list)
  check.equal({ m.reward, m["verifier/error"] }, { 0, 4 }, "errors score 0 when told to")
  t:free()
  t = trainer { reward = function() error "broken" end, on_error = { error = "fail" } }
  check.raises("broken", t.step, t, list)
  t:free()
  t = trainer { reward = function() end, on_error = { abstain = "zero" } }
  check.equal(t:step(list).reward, 0, "abstentions score 0 when told to")
  t:free()
  for _, all in ipairs { function() return 1 end, function(_, c) return #c.text end } do
    t = trainer { reward = all }
    check.raises("pays for junk", t.step, t, list)
    t:free()
  end
  t = trainer { reward = function() while true do end end, timeout_ms = 50 }
  check.raises("ran out of time in each of its first 8 calls", t.step, t, list)
  t:free()
  check.raises("on_error", trainer, { reward = function() return 1 end, on_error = { eror = "zero" } })
end)
check.done()
