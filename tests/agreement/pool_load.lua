-- pool_load.lua [N]: a verifier pool under load: N completions (2,000), a tenth of which hang in Lua, hang inside a C call, crash, or eat memory. Prints
-- throughput and outcomes, and how much longer the embedded model samples while the pool works than while it is idle (pairs of runs, in turn).
--   build/tlrun tests/agreement/pool_load.lua
local tl = require "tl"
local C = require("tl.ffi").C

local function verifier(problem, completion)
  local kind = problem.kind
  if kind == "loop" then while true do end end
  if kind == "pattern" then return (("a"):rep(40)):find(("a-"):rep(40) .. "b") end
  if kind == "crash" then return problem.missing.field end
  if kind == "memory" then local t = {} while true do t[#t + 1] = ("x"):rep(1000) .. #t end end
  return require("verifiers.math").verify(problem, completion)
end

local PAIRS = 15
local N, bad = tonumber(arg[1]) or 2000, { "loop", "pattern", "crash", "memory" }
local function submit(pool, i)
  local kind = i % 10 == 0 and bad[i / 10 % 4 + 1] or nil
  pool:submit({ kind = kind, answer = "\\frac{1}{2}" }, { text = "so \\boxed{0.5}", n_tokens = 9, finish = "stop" })
end

local pool = tl.verify.pool { verifier = verifier, workers = 2, timeout_ms = 50, memory = 16777216 }
local began, outcomes, rewards = C.tl_seconds(), {}, 0
for i = 1, N do submit(pool, i) end
while pool:pending() > 0 do
  local v = pool:take(-1)
  outcomes[v.outcome] = (outcomes[v.outcome] or 0) + 1
  if v.outcome == "ok" then rewards = rewards + v.reward end
end
local seconds = C.tl_seconds() - began
io.write(("%d completions in %.2f s (%.0f a second), a tenth of them bad with a limit of 50 ms; "):format(N, seconds, N / seconds))
for _, k in ipairs { "ok", "error", "timeout", "memory", "abstain" } do io.write(k, " ", outcomes[k] or 0, "  ") end
io.write(("; rewards %d\n"):format(rewards))

local model = tl.model.load "tiny"
local tok = model:tokenizer()
local prompts = {}
for i, p in ipairs(tl.data.load("wordproblems", { n = 64 })) do prompts[i] = tok:encode(tok:chat({ { role = "user", content = p.question } }, { add_generation_prompt = true }), { parse_special = true }) end
local function sampling(loaded)
  local sent = 0
  local t = C.tl_seconds()
  local _, stats = tl.sample.generate(model, prompts, { n = 4, max_new_tokens = 64, temperature = 1, seed = 1, ignore_eos = true, progress = loaded and function()
    for _ = 1, 2 do sent = sent + 1; submit(pool, sent) end -- two verdicts asked for each completion that ends
    while pool:take(0) do end
  end or nil })
  local wall = C.tl_seconds() - t
  while pool:pending() > 0 do pool:take(-1) end
  return wall, stats.decode_seconds + stats.prefill_seconds
end
sampling(false)
sampling(true)
local idle, busy, ratio = {}, {}, {}
for i = 1, PAIRS do
  if i % 2 == 0 then idle[i], busy[i] = sampling(false), sampling(true) else busy[i], idle[i] = sampling(true), sampling(false) end
  ratio[i] = busy[i] / idle[i]
end
for _, list in ipairs { idle, busy, ratio } do table.sort(list) end
local middle = math.floor(PAIRS / 2) + 1
print(("sampling 256 completions, %d pairs: %.3f s with the pool idle, %.3f s with 512 verdicts asked for meanwhile, a tenth of them bad; ratio of a pair %+.1f%% (quartiles %+.1f%%, %+.1f%%)"):format(PAIRS,
  idle[middle], busy[middle], 100 * (ratio[middle] - 1), 100 * (ratio[math.floor(PAIRS / 4) + 1] - 1), 100 * (ratio[math.ceil(PAIRS * 3 / 4)] - 1)))
pool:free()
