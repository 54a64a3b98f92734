-- Problem sets: fields and golds of every known set (where the files are), own files, prompt styles, and that order, splits and
-- batches are functions of the seed.
local tl = require "tl"
local fs, data = require "tl.fs", tl.data
local F = require "tl.ffi"

local failed = false
local function test(name, fn)
  local ok, why = pcall(fn)
  if ok and type(why) == "string" then print("skip " .. name .. ": " .. why) return end
  print(ok and "ok " .. name or "not ok " .. name .. ": " .. tostring(why))
  failed = failed or not ok
end
local function equal(found, expected, what)
  if found ~= expected then error(("%s: %s, expected %s"):format(what, tostring(found), tostring(expected)), 2) end
end
local function raises(pattern, fn, ...)
  local ok, why = pcall(fn, ...)
  if ok then error("no error, expected one with '" .. pattern .. "'", 2) end
  if not tostring(why):find(pattern) then error(("error '%s', expected '%s'"):format(tostring(why), pattern), 2) end
end

local dir = os.tmpname()
os.remove(dir)
fs.mkdirs(dir)
local function file(name, text)
  fs.mkdirs((dir .. "/" .. name):match("^(.*)/"))
  fs.write(dir .. "/" .. name, text)
end

-- one row of each publisher's form, and what it has to become
local rows = {
  gsm8k = { "train", [[{"question":"Q?","answer":"2*500=<<2*500=1000>>1000.\n#### 1,000"}]], "Q?", "1000" },
  math500 = { "test", [[{"problem":"Q?","solution":"s","answer":"\\frac{14}{3}","subject":"Algebra","level":2,"unique_id":"a/1"}]], "Q?", "\\frac{14}{3}" },
  minerva_math = { "test", [[{"problem":"Q?","solution":"first \\boxed{1}, so \\boxed{4.5e33} erg","type":"t","idx":0}]], "Q?", "4.5e33" },
  olympiadbench = { "test", [[{"id":5,"question":"Q?","final_answer":["$69$,$84$"],"subfield":"s","unit":null}]], "Q?", "$69$,$84$" },
  aime24 = { "test", [[{"id":60,"problem":"Q?","answer":"025","solution":"s"}]], "Q?", "25" },
  amc23 = { "test", [[{"id":0,"problem":"Q?","answer":-1.0}]], "Q?", "-1" },
  mawps = { "train", [[{"input":"Q?","target":0.3333333333,"type":"singleop","idx":3}]], "Q?", "0.3333333333" },
  asdiv = { "train", [[{"body":"He has 3 books","question":"How many?","answer":"15 (balls)","solution_type":"Addition","formula":"f","idx":65}]],
    "He has 3 books. How many?", "15" },
  svamp = { "test", [[{"Body":"If he read 6 books each week,","Question":"how long?","Answer":145.0,"Type":"T","Equation":"e","ID":"chal-1"}]],
    "If he read 6 books each week, how long?", "145" },
}

