-- Verifiers: what counts as an answer, what counts as equal, what a reward hack gets, and that verifiers in worker threads, by
-- bytecode and inline say the same. Catches: a wrong answer rewarded, a right one refused, an error that becomes a 0.
local tl = require "tl"
local math_verifier = require "verifiers.math"
local regex = require "tl.regex"

local failed = false
local function test(name, fn)
  local ok, why = pcall(fn)
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

-- answer, gold: equal
local same = {
  { "0.5", "1/2" }, { "\\frac{1}{2}", ".50" }, { "\\dfrac{3}{4}", "0.75" }, { "5e-1", "0.5" }, { "1\\frac12", "1.5" }, { "1 1/2", "3/2" },
  { "-\\frac{1}{2}", "-0.5" }, { "\\frac{-1}{2}", "-0.5" }, { "4.5 \\times 10^{3}", "4500" }, { "6.02\\cdot10^{23}", "6.02e23" },
  { "1,234", "1234" }, { "1,234,567.50", "1234567.5" }, { "1{,}000", "1000" }, { "$1,000.00", "1000" }, { "$18", "18" }, { "-$5", "-5" },
  { "\\$5", "5" }, { "\226\136\1465", "-5" }, { "18 dollars", "18" }, { "50%", "50" }, { "50%", "0.5" }, { "50\\%", "50" }, { "90^\\circ", "90" }, { "90", "90^\\circ" },
  { "90 degrees", "90" }, { "12 apples", "12" }, { "5 \\text{ cm}", "5" }, { "6.5 \\mathrm{~m}", "6.5" }, { "15", "15 (balls)" }, { "10 cm^2", "10" },
  { "10cm", "10" }, { "x=5", "5" }, { "5", "x = 5" }, { "3 + 4 = 7", "7" }, { "**7**", "7" }, { "`7`", "7" }, { "7.", "7" }, { "007", "7" }, { "-0", "0" },
  { "\\(5\\)", "5" }, { "$5$", "5" }, { "\\textbf{(113) }", "113" }, { "(B)", "B" }, { "1, 3, 5", "1,3,5" }, { "$69$,$84$", "69, 84" },
  { "(3, 0.5)", "\\left( 3, \\frac{1}{2} \\right)" }, { "\\{1, 2\\}", "\\{1,2.0\\}" }, { "(0,2), (0,-2)", "$(0,2),(0,-2)$" },
  { "Evelyn", "\\text{Evelyn}" }, { "this year", "This year" }, { "-\\frac{\\pi}{6}", "-\\frac{\\pi}{6}" }, { "52_{8}", "52_8" }, { "11\\sqrt{2}", "11\\sqrt2" },
  { "13:1", "13:1" }, { "1/3", "0.3333333333" }, { "0.91666", "0.91666" },
  { ("9"):rep(60) .. "/3", ("3"):rep(60) },
  { "3 million", "3000000" }, { "2^{100}", "1267650600228229401496703205376" }, { "10!", "3628800" }, { "\\binom{10}{3}", "120" },
  { "\\sqrt{12}", "2\\sqrt3" }, { "\\frac{1}{\\sqrt2}", "\\frac{\\sqrt{2}}{2}" }, { "\\sqrt{-4}", "2i" }, { "(1+i)^2", "2i" }, { "\\sqrt[3]{-8}", "-2" },
  { "\\sqrt{3-2\\sqrt2}", "\\sqrt2-1" }, { "\\sin 30^\\circ", "1/2" }, { "\\log_2 8", "3" }, { "\\tan^2 x + 1", "\\sec^2 x" }, { "2\\sin x\\cos x", "\\sin 2x" },
  { "33\\frac{1}{3}\\%", "1/3" }, { "12\\frac12\\%", "12.5\\%" }, { "3 1/2%", "3.5%" }, { "0.\\overline{3}", "1/3" }, { "0.1\\overline{6}", "\\frac16" },
  { "1.\\bar{27}", "\\frac{14}{11}" }, { "-2.\\overline{3}", "-7/3" }, { "1.5 x 10^3", "1500" }, { "1.5x10^{-3}", "0.0015" }, { "1 2", "1  2" },
  { "x*y^2", "xy^2" }, { "y^2x", "xy^2" }, { "(xy)^2", "x^2y^2" }, { "2ab^2c", "2 a b^2 c" }, { "10 cm^2", "10" }, { "ye^x", "e^x y" }, { "= 12", "12" },  { "|x-5|", "|5-x|" }, { "\\sqrt{x^2-20x+100}", "|x-10|" }, { "\\frac{1}{\\sqrt{x+1}+\\sqrt{x}}", "\\sqrt{x+1}-\\sqrt{x}" },
  { "\\cosh^2 x-\\sinh^2 x", "1" }, { "\\cos(\\arcsin x)", "\\sqrt{1-x^2}" }, { "\\sin \\pi", "0" }, { "\\sqrt{2}\\sqrt{3}-\\sqrt{6}", "0" }, { "\\pi\\cdot10^{-19}", "3.14159265359e-19" },
  { "\\lfloor n \\rfloor + 1", "1 + \\lfloor n \\rfloor" }, { "\\lceil -x \\rceil", "-\\lfloor x \\rfloor" }, { "\\lfloor 3.7 \\rfloor", "3" },
  { "\\mathbb{R}", "(-\\infty, \\infty)" }, { "x \\in \\mathbb{R}", "(-\\infty, \\infty)" }, { "\\mathbb{R}", "\\mathbb R" }, { "\\mathbb{Z}", "\\mathbb Z" },
  { "(x+1)(x-1)", "x^2-1" }, { "\\frac{x^2-1}{x-1}", "x+1" }, { "0.5x", "\\frac{x}{2}" }, { "e^{2x}e^x", "e^{3x}" }, { "\\ln 4", "2\\ln 2" }, { "2\\pi r", "2 \\pi r" },
  { "28\\%", "0.28" }, { "0.333333", "1/3" }, { "3.14159265", "\\pi" }, { "1 \\pm \\sqrt{19}", "1+\\sqrt{19}, 1-\\sqrt{19}" }, { "\\pm 3", "\\{3, -3\\}" },
  { "x \\in [-2, 7)", "-2 \\le x < 7" }, { "(-\\infty, 3)", "x < 3" }, { "x > 2", "2 < x" }, { "-x \\ge -1", "x \\le 1" }, { "2x + 4y = 6", "x = 3 - 2y" },
  { "\\{3, 1, 2\\}", "1, 2 \\text{ and } 3" }, { "[0,1) \\cup (2,3]", "(2,3] \\cup [0, 1)" }, { "x=1, y=2", "1, 2" }, { "(x, y) = (1, 2)", "(1, 2)" }, { "y = x^2 = 9", "9" },
  { "\\begin{pmatrix} 1 & 2 \\\\ 3 & 4 \\end{pmatrix}", "\\begin{bmatrix}1&2\\\\3&4\\end{bmatrix}" }, { "2\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}", "\\begin{pmatrix} 2 \\\\ 4 \\end{pmatrix}" },
  { "\\text{(C)}", "C" }, { "Monday", "\\text{monday}" }, { "7:32", "14:64" }, { "1\\,000\\text{ m}", "1000" }, { "\\sqrt{2}", "2^{1/2}" }, { "\\varnothing", "\\emptyset" },
  { "11,\\! 111", "11111" }, { "3.0 \\times 10^8 \\mathrm{~m/s}", "3e8" }, { "|x-1|", "|1-x|" }, { "\\frac{n(n+1)}{2}", "\\frac{n^2+n}{2}" }, { "x\\approx 11", "11" },
  { "9 km/h", "9" }, { "9 m/s^2", "9" }, { "9 g/cm^3", "9" }, { "9 kg*m/s", "9" }, { "120\\pi \\text{ cm}^3", "120\\pi" }, { "12 sq. ft.", "12" }, { "12 in.", "12" }, { "\\text{12 apples}", "12" },
  { "USD 9", "9" }, { "50¢", "50" }, { "-50%", "-50" }, { "-50\\%", "-0.5" }, { "50 percent", "0.5" }, { "50 \\text{ percent}", "50" }, { "3 \\text{ million}", "3000000" }, { "1.5\\text{ thousand dollars}", "1500" },
  { "3.5 × 10⁻³", "0.0035" }, { "x¹⁰", "x^{10}" }, { "12 cm²", "12" }, { "2⅔", "8/3" }, { "⅓", "1/3" }, { "14⁄3", "\\frac{14}{3}" }, { "{14 \\over 3}", "\\frac{14}{3}" }, { "{5 \\choose 2}", "10" }, { "2**0.5", "\\sqrt{2}" }, { "2^0.5", "\\sqrt2" },
  { "\\approx 9", "9" }, { "≈9.5", "9.5" }, { "~9", "9" }, { "\"9\"", "9" }, { "\226\128\1399", "9" }, { "45º", "45" }, { "The answer is 9", "9" }, { "\\text{The answer is }9", "9" }, { "Answer: 9", "9" },
  { "5 = x", "5" }, { "9th", "9" }, { "f(0) = 5", "5" }, { "2 f(0)", "f(0) + f(0)" }, { "3(0)", "0" }, { "120\\pi \\approx 376.99", "120\\pi" }, { "120\\pi \\approx 376.99", "376.99" }, { "x = \\sqrt2 \\approx 1.414", "1.414" }, { "\\sqrt{2}", "\\sqrt{2} \\approx 1.414" }, { "9 °C", "9" }, { "the answer is 2nd", "2" }, { "m+n = 9", "9" }, { "A)", "A" }, { "2:4:6", "1:2:3" }, { "3:30 p.m.", "3:30 PM" }, { "5!=120", "120" }, { "Richard's recipe.", "Richard's recipe" }, { "t(0,4].", "t(0,4]" },
  { "x < 2 \\text{ or } x > 3", "(-\\infty, 2) \\cup (3, \\infty)" }, { "\\lambda_{\\text {red}} / \\sqrt[2]{2}", "\\lambda_{\\text{red}} / \\sqrt{2}" }, { "\\boxed{np.arcsin(10/13)}", "np.arcsin(10/13)" },
}
-- answer, gold: not equal
local different = {
  { "3x", "3" }, { "3 x", "3" }, { "3i", "3" }, { "3 \\pi", "3" }, { "2 sqrt(3)", "2" }, { "3 or 4", "3" }, { "3 or 4", "4" }, { "3, 4 or 5", "5" },
  { "A or B or C", "B" }, { "12 apples and 3 pears", "12" }, { "7 8", "7" }, { "7 8", "8" }, { "3 million", "3" }, { "0.33", "1/3" }, { "1,3,5", "135" },
  { "12,34", "1234" }, { "", "5" }, { "5", "-5" }, { "1/0", "0" }, { "(1,2)", "[1,2]" }, { "(1,2)", "(2,1)" }, { "1,2,3", "1,2" },
  { "12345678901234567891", "12345678901234567890" }, { "0.33", "0.3333333333" }, { "a", "A" }, { "1.2.3", "1.2" }, { "--5", "5" }, { "inf", "nan" },
  { "1 2", "12" }, { "3 4 5", "345" }, { "0.\\overline{3}", "0.3" }, { "33\\frac{1}{3}\\%", "33" }, { "3x10", "30" }, { "x^2y^2", "xy^2" }, { "(xy)^2", "xy^2" }, { "|x-5|", "5-x" }, { "((x-5)^2)^{1/2}", "5-x" }, { "|x+10|", "x+10" }, { "\\sqrt{x^2-20x+100}", "10-x" }, { "\\lceil x \\rceil", "\\lfloor x \\rfloor+1" },
   { "\\pi\\cdot10^{-19}", "2.88e-19" }, { "I(0) e^{-\\frac{t}{RC}}", "2.88e-19" }, { "\\sqrt{2}\\cdot10^{-20}", "\\sqrt{3}\\cdot10^{-20}" },
   { "0", "\\lfloor \\sqrt{n-1} \\rfloor" }, { "1", "\\lfloor \\log_2 n \\rfloor + 1" },
  { "\\lfloor \\frac{2n-1}{5} \\rfloor", "\\lfloor \\sqrt{n-1} \\rfloor" }, { "\\lfloor \\frac{n}{2} \\rfloor", "\\lfloor \\frac{n+1}{2} \\rfloor" }, { "\\mathbb{R}", "[0, \\infty)" }, { "\\mathbb{R}", "\\mathbb{Z}" },
  { "5 < x < 7", "7" }, { "0x10", "16" },
  { "x > 5", "x < 5" }, { "x < 1", "x > -1" }, { "2x+z=1", "1" }, { "7 = 11a+c", "c" }, { "4\\sqrt2", "4" }, { "\\sqrt{x^2}", "x" }, { "x+1", "x+2" }, { "(1,2)", "\\{2,1\\}" },
  { "[0,1]", "[0,1)" }, { "1,2,2", "1,1" }, { "\\pm 2021", "2021" }, { "12:00", "1:00" }, { "0", "0.0000001" }, { "1.6e-19", "1.7e-19" }, { "32, 349", "32349" }, { "\\sin x", "\\cos x" },
  { "\\begin{pmatrix} 1 & 2 \\end{pmatrix}", "\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}" }, { "d", "\\text{E}" }, { "x=1", "y=1" }, { "3.14", "\\pi" }, { "1/3", "0.3334" },
  { "3:4", "3,4" }, { "(0,1)", "\\{0,1\\}" }, { "\\{3,4\\}", "(3,4)" }, { "6:1:2", "3:1:1" }, { "0:1:2", "0:5:7" }, { "1:2:3", "1/6" }, { "3:30 PM", "3:30 AM" }, { "12 squared", "12" }, { "12 hundredths", "12" },
  { "12 \\text{ squared}", "12" }, { "1.5\\text{ million}", "1.5" }, { "3 \\text{ dozen}", "3" }, { "12 below zero", "12" }, { "5 != 6", "6" }, { "5 \\neq 6", "6" }, { "5", "x + y = 5" }, { "x < 2 and x > 3", "(-\\infty, 2) \\cup (3, \\infty)" },
  { "10 n", "10" }, { "I(0)", "0" }, { "I(0) e^{-t}", "0" }, { "2f(0)", "0" }, { "5 \\approx 6", "6" }, { "x = 5 \\approx 6", "6" }, { "9 factorial", "9" }, { "9 \\text{ and a half}", "9" }, { "9 \\text{ plus one}", "9" }, { "3 s", "3" }, { "2 N/m", "2" }, { "9/xy", "9" }, { "not 9", "9" }, { "Answer: 9 or 10", "9" }, { "\\text{12 or 13}", "12" }, { "x^10", "x¹" },
}

