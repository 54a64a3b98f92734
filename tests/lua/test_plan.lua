-- test_plan.lua: plans against what the program really asks for and computes. Would catch: a change of the pass's, the cache's or the
-- weights' memory that the plan does not follow, an op left out or counted twice, a roofline that takes the smaller of its two sides,
-- a device or a model that is not found. No time is asserted; `tlrun plan --check` compares times.
package.path = arg[0]:match "^(.*)/" .. "/?.lua;" .. package.path
local check = require "check"
local equal, near = check.equal, check.near
local tl = require "tl"
local bench = require "tl.bench"
local devices = require "tl.plan.devices"
local plan = require "tl.plan"
local shapes = require "tl.plan.shapes"
local json = require "tl.json"

local model = tl.model.load("tiny", { dtype = "bf16" })
local on_device = require("tl.ffi").C.tl_on_device()  -- a pass keeps logits where the host reads memory, and counts keys by their lists
local adapter = tl.adapter.tinylora(model, { rank = 2, u = 13, tie = tl.tie.full })
local shape = require("tl.plan.check").shape(model)

local function workload(o)
  local w = { shape = shape, device = devices.gpu "h100", prompts = 4, group = 4, prompt_tokens = 10, mean_tokens = 8, max_tokens = 8, last_tokens = 8,
    sequences = 64, dtype = "bf16", adapter = "tinylora", rank = 2, u = 13, rollouts = "native", trained = 1, count = 1 }
  for k, v in pairs(o or {}) do w[k] = v end
  return w
end

local function batch_of(prompts, group, prompt, new)
  local pass, b = require "tl.pass", require("tl.pass").batch()
  local function ids(n) local t = {}; for i = 1, n do t[i] = 5 + i end; return t end
  for _ = 1, prompts do
    b:prompt(ids(prompt))
    for _ = 1, group do b:completion(ids(new)) end
  end
  return b, pass
end

check.test("a training pass takes the memory that is planned", function()
  for _, c in ipairs { { 4, 4, 10, 8 }, { 3, 5, 33, 17 }, { 1, 1, 7, 2 } } do
    local b, pass = batch_of(unpack(c))
    local p = pass.create(model, b, { adapter = adapter, backward = true, memory = 2 ^ 30 })
    local rows, out = c[1] * (c[3] + c[2] * (c[4] - 1)), c[1] * c[2] * c[4]
    local planned = plan.pass_bytes(workload(), rows, out, shape.layers, false, not on_device)
    near(p.planned_bytes / planned, 1, 0.03, "rows " .. rows)  -- C rounds every array up to 64 bytes
    p:free()
  end
end)

check.test("micro-batches and recomputation are those of the pass", function()
  local b, pass = batch_of(8, 4, 40, 60)
  local w = workload { device = { kind = on_device and "gpu" or "cpu" }, prompts = 8, prompt_tokens = 40, max_tokens = 60, mean_tokens = 60, adapter = "lora", rollouts = "merged" }
  local lora = tl.adapter.create(model, "lora", { rank = 2 })
  local seen = {}
  for _, mib in ipairs { 3, 5, 8, 16, 64, 256 } do
    local p = pass.create(model, b, { adapter = lora, backward = true, memory = mib * 2 ^ 20 })
    local c = plan.cut(w, shape.layers, mib * 2 ^ 20)
    equal({ c.recompute, c.fits }, { p.recomputes, true }, mib .. " MiB: recomputed, fits")
    equal(c.micro, p.n_micro, mib .. " MiB: micro-batches")
    near(p.planned_bytes / c.bytes, 1, 0.03, mib .. " MiB")
    seen[p.recomputes and (p.n_micro > 8 and "parts" or "again") or p.n_micro > 1 and "cut" or "whole"] = true
    p:free()
  end
  equal(seen, { parts = true, again = true, cut = true, whole = true }, "ways that were tried")
end)

check.test("weights take what is planned", function()
  local m = plan.memory(workload())
  equal(m.parts[1].name, "weights")
  near(m.parts[1].bytes / model.packed_bytes, 1, 0.02)
end)

