-- test_geometry.lua: v as an object of study: read and set, between two adapters, gradients of single samples and the Fisher information,
-- landscapes, evolution strategies. Gradients are held against finite differences, landscapes and ES's rewards against tl.eval at the same v.
-- Would catch: a gradient of another sample or of the mean, a grid whose axes are swapped, a point off its place, rewards of another
-- member, a step of ES in the wrong direction.
package.path = arg[0]:match "^(.*)/" .. "/?.lua;" .. package.path
local check = require "check"
local equal, near, raises = check.equal, check.near, check.raises
local tl = require "tl"

local model = tl.model.load("tiny", { dtype = "f32" })
local problems = tl.data.load("wordproblems", { n = 6, seed = 5, split = "train", min_ops = 2, max_ops = 2 })
local function tiny(o) return tl.adapter.tinylora(model, { u = o.u or 3, tie = "full", seed = o.seed }):set(o.v or 0) end

check.test("v is read and set", function()
  local a = tiny { v = { 0.5, -1, 2 } }
  equal(a:v(), { 0.5, -1, 2 })
  equal(a:v(3), 2)
  a:v(2, 0.25)
  equal(a:v(), { 0.5, 0.25, 2 })
  equal(a:v(0):v(), { 0, 0, 0 })
  raises("numbers 1 to 3; got 4", a.v, a, 4)
  raises("3 numbers, 2 given", a.v, a, { 1, 2 })
end)

check.test("between two adapters", function()
  local a, b = tiny { v = { 0, 1, 2 } }, tiny { v = { 4, 1, 0 } }
  equal(tl.adapter.interpolate(a, b, 0.25):v(), { 1, 1, 1.5 })
  equal(tl.adapter.interpolate(a, b, -1):v(), { -4, 1, 4 })
  equal(tl.adapter.interpolate(a, nil, 2):v(), { 0, 2, 4 })
  equal(a:v(), { 0, 1, 2 })
  raises("different projections P", tl.adapter.interpolate, a, tiny { seed = 9 }, 0.5)
  raises("have 3 and 2 numbers", tl.adapter.interpolate, a, tiny { u = 2 }, 0.5)
  raises("trains more than R", tl.adapter.interpolate, a, tl.adapter.lora(model), 0.5)
end)

local function samples()
  local tok, list = model:tokenizer(), {}
  for i, p in ipairs(problems) do list[i] = { prompt_ids = tl.grpo.prompt_ids(tok, nil, p), completion_ids = tok:encode(i % 2 == 0 and p.steps or p.direct) } end
  return list
end

check.test("the gradient of each sample, by finite differences", function()
  local a, list, h = tiny { v = { 0.3, -0.2, 0.1 } }, samples(), 3e-3
  local g = tl.fisher.gradients(a, list)
  local function logprob(v, s)
    local b, pass, sum = a:clone():set(v), require "tl.pass", 0
    local batch = pass.batch()
    batch:prompt(s.prompt_ids)
    batch:completion(s.completion_ids)
    local lp = pass.logprobs(model, batch, { adapter = b })
    for i = 0, batch:n_tokens() - 1 do sum = sum + lp[i] end
    b:free()
    return sum
  end
  for k = 1, #list do
    near(g[k].logprob, logprob(a:v(), list[k]), 1e-3)
    for i = 1, 3 do
      local up, down = a:v(), a:v()
      up[i], down[i] = up[i] + h, down[i] - h
      local slope = (logprob(up, list[k]) - logprob(down, list[k])) / (2 * h)
      near(g[k].gradient[i], slope, 0.02 * math.max(1, math.abs(slope)), ("sample %d, number %d: "):format(k, i))  -- rounding 1e-5 / h, and h^2 times the third derivative
    end
  end
end)

