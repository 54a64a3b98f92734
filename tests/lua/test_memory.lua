-- test_memory.lua: what a trainer may take where the weights lie (lua/tl/memory.lua). On the CPU, and on the simulator by test_cusim.sh.
-- Would catch: a device's budget from which the host's resident memory is taken instead of the weights and the adapter that lie on the
-- device, memory that is counted and not given back, scratch that is not reserved.
package.path = arg[0]:match "^(.*)/" .. "/?.lua;" .. package.path
local check = require "check"
local tl = require "tl"
local memory = require "tl.memory"
local ffi = require "ffi"
local C = require("tl.ffi").C
local MIB = 2 ^ 20

local device = C.tl_on_device()
local function held() return tonumber(C.tl_held_bytes()) end
local function collected() collectgarbage() collectgarbage() return held() end

check.test("what is held is a device's, or else the host's", function()
  check.equal(device, ffi.string(C.tl_backend_name()) == "cuda")
  if device then check.equal(held(), 0, "before anything is loaded") else check.equal(held() > 10 * MIB, true, "a program is resident") end
end)

local model = tl.model.load("tiny", { dtype = "bf16" })
local adapter = tl.adapter.tinylora(model, { rank = 2, u = 13, tie = tl.tie.full })

if device then
  check.test("weights and adapters are held, and given back", function()
    local before = collected()
    check.equal(before > model.packed_bytes and before < 1.5 * model.packed_bytes, true, ("%d held, %d packed"):format(before, model.packed_bytes))
    local second = tl.model.load("tiny", { dtype = "f32" })
    local lora = tl.adapter.create(second, "lora", { rank = 4 })
    local more = held() - before
    -- A and B with gradients, each number in fp32
    check.equal(more >= second.packed_bytes + 2 * 4 * lora.n_parameters, true, ("%d more held, %d packed"):format(more, second.packed_bytes))
    lora:free()
    second:free()
    lora, second = nil, nil
    check.equal(collected(), before, "afterwards")
  end)
end

local function trainer(limit, sequences)
  return tl.grpo.trainer { model = model, adapter = adapter, num_generations = 4, gate = false, max_completion_length = 4, memory = limit, max_sequences = sequences,
    reward = function(_, c) return #c.text % 2 end }
end

check.test("a trainer has the limit less what is held where it computes, and what is reserved", function()
  local before = collected()
  local t = trainer(4096 * MIB)
  local slack = device and 64 * 1024 or 32 * MIB  -- AdamW's state; on the CPU also what Lua and the verifier's workers take meanwhile
  check.near(t.free_memory, 4096 * MIB - before - memory.reserve(model.vocab, 64, device), slack)
  local m = t:step { { prompt = "What is 1 + 2?", answer = "3" } }
  check.equal(m.predicted_rss_bytes <= 4096 * MIB, true, "what is predicted")
  t:free()
end)

check.test("what is reserved grows with the sequences at once, as the logits do", function()
  local big = 152064
  check.equal(memory.reserve(big, 8, true), 192 * MIB)            -- as much as packing weights has used
  check.equal(memory.reserve(big, 256, true), 128 * MIB + 256 * 4 * big)
  check.equal(memory.reserve(big, 1024, true), 384 * MIB)
  check.equal(memory.reserve(big, 1024, false), 112 * MIB)
end)

check.test("a limit that the weights and scratch do not leave room in is one clear error", function()
  local why = check.raises("MiB", trainer, held() + 1)
  check.equal(why:find(device and "of the device are not enough: the adapter and the model take" or "are not enough: the program and the model take", 1, true) ~= nil, true, why)
end)

-- would catch: what is kept sized by the first step's short prompts, and the cache of a later step beside it over the limit
check.test("longer prompts in a later step stay within the limit", function()
  local limit = tonumber(C.tl_held_bytes()) + memory.reserve(model.vocab, 64, device) + 112 * MIB
  local t = tl.grpo.trainer { model = model, adapter = adapter, gate = false, num_generations = 8, max_completion_length = 64, memory = limit, reward = function(_, c) return #c.text % 2 end }
  local function plan(n, length)
    local groups, ids = {}, {}
    for k = 1, length do ids[k] = 1 + k % 400 end
    for i = 1, n do groups[i] = { prompt = ids } end
    return memory.plan(t, groups)
  end
  local first, room = plan(1, 3), t.kept
  check.equal(plan(1, 3).kept == first.kept and t.kept == room, true, "one room for all steps")
  local long = plan(64, 400)
  check.equal(long.cache > first.cache and long.kept < first.kept, true)
  for _, b in ipairs { first, long, plan(1, 3) } do check.equal(b.predicted <= limit and b.kept + math.max(b.cache, b.pass) <= t.free_memory + 1, true, ("%d of %d"):format(b.predicted, limit)) end
  t:step { { prompt = "What is 1 + 2?", answer = "3" } }
  t:free()
end)

-- would catch: merged weights counted as if they were int8, and a prediction without the copy that is sampled from
check.test("the copy that is sampled from is planned and predicted", function()
  for rollouts, share in pairs { merged = 1, int8 = 0.5, native = 0 } do
    local limit = tonumber(C.tl_held_bytes()) + memory.reserve(model.vocab, 64, device) + 112 * MIB
    local function make(o) return tl.grpo.trainer { model = model, adapter = adapter, gate = false, num_generations = 4, max_completion_length = 4, rollouts = rollouts, memory = o,
      reward = function(_, c) return #c.text % 2 end } end
    local t = make(limit)
    check.near(t.free_memory, limit - t.resident - memory.reserve(model.vocab, 64, device) - share * model.packed_bytes, 1)
    local b = memory.plan(t, { { prompt = { 1, 2, 3 } } })
    check.near(b.predicted, limit, 2, rollouts)
    t:free()
    t = make(nil)
    check.near(t.free_memory, 2240 * MIB - memory.reserve(model.vocab, 64, device), 1, "no limit: the copy comes on top")
    t:free()
  end
end)

-- would catch: a cache planned for the common length, where a member writes longer answers (or for 512 tokens, where none is common)
check.test("a population's cache is planned for the member with the longest answers", function()
  local function reward(_, c) return #c.text % 2 end
  local groups = {}
  for i = 1, 4 do groups[i] = { prompt = { 1, 2, 3 } } end
  local function cache(longest, o)
    o.model, o.reward, o.gate, o.num_generations, o.adapter = model, reward, false, 4, { u = 4 }
    local pop, alone = tl.population(o), tl.grpo.trainer { model = model, adapter = adapter, reward = reward, gate = false, num_generations = 4, max_completion_length = longest }
    check.equal(memory.plan(pop, groups).cache, memory.plan(alone, groups).cache)
    pop:free()
    alone:free()
  end
  cache(300, { max_completion_length = 4, members = { {}, { max_completion_length = 300 } } })
  cache(8, { members = { { max_completion_length = 8 }, { max_completion_length = 4 } } })
end)

check.done()