check.test("a step's FLOPs are those that the ops count", function()
  local problems = {}
  for i = 1, 6 do problems[i] = { prompt = "What is " .. i .. " + 2?", answer = "3" } end
  local trainer = tl.grpo.trainer { model = model, adapter = adapter, num_generations = 6, lr = 1e-3, gate = false, max_completion_length = 12, beta = 0,
    entropy_coef = 1e-3, temperature = 1, reward = function(_, c) return #c.text % 2 end }
  local m, r
  local profile = bench.profile(function() m, r = trainer:step(problems) end)
  trainer:free()
  local prompt, new, n, pairs_ = 0, 0, 0, 0
  for _, g in ipairs(r.groups) do
    prompt = prompt + #g.prompt
    for _, c in ipairs(g.completions) do n, new = n + 1, new + #c.ids end
  end
  equal(m.layers_kept, model.n_layers)
  equal(m.samples_trained, n)
  local w = workload { prompts = 6, group = 6, prompt_tokens = prompt / 6, mean_tokens = new / n, last_tokens = new / n, max_tokens = 12 }
  local step = plan.step(w, plan.memory(w))
  local function planned(...)
    local sum = 0
    for _, o in ipairs(step.ops) do
      for _, name in ipairs { ... } do if o.name == name then sum = sum + o.flops end end
    end
    return sum
  end
  local function counted(name)
    local sum = 0
    for _, row in ipairs(profile.rows) do if row.name:find(name, 1, true) == 1 then sum = sum + row.flops end end
    return sum
  end
  near(planned("linear q k v", "linear o", "linear gate up", "linear down") / counted "linear_fwd", 1, 1e-9, "forward")
  near(planned "head and draw" / counted "head_sample", 1, 1e-9, "head_sample")
  near(planned "head backward" / counted "head_bwd", 1, 1e-9, "head_bwd")
  -- the lowest layer's q, k and v pass no gradient on
  local lost = 2 * (prompt + new - n) * (shape.width * (shape.heads + 2 * shape.kv_heads) * shape.head_dim)
  near((planned "linear backward x" - lost) / counted "linear_bwd_x", 1, 1e-9, "linear_bwd_x")
  local attention = planned "attention backward" / counted "attn_bwd"  -- the plan takes all completions as equally long
  if on_device then equal(attention > 0 and attention < 1.1, true, "attn_bwd") else near(attention, 1, 0.1, "attn_bwd") end
end)

check.test("the larger side of the roofline counts, and devices share the prompts", function()
  local big = shapes.find "Qwen/Qwen2.5-7B-Instruct"
  equal(big.layers, 28)
  local linears, head = shapes.sizes(big)
  near((linears + 2 * head) / 7.61e9, 1, 0.01)                    -- the size that its makers state
  local function step(o)
    local w = workload(o)
    w.shape = big
    return plan.step(w, plan.memory(w)), plan.memory(w)
  end
  local slow = { name = "slow", kind = "gpu", bf16 = 1e12, f32 = 1e12, memory_rate = 1e15, memory_bytes = 1e12, link_rate = 1e9, share = devices.gpu("h100").share,
    launch_s = 0, host_s_per_token = 0, usable = 1, basis = {} }
  local s = step { device = slow }
  local flops = 0
  for _, o in ipairs(s.ops) do if o.name:find "^linear" or o.name:find "^head" then flops = flops + o.flops end end
  near(s.seconds / (flops / 0.65e12), 1, 0.05)                    -- bound by arithmetic alone
  local one = step { prompts = 64, mean_tokens = 128, max_tokens = 128, last_tokens = 128 }
  local eight = step { prompts = 8, count = 8, mean_tokens = 128, max_tokens = 128, last_tokens = 128 }
  equal(one.tokens_per_step, eight.tokens_per_step)
  equal(eight.seconds < one.seconds and eight.seconds > one.seconds / 8, true)
end)

check.test("devices that share a model have their part of it, and sum", function()
  local big = shapes.find "Llama-3.1-70B"
  local w = workload { prompts = 64, count = 8 }
  w.shape = big
  local part = plan.split(w, 8)
  local function size(of, name)
    for _, p in ipairs(plan.memory(of).parts) do if p.name:find(name) then return p.bytes end end
  end
  local linears, table_ = shapes.sizes(big)
  near(size(part, "^weights"), 2 * (linears / 8 + 2 * table_) + (2 * big.layers + 1) * big.width * 4, 1)
  equal(size(part, "^adapter, frozen"), size(w, "^adapter, frozen"))   -- A and B are whole
  local s = plan.step(part, plan.memory(part))
  local sums = 0
  for _, o in ipairs(s.ops) do
    if o.name == "sums over devices" then
      sums = sums + o.calls
      near(o.seconds, o.bytes / part.device.link_rate + o.calls * part.device.sum_latency_s, 1e-6 * o.seconds)
    end
  end
  -- two a layer in every forward pass: prefill, decode steps; and two a layer of a backward, with what is recomputed
  local prefill = math.ceil(64 * w.prompt_tokens / 512)
  equal(sums >= 2 * big.layers * (prefill + s.decode_steps + 1), true)
  local none, field = plan.split(w, 16)
  equal(none == nil and field, "kv_heads")
end)

check.test("a decode step's kernels cost what nodes of a graph cost, all others a launch", function()
  local function launches(device, group)
    local w = workload { device = device, group = group, mean_tokens = 9, max_tokens = 9, last_tokens = 9, prompts = 1, rollouts = "merged", trained = 0 }
    w.shape = shapes.find "qwen2.5-7b"
    local step, sum, graphs = plan.step(w, plan.memory(w)), 0, 0
    for _, o in ipairs(step.ops) do
      if o.name == "graph launches" then graphs = graphs + o.calls else sum = sum + o.launch_s end
    end
    return sum, graphs, step
  end
  local function with(node, launch)
    local d = {}
    for k, v in pairs(devices.gpu "h100") do d[k] = v end
    d.graph_node_s, d.launch_s = node, launch
    return d
  end
  local h100 = devices.gpu "h100"
  local all, graphs, step = launches(h100, 4)
  equal(graphs, 2 * step.decode_steps)
  local nodes, others = launches(with(1, 0), 4), launches(with(0, 1), 4)
  near(nodes * h100.graph_node_s + others * h100.launch_s, all, 1e-9 * all)
  -- kernels of a layer: q k v, o, gate up, down 4 each (product, its chunks, two of the low-rank term), attention 2, norms 2; 3 of the head
  equal(nodes, step.decode_steps * (28 * (4 * 4 + 2 + 2) + 3))
  equal(launches(devices.cpu({ bf16 = 1e12, f32 = 1e12, memory = 1e10, threads = 2 }, { { 1, 1e10 }, { 512, 1e11 } }), 4) > 0, true)
end)

check.test("the command: a plan as JSON, what does not fit, and names that are not known", function()
  local code, out = check.run(check.tlrun .. " plan --model Qwen2.5-7B --gpu h100 --count 8 --json")
  equal(code, 0)
  local doc = json.decode(out)
  equal(#doc.assumptions > 3 and doc.step.seconds > 0 and doc.memory.fits, true)
  local sum = 0
  for _, o in ipairs(doc.step.ops) do sum = sum + o.seconds end
  near(sum, doc.step.seconds, 1e-9)
  local err
  code, out, err = check.run(check.tlrun .. " plan --model llama-3.1-70b --gpu h100 --json")
  equal(code, 1)
  equal(err:find("it does not fit: llama-3.1-70b needs", 1, true) ~= nil, true, err)
  code, out, err = check.run(check.tlrun .. " plan --gpu h10")
  equal(code == 2 and err:find "%-%-gpu h10 is not known" ~= nil, true, err)
  code, out, err = check.run(check.tlrun .. " plan --model qwen2.5-8b")
  equal(code == 1 and err:find "known by name" ~= nil, true, err)
  code = check.run(check.tlrun .. " plan --prompts 10 --count 8")
  equal(code, 2)
  for _, name in ipairs { "llama-3.1-70b", "qwen2.5-72b" } do
    code, out, err = check.run(check.tlrun .. (" plan --model %s --gpu h100 --count 8 --tensor-parallel 8 --prompts 10 --json"):format(name))
    equal(code, 0, err)
    doc = json.decode(out)
    equal(doc.model.heads == 64 and doc.tensor_parallel == 8 and doc.memory.fits, true)
  end
  code, out, err = check.run(check.tlrun .. " plan --model qwen2.5-7b --gpu h100 --count 8 --tensor-parallel 8")
  equal(code == 1 and err:find "qwen2.5%-7b: heads is 28, which %-%-tensor%-parallel 8 does not divide" ~= nil, true, err)
  code, out, err = check.run(check.tlrun .. " plan --count 6 --tensor-parallel 4")
  equal(code == 2 and err:find "6 devices cannot be put into groups of %-%-tensor%-parallel 4" ~= nil, true, err)
end)

check.done()
