-- verifiers.code and tl.sandbox: right programs are paid, wrong ones are not, and what a hostile one does stays inside. Catches: a program that
-- reads or writes beyond its sandbox, a limit that does not hold, an outcome that is told as another, a test that can be met without passing it.
package.path = arg[0]:match "^(.*)/" .. "/?.lua;" .. package.path
local check = require "check"
local tl = require "tl"
local code = require "verifiers.code"

local refusal = tl.sandbox.why_not()
if refusal then
  check.skip("code verifier", refusal)
  os.exit(0)
end

local function judge(problem, text, config)
  local r, info = code.make(config)(problem, { text = text })
  return r, info.status, info
end
local function expect(status, problem, text, config)
  local r, found, info = judge(problem, text, config)
  if found ~= status then error(("status %s (%s), expected %s"):format(found, tostring(info.why), status), 2) end
  check.equal(r, status == "passed" and 1 or 0, status)
  return info
end

local sum = { language = "python", tests = { { input = "1 2\n", output = "3\n" }, { input = "10 -4\n", output = "6" } } }
local add = { language = "python", asserts = { "assert add(1, 2) == 3", "assert add([1], [2]) == [1, 2]" } }

check.test("Python over stdin and stdout", function()
  expect("passed", sum, "Here:\n```python\na, b = map(int, input().split())\nprint(a + b)\n```\nDone.")
  local info = expect("wrong", sum, "```python\nprint(3)\n```")
  check.equal(info.passed, 1, "one passes")
  check.equal(judge(sum, "```python\nprint(3)\n```", { score = "share" }), 0.5, "share")
  expect("crash", sum, "print(1 / 0)")
  expect("no program", sum, "```js\n1\n```")
  expect("passed", sum, "```Python\na, b = map(int, input().split())\nprint(a + b)\n```")
  expect("passed", sum, "- So:\n\n  ```py\n  a, b = map(int, input().split())\n  if True:\n    print(a + b)\n  ```\n")
  for _, none in ipairs { {}, { tests = {} }, { asserts = "" }, { asserts = {}, tests = {} } } do check.raises("neither tests nor asserts", judge, none, "print(1)") end
end)

check.test("Python asserts, and ways around them", function()
  expect("passed", add, "def add(a, b):\n    return a + b")
  expect("wrong", add, "def add(a, b):\n    return a - b if isinstance(a, int) else a")
  for name, hack in pairs {
    exit = "import sys\nsys.exit(0)", os_exit = "import os\nos._exit(0)", equal = "class E:\n    def __eq__(s, o): return True\ndef add(a, b): return E()",
    subclass = "class E(int):\n    def __eq__(s, o): return True\ndef add(a, b): return E(9)", builtins = "import builtins\nbuiltins.all = lambda x: True\ndef add(a, b): return 0",
    error = "class AssertionError(Exception): pass\nimport builtins\nbuiltins.AssertionError = SystemExit\ndef add(a, b): return 0",
  } do check.equal(judge(add, hack), 0, name) end
end)

check.test("asserts on what equals everything, and asserts behind tests", function()
  expect("wrong", { asserts = "assert 3 == add(1, 2)" }, "class E:\n    def __eq__(s, o): return True\ndef add(a, b): return E()")
  local both = { tests = { { output = "5\n" } }, asserts = "assert f(2) == 4" }
  check.equal(expect("passed", both, "def f(x): return 2 * x\nprint(5)").total, 2)
  expect("wrong", both, "def f(x): return 2 * x\nprint(6)")
  expect("wrong", both, "def f(x): return x\nprint(5)")
  check.equal(judge(both, "def f(x): return 2 * x", { score = "share" }), 0.5, "share")
end)

