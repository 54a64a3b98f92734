-- wordproblems.lua: a synthetic language of arithmetic word problems, in which the embedded models were trained and in
-- which the quickstart measures. Every problem is a chain of 2 to 6 operations on one running amount, told in short
-- English sentences, and has two answers: step by step, and at once.
--
--   question   Tom has 14 apples. He buys 9 more. He gives 12 to Mia. Ann has 3 times as many as Tom. How many apples
--              does Ann have now?
--   steps      14+9=23 / 23-12=11 / 11*3=33 / #### 33       (one line each)
--   direct     #### 33
--
-- A single step is small (one sum, difference, product or quotient); the whole chain at once is not. So a small model can
-- be good at the one and poor at the other: what it answers is then a question of style, not of knowledge.
--
-- Deterministic: problem i of a seed is a pure function of (seed, i) and the settings, by Philox. Training and held-out
-- problems never share a chain: chains (start value, operations, operands; the words do not count) are split by a hash,
-- one in 16 for the split "test" and the others for "train", whatever the seed.
local options = require "tl.options"
local philox = require "tl.philox"

local wordproblems = {}

-- name, then 0 for he and 1 for she
local PEOPLE = {
  { "Tom", 0 }, { "Mia", 1 }, { "Ben", 0 }, { "Ann", 1 }, { "Sam", 0 }, { "Eva", 1 }, { "Leo", 0 }, { "Lisa", 1 },
  { "Max", 0 }, { "Nina", 1 }, { "Paul", 0 }, { "Rosa", 1 }, { "Omar", 0 }, { "Kim", 1 }, { "Ravi", 0 }, { "Yuki", 1 },
}
local ITEMS = { "apples", "books", "cards", "coins", "pens", "stamps", "shells", "stones", "eggs", "nuts", "toys", "beads",
                "pears", "cakes", "balls", "keys" }
local CONTAINERS = { "boxes", "bags", "jars", "packs" }

-- In the sentences: %P who holds the amount (name), %S he or she, %O him or her, %Q another name, %I the items, %N number
local SENTENCES = {
  add = { "%S buys %N more.", "%S finds %N more %I.", "%Q gives %O %N.", "%S gets %N from %Q.", "Then %S wins %N %I." },
  sub = { "%S gives %N to %Q.", "%S loses %N of them.", "%S sells %N %I.", "%Q takes %N of them.", "Then %S drops %N." },
  mul = { "%Q has %N times as many as %P.", "Soon %S has %N times as many.", "%S works until there are %N times as many." },
  div = { "%S shares them equally among %N friends, and %Q gets one part.", "%S puts them into %N equal piles and keeps one pile." },
  double = { "%Q has twice as many as %P.", "%S doubles that amount." },
  half = { "%S sells half of them.", "%Q has half as many as %P." },
}
-- after these sentences the amount is the other person's: the start of their pattern, or their end
local function changes_holder(sentence) return sentence:find("^%%Q has") or sentence:find("%%Q gets one part") end

local SIGN = { add = "+", sub = "-", mul = "*", div = "/" }

-- one operation on `value`: kind, operand, result. Ranges keep each step within reach of a small model.
local function draw_operation(rng, value, max_number)
  while true do
    local kind = rng.pick { "add", "sub", "mul", "div", "add", "sub", "mul" }
    if kind == "add" then
      local n = rng.integer(2, 49)
      if value + n <= max_number then return kind, n, value + n end
    elseif kind == "sub" and value > 4 then
      local n = rng.integer(2, math.min(49, value - 2))
      return kind, n, value - n
    elseif kind == "mul" then
      local n = rng.integer(2, 5)
      if value * n <= max_number and value <= 50 then return kind, n, value * n end
    elseif kind == "div" then
      local n = rng.integer(2, 5)
      if value % n == 0 and value / n >= 2 and value <= 100 then return kind, n, value / n end
    end
  end
end