test("rows of every set", function()
  for name, row in pairs(rows) do
    file(name .. "/" .. row[1] .. ".jsonl", row[2] .. "\n")
    local d = data.load(name, { dir = dir })
    equal(#d, 1, name)
    equal(d.split_name, row[1], name .. ": split")
    equal(d[1].question, row[3], name .. ": question")
    equal(d[1].answer, row[4], name .. ": answer")
    equal(d[1].id:find("^" .. name .. "/" .. row[1] .. "/%w") ~= nil, true, name .. ": id " .. d[1].id)
  end
  local p = data.load("gsm8k", { dir = dir })[1]
  equal(p.solution, "2*500=1000.\n#### 1,000", "calculator marks are removed")
  equal(data.load("asdiv", { dir = dir })[1].unit, "balls", "unit")
  equal(data.load("olympiadbench", { dir = dir })[1].unit, nil, "null is nothing")
end)

test("the published sets", function()
  local here = pcall(data.load, "svamp", { limit = 1 })
  if not here then return "no problem sets here (TL_DATA)" end
  local expected = { gsm8k = { 7473, 1319 }, math500 = { 500 }, minerva_math = { 272 }, olympiadbench = { 675 }, aime24 = { 30 }, amc23 = { 40 },
    mawps = { 1365, 400 }, asdiv = { 1515, 400 }, svamp = { 1000 } }
  local verifier = require "verifiers.math"
  for name, counts in pairs(expected) do
    for i, split in ipairs(data.splits(name)) do
      local ok, d = pcall(data.load, name, { split = split })
      if ok then
        equal(#d, counts[i], name .. " " .. split)
        for _, p in ipairs(d) do
          equal((verifier(p, { text = "so \\boxed{" .. p.answer .. "}" })), 1, p.id .. ": its own gold " .. p.answer)
          if name == "gsm8k" then equal((verifier(p, { text = p.solution })), 1, p.id .. ": its own solution") end
        end
      end
    end
  end
end)

test("your own file", function()
  file("own.jsonl", '{"problem":"P","solution":"so \\\\boxed{7}","extra":[1]}\n\n{"prompt":"R","answer":3.0}\n{"messages":[],"gold":"x"}\n')
  local d = data.load(dir .. "/own.jsonl")
  equal(#d, 3, "lines")
  equal(d[1].question .. d[1].answer .. d[1].id, "P71", "boxed gold")
  equal(d[1].extra[1], 1, "other fields stay")
  equal(d[2].question .. d[2].answer .. d[2].id, "R33", "number")
  equal(data.load(dir .. "/own.jsonl", { limit = 2 })[2].answer, "3", "limit")
  file("bad.jsonl", '{"question":"P"}\n{"question":\n')
  raises("bad.jsonl:2: not JSON", data.load, dir .. "/bad.jsonl")
  file("bad2.jsonl", '{"text":"P"}\n')
  raises("bad2.jsonl:1: it has none of the fields question", data.load, dir .. "/bad2.jsonl")
  for _, line in ipairs { '[{"question":"P"}]', "[]", "5", "false" } do
    file("bad3.jsonl", line .. "\n")
    raises("bad3.jsonl:1: a line is one JSON object", data.load, dir .. "/bad3.jsonl")
  end
  file("gsm8k/test.jsonl", '{"question":"P","answer":5}\n')
  raises("gsm8k/test.jsonl:1: ", data.load, "gsm8k", { dir = dir, split = "test" })
end)

test("what is not there", function()
  raises("did you mean gsm8k", data.load, "gms8k")
  raises("svamp has no split 'train'; it has test", data.load, "svamp", { split = "train" })
  raises("No such file", data.load, dir .. "/none.jsonl")
  local script = dir .. "/load.lua"
  fs.write(script, [[require("tl.ffi").root = "/nowhere" require("tl").data.load("gsm8k")]])
  local p = io.popen(("TL_HOME=/nowhere TL_DATA=/nowhere '%s' '%s' 2>&1"):format(F.exe, script))
  local out = p:read("*a")
  p:close()
  equal(out:find("tlrun fetch gsm8k.*TL_DATA") ~= nil, true, "advice in " .. out)
end)

local function numbers(n)
  local list = {}
  for i = 1, n do list[i] = { id = i, question = "q" .. i, answer = tostring(i) } end
  return data.dataset(list, "numbers")
end
local function ids(list)
  local out = {}
  for i, p in ipairs(list) do out[i] = p.id end
  return table.concat(out, " ")
end

test("datasets", function()
  local d = numbers(10)
  equal(#d, 10, "length")
  equal(tostring(d), "dataset numbers: 10 problems", "text")
  equal(ids(d:take(3)), "1 2 3", "take")
  equal(#d:take(99), 10, "take more than there are")
  equal(ids(d:filter(function(p) return p.id % 5 == 0 end)), "5 10", "filter")
  equal(d:map(function(p) return { id = p.id * 2 } end)[10].id, 20, "map")
  local a, b = d:split(0.3)
  equal(ids(a) .. "|" .. ids(b), "1 2 3|4 5 6 7 8 9 10", "split")
  equal(ids(d:shuffle(1)), ids(d:shuffle(1)), "same seed")
  equal(ids(d:shuffle(1)) ~= ids(d:shuffle(2)), true, "other seed")
  local sorted = {}
  for i, p in ipairs(d:shuffle(3)) do sorted[i] = p end
  table.sort(sorted, function(x, y) return x.id < y.id end)
  equal(ids(sorted), ids(d), "a permutation")
end)

test("batches", function()
  local d = numbers(10)
  local function collect(o)
    local out = {}
    for batch, step, epoch in d:batches(o) do out[#out + 1] = ("%d:%d:%s"):format(step, epoch, ids(batch)) end
    return out
  end
  local all = collect { size = 4, epochs = 2, seed = 5 }
  equal(#all, 6, "batches")
  equal(#all, d:n_batches { size = 4, epochs = 2 }, "n_batches")
  equal(table.concat(all, ","), table.concat(collect { size = 4, epochs = 2, seed = 5 }, ","), "same seed")
  equal(all[1]:gsub("^1:1:", "") ~= all[4]:gsub("^4:2:", ""), true, "epochs differ")
  equal(table.concat(collect { size = 4, epochs = 2, seed = 5, skip = 4 }, ","), all[5] .. "," .. all[6], "skip")
  equal(collect({ size = 4, shuffle = false })[3], "3:1:9 10", "the last one is smaller")
  equal(#collect { size = 4, epochs = 3, partial = false }, 6, "or dropped")
  equal(#collect { size = 4, steps = 7 }, 7, "steps")
  local seen = {}
  for batch in d:batches { size = 3, seed = 9 } do
    for _, p in ipairs(batch) do seen[p.id] = (seen[p.id] or 0) + 1 end
  end
  for i = 1, 10 do equal(seen[i], 1, "problem " .. i .. " in an epoch") end
  raises("whole number from 1", d.batches, d, { size = 0 })
  raises("wants a size", d.batches, d, {})
  raises("do not fill", d.batches, d, { size = 11, partial = false })
end)

test("files without problems or answers", function()
  local function refuses(pattern, text, o)
    file("bare.jsonl", text)
    raises(pattern, data.load, dir .. "/bare.jsonl", o)
  end
  refuses("bare%.jsonl: there is no problem in it", "")
  refuses("bare%.jsonl: there is no problem in it", "\n\n")
  refuses("bare%.jsonl:2: it has no answer, and other lines have one: it wants one of the fields answer, target", '{"problem":"1+1?","answer":2}\n{"problem":"2+2?"}\n')
  refuses("bare%.jsonl:1: it has no answer", '{"problem":"2+2?","answer":" "}\n{"problem":"1+1?","answer":2}\n')
  refuses("bare%.jsonl:1: it has none of the fields question", '{"answer":"4"}\n')
  -- what others judge, or nobody compares with an answer, is as good as it was
  file("mixed.jsonl", '{"problem":"1+1?","answer":2}\n{"prompt":"Write","instructions":[{"id":"x"}]}\n{"prompt":"Add","tests":[]}\n')
  equal(#data.load(dir .. "/mixed.jsonl"), 3, "mixed")
  file("prompts.jsonl", '{"prompt":"Be short."}\n{"prompt":"Be brief."}\n')
  local prompts = data.load(dir .. "/prompts.jsonl", { style = "raw" })
  equal(#prompts, 2, "prompts")
  -- ... but not to a verifier that compares
  local missing = "prompts%.jsonl:1: it has no answer, and the verifier %S+ compares with one: it wants one of the fields answer"
  local model = tl.model.load "tiny-xs"
  local adapter = tl.adapter.tinylora(model, { u = 1 })
  raises(missing, tl.eval.run, { model = model, problems = prompts })
  raises(missing, tl.eval.run, { model = model, problems = prompts, verifier = "math" })
  raises(missing, tl.eval.run, { model = model, problems = prompts, verifier = "lm_eval" })
  equal(tl.eval.run({ model = model, problems = prompts, verifier = function(_, c) return #c.text < 1000 end, max_new_tokens = 4 }).accuracy, 1, "a verifier that wants no answer")
  equal(tl.eval.run({ model = model, problems = prompts, verifier = "verifiers.length", verifier_config = { limit = 100 }, max_new_tokens = 4 }).n, 2, "verifiers.length")
  for _, make in ipairs { tl.grpo.trainer, tl.es.trainer } do
    local t = make { model = model, adapter = adapter, verifier = "verifiers.math" }
    raises(missing, t.step, t, prompts)
    equal(t.steps, 0, "steps")
    raises("a step: there are no problems: the list is empty", t.step, t, {})
    raises("a step wants a list of problems; got nothing", t.step, t)
    t:free()
  end
  local pop = tl.population { model = model, verifier = "verifiers.math", members = { { seed = 1, adapter = { u = 1 } }, { seed = 2, adapter = { u = 1 } } } }
  raises(missing, pop.step, pop, prompts)
  raises("a step of member 2: there are no problems", pop.step, pop, function(k) return k == 1 and { { question = "1+1?", answer = "2" } } or {} end)
  pop:free()
  raises(missing, tl.population.rewards, tl.population.of { adapter }, prompts, { verifier = "verifiers.math" })
  local sft = tl.sft.trainer { model = model, adapter = adapter }
  raises("there are no problems: the list is empty", sft.step, sft, {})
  raises("prompts%.jsonl:1: what is learnt of a problem is a text, its solution or answer, or what `target` returns; got nothing", sft.step, sft, prompts)
  raises("eval%.run: there are no problems: the list is empty", tl.eval.run, { model = model, problems = {} })
  raises("eval%.run wants a list of problems; got nothing", tl.eval.run, { model = model })
  raises("eval%.run wants a model, as tl%.model%.load gives it; got nothing", tl.eval.run, { problems = prompts })
end)

test("a problem that cannot be asked is named", function()
  local model = tl.model.load "tiny"
  local adapter = tl.adapter.tinylora(model, { u = 1 })
  file("long.jsonl", '{"question":"1+1?","answer":"2"}\n{"question":"' .. ("1+"):rep(400) .. '1?","answer":"401"}\n')
  local long = data.load(dir .. "/long.jsonl")
  local missing = "long%.jsonl:2: the prompt has %d+ tokens; the model's context has 512"
  raises(missing, tl.eval.run, { model = model, problems = long, max_new_tokens = 4 })
  local t = tl.grpo.trainer { model = model, adapter = adapter, verifier = "verifiers.math", gate = false, max_completion_length = 4 }
  raises(missing, t.step, t, long)
  t:free()
  raises("could not be judged: .*: a problem's answer is a text or a number; got a table", tl.eval.run,
    { model = model, problems = { { question = "1+1?", answer = { "2" } } }, max_new_tokens = 4 })
end)

test("SFT cuts what is longer than max_length, and refuses what the context does not hold", function()
  local model = tl.model.load "tiny"
  equal(model.context, 512, "context")
  local prompt, target = {}, {}
  for i = 1, 500 do prompt[i], target[i] = i % 97 + 3, i % 89 + 3 end
  local function trainer(o)
    o.model, o.adapter = model, tl.adapter.tinylora(model, { u = 2, seed = 7 })
    return tl.sft.trainer(o)
  end
  local function ids(n, from, to)
    local part = {}
    for i = 1, to do part[i] = target[i] end
    return { prompt_ids = { unpack(prompt, from, n) }, completion_ids = part }
  end
  local cut, short = trainer { max_length = 40 }, trainer {}
  local m, same = cut:step { ids(30, 1, 25), ids(20, 1, 7) }, short:step { ids(30, 1, 10), ids(20, 1, 7) }
  equal(m.loss, same.loss, "loss of a text cut to 40 tokens")
  equal(m.completion_tokens, 17, "tokens learnt")
  equal(cut.adapter:v(1), short.adapter:v(1), "v")
  raises("problem 2: the prompt's 45 tokens leave none of max_length = 40 for what is to be learnt", cut.step, cut, { ids(30, 1, 3), ids(45, 1, 3) })
  raises("problem 1: 20 tokens after a prompt of 493 are more than the model's context of 512; max_length cuts what is longer", short.step, short, { ids(493, 1, 20) })
  equal(short:step({ ids(492, 1, 20) }).completion_tokens, 20, "tokens of a text that fills the context")
  equal(short.steps, 2, "steps")
  for i = 1, 13 do prompt[500 + i] = 5 end
  raises("model:logprobs: 513 token ids; the model's context has 512", model.logprobs, model, prompt)
end)

test("prompt styles", function()
  local p = { question = "100% of {question}?" }
  equal(data.style("qwen-boxed")(p)[1].content, "You are a helpful assistant.", "system")
  equal(data.style("qwen-boxed")(p)[2].content, p.question .. "\nPlease reason step by step, and put your final answer within \\boxed{}.", "qwen-boxed")
  equal(data.style("simple")(p), "Question:\n" .. p.question .. "\nAnswer:\nLet's think step by step.\n", "simple")
  equal(data.style("gsm8k-hash")(p)[1].role, "user", "gsm8k-hash")
  equal(data.style("raw")(p), p.question, "raw")
  equal(data.style("Q: {question} A:")(p), "Q: " .. p.question .. " A:", "template")
  equal(data.style(function(x) return x.question end)(p), p.question, "function")
  raises("unknown prompt style 'boxed'", data.style, "boxed")
  local d = numbers(1):style("simple"):style("qwen-boxed")
  equal(d[1].prompt, nil, "the last style counts")
  equal(#d[1].messages, 2, "messages")
end)

test("wordproblems", function()
  local d = data.load("wordproblems", { limit = 5, seed = 3, split = "test", style = "raw" })
  equal(#d, 5, "limit")
  equal(d[1].prompt, d[1].question, "style")
  equal(d[1].answer:find("^%d+$") ~= nil, true, "answer")
  equal(data.load("wordproblems", { n = 5, seed = 3, split = "test" })[1].question, d[1].question, "n and seed reach the generator")
end)

-- Catches: SFT that teaches a model with several end tokens (Llama 3: document, tool call, answer) to end an answer as a document.
test("what SFT learns ends with the tokenizer's end token, where the model stops at it", function()
  local m = tl.model.load "tiny"
  local own = m:tokenizer():eos()
  local function last()
    local _, ids = tl.sft.example_ids(m, { question = "1+1?", answer = "2" }, {})
    return ids[#ids]
  end
  equal(last(), own, "one end token")
  m.eos = { 7, own }
  equal(last(), own, "the second of two")
  m.eos = { 7, 8 }
  equal(last(), 7, "a tokenizer with another end token than the model's")
end)

os.execute("rm -rf '" .. dir .. "'")
os.exit(failed and 1 or 0)