check.test("Fisher information is the gradients' second moment", function()
  local f = tl.fisher.of { { gradient = { 1, 2 } }, { gradient = { 3, 0 } } }
  equal(f.F:totable(), { { 5, 1 }, { 1, 2 } })
  near(f.eigenvalues[1] + f.eigenvalues[2], 7, 1e-5)
  near(f.eigenvalues[1] * f.eigenvalues[2], 9, 1e-4)
  near(f.snr, 5 / ((7 - 5) / 1), 1e-6)
  local drawn = tl.fisher { adapter = tiny { v = 0.1 }, problems = problems, n = 3, max_new_tokens = 8 }
  equal(drawn.n, 18)
  equal(#drawn.eigenvalues, 3)
  if not tostring(drawn):find "Fisher information of 3 numbers from 18 samples" then error(tostring(drawn)) end
end)

check.test("a landscape's points are what the adapter gives there", function()
  local a = tiny { v = { 1, 0, 0 } }
  for _, metric in ipairs { "accuracy", "loss" } do
    local l = tl.landscape { adapter = a, problems = problems, metric = metric, n = { 3, 2 }, x = { 0.5, 0, 0 }, y = { 0, 0, 2 }, y_range = { 0, 1 }, max_new_tokens = 32 }
    for _, at in ipairs { { 1, 1 }, { 3, 1 }, { 2, 2 } } do
      local i, j = at[1], at[2]
      local b = a:clone():set { 1 + l.x[i] * 0.5, 0, 2 * l.y[j] }
      local want
      if metric == "accuracy" then
        want = tl.eval.run({ model = model, adapter = b, problems = problems, verifier = "verifiers.math", max_new_tokens = 32 }).accuracy
      else
        want = tl.sft.trainer({ model = model, adapter = b }):loss(problems)
      end
      near(l.z[j][i], want, 1e-6, ("%s at %d, %d: "):format(metric, i, j))
    end
  end
  equal(a:v(), { 1, 0, 0 })
end)

check.test("a landscape is drawn, in the terminal and as a picture", function()
  local l = setmetatable({ x = { -1, 0, 1 }, y = { 0, 1 }, z = { { 0, 0.5, 1 }, { 0.25, 0, 0 } }, origin = { 0 }, dx = { 2 }, dy = { 0 }, metric = "accuracy" },
    getmetatable(tl.landscape { adapter = tiny { u = 1 }, problems = { problems[1] }, metric = "loss", n = 1 }))
  local text = tostring(l)
  if not text:find("      1 |:::      |\n      0 |   +++@@@|", 1, true) or not text:find "best 1 at x = 1, y = 0" then error(text) end
  equal(l:best().v, { 2 })
  local path = os.tmpname()
  l:svg(path, { title = "a < b" })
  local svg = require("tl.fs").read(path)
  os.remove(path)
  if not svg:find("^<svg xmlns") or not svg:find("a &lt; b", 1, true) or select(2, svg:gsub("<title>", "")) ~= 6 or not svg:find("</svg>\n$") then error(svg) end
  raises('metric is "accuracy"', tl.landscape, { adapter = tiny {}, problems = problems, metric = "x" })
  raises("x is no direction", tl.landscape, { adapter = tiny {}, problems = problems, x = tiny {} })
  raises("y has 2 numbers, the adapter 3", tl.landscape, { adapter = tiny {}, problems = problems, y = { 1, 2 } })
end)

check.test("ES estimates the slope from its pairs, and goes up", function()
  local function shorter(_, c) return -#c.text end
  local a = tiny { v = { 0.5, 0.5, 0.5 } }
  local o = { model = model, adapter = a, reward = shorter, members = 16, sigma = 0.5, lr = 0.2, gate = false, max_completion_length = 40, fitness = "reward", temperature = 0 }
  local t = tl.es.trainer(o)
  local first = t:step(problems)
  local rewards, g, m = tl.population.rewards(t.set, problems, { reward = shorter, max_new_tokens = 40 }), a:gradient(), 0
  for i = 1, 3 do
    local want = 0
    for k = 1, 16, 2 do
      near(t.clones[k]:v(i) + t.clones[k + 1]:v(i), 1, 1e-6, "a pair is not two opposites: ")
      want = want - (rewards[k].reward - rewards[k + 1].reward) * (t.clones[k]:v(i) - 0.5) / 0.5 / (16 * 0.5)
      m = m + rewards[k].reward / 48 + rewards[k + 1].reward / 48
    end
    near(g[i], want, 1e-4 * math.abs(want))
    near(a:v(i), 0.5 - (want > 0 and 0.2 or -0.2), 1e-4)  -- AdamW's first step is the rate, against the gradient
  end
  near(first.reward, m, 1e-6)
  local flat = tl.es.trainer { model = model, adapter = a, reward = function() return 1 end, members = 2, gate = false, max_completion_length = 2 }
  local v = a:v()
  equal(flat:step(problems).grad_norm, 0)
  equal(a:v(), v, "equal rewards moved it: ")
  flat:free()
  t:free()
  raises("an even number", tl.es.trainer, { model = model, adapter = a, reward = shorter, members = 3 })
  raises("sigma is 0", tl.es.trainer, { model = model, adapter = a, reward = shorter, sigma = 0 })
end)

check.test("rewards of members are those of tl.eval", function()
  local list = { tiny { v = { 1, 0, 0 } }, tiny { v = { 0, 0, 0 } }, tiny { v = { -1, 2, 0 } } }
  local r = tl.population.rewards(tl.population.of(list), problems, { verifier = "verifiers.math", max_new_tokens = 40, n = 2, temperature = 1, seed = 3 })
  for k, a in ipairs(list) do
    local e = tl.eval.run { model = model, adapter = a, problems = problems, verifier = "verifiers.math", max_new_tokens = 40, samples = 2, temperature = 1, seed = 3 }
    near(r[k].accuracy, e.accuracy, 1e-9)
    near(r[k].mean_length, e.mean_length, 1e-9)
  end
end)

check.done()