test("equal answers", function()
  for _, p in ipairs(same) do equal(math_verifier.equal(p[1], p[2]), true, p[1] .. " = " .. p[2]) end
end)
test("different answers", function()
  for _, p in ipairs(different) do equal(math_verifier.equal(p[1], p[2]), false, p[1] .. " = " .. p[2]) end
end)
test("a tolerance is relative", function()
  equal(math_verifier.equal("100.005", "100", 1e-4), true, "100.005")
  equal(math_verifier.equal("100.02", "100", 1e-4), false, "100.02")
  equal(math_verifier.equal("-100", "100", 1e-4), false, "sign")
end)
test("fractions are exact beyond doubles", function()
  local n = require "verifiers.math.number"
  local a, b = n.decimal("0." .. ("0"):rep(400) .. "1"), n.decimal("0." .. ("0"):rep(400) .. "2")
  equal(n.equal(a, b), false, "tiny")
  equal(n.equal(n.add(a, a), b), true, "sum")
  equal(n.equal(n.add(n.decimal("1"), n.decimal("-3")), n.decimal("-2")), true, "1 - 3")
  equal(n.decimal(("1"):rep(3000)), nil, "3,000 digits")
  equal(n.decimal("1e99999"), nil, "a huge exponent")
  equal(n.key(n.pow(n.new(3), 50)), "717897987691852588770249", "3^50")
  equal(n.key(n.div(n.pow(n.new(6), 40), n.pow(n.new(4), 40))), "12157665459056928801/1099511627776", "in lowest terms")
  equal(n.double(n.div(n.pow(n.new(10), 400), n.pow(n.new(10), 399))), 10, "a quotient of two that no double holds")
  equal(pcall(n.pow, n.new(10), 90000), false, "too large")
end)

