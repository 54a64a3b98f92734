--- plan/devices.lua: what devices can do at most, as their makers publish it, and what of it a plan counts on.
---
--- bf16 and f32 are dense peaks in TFLOP/s (bf16 on tensor cores with fp32 sums, without sparsity; f32 on ordinary cores), memory
--- in GB/s and GB (10^9), link in GB/s between two devices of a node, one direction.
---
--- No device in the table has run this program yet, so the shares of the peak below are ASSUMPTIONS, not measurements, and every
--- plan prints them. They are what the public reports of well-tuned libraries on these devices come to.
local devices = {}

local NV = "NVIDIA "
local TABLE = {
  { "a100", 312, 19.5, 2039, 80, 300, NV .. "A100 80GB SXM datasheet" },
  { "a100-40gb", 312, 19.5, 1555, 40, 300, NV .. "A100 40GB SXM datasheet" },
  { "a10", 125, 31.2, 600, 24, 32, NV .. "A10 datasheet" },
  { "l4", 121, 30.3, 300, 24, 32, NV .. "L4 datasheet" },
  { "l40s", 362, 91.6, 864, 48, 32, NV .. "L40S datasheet" },
  { "h100", 989, 67, 3350, 80, 450, NV .. "H100 SXM datasheet" },
  { "h100-pcie", 756, 51, 2000, 80, 64, NV .. "H100 PCIe datasheet" },
  { "h200", 989, 67, 4800, 141, 450, NV .. "H200 SXM datasheet" },
  { "b200", 2250, 80, 8000, 180, 900, NV .. "HGX B200 and DGX B200 datasheets" },
  { "rtx3090", 71, 35.6, 936, 24, 32, NV .. "GA102 architecture whitepaper" },
  { "rtx4090", 165, 82.6, 1008, 24, 32, NV .. "Ada architecture whitepaper" },
  { "rtx5090", 209, 104.8, 1792, 32, 64, NV .. "RTX Blackwell architecture whitepaper" },
}

-- Shares of the peaks on a GPU. product: matrix products with enough rows to be bound by arithmetic (backward: their speed in
-- backward, beside forward); attention over many rows,
-- forward and backward; memory: what any op reaches of the memory's rate; decode: attention of single queries, by memory.
local GPU_SHARE = { product = 0.65, backward = 1, attention = 0.45, attention_bwd = 0.35, memory = 0.8, gather = 0.8, decode = 0.6 }
local GPU_BASIS = {
  "no GPU has run this program yet: the shares of the peaks are assumptions, not measurements",
  "products reach 65 % of the bf16 peak or 80 % of the memory's rate, attention 45 % (forward) and 35 % (backward), attention of a decode "
    .. "step 60 % of the memory's rate, everything else 80 % of the memory's rate",
  "a kernel costs 4 us to launch; a decode step of a device that has its model alone is two CUDA graphs, which cost 10 us each and 1.5 us "
    .. "for every kernel in them; the steps that run op by op before theirs is recorded are not counted",
  "the host spends 10 us for every sampled token (text, verifier queue, logprobs into Lua), as the CPU backend does",
  "a sum over devices that share a model takes 20 us beside its bytes over the link, one direction, as in a ring",
  "8 % of the device's memory is left to the driver, libraries and fragmentation",
}

--- { name, kind, bf16, f32 (FLOP/s), memory_rate, link_rate, host_link_rate (to the host's memory; bytes/s), memory_bytes, share, launch_s, ... } or nil
function devices.gpu(name)
  for _, d in ipairs(TABLE) do
    if d[1] == name:lower() then
      return { name = d[1], kind = "gpu", bf16 = d[2] * 1e12, f32 = d[3] * 1e12, memory_rate = d[4] * 1e9, memory_bytes = d[5] * 1e9,
        link_rate = d[6] * 1e9, source = d[7], share = GPU_SHARE, launch_s = 4e-6, graph_node_s = 1.5e-6, graph_launch_s = 10e-6, host_s_per_token = 10e-6,
        sum_latency_s = 20e-6, host_link_rate = 20e9,
        usable = 0.92, basis = GPU_BASIS }
    end
  end
end

-- patterns of the names that drivers give, in the order in which they are tried
local NAMES = { { "H100.*PCIe", "h100-pcie" }, { "H100", "h100" }, { "H200", "h200" }, { "B200", "b200" }, { "A100.*40GB", "a100-40gb" }, { "A100", "a100" },
  { "L40S", "l40s" }, { "L4$", "l4" }, { "A10$", "a10" }, { "RTX 3090", "rtx3090" }, { "RTX 4090", "rtx4090" }, { "RTX 5090", "rtx5090" } }

--- The device that a driver calls so ("NVIDIA H100 80GB HBM3"), or nil.
function devices.of_name(text)
  for _, n in ipairs(NAMES) do
    if text:find(n[1]) then return devices.gpu(n[2]) end
  end
end

function devices.names()
  local out = {}
  for i, d in ipairs(TABLE) do out[i] = d[1] end
  return out
end

-- Shares of what this program's CPU backend reaches of the machine's peaks where a plan has no measurement of its own: from
-- `tlrun bench grpo --model smollm2-135m-instruct --prompts 8 --group 8 --new-tokens 48 --reps 1 --profile`, column "limit", and the
-- same with 128 tokens (decode: 15 and 13 %).
-- product and backward are shares of the rates that `tlrun bench roofline` measures as the best of several passes; decode attention
-- copies keys of head_dim numbers, so its share is that of head size 64, in proportion.
local CPU_SHARE = { product = 0.95, backward = 0.95, attention = 0.15, attention_bwd = 0.35, memory = 0.5, gather = 0.4, decode = 0.13 }

--- This machine: peaks measured now (tl_machine_gflops, tl_machine_read_gbs). products: { { rows, FLOP/s } ... } of the model's
--- own matrix products, measured (tl.bench.roofline); decode attention is planned by arithmetic here.
function devices.cpu(limits, products)
  local words = {}
  for i, p in ipairs(products) do words[i] = ("%.0f at %d rows"):format(p[2] * 1e-9, p[1]) end
  return { name = "cpu", kind = "cpu", bf16 = limits.bf16, f32 = limits.f32, memory_rate = limits.memory, memory_bytes = math.huge,
    link_rate = 5e9, source = ("measured now on %d threads"):format(limits.threads), share = CPU_SHARE, products = products,
    launch_s = 2e-6, host_s_per_token = 10e-6, usable = 1, basis = {
      ("matrix products run at the rates measured now for this model's own weights, GFLOP/s: %s; between them the time is interpolated"):format(table.concat(words, ", ")),
      ("in a step they run at %.0f %% (backward %.0f %%) of these rates; attention reaches %.0f %% (decode, heads of 64; in proportion for others), "
        .. "%.0f %% (forward) and %.0f %% (backward) of the measured bf16 peak, rows gathered from what was kept %.0f %% and everything else %.0f %% of "
        .. "the measured memory rate: what a profile of SmolLM2-135M showed (docs/planning.md)"):format(100 * CPU_SHARE.product, 100 * CPU_SHARE.backward,
        100 * CPU_SHARE.decode, 100 * CPU_SHARE.attention, 100 * CPU_SHARE.attention_bwd, 100 * CPU_SHARE.gather, 100 * CPU_SHARE.memory),
      "the block of the cache and of the pass stays from step to step: its pages are made in the first, and a later step is what is planned",
      "an op costs 2 us to start on all threads",
      "the host spends 10 us for every sampled token (text, verifier queue, logprobs into Lua)" } }
end

return devices
