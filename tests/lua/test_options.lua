-- tables of options in Lua: a name that a function does not have is refused with the nearest that it has, and the names are those of its documentation
package.path = arg[0]:match "^(.*)/" .. "/?.lua;" .. package.path
local check = require "check"
local tl = require "tl"
local equal, raises, test = check.equal, check.raises, check.test
local model = tl.model.load("tiny", { dtype = "bf16" })
local problems = tl.data.load("wordproblems", { n = 4, seed = 3 })
local adapter = tl.adapter.tinylora(model, { rank = 2, u = 4 })

local function over(a, b)
  local t = {}
  for k, v in pairs(a) do t[k] = v end
  for k, v in pairs(b) do t[k] = v end
  return t
end

-- fn(o) says: `what`: there is no option `wrong`; did you mean `right`? and where it was called
local function refuses(what, wrong, right, fn, o)
  local ok, why = pcall(fn, over(o or {}, { [wrong] = 4 }))
  if ok then error(("%s took %s"):format(what, wrong), 2) end
  local text = ("%s: there is no option '%s'; %s"):format(what, wrong, right and ("did you mean '%s'?"):format(right) or "there are ")
  if not why:find(text, 1, true) or not why:find("^[^\n]*test_options%.lua:%d+: ") then error(("the error is '%s', expected '%s' with this file's line"):format(why, text), 2) end
end

test("trainers refuse an option they do not have", function()
  local with = { model = model, adapter = adapter, verifier = "verifiers.math" }
  local function grpo(o) local t = tl.grpo.trainer(o) return t end
  refuses("grpo.trainer", "learning_rate", "lr", grpo, with)
  refuses("grpo.trainer", "num_generation", "num_generations", grpo, with)
  refuses("grpo.trainer", "numgen", "num_generations", grpo, with)
  refuses("grpo.trainer", "save_steps", "checkpoint", grpo, with)
  refuses("grpo.trainer", "max_tokens", "max_completion_length", grpo, with)
  refuses("grpo.trainer", "quite_another_thing", nil, grpo, with)
  refuses("sft.trainer", "targt", "target", function(o) local t = tl.sft.trainer(o) return t end, { model = model, adapter = adapter })
  refuses("es.trainer", "member", "members", function(o) local t = tl.es.trainer(o) return t end, with)
  refuses("optim.adamw", "beta_1", "beta1", function(o) local a = tl.optim.adamw(adapter, o) return a end)
end)

test("so does a population, of its own options, its members' and the grid's", function()
  local with = { model = model, verifier = "verifiers.math", adapter = { u = 4 } }
  local function make(o) local p = tl.population.grpo(o) return p end
  refuses("population", "numgen", "num_generations", make, over(with, { grid = { lr = { 1, 2 } } }))
  refuses("population, grid", "lrr", "lr", function(o) local p = tl.population.grpo(over(with, { grid = { lrr = { o.lrr } } })) return p end)
  refuses("population, member 2", "sed", "seed", function(o) local p = tl.population.grpo(over(with, { members = { { seed = 1 }, o } })) return p end)
  refuses("population.sft", "beta", "beta1", function(o) local p = tl.population.sft(o) return p end, { model = model, members = { {} } })
  refuses("population, adapter", "ranks", "rank", function(o) local p = tl.population.grpo(over(with, { members = { {} }, adapter = o })) return p end)
  refuses("population, member 1, adapter", "r", "rank", function(o) local p = tl.population.grpo(over(with, { members = { { adapter = o } } })) return p end)
end)

test("so do adapters, models and data", function()
  local function of(kind) return function(o) local a = tl.adapter[kind](model, o) return a end end
  refuses("adapter.tinylora", "r", "rank", of "tinylora", { rank = 2 })
  refuses("adapter.tinylora", "tye", "tie", of "tinylora")
  refuses("adapter.lora", "alfa", nil, of "lora")
  refuses("adapter.lora", "lora_alpha", "alpha", of "lora")
  refuses("adapter.lora", "u", nil, of "lora")
  refuses("adapter.loraxs", "sigmas", "sigma", of "loraxs")
  refuses("adapter.full", "embedding", "embeddings", of "full")
  refuses("adapter.load", "forced", "force", function(o) local a = tl.adapter.load(model, "nowhere", o) return a end)
  refuses("adapter:save", "formt", "format", function(o) adapter:save("/nowhere/at/all", o) end)
  refuses("model.load", "dtyp", "dtype", function(o) local m = tl.model.load("tiny", o) return m end)
  refuses("model.create", "sead", "seed", function(o) local m = tl.model.create("nowhere.json", o) return m end)
  refuses("model:export", "dtyp", "dtype", function(o) model:export("/nowhere/at/all", "hf", o) end)
  refuses("data.load", "num", "n", function(o) local d = tl.data.load("wordproblems", o) return d end)
  refuses("batches", "batch_size", "size", function(o) local b = problems:batches(o) return b end)
  -- one table for every kind, and tl.budget's
  tl.adapter.create(model, "lora", { kind = "lora", rank = 1, u = 4, tie = "none" }):free()
  tl.adapter.tinylora(model, tl.budget { model = model, params = 20, rank = 2 }):free()
end)