-- the numbers of a problem: {start, boxes or nil, {kind, operand, result}...}
local function draw_chain(rng, ops, max_number)
  local chain, value, key = {}, nil, nil
  if rng.uniform() < 0.25 then  -- "4 boxes of 6": the first operation is in the first sentence
    local a, b = rng.integer(2, 9), rng.integer(2, 9)
    chain.start, chain.boxes, value = b, a, a * b
    chain[1] = { kind = "mul", left = a, n = b, result = value }
    key = a .. "*" .. b
  else
    value = rng.integer(3, 60)
    chain.start, key = value, tostring(value)
  end
  while #chain < ops do
    local kind, n, result = draw_operation(rng, value, max_number)
    chain[#chain + 1] = { kind = kind, left = value, n = n, result = result }
    key = key .. SIGN[kind] .. n
    value = result
  end
  chain.key, chain.answer = key, value
  return chain
end

-- FNV-1a over the chain, folded to 4 bits; arithmetic in halves stays exact in doubles
local function is_test(key)
  local bxor, h = require("bit").bxor, 2166136261
  for i = 1, #key do
    h = bxor(h, key:byte(i)) % 4294967296
    h = ((h % 65536) * 16777619 + (math.floor(h / 65536) * 16777619 % 65536) * 65536) % 4294967296
  end
  return (math.floor(h / 65536) + h) % 16 == 0
end

local function another(rng, person)
  local other
  repeat other = rng.pick(PEOPLE) until other ~= person
  return other
end

local function tell(rng, chain)
  local holder, item = rng.pick(PEOPLE), rng.pick(ITEMS)
  local out, first = {}, 1
  if chain.boxes then
    out[1] = ("%s has %d %s of %d %s."):format(holder[1], chain.boxes, rng.pick(CONTAINERS), chain.start, item)
    first = 2
  else
    out[1] = ("%s has %d %s."):format(holder[1], chain.start, item)
  end
  for i = first, #chain do
    local op = chain[i]
    local kind = op.kind
    if op.n == 2 and kind == "mul" and rng.uniform() < 0.5 then kind = "double" end
    if op.n == 2 and kind == "div" and rng.uniform() < 0.5 then kind = "half" end
    local pattern, other = rng.pick(SENTENCES[kind]), another(rng, holder)
    local words = { P = holder[1], S = holder[2] == 0 and "he" or "she", O = holder[2] == 0 and "him" or "her",
                    Q = other[1], I = item, N = tostring(op.n) }
    local sentence = pattern:gsub("%%(%u)", words)
    out[#out + 1] = sentence:gsub("^%l", string.upper)
    if changes_holder(pattern) then holder = other end
  end
  out[#out + 1] = ("How many %s does %s have now?"):format(item, holder[1])
  return table.concat(out, " ")
end

---@class tl.Problem
---@field id string        seed:index
---@field question string
---@field messages table    the question as a chat: one message of the user
---@field answer string    the number
---@field steps string     every operation on its own line, then "#### answer"
---@field direct string    "#### answer"
---@field solution string  steps, under the name that data sets use
---@field ops integer
---@field chain string     the numbers alone, "14+9-12*3"; what the split goes by

---Problem number `index` of a seed.
---@return tl.Problem
function wordproblems.problem(seed, index, o)
  local rng = philox.stream(seed, index)
  local ops, chain = rng.integer(o.min_ops, o.max_ops), nil
  repeat chain = draw_chain(rng, ops, o.max_number) until not o.split or is_test(chain.key) == (o.split == "test")
  local lines = {}
  for i, op in ipairs(chain) do lines[i] = ("%d%s%d=%d"):format(op.left, SIGN[op.kind], op.n, op.result) end
  local answer = tostring(chain.answer)
  local direct = "#### " .. answer
  lines[#lines + 1] = direct
  local question = tell(rng, chain)
  local steps = table.concat(lines, "\n")
  return { id = seed .. ":" .. index, question = question, messages = { { role = "user", content = question } }, answer = answer,
           steps = steps, direct = direct, solution = steps, ops = ops, chain = chain.key }
end

local OPTIONS = options.names { any = "split", count = "n first min_ops max_ops max_number", seed = "seed" }
local CORPUS = options.names({ number = "steps asked" }, OPTIONS)

local function settings(what, o, known)
  options.only("wordproblems." .. what, o, known, 3)
  local s = { n = o.n or 100, seed = o.seed or 0, first = o.first or 0, min_ops = o.min_ops or 3, max_ops = o.max_ops or 4,
              max_number = o.max_number or 199, split = o.split }
  if s.min_ops < 1 or s.max_ops < s.min_ops then
    error(("wordproblems: min_ops is %s and max_ops %s; want 1 <= min_ops <= max_ops"):format(s.min_ops, s.max_ops), 3)
  end
  if s.max_number < 99 then error(("wordproblems: max_number is %s; want at least 99"):format(s.max_number), 3) end
  if s.split and s.split ~= "train" and s.split ~= "test" then
    error(('wordproblems: split is "%s"; want "train", "test" or nil for both'):format(tostring(s.split)), 3)
  end
  return s
end

---@param o table  n (100), seed (0), first (0: index of the first), min_ops (3), max_ops (4), max_number (199: no amount
---                exceeds it), split ("train" or "test": their chains never meet; nil: all)
---@return tl.Problem[]
function wordproblems.generate(o)
  local s, list = settings("generate", o or {}, OPTIONS), {}
  for i = 0, s.n - 1 do list[#list + 1] = wordproblems.problem(s.seed, s.first + i, s) end
  return list
end

---The answer of a problem in a style: "steps" or "direct".
---@return string
function wordproblems.text(problem, style)
  if style ~= "steps" and style ~= "direct" then
    error(('wordproblems.text: style is "%s"; want "steps" or "direct"'):format(tostring(style)), 2)
  end
  return problem[style]
end

---Sentences that ask for a style when they end the question.
wordproblems.requests = { steps = "Show every step.", direct = "Answer only." }

---Pre-training documents: each problem once, answered in one style. A share `asked` of the questions ends with a request for
---a style, either equally often, and gets it; the others get "steps" with probability `steps`.
---@param o table  as generate, and steps (0.25), asked (0)
---@return { question: string, messages: table, answer: string, style: string }[]
function wordproblems.corpus(o)
  local s, share, asked, list = settings("corpus", o, CORPUS), o.steps or 0.25, o.asked or 0, {}
  for i = 0, s.n - 1 do
    local p = wordproblems.problem(s.seed, s.first + i, s)
    -- a stream of its own, so that the shares do not change the problems
    local function draw(k) return philox.uniform(s.seed + 4294967296, s.first + i, k) end
    local told, question = draw(0) < asked, p.question
    local style = draw(1) < (told and 0.5 or share) and "steps" or "direct"
    if told then question = question .. " " .. wordproblems.requests[style] end
    list[#list + 1] = { question = question, messages = { { role = "user", content = question } }, answer = p[style], style = style }
  end
  return list
end

return wordproblems
