-- length.lua: (i) the length of answers through training, and whether length alone explains the gain: the base model told to show
-- its steps, and the base model forced to go on (no end of sequence) for as many tokens as the trained one takes.
local tl = require "tl"
local p = tl.recipe(tl.paper.options { name = "length", description = "Length through training, and length without training.",
  lr = { 1e-2, "learning rate", min = 0 }, ask = { " Show every step.", "what the base model is told after the question" } })

local point = { method = "grpo", adapter = "tinylora", rank = 2, u = 13, tie = "full", lr = p.lr }
local rows, missing = tl.paper.run(p, tl.paper.runs(p, { { method = "base" }, point }))
if not rows or #rows == 0 then return end
local n, base = rows[1].test, tl.paper.base(rows)
local list, curves, reward = tl.experiment.where(rows, { method = "grpo" }), {}, {}
for i, r in ipairs(list) do
  curves[i] = { name = "seed " .. r.seed, points = tl.paper.curve(r, "completions/mean_length") }
  reward[i] = { name = "seed " .. r.seed, points = tl.paper.curve(r, "reward") }
end
local trained = tl.experiment.best(list, { by = { "method" } })[1]
local length = tl.experiment.spread(tl.experiment.values(list, "mean_length")).mean
local told = tl.paper.measure(rows[1], { ask = p.ask })
local forced = tl.paper.measure(rows[1], { tokens = math.floor((length == length and length or 8) + 0.5) })
local t = { columns = { "", "accuracy", "tokens an answer" }, rows = {} }
local function row(name, text, tokens) t.rows[#t.rows + 1] = { name, text, ("%.1f"):format(tokens) } end
if base then row("base model", tl.paper.text(base, n), base.rows[1].mean_length) end
row("base model, told:" .. p.ask, tl.report.interval(told.accuracy, told.ci95), told.mean_length)
row("base model, forced to go on", tl.report.interval(forced.accuracy, forced.ci95), forced.mean_length)
if trained then row("after GRPO, 13 numbers", tl.paper.text(trained, n), length) end
local gain, of_told, of_forced = trained and base and trained.mean - base.mean or 0, base and told.accuracy - base.mean or 0, base and forced.accuracy - base.mean or 0
return tl.paper.publish(p, { title = "Length", missing = missing, claim = "answers grow longer through training; length by itself does not explain the gain",
  verdict = gain <= 0.02 and "not decided" or of_forced > 0.5 * gain and "not reproduced" or of_told > 0.5 * gain and "partly reproduced" or "reproduced",
  finding = gain > 0 and ("Training gains %.1f points; forcing the base model to the same length gains %.1f, telling it to show its steps %.1f. Answers go from %.1f to %.1f tokens."):format(100 * gain,
    100 * of_forced, 100 * of_told, base.rows[1].mean_length, length) .. (of_told > 0.5 * gain and " The gain is the style of answering, which asking for it brings too; tokens alone bring none of it." or "") or "Nothing was gained.",
  charts = { { title = "mean length of the rollouts", x = { label = "step" }, y = { label = "tokens", min = 0 }, series = curves },
    { title = "mean reward of the rollouts", x = { label = "step" }, y = { label = "reward", min = 0, max = 1 }, series = reward } }, tables = { t } })