check.test("C and Lua", function()
  local c = { language = "c", tests = sum.tests }
  expect("passed", c, "```c\n#include <stdio.h>\nint main(void) { int a, b; scanf(\"%d %d\", &a, &b); printf(\"%d\\n\", a + b); }\n```")
  expect("compile", c, "int main(void) { return x; }")
  expect("crash", c, "#include <stdlib.h>\nint main(void) { abort(); }")
  expect("passed", { language = "c", asserts = "assert(twice(4) == 8);" }, "int twice(int x) { return 2 * x; }")
  expect("wrong", { language = "c", asserts = "assert(twice(4) == 8);" }, "int twice(int x) { return x; }")
  expect("wrong", { language = "c", asserts = "assert(twice(4) == 8);" }, "#include <stdlib.h>\nint twice(int x) { exit(0); }")
  expect("passed", { language = "c", asserts = "assert(twice(4) == 8 && strlen(\"%d\") == 2);" }, "#include <string.h>\n#define TWO 2\nint twice(int x) { return TWO * x; }")
  -- what a program may do to the asserts behind it
  for _, cheat in ipairs { "#define __assert_fail(...) ((void)0)", "void __assert_fail(const char *a, const char *b, unsigned c, const char *d) {}",
      "#define assert(x) ((void)0)", "#define NDEBUG", "#define __builtin_trap() ((void)0)", "#define if(x) if (0)\n#define return 0; return",
      "#line 1 \"/usr/include/stdio.h\"\n#define __builtin_trap() ((void)0)", "#define fprintf(...) ((void)0)\n#define stderr 0", "#include <stdlib.h>\nvoid abort(void) {}" } do
    expect("wrong", { language = "c", asserts = "assert(twice(4) == 8);" }, cheat .. "\nint twice(int x) { 0; return x; }")
  end
  local lua = { language = "lua", tests = sum.tests }
  expect("passed", lua, "```lua\nlocal a, b = io.read('*n', '*n') print(a + b)\n```")
  expect("passed", { language = "lua", asserts = "assert(twice(4) == 8)" }, "function twice(x) return 2 * x end")
  expect("wrong", { language = "lua", asserts = "assert(twice(4) == 8)" }, "function twice(x) os.exit(0) end")
  expect("wrong", { language = "lua", asserts = "assert(twice(4) == 8)" }, "function twice(x) return 9 end assert = function() end")
end)

local one = { language = "python", tests = { { input = "", output = "ok" } } }
local slow = tonumber(os.getenv "TL_SLOW" or 1) -- for machines that are emulated: limits on time are so many times longer
local fast = { wall_ms = 1500 * slow, cpu_s = slow, memory = 268435456 }
local grouped = tl.sandbox.limits() == "cgroup"
local secret = check.file("a word of the host", ".txt")

-- each of these ends where it should, is told by its name, and pays nothing
local hostile = {
  { "an infinite loop", "timeout", "while True: pass" },
  { "a sleeper", "timeout", "import time\ntime.sleep(60)" },
  { "a memory bomb", "memory", "x = []\nwhile True: x.append('y' * 1000000)" },
  { "an output flood", "output", "while True: print('flood' * 1000)" },
  { "a disk filler", "disk", "f = open('/tmp/big', 'wb')\nwhile True: f.write(b'x' * 1000000)" },
  { "a disk filler in many files", "disk", "n = 0\nwhile True:\n    n += 1\n    open('/tmp/%d' % n, 'wb').write(b'x' * 1000000)" },
  { "a network attempt", "network", "import socket\nsocket.create_connection(('1.1.1.1', 80), 2)\nprint('ok')" },
  { "a look-up of a name", "network", "import socket\nsocket.getaddrinfo('example.com', 80)\nprint('ok')" },
  { "reading a host's file", "crash", ("print(open('%s').read())"):format(secret) },
  { "reading the host's accounts", "denied", "open('/etc/passwd').read()\nprint('ok')" },
  { "writing to /usr", "denied", "open('/usr/bin/x', 'w')\nprint('ok')" },
  { "changing its own job", "denied", "open('/job/program.py', 'w')\nprint('ok')" },
  { "a fork bomb that gives up", "processes", "import os\nwhile True: os.fork()" },
  { "threads without end", "processes", "import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(60,), daemon=True).start()" },
}
for _, h in ipairs(hostile) do
  check.test(h[1] .. " is contained and named", function() expect(h[2], one, h[3], fast) end)
