-- compare_math.lua CASES.json: called by compare_math.py. Counts agreement case by case, times each pair in one thread, and runs 10,000
-- mutated pairs to see the longest. Exit code 1 when fewer published labels are met than the package meets, where the label is right.
jit.off() -- as in the cells of a verifier pool (and short work is faster so)
local tl = require "tl"
local verifier = require "verifiers.math"

local file = assert(io.open(arg[1]))
local cases = tl.json.decode(file:read "*a")
file:close()

-- Published labels that are not so: 1 - 1/e does not equal 1 + 1/e.
local wrong_labels = { ["$1 - \\frac{1}{\\mathrm{e}}$ $1 + \\frac{1}{\\mathrm{e}}$"] = false }

local function judge(c)
  local all = c.gold_config == "None"
  local kinds = { latex = all or c.gold_config:find("Latex", 1, true) ~= nil, expr = all or c.gold_config:find("Expr", 1, true) ~= nil }
  local function answer(text)
    local found = verifier.answers(text, "any", kinds)
    return found[#found] and found[#found].text
  end
  local gold, response = answer(c.gold), answer(c.response)
  if not gold or not response then return false end
  local o = c.options
  return verifier.equal(response, gold, { decimals = o.float_rounding, decimal_comma = true, rename = o.strict == false,
    relation_as_set = o.allow_set_relation_comp == true })
end

local agree, ours, theirs, disputed, ours_s, theirs_s, ratios = 0, 0, 0, 0, 0, 0, {}
for _ = 1, 3 do for _, c in ipairs(cases) do judge(c) end end
for _, c in ipairs(cases) do
  local began = os.clock()
  local said = judge(c)
  local seconds = os.clock() - began
  ours_s, theirs_s = ours_s + seconds, theirs_s + c.seconds
  ratios[#ratios + 1] = c.seconds / seconds
  local label = wrong_labels[c.gold .. " " .. c.response]
  if label == nil then label = c.label else disputed = disputed + 1 end
  agree = agree + (said == c.package and 1 or 0)
  ours, theirs = ours + (said == label and 1 or 0), theirs + (c.package == label and 1 or 0)
  if said ~= label then print(("wrong: %s\n  gold      %q\n  response  %q\n  said %s, label %s, package %s"):format(c.test, c.gold:sub(-200), c.response:sub(-200), tostring(said), tostring(label), tostring(c.package))) end
end
table.sort(ratios)
print(("%d published cases (%d with a label corrected): verifiers/math right on %d, the package on %d; the two agree on %d"):format(#cases, disputed, ours, theirs, agree))
print(("time a pair, both texts read and compared: %.0f us here, %.0f us the package; ratio of the totals %.0f, median of the pairs' ratios %.0f, least %.0f"):format(
  1e6 * ours_s / #cases, 1e6 * theirs_s / #cases, theirs_s / ours_s, ratios[math.floor(#ratios / 2) + 1], ratios[1]))

-- ---- mutations
local state = 12345
local function draw(n)
  state = (state * 48271) % 2147483647
  return state % n + 1
end
local pieces = { "{", "}", "(", ")", "[", "]", "^", "_", "\\frac", "\\sqrt", "\\boxed{", "$", ",", "=", "<", "!", "9", "999999999", "x", "\\pm", "\\cup", "|", "^{99}", "\\left", "\195", "\\begin{pmatrix}", "&", "\\\\" }
local function mutate(s)
  for _ = 1, draw(4) do
    local at, kind = draw(#s + 1), draw(4)
    if kind == 1 then s = s:sub(1, at - 1) .. s:sub(at + draw(5))
    elseif kind == 2 then s = s:sub(1, at - 1) .. pieces[draw(#pieces)] .. s:sub(at)
    elseif kind == 3 then s = s:sub(1, at) .. s:sub(at, at + draw(30)) .. s:sub(at)
    else s = s:sub(1, at - 1) .. pieces[draw(#pieces)]:rep(draw(12)) .. s:sub(at) end
  end
  return s
end
local longest, total, which = 0, 0, nil
for i = 1, 10000 do
  local c = cases[draw(#cases)]
  local m = { gold = mutate(c.gold), response = mutate(c.response), gold_config = c.gold_config, options = c.options }
  local began = os.clock()
  judge(m)
  local seconds = os.clock() - began
  total = total + seconds
  if seconds > longest then longest, which = seconds, m end
end
print(("10,000 mutated pairs: all answered, %.0f us on average, the longest %.2f ms"):format(total / 10000 * 1e6, longest * 1e3))
if longest > 0.02 then print(("the longest is over 20 ms:\n  %q\n  %q"):format(which.gold:sub(-300), which.response:sub(-300))) end
os.exit(ours >= theirs and longest <= 0.02 and 0 or 1)
