-- Puzzles: every kind at every difficulty is solved by its own answer and not by another's or a damaged one; the seed alone decides them; train and
-- test never meet. Structured, constraints: what is well-formed or followed, and what is not. Catches: a checker that takes junk or refuses a solution.
package.path = arg[0]:match "^(.*)/" .. "/?.lua;" .. package.path
local check = require "check"
local tl = require "tl"
local verifier = require "verifiers.puzzles"

check.test("every puzzle is solved by its answer, at every difficulty", function()
  for _, kind in ipairs(tl.puzzles.kinds()) do
    for d = 1, 10 do
      for i = 0, 9 do
        local p = tl.puzzles.problem(kind, 5, i, d)
        local ok, why = tl.puzzles.check(p.puzzle, p.answer)
        if not ok then error(("%s, difficulty %d: %s: %s"):format(kind, d, p.answer, tostring(why))) end
        check.equal((verifier(p, { text = "so <answer>" .. p.answer .. "</answer>" })), 1)
        for _, junk in ipairs { "", p.answer:gsub("%w", "", 1), p.answer .. " 1", p.question, (p.answer:gsub("%d", "0")) .. "x", "1" } do
          if junk ~= p.answer and not (kind == "chain" and tonumber(junk) == p.puzzle.value) and not (kind == "colouring" and junk == p.answer .. " 1") then
            if tl.puzzles.check(p.puzzle, junk) then error(kind .. " takes " .. junk) end
          end
        end
      end
    end
  end
end)

check.test("a puzzle is a function of its seed; train and test differ", function()
  local a = tl.data.load("puzzles:countdown", { n = 30, seed = 3, difficulty = { 1, 5 } })
  local b = tl.data.load("puzzles:countdown", { n = 30, seed = 3, difficulty = { 1, 5 } })
  local c = tl.data.load("puzzles:countdown", { n = 30, seed = 3, difficulty = { 1, 5 }, split = "test" })
  local same, seen = 0, {}
  for i = 1, 30 do check.equal(a[i], b[i]); seen[a[i].question] = true end
  for i = 1, 30 do same = same + (seen[c[i].question] and 1 or 0) end
  check.equal(same <= 2, true, same .. " questions stand in both") -- few small countdowns exist, a chance hit is possible
  check.raises("unknown puzzle 'sudokus'; did you mean sudoku", tl.data.load, "puzzles:sudokus")
  check.raises("from 1 to 10", tl.data.load, "puzzles:chain", { difficulty = 11 })
end)

check.test("countdown counts what is used", function()
  local p = { kind = "countdown", numbers = { 3, 5, 7 }, target = 22 }
  check.equal(tl.puzzles.check(p, "3 * 5 + 7"), true)
  check.equal(tl.puzzles.check(p, "(3*5)+7 = 22"), true)
  check.equal((tl.puzzles.check(p, "22")), false)
  check.equal((tl.puzzles.check(p, "7 + 5 * 3 + 0")), false)
  check.equal((tl.puzzles.check(p, "3 * 5 + 7 + 7 - 7")), false)
  check.equal((tl.puzzles.check({ kind = "countdown", numbers = { 1, 3, 4, 6 }, target = 24 }, "6 / (1 - 3 / 4)")), true)
  check.equal((tl.puzzles.check(p, "3 / (5 - 5) + 7")), false)
end)

local structured = require "verifiers.structured"
local function s(config, text, problem) return (structured.make(config)(problem or {}, { text = text })) end