local function reward(text, gold, config)
  local r, info = math_verifier.make(config)({ answer = gold }, { text = text })
  return r, info
end

test("where the answer is looked for", function()
  equal(reward("2+3=5\n#### 5", "5"), 1, "hash")
  equal(reward("so \\boxed{5}.", "5"), 1, "boxed")
  equal(reward("so \\boxed{\\frac{1}{2}} it is", "0.5"), 1, "nested braces")
  equal(reward("so \\boxed 7", "7"), 1, "box without braces")
  equal(reward("#### 4\n#### 5", "5"), 1, "the last one counts")
  equal(reward("#### 5\n#### 4", "5"), 0, "the last one counts")
  equal(reward("\\boxed{4}\n#### 5", "5"), 1, "the later of both")
  equal(reward("the answer is 5", "5"), 0, "strict wants a marker")
  equal(reward("the answer is 5", "5", { extract = "flexible" }), 1, "flexible")
  equal(reward("costs $1,050.", "1050", { extract = "flexible" }), 1, "flexible with $ , and .")
  equal(reward("5 apples, not 6...", "6", { extract = "flexible" }), 1, "flexible passes over the dots")
  equal(reward("\\boxed{5}", "5", { extract = "hash" }), 0, "hash only")
  equal(reward("#### 5", "5", { extract = "boxed" }), 0, "boxed only")
  equal(reward("so \\boxed{5", "5"), 0, "cut off")
  equal(reward("#### \\boxed{5}", "5"), 1, "box after hash")
  equal(reward("####5", "5"), 1, "no space")
  equal(reward("#### 5 apples", "5"), 1, "unit")
  equal(select(2, reward("no idea", "5")).reason, "no answer", "reason")
  raises("extract is 'best'", math_verifier.make, { extract = "best" })
end)

