-- sandbox_programs.lua [N]: N short programs (1,000) in Python, Lua and C, half of them right, through verifiers.code in a pool of two workers: how
-- many verdicts are as they should be, programs a second, and what the sandbox costs: the same program with the same input, alone, run in the
-- sandbox and without it in turn.
--   build/tlrun tests/agreement/sandbox_programs.lua
-- Exit code 1 when a verdict is not as it should be; where bubblewrap cannot run, it says so and stops.
local tl = require "tl"
local C = require("tl.ffi").C

local N = tonumber(arg[1]) or 1000
local refusal = tl.sandbox.why_not()
if refusal then
  print("skip sandbox_programs: " .. refusal)
  os.exit(0)
end

local sources = {
  python = "```python\na, b = map(int, input().split())\nprint(a %s b)\n```",
  lua = "```lua\nlocal a, b = io.read('*n', '*n')\nprint(a %s b)\n```",
  c = "```c\n#include <stdio.h>\nint main(void) { int a, b; scanf(\"%%d %%d\", &a, &b); printf(\"%%d\\n\", a %s b); }\n```",
}
local order = { "python", "lua", "c" }

local pool = tl.verify.pool { verifier = "code", workers = 2 }
local of, wrong, outcomes, per = {}, 0, {}, {}
local began = C.tl_seconds()
for i = 1, N do
  local language, right = order[i % 3 + 1], i % 2 == 0
  local job = pool:submit({ language = language, tests = { { input = ("%d 5\n"):format(i), output = ("%d\n"):format(i + 5) } } }, { text = sources[language]:format(right and "+" or "-") })
  of[job] = { language = language, reward = right and 1 or 0 }
end
while pool:pending() > 0 do
  local v = pool:take(-1)
  local job = of[v.job]
  wrong = wrong + ((v.outcome == "ok" and v.reward == job.reward) and 0 or 1)
  outcomes[v.outcome] = (outcomes[v.outcome] or 0) + 1
  local p = per[job.language] or { n = 0, seconds = 0 }
  per[job.language], p.n, p.seconds = p, p.n + 1, p.seconds + v.seconds
end
local seconds = C.tl_seconds() - began
pool:free()
print(("%d programs on two workers in %.1f s: %.0f a second; %d verdicts not as they should be; limits by %s"):format(N, seconds, N / seconds, wrong, (tl.sandbox.limits())))
for _, language in ipairs(order) do
  local p = per[language]
  if p then print(("  %-6s %4d programs, %.1f ms each in its worker%s"):format(language, p.n, 1e3 * p.seconds / p.n, language == "c" and ", compiling it included" or "")) end
end

-- ---- the sandbox's own cost, in turn with and without it
local function median(list)
  table.sort(list)
  return list[math.floor(#list / 2) + 1]
end
for _, case in ipairs { { "/bin/true", { "/bin/true" } }, { "python", { "/usr/bin/python3", "-I", "-B", "-c", "a, b = map(int, input().split())\nprint(a + b)" } } } do
  local inside, outside = {}, {}
  for i = 1, 60 do
    local o = { argv = case[2], input = "1 5\n" }
    local t = C.tl_seconds()
    tl.sandbox.run(o)
    inside[i] = C.tl_seconds() - t
    tl.process.run(o)
    outside[i] = C.tl_seconds() - t - inside[i]
  end
  local a, b = median(inside), median(outside)
  print(("  %s alone: %.1f ms in the sandbox, %.1f ms without it: %.1f ms of overhead (medians of 60 pairs)"):format(case[1], 1e3 * a, 1e3 * b, 1e3 * (a - b)))
end
os.exit(wrong == 0 and 0 or 1)
