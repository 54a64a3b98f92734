--- data.lua: problem sets. tl.data.load("gsm8k") -> a dataset of problems { id =, question =, answer =, ... }.
---
--- Where a set is looked for: o.dir, then the folder named by the environment's TL_DATA, then what `tlrun fetch NAME` got
--- (TL_HOME/data, default ~/.cache/tlrun/data), then ../shared/data beside the sources. Each is laid out as NAME/SPLIT.jsonl.
---
--- A file without a problem is refused, and so is a line without an answer where others have one. A file in which none has one is for verifiers that compare with
--- none: data.check says so to the others.
---
--- answer is always text: a number without thousands separators and without ".0", or the publisher's own text. solution, where
--- there is one, is the worked answer (GSM8K's without its <<calculator marks>>), the target of supervised finetuning.
local F = require "tl.ffi"
local ffi = require "ffi"
local json = require "tl.json"
local options = require "tl.options"
local C = F.C

local data = {}

-- ---- golds

local function number_text(x)
  local s = ("%.15g"):format(x)
  return s == "-0" and "0" or s
end

-- a plain answer: numbers in one form, other text as it is
local function plain_answer(v)
  if type(v) == "number" then return number_text(v) end
  local s = v:match("^%s*(.*%S)") or ""
  local bare = s:gsub("^%$", "")
  if bare:find("^%-?%d%d?%d?,%d%d%d") then
    local joined = bare:gsub(",", "")
    if joined:find("^%-?%d+%.?%d*$") and bare:gsub("%.%d*$", ""):gsub("^%-?%d%d?%d?", ""):gsub(",%d%d%d", "") == "" then return joined end
  end
  if bare ~= s and bare:find("^%-?%d+%.?%d*$") then return bare end
  return s
end

local function last_boxed(text)
  local at, found = 1, nil
  while true do
    local first, last = text:find("\\f?boxed%s*%f[{]", at)
    if not first then return found end
    local inside = text:match("^%b{}", last + 1)
    if inside then found = inside:sub(2, -2) end
    at = last + 1
  end
end

-- "There are 3 hens" + "How many?" -> one text; a full stop is put where the publisher left it out
local function join(body, question)
  body, question = body:match("^%s*(.*%S)") or "", question:match("^%s*(.*%S)") or ""
  if body:find("[%w%)]$") and question:find("^%u") then return body .. ". " .. question end
  return body .. " " .. question
end

-- ---- the sets: a row of the file -> a problem; splits that exist, the one to train on first

local sets = {}

local function simple_set(splits, make) return { splits = splits, make = make } end

sets.gsm8k = simple_set({ "train", "test" }, function(r)
  local solution = r.answer:gsub("<<[^>\n]*>>", "")
  return { question = r.question, answer = plain_answer(solution:match("####%s*(.-)%s*$")), solution = solution }
end)
sets.math500 = simple_set({ "test" }, function(r)
  return { id = r.unique_id, question = r.problem, answer = plain_answer(r.answer), solution = r.solution, level = r.level, subject = r.subject }
end)
sets.minerva_math = simple_set({ "test" }, function(r)
  return { id = r.idx, question = r.problem, answer = plain_answer(last_boxed(r.solution)), solution = r.solution, type = r.type }
end)
sets.olympiadbench = simple_set({ "test" }, function(r)
  return { id = r.id, question = r.question, answer = plain_answer(table.concat(r.final_answer, ", ")), subject = r.subfield, unit = r.unit, type = r.answer_type }
end)
sets.aime24 = simple_set({ "test" }, function(r)
  return { id = r.id, question = r.problem, answer = plain_answer((r.answer:gsub("^0+(%d)", "%1"))), solution = r.solution }
end)
sets.amc23 = simple_set({ "test" }, function(r) return { id = r.id, question = r.problem, answer = plain_answer(r.answer) } end)
sets.mawps = simple_set({ "train", "test" }, function(r)
  return { id = r.idx, question = r.input, answer = plain_answer(r.target), type = r.type }
end)
sets.asdiv = simple_set({ "train", "test" }, function(r)
  local value, unit = r.answer:match("^(.-)%s*%(([^()]*)%)%s*$")
  return { id = r.idx, question = join(r.body, r.question), answer = plain_answer(value or r.answer), unit = unit, type = r.solution_type, formula = r.formula }
end)
sets.svamp = simple_set({ "test" }, function(r)
  return { id = r.ID, question = join(r.Body, r.Question), answer = plain_answer(r.Answer), type = r.Type, formula = r.Equation }
end)

local question_fields = { "question", "problem", "input", "instruction", "prompt" }
local answer_fields = { "answer", "target", "gold", "final_answer", "label" }

local function first_field(row, fields, kinds)
  for _, f in ipairs(fields) do
    if kinds[type(row[f])] then return row[f] end
  end
end

-- a row of somebody's own file: all its fields stay, question, answer and id are made sure of
local function own_row(row)
  local p = {}
  for k, v in pairs(row) do p[k] = v end
  p.question = first_field(row, question_fields, { string = true })
  if not p.question and not p.messages then
    error("it has none of the fields " .. table.concat(question_fields, ", ") .. ", messages", 0)
  end
  local answer = first_field(row, answer_fields, { string = true, number = true })
  if answer == nil and type(row.solution) == "string" then answer = row.solution:match("####%s*([^\n]*)%s*$") or last_boxed(row.solution) end
  if type(answer) == "string" and answer:find("####", 1, true) then
    p.solution, answer = p.solution or answer, answer:match("####%s*([^\n]*)%s*$") or answer
  end
  if answer ~= nil then p.answer = plain_answer(answer) end
  return p
end

-- ---- what a problem is judged by

local origin = setmetatable({}, { __mode = "k" })  -- of a problem from a file: "file:line"

--- Where a problem stands, for messages: its file and line, or its number in a list.
function data.where(problem, i) return origin[problem] or (i or problem.id) and "problem " .. tostring(i or problem.id) or "a problem" end

--- What fn(...) gives; an error of it says which problem it is about.
function data.about(problem, i, fn, ...)
  local ok, result = pcall(fn, ...)
  if ok then return result end
  error(("%s: %s"):format(data.where(problem, i), (tostring(result):gsub("^%S+%.lua:%d+: ", ""))), 0)
end

local NEEDS = "the fields " .. table.concat(answer_fields, ", ") .. ", or a solution that ends with #### or has \\boxed{}"

local function unanswered(p) return p.answer == nil or p.answer == "" end

--- Refuses what is no list of problems, an empty one, and a problem without the answer that the verifier compares with (wants: from verify.wants_answer; nil:
--- none does). what: who asks, for the message.
function data.check(what, problems, wants, level)
  level = (level or 2) + 1
  if type(problems) ~= "table" then error(("%s wants a list of problems; got %s"):format(what, problems == nil and "nothing" or "a " .. type(problems)), level) end
  if #problems == 0 then error(what .. ": there are no problems: the list is empty", level) end
  for i, p in ipairs(problems) do
    if type(p) ~= "table" then error(("%s: problem %d is a table of fields, such as { question =, answer = }; got a %s"):format(what, i, type(p)), level) end
    if wants and unanswered(p) then
      error(("%s: it has no answer, and the verifier %s compares with one: it wants one of %s"):format(data.where(problems[i], i), wants, NEEDS), 0)
    end
  end
end

-- ---- prompts

local styles = {}

--- SimpleRL's qwen-boxed: chat messages that ask for step by step reasoning and a \boxed{} answer.
styles["qwen-boxed"] = function(p)
  return { { role = "system", content = "You are a helpful assistant." },
           { role = "user", content = p.question .. "\nPlease reason step by step, and put your final answer within \\boxed{}." } }
end
--- SimpleRL's simple: plain text, for base models.
styles.simple = function(p) return "Question:\n" .. p.question .. "\nAnswer:\nLet's think step by step.\n" end
--- verl's GSM8K prompt: a chat message that asks for the answer after ####.
styles["gsm8k-hash"] = function(p)
  return { { role = "user", content = p.question .. " Let's think step by step and output the final answer after \"####\"." } }
end
--- lm-evaluation-harness' GSM8K prompt without examples: plain text.
styles.qa = function(p) return "Question: " .. p.question .. "\nAnswer:" end
--- The question as a chat message, and as it is.
styles.chat = function(p) return { { role = "user", content = p.question } } end
styles.raw = function(p) return p.question end

--- A prompt style: function(problem) -> messages (a list of { role =, content = }) or plain text.
---@param style string|function "qwen-boxed", "simple", "gsm8k-hash", "qa", "chat", "raw"; a text with {question} in it; a function
function data.style(style)
  if type(style) == "function" then return style end
  if styles[style] then return styles[style] end
  if type(style) == "string" and style:find("{question}", 1, true) then
    return function(p) return (style:gsub("{question}", function() return p.question end)) end
  end
  local names = {}
  for name in pairs(styles) do names[#names + 1] = name end
  table.sort(names)
  F.raise(("unknown prompt style '%s'; it is one of %s, a text with {question}, or a function"):format(tostring(style), table.concat(names, ", ")))
end

-- ---- datasets: a plain list with methods

---@class tl.Dataset
local Dataset = {}
Dataset.__index = Dataset
Dataset.__tostring = function(d) return ("dataset %s%s: %d problems"):format(d.name, d.split_name and " (" .. d.split_name .. ")" or "", #d) end

--- A dataset of a list of problems.
function data.dataset(list, name, split)
  if type(list) ~= "table" then error("data.dataset wants a list of problems; got " .. F.shown(list), 2) end
  local d = setmetatable({ name = name or "problems", split_name = split }, Dataset)
  for i, p in ipairs(list) do d[i] = p end
  return d
end

local function whole(what, n)
  if type(n) ~= "number" or n < 0 or n % 1 ~= 0 then F.raise(("%s wants a whole number from 0; got %s"):format(what, F.shown(n))) end
  return n
end

local function callable(what, f)
  if type(f) ~= "function" then F.raise(("%s wants a function of a problem; got %s"):format(what, F.shown(f))) end
end

local function like(d, list) return data.dataset(list, d.name, d.split_name) end

local function permutation(n, seed, stream)
  local perm = ffi.new("int32_t[?]", math.max(1, n))
  C.tl_permutation(perm, n, seed, stream)
  return perm
end

--- The same problems in an order that depends on the seed alone.
---@param seed integer
function Dataset:shuffle(seed)
  local perm, list = permutation(#self, whole("shuffle", seed or 0), 0), {}
  for i = 1, #self do list[i] = self[perm[i - 1] + 1] end
  return like(self, list)
end

--- The first n problems.
function Dataset:take(n)
  local list = {}
  for i = 1, math.min(whole("take", n), #self) do list[i] = self[i] end
  return like(self, list)
end

--- The problems for which f(problem, index) is true.
function Dataset:filter(f)
  callable("filter", f)
  local list = {}
  for i, p in ipairs(self) do
    if f(p, i) then list[#list + 1] = p end
  end
  return like(self, list)
end

--- f(problem, index) of every problem; nil drops it.
function Dataset:map(f)
  callable("map", f)
  local list = {}
  for i, p in ipairs(self) do list[#list + 1] = f(p, i) end
  return like(self, list)
end

--- Two datasets: the first n problems (a share of them when n < 1), and the others.
function Dataset:split(n)
  if type(n) == "number" and n > 0 and n < 1 then n = math.floor(n * #self + 0.5) end
  whole("split", n)
  local rest = {}
  for i = n + 1, #self do rest[#rest + 1] = self[i] end
  return self:take(n), like(self, rest)
end

--- Copies of the problems with their prompt in a style: field messages or prompt. See tl.data.style.
function Dataset:style(style)
  local make = data.style(style)
  return self:map(function(p)
    local copy, prompt = {}, make(p)
    for k, v in pairs(p) do copy[k] = v end
    origin[copy] = origin[p]
    copy.messages, copy.prompt = type(prompt) == "table" and prompt or nil, type(prompt) == "string" and prompt or nil
    return copy
  end)
end

local BATCHES = options.names { amount = "epochs", count = "size steps skip", seed = "seed", boolean = "partial shuffle" }

local function batch_options(self, o)
  options.only("batches", o, BATCHES, 3)
  local size = o.size or error("batches wants a size", 3)
  if type(size) ~= "number" or size < 1 or size % 1 ~= 0 then error("a batch's size is a whole number from 1; got " .. tostring(size), 3) end
  if #self == 0 then error("there are no problems to make batches of", 3) end
  local per_epoch = o.partial == false and math.floor(#self / size) or math.ceil(#self / size)
  if per_epoch == 0 then error(("%d problems do not fill one batch of %d"):format(#self, size), 3) end
  local total = o.steps or math.ceil(per_epoch * (o.epochs or 1))
  return size, per_epoch, total
end

--- How many batches :batches(o) will give.
function Dataset:n_batches(o)
  local _, _, total = batch_options(self, o)
  return total
end

--- Iterates over batches (lists of problems): for batch, step, epoch in problems:batches { size = 64, epochs = 3, seed = 1 } do
---   size     problems in a batch; the last one of an epoch may be smaller, unless partial = false, which drops it
---   epochs   passes over the set (1); or steps: how many batches in all, however many passes that takes
---   seed     every epoch has its own order, a function of (seed, epoch); shuffle = false keeps the set's order
---   skip     batches to leave out at the start, for going on with an earlier run
function Dataset:batches(o)
  local size, per_epoch, total = batch_options(self, o)
  local step, perm, perm_epoch = o.skip or 0, nil, nil
  return function()
    if step >= total then return nil end
    local epoch, at = math.floor(step / per_epoch), step % per_epoch
    step = step + 1
    if perm_epoch ~= epoch then perm, perm_epoch = o.shuffle ~= false and permutation(#self, o.seed or 0, epoch + 1) or nil, epoch end
    local batch = {}
    for i = at * size, math.min(#self, (at + 1) * size) - 1 do batch[#batch + 1] = self[perm and perm[i] + 1 or i + 1] end
    return batch, step, epoch + 1
  end
end

-- ---- loading

local function folders(o)
  local list = {}
  if o.dir then list[1] = o.dir end
  local env = os.getenv("TL_DATA")
  if env and env ~= "" then list[#list + 1] = env end
  list[#list + 1] = F.home() .. "/data"
  list[#list + 1] = F.root .. "/../shared/data"
  return list
end

local function open_set(name, split, o)
  for _, dir in ipairs(folders(o)) do
    local path = dir .. "/" .. name .. "/" .. split .. ".jsonl"
    local file = io.open(path, "rb")
    if file then return file, path end
  end
  error(("the %s problems of %s are not here; get them with `tlrun fetch %s`, or let TL_DATA name a folder with %s/%s.jsonl")
    :format(split, name, name, name, split), 3)
end

-- json.null has no place in problems
local function without_nulls(row)
  for k, v in pairs(row) do
    if v == json.null then row[k] = nil end
  end
  return row
end

-- fields by which verifiers judge that compare with no answer
local OTHER_GOLDS = { "tests", "asserts", "instructions", "instruction_id_list", "puzzle" }

local function has_other_gold(p)
  for _, field in ipairs(OTHER_GOLDS) do if p[field] ~= nil then return true end end
  return false
end

local function read_rows(file, path, make, limit, id_prefix)
  local list, line_number, answered, bare = {}, 0, false, nil
  for line in file:lines() do
    if limit and #list >= limit then break end
    line_number = line_number + 1
    if line:find("%S") then
      local row, why = json.parse(line)
      if type(row) ~= "table" or getmetatable(row).__array then
        file:close()
        error(("%s:%d: %s"):format(path, line_number, row ~= nil and "a line is one JSON object" or why), 3)
      end
      local ok, p = pcall(make, without_nulls(row))
      if not ok then
        file:close()
        error(("%s:%d: %s"):format(path, line_number, tostring(p):gsub("^[^\n]-%.lua:%d+: ", "")), 3)
      end
      p.id = id_prefix .. tostring(p.id or line_number)
      origin[p] = ("%s:%d"):format(path, line_number)
      if not unanswered(p) then answered = true elseif not has_other_gold(p) then bare = bare or p end
      list[#list + 1] = p
    end
  end
  file:close()
  if #list == 0 and limit ~= 0 then error(path .. ": there is no problem in it", 3) end
  if bare and answered then error(("%s: it has no answer, and other lines have one: it wants one of %s"):format(origin[bare], NEEDS), 3) end
  return list
end

--- The names of the known sets.
function data.names()
  local names = { "wordproblems" }
  for name in pairs(sets) do names[#names + 1] = name end
  table.sort(names)
  return names
end

--- The splits of a known set, the one to train on first; nil for others.
function data.splits(name)
  if name == "wordproblems" or name:find("^puzzles:") then return { "train", "test" } end
  return sets[name] and sets[name].splits
end

-- generated sets and files take the same ones: n, seed and the generators' own are of no effect on a file
local LOAD = options.names { any = "split dir style difficulty", count = "limit n first min_ops max_ops max_number", seed = "seed" }

-- what a generator gives; an error of it is the script's
local function generated(fn, ...)
  local ok, list = pcall(fn, ...)
  return ok and list or F.raise((tostring(list):gsub("^%S+%.lua:%d+: ", "")))
end

--- Loads a problem set.
---@param task string gsm8k, math500, minerva_math, olympiadbench, aime24, amc23, mawps, asdiv, svamp, wordproblems, puzzles:KIND (see
---  tl.puzzles), or a .jsonl file
---@param o table|nil { split = "train" where there is one, else "test"; limit = first problems only; dir =; style = see data.style };
---  for wordproblems also what its generator takes (n, here 1000 or limit, seed, first, min_ops, max_ops, max_number); for puzzles n, seed, difficulty
---@return tl.Dataset
function data.load(task, o)
  o = o or {}
  options.only("data.load", o, LOAD)
  for _, name in ipairs { "n", "limit" } do
    if o[name] and (o[name] < 0 or o[name] % 1 ~= 0) then error(("data.load: %s wants a whole number from 0; got %s"):format(name, o[name]), 2) end
  end
  local d
  if task == "wordproblems" then
    local g = {}
    for k, v in pairs(o) do g[k] = v end
    g.limit, g.dir, g.style, g.n, g.split = nil, nil, nil, o.n or o.limit or 1000, o.split or "train"
    d = data.dataset(generated(require("tl.wordproblems").generate, g), task, g.split)
    if o.limit then d = d:take(o.limit) end
  elseif type(task) == "string" and task:find("^puzzles:") then
    local split = o.split or "train"
    d = data.dataset(generated(require("tl.puzzles").generate, task:match("^puzzles:(.*)$"), { n = o.n or o.limit or 1000, seed = o.seed, difficulty = o.difficulty, split = split }), task, split)
    if o.limit then d = d:take(o.limit) end
  elseif type(task) == "string" and task:find("%.jsonl$") then
    local file, why = require("tl.fs").open(task)
    if not file then error(why, 2) end
    d = data.dataset(read_rows(file, task, own_row, o.limit, ""), task:match("([^/]+)%.jsonl$"), o.split)
  else
    local set = sets[task]
    if not set then
      error(("unknown problem set '%s'%s; the sets are %s, or a .jsonl file"):format(tostring(task), require("tl.names").hint(tostring(task), data.names()),
        table.concat(data.names(), ", ")), 2)
    end
    local split = o.split or set.splits[1]
    local known = false
    for _, s in ipairs(set.splits) do known = known or s == split end
    if not known then error(("%s has no split '%s'; it has %s"):format(task, split, table.concat(set.splits, ", ")), 2) end
    local file, path = open_set(task, split, o)
    d = data.dataset(read_rows(file, path, set.make, o.limit, task .. "/" .. split .. "/"), task, split)
  end
  return o.style and d:style(o.style) or d
end

return data
