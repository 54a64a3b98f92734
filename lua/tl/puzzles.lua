--- puzzles.lua: problem sets without a download: puzzles that are drawn from a seed and checked by rules.
---
---   tl.data.load("puzzles:countdown", { n = 1000, seed = 1, difficulty = 3 })     and verifier = "puzzles"
---
--- Kinds: countdown (reach a number with others), sudoku (4x4, 6x6, 9x9), queens (n queens, some placed), colouring (a graph with k colours),
--- chain (a chain of arithmetic), sorting (numbers or words). difficulty is a number from 1 to 10, or { 2, 6 } for a range over the set.
---
--- Problem i is a function of (kind, seed, i, difficulty) alone. Every problem can be solved: it is made from a solution, which is problem.answer;
--- the checker takes any solution. split "train" and "test" draw from streams that never meet. A problem is { id, question, answer, puzzle }, and the
--- answer is asked for between <answer> and </answer>.
local options = require "tl.options"
local philox = require "tl.philox"
local lpeg = require "tl.lpeg"

local puzzles = {}

local ASK = " Give the answer between <answer> and </answer>."

local function shuffled(g, list)
  for i = #list, 2, -1 do
    local j = g.integer(1, i)
    list[i], list[j] = list[j], list[i]
  end
  return list
end

local function range(n)
  local t = {}
  for i = 1, n do t[i] = i end
  return t
end

-- { make(g, difficulty) -> question, answer, data;  check(text, data) -> solved?, why }
local kinds = {}

-- ---- arithmetic, exact in doubles: value n/d

local s = lpeg.S(" \t") ^ 0
local function binary(a, op, b)
  if op == "+" then return { a[1] * b[2] + b[1] * a[2], a[2] * b[2] } end
  if op == "-" then return { a[1] * b[2] - b[1] * a[2], a[2] * b[2] } end
  if op == "*" then return { a[1] * b[1], a[2] * b[2] } end
  return { a[1] * b[2], a[2] * b[1] }
end
local arithmetic = lpeg.P {
  s * lpeg.V "Sum" * -1,
  Sum = lpeg.Cf(lpeg.V "Product" * lpeg.Cg(lpeg.C(lpeg.S "+-") * s * lpeg.V "Product") ^ 0, binary),
  Product = lpeg.Cf(lpeg.V "Atom" * lpeg.Cg(lpeg.C(lpeg.S "*/") * s * lpeg.V "Atom") ^ 0, binary),
  Atom = lpeg.R "09" ^ 1 / function(d) return { tonumber(d), 1 } end * s + "(" * s * lpeg.V "Sum" * ")" * s,
}

local function spelled(text) return (text:gsub("\195\151", "*"):gsub("\195\183", "/"):gsub("\226\136\146", "-"):gsub("\\times", "*"):gsub("\\div", "/"):gsub("\\cdot", "*")) end

-- the value of a text of + - * / ( ) and whole numbers: numerator, denominator; nil when it is none
local function value(text)
  if #text > 300 then return nil end
  local v = arithmetic:match(spelled(text))
  if not v or v[2] == 0 or math.abs(v[1]) > 2 ^ 52 or math.abs(v[2]) > 2 ^ 52 then return nil end
  return v[1], v[2]
end