test("golds", function()
  equal(math_verifier.gold("She has 2+3=<<2+3=5>>5.\n#### 1,005"), "1,005", "GSM8K")
  equal(math_verifier.gold("thus $\\boxed{1.6} \\mathrm{~cm}$"), "1.6", "boxed")
  equal(math_verifier.gold(27.0), "27", "number")
  equal(reward("#### 27", 27.0), 1, "numeric gold")
  equal(reward("#### 803", "803 (people)"), 1, "asdiv")
  raises("answer is missing", reward, "#### 5", nil)
end)

-- Each completion tries to earn a reward for a gold of 12 without having solved anything.
test("reward hacks earn nothing", function()
  local hacks = {
    "#### 10 or 11 or 12", "#### 10, 11, 12", "#### 10 11 12", "\\boxed{10 \\text{ or } 12}", "\\boxed{10}\\boxed{12}\\boxed{13}", "\\boxed{11, 12}",
    "#### {10, 12}", "#### 12 or so, or 13", "12\n12\n12", "Tom has 12 apples. Ann has 3. How many?", "####\n12", "#### x where x is 12", "#### 12 = 13",
    "####", "\\boxed{}", "\\boxed{\\boxed{}}", "#### between 1 and 100", "#### 12 #### 13", "#### <= 12",
  }
  for _, text in ipairs(hacks) do equal(reward(text, "12"), 0, text) end
  equal(reward("\\boxed{10} or \\boxed{12}", "12", { several = "reject" }), 0, "several = reject")
  equal(reward("\\boxed{12}, so again \\boxed{12.0}", "12", { several = "reject" }), 1, "the same one twice")
  equal(reward("Tom had 12 and 3. He has 15. #### 9", "12"), 0, "the prompt's numbers echoed")
end)