end

check.test("a fork bomb that never gives up stays in its sandbox", function()
  expect(grouped and "processes" or "timeout", one, "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass", fast)
  -- the kernel ends the processes of a PID space when its first one is killed; that takes a moment
  local _, out = check.run "for i in 1 2 3 4 5 6 7 8 9 10; do n=$(ps -e -o args | grep -c '[/]job/program.py'); [ $n = 0 ] && break; sleep 0.3; done; echo $n"
  check.equal(tonumber(out), 0, "nothing is left of it")
end)

check.test("what a program may see and do", function()
  expect("passed", one, "import os\nn = [p for p in os.listdir('/proc') if p.isdigit()]\nprint('ok' if len(n) <= 4 else n)", fast)
  expect("passed", one, "open('/tmp/x', 'w').write('1')\nprint('ok')", fast)
  expect("passed", one, "import os\nassert not os.environ.get('TL_DATA') and os.getuid() != 0\nprint('ok')", fast)
end)

check.test("it kills its parent, everything it sees, and a process of the host by number, and only it is hurt", function()
  local _, pid = check.run "sleep 30 > /dev/null 2>&1 & echo $!"
  expect("passed", one, ([[
import os, signal
for pid in (os.getppid(), 1, -1, %d):
    try: os.kill(pid, signal.SIGKILL)
    except OSError: pass
print('ok')]]):format(tonumber(pid)), fast)
  check.equal(check.run(("kill -0 %d"):format(tonumber(pid))), 0, "the host's process lives")
  check.run(("kill %d"):format(tonumber(pid)))
end)
os.remove(secret)

check.test("control groups", function()
  -- a folder that looks like a group: what would be set and cleared away
  local fake = os.tmpname()
  os.remove(fake)
  tl.fs.mkdirs(fake)
  tl.fs.write(fake .. "/cgroup.subtree_control", "cpu memory pids\n")
  local _, out, err = check.run(("TL_CGROUP=%s %s -e 'local r = require(\"tl\").sandbox.run { argv = { \"/bin/true\" }, memory = 1048576 * 256, processes = 5, disk = 1048576 } print(r.status, r.limits)' 2>&1; cat %s/job-*/memory.max %s/job-*/pids.max"):format(
    fake, check.tlrun, fake, fake))
  check.equal(out, ("ok\tcgroup\n%d7"):format(257 * 1048576), err)
  check.run("rm -rf " .. fake)
  local _, told = check.run(("TL_CGROUP=/nowhere %s -e 'print(require(\"tl\").sandbox.limits())'"):format(check.tlrun))
  check.equal(told, "rlimits\t/nowhere has no memory controller\n")
end)

if grouped then
  check.test("memory and processes are bounded together", function()
    expect("memory", one, "import os, time\nfor i in range(3): os.fork()\nx = bytearray(40000000)\ntime.sleep(5)\nprint('ok')", { wall_ms = 8000 * slow, cpu_s = 5 * slow, memory = 134217728 })
    expect("passed", one, "print('ok')", fast)
  end)
else
  check.skip("memory and processes are bounded together", select(2, tl.sandbox.limits()))
end

check.test("a run's limits do not stop the pool", function()
  local pool = tl.verify.pool { verifier = "code", workers = 2, config = fast }
  local want = {}
  for i, text in ipairs { "while True: pass", "print('ok')", "print('no')", "import os\nwhile True: os.fork()", "print('ok')" } do
    want[pool:submit(one, { text = text })] = ({ 0, 1, 0, 0, 1 })[i]
  end
  while pool:pending() > 0 do
    local v = pool:take(-1)
    check.equal(v.outcome, "ok", v.message)
    check.equal(v.reward, want[v.job])
  end
  pool:free()
end)
check.done()
