--- tlrun verify: rewards of responses; the tests of a verifier; what it pays for junk
local fs = require "tl.fs"
local input = require "tl.input"
local json = require "tl.json"
local options = require "tl.options"
local ffi = require "ffi"
local C = require("tl.ffi").C

ffi.cdef [[
int dup(int fd);
int dup2(int fd, int to);
int64_t write(int fd, const void *data, size_t n);
]]

local command = { summary = "rewards of responses, by a verifier; its tests, and attacks on it", usage = "--verifier math [--test FILE.jsonl | --attack [--task gsm8k]]" }

command.help = 'A JSON object a line on stdin, {"gold", "response"}, to a line {"reward", "outcome"} out, in the same order.\n'
  .. "outcome is ok, abstain, error, timeout or memory; reward is null unless it is ok. Other fields of the input reach the verifier\n"
  .. "as fields of the problem, n_tokens and finish as the completion's.\n\n"
  .. '--test FILE.jsonl    each line is such an object with the "reward" (or the "outcome") that is right; prints what is not, exit code 1.\n'
  .. "                     A line of GSM8K's example_model_solutions.jsonl (question, ground_truth, and a { solution, is_correct } for each model)\n"
  .. "                     is as many tests as it has solutions\n"
  .. "--attack             judges known hacks (several boxes, A or B or C, echoed numbers, programs that end early ...) on the problems of --task, or on\n"
  .. "                     the objects of stdin, and lists those that are paid; exit code 1 when there are any"

command.parameters = {
  { "verifier", { "math", "module of verifiers/, or a Lua file", value = "NAME" } },
  { "test", { nil, "judge the lines of this file and compare with the rewards they state", type = "string", value = "FILE" } },
  { "attack", { false, "try known hacks and list those that are paid" } },
  { "task", { nil, "with --attack: problem set whose first problems are used", type = "string" } },
  { "limit", { 32, "with --attack: so many problems", integer = true, min = 1 } },
  { "timeout_ms", { 0, "limit of one call; 0: what the verifier says of itself, else 1000", integer = true, min = 0 } },
  { "instructions", { 0, "limit of one call in instructions of the Lua VM; 0: none", integer = true, min = 0 } },
  { "memory", { 0, "limit of one worker's Lua state; 0: 256 MiB", type = "size" } },
  { "workers", { 2, "threads", integer = true, min = 1 } },
  { "verifier_config", { nil, "JSON object for verifiers that take one", type = "string", value = "JSON" } },
  { "info", { false, "add what the verifier says beside the reward" } },
}

-- Lines for stdout go to a copy of it, while stdout itself is stderr: what a verifier prints, in this program's threads, is not among the results.
local results

local function say(line)
  local text = line .. "\n"
  local at, n = 0, #text
  while at < n do
    local k = tonumber(C.write(results, ffi.cast("const char *", text) + at, n - at))
    if k <= 0 then options.exit(1, "stdout cannot be written") end
    at = at + k
  end
end

-- stdin, with a word to whoever sits at a terminal
local function stdin_lines(what)
  if require("tl.host").isatty(0) then io.stderr:write("reading stdin: a JSON object a line, ", what, "; Ctrl-D ends\n") end
  return input.lines()
end

local AHEAD = 256  -- lines read before the first of them is answered

local function line_of(v, p)
  local reward = v.outcome == "ok" and v.reward or json.null
  local o = json.object({ reward = reward, outcome = v.outcome }, { "reward", "outcome", "message", "info" })
  if v.outcome ~= "ok" and v.outcome ~= "abstain" then
    o.message = v.message
  elseif p.info and v.message ~= "" then
    o.info = json.parse(v.message)
  end
  return json.encode(o)
end

local function config_of(text)
  if not text then return nil end
  local v, why = json.parse(text)
  if type(v) ~= "table" then options.usage("--verifier-config: %s", why or "not a JSON object") end
  return v
end

local own = { gold = true, response = true, n_tokens = true, finish = true, reward = true, outcome = true }

