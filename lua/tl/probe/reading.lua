--- probe/reading.lua: what a probe's figures say, in plain words, each with the figure it rests on; and what they do not say.
---
--- A sentence is said only when its figure is clear: a gain whose interval leaves out 0, a share beyond a stated line. The lines (a half, a fifth)
--- are conventions of this file, not results.

local function percent(x) return ("%.1f%%"):format(100 * x) end
local function span(ci) return ("[%.1f, %.1f]"):format(100 * ci[1], 100 * ci[2]) end

local function gain_of(report)
  if report.reach then return report.reach.paired.difference, report.reach.paired.ci95, "sampled" end
  if report.length then return report.length.gain.difference, report.length.gain.ci95, "sampled" end
  if report.scale then return report.scale.gain, report.scale.gain_ci95, "greedy" end
end

local function many(n, what) return n == 1 and "one " .. what or ("%d %ss"):format(n, what) end

local function say_gain(report, say)
  local gain, ci, how = gain_of(report)
  if not gain then return nil end
  if ci[1] > 0 then
    say("The adapter makes the model better at the task: %+.1f points %s, %s.", 100 * gain, span(ci), how)
  elseif ci[2] < 0 then
    say("The adapter makes the model worse at the task: %+.1f points %s, %s.", 100 * gain, span(ci), how)
  else
    say("No difference in accuracy is seen on so many problems: %+.1f points %s, %s. What follows describes a change of behaviour, not a gain.", 100 * gain, span(ci), how)
  end
  return ci[1] > 0
end

local function say_reach(r, gained, say)
  say("With %d tries the base solves %s of the problems; the adapted model solves %s with one, %s with %d.", r.k, percent(r.base[r.k]), percent(r.adapted[1]), percent(r.adapted[r.k]), r.k)
  if gained and r.base_needs then
    say("What the adapted model solves with one try the base solves with %d: the gain lies within what the base does already, which is what steering looks like.", r.base_needs)
  elseif gained then
    say("Even with %d tries the base does not solve as many as the adapted model with one: sampling the base more is no explanation up to there.", r.k)
  end
  if r.solved > 0 then
    local new = #r.new_ids
    say("Of the %d problems that the adapted model solves more often than not, the base never solves %d in %d tries (%s).", r.solved, new, r.k, percent(new / r.solved))
    if new == 0 then say "None of them is new."
    elseif new / r.solved > 0.5 then say "Most of what it solves is new by this measure, which is what learning looks like, or steering towards something rare in the base." end
  end
  if #r.lost_ids > 0 then say("There %s %s that the base solves more often than not and that it never solves now.", #r.lost_ids == 1 and "is" or "are", many(#r.lost_ids, "problem")) end
end

local function differ(a, b) return b > 0 and math.abs(a / b - 1) > 0.2 end

local function say_lengths(r, say)
  if differ(r.adapted_length, r.base_length) then
    say("Its answers are %.1f tokens long, the base's %.1f: length changed too, and whether that alone explains the gain was not measured here.", r.adapted_length, r.base_length)
  end
end

-- the base made to write as long: what that brings, and what the adapter brings beyond it
local function say_length(l, gained, say)
  local long, short = l.adapted.mean_length, l.base.mean_length
  if not differ(long, short) then
    say("Its answers are %.1f tokens long, the base's %.1f: about as long, so length is no explanation.", long, short)
  else
    say("Its answers are %.1f tokens long, the base's %.1f.", long, short)
  end
  say("The base that is kept writing for as many tokens as the adapted model solves %s, %+.1f points %s against the base as it is; the adapted model is %+.1f points %s above that.",
    percent(l.forced.accuracy), 100 * l.by_length.difference, span(l.by_length.ci95), 100 * l.beyond.difference, span(l.beyond.ci95))
  if gained and l.beyond.ci95[1] <= 0 then say "So length alone may explain the gain: beyond it nothing is clearly left."
  elseif gained and l.by_length.ci95[2] < 0 then say "So length alone does not explain the gain: more tokens by themselves make the base worse."
  elseif gained and l.by_length.ci95[1] <= 0 then say "So length alone does not explain the gain: more tokens by themselves bring nothing clear."
  elseif gained and l.explained then say("So length alone explains %s of the gain, and not the rest.", percent(l.explained)) end
  if l.told then
    say("The base that is told \"%s\" solves %s in %.1f tokens%s.", l.ask:match "^%s*(.-)%s*$", percent(l.told.accuracy), l.told.mean_length,
      gained and l.told_explained and (l.told_explained > 1 and ": asking brings more than the adapter does" or (": asking brings %s of the gain"):format(percent(l.told_explained))) or "")
  end
end

