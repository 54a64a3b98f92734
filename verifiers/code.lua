--- code.lua: does the program in a completion pass its tests? It runs in bubblewrap with limits (tl.sandbox says what it can see and do); where
--- bubblewrap cannot run, every call is an error, and nothing is run unprotected.
---
---   problem.language   "python" (default), "c", "lua"; or config.language
---   problem.tests      { { input = "3 4\n", output = "7\n" }, ... }: the program reads stdin and writes stdout, one run a test; spaces at the
---                      ends of lines and of the output do not count; C is compiled once for all of them
---   problem.asserts    text of tests that runs after the program in the same process: asserts in Python and Lua, statements of a main() with
---                      assert() in C; a string, or a list of strings. They count as one test more, after problem.tests when there are both
---   config.score       "all" (default): 1 when every test passes, else 0;  "share": the share that passes
---   config.wall_ms (5000), cpu_s (5), memory (512 MiB), processes (16), disk (16 MiB), max_output (1 MiB): limits of one run
---
--- The program is the last ``` block of the completion (of the language, when blocks are marked), or the whole text when there is none.
--- info = { status, passed, total, why, limits }: status is "passed", "wrong" (ran, other output, or an assert failed), "crash", "timeout", "memory",
--- "processes", "disk", "output" (too much of each), "network", "denied" (a file that it may not see or change), "compile", "no program"; limits is
--- "cgroup" where memory and processes are bounded together, "rlimits" where each process is bounded alone.
---
--- Tests over stdin and stdout cannot be met by exiting early or by redefining what the test uses. Asserts share the process with the program: that
--- it ended well is told by a word that is drawn for each run and reaches the process only after the program has run, on standard input; equality in
--- Python asserts is checked by functions taken before the program ran, on exact built-in types, so that an object that equals everything fails.
--- A program that reads its own standard input for that word can still cheat: prefer stdin and stdout for training.
local tl = require "tl"

local M = {}

-- ---- the program's text

local names = { python = { python = true, py = true, python3 = true }, c = { c = true }, lua = { lua = true } }

local function program_of(text, language)
  local marked, any
  text = ("\n" .. text .. "\n"):gsub("\n( ? ? ?)```([%w+#]*[^\n`]*)\n(.-)\n%1```", function(indent, tag, body) -- a block in a list is indented
    if indent ~= "" then return "\n```" .. tag .. "\n" .. ("\n" .. body):gsub("\n" .. indent, "\n"):sub(2) .. "\n```" end
  end)
  for tag, body in text:gmatch("\n```([%w+#]*)[^\n]*\n(.-)\n```") do
    tag = tag:lower()
    if names[language][tag] then marked = body elseif tag == "" then any = body end
  end
  if marked or any then return marked or any end
  if text:find("```", 1, true) then return nil end
  return text:find("%S") and text or nil
end

-- ---- harnesses for asserts: they run the program, then what stands on standard input after the first line, and print that line at the end

local python_harness = [==[
import sys, ast, os
def _main(exact=(int, float, str, bytes, bool, type(None), list, tuple, dict, set, frozenset, complex, range), kind=type, isin=isinstance,
          length=len, al=all, zp=zip, srt=sorted, rep=repr, ex=exec, comp=compile, parse=ast.parse, out=os.write, leave=os._exit, read=os.read,
          Transformer=ast.NodeTransformer, Eq=ast.Eq, Call=ast.Call, Name=ast.Name, Load=ast.Load, fix=ast.fix_missing_locations, Err=AssertionError):
    def same(a, b):
        if (kind(a) in exact) != (kind(b) in exact): return False
        if kind(a) in (list, tuple) and kind(a) is kind(b): return length(a) == length(b) and al(same(x, y) for x, y in zp(a, b))
        if kind(a) is dict and kind(b) is dict: return length(a) == length(b) and al(k in b and same(a[k], b[k]) for k in a)
        return a == b
    class Exact(Transformer):
        def visit_Compare(self, node):
            self.generic_visit(node)
            if length(node.ops) == 1 and isin(node.ops[0], Eq):
                return Call(func=Name(id="_same", ctx=Load()), args=[node.left, node.comparators[0]], keywords=[])
            return node
    space = {"__name__": "__main__"}
    ex(comp(open("/job/program.py").read(), "program.py", "exec"), space)
    data = b""
    while True:
        part = read(0, 65536)
        if not part: break
        data += part
    word, tests = data.decode().split("\n", 1)
    space["_same"] = same
    ex(comp(fix(Exact().visit(parse(tests))), "tests", "exec"), space)
    out(1, ("\n" + word).encode())
    leave(0)
_main()
]==]

local lua_harness = [[
local read, load, write, exit, check, flush, stdin, stdout = io.read, loadstring, io.write, os.exit, error, io.flush, io.stdin, io.stdout
local raw_read, raw_write = stdin.read, stdout.write
local chunk, why = loadfile "/job/program.lua"
if not chunk then check(why, 0) end
local is = assert
chunk()
local word, tests = raw_read(stdin, "*l"), raw_read(stdin, "*a")
local test = is(load(tests, "=tests"))
_G.assert = is
test()
raw_write(stdout, "\n", word)
exit(0)
]]

local function find_python()
  for _, path in ipairs { "/usr/bin/python3", "/usr/local/bin/python3" } do
    local f = io.open(path)
    if f then f:close() return path end
  end
  error("there is no /usr/bin/python3, which is what the sandbox can see; on Debian: apt-get install python3-minimal", 0)
end

-- { files, argv to run it, argv to compile it, paths to show }
local languages = {}

function languages.python(program, asserts)
  local run = { find_python(), "-I", "-B", asserts and "/job/harness.py" or "/job/program.py" }
  return { files = { ["program.py"] = program, ["harness.py"] = asserts and python_harness or nil }, run = run }
end

function languages.lua(program, asserts)
  return { files = { ["program.lua"] = program, ["harness.lua"] = asserts and lua_harness or nil }, binds = { tl.exe, tl.root .. "/lua" },
    run = { tl.exe, asserts and "/job/harness.lua" or "/job/program.lua" } }
end

-- The asserts of a C program stand behind it in one file, without its macros (the preprocessor lists them: those that it defines outside of
-- headers, whatever its #line says) and with an assert that calls nothing which a program could define.
local C_UNDEFINE = [[gcc -E -dD -w -std=gnu11 /job/program.c | awk '/^# [0-9]+ / { if (/ 1( [34])*$/) depth++; else if (/ 2( [34])*$/) depth-- }
  depth == base && /^#define / { n = $2; sub(/\(.*/, "", n); print "#undef " n }
  /^# [0-9]+ "\/job\/program.c"$/ && !begun { begun = 1; base = depth }' >/tmp/undefine.h && ]]
local C_TESTS = [[
#include "/job/program.c"
#include "/tmp/undefine.h"
#undef assert
#define assert(x) ((x) ? (void)0 : (fprintf(stderr, "assertion failed: %%s\n", #x), __builtin_trap()))
int main(void) {
%s
char w[80]; if (!fgets(w, sizeof w, stdin)) return 1; printf("\n%%s", w); return 0; }
]]

function languages.c(program, asserts)
  local files = { ["program.c"] = program }
  if asserts then
    files["program.c"] = "#include <assert.h>\n#include <stdio.h>\n" .. program .. "\n"
    files["tests.c"] = C_TESTS:format(asserts)
  end
  return { files = files, run = { "/job/program" },
    compile = { "/bin/sh", "-c", (asserts and C_UNDEFINE or "") .. "gcc -O1 -std=gnu11 -w -o /tmp/program /job/" .. (asserts and "tests.c" or "program.c") .. " -lm && cat /tmp/program" } }
end

-- ---- running

local function limits(config, folder, job)
  return { folder = folder, binds = job.binds, argv = job.run, wall_ms = config.wall_ms or 5000, cpu_s = config.cpu_s or 5, memory = config.memory or 536870912,
    processes = config.processes or 16, disk = config.disk, max_output = config.max_output }
end

-- compiles into the folder; nil, or the status and why not
local function compile(job, folder, config)
  if not job.compile then return nil end
  local o = limits(config, folder, job)
  o.argv, o.wall_ms, o.cpu_s, o.max_output, o.disk = job.compile, 20000, 20, 67108864, 67108864
  local r = tl.sandbox.run(o)
  if r.status ~= "ok" then return (r.status == "crash" or r.status == "denied") and "compile" or r.status, r.err:match("[^\n]*error[^\n]*") or r.why end
  tl.fs.write(folder .. "/program", r.out)
  tl.process.run { argv = { "chmod", "755", folder .. "/program" } }
end

local function lines(s) return (s:gsub("[ \t\r]+\n", "\n"):gsub("%s+$", "")) end

local function run_tests(tests, config, o)
  local passed, status, why = 0, "passed", nil
  for i, t in ipairs(tests) do
    o.input = t.input or ""
    local r = tl.sandbox.run(o)
    local ok = r.status == "ok" and lines(r.out) == lines(t.output or "")
    if ok then
      passed = passed + 1
    elseif status == "passed" then
      status = r.status == "ok" and "wrong" or r.status
      why = ("test %d: %s"):format(i, r.status == "ok" and "wrote " .. (lines(r.out):sub(1, 80):gsub("\n", " | ")) or r.why)
      if config.score ~= "share" then break end
    end
  end
  return passed, status, why
end

local function random_word()
  local f = assert(io.open("/dev/urandom", "rb"))
  local bytes = f:read(16)
  f:close()
  return (bytes:gsub(".", function(c) return ("%02x"):format(c:byte()) end))
end

local function run_asserts(asserts, language, o)
  local word = random_word()
  o.input = word .. "\n" .. (language == "c" and "" or asserts)
  local r = tl.sandbox.run(o)
  if r.status == "ok" and r.out:match("[^\n]*$") == word or r.status == "ok" and r.out:sub(-#word - 1) == word .. "\n" then return 1, "passed" end
  if r.status == "ok" then return 0, "wrong", "ended before its tests" end
  if r.status == "crash" and (r.err:find("[Aa]ssert")) then return 0, "wrong", r.why end
  return 0, r.status, r.why
end

--- The verifier for a config; see the top of the file.
function M.make(config)
  config = config or {}
  if config.score and config.score ~= "all" and config.score ~= "share" then error("verifiers.code: score is '" .. tostring(config.score) .. "'; all or share", 2) end
  return function(problem, completion)
    local language = problem.language or config.language or "python"
    local build = languages[language] or error(("language is '%s'; python, c or lua"):format(tostring(language)), 0)
    local refusal = tl.sandbox.why_not()
    if refusal then error("refused: " .. refusal .. "; programs are not run unprotected", 0) end
    local asserts = problem.asserts
    if type(asserts) == "table" then asserts = table.concat(asserts, "\n") end
    if asserts and not asserts:find("%S") then asserts = nil end
    local tests = problem.tests and #problem.tests > 0 and problem.tests
    if not tests and not asserts then error("the problem has neither tests nor asserts", 0) end
    local total = (tests and #tests or 0) + (asserts and 1 or 0)
    local program = program_of(completion.text, language)
    if not program then return 0, { status = "no program", passed = 0, total = total } end
    local passed, status, why = 0, "passed", nil
    local function run(job, judge, given)
      local folder = tl.sandbox.folder(job.files)
      local ok, n, said, reason = pcall(function()
        local failed, message = compile(job, folder, config)
        if failed then return 0, failed, message end
        return judge(given, limits(config, folder, job))
      end)
      tl.sandbox.remove(folder)
      if not ok then error(n, 0) end
      passed = passed + n
      if status == "passed" then status, why = said, reason end
    end
    if tests then run(build(program), function(list, o) return run_tests(list, config, o) end, tests) end
    if asserts and (status == "passed" or config.score == "share") then
      run(build(program, asserts), function(text, o) return run_asserts(text, language, o) end, asserts)
    end
    local info = { status = status, passed = passed, total = total, why = why, limits = (tl.sandbox.limits()) }
    if config.score == "share" then return passed / total, info end
    return status == "passed" and 1 or 0, info
  end
end

-- nice: programs inherit it, and have wall limits of their own
M.about = { name = "code", wants = { "tests" }, range = { 0, 1 }, timeout_ms = 120000, nice = 0, summary = "a program passes its tests, in a sandbox" }
M.verify = M.make()

return setmetatable(M, { __call = function(_, problem, completion) return M.verify(problem, completion) end })