test("so do sampling, evaluation and landscapes", function()
  local ids = { 1, 2, 3 }
  refuses("sample.sampler", "max_sequence", "max_sequences", function(o) local s = tl.sample.sampler(model, o) return s end)
  refuses("sample.generate", "max_tokens", "max_new_tokens", function(o) local out = tl.sample.generate(model, { ids }, o) return out end)
  refuses("sample.stream", "temprature", "temperature", function(o) local c = tl.sample.stream(model, ids, print, o) return c end)
  local s = tl.sample.sampler(model)
  refuses("sampler:submit", "topp", "top_p", function(o) s:submit(ids, 1, 0, o) end)
  equal(s.pending, 0)
  s:free()
  refuses("eval.run", "max_tokens", "max_new_tokens", function(o) local r = tl.eval.run(o) return r end, { model = model, problems = problems })
  refuses("eval.greedy_and_sampled", "headlines", "headline", function(o) local r = tl.eval.greedy_and_sampled(o) return r end, { model = model, problems = problems })
  refuses("population.rewards", "max_tokens", "max_new_tokens", function(o) local r = tl.population.rewards(tl.population.of { adapter }, problems, o) return r end)
  refuses("landscape", "metrics", "metric", function(o) local l = tl.landscape.run(o) return l end, { adapter = adapter, problems = problems })
  refuses("fisher", "max_tokens", "max_new_tokens", function(o) local f = tl.fisher.run(o) return f end, { adapter = adapter, problems = problems })
end)

test("what is no number, or no table of options, is said to be none", function()
  raises("data%.load: seed wants a whole number from 0; got 'a'", tl.data.load, "wordproblems", { seed = "a" })
  raises("model%.load wants a table of options; got a string", tl.model.load, "tiny", "bf16")
  raises("grpo%.trainer wants a table of options; got nothing", tl.grpo.trainer)
  raises("grpo%.trainer: temperature wants a number; got 'hot'", tl.grpo.trainer, { model = model, adapter = adapter, verifier = "verifiers.math", temperature = "hot" })
  raises("grpo%.trainer: max_grad_norm wants a number from 0; got nan", tl.grpo.trainer, { model = model, adapter = adapter, verifier = "verifiers.math", max_grad_norm = 0 / 0 })
  for _, n in ipairs { 1, 0 } do
    raises("grpo%.trainer: num_generations wants a whole number from 2; got " .. n, tl.grpo.trainer, { model = model, adapter = adapter, verifier = "verifiers.math", num_generations = n })
  end
end)

test("what is no model, adapter, verifier or problem is one clear line", function()
  local function grpo(o) return tl.grpo.trainer(over({ model = model, adapter = adapter, verifier = "verifiers.math", num_generations = 2, max_completion_length = 4 }, o)) end
  raises("grpo%.trainer wants a model, as tl%.model%.load gives it; got 'tiny'", grpo, { model = "tiny" })
  for what, make in pairs { ["grpo.trainer"] = grpo, ["sft.trainer"] = function(o) return tl.sft.trainer(over({ model = model }, o)) end,
    ["es.trainer"] = function(o) return tl.es.trainer(over({ model = model, verifier = "math" }, o)) end } do
    raises(what:gsub("%.", "%%.") .. " wants an adapter, as tl%.adapter%.tinylora gives it; got a table", make, { adapter = { u = 4 } })
  end
  raises("eval%.run wants an adapter", tl.eval.run, { model = model, problems = problems, adapter = "x" })
  raises("a sampler wants an adapter", tl.sample.sampler, model, { adapter = {} })
  raises("an adapter wants a model", tl.adapter.tinylora, "tiny")
  raises("members 1 and 3 have the same adapter; each trains one of its own", tl.population, { model = model, verifier = "math",
    members = { { adapter = adapter }, { adapter = adapter:clone() }, { adapter = adapter } } })
  raises("test_options%.lua:%d+: lr is a finite number from 0 .*; got 'x'", function() tl.population { model = model, verifier = "math", members = { { lr = "x" } } } end)
  raises("population: members wants a table; got 3", tl.population, { model = model, verifier = "math", members = 3 })
  local several = "wants a verifier or a reward: .* got a table%. Several are joined by one: verifier = \"verifiers%.combine\""
  raises("grpo%.trainer " .. several, grpo, { verifier = { "a", "b" } })
  raises("es%.trainer " .. several, tl.es.trainer, { model = model, adapter = adapter, reward = { print } })
  raises("eval%.run " .. several, tl.eval.run, { model = model, problems = problems, verifier = { "a" } })
  raises("population " .. several, tl.population, { model = model, verifier = { "a" }, members = { {} } })
  raises("grpo%.trainer wants a verifier or a reward: .* got nothing", tl.grpo.trainer, { model = model, adapter = adapter })
  local t = grpo { gate = false }
  raises("problem 1 is a table of fields, such as { question =, answer = }; got a string", t.step, t, { "2+2?" })
  t:free()
  t = grpo { gate = false, prompt = 5 }
  raises("prompt is a function", t.step, t, problems)
  t:free()
  raises("stop wants a text or a list of texts; got 5", tl.sample.generate, model, { { 1, 2 } }, { stop = 5 })
  raises("stop wants a text or a list of texts; got a list with something else", tl.sample.generate, model, { { 1, 2 } }, { stop = { 5 } })
  raises("the sampler wants a list of token ids; got 1", tl.sample.generate, model, { 1, 2 })
  raises("got 'x' for number 2", adapter.set, adapter, { 0, "x", 0, 0 })
  raises("data%.load: n wants a whole number from 0; got %-1", tl.data.load, "wordproblems", { n = -1 })
end)

