-- length.lua: (i) the length of answers through training, and whether length alone explains the gain: the base model told to show
-- its steps, and the base model that is kept writing, problem by problem, for as many tokens as the trained one (tl.probe.length).
local tl = require "tl"
local p = tl.recipe(tl.paper.options { name = "length", description = "Length through training, and length without training.",
  lr = { 1e-2, "learning rate", min = 0 }, ask = { " Show every step.", "what the base model is told after the question" } })

local point = { method = "grpo", adapter = "tinylora", rank = 2, u = 13, tie = "full", lr = p.lr }
local rows, missing = tl.paper.run(p, tl.paper.runs(p, { { method = "base" }, point }))
if not rows or #rows == 0 then return end
local n, base = rows[1].test, tl.paper.base(rows)
local list, curves, reward, forced, told = tl.experiment.where(rows, { method = "grpo" }), {}, {}, {}, nil
for i, r in ipairs(list) do
  curves[i] = { name = "seed " .. r.seed, points = tl.paper.curve(r, "completions/mean_length") }
  reward[i] = { name = "seed " .. r.seed, points = tl.paper.curve(r, "reward") }
  local l = tl.paper.length(r, not told and p.ask or nil)
  if l then
    forced[#forced + 1], told = { method = "forced", accuracy = l.forced.accuracy, mean_length = l.forced.mean_length }, told or l.told
  end
end
local trained, long = tl.experiment.best(list, { by = { "method" } })[1], tl.experiment.best(forced, { by = { "method" } })[1]
local function tokens(of) return tl.experiment.spread(tl.experiment.values(of, "mean_length")).mean end
local t = { columns = { "", "accuracy", "tokens an answer" }, rows = {} }
local function row(name, text, length) t.rows[#t.rows + 1] = { name, text, ("%.1f"):format(length) } end
if base then row("base model", tl.paper.text(base, n), base.rows[1].mean_length) end
if told then row("base model, told:" .. p.ask, tl.report.interval(told.accuracy, told.ci95), told.mean_length) end
if long then row("base model, kept writing as long as the trained one", tl.paper.text(long, n), tokens(forced)) end
if trained then row("after GRPO, 13 numbers", tl.paper.text(trained, n), tokens(list)) end
local gain = trained and base and trained.mean - base.mean or 0
local of_told, of_long = base and told and told.accuracy - base.mean or 0, base and long and long.mean - base.mean or 0
return tl.paper.publish(p, { title = "Length", missing = missing, claim = "answers grow longer through training; length by itself does not explain the gain",
  verdict = (gain <= 0.02 or not long) and "not decided" or of_long > 0.5 * gain and "not reproduced" or of_told > 0.5 * gain and "partly reproduced" or "reproduced",
  finding = gain > 0 and long and ("Training gains %.1f points; keeping the base model writing for as many tokens gains %.1f, telling it to show its steps %.1f. Answers go from %.1f to %.1f tokens."):format(100 * gain,
    100 * of_long, 100 * of_told, base.rows[1].mean_length, tokens(list)) .. (of_told > 0.5 * gain and of_long < 0.1 * gain and " The gain is the style of answering, which asking for it brings too; tokens alone bring next to none of it." or "")
    or gain > 0 and "The adapters of the runs are no longer in their folders." or "Nothing was gained.",
  charts = { { title = "mean length of the rollouts", x = { label = "step" }, y = { label = "tokens", min = 0 }, series = curves },
    { title = "mean reward of the rollouts", x = { label = "step" }, y = { label = "reward", min = 0, max = 1 }, series = reward } }, tables = { t } })