check.test("JSON is strict, and may have a schema", function()
  for _, good in ipairs { "{}", " [1, -0.5e3, \"\\u00e9\", null] ", "\"x\"", "0" } do check.equal(s({}, good), 1, good) end
  for _, bad in ipairs { "", "{a: 1}", "[1,]", "01", "1.", "+1", "{\"a\":1} x", "[1] // no", "\"a\nb\"", "NaN", "'a'", "{\"a\" 1}", "```json\n{}\n```" } do check.equal(s({}, bad), 0, bad) end
  check.equal(s({ fence = true }, "```json\n{}\n```"), 1, "fence")
  local config = { schema = { type = "object", required = { "answer" }, properties = { answer = { type = "integer", minimum = 0 } }, additionalProperties = false } }
  check.equal(s(config, '{"answer": 5}'), 1)
  check.equal(s(config, '{"answer": 5.5}'), 0)
  check.equal(s(config, '{"answer": 5, "b": 1}'), 0)
  local _, info = structured.make(config)({}, { text = "{}" })
  check.equal(info.reason, "/: lacks the property answer")
  check.equal(s({}, '{"a": [1]}', { value = { a = { 1 } } }), 1)
  for _, text in ipairs { "[]", "{}" } do -- an empty list is no empty object
    for _, value in ipairs { "[]", "{}" } do check.equal(s({}, text, { value = tl.json.decode(value) }), text == value and 1 or 0, text .. " for " .. value) end
  end
  check.equal(s({}, '"\255"'), 0, "no UTF-8")
  check.equal(s({}, '"\237\160\128"'), 0, "half a pair")
  check.equal(s({}, '"\195\169\226\130\172\240\159\152\128"'), 1, "two, three and four bytes")
  check.equal(s({}, ("["):rep(900) .. ("]"):rep(900)), 1, "deep")
  check.equal(s({}, ("["):rep(1e5)), 0, "deeper")
  check.equal(s({ format = "grammar", grammar = "g <- '(' g ')' / 'x'" }, ("("):rep(1e5)), 0, "a grammar, deeper")
  check.equal(s({}, '{"a": [2]}', { value = { a = { 1 } } }), 0)
end)

check.test("YAML, XML, CSV, patterns, grammars", function()
  check.equal(s({ format = "yaml", schema = { type = "object" } }, "a: 1\nb: [x, y]"), 1)
  check.equal(s({ format = "yaml" }, "a: [1"), 0)
  check.equal(s({ format = "xml" }, "<a><b c='1'/>text</a>"), 1)
  check.equal(s({ format = "xml" }, "<a><b></a>"), 0)
  check.equal(s({ format = "xml" }, "<a/><b/>"), 0)
  check.equal(s({ format = "csv", columns = { "name", "n" }, rows = 2 }, 'name,n\n"a, b",1\nc,2'), 1)
  check.equal(s({ format = "csv" }, "a,b\n1"), 0)
  check.equal(s({ format = "csv" }, 'a,"b\n1,2'), 0)
  check.equal(s({ format = "regex", pattern = "\\d+ (cats|dogs)" }, "12 cats"), 1)
  check.equal(s({ format = "regex", pattern = "\\d+ (cats|dogs)" }, "12 cats!"), 0)
  if tl.lpeg.re then
    local g = { format = "grammar", grammar = "S <- 'a' S 'b' / ''" }
    check.equal(s(g, "aaabbb"), 1)
    check.equal(s(g, "aabbb"), 0)
  end
  check.raises("format is 'poem'", structured.make, { format = "poem" })
end)

local constraints = require "verifiers.constraints"
local function follows(text, a) return (constraints.make()({ question = "Say it.", instructions = { a } }, { text = text })) == 1 end