test("what a trainer would pass over in silence is refused", function()
  local function grpo(o) return tl.grpo.trainer(over({ model = model, adapter = adapter, verifier = "verifiers.math", num_generations = 2, max_completion_length = 4, gate = false }, o)) end
  raises("test_options%.lua:%d+: grpo%.trainer wants a verifier or a reward, and got both", function() grpo { reward = print } end)
  raises("population wants a verifier or a reward, and got both", tl.population, { model = model, verifier = "math", reward = print, members = { {} } })
  raises("population%.rewards wants a verifier or a reward, and got both", tl.landscape, { adapter = adapter, problems = problems, verifier = "math", reward = print, n = 1 })
  for _, name in ipairs { "delta", "is_min", "is_max", "max_grad_norm" } do raises("grpo%.trainer: " .. name .. " wants a number from 0; got %-1", grpo, { [name] = -1 }) end
  raises("grpo%.trainer: is_min is 5, more than is_max, 3", grpo, { rollouts = "int8", is_min = 5 })
  raises("lr is a finite number from 0 or a function .*; got %-0.1", grpo, { lr = -0.1 })
  for _, make in ipairs { grpo, function(o) return tl.sft.trainer(over({ model = model, adapter = adapter }, o)) end } do
    raises("trainer: checkpoint = 2 wants run, in whose folder it is written", make, { checkpoint = 2 })
    raises("trainer: run is a tl%.report%.run; got 'x'", make, { run = "x" })
    raises("trainer: resume is a run's folder; got 5", make, { resume = 5 })
  end
  raises("grpo%.trainer: progress wants a function; got 5", grpo, { progress = 5 })
  raises("on_error is one of drop, fail, zero, or a table of them; got 5", grpo, { on_error = 5 })
  raises("es: seed is 137438953472; it is at most 2^37 %- 1", tl.es.trainer, { model = model, adapter = adapter, verifier = "math", seed = 2 ^ 37 })
  local t = grpo { lr = function(step) return 0.01 - step end }
  raises("lr: the schedule gave %-0.99 for step 1; wanted a finite number from 0", t.step, t, problems)
  t:free()
  raises("test_options%.lua:%d+: this verifier pool was freed", function() t:step(problems) end)
  -- a prompt that cannot be made is said of its problem
  for pattern, prompt in pairs { ["problem 2: there are no messages"] = {}, ["problem 2: .*a message is a table .*got string"] = { "x" }, ["problem 2: the prompt of a problem is messages .*; got nothing"] = false } do
    t = grpo { prompt = function(p) return p ~= problems[2] and p.question or prompt or nil end }
    raises("^" .. pattern, t.step, t, problems)
    t:free()
  end
end)