-- the problem and the completion of an input object
local function parts_of(v, where)
  if v.response == nil then options.exit(1, where .. ": has no 'response'") end
  if type(v.response) ~= "string" then options.exit(1, ("%s: 'response' is %s, wanted text"):format(where, json.encode(v.response):sub(1, 40))) end
  local problem = {}
  for k, x in pairs(v) do
    if not own[k] and x ~= json.null then problem[k] = x end
  end
  if v.gold ~= nil and v.gold ~= json.null then problem.answer = v.gold end
  return problem, { text = v.response, n_tokens = v.n_tokens, finish = v.finish or "stop" }
end

-- judges objects (an iterator of object, line number) and calls answer(verdict, object, line) for each, in their order
local function judge(pool, objects, source, strict, answer)
  local waiting, done, first, last = {}, {}, 1, 0  -- done[i]: the verdict of line i
  local kept = {}
  local function flush(all)
    while first <= last and (all or last - first >= AHEAD) do
      while not done[first] do
        local v = pool:take(1000)
        if v then done[waiting[v.job]], waiting[v.job] = v, nil end
      end
      answer(done[first], kept[first][1], kept[first][2])
      done[first], kept[first], first = nil, nil, first + 1
    end
  end
  -- the next object's problem and completion; nil at the end
  local function following()
    local v, n = objects()
    if not v then return nil end
    local where = ("%s, line %d"):format(source, n)
    if strict and (v.gold == nil or v.gold == json.null) then options.exit(1, where .. ": has no 'gold'") end
    local problem, completion = parts_of(v, where)
    return { v, n }, problem, completion
  end
  while true do
    local ok, object, problem, completion = pcall(following)
    if not ok then
      flush(true) -- a bad line ends the command; the lines before it keep their answers
      error(object, 0)
    end
    if not object then break end
    last = last + 1
    kept[last] = object
    waiting[pool:submit(problem, completion)] = last
    flush(false)
  end
  flush(true)
end

local function rewards(pool, p)
  local failed = false
  judge(pool, stdin_lines '{"gold": ..., "response": ...}', "stdin", true, function(v)
    say(line_of(v, p))
    failed = failed or v.outcome == "error"
  end)
  if failed then io.stderr:write "some calls of the verifier failed; their lines say why\n" end
  return 0
end

-- ---- --test

local function file_lines(path)
  local f, why = fs.open(path)
  if not f then options.exit(1, why) end
  local n = 0
  return function()
    while true do
      local line = f:read "*l"
      if not line then f:close() return nil end
      n = n + 1
      if line:find "%S" then
        local v, bad = json.parse(line)
        if type(v) ~= "table" then options.exit(1, ("%s, line %d: %s"):format(path, n, bad or "not a JSON object")) end
        return v, n
      end
    end
  end
end

-- The final line "A: 18" of GSM8K's published model solutions is the "#### 18" of its data set under an older mark.
local function marked(text) return (text:gsub("%f[^%z\n]A: ([^\n]*)%s*$", "#### %1")) end