check.test("every kind of instruction, followed and not", function()
  local rows = {
    { "keywords:existence", { keywords = { "tea", "cup" } }, "A cup of tea.", "A teacup." },
    { "keywords:forbidden_words", { forbidden_words = { "red" } }, "A blue bird, bored.", "A Red bird." },
    { "keywords:frequency", { keyword = "go", frequency = 2, relation = "at least" }, "Go, go!", "Go. Gone." },
    { "keywords:letter_frequency", { letter = "z", let_frequency = 2, let_relation = "less than" }, "zoo", "Zzz" },
    { "language:response_language", { language = "de" }, "Das ist nicht der Hund, und ich bin auf dem Weg.", "This is not the dog and I am on the way to it." },
    { "language:response_language", { language = "hi" }, "\224\164\168\224\164\174\224\164\184\224\165\141\224\164\164\224\165\135", "namaste" },
    { "length_constraints:number_words", { num_words = 3, relation = "at least" }, "one two three", "one - two" },
    { "length_constraints:number_sentences", { num_sentences = 2, relation = "exactly" }, "Dr. Who paid 3.5 pounds. He left!", "One." },
    { "length_constraints:number_paragraphs", { num_paragraphs = 2 }, "a\n***\nb", "a\n\nb" },
    { "length_constraints:nth_paragraph_first_word", { num_paragraphs = 2, nth_paragraph = 2, first_word = "then" }, "a\n\nThen b", "a\n\nb then" },
    { "detectable_content:number_placeholders", { num_placeholders = 2 }, "[name] at [address]", "[name]" },
    { "detectable_content:postscript", { postscript_marker = "P.S." }, "Bye.\nP.S. more", "Bye." },
    { "detectable_content:postscript", { postscript_marker = "P.S." }, "Bye.\n**P.S.** more", "Bye.\nPsychology" },
    { "detectable_content:postscript", { postscript_marker = tl.json.null }, "Bye.\n- P. S. more", "Bye.\nP.S." },
    { "detectable_format:number_bullet_lists", { num_bullets = 2 }, "* a\n* b", "* a\n* b\n* c" },
    { "detectable_format:constrained_response", {}, "My answer is yes.", "Yes." },
    { "detectable_format:number_highlighted_sections", { num_highlights = 2 }, "*a* and **b**", "*a*" },
    { "detectable_format:number_highlighted_sections", { num_highlights = 2 }, "*****\n**a** *b*", "*****a** b" },
    { "detectable_format:multiple_sections", { section_spliter = "Section", num_sections = 2 }, "Section 1\na\nSection 2\nb", "Section 1" },
    { "detectable_format:json_format", {}, "```json\n{\"a\": 1}\n```", "{a}" },
    { "detectable_format:title", {}, "<<A title>>\ntext", "<<>> text" },
    { "combination:two_responses", {}, "a\n******\nb", "a\n******\na" },
    { "combination:repeat_prompt", { prompt_to_repeat = "Say it." }, "Say it. It.", "It." },
    { "startend:end_checker", { end_phrase = "The end." }, "So.\nThe end.", "The end. No." },
    { "startend:quotation", {}, '"all of it"', 'all "of" it' },
    { "change_case:capital_word_frequency", { capital_frequency = 2, capital_relation = "at least" }, "NOW or NEVER", "Now or NEVER" },
    { "change_case:english_capital", {}, "ALL OF IT", "ALL OF it" },
    { "change_case:english_lowercase", {}, "all of it", "All of it" },
    { "change_case:english_lowercase", {}, "all of it", "all of \195\137" },
    { "change_case:english_capital", {}, "ALL OF \195\137", "ALL OF \195\169" },
    { "punctuation:no_comma", {}, "a; b", "a, b" },
  }
  local seen = {}
  for _, r in ipairs(rows) do
    local a = { id = r[1] }
    for k, v in pairs(r[2]) do a[k] = v end
    seen[r[1]] = true
    check.equal(follows(r[3], a), true, r[1] .. " on " .. r[3])
    check.equal(follows(r[4], a), false, r[1] .. " on " .. r[4])
    check.equal(follows("", a), false, r[1] .. " on nothing")
  end
  for _, id in ipairs(constraints.kinds()) do check.equal(seen[id], true, id) end
  local two = { instruction_id_list = { "punctuation:no_comma", "startend:quotation" }, kwargs = { {}, {} } }
  check.equal((constraints.make { score = "share" }(two, { text = "no quotes" })), 0.5)
  check.raises("unknown instruction 'a:b'", constraints.make(), { instructions = { { id = "a:b" } } }, { text = "x" })
end)
check.done()