local function say_divergence(d, say)
  if d.per_response < 1e-6 then return say "The two models give its completions the same probabilities: the adapter does nothing here." end
  say("It differs from the base by %.4f nats a token, %.2f a response [%.2f, %.2f] (%.1f bits).", d.per_token, d.per_response, d.per_response_ci95[1], d.per_response_ci95[2],
    d.per_response / math.log(2))
  local early = d.deciles[1]
  if early > 0.5 then
    say("%s of that lies in the first tenth of a response: it decides at the start how to answer, and goes on much as the base would.", percent(early))
  elseif early < 0.2 then
    say("The first tenth of a response holds %s of it: the change is not a matter of how an answer begins.", percent(early))
  else
    say("%s of that lies in the first tenth of a response.", percent(early))
  end
  say("A tenth of the tokens holds %s of it.", percent(d.top_tenth))
end

local function at_scale(s, x)
  for _, row in ipairs(s.curve) do if row.scale == x then return row end end
end

local function say_scale(s, gained, reach, say)
  local zero = at_scale(s, 0)
  if reach and zero.ci95 and zero.ci95[2] < reach.base_ci95[1] then
    say("Greedy, the base solves %s, fewer than it solves sampled: what it needs is in it, and is not its first choice. The greedy gain, %+.1f points, is mostly the change of that choice.",
      percent(zero.accuracy), 100 * s.gain)
  end
  local half, double, back = at_scale(s, 0.5), at_scale(s, 2), at_scale(s, -1)
  if gained and half and half.kept then say("Half of v keeps %s of the greedy gain%s.", percent(half.kept), half.kept > 0.9 and ": the effect is saturated, a threshold rather than a dose" or "") end
  if gained and double and double.kept then
    say("Twice v keeps %s of it%s.", percent(double.kept), double.kept < 0.5 and ": the direction is right only over a short way" or "")
  end
  if gained and back then
    say("The opposite direction gives %s, the base %s%s.", percent(back.accuracy), percent(zero.accuracy), back.accuracy < zero.accuracy and ": one axis carries the behaviour both ways" or "")
  end
end

local function say_transfer(name, t, gain, say)
  local kept = gain and gain > 0 and t.paired.ci95[1] > 0 and (", %s of the gain on the task"):format(percent(t.paired.difference / gain)) or ""
  local clear = t.paired.ci95[1] > 0 and "better" or t.paired.ci95[2] < 0 and "worse" or "not clearly different"
  say("On %s, which it was not measured on so far, it is %s: %s against %s, %+.1f points %s%s.", name, clear, percent(t.adapted), percent(t.base), 100 * t.paired.difference, span(t.paired.ci95), kept)
end

local function say_control(c, say)
  say("Made to learn random answers to %s, %s (%d bytes) came to hold %.1f bits of the %.1f that there are to know (%.2f a number).", many(c.n, "problem"), many(c.numbers, "number"), c.bytes,
    c.held_bits, c.capacity_bits, c.held_bits / c.numbers)
  if c.held_bits < 0.1 * c.capacity_bits then say "So this size hardly memorises: what it gains, it does not gain by storing answers."
  else say "So this size can store some answers: look at held-out problems only." end
end

return function(report)
  local findings, caveats = {}, {}
  local function say(format, ...) findings[#findings + 1] = select("#", ...) > 0 and format:format(...) or format end
  local function caution(format, ...) caveats[#caveats + 1] = select("#", ...) > 0 and format:format(...) or format end
  local gained = say_gain(report, say)
  if report.reach then
    say_reach(report.reach, gained, say)
    if not report.length then say_lengths(report.reach, say) end
    caution("\"Never in %d tries\" is not \"cannot\": a problem that the base solves with a chance of up to %s would still be seen as never solved one time in twenty.", report.reach.k,
      percent(report.reach.unseen_bound))
    caution "A right final answer is not a right way to it: by luck or by pattern, small models reach small numbers, and more so in many tries."
  end
  if report.length then
    say_length(report.length, gained, say)
    caution "A base that is kept from ending goes on after an answer that it had finished, and what it writes then counts: this is what more tokens bring to the model as it is."
  end
  if report.divergence then
    say_divergence(report.divergence, say)
    caution("The divergence is measured along the adapted model's %d completions, one way round (KL of adapted against base), at the sampling temperature.", report.divergence.completions)
  end
  if report.scale then
    say_scale(report.scale, gained, report.reach, say)
    caution "Shares of the gain are ratios of two measured differences, and as uncertain as the gain is small; each point of the curve has its own interval."
  end
  local names = {}
  for name in pairs(report.transfer or {}) do names[#names + 1] = name end
  table.sort(names)
  for _, name in ipairs(names) do say_transfer(name, report.transfer[name], report.scale and report.scale.gain or gained and gain_of(report) or nil, say) end
  if report.control then
    say_control(report.control, say)
    caution("The control is a lower bound: other learning rates than its %d, or more than %d steps, may store more. It learns by supervised finetuning, which tells far more a sample than a reward does.",
      #report.control.rows, report.control.steps)
  end
  caution "One adapter, one seed, one prompt: nothing here says how the next run would come out."
  return { findings = findings, caveats = caveats }
end