-- A line of GSM8K's example_model_solutions.jsonl as a list of tests; nil when it is none. Every field { solution =, is_correct = } is one.
local function labelled(v, where)
  if v.ground_truth == nil then return nil end
  if type(v.ground_truth) ~= "string" then options.exit(1, where .. ": ground_truth is not a text") end
  local list, names = {}, {}
  for name, s in pairs(v) do if type(s) == "table" and s.is_correct ~= nil then names[#names + 1] = name end end
  table.sort(names)
  for _, name in ipairs(names) do
    local s = v[name]
    if type(s.solution) ~= "string" or type(s.is_correct) ~= "boolean" then options.exit(1, ("%s: %s wants a text 'solution' and 'is_correct', true or false"):format(where, name)) end
    list[#list + 1] = { question = v.question, gold = marked(v.ground_truth), response = marked(s.solution), reward = s.is_correct and 1 or 0 }
  end
  if #list == 0 then options.exit(1, where .. ": has a ground_truth and no field { solution, is_correct }") end
  return list
end

-- the tests of a file, with the number of the line that each stands in
local function tests_of(path)
  local next_line, list, at, number = file_lines(path), {}, 0, 0
  return function()
    at = at + 1
    if not list[at] then
      local v, n = next_line()
      if not v then return nil end
      list, at, number = labelled(v, ("%s, line %d"):format(path, n)) or { v }, 1, n
    end
    return list[at], number
  end
end

local function test(pool, p)
  local passed, failed = 0, 0
  judge(pool, tests_of(p.test), p.test, false, function(v, o, n)
    local wanted = o.reward ~= json.null and o.reward or nil
    if wanted == true then wanted = 1 elseif wanted == false then wanted = 0 end
    local outcome = type(o.outcome) == "string" and o.outcome or "ok"
    if wanted == nil and o.outcome == nil then options.exit(1, ("%s, line %d: wants 'reward' or 'outcome', what is right"):format(p.test, n)) end
    local good = v.outcome == outcome and (wanted == nil or outcome ~= "ok" or math.abs(v.reward - wanted) <= 1e-9)
    if good then passed = passed + 1 return end
    failed = failed + 1
    local said = v.outcome == "ok" and ("reward %g"):format(v.reward) or v.outcome .. ": " .. v.message
    say(("%s:%d: %s, wants %s   %s"):format(p.test, n, said, outcome == "ok" and wanted ~= nil and ("reward %g"):format(wanted) or outcome, json.encode(o.response):sub(1, 100)))
  end)
  if p.json then say(json.encode { passed = passed, failed = failed }) end
  io.stderr:write(("%d passed, %d failed\n"):format(passed, failed))
  return failed == 0 and passed > 0 and 0 or 1
end

-- ---- --attack

local function attack(pool, p)
  local problems = {}
  if p.task then
    local data = require "tl.data"
    problems = data.load(p.task, { limit = p.limit, n = p.limit })
  else
    for v, n in stdin_lines 'a problem such as {"question": ..., "gold": ...} (--task NAME takes a problem set)' do
      if v.gold == nil and v.tests == nil and v.asserts == nil and v.instructions == nil and v.instruction_id_list == nil then
        options.exit(1, ("stdin, line %d: wants 'gold', 'tests', 'asserts' or 'instructions'"):format(n))
      end
      v.response = v.response or ""
      problems[#problems + 1] = parts_of(v, "stdin, line " .. n)
    end
  end
  if #problems == 0 then options.exit(1, (p.task or "stdin") .. ": no problems") end
  local r = require("tl.attack").run(pool, problems, { problems = p.limit })
  if p.json then
    say(json.encode { problems = r.problems, decided = r.decided, undecided = r.undecided, hacks = json.array(r.hacks), failing = json.array(r.failing), errors = json.array(r.errors) })
  else
    for _, t in ipairs(r.hacks) do
      local gold = t.gold and " for the gold " .. tostring(t.gold):gsub("\n", " | ") or ""
      say(("%-44s paid on %d of %d%s%s"):format(t.name, t.paid, t.tried, t.paid > 0 and "   " .. json.encode(t.example:sub(1, 60)) .. gold or "", t.paid > 0 and t.weak and "  (met by form alone; does not count)" or ""))
    end
  end
  for _, e in ipairs(r.errors) do io.stderr:write("the verifier failed on some: ", e, "\n") end
  if r.hung then
    io.stderr:write(("the verifier ran out of time in each of its first calls: %s\n"):format(r.hung))
    return 1
  end
  if r.undecided and #r.failing == 0 then
    io.stderr:write(("%d problems: right and wrong answers earn the same, so nothing can be said of what is paid for\n"):format(r.problems))
    return r.problems > 0 and #r.errors == 0 and 0 or 1
  end
  io.stderr:write(("%d problems, %d kinds of junk, %d of them paid\n"):format(r.problems, #r.hacks, #r.failing))
  return #r.failing == 0 and 0 or 1
end

function command.run(p)
  io.stdout:flush()
  results = C.dup(1)
  C.dup2(2, 1)
  local pool = require("tl.verify").pool { verifier = p.verifier, timeout_ms = p.timeout_ms > 0 and p.timeout_ms or nil, instructions = p.instructions, workers = p.workers,
    memory = p.memory, config = config_of(p.verifier_config) }
  local code = p.test and test(pool, p) or p.attack and attack(pool, p) or not (p.test or p.attack) and rewards(pool, p)
  pool:free()
  io.stdout:flush()
  C.dup2(results, 1)
  return code
end

return command