kinds.countdown = {
  make = function(g, d)
    local n = 3 + math.floor((d - 1) / 2)
    while true do
      local numbers, most = {}, d < 4 and 12 or d < 8 and 25 or 99
      for i = 1, n do numbers[i] = g.integer(1, most) end
      local expression, total = tostring(numbers[1]), numbers[1]
      for i = 2, n do
        local ops, x = { "+", "-" }, numbers[i]
        if total * x <= 2000 then ops[#ops + 1] = "*" end
        if x > 1 and total % x == 0 then ops[#ops + 1] = "/" end
        local op = g.pick(ops)
        expression = (i > 2 and "(" .. expression .. ")" or expression) .. " " .. op .. " " .. x
        total = op == "+" and total + x or op == "-" and total - x or op == "*" and total * x or total / x
      end
      if total >= 10 and total <= 999 then
        local shown = shuffled(g, { unpack(numbers) })
        return ("Use the numbers %s, each exactly once, with + - * / and parentheses, to make %d."):format(table.concat(shown, ", "), total), expression,
          { numbers = shown, target = total }
      end
    end
  end,
  check = function(text, p)
    text = text:match "^(.-)%s*=%s*%-?%d+%s*$" or text
    local used, left = {}, {}
    for d in text:gmatch "%d+" do used[#used + 1] = tonumber(d) end
    for _, x in ipairs(p.numbers) do left[x] = (left[x] or 0) + 1 end
    for _, x in ipairs(used) do
      left[x] = (left[x] or 0) - 1
      if left[x] < 0 then return false, x .. " is used too often" end
    end
    if #used ~= #p.numbers then return false, "not every number is used" end
    local n, below = value(text)
    if not n then return false, "not an expression" end
    return n == p.target * below, ("makes %g"):format(n / below)
  end,
}

kinds.chain = {
  make = function(g, d)
    local expression, total, words = nil, g.integer(2, 9 + 5 * d), {}
    expression = tostring(total)
    words[1] = "Start with " .. total .. "."
    for _ = 1, 1 + d do
      local x, kind = g.integer(2, 9 + 3 * d), g.integer(1, total < 300 and 4 or 2)
      if kind == 1 then total, words[#words + 1] = total + x, ("Add %d."):format(x)
      elseif kind == 2 then total, words[#words + 1] = total - x, ("Subtract %d."):format(x)
      elseif kind == 3 then x = g.integer(2, 2 + math.ceil(d / 2)); total, words[#words + 1] = total * x, ("Multiply by %d."):format(x)
      else x = g.integer(2, 9); total, words[#words + 1] = total % x, ("Take the remainder after division by %d."):format(x) end
    end
    return table.concat(words, " ") .. " What is the result?", tostring(total), { value = total }
  end,
  check = function(text, p) return tonumber(text) == p.value and text:find "^%-?%d+$" ~= nil, "not the result" end,
}

local WORDS = {}
for w in ([[apple river stone cloud maple tiger piano candle forest mirror bridge garden winter silver rocket basket dragon copper lantern meadow pepper violin
  anchor button castle desert engine feather glacier harbor island jacket kitten lemon magnet needle orange pencil quartz ribbon saddle temple umbrella valley
  walnut yellow zebra acorn beacon cactus dolphin ember falcon goblet hammer indigo jungle kettle ladder marble nectar oyster parrot rabbit salmon thistle]]):gmatch "%a+" do WORDS[#WORDS + 1] = w end

kinds.sorting = {
  make = function(g, d)
    local n, list, down = 3 + 2 * d, {}, g.integer(0, 1) == 1
    local names = g.integer(0, 1) == 1 and n <= #WORDS
    if names then
      list = { unpack(shuffled(g, { unpack(WORDS) }), 1, n) }
    else
      for i = 1, n do list[i] = g.integer(-10 * d, 10 ^ math.min(6, 1 + math.ceil(d / 2))) end
    end
    local sorted = { unpack(list) }
    table.sort(sorted, down and function(a, b) return a > b end or nil)
    return ("Sort these %s %s: %s. Separate them by commas."):format(names and "words" or "numbers",
      names and (down and "in reverse alphabetical order" or "in alphabetical order") or down and "from the largest to the smallest" or "from the smallest to the largest",
      table.concat(list, ", ")), table.concat(sorted, ", "), { sorted = sorted }
  end,
  check = function(text, p)
    local found = {}
    for item in (text .. ","):gmatch "%s*(.-)%s*," do found[#found + 1] = item end
    if #found ~= #p.sorted then return false, ("%d items, wants %d"):format(#found, #p.sorted) end
    for i, x in ipairs(p.sorted) do
      if found[i]:lower() ~= tostring(x) and tonumber(found[i]) ~= x then return false, ("item %d is %s"):format(i, found[i]) end
    end
    return true
  end,
}

-- ---- sudoku

local function box_of(n) return n == 4 and 2 or n == 6 and 2 or 3, n == 4 and 2 or n == 6 and 3 or 3 end -- rows, columns of a box

local function full_grid(g, n)
  local br, bc = box_of(n)
  local function pattern(r, c) return (bc * (r % br) + math.floor(r / br) + c) % n end
  local function lines(size)
    local out = {}
    for _, band in ipairs(shuffled(g, range(n / size))) do
      for _, k in ipairs(shuffled(g, range(size))) do out[#out + 1] = (band - 1) * size + k - 1 end
    end
    return out
  end
  local rows, columns, digits, grid = lines(br), lines(bc), shuffled(g, range(n)), {}
  for i = 1, n do
    grid[i] = {}
    for j = 1, n do grid[i][j] = digits[pattern(rows[i], columns[j]) + 1] end
  end
  return grid
end

local function grid_text(grid, n)
  local out = {}
  for i = 1, n do
    local row = {}
    for j = 1, n do row[j] = grid[i][j] ~= 0 and tostring(grid[i][j]) or "_" end
    out[i] = table.concat(row, " ")
  end
  return table.concat(out, "\n")
end

kinds.sudoku = {
  make = function(g, d)
    local n = d <= 3 and 4 or d <= 6 and 6 or 9
    local grid, given = full_grid(g, n), {}
    local holes = math.floor(n * n * (0.25 + 0.04 * d))
    for i = 1, n do given[i] = { unpack(grid[i]) } end
    local cells = shuffled(g, range(n * n))
    for k = 1, holes do given[math.floor((cells[k] - 1) / n) + 1][(cells[k] - 1) % n + 1] = 0 end
    local br, bc = box_of(n)
    return ("Fill in this %dx%d sudoku with the digits 1 to %d, so that every row, every column and every box of %d rows and %d columns holds each digit once. "
      .. "Write the %d rows, one a line.\n%s\n"):format(n, n, n, br, bc, n, grid_text(given, n)), grid_text(grid, n), { size = n, given = given }
  end,
  check = function(text, p)
    local n, grid = p.size, {}
    for line in (text .. "\n"):gmatch "(.-)\n" do
      local row = {}
      for d in line:gmatch "%d" do row[#row + 1] = tonumber(d) end
      if #row > 0 then grid[#grid + 1] = row end
    end
    if #grid ~= n then return false, ("%d rows, wants %d"):format(#grid, n) end
    local br, bc = box_of(n)
    local seen = {}
    for i = 1, n do
      if #grid[i] ~= n then return false, ("row %d has %d digits"):format(i, #grid[i]) end
      for j = 1, n do
        local x = grid[i][j]
        if x < 1 or x > n then return false, "a digit out of range" end
        if p.given[i][j] ~= 0 and p.given[i][j] ~= x then return false, ("row %d, column %d was given"):format(i, j) end
        for _, key in ipairs { "r" .. i, "c" .. j, "b" .. math.floor((i - 1) / br) .. "," .. math.floor((j - 1) / bc) } do
          if seen[key .. ":" .. x] then return false, ("%d stands twice"):format(x) end
          seen[key .. ":" .. x] = true
        end
      end
    end
    return true
  end,
}

-- ---- queens

local function solve_queens(g, n)
  local at, columns, up, down = {}, {}, {}, {}
  local function place(row)
    if row > n then return true end
    for _, c in ipairs(shuffled(g, range(n))) do
      if not columns[c] and not up[row + c] and not down[row - c] then
        at[row], columns[c], up[row + c], down[row - c] = c, true, true, true
        if place(row + 1) then return true end
        columns[c], up[row + c], down[row - c] = nil, nil, nil
      end
    end
    return false
  end
  place(1)
  return at
end

kinds.queens = {
  make = function(g, d)
    local n = 4 + d
    local at, fixed = solve_queens(g, n), {}
    local rows = shuffled(g, range(n))
    local told = {}
    for k = 1, math.max(1, math.floor(n / 4)) do fixed[#fixed + 1] = { rows[k], at[rows[k]] }; told[k] = ("row %d column %d"):format(rows[k], at[rows[k]]) end
    return ("Place %d queens on a %dx%d board so that none attacks another; there is one in %s already. Write the columns of the queens in rows 1 to %d, separated by spaces."):format(
      n, n, n, table.concat(told, " and one in "), n), table.concat(at, " "), { size = n, fixed = fixed }
  end,
  check = function(text, p)
    local at = {}
    for d in text:gmatch "%d+" do at[#at + 1] = tonumber(d) end
    if #at ~= p.size then return false, ("%d columns, wants %d"):format(#at, p.size) end
    for i = 1, #at do
      if at[i] < 1 or at[i] > p.size then return false, "a column out of range" end
      for j = 1, i - 1 do
        if at[i] == at[j] or math.abs(at[i] - at[j]) == i - j then return false, ("rows %d and %d attack each other"):format(j, i) end
      end
    end
    for _, f in ipairs(p.fixed) do
      if at[f[1]] ~= f[2] then return false, ("row %d was given"):format(f[1]) end
    end
    return true
  end,
}

-- ---- graph colouring, with a colouring planted

kinds.colouring = {
  make = function(g, d)
    local n, k = 4 + d, d <= 3 and 2 or d <= 8 and 3 or 4
    local colour, edges, told = {}, {}, {}
    for i = 1, n do colour[i] = i <= k and i or g.integer(1, k) end
    shuffled(g, colour)
    for i = 1, n do
      for j = i + 1, n do
        if colour[i] ~= colour[j] and g.uniform() < 0.55 then
          edges[#edges + 1] = { i, j }
          told[#told + 1] = ("%s-%s"):format(string.char(64 + i), string.char(64 + j))
        end
      end
    end
    local answer = {}
    for i = 1, n do answer[i] = ("%s=%d"):format(string.char(64 + i), colour[i]) end
    return ("Colour the vertices A to %s of a graph with the colours 1 to %d so that no edge joins two vertices of one colour. Its edges: %s. Write the colours as A=1, B=2, ..."):format(
      string.char(64 + n), k, table.concat(told, ", ")), table.concat(answer, ", "), { size = n, colours = k, edges = edges }
  end,
  check = function(text, p)
    local colour, n = {}, 0
    for name, c in text:gmatch "(%u)%s*[=:]%s*(%d+)" do
      local i = name:byte() - 64
      if i > p.size or colour[i] then return false, "vertex " .. name .. (colour[i] and " stands twice" or " is not in the graph") end
      colour[i], n = tonumber(c), n + 1
      if colour[i] < 1 or colour[i] > p.colours then return false, "a colour out of range" end
    end
    if n ~= p.size then return false, ("%d vertices are coloured, wants %d"):format(n, p.size) end
    for _, e in ipairs(p.edges) do
      if colour[e[1]] == colour[e[2]] then return false, ("an edge joins two of colour %d"):format(colour[e[1]]) end
    end
    return true
  end,
}

-- ---- public

--- The kinds of puzzles, sorted.
function puzzles.kinds()
  local list = {}
  for name in pairs(kinds) do list[#list + 1] = name end
  table.sort(list)
  return list
end

--- Problem `index` of a kind: a function of its arguments alone.
function puzzles.problem(kind, seed, index, difficulty, split)
  local k = kinds[kind] or error(("unknown puzzle '%s'%s; the kinds are %s"):format(tostring(kind), require("tl.names").hint(tostring(kind), puzzles.kinds()), table.concat(puzzles.kinds(), ", ")), 2)
  if type(difficulty) ~= "number" or difficulty < 1 or difficulty > 10 then error("a puzzle's difficulty is a number from 1 to 10; got " .. tostring(difficulty), 2) end
  local stream = index * 2 + (split == "test" and 1 or 0)
  for i = 1, #kind do seed = (seed * 31 + kind:byte(i)) % 2 ^ 50 end
  local question, answer, data = k.make(philox.stream(seed, stream), math.floor(difficulty + 0.5))
  data.kind = kind
  return { id = ("puzzles/%s/%s/%d"):format(kind, split or "train", index), question = question .. ASK, answer = answer, puzzle = data, difficulty = difficulty }
end

local GENERATE = options.names { any = "difficulty split", count = "n first", seed = "seed" }

--- A list of problems. o: n (100), seed (0), first (0), difficulty (3, or { low, high }), split ("train").
function puzzles.generate(kind, o)
  o = o or {}
  options.only("puzzles.generate", o, GENERATE)
  local list, d = {}, o.difficulty or 3
  if o.split and o.split ~= "train" and o.split ~= "test" then error(('puzzles: split is "%s"; want "train" or "test"'):format(tostring(o.split)), 2) end
  for _, x in ipairs(type(d) == "table" and { d[1] or "", d[2] or "" } or { d }) do
    if type(x) ~= "number" then error("puzzles: difficulty is a number or { low, high }; got " .. (x == "" and "a table without two numbers" or tostring(x)), 2) end
  end
  local low, high = type(d) == "table" and d[1] or d, type(d) == "table" and d[2] or d
  for i = 0, (o.n or 100) - 1 do
    local at = (o.first or 0) + i
    list[#list + 1] = puzzles.problem(kind, o.seed or 0, at, low + math.floor((high - low + 1) * philox.uniform(o.seed or 0, at, 77)), o.split)
  end
  return list
end

--- Does a text (what stands between the answer marks) solve the puzzle? false and why not.
function puzzles.check(puzzle, text)
  local k = kinds[puzzle.kind] or error("unknown puzzle '" .. tostring(puzzle.kind) .. "'", 2)
  if #text > 4000 then return false, "too long" end
  return k.check((text:match "^%s*(.*%S)" or ""), puzzle)
end

return puzzles
