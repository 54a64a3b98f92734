-- Word problems and the BPE trainer: same seed same text, Philox in Lua equals the library's, every chain calculates, the
-- splits never meet, the tokenizer that bpe_train writes loads and round-trips.
local tl = require "tl"
local F = require "tl.ffi"
local philox, word, bpe = require "tl.philox", require "tl.wordproblems", require "tl.bpe_train"

local failed = false
local function test(name, fn)
  local ok, why = pcall(fn)
  print(ok and "ok " .. name or "not ok " .. name .. ": " .. tostring(why))
  failed = failed or not ok
end
local function equal(found, expected, what)
  if found ~= expected then error(("%s: %s, expected %s"):format(what, tostring(found), tostring(expected)), 2) end
end

test("philox in Lua equals tl_uniform", function()
  for _, seed in ipairs { 0, 7, 4294967301, 9007199254740881 } do
    for _, stream in ipairs { 0, 3, 4294967296 } do
      for index = 0, 9 do
        equal(philox.uniform(seed, stream, index), tonumber(F.C.tl_uniform(seed, stream, index)),
          ("draw (%.0f, %.0f, %d)"):format(seed, stream, index))
      end
    end
  end
end)

test("a problem depends on seed and index only", function()
  local all, part = word.generate { n = 20, seed = 5 }, word.generate { n = 4, seed = 5, first = 13 }
  for i = 1, 4 do
    equal(part[i].question, all[13 + i].question, "question")
    equal(part[i].steps, all[13 + i].steps, "steps")
    equal(part[i].id, "5:" .. 12 + i, "id")
  end
  equal(word.generate({ n = 1, seed = 6 })[1].question == all[1].question, false, "another seed gives the same question")
end)

-- what this would catch: a step that does not follow from the one before, or a wrong operation
test("every step calculates and follows the one before", function()
  local apply = { ["+"] = function(a, b) return a + b end, ["-"] = function(a, b) return a - b end,
                  ["*"] = function(a, b) return a * b end, ["/"] = function(a, b) return a / b end }
  for _, p in ipairs(word.generate { n = 2000, seed = 3, min_ops = 1, max_ops = 6 }) do
    local value, lines = nil, 0
    for left, sign, right, result in p.steps:gmatch "(%d+)([%+%-%*/])(%d+)=(%d+)\n" do
      if value then equal(tonumber(left), value, p.id .. " left operand") end
      value, lines = tonumber(result), lines + 1
      equal(apply[sign](tonumber(left), tonumber(right)), value, p.id .. " result")
      if value > 199 then error(p.id .. ": " .. value .. " exceeds max_number") end
    end
    equal(lines, p.ops, p.id .. " operations")
    equal(tostring(value), p.answer, p.id .. " answer")
    equal(p.steps:match "#### (%d+)$", p.answer, p.id .. " last line of steps")
    equal(p.direct, "#### " .. p.answer, p.id .. " direct")
    if p.question:find "%%" then error(p.id .. " has an unfilled pattern: " .. p.question) end
  end
end)

test("training and held-out problems share no chain", function()
  local seen, n = {}, 0
  for _, p in ipairs(word.generate { n = 5000, seed = 1, min_ops = 2, max_ops = 4, split = "train" }) do seen[p.chain] = true end
  for _, p in ipairs(word.generate { n = 2000, seed = 2, min_ops = 2, max_ops = 4, split = "test" }) do
    if seen[p.chain] then error("in both splits: " .. p.chain) end
  end
  for _, p in ipairs(word.generate { n = 5000, seed = 4, min_ops = 3, max_ops = 3 }) do
    local same = word.problem(4, tonumber(p.id:match ":(%d+)"), { min_ops = 3, max_ops = 3, max_number = 199, split = "test" })
    if same.chain == p.chain then n = n + 1 end
  end
  -- 1 in 16: 312.5 expected, standard deviation 17; five of them
  if n < 227 or n > 398 then error(("%d of 5000 are of the split test, expected about 312"):format(n)) end
end)

test("corpus: the share of styles, same problems", function()
  local a, b = word.corpus { n = 2000, seed = 9, steps = 0.25 }, word.corpus { n = 2000, seed = 9, steps = 0.9 }
  local n = 0
  for i = 1, 2000 do
    equal(a[i].question, b[i].question, "question")
    if a[i].style == "steps" then n = n + 1; equal(b[i].style, "steps", "style when the share is higher") end
  end
  if n < 400 or n > 600 then error(n .. " of 2000 in steps, expected about 500") end  -- 5 standard deviations
end)

test("settings out of range are refused", function()
  for want, o in pairs { ["min_ops is 4"] = { min_ops = 4, max_ops = 3 }, ["max_number"] = { max_number = 10 }, ['split is "dev"'] = { split = "dev" } } do
    local ok, why = pcall(word.generate, o)
    if ok or not why:find(want, 1, true) then error("expected a refusal with '" .. want .. "', got " .. tostring(why)) end
  end
end)

test("the tokenizer that bpe_train writes loads, encodes single digits and round-trips", function()
  local texts, special = {}, { "<|endoftext|>", "<|im_start|>", "<|im_end|>" }
  for i, p in ipairs(word.generate { n = 300, seed = 1 }) do texts[i] = "user\n" .. p.question .. "assistant\n" .. p.steps end
  local dir = os.tmpname()
  os.remove(dir)
  tl.fs.mkdirs(dir)
  local function write(name, text) tl.fs.write(dir .. "/" .. name, text) end
  write("tokenizer.json", bpe.tokenizer_json(bpe.train(texts, { vocab = 400, special = special })))
  write("tokenizer_config.json", bpe.config_json { eos = "<|im_end|>", pad = "<|endoftext|>", max_length = 512, chat_template = "{{ 1 }}" })
  local tok = tl.tokenizer.load(dir)
  local ids = tok:encode("123")
  equal(#ids, 3, "tokens of 123")
  equal(tok:decode(ids), "123", "123 and back")
  for _, text in ipairs { texts[1], 'a "quoted" \\ line\n\ttab', "caf\195\169 \226\130\172" } do equal(tok:decode(tok:encode(text)), text, "round trip") end
  equal(tok:id "<|im_end|>", 2, "id of <|im_end|>")
  os.remove(dir .. "/tokenizer.json"); os.remove(dir .. "/tokenizer_config.json"); os.remove(dir)
end)

os.exit(failed and 1 or 0)