-- would catch: problems that a split loses, an accuracy of no samples, a method that is another one's, an endless loop over a code without an end
test("data, evaluation, landscapes, budgets and bits refuse what they would get wrong", function()
  for name, v in pairs { take = -1, split = 2.5, shuffle = 1.5 } do
    raises("test_options%.lua:%d+: " .. name .. " wants a whole number from 0; got " .. (tostring(v):gsub("%p", "%%%0")), function() problems[name](problems, v) end)
  end
  raises("filter wants a function of a problem; got nothing", problems.filter, problems)
  raises("data%.dataset wants a list of problems; got 5", tl.data.dataset, 5)
  local a, b = problems:split(0.5)
  equal({ #a, #b, problems:n_batches { size = 2, epochs = 1.25 } }, { 2, 2, 3 })
  raises("batches: epochs wants a number from 0; got %-1", problems.batches, problems, { size = 2, epochs = -1 })
  raises("test_options%.lua:%d+: wordproblems: split is \"dev\"", function() tl.data.load("wordproblems", { n = 1, split = "dev" }) end)
  raises("test_options%.lua:%d+: puzzles: split is \"dev\"", function() tl.data.load("puzzles:chain", { n = 1, split = "dev" }) end)
  raises("puzzles: difficulty is a number or { low, high }; got hard", tl.data.load, "puzzles:chain", { n = 1, difficulty = "hard" })
  local function eval(o) return tl.eval.run(over({ model = model, problems = problems, max_new_tokens = 4 }, o)) end
  raises("eval%.run: samples wants a whole number from 1; got 0", eval, { samples = 0 })
  raises("eval%.run: verifier_config wants a table; got 5", eval, { verifier_config = 5 })
  raises("eval%.run: progress wants a function; got 5", eval, { progress = 5 })
  raises("problem 1: lengths gives nothing; wanted the lengths of its 1 samples", eval, { lengths = function() end })
  local function landscape(o) return tl.landscape(over({ adapter = adapter, problems = problems, n = 2, metric = "loss" }, o)) end
  for shown, n in pairs { ["0"] = 0, ["2%.5"] = 2.5, ["'x'"] = "x", nothing = { 3 } } do raises("test_options%.lua:%d+: landscape: n is .*; got " .. shown, function() landscape { n = n } end) end
  raises("landscape: x_range is { from, to }; got 5", landscape, { range = 5 })
  raises("landscape: x_range is { from, to }; got something else", landscape, { x_range = { 0 / 0, 1 } })
  raises("landscape: origin is a list of 4 numbers", landscape, { origin = { 1 } })
  raises("landscape: number 1 of y is 'a'", landscape, { y = { "a", 1, 2, 3 } })
  raises("problem 1: what is learnt of a problem is a text, .*; got nothing", landscape, { problems = { { question = "x" } } })
  raises("fisher wants a list of problems; got a number", tl.fisher, { adapter = adapter, problems = 5 })
  raises("tl%.budget: there is no option 'ranks'; did you mean 'rank'%?", tl.budget, { params = 13, modules = 42, ranks = 3 })
  raises("tl%.budget wants modules and rank from 1; got 0 and 2", tl.budget, { params = 13, modules = 0 })
  raises("tl%.budget wants a model, .*; got 5", tl.budget, { params = 13, model = 5 })
  raises("unknown format 'nope'", tl.rounding.bytes, "nope", 3)
  raises("rounding%.codec: seed is a whole number from 0; got x", tl.rounding.codec, "bf16", "stochastic", "x")
  raises("information%.gradients: method is \"grpo\" or \"sft\"; got 'dpo'", tl.information.gradients, { model = model, adapter = adapter, problems = problems, epochs = 1, method = "dpo" })
  raises("information%.universal wants a whole number from 1; got inf", tl.information.universal, math.huge)
  raises("information%.description wants a step above 0; got 0", tl.information.description, { 1 }, 0)
  raises("number 2 of the list is %-?nan, in steps of 1", tl.information.description, { 1, 0 / 0 }, 1)
  local t = tl.sft.trainer { model = model, adapter = adapter, eos = false, target = function(p) return p == problems[3] and "" or "hi" end }
  raises("^problem 3: a completion needs at least one token$", t.step, t, problems)
  t:free()
  raises("es%.trainer: run is a tl%.report%.run; got 5", tl.es.trainer, { model = model, adapter = adapter, verifier = "math", run = 5 })
end)

test("what is no objective, no group key and no name for a verifier's file", function()
  raises("grpo%.trainer: objective wants a function; got 'dapo'", tl.grpo.trainer, { model = model, adapter = adapter, verifier = "verifiers.math", objective = "dapo" })
  raises("the tying function returned nan for model%.layers%.0%.self_attn%.q_proj", tl.adapter.tinylora, model, { tie = function() return math.huge - math.huge end })
  local folder = os.tmpname()
  os.remove(folder)
  tl.fs.mkdirs(folder)
  tl.fs.write(folder .. "/lpeg.lua", "return function() return 1 end")
  raises("lpeg%.lua: the name 'lpeg' is taken", tl.verify.pool, { verifier = folder .. "/lpeg.lua" })
  os.execute("rm -r " .. folder)
end)

-- would catch: an object of another class in C's hands (LuaJIT's cast error), and a table or a text taken for "no adapter"
test("what is an object of another class says so, at the line of the script", function()
  local ids, set, other = { 1, 2, 3 }, tl.population.of { adapter }, tl.adapter.tinylora(model, { u = 4 })
  local s = tl.sample.sampler(model)
  local function said(pattern, fn)
    local ok, why = pcall(fn)
    if ok or not why:find("^[^\n]*test_options%.lua:%d+: ") or not why:find(pattern) then error(("found '%s', expected '%s' with this file's line"):format(tostring(why), pattern), 2) end
  end
  for shown, x in pairs { ["a model"] = model, ["a population"] = set, ["a table"] = {}, ["'x'"] = "x", ["true"] = true } do
    local wants = " wants an adapter, as tl%.adapter%.tinylora gives it; got " .. shown .. "$"
    said("adapter:compare" .. wants, function() adapter:compare(x) end)
    said("model:logprobs" .. wants, function() model:logprobs(ids, x) end)
    said("model:logits" .. wants, function() model:logits(ids, x) end)
    said("model:merge" .. wants, function() model:merge(x) end)
    said("model:save" .. wants, function() model:save("/nowhere/m", { adapter = x }) end)
    said("model:export" .. wants, function() model:export("/nowhere/m", "hf", { adapter = x }) end)
    said("interpolate" .. wants, function() tl.adapter.interpolate(adapter, x, 0.5) end)
    said("interpolate" .. wants, function() tl.adapter.interpolate(x, adapter, 0.5) end)
    said("an adapter's basis" .. wants, function() tl.adapter.tinylora(model, { basis = x }):free() end)
    said("population.of" .. wants, function() tl.population.of { other, x } end)
    said("optim.adamw" .. wants, function() tl.optim.adamw(x) end)
    said("grpo.trainer" .. wants, function() tl.grpo.trainer { model = model, adapter = x, verifier = "math" } end)
    said("pass.create" .. wants, function() tl.information.code_length(model, problems, { adapter = x }) end)
    said("fisher.gradients" .. wants, function() tl.fisher.gradients(x, { { prompt_ids = ids, completion_ids = ids } }) end)
  end
  said("adapter:compare wants an adapter, .*; got nothing", function() adapter:compare() end)
  said("grpo.trainer wants a model, .*; got an adapter", function() tl.grpo.trainer { model = adapter, adapter = adapter, verifier = "math" } end)
  said("an adapter wants a model, .*; got an adapter", function() tl.adapter.tinylora(adapter):free() end)
  said("a sampler wants a population, .*; got an adapter", function() tl.sample.sampler(model, { population = adapter }) end)
  said("a sampler wants room for activations, as tl%.sample%.kept gives it; got 100", function() tl.sample.sampler(model, { kept = 100 }) end)
  said("sampler:set_population wants a population, .*; got an adapter", function() s:set_population(adapter) end)
  said("landscape: x wants an adapter, .*; got a model", function() tl.landscape { adapter = adapter, problems = problems, x = model, n = 2 } end)
  said("a member's adapter wants an adapter, .*; got a model", function() tl.population { model = model, verifier = "math", members = { { adapter = model } } } end)
  equal(model:logprobs(ids, nil), model:logprobs(ids, false))
  s:free()
end)

-- would catch: numbers that C gets cut (2.7 as 2, 2^32 + 2 as 2, -1 as 2^64 - 1), and LuaJIT's conversion errors
test("numbers that are none, or not whole, or too large", function()
  local ids, x, s = { 1, 2, 3 }, tl.tensor.zeros(3, 4), tl.sample.sampler(model)
  local whole = " wants a whole number from 0; got "
  for name, o in pairs { rank = { 2.7, -1 }, u = { 1.5 }, seed = { -1, 1.5 } } do
    for _, v in ipairs(o) do raises("adapter%.tinylora: " .. name .. whole .. (tostring(v):gsub("%p", "%%%0")), tl.adapter.tinylora, model, { [name] = v }) end
  end
  raises("rank wants a whole number from 0 to 2147483647; got 4294967298", tl.adapter.tinylora, model, { rank = 2 ^ 32 + 2 })
  raises("sample%.sampler: max_sequences" .. whole .. "2%.5", tl.sample.sampler, model, { max_sequences = 2.5 })
  raises("sample%.sampler: memory wants a number of bytes from 0; got %-5", tl.sample.sampler, model, { memory = -5 })
  raises("sample%.sampler: prefix_cache wants true or false; got 'no'", tl.sample.sampler, model, { prefix_cache = "no" })
  raises("sampler:submit: seed" .. whole .. "%-1", s.submit, s, ids, 1, 0, { seed = -1 })
  raises("sampler:submit: max_new_tokens wants a whole number from 0 to 2147483647; got 4294967300", s.submit, s, ids, 1, 0, { max_new_tokens = 2 ^ 32 + 4 })
  raises("the sampler wants a whole number as n; got 1%.5", s.submit, s, ids, 1.5)
  raises("the sampler wants a whole number as sequence_id; got 'a'", s.submit, s, ids, 1, "a")
  raises("sampler:run wants a number of steps; got 'x'", s.run, s, "x")
  equal(s.pending, 0)
  raises("grpo%.trainer: num_iterations" .. whole .. "1%.5", tl.grpo.trainer, { model = model, adapter = adapter, verifier = "math", num_iterations = 1.5 })
  raises("batches: skip" .. whole .. "%-3", problems.batches, problems, { size = 2, skip = -3 })
  raises("data%.load: seed" .. whole .. "0%.5", tl.data.load, "wordproblems", { seed = 0.5 })
  for _, fn in ipairs { "logprobs", "logits" } do
    raises("model:" .. fn .. " wants a list of token ids; got 'abc'", model[fn], model, "abc")
    raises("model:" .. fn .. ": token id 2 of 3 is 2%.5, not a whole number", model[fn], model, { 1, 2.5, 3 })
    raises("model:" .. fn .. ": token id 3 of 3 is 'a', not a whole number", model[fn], model, { 1, 2, "a" })
  end
  raises("decode: token id 1 of 1 is 'x', not a whole number", model:tokenizer().decode, model:tokenizer(), { "x" })
  for shown, t in pairs { ["'hot'"] = "hot", ["%-1"] = -1, ["0"] = 0, ["nan"] = 0 / 0 } do raises("temperature above 0; got " .. shown, model.logprobs, model, ids, nil, t) end
  raises("an adapter's numbers are finite numbers; got 'x' for number 2", adapter.v, adapter, 2, "x")
  raises("finite numbers; got inf for number 1", adapter.set, adapter, math.huge)
  raises("there is no module a table: 0 to 41", adapter.delta, adapter, {})
  raises("targets is a text, a list of texts or a function of a module; got 5", tl.adapter.tinylora, model, { targets = 5 })
  raises("cache is a folder, or false for none; got 5", tl.adapter.tinylora, model, { cache = 5 })
  raises("device is \"cpu\", \"cuda\" or \"cuda:1\"; got 5", tl.model.load, "tiny", { device = 5 })
  raises("sample%.generate wants a list of prompts, .*; got 'abc'", tl.sample.generate, model, "abc")
  raises("fill wants a number; got 'x'", x.fill, x, "x")
  raises("tensor%.full wants a number; got 'x'", tl.tensor.full, "x", 3)
  raises("set wants a number; got 'x'", x.set, x, 1, 1, "x")
  raises("scale wants a number; got nothing", x.scale, x)
  raises("an index wants a whole number; got 1%.5", x.get, x, 1.5, 2)
  raises("slice wants a whole number; got 'a'", x.slice, x, "a", 1, 2)
  equal(x[1.5], nil)
  s:free()
end)

-- would catch: a method that gives C no handle
test("what was freed says so", function()
  local m = tl.model.load "tiny"
  local a, s, x = tl.adapter.tinylora(m, { u = 4 }), tl.sample.sampler(m, {}), tl.tensor.zeros(2, 2)
  local set = tl.population.of { tl.adapter.tinylora(m, { u = 4 }) }
  for _, v in ipairs { x, s, set, a, m } do
    v:free()
    v:free()
  end
  equal(tostring(x), "tensor (freed)")
  raises("test_options%.lua:%d+: this tensor was freed", function() return x[1] end)
  raises("this tensor was freed", function() return x + 1 end)
  raises("this tensor was freed", x.matmul, tl.tensor.zeros(2, 2), x)
  raises("this sampler was freed", s.submit, s, { 1 }, 1, 0)
  raises("this sampler was freed", s.run, s, 1)
  raises("wants a population, as tl%.population%.of gives it; got one that was freed", tl.sample.sampler, model, { population = set })
  raises("this adapter was freed", a.v, a)
  raises("this adapter was freed", a.save, a, "/nowhere/a")
  raises("got one that was freed", tl.population.of, { a })
  raises("this model was freed", m.logprobs, m, { 1, 2 })
  raises("got one that was freed", tl.adapter.tinylora, m)
  raises("model:logprobs wants an adapter, .*; got one that was freed", model.logprobs, model, { 1, 2 }, a)
end)

-- would catch: a backward pass over int8 weights, which ended the program
test("an int8 model is not trained", function()
  local int8 = model:quantize()
  for _, t in ipairs { tl.sft.trainer { model = int8, adapter = adapter }, tl.grpo.trainer { model = int8, adapter = adapter, gate = false, reward = function(_, c) return #c.text % 3 end,
    num_generations = 4, max_completion_length = 8, beta = 0.1 } } do
    raises("an int8 model is to sample from and cannot be trained", t.step, t, problems)
    t:free()
  end
  int8:free()
end)

-- would catch: what C would index with -1 or read as NULL, which ended the program
test("what the parts underneath cannot take", function()
  local tok, batch, s = model:tokenizer(), tl.pass.batch(), tl.sample.sampler(model)
  raises("a completion follows its prompt; the batch has none yet", batch.completion, batch, { 1 })
  raises("batch:member wants a member, a whole number; got 'x'", batch.member, batch, "x")
  raises("tokenizer:id wants a token's text; got nothing", tok.id, tok)
  for _, name in ipairs { "bytes", "token", "is_special" } do raises("tokenizer:" .. name .. " wants a token id, a whole number; got nothing", tok[name], tok) end
  raises("tokenizer:chat_template wants a name; got 5", tok.chat_template, tok, 5)
  refuses("tokenizer:encode", "add_specials", "add_special", function(o) local ids = tok:encode("x", o) return ids end)
  refuses("tokenizer:decode", "skip_specials", "skip_special", function(o) local text = tok:decode({ 1 }, o) return text end)
  raises("sampler:peek wants a request, a whole number; got 'x'", s.peek, s, "x")
  raises("sampler:cancel wants a request, a whole number; got nothing", s.cancel, s)
  raises("sample%.kept wants a number of bytes from 0; got %-1", tl.sample.kept, -1)
  raises("sample%.stream wants show, a function of a text; got nothing", tl.sample.stream, model, { 1, 2 })
  refuses("verify.pool", "worker", "workers", function(o) local p = tl.verify.pool(o) return p end, { verifier = "math" })
  raises("verify%.pool wants a table of options; got nothing", tl.verify.pool)
  equal(tl.pass.logprobs(model, batch)[0], 0)
  s:free()
end)

-- would catch: descriptions that belong to the model in the hands of a script, which sorts or changes them
test("the list of modules is the script's own", function()
  table.sort(model:modules(), function(x, y) return x.index > y.index end)
  local changing = tl.adapter.tinylora(model, { u = 1, tie = function(m) m.index, m.layer = 0, 7 return m.kind end })
  equal({ changing.n_parameters, model:modules()[1].index, model:modules()[8].layer }, { 7, 0, 1 })
  equal(model:weight(41).shape, { model:modules()[42].out, model:modules()[42]["in"] })
end)

-- would catch: a path that C reads as NULL (which ended the program), or a number as one
test("runs, optimisers and files say what they cannot take", function()
  local adamw, run = tl.optim.adamw(adapter), tl.report.run { out = os.tmpname() .. "-run", quiet = true }
  raises("adamw:save wants a path; got nothing", adamw.save, adamw)
  raises("adamw:load wants a path; got a table", adamw.load, adamw, {})
  raises("adamw:step wants a learning rate, a finite number from 0; got nothing", adamw.step, adamw)
  for _, name in ipairs { "kind", "bytes", "stamp", "mkdirs", "sha256", "symlink" } do raises("fs%." .. name .. " wants a path; got nothing", tl.fs[name]) end
  raises("fs%.write wants a text; got nothing", tl.fs.write, "/nowhere/x")
  raises("model%.inspect wants a path; got nothing", tl.model.inspect)
  raises("model%.create wants a path; got 5", function() tl.model.create(5) end)
  for _, name in ipairs { "keygen", "sign", "verify", "describe" } do raises("artifact%." .. name .. " wants a path; got nothing", tl.artifact[name]) end
  raises("report%.run: out is a text; got 5", tl.report.run, { out = 5 })
  raises("report%.run: completions is a whole number from 0, or \"all\"; got 'many'", tl.report.run, { completions = "many" })
  raises("run:step wants a table of metrics; got nothing", run.step, run)
  raises("run:step: step is a number; got 'x'", run.step, run, { step = "x" })
  raises("run:scalars wants a name, a table of numbers and a step; got 'eval', 5 and nothing", run.scalars, run, "eval", 5)
  run:finish()
  raises("run:step: this run was finished", run.step, run, { loss = 1 })
  raises("adapter:save: provenance wants a table; got 5", adapter.save, adapter, run:file "a", { provenance = 5 })
  tl.process.run { argv = { "rm", "-rf", run.path } }
end)

-- would catch: a path that C reads as NULL
test("what is no path is one clear line", function()
  raises("model:save wants a path; got nothing", model.save, model)
  raises("model:export wants a path; got nothing", model.export, model, nil, "hf")
  raises("model:export wants a format, \"hf\" or \"gguf\"; got nil", model.export, model, "/nowhere/m")
  raises("adapter:save wants a path; got nothing", adapter.save, adapter)
  raises("adapter:save_gguf wants a path; got a table", adapter.save_gguf, adapter, {})
  raises("adapter%.load wants a path; got nothing", tl.adapter.load, model)
  raises("fs%.list wants a path; got nothing", tl.fs.list)
  raises("fs%.write wants a path; got nothing", tl.fs.write, nil, "x")
  raises("fs%.read wants a path; got nothing", tl.fs.read)
  raises("json%.save wants a path; got nothing", tl.json.save, nil, {})
end)

test("a learning rate that is none, or much too high", function()
  for rate, said in pairs { x = "'x'", [0 / 1] = false, [math.huge] = "inf" } do
    local t = tl.sft.trainer { model = model, adapter = tl.adapter.tinylora(model, { u = 2 }), lr = function() return rate end }
    if said then
      raises("lr: the schedule gave " .. said .. " for step 1; wanted a finite number from 0", t.step, t, problems)
      equal(t.steps, 0)
    else
      t:step(problems)
    end
  end
  -- a schedule that ends with the training is one, also where a checkpoint asks for the step after
  local dir = os.tmpname()
  os.remove(dir)
  local run = tl.report.run { name = "t", out = dir, quiet = true, completions = 0 }
  local last = tl.sft.trainer { model = model, adapter = tl.adapter.tinylora(model, { u = 2 }), lr = function(step) return ({ 1e-2, 1e-3 })[step] end, run = run, checkpoint = 1 }
  last:step(problems)
  equal(last:step(problems).learning_rate, 1e-3)
  raises("lr: the schedule gave nil for step 3", last.step, last, problems)
  tl.process.run { argv = { "rm", "-rf", dir } }
  for _, name in ipairs { "cosine", "linear" } do
    local t = tl.sft.trainer { model = model, adapter = tl.adapter.tinylora(model, { u = 2 }), lr = tl.optim[name](1e-2, 0) }
    raises("optim%." .. name .. " ends at the last step: give the trainer total_steps", t.step, t, problems)
  end
  raises("lr is a finite number from 0 or a function %(step, total%) %-> number; got inf", tl.sft.trainer, { model = model, adapter = adapter, lr = math.huge })
  local grpo = tl.grpo.trainer { model = model, adapter = adapter, reward = function() return 1 end, gate = false, num_generations = 2, max_completion_length = 2, lr = function() end }
  raises("lr: the schedule gave nil for step 1", grpo.step, grpo, problems)
  grpo:free()
  local log, said = require "tl.log", {}
  local warn = log.warn
  log.warn = function(...) said[#said + 1] = string.format(...) end
  local ok, why = pcall(function()
    local t = tl.sft.trainer { model = model, adapter = tl.adapter.tinylora(model, { u = 2 }), lr = 1e7 }
    for _ = 1, 3 do t:step(problems) end
  end)
  log.warn = warn
  equal(#said, 1, table.concat(said, " / ") .. " " .. tostring(why))
  equal(said[1]:find "^the adapter has numbers as large as 1e%+07 after an update with learning rate 1e%+07: it is too high" ~= nil, true, said[1])
  equal(ok or why:find "not finite" ~= nil or why:find "nothing was changed" ~= nil, true, tostring(why))
end)

test("so do runs, generators of problems, tensors, probes and the counting of bits", function()
  refuses("report.run", "completion", "completions", function(o) local r = tl.report.run(o) return r end)
  refuses("puzzles.generate", "dificulty", "difficulty", function(o) local r = tl.puzzles.generate("countdown", o) return r end)
  refuses("wordproblems.generate", "num", "n", function(o) local r = tl.wordproblems.generate(o) return r end)
  refuses("wordproblems.corpus", "step", "steps", function(o) local r = tl.wordproblems.corpus(o) return r end)
  refuses("tensor.zeros", "dtyp", "dtype", function(o) local r = tl.tensor.zeros(2, 2, o) return r end)
  refuses("tensor.normal", "stdd", "std", function(o) local r = tl.tensor.normal(2, 2, o) return r end)
  refuses("tensor.uniform", "hight", "high", function(o) local r = tl.tensor.uniform(2, 2, o) return r end)
  raises("tensor%.zeros wants the dims of a shape and a table of options; got bf16", tl.tensor.zeros, 2, 2, "bf16")
  local with = { model = model, adapter = adapter, problems = problems, verifier = "verifiers.math" }
  for _, name in ipairs { "reach", "divergence", "scale", "transfer", "control", "length" } do
    refuses("probe." .. name, "max_new_token", "max_new_tokens", function(o) local r = tl.probe[name](o) return r end, with)
  end
  raises("probe%.scale: scales wants a table; got 5", tl.probe.scale, over(with, { scales = 5 }))
  raises("probe%.scale: scales is a list of finite numbers; got 'x' in it", tl.probe.scale, over(with, { scales = { "x" } }))
  raises("test_options%.lua:%d+: eval%.run: samples wants a whole number from 1; got 0", function() tl.probe.reach(over(with, { k = 0 })) end)
  raises("probe%.reach wants an adapter", tl.probe.reach, { model = model, problems = problems })
  raises("probe%.control wants fresh, a function that makes an adapter; got nil", tl.probe.control, with)
  refuses("information.code_length", "targt", "target", function(o) local r = tl.information.code_length(model, problems, o) return r end)
  refuses("information.two_part", "searh", "search", function(o) local r = tl.information.two_part(model, adapter, problems, o) return r end)
  refuses("information.gradients", "epoch", "epochs", function(o) local r = tl.information.gradients(o) return r end, { model = model, adapter = adapter, problems = problems })
end)

-- the comment above a function, from its source
local function doc(module, head)
  local path, lines, found = package.searchpath("tl." .. module, package.path), {}, nil
  for line in io.lines(path) do
    if line:find(head, 1, true) == 1 then found = table.concat(lines, "\n") break end
    if line:find "^%-%-%-" then lines[#lines + 1] = line else lines = {} end
  end
  return found or error(("there is no '%s' in %s"):format(head, path))
end

test("every option is in its function's documentation", function()
  local function documented(known, ...)
    local text = table.concat({ ... }, "\n")
    for _, name in ipairs(known.list) do
      if not (" " .. text .. " "):find("[^%w_]" .. name .. "[^%w_]") then error(("'%s' is an option, and not in the comment"):format(name), 2) end
    end
  end
  documented(tl.grpo.OPTIONS, doc("grpo", "function grpo.trainer("))
  documented(tl.sft.OPTIONS, doc("sft", "function sft.trainer("))
  documented(tl.eval.OPTIONS, doc("eval", "function eval.run("))
  documented(tl.sample.SETTINGS, doc("sample", "function Sampler:submit("))
  documented(tl.sample.OPTIONS, doc("sample", "function sample.sampler("))
  local of = { { tl.es.trainer, "es", "function es.trainer(" }, { tl.landscape.run, "landscape", "function landscape.run(" },
    { tl.population.rewards, "population", "function population.rewards(" }, { tl.pass.create, "pass", "function pass.create(" }, { tl.fisher.run, "fisher", "function fisher.run(" },
    { tl.data.load, "data", "function data.load(" }, { tl.model.load, "model", "function model.load(" }, { tl.adapter.loraxs, "adapter", "function adapter.loraxs(" },
    { tl.adapter.lora, "adapter", "function adapter.lora(" }, { tl.adapter.full, "adapter", "function adapter.full(" },
    { tl.report.run, "report", "function report.run(" }, { tl.puzzles.generate, "puzzles", "function puzzles.generate(" },
    { tl.budget.of, "budget", "function budget.of(" }, { tl.experiment.run, "experiment", "function experiment.run(" } }
  for _, f in ipairs(of) do
    local known
    for i = 1, 60 do
      local _, value = debug.getupvalue(f[1], i)
      if type(value) == "table" and type(rawget(value, "kind")) == "table" and value.list then known = value end
    end
    documented(known or error("no names beside " .. f[3]), doc(f[2], f[3]))
  end
end)

-- would catch: a public function or a method of which `? name` at the prompt shows the head alone
test("every public function and method has a help text", function()
  local repl, bare, out = require "tl.repl", {}, os.tmpname()
  os.remove(out)
  local function look(name, functions)
    for k, v in pairs(functions) do
      if type(v) == "function" and not tostring(k):find "^__" and debug.getinfo(v, "S").linedefined > 0 then
        local text = repl.help(name .. "." .. k)
        if select(2, text:gsub("\n", "")) < 2 or text:find "^function" or text:find "^local" then bare[#bare + 1] = name .. "." .. k end
      end
    end
  end
  _G.tl = tl
  for _, file in ipairs(tl.fs.list(tl.root .. "/lua/tl")) do
    local part = file:match "^([%w_]+)%.lua$"
    if part and part ~= "init" and type(tl[part]) == "table" then look("tl." .. part, tl[part]) end
  end
  local with = { model = model, adapter = adapter, verifier = "math" }
  local objects = { model, adapter, model:tokenizer(), model:tokenizer():stream(), tl.sample.sampler(model), tl.sample.kept(2 ^ 20), tl.pass.batch(), problems, tl.tensor.zeros(2), tl.optim.adamw(adapter),
    tl.grpo.trainer(with), tl.es.trainer(with), tl.sft.trainer { model = model, adapter = adapter }, tl.verify.pool { verifier = "math" }, tl.report.run { out = out, quiet = true },
    tl.population { model = model, verifier = "math", members = { {} } }, tl.population.sft { model = model, members = { {} } }, tl.population.of { adapter },
    tl.landscape { adapter = adapter, problems = problems, n = 1, metric = "loss" }, require "tl.experiment.store".open(out .. "/s.db") }
  for i, x in ipairs(objects) do
    _G.x = x
    local mt = getmetatable(x)
    look("x", rawget(mt, "__methods") or rawget(mt, "__index"))
    if bare[#bare] and bare[#bare]:find "^x%." then bare[#bare] = bare[#bare] .. " of object " .. i end
  end
  _G.x, _G.tl = nil, nil
  tl.process.run { argv = { "rm", "-rf", out } }
  equal(table.concat(bare, " "), "")
  equal(repl.help("require 'tl.experiment'"):find("spread", 1, true) ~= nil, true, "functions from another file are listed")
end)

check.done()