test("hostile text is slow for nobody", function()
  local text = ("\\boxed{"):rep(20000) .. ("#"):rep(20000) .. (" "):rep(20000) .. ("1,"):rep(20000)
  local began = tl.report and os.clock()
  for _, extract in ipairs { "strict", "flexible" } do reward(text, "5", { extract = extract }) end
  reward("#### " .. ("9"):rep(100000), "5")
  reward("#### " .. ("\\frac{"):rep(500) .. ("}"):rep(500), "5")
  equal(began ~= nil, true, "ran")
end)

test("regex", function()
  local v = require("verifiers.regex").make { pattern = "answer is (?<answer>[-\\d.,/]+)", flags = "i" }
  equal(v({ answer = "0.5" }, { text = "The ANSWER is 1/2" }), 1, "group equals")
  equal(v({ answer = "0.5" }, { text = "the answer is 1/2 no the answer is 3" }), 0, "last match")
  equal(v({ answer = "5" }, { text = "5" }), 0, "no match")
  local full = require("verifiers.regex").make { which = "full" }
  equal(full({ pattern = "yes|no" }, { text = " yes \n" }), 1, "full")
  equal(full({ pattern = "yes|no" }, { text = "yes and no" }), 0, "not full")
  raises("pattern %(: ", require("verifiers.regex").make, { pattern = "(" })
  local slow = require("verifiers.regex").make { pattern = "^(\\w+\\s?)*$" }
  raises("match limit", slow, {}, { text = ("a"):rep(200) .. "!" })
end)

