-- test_tokenizer.lua: the tokenizer from Lua: ids and text, special tokens, whole characters from a stream, clear errors.
-- The ids themselves are compared with the tokenizers library in tests/unit/test_tokenizer.c.
package.path = arg[0]:match "^(.*)/" .. "/?.lua;" .. package.path
local check = require "check"
local tl = require "tl"
local tokenizer = require "tl.tokenizer"

local folder = arg[0]:match "^(.*)/" .. "/../parity/fixtures/tokenizer/"
local t = tokenizer.load(folder .. "qwen2.json")

check.test("encode and decode are inverse", function()
  for _, s in ipairs { "", "Hello world 123", "日本語 😀\n\n  x", "a\0b", ("ab "):rep(5000) } do
    check.equal(t:decode(t:encode(s)), s)
  end
end)

check.test("special tokens are matched when asked, left out when asked", function()
  local s = "<|im_start|>user\nhi<|im_end|>"
  local ids = t:encode(s, { parse_special = true })
  check.equal(ids[1], t:id "<|im_start|>")
  check.equal(ids[#ids], t:id "<|im_end|>")
  check.equal(t:decode(ids), s)
  check.equal(t:decode(ids, { skip_special = true }), "user\nhi")
  check.equal(#t:encode(s) > #ids, true)
  check.equal(t:decode(t:encode(s), { skip_special = true }), s)
  check.equal(t:is_special(ids[1]), true)
end)

check.test("BOS comes with add_special only", function()
  local l = tokenizer.load(folder .. "llama3.json")
  local bos, plain, with = l:id "<|begin_of_text|>", l:encode "Hi", l:encode("Hi", { add_special = true })
  check.equal(with[1], bos)
  check.equal({ unpack(with, 2) }, plain)
end)

check.test("a stream holds back what is not a whole character", function()
  local ids, s, shown = t:encode "a日😀é!", t:stream(), {}
  for _, id in ipairs(ids) do
    local piece = s:push(id)
    if piece ~= "" then
      shown[#shown + 1] = piece
      check.equal(piece:find "^[\128-\191]" == nil, true, "a piece begins inside a character")
    end
  end
  check.equal(table.concat(shown) .. s:finish(), "a日😀é!")
  local half = t:stream()
  check.equal(half:push(t:id "æ"), "")  -- the byte E6, which begins 日
  check.equal(half:finish(), "\239\191\189")  -- U+FFFD
  check.equal(half:finish(), "")
  check.equal(t:bytes(t:id "æ"), "\230")
  check.equal(t:bytes(10 ^ 8), nil)
  check.raises("wants a token id, a whole number; got 'x'", half.push, half, "x")
end)

check.test("lookups", function()
  check.equal(t:token(t:id "<|im_end|>"), "<|im_end|>")
  check.equal(t:id "no such token", nil)
  check.equal(t:token(10 ^ 8), nil)
  check.equal(t:chat_template(), nil)
  check.equal(t:bos(), nil)
  check.equal(t:vocab_size() > t:id "<|im_end|>", true)
end)

check.test("a GGUF file is known by what it holds, not by its name", function()
  local path = os.tmpname()
  os.execute(("cp '%s' '%s'"):format(folder .. "spm.gguf", path))
  check.equal(tokenizer.load(path):encode "two words", tokenizer.load(folder .. "spm.gguf"):encode "two words")
  os.remove(path)
end)

check.test("errors are one clear line", function()
  check.raises("nope%.json", tokenizer.load, "nope.json")
  -- one added token normalises to nothing, the next one's pattern gives up: the first is freed once
  local file = tl.json.load(folder .. "gpt2.json")
  file.normalizer = { type = "Sequence", normalizers = tl.json.array { { type = "Replace", pattern = { String = "ZZZ" }, content = "" },
    { type = "Replace", pattern = { Regex = "(a|aa)+$" }, content = "x" } } }
  for i, text in ipairs { "ZZZ", ("a"):rep(60) .. "X" } do
    file.added_tokens[#file.added_tokens + 1] = { id = 900000 + i, content = text, single_word = false, lstrip = false, rstrip = false, normalized = true, special = false }
  end
  check.raises("match limit exceeded", tokenizer.load, check.file(tl.json.encode(file), ".json"))
  check.raises("wants a string", t.encode, t, 5)
  check.raises("not a whole number", t.decode, t, { 1, 2.5 })
  check.raises("no chat template", t.chat, t, { { role = "user", content = "x" } })
  local gone = tokenizer.load(folder .. "gpt2.json")
  gone:free()
  gone:free()
  check.raises("freed", gone.encode, gone, "x")
end)

check.done()
