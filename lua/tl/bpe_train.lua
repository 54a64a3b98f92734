-- bpe_train.lua: trains a byte-level BPE tokenizer (Sennrich, Haddow, Birch 2016; bytes as in GPT-2) on a few megabytes of
-- text and writes it as a Hugging Face tokenizer.json and tokenizer_config.json. Meant for the small vocabularies of the
-- embedded models: the words of the text are counted once, then every merge is a pass over the distinct words.
--
-- Pre-tokenizer: single digits, then GPT-2's pattern (Digits{individual_digits} + ByteLevel), as SmolLM2 has it.
-- Ids: special tokens, then the 256 bytes in GPT-2's order, then the merges in the order they were found.
-- Deterministic: of equally frequent pairs the one that sorts first wins.
local bpe = {}

-- GPT-2's printable stand-in for every byte: itself when it prints, else U+0100 and up in order
local function byte_symbols()
  local symbol, order, extra = {}, {}, 256
  local function utf8(c)
    if c < 128 then return string.char(c) end
    return string.char(192 + math.floor(c / 64), 128 + c % 64)
  end
  local function prints(b) return (b >= 33 and b <= 126) or (b >= 161 and b <= 172) or (b >= 174 and b <= 255) end
  for b = 0, 255 do
    if prints(b) then symbol[b], order[#order + 1] = utf8(b), b end
  end
  for b = 0, 255 do
    if not prints(b) then
      symbol[b], order[#order + 1] = utf8(extra), b
      extra = extra + 1
    end
  end
  return symbol, order
end

-- The pieces of ASCII text that the pre-tokenizer would make, counted into `counts`. A space joins the word or the
-- punctuation that follows it, but not a digit.
local function count_pieces(text, counts)
  local at = 1
  while at <= #text do
    local piece = text:match("^%d", at) or text:match("^ ?%a+", at) or text:match("^ ?[^%s%w]+", at) or text:match("^%s", at)
    counts[piece] = (counts[piece] or 0) + 1
    at = at + #piece
  end
end

local function most_frequent_pair(words)
  local pairs_seen, best, best_count = {}, nil, 1
  for _, w in ipairs(words) do
    for i = 1, #w.symbols - 1 do
      local key = w.symbols[i] .. " " .. w.symbols[i + 1]
      pairs_seen[key] = (pairs_seen[key] or 0) + w.count
    end
  end
  for key, count in pairs(pairs_seen) do
    if count > best_count or (count == best_count and best and key < best) then best, best_count = key, count end
  end
  return best
end

local function apply_merge(words, left, right)
  for _, w in ipairs(words) do
    local s, i = w.symbols, 1
    while i < #s do
      if s[i] == left and s[i + 1] == right then
        s[i] = left .. right
        table.remove(s, i + 1)
      end
      i = i + 1
    end
  end
end

---@param texts string[]   ASCII
---@param o { vocab: integer, special: string[] }  vocabulary size, all included, and the special tokens
---@return table  { special, vocab (list of token texts, id = index - 1), merges (list of "left right") }
function bpe.train(texts, o)
  local symbol, order = byte_symbols()
  local counts, words, names = {}, {}, {}
  for _, text in ipairs(texts) do count_pieces(text, counts) end
  for piece in pairs(counts) do names[#names + 1] = piece end
  table.sort(names)
  for _, piece in ipairs(names) do
    local symbols = {}
    for i = 1, #piece do symbols[i] = symbol[piece:byte(i)] end
    words[#words + 1] = { symbols = symbols, count = counts[piece] }
  end

  local vocab, merges = {}, {}
  for _, t in ipairs(o.special) do vocab[#vocab + 1] = t end
  for _, b in ipairs(order) do vocab[#vocab + 1] = symbol[b] end
  while #vocab < o.vocab do
    local pair = most_frequent_pair(words)
    if not pair then error(("bpe: the text has merges for %d tokens only, %d were asked for"):format(#vocab, o.vocab), 2) end
    local left, right = pair:match("^(%S+) (%S+)$")
    apply_merge(words, left, right)
    merges[#merges + 1] = pair
    vocab[#vocab + 1] = left .. right
  end
  return { special = o.special, vocab = vocab, merges = merges }
end

local function quote(s)
  return '"' .. s:gsub('[%c"\\]', function(c)
    if c == '"' or c == "\\" then return "\\" .. c end
    return ("\\u%04x"):format(c:byte())
  end) .. '"'
end

---The text of tokenizer.json.
---@return string
function bpe.tokenizer_json(t)
  local out = { '{\n  "version": "1.0",\n  "truncation": null,\n  "padding": null,\n  "added_tokens": [\n' }
  local function add(s) out[#out + 1] = s end
  for i, text in ipairs(t.special) do
    add(('    {"id": %d, "content": %s, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, '
      .. '"special": true}%s\n'):format(i - 1, quote(text), i < #t.special and "," or ""))
  end
  add('  ],\n  "normalizer": null,\n  "pre_tokenizer": {"type": "Sequence", "pretokenizers": [\n')
  add('    {"type": "Digits", "individual_digits": true},\n')
  add('    {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true}]},\n')
  add('  "post_processor": null,\n')
  add('  "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},\n')
  add('  "model": {\n    "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,\n')
  add('    "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,\n    "vocab": {\n')
  for i, text in ipairs(t.vocab) do add(('      %s: %d%s\n'):format(quote(text), i - 1, i < #t.vocab and "," or "")) end
  add('    },\n    "merges": [\n')
  for i, pair in ipairs(t.merges) do add(("      %s%s\n"):format(quote(pair), i < #t.merges and "," or "")) end
  add("    ]\n  }\n}\n")
  return table.concat(out)
end

---The text of tokenizer_config.json.
---@param o { eos: string, pad: string, max_length: integer, chat_template: string }
---@return string
function bpe.config_json(o)
  return ('{\n  "tokenizer_class": "PreTrainedTokenizerFast",\n  "add_prefix_space": false,\n  "bos_token": null,\n'
    .. '  "eos_token": %s,\n  "pad_token": %s,\n  "model_max_length": %d,\n  "clean_up_tokenization_spaces": false,\n'
    .. '  "chat_template": %s\n}\n'):format(quote(o.eos), quote(o.pad), o.max_length, quote(o.chat_template))
end

return bpe
