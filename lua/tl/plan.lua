--- plan.lua: what a GRPO step takes before anything is computed: memory part by part, and time from a roofline of every op.
---
--- A workload w: shape (tl.plan.shapes), device (tl.plan.devices), prompts and group (of one device), prompt_tokens and
--- mean_tokens (of a completion; all taken as equal), max_tokens (the longest allowed: memory is planned for it, and a batch
--- decodes until its longest completion, last_tokens, is done), sequences (decoded at once), dtype, adapter, rank, u, rollouts, trained
--- (share of completions in groups that carry a gradient), count (devices), tensor_parallel (1: devices that share a model; count /
--- tensor_parallel groups of them share a step's prompts, and shape is then a device's part: plan.split), memory (limit in bytes), available (share of the device that is there for this program, 1).
---
--- Time. Every op has FLOPs, bytes (operands once, as runtime/base/profile.c counts) and calls:
---   seconds = max(flops / (peak x share), bytes / (memory rate x share)) + calls x kernels x launch
--- On a GPU an op is some kernels (kernels/cuda); in a decode step they are nodes of a CUDA graph, which cost less than a launch each,
--- and the step launches two graphs (runtime/sample/record.c).
--- A step is: prefill of every prompt once; decode steps of up to `sequences` rows; of the layers that memory does not keep from
--- sampling a forward pass (a second one where layers are recomputed); a backward for dX; the optimiser. Verifiers run beside
--- sampling and are not counted.
---
--- Memory. The formulas are those of runtime/train/pass.c, runtime/model/layer.c, runtime/model/kept.c and lua/tl/memory.lua, so the
--- plan is what the program asks for; tests/lua/test_plan.lua holds the two against each other.
local shapes = require "tl.plan.shapes"
local memory = require "tl.memory"

local plan = {}

local function act_bytes(w) return w.dtype == "f32" and 4 or 2 end
-- of a number of a weight: a CPU holds those of fp16 in fp32 (kernels/cpu/cpu.h)
local function weight_bytes(w) return w.dtype == "f16" and w.device.kind ~= "gpu" and 4 or act_bytes(w) end
local function is_lowrank(w) return w.adapter ~= "full" end

-- ---- memory

-- bytes a row of: one layer's activations, forward scratch, backward scratch (tl_acts_bytes and its neighbours in layer.c)
local function row_bytes(w)
  local s, act, r = w.shape, act_bytes(w), is_lowrank(w) and w.rank or 0
  local hd, gd = s.heads * s.head_dim, s.kv_heads * s.head_dim
  local norms = s.family == "qwen3"
  local acts = 2 * 4 + 4 * s.heads + 2 * act * hd + 2 * act * s.ffn + 7 * 4 * r + 2 * act * gd
    + (norms and act * (hd + gd) + 4 * (s.heads + s.kv_heads) or 0) + 2 * 4 * s.width
  local forward = act * s.width + 4 * (hd + 2 * gd) + act * s.ffn + (norms and 4 * hd or 0)
  local backward = act * math.max(s.width, hd) + 4 * s.width + 4 * s.ffn + 2 * act * s.ffn + 4 * (hd + 2 * gd) + act * (hd + 2 * gd) + 4 * r
  return acts, forward, backward
end

--- Bytes of a training pass over so many rows with so many predicted tokens, `low` of the layers being its own (pass.c); logits: it
--- keeps them from the forward direction.
function plan.pass_bytes(w, rows, out, low, recompute, logits)
  local s, act = w.shape, act_bytes(w)
  local acts, forward, backward = row_bytes(w)
  local any = low < s.layers and 1 or 0
  local sets = recompute and 1 or low + any
  local n = sets * rows * acts + rows * (forward + backward)
  n = n + rows * (s.width * 4 + 4 + s.width * act) + out * (s.width * act + 4)
  n = n + 2 * rows * s.width * 4 + out * s.width * 4 + (logits and out * s.vocab * 4 or 0)
  return n + (recompute and (low + any - 1) * rows * s.width * 4 or 0)
end