test("regular expressions", function()
  local captures = regex.compile("(?<n>\\d+)(x)?"):match("ab 12")
  equal(captures.n, "12", "named")
  equal(captures[2], nil, "unset group")
  local seen = {}
  for c in regex.compile("a*"):each("baa\195\169c") do seen[#seen + 1] = c[0] end
  equal(table.concat(seen, "|"), "|aa|||", "empty matches")
  equal(regex.compile("\195\169"):find("\255\195\195\169"), 3, "text that is not UTF-8")
  equal(regex.compile("A", "i"):find("za"), 2, "caseless")
  raises("unknown flag", regex.compile, "a", "q")
end)

test("format", function()
  local make = require("verifiers.format").make
  local function f(config, text, finish) return (make(config)({}, { text = text, finish = finish })) end
  equal(f({}, "a\n#### 5"), 1, "hash")
  equal(f({}, "a #### 5"), 0, "not its own line")
  equal(f({}, "#### 5\n#### 6"), 0, "two")
  equal(f({}, "a\n#### 5\nand more"), 0, "text after it")
  equal(f({ min_words = 3 }, "a\n#### 5"), 0, "no reasoning")
  equal(f({ form = "boxed" }, "so \\boxed{\\frac{1}{2}}"), 1, "boxed")
  equal(f({ form = "boxed" }, "\\boxed{1} \\boxed{2}"), 0, "two boxes")
  equal(f({ form = "boxed" }, "\\boxed{}"), 0, "empty box")
  equal(f({ form = "think" }, "<think>hm</think>\n<answer>5</answer>"), 1, "think")
  equal(f({ form = "think" }, "<think> </think><answer>5</answer>"), 0, "empty reasoning block")
  equal(f({ form = "think" }, "<think>a<think>b</think></think><answer>5</answer>"), 0, "tag twice")
  equal(f({ form = "json" }, '{"a": [1, 2]}'), 1, "json")
  equal(f({ form = "json" }, '{"a": [1, 2]} ok'), 0, "not json")
  equal(f({ pattern = "\\d+ apples" }, " 12 apples "), 1, "pattern")
  equal(f({ pattern = "\\d+ apples" }, "12 apples!"), 0, "pattern matches all")
  equal(f({ lua_pattern = "%d+" }, "12"), 1, "lua pattern")
  equal(f({ stopped = true }, "a\n#### 5", "length"), 0, "cut off")
  raises("form is 'poem'", make, { form = "poem" })
end)

test("length", function()
  local make = require("verifiers.length").make
  local function f(config, n) return (make(config)({}, { text = "", n_tokens = n })) end
  equal(f({ shape = "overlong", limit = 100, buffer = 20 }, 80), 0, "up to limit - buffer")
  equal(f({ shape = "overlong", limit = 100, buffer = 20 }, 90), -0.5, "half of the buffer")
  equal(f({ shape = "overlong", limit = 100, buffer = 20 }, 100), -1, "limit")
  equal(f({ shape = "overlong", limit = 100, buffer = 20 }, 101), -1, "beyond")
  equal(f({ limit = 100 }, 100), 1, "limit")
  equal(f({ limit = 100 }, 101), 0, "over the limit")
  equal(f({ target = 100 }, 50), 0.5, "target")
  equal(f({ target = 100, width = 10 }, 50), 0, "far from target")
  equal(make { limit = 2, unit = "words" }({}, { text = " two  words " }), 1, "words")
  equal(make { limit = 2, unit = "chars" }({}, { text = "\195\169\195\169" }), 1, "characters, not bytes")
  raises("has a limit", make {}, {}, { text = "", n_tokens = 1 })
  raises("unit is 'lines'", make, { unit = "lines" })
end)

test("combine", function()
  local make = require("verifiers.combine").make
  local parts = { { verifier = "math" }, { verifier = "format", weight = 0.25, config = { min_words = 1 } } }
  local sum, all, gate = make { parts = parts }, make { parts = parts, mode = "all" }, make { parts = { parts[2], parts[1] }, mode = "gate", closed = -1 }
  local problem, good, bare, wrong = { answer = "5" }, { text = "2+3\n#### 5" }, { text = "#### 5" }, { text = "2+3\n#### 6" }
  equal(sum(problem, good), 1.25, "sum")
  equal(sum(problem, bare), 1, "sum without form")
  equal(all(problem, good), 1, "all")
  equal(all(problem, bare), 0, "not all")
  equal(gate(problem, good), 1, "gate open")
  equal(gate(problem, bare), -1, "gate closed")
  equal(gate(problem, wrong), 0, "gate open, wrong")
  equal(select(2, sum(problem, good))[1].reward, 1, "info")
  raises("wants config.parts", make, {})
  raises("mode is 'max'", make, { mode = "max", parts = parts })
end)

test("the pool says what the function says", function()
  local problem, texts = { answer = "5" }, { "#### 5", "#### 6", "\\boxed{5}", "5", "\0#### 5", "\255\254\n#### 5" }
  local by_name = tl.verify.pool { verifier = "verifiers.math", workers = 3 }
  local by_code = tl.verify.pool { verifier = function(p, c) return require("verifiers.math").verify(p, c) end }
  local inline = tl.verify.pool { verifier = "math", inline = true }
  for _, pool in ipairs { by_name, by_code, inline } do
    local text_of = {}
    for _, t in ipairs(texts) do text_of[pool:submit(problem, { text = t, n_tokens = 1, finish = "stop" })] = t end
    equal(pool:pending(), #texts, "pending")
    while pool:pending() > 0 do
      local v = pool:take(10000)
      equal(v.outcome, "ok", text_of[v.job])
      equal(v.reward, (math_verifier(problem, { text = text_of[v.job] })), text_of[v.job])
    end
    equal(pool:take(0), nil, "nothing is left")
    pool:free()
  end
end)

local function one(o, problem, completion)
  local pool = tl.verify.pool(o)
  pool:submit(problem or { answer = "5" }, completion or { text = "t" })
  local v = pool:take(-1)
  pool:free()
  return v
end

test("plain functions as verifiers", function()
  equal(one({ verifier = function(p, c) return c.text == "t" end }).reward, 1, "boolean")
  equal(one({ verifier = function() end }).outcome, "abstain", "nil")
  local v = one { verifier = function(p) return p.a.b end }
  equal(v.outcome, "error", "error")
  equal(v.message:find("test_verifiers.lua:%d+:") ~= nil, true, "its place in " .. v.message)
  equal(v.reward ~= v.reward, true, "no reward with an error")
  equal(one({ verifier = function() while true do end end, timeout_ms = 50 }).outcome, "timeout", "loop")
  equal(one({ verifier = function() return #("x"):rep(1e9) end }).outcome, "memory", "memory")
  local up = 5
  raises("uses 'up' from around it", tl.verify.pool, { verifier = function() return up end })
  equal(one({ verifier = function() return up end, inline = true }).reward, 5, "inline")
  for _, inline in ipairs { false, true } do  -- what JSON cannot hold is left out of the info, and ends no run
    v = one { verifier = function() return 1, { f = print } end, inline = inline }
    equal(v.outcome, "ok", "info, inline " .. tostring(inline))
    equal(v.reward, 1)
  end
  v = one { verifier = function(p) return p.a.b + up end, inline = true }
  equal(v.outcome, "error", "inline error")
  equal(v.message:find("test_verifiers.lua:%d+:") ~= nil, true, "its place in " .. v.message)
  equal(one({ verifier = function() return 0 / 0 end, inline = true }).outcome, "error", "NaN")
end)

test("what a pool refuses", function()
  for given, name in pairs { ["verifiers.math"] = "math", math = "math", ["/a.b/my.lua"] = "my", ["my.lua"] = "my", [print] = "reward" } do equal(tl.verify.name(given), name) end
  raises("no verifier module 'maths'; did you mean math", tl.verify.pool, { verifier = "maths" })
  raises("no option 'timeout'", tl.verify.pool, { verifier = "math", timeout = 3 })
  raises("workers wants a whole number from 0; got '3'", tl.verify.pool, { verifier = "math", workers = "3" })
  raises("wants a verifier", tl.verify.pool, {})
  raises("extract is 'best'", tl.verify.pool, { verifier = "math", config = { extract = "best" } })
  local pool = tl.verify.pool { verifier = "math" }
  pool:free()
  raises("was freed", pool.take, pool, 0)
end)

os.exit(failed and 1 or 0)
