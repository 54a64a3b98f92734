-- tl.probe: each measurement against the same thing computed another way, and what the reading says of known figures. Catches: a divergence that is
-- not that of the two models, an adapter that is left scaled, problems told as new that the base solves, a control that counts the form of an answer
-- as memory, a reading that claims a gain where there is none.
package.path = arg[0]:match "^(.*)/" .. "/?.lua;" .. package.path
local check = require "check"
local tl = require "tl"
local probe = tl.probe

local model = tl.model.load "tiny"
local problems = tl.data.load("wordproblems", { n = 4, split = "test", style = "chat" })
local function adapter(value)
  local a = tl.adapter.tinylora(model, { rank = 2, u = 3 })
  return a:set(value)
end
local function with(o)
  local t = { model = model, problems = problems, max_new_tokens = 16, inline = true, verifier = function(_, c) return c.n_tokens % 2 == 0 end, seed = 3 }
  for k, v in pairs(o) do t[k] = v end
  return t
end

check.test("an adapter that does nothing: no divergence, no new problem", function()
  local o = with { adapter = adapter(0), k = 3 }
  local d = probe.divergence(o)
  check.equal({ d.per_token, d.per_response, d.completions, d.top_tenth }, { 0, 0, 4, 0 })
  local r = probe.reach(o)
  check.equal(r.base, r.adapted)
  check.equal({ #r.new_ids, #r.lost_ids, r.base_needs, r.n, r.k }, { 0, 0, 1, 4, 3 })
end)

check.test("the divergence is that of the two models on those tokens", function()
  local a = adapter(0.15)
  local d = probe.divergence(with { adapter = a })
  local tok, prompts = model:tokenizer(), {}
  for i, p in ipairs(problems) do prompts[i] = tl.grpo.prompt_ids(tok, nil, p) end
  local out = tl.sample.generate(model, prompts, { adapter = a, temperature = 1, max_new_tokens = 16, seed = 3 })
  local total, first, n = 0, 0, 0
  for i, list in ipairs(out) do
    local ids = { unpack(prompts[i]) }
    for _, id in ipairs(list[1].ids) do ids[#ids + 1] = id end
    local mine, base = model:logprobs(ids, a), model:logprobs(ids)
    for t = #prompts[i], #mine do
      local x = base[t] - mine[t]
      local kl = math.exp(x) - 1 - x
      total, n = total + kl, n + 1
      if t == #prompts[i] then first = first + kl end
    end
  end
  check.equal(d.tokens, n)
  check.equal(total > 0, true, "the adapter changes something")
  check.near(d.per_response * 4, total, 2e-3 * total + 1e-6)
  check.near(d.first["1"] * total, first, 2e-3 * total + 1e-6)
  local sum = 0
  for _, x in ipairs(d.deciles) do sum = sum + x end
  check.near(sum, 1, 1e-9)
  check.equal(d.top_tenth >= 0.1 and d.first["16"] > 0.999 and #d.heaviest == 8, true)
end)

check.test("v is scaled, and put back", function()
  local a = adapter(0.15)
  local values = a:parameters()
  local s = probe.scale(with { adapter = a, scales = { -1, 0.5 } })
  check.equal(a:parameters(), values)
  local at = {}
  for _, row in ipairs(s.curve) do at[#at + 1] = row.scale end
  check.equal(at, { -1, 0, 0.5, 1 })
  for i, x in ipairs { -0.15, 0, 0.075, 0.15 } do
    local r = tl.eval.run(with { adapter = adapter(x) })
    check.equal({ s.curve[i].accuracy, s.curve[i].mean_length }, { r.accuracy, r.mean_length }, "scale " .. at[i])
  end
  check.raises("not linear", probe.scale, with { adapter = tl.adapter.lora(model, { rank = 1 }) })
  local broken = with { adapter = a, verifier = "no_such_verifier" }
  check.equal(pcall(probe.scale, broken), false)
  check.equal(a:parameters(), values, "after an error too")
end)

check.test("new and lost problems, and how many tries the base needs", function()
  local calls, third = 0, 0
  local r = probe.reach(with { adapter = adapter(0.1), k = 4, verifier = function(p)
    calls = calls + 1
    local base = calls <= 16 -- four problems, four samples: the base's come first
    local i = tonumber(p.id:match "(%d+)$") - tonumber(problems[1].id:match "(%d+)$") + 1
    third = third + (i == 3 and 1 or 0)
    return i == 1 and not base or i == 2 and base or i == 3 and (not base or third == 1)
  end })
  check.equal(r.new_ids, { tostring(problems[1].id) })
  check.equal(r.lost_ids, { tostring(problems[2].id) })
  check.equal(r.solved, 2)
  check.near(r.adapted[1], 0.5, 1e-12)
  check.near(r.base[1], (1 + 1 / 4) / 4, 1e-12)
  check.near(r.base[4], 0.5, 1e-12)
  check.equal(r.base_needs, 4)
  check.near(r.unseen_bound, 0.5271, 1e-4)
end)

check.test("random answers: nothing held without training, bits with room for them", function()
  local o = with { fresh = function() return tl.adapter.loraxs(model, { rank = 8, dtype = "f32" }) end, steps = 0, lrs = { 1e-2 } }
  local none = probe.control(o)
  check.near(none.held_bits, 0, 1e-2)
  o.steps = 60
  local c = probe.control(o)
  check.equal(c.rows[1].last_loss < c.rows[1].first_loss, true)
  check.equal(c.held_bits > 2 and c.held_bits <= c.capacity_bits and c.capacity_bits > 3 and c.capacity_bits <= 8, true, ("%g of %g"):format(c.held_bits, c.capacity_bits))
  check.equal(c.numbers > 500, true)
end)

-- a length taken from another problem, an end drawn too early, a base that is not the base
check.test("the base writes as many tokens as the adapted model", function()
  local o = with { adapter = adapter(0.15), k = 3, temperature = 1, max_new_tokens = 24, ask = " Show every step.", verifier = function(_, c) return c.n_tokens > 9 end }
  local _, sampled = probe.reach(o)
  local l = probe.length(o, sampled)
  check.equal({ l.forced.mean_length, l.forced.accuracy, l.beyond.difference }, { l.adapted.mean_length, l.adapted.accuracy, 0 }, "the verifier looks at the length alone")
  check.equal({ l.base.mean_length == l.adapted.mean_length, l.told.mean_length > l.base.mean_length }, { false, true })
  if l.gain.difference > 0 then check.near(l.explained, 1, 1e-12) end
  check.equal(probe.length(o), l, "sampled here")
  -- one sample: the base's own length changes nothing at all
  local texts = {}
  local same = probe.length(with { adapter = adapter(0), k = 1, max_new_tokens = 24, verifier = function(p, c)
    texts[p.id] = texts[p.id] or c.text
    return c.text == texts[p.id]
  end })
  check.equal({ same.forced.accuracy, same.adapted.accuracy, same.by_length.difference, same.explained }, { 1, 1, 0, nil })
end)

check.test("words after the question", function()
  local asked = probe.asked " Please."
  check.equal(asked { messages = { { role = "system", content = "a" }, { role = "user", content = "b" } } },
    { { role = "system", content = "a" }, { role = "user", content = "b Please." } })
  check.equal(probe.asked(" Please.", function(p) return { { role = "user", content = p.question } } end) { question = "c" }, { { role = "user", content = "c Please." } })
  check.raises("are texts, not messages", asked, { question = "c" })
end)

local function reading_of(report)
  local r = probe.reading(report)
  return table.concat(r.findings, "\n"), table.concat(r.caveats, "\n")
end
local function says(text, what) if not text:find(what, 1, true) then error(("lacks '%s': %s"):format(what, text), 2) end end

check.test("the reading", function()
  local reach = { k = 4, n = 100, base = { 0.2, 0.35, 0.5, 0.6 }, adapted = { 0.45, 0.5, 0.55, 0.6 }, paired = { difference = 0.25, ci95 = { 0.15, 0.35 } }, base_needs = 3, solved = 40,
    new_ids = { "a", "b" }, lost_ids = {}, unseen_bound = 0.5271, base_length = 10, adapted_length = 20, base_ci95 = { 0.15, 0.25 } }
  local scale = { gain = 0.25, gain_ci95 = { 0.15, 0.35 }, curve = { { scale = -1, accuracy = 0.1 }, { scale = 0, accuracy = 0.05, ci95 = { 0.02, 0.11 }, kept = 0 }, { scale = 0.5, accuracy = 0.44, kept = 0.96 },
    { scale = 1, accuracy = 0.45, kept = 1 }, { scale = 2, accuracy = 0.3, kept = 0.4 } } }
  local found, caveats = reading_of { reach = reach, scale = scale,
    divergence = { per_token = 0.02, per_response = 0.4, per_response_ci95 = { 0.3, 0.5 }, deciles = { 0.7, 0.1, 0.1, 0.1 }, top_tenth = 0.8, completions = 100 },
    transfer = { mawps = { base = 0.1, adapted = 0.2, paired = { difference = 0.1, ci95 = { -0.02, 0.2 } } }, svamp = { base = 0.1, adapted = 0.2, paired = { difference = 0.1, ci95 = { 0.02, 0.2 } } } },
    control = { n = 16, numbers = 13, bytes = 26, held_bits = 1, capacity_bits = 44, steps = 60, rows = { {} } } }
  for _, text in ipairs { "better at the task: +25.0 points [15.0, 35.0]", "the base solves with 3: the gain lies within", "never solves 2 in 4 tries (5.0%)", "length changed too, and whether that alone explains the gain was not measured", "it decides at the start",
    "saturated", "only over a short way", "is not its first choice", "On mawps, which it was not measured on so far, it is not clearly different", "40.0% of the gain", "hardly memorises" } do says(found, text) end
  for _, text in ipairs { "up to 52.7%", "by luck", "One adapter, one seed" } do says(caveats, text) end
  reach.paired = { difference = 0.01, ci95 = { -0.05, 0.07 } }
  found = reading_of { reach = reach }
  says(found, "No difference in accuracy is seen")
  check.equal(found:find("steering", 1, true), nil, "no claim without a gain")
  reach.paired, reach.base_needs = { difference = 0.25, ci95 = { 0.15, 0.35 } }, nil
  says(reading_of { reach = reach }, "Even with 4 tries the base does not")
  local function figures(accuracy, tokens) return { accuracy = accuracy, ci95 = { accuracy - 0.05, accuracy + 0.05 }, mean_length = tokens } end
  local gain = { difference = 0.25, ci95 = { 0.15, 0.35 } }
  local length = { base = figures(0.2, 10), adapted = figures(0.45, 20), forced = figures(0.22, 20), told = figures(0.4, 18), ask = " Step by step.", explained = 0.08, told_explained = 0.8,
    gain = gain, by_length = { difference = 0.02, ci95 = { -0.03, 0.07 } }, beyond = { difference = 0.23, ci95 = { 0.1, 0.33 } } }
  found, caveats = reading_of { reach = reach, length = length }
  for _, text in ipairs { "20.0 tokens long, the base's 10.0.", "as many tokens as the adapted model solves 22.0%, +2.0 points", "length alone does not explain the gain",
    'told "Step by step." solves 40.0% in 18.0 tokens: asking brings 80.0% of the gain' } do says(found, text) end
  says(caveats, "kept from ending")
  check.equal(found:find("not measured here", 1, true), nil)
  length.by_length, length.told_explained = { difference = -0.1, ci95 = { -0.15, -0.05 } }, 1.2
  found = reading_of { reach = reach, length = length }
  says(found, "more tokens by themselves make the base worse")
  says(found, "asking brings more than the adapter does")
  length.forced, length.by_length, length.explained = figures(0.32, 20), { difference = 0.12, ci95 = { 0.05, 0.2 } }, 0.48
  says(reading_of { reach = reach, length = length }, "length alone explains 48.0% of the gain")
  length.beyond = { difference = 0.03, ci95 = { -0.02, 0.1 } }
  says(reading_of { length = length }, "length alone may explain the gain")
  length.gain = { difference = 0.25, ci95 = { -0.15, 0.35 } }
  check.equal(reading_of({ length = length }):find("explain the gain", 1, true), nil, "no claim without a gain")
end)

check.test("tlrun probe", function()
  local path = os.tmpname() .. ".tla"
  adapter(0.1):save(path)
  local command = ("%s probe --adapter %s --task wordproblems --limit 3 --k 2 --max-new-tokens 12 "):format(check.tlrun, path)
  local code, out, err = check.run(command .. "--ask 'Show every step.' --transfer puzzles:chain --scales 1,2 --control-n 3 --control-steps 2 --control-lrs 1e-2 --json")
  check.equal(code, 0, err)
  local d = tl.json.decode(out)
  check.equal({ d.length.forced.mean_length, d.length.told.mean_length > 0, d.length.ask }, { d.length.adapted.mean_length, true, " Show every step." })
  check.equal({ #d.reach.base, #d.divergence.deciles, #d.scale.curve, d.transfer["puzzles:chain"].n, d.control.steps, d.adapter.numbers }, { 2, 10, 3, 3, 2, 3 })
  check.equal(#d.reading.findings > 3 and #d.reading.caveats > 3, true)
  code, out = check.run(command .. "--parts divergence")
  check.equal({ code, out:find("nats a token", 1, true) ~= nil, out:find("reach", 1, true) }, { 0, true, nil })
  for options, wanted in pairs { ["--task wordproblems"] = { 2, "--adapter" }, ["--adapter " .. path] = { 2, "--task" }, ["--adapter /nowhere --task wordproblems"] = { 1, "/nowhere" },
    ["--adapter " .. path .. " --task wordproblems --parts reech"] = { 2, "reach" }, ["--adapter " .. path .. " --task wordproblems --scales 1,x"] = { 2, "'x' is not a number" } } do
    local bad, _, why = check.run(("%s probe %s --limit 2"):format(check.tlrun, options))
    check.equal({ bad, why:find(wanted[2], 1, true) ~= nil }, { wanted[1], true }, options .. ": " .. why)
  end
  os.remove(path)
end)
check.done()
