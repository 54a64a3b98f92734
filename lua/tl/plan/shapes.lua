--- plan/shapes.lua: the sizes of known models, as their config.json files on huggingface.co state them, for plans and for models
--- with random weights. Names are compared without regard to case; "-Instruct" and the like at the end are passed over.
local shapes = {}

-- layers, width, heads, key/value heads, head size, feed-forward width, vocabulary, head tied to the embedding, family
local ROWS = {
  ["smollm2-135m"] = { 30, 576, 9, 3, 64, 1536, 49152, true, "llama" },
  ["smollm2-360m"] = { 32, 960, 15, 5, 64, 2560, 49152, true, "llama" },
  ["smollm2-1.7b"] = { 24, 2048, 32, 32, 64, 8192, 49152, true, "llama" },
  ["qwen2.5-0.5b"] = { 24, 896, 14, 2, 64, 4864, 151936, true, "qwen2" },
  ["qwen2.5-1.5b"] = { 28, 1536, 12, 2, 128, 8960, 151936, true, "qwen2" },
  ["qwen2.5-3b"] = { 36, 2048, 16, 2, 128, 11008, 151936, true, "qwen2" },
  ["qwen2.5-7b"] = { 28, 3584, 28, 4, 128, 18944, 152064, false, "qwen2" },
  ["qwen2.5-14b"] = { 48, 5120, 40, 8, 128, 13824, 152064, false, "qwen2" },
  ["qwen2.5-32b"] = { 64, 5120, 40, 8, 128, 27648, 152064, false, "qwen2" },
  ["qwen2.5-72b"] = { 80, 8192, 64, 8, 128, 29568, 152064, false, "qwen2" },
  ["qwen3-0.6b"] = { 28, 1024, 16, 8, 128, 3072, 151936, true, "qwen3" },
  ["qwen3-1.7b"] = { 28, 2048, 16, 8, 128, 6144, 151936, true, "qwen3" },
  ["qwen3-4b"] = { 36, 2560, 32, 8, 128, 9728, 151936, true, "qwen3" },
  ["qwen3-8b"] = { 36, 4096, 32, 8, 128, 12288, 151936, false, "qwen3" },
  ["qwen3-14b"] = { 40, 5120, 40, 8, 128, 17408, 151936, false, "qwen3" },
  ["qwen3-32b"] = { 64, 5120, 64, 8, 128, 25600, 151936, false, "qwen3" },
  ["llama-3.2-1b"] = { 16, 2048, 32, 8, 64, 8192, 128256, true, "llama" },
  ["llama-3.2-3b"] = { 28, 3072, 24, 8, 128, 8192, 128256, true, "llama" },
  ["llama-3.1-8b"] = { 32, 4096, 32, 8, 128, 14336, 128256, false, "llama" },
  ["llama-3.1-70b"] = { 80, 8192, 64, 8, 128, 28672, 128256, false, "llama" },
}
local FIELDS = { "layers", "width", "heads", "kv_heads", "head_dim", "ffn", "vocab", "tied", "family" }

local function plain(name)
  return (name:lower():gsub("^.*/", ""):gsub("^meta%-", ""):gsub("%-instruct.*$", ""):gsub("%-base$", ""):gsub("%-gguf$", ""))
end

--- {name, layers, width, heads, kv_heads, head_dim, ffn, vocab, tied, family} of a known model, or nil.
---@param name string "Qwen2.5-7B", "Qwen/Qwen2.5-7B-Instruct"
function shapes.find(name)
  local row = ROWS[plain(name)]
  if not row then return nil end
  local s = { name = plain(name), source = "its config.json on huggingface.co" }
  for i, field in ipairs(FIELDS) do s[field] = row[i] end
  return s
end

--- All names, sorted.
function shapes.names()
  local out = {}
  for name in pairs(ROWS) do out[#out + 1] = name end
  table.sort(out)
  return out
end

--- The shape of a model's files, as tl.model.inspect describes them.
function shapes.of_files(info)
  return { name = info.path:match "([^/]+)$", source = info.path, layers = info.layers, width = info.width, heads = info.heads,
    kv_heads = info.kv_heads, head_dim = info.head_dim, ffn = info.ffn, vocab = info.vocab, tied = info.tied, family = info.architecture }
end

--- The linears of a layer: { kind, out, in }.
function shapes.linears(s)
  local q, kv = s.heads * s.head_dim, s.kv_heads * s.head_dim
  return { { "q", q, s.width }, { "k", kv, s.width }, { "v", kv, s.width }, { "o", s.width, q }, { "gate", s.ffn, s.width },
    { "up", s.ffn, s.width }, { "down", s.width, s.ffn } }
end

--- Numbers in the linears of all layers, and in the embedding or the head.
function shapes.sizes(s)
  local n = 0
  for _, l in ipairs(shapes.linears(s)) do n = n + l[2] * l[3] end
  return n * s.layers, s.vocab * s.width
end

return shapes