--- The workload of one of n devices that share the model: w with its part of the shape (whole: the model's). Embedding and head stay
--- whole on every device, as in runtime/model/split.c. nil and the field that cannot be divided.
function plan.split(w, n)
  local part = setmetatable({}, { __index = w.shape })
  for _, field in ipairs { "heads", "kv_heads", "ffn" } do
    if w.shape[field] % n ~= 0 then return nil, field end
    part[field] = w.shape[field] / n
  end
  return setmetatable({ shape = part, whole = w.shape, tensor_parallel = n }, { __index = w })
end

local function groups(w) return w.count / (w.tensor_parallel or 1) end

-- A and B are whole on every device
local function adapter_bytes(w)
  local s, r, n, low = w.whole or w.shape, w.rank, 0, 0
  for _, l in ipairs(shapes.linears(s)) do low = low + (l[2] + l[3]) * r end
  low = low * s.layers
  if w.adapter == "full" then
    local linears, table_ = shapes.sizes(s)
    n = linears + table_ * (s.tied and 1 or 2)
    return n * weight_bytes(w), n * 4 * 4  -- own weights; master, gradient, two moments
  end
  if w.adapter == "lora" then return low * 4, low * 4 * 4 end
  local trained = w.adapter == "loraxs" and 7 * s.layers * r * r or w.u
  return low * 4 + 7 * s.layers * r * r * 12, trained * 4 * 4
end

--- How a pass over w's prompts falls into micro-batches within a budget of bytes, `low` of the layers being its own: whole groups, or,
--- when not even one fits, parts of a group that have its prompt again. { micro, recompute, logits, bytes, fits }, as pass.c plans it.
function plan.cut(w, low, budget)
  local part = w.group
  local function rows(groups) return groups * (w.prompt_tokens + part * (w.max_tokens - 1)) end
  local function bytes(groups, recompute, logits)
    return plan.pass_bytes(w, rows(groups), groups * part * w.max_tokens, low, recompute, logits)
  end
  local function most(recompute, logits)
    local k = w.prompts
    while k > 1 and bytes(k, recompute, logits) > budget do k = k - 1 end
    return k, bytes(k, recompute, logits)
  end
  local k, need = most(false)
  local recompute = need > budget or k < w.prompts and rows(k) < 256
  local logits = false
  if recompute then
    while part > 1 and bytes(1, true) > budget do part = math.ceil(part / 2) end
    k, need = most(true)
  elseif low == w.shape.layers and w.device.kind ~= "gpu" then
    local fewer, more = most(false, true)
    logits = more <= budget and (fewer == w.prompts or rows(w.prompts) / math.ceil(w.prompts / fewer) >= 512)
    if logits then k, need = fewer, more end
  end
  return { micro = math.ceil(w.prompts * math.ceil(w.group / part) / k), recompute = recompute, logits = logits, bytes = need, fits = need <= budget }
end

--- Memory of one device: { parts = { { name, bytes } ... }, total, limit, fits, why, kept_layers, micro, recompute, at_once }.
function plan.memory(w)
  local s, act = w.shape, act_bytes(w)
  local linears, head = shapes.sizes(s)
  local weights = (linears + head * (s.tied and 1 or 2)) * weight_bytes(w) + (2 * s.layers + 1) * s.width * 4
  local frozen, trained = adapter_bytes(w)
  local merged = w.rollouts == "merged" and linears * weight_bytes(w) or 0
  local m = { parts = {}, limit = w.memory or w.device.memory_bytes * w.device.usable }
  local workspace = memory.reserve(s.vocab, w.sequences, w.device.kind == "gpu")
  local free = m.limit - weights - frozen - trained - merged - workspace
  local sequences, row = w.prompts * w.group, 2 * s.layers * s.kv_heads * s.head_dim * act
  local at_once = math.min(w.sequences, sequences)
  local cache = row * (w.prompts * w.prompt_tokens + at_once * w.max_tokens)
  if cache > free / 2 then cache = math.max(row * (w.prompt_tokens + w.max_tokens), math.floor(free / 2)) end
  at_once = math.max(1, math.min(at_once, math.floor((cache / row - w.prompts * w.prompt_tokens) / w.max_tokens)))
  local rows, kept, kept_layers = w.prompt_tokens + w.group * (w.max_tokens - 1), 0, 0
  if w.rollouts == "native" and is_lowrank(w) then
    local budget, all = math.max(0, free - math.max(cache, free / 8)), w.prompts * rows
    local out, layer = all * s.width * 4, all * (row_bytes(w))
    kept_layers = math.max(0, math.min(s.layers, math.floor((budget - out) / layer)))
    kept = kept_layers > 0 and out + kept_layers * layer or 0
    free = free - budget
  end
  local low = s.layers - kept_layers
  local c = plan.cut(w, low, free)
  local function part(name, bytes) if bytes > 0 then m.parts[#m.parts + 1] = { name = name, bytes = bytes } end end
  part("weights", weights)
  part("merged weights for sampling", merged)
  part("adapter, frozen part", frozen)
  part("adapter, trained numbers, gradient and moments", trained)
  part("keys and values", cache)
  part(("activations kept from sampling, %d of %d layers"):format(kept_layers, s.layers), kept)
  part(("activations of the training pass, %d micro-batches%s"):format(c.micro, c.recompute and ", recomputed" or ""), c.bytes)
  part("logits chunk and workspace", workspace)
  m.total = workspace + weights + merged + frozen + trained + kept + math.max(cache, c.bytes)
  m.kept_layers, m.micro, m.recompute, m.logits, m.at_once = kept_layers, c.micro, c.recompute, c.logits, at_once
  m.fits = free > 0 and c.fits
  if not m.fits then m.why = ("%s needs %.1f GB a device, %.1f GB are usable"):format(s.name, m.total * 1e-9, m.limit * 1e-9) end
  return m
end

-- ---- time

-- seconds of products of `flops` on `rows` rows, without launches. A CPU has measured rates by rows; between two of them the time
-- goes as a power of the rows.
local function product_seconds(w, flops, bytes, rows)
  local d = w.device
  if not d.products then return math.max(flops / ((w.dtype == "f32" and d.f32 or d.bf16) * d.share.product), bytes / (d.memory_rate * d.share.memory)) end
  local list, per_row = d.products, flops / rows
  local lo, hi = list[1], list[#list]
  if rows <= lo[1] then return per_row * lo[1] / lo[2] / d.share.product end
  if rows >= hi[1] then return flops / hi[2] / d.share.product end
  for i = 1, #list - 1 do
    if rows >= list[i][1] and rows <= list[i + 1][1] then lo, hi = list[i], list[i + 1] end
  end
  local t0, t1 = per_row * lo[1] / lo[2], per_row * hi[1] / hi[2]
  return t0 * (t1 / t0) ^ (math.log(rows / lo[1]) / math.log(hi[1] / lo[1])) / d.share.product
end

local Step = {}
Step.__index = Step

-- seconds of one call, without its launch
local function op_seconds(w, kind, flops, bytes, rows)
  local d = w.device
  if kind == "product" then return product_seconds(w, flops, bytes, rows) end
  if kind == "product_bwd" then return product_seconds(w, flops, bytes, rows) / d.share.backward end
  if kind == "decode" and d.kind == "gpu" then return bytes / (d.memory_rate * d.share.decode) end
  local by_memory = bytes / (d.memory_rate * d.share.memory)
  if kind == "memory" then return by_memory end
  if kind == "gather" then return bytes / (d.memory_rate * d.share.gather) end
  return math.max(by_memory, flops / (d.bf16 * d.share[kind] * (kind == "decode" and math.min(1, w.shape.head_dim / 64) or 1)))
end

-- kernels of an op on a GPU (kernels/cuda/linear.cu, attention.cu, head.cu, sample.cu); a CPU starts its threads once an op
local function kernels_of(w, name, rows)
  if w.device.kind ~= "gpu" then return 1 end
  if name == "head and draw" then return 3 end
  if name == "head backward" then return 2 end
  if name == "attention backward" then return 3 end
  if name == "attention" then return rows <= 256 and 2 or 1 end
  if name:find "^linear" and name ~= "linear backward w" then
    return 1 + (is_lowrank(w) and 2 or 0) + (rows < 512 and 1 or 0)  -- the low-rank term's two; few rows: chunks are added by one more
  end
  return 1
end

-- adds `times` calls of an op over so many rows, each with these FLOPs and bytes. Where the device has graphs, step.graph says that
-- the ops of now are nodes of one.
function Step:op(phase, name, kind, times, flops, bytes, rows)
  if times <= 0 then return end
  local launch = kernels_of(self.w, name, rows or math.huge) * (self.graph and self.w.device.graph_node_s or self.w.device.launch_s)
  self:add(phase, name, times, flops, bytes, op_seconds(self.w, kind, flops, bytes, rows), launch)
end

-- adds `times` calls that take s seconds each, and launch more
function Step:add(phase, name, times, flops, bytes, s, launch)
  local available = self.w.available or 1
  s, launch = s / available, launch / available
  local at = self.ops[phase .. name]
  if not at then
    at = { phase = phase, name = name, calls = 0, flops = 0, bytes = 0, seconds = 0, launch_s = 0 }
    self.ops[phase .. name] = at
    self.list[#self.list + 1] = at
  end
  at.calls, at.flops, at.bytes = at.calls + times, at.flops + times * flops, at.bytes + times * bytes
  at.seconds, at.launch_s = at.seconds + times * (s + launch), at.launch_s + times * launch
  self[phase] = (self[phase] or 0) + times * (s + launch)
end

-- the products of a layer that share their input run as one: { name, outputs, inputs, how many they are }
local function groups_of_linears(s)
  local q, kv = s.heads * s.head_dim, s.kv_heads * s.head_dim
  return { { "q k v", q + 2 * kv, s.width, 3 }, { "o", s.width, q, 1 }, { "gate up", 2 * s.ffn, s.width, 2 }, { "down", s.width, s.ffn, 1 } }
end

-- multiply-adds a row of the low-rank terms whose outputs and inputs come to n
local function lowrank(w, n) return is_lowrank(w) and w.rank * n or 0 end

-- sums over the devices that share the model, of `rows` rows of fp32: every device sends and receives 2 (n - 1) / n of the bytes
local function sums(t, phase, times, rows)
  local w, n = t.w, t.w.tensor_parallel or 1
  if n == 1 then return end
  local bytes = 2 * (n - 1) / n * rows * w.shape.width * 4
  t:add(phase, "sums over devices", times, 0, bytes, bytes / w.device.link_rate, w.device.sum_latency_s)
  t.summed = t.summed + times * rows * w.shape.width * 4
end

-- forward of `layers` layers, `times` times, over `rows` rows that see `pairs` keys in all
local function forward(t, phase, times, layers, rows, pairs, attention)
  local w = t.w
  local s, act = w.shape, act_bytes(w)
  local n, q, kv = times * layers, s.heads * s.head_dim, s.kv_heads * s.head_dim
  local fused = w.device.kind == "gpu" and s.family ~= "qwen3"  -- rotation with the products; norms of q and k stand between
  for _, l in ipairs(groups_of_linears(s)) do
    local out = 4 * l[2]
    if l[1] == "q k v" and fused then out = act * l[2] end
    if l[1] == "gate up" and w.device.kind == "gpu" then out = act * (l[2] / 2 + (attention == "decode" and 0 or l[2])) end
    t:op(phase, "linear " .. l[1], "product", n, 2 * rows * (l[2] * l[3] + lowrank(w, l[2] + l[4] * l[3])), weight_bytes(w) * l[2] * l[3] + rows * (act * l[3] + out), rows)
  end
  t:op(phase, "attention", attention, n, 4 * pairs * q, (attention == "decode" and 2 * pairs * kv * act or 2 * rows * kv * act) + 2 * rows * q * act, rows)
  t:op(phase, "rmsnorm", "memory", 2 * n, 0, rows * s.width * (4 + act))
  if not fused then t:op(phase, "rope, cast", "memory", 3 * n, 0, rows * (q + 2 * kv) * (4 + act) / 3) end
  if w.device.kind ~= "gpu" then t:op(phase, "swiglu", "memory", n, 0, 3 * rows * s.ffn * act) end
  sums(t, phase, 2 * n, rows)
end

local function backward(t, times, layers, rows, pairs)
  local w = t.w
  local s, act = w.shape, act_bytes(w)
  local n, q, kv = times * layers, s.heads * s.head_dim, s.kv_heads * s.head_dim
  for _, l in ipairs(shapes.linears(s)) do
    local bytes = weight_bytes(w) * l[2] * l[3] + rows * (8 * l[3] + act * l[2])
    t:op("update", "linear backward x", "product_bwd", n, 2 * rows * (l[2] * l[3] + lowrank(w, l[2] + l[3])), bytes, rows)
    if w.adapter == "full" then t:op("update", "linear backward w", "product_bwd", n, 2 * rows * l[2] * l[3], 8 * l[2] * l[3] + rows * act * (l[2] + l[3]), rows) end
  end
  t:op("update", "attention backward", "attention_bwd", n, 10 * pairs * q, rows * (3 * act + 4) * q)
  t:op("update", "swiglu backward", "memory", n, 0, rows * s.ffn * (4 + 4 * act))
  t:op("update", "rmsnorm backward", "memory", 2 * n, 0, 16 * rows * s.width)
  t:op("update", "rope, cast backward", "memory", 3 * n, 0, rows * (q + 2 * kv) * (4 + act) / 3)
  if is_lowrank(w) then t:op("update", "low-rank gradient", "memory", 7 * n, 0, 8 * rows * w.rank) end
  sums(t, "update", 2 * n, rows)
end

local function sampling(t, m)
  local w = t.w
  local s, act = w.shape, act_bytes(w)
  local _, head = shapes.sizes(s)
  local P, L, n = w.prompt_tokens, w.mean_tokens, w.prompts * w.group
  local prompt_rows = w.prompts * P
  local passes = math.ceil(prompt_rows / 512)
  forward(t, "sample", passes, s.layers, prompt_rows / passes, w.prompts * P * (P + 1) / 2 / passes, "attention")
  local steps = math.max(L, w.last_tokens) + (math.ceil(n / m.at_once) - 1) * L
  local rows = n * L / steps
  local passed = rows * (L - 1) / L                             -- a completion's last token is not fed back
  t.graph = w.device.graph_launch_s ~= nil and (w.tensor_parallel or 1) == 1  -- sums over devices go by the host
  if L > 1 then forward(t, "sample", steps, s.layers, passed, passed * (P + L / 2), "decode") end
  if L > 1 and t.graph and m.kept_layers > 0 then  -- a step's activations pass through buffers of its own
    t:op("sample", "kept activations", "memory", steps * m.kept_layers, 0, 2 * passed * (row_bytes(w)))
  end
  t:op("sample", "head and draw", "product", steps, 2 * rows * head, weight_bytes(w) * head, rows)
  if t.graph then t:add("sample", "graph launches", (L > 1 and 2 or 1) * steps, 0, 0, 0, w.device.graph_launch_s) end
  t.graph = false
  t:add("sample", "host", n * L, 0, 0, w.device.host_s_per_token, 0)
  t.tokens, t.decode_steps, t.decode_rows = n * L, steps, rows
end

local function update(t, m)
  local w = t.w
  local s, act = w.shape, act_bytes(w)
  local _, head = shapes.sizes(s)
  local P, L = w.prompt_tokens, w.mean_tokens
  local alive = w.prompts * w.trained
  if alive <= 0 then return end
  local rows, out = alive * (P + w.group * (L - 1)) / m.micro, alive * w.group * L / m.micro
  local pairs = alive * (P * (P + 1) / 2 + w.group * (L - 1) * (P + L / 2)) / m.micro
  local low = s.layers - m.kept_layers
  forward(t, "update", m.micro * (m.recompute and 2 or 1), low, rows, pairs, "attention")
  t:op("update", "gather of what was kept", "gather", m.micro * m.kept_layers, 0, 2 * rows * (row_bytes(w)))
  if m.kept_layers == 0 then t:op("update", "head", "product", m.micro, 2 * out * head, weight_bytes(w) * head, out) end
  t:op("update", "head backward", "product_bwd", m.micro, ((w.adapter == "full" and 6 or 4) - (m.logits and 2 or 0)) * out * head,
    weight_bytes(w) * head + out * s.width * 4 + (m.logits and out * s.vocab * 4 or 0), out)
  backward(t, m.micro, s.layers, rows, pairs)
  local _, trained = adapter_bytes(w)
  t:op("update", "adamw", "memory", 1, 0, trained / 16 * 28)
  if groups(w) > 1 then t:add("update", "gradients between devices", 1, 0, plan.exchange_bytes(w), plan.exchange_bytes(w) / w.device.link_rate, 20e-6) end
end

--- Bytes that one device receives a step: every prompt's sums from the others (SVD adapters), or the whole gradient twice.
function plan.exchange_bytes(w)
  local _, trained = adapter_bytes(w)
  if w.adapter == "tinylora" or w.adapter == "loraxs" then return (groups(w) - 1) * w.prompts * 7 * w.shape.layers * w.rank * w.rank * 8 end
  return 2 * (groups(w) - 1) / groups(w) * trained / 4
end

--- Time of a step: { seconds, sample_s, update_s, tokens_per_step, decode_steps, ops = { { phase, name, calls, flops, bytes, seconds,
--- launch_s } ... }, summed_bytes = (what devices that share a model sum, each) }, the ops by falling time. m: plan.memory(w).
function plan.step(w, m)
  local t = setmetatable({ w = w, ops = {}, list = {}, sample = 0, update = 0, summed = 0 }, Step)
  sampling(t, m)
  update(t, m)
  table.sort(t.list, function(a, b) return a.seconds > b.seconds end)
  return { seconds = t.sample + t.update, sample_s = t.sample, update_s = t.update, tokens_per_step = t.tokens * groups(w), summed_bytes = t.summed, decode_steps = t.decode_steps,
    rows_per_decode_step = t.decode_rows, ops = t.list }
end

return plan
