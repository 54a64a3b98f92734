-- information.lua: bits. What reinforcement learning received (the entropy of rewards in their groups), what SFT was given (the code
-- length of its demonstrations), what 13 numbers hold, the two-part code before and after, and how the gradient's agreement with
-- that of many other problems grows over epochs: sampled anew (RL), and with the same solutions (SFT).
local tl = require "tl"
local p = tl.recipe(tl.paper.options { name = "information", description = "Bits received, held and saved; signal and noise of gradients.", lr = { 1e-2, "learning rate", min = 0 },
  epochs = { 0, "epochs of the gradients; 0: the size's", integer = true, min = 0 }, few = { 8, "problems whose gradient is taken again and again", integer = true, min = 1 },
  many = { 0, "other problems that say which way is right; 0: the size's", integer = true, min = 0 }, dry_run = { false, "nothing is run" } })
if p.dry_run then return end

local function size(name) return tl.paper.given(p, name) end
local model, I = tl.model.load(p.model, { device = p.device }), tl.information
local epochs, many = p.epochs > 0 and p.epochs or tl.paper.pick(p, 16, 8, 2), p.many > 0 and p.many or tl.paper.pick(p, 512, 256, 8)
-- n problems; those of a set that is a file are drawn by the seed
local function problems(n, seed, split)
  local d = tl.paper.problems(model, p.task, { n = n, seed = seed, split = split })
  return #d > n and d:shuffle(seed):take(n) or d
end
local train, fresh = problems(size "steps" * size "batch", 1, "train"), problems(size "test", 1000, "test")
local function adapter() return tl.adapter.tinylora(model, { rank = 2, u = 13, tie = tl.tie.full, dtype = "bf16" }) end

-- what a training gets
local received, t = { samples = 0, bits = 0 }, { columns = { "", "GRPO", "SFT" }, rows = {} }
local of = { grpo = adapter(), sft = adapter() }
local common = { model = model, lr = tl.optim.cosine(p.lr, 0, 0.1), total_steps = size "steps", seed = 1, gate = false }
local function with(o) return setmetatable(o, { __index = common }) end
local grpo = tl.grpo.trainer(with { adapter = of.grpo, verifier = "verifiers.math", num_generations = size "group", max_completion_length = size "new_tokens" })
local sft = tl.sft.trainer(with { adapter = of.sft })
for batch in train:batches { size = size "batch", epochs = 1, seed = 1 } do
  local _, rollout = grpo:step(batch)
  local r = I.rewards(I.groups(rollout))
  received.samples, received.bits = received.samples + r.samples, received.bits + r.bits
  sft:step(batch)
end
grpo:free()
local given = I.code_length(model, train)
local function row(name, format, a, b) t.rows[#t.rows + 1] = { name, a and format:format(a) or "", b and format:format(b) or "" } end
row("bits received", "%.0f", received.bits, given.bits)
row("bits a problem", "%.2f", received.bits / #train, given.bits / #train)
row("bits a sample (at most 1), a token", "%.3f", received.bits / math.max(1, received.samples), given.per_token)
row("bits the adapter is stored in", "%.0f", I.adapter(of.grpo).bits, I.adapter(of.sft).bits)
local two = {}
for _, method in ipairs { "grpo", "sft" } do two[method] = I.two_part(model, of[method], fresh, { search = true }) end
row("bits of its shortest description", "%.0f", two.grpo.adapter, two.sft.adapter)
row(("bits of %d new solutions under the base"):format(#fresh), "%.0f", two.grpo.before, two.sft.before)
row("bits of them given the adapter", "%.0f", two.grpo.data, two.sft.data)
row("bits saved by the two-part code", "%.0f", two.grpo.saved, two.sft.saved)

-- signal and noise, at the start of training: v = 0
local start, series, s = adapter(), {}, { columns = { "", "signal |E g|^2", "noise", "ratio of one epoch", "agreement after 1 epoch", ("after %d"):format(epochs) }, rows = {} }
local others, few = problems(many, 77, "train"), problems(p.few, 5, "train")
local grown = {}
for _, method in ipairs { "grpo", "sft" } do
  local o = { model = model, adapter = start, method = method, verifier = "verifiers.math", num_generations = size "group", max_completion_length = size "new_tokens" }
  local function gradients(list, n)
    o.problems, o.epochs = list, n
    return I.gradients(o)
  end
  local list = gradients(few, epochs)
  local r = I.separation(list, gradients(others, 1)[1])
  local line = { name = method == "grpo" and "GRPO" or "SFT", points = {} }
  for k, cosine in ipairs(r.alignment) do line.points[k] = { k, cosine } end
  series[#series + 1] = line
  grown[method] = r.alignment[epochs] - r.alignment[1]
  s.rows[#s.rows + 1] = { line.name, ("%.3g"):format(r.signal), ("%.3g"):format(r.noise), r.ratio == math.huge and "no noise: the same gradient" or ("%.3g"):format(r.ratio), ("%.3f"):format(r.alignment[1]), ("%.3f"):format(r.alignment[epochs]) }
end
return tl.paper.publish(p, { title = "Bits, signal and noise", seeds = 1, claim = "reinforcement learning receives few bits, and resampling separates signal from noise; SFT receives many, and repeats the same",
  verdict = grown.grpo > 0.02 and math.abs(grown.sft) < 1e-6 and received.bits < given.bits and "reproduced" or "not reproduced",
  finding = ("GRPO received %.0f bits, SFT %.0f, for the same %d problems. Over %d epochs the gradient of %d problems comes %+.3f (cosine) closer to that of %d others under GRPO, and %+.3f under SFT."):format(received.bits,
    given.bits, #train, epochs, #few, grown.grpo, many, grown.sft),
  charts = { { title = ("agreement of the mean gradient of %d problems with that of %d others"):format(#few, many), x = { label = "epochs" }, y = { label = "cosine" }, series = series } }, tables = { t, s } })
