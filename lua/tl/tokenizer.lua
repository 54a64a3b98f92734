--- tokenizer.lua: text to token ids and back, and the model's chat template.
--- Ids are the numbers the model uses (from 0); lists of them are Lua arrays (from 1).
local F = require "tl.ffi"
local options = require "tl.options"
local ffi = require "ffi"
local C, check = F.C, F.check

local tokenizer = {}
local Tokenizer = {}
Tokenizer.__index = Tokenizer

local count = ffi.new "int[1]"
local ENCODE, DECODE = options.names { boolean = "add_special parse_special" }, options.names { boolean = "skip_special" }

--- A tokenizer from a model folder, a tokenizer.json or a GGUF file.
---@param path string
---@return table tokenizer
function tokenizer.load(path)
  if type(path) ~= "string" then error("tl.tokenizer.load wants a path; got " .. type(path), 2) end
  local out = ffi.new "tl_tokenizer *[1]"
  check(C.tl_tokenizer_load(path, out))
  return setmetatable({ handle = ffi.gc(out[0], C.tl_tokenizer_free), path = path }, Tokenizer)
end

local function handle(t, name)
  if type(t) ~= "table" or not t.handle then error(name .. ": not a tokenizer, or one that was freed", 3) end
  return t.handle
end

--- Token ids of a text. add_special: with what the tokenizer puts around a text (BOS); parse_special: special tokens that
--- stand in the text are matched (false: they are read as plain text, for text from outside). Both are false unless given.
--- Bytes that are not UTF-8 are read as U+FFFD.
---@param text string
---@param o table? {add_special = boolean, parse_special = boolean}
---@return integer[] ids
function Tokenizer:encode(text, o)
  local h = handle(self, "encode")
  if type(text) ~= "string" then error("encode wants a string; got " .. type(text), 2) end
  if o then options.only("tokenizer:encode", o, ENCODE) end
  local add, parse = o and o.add_special or false, o and o.parse_special or false
  local room = math.max(64, #text + 16)
  local ids = ffi.new("int32_t[?]", room)
  check(C.tl_tokenizer_encode(h, text, #text, add, parse, ids, room, count))
  if count[0] > room then
    room = count[0]
    ids = ffi.new("int32_t[?]", room)
    check(C.tl_tokenizer_encode(h, text, #text, add, parse, ids, room, count))
  end
  local out = {}
  for i = 1, count[0] do out[i] = ids[i - 1] end
  return out
end

--- The text of token ids: UTF-8, with U+FFFD where the ids begin or end inside a character, as the `tokenizers` library gives
--- it. Ids outside the vocabulary have no text.
---@param ids integer[]
---@param o table? {skip_special = boolean}
---@return string
function Tokenizer:decode(ids, o)
  local h = handle(self, "decode")
  if type(ids) == "number" then ids = { ids } end
  if o then options.only("tokenizer:decode", o, DECODE) end
  local buffer, n = F.ids("decode", ids), #ids
  local skip, room = o and o.skip_special or false, 16 * n + 64
  local text = ffi.new("char[?]", room)
  check(C.tl_tokenizer_decode(h, buffer, n, skip, text, room, count))
  if count[0] > room then
    room = count[0]
    text = ffi.new("char[?]", room)
    check(C.tl_tokenizer_decode(h, buffer, n, skip, text, room, count))
  end
  return ffi.string(text, count[0])
end

--- What one id adds to a text that has begun: bytes, which may be part of a character; nil when the vocabulary lacks the id.
---@param id integer
---@return string?
function Tokenizer:bytes(id)
  local p = C.tl_tokenizer_bytes(handle(self, "bytes"), F.whole("tokenizer:bytes", id, "a token id"), count)
  return p ~= nil and ffi.string(p, count[0]) or nil
end

local Stream = {}
Stream.__index = Stream

--- A decoder that takes ids one by one, for text that is shown while it is made: stream:push(id) returns what can be shown
--- (whole characters only), stream:finish() what was held back. All that they return, in a row, is decode's text.
---@param o table? {skip_special = boolean}
function Tokenizer:stream(o)
  if o then options.only("tokenizer:stream", o, DECODE) end
  local out = ffi.new "tl_decoder *[1]"
  check(C.tl_decoder_create(handle(self, "stream"), o and o.skip_special or false, out))
  return setmetatable({ handle = ffi.gc(out[0], C.tl_decoder_free) }, Stream)
end

local text = ffi.new "const char *[1]"

---@param id integer
---@return string
function Stream:push(id)
  check(C.tl_decoder_push(self.handle, F.whole("stream:push", id, "a token id"), text, count))
  return ffi.string(text[0], count[0])
end

---@return string
function Stream:finish()
  check(C.tl_decoder_finish(self.handle, text, count))
  return ffi.string(text[0], count[0])
end

--- The id of a token's exact text ("<|im_end|>"); nil when the vocabulary has none.
function Tokenizer:id(token)
  if type(token) ~= "string" then error("tokenizer:id wants a token's text; got " .. F.shown(token), 2) end
  local id = C.tl_tokenizer_id(handle(self, "id"), token)
  return id >= 0 and id or nil
end

--- The text of a token as the vocabulary spells it ("Ġthe"); nil when the id has none.
function Tokenizer:token(id)
  local p = C.tl_tokenizer_token(handle(self, "token"), F.whole("tokenizer:token", id, "a token id"))
  return p ~= nil and ffi.string(p) or nil
end

--- Whether an id is a special token (one that decode leaves out with skip_special).
function Tokenizer:is_special(id) return C.tl_tokenizer_is_special(handle(self, "is_special"), F.whole("tokenizer:is_special", id, "a token id")) end

local function id_or_nil(id) return id >= 0 and id or nil end

--- The id that begins a text, and the one that ends it; nil when the files name none.
function Tokenizer:bos() return id_or_nil(C.tl_tokenizer_bos(handle(self, "bos"))) end
function Tokenizer:eos() return id_or_nil(C.tl_tokenizer_eos(handle(self, "eos"))) end

--- Every id is below this; added tokens included.
function Tokenizer:vocab_size() return C.tl_tokenizer_vocab_size(handle(self, "vocab_size")) end

--- The Jinja source of the chat template of that name ("default"); nil when the files have none.
---@param name string?
function Tokenizer:chat_template(name)
  if name ~= nil and type(name) ~= "string" then error("tokenizer:chat_template wants a name; got " .. F.shown(name), 2) end
  local p = C.tl_tokenizer_chat_template(handle(self, "chat_template"), name)
  return p ~= nil and ffi.string(p) or nil
end

--- The names of the chat templates, sorted: most models have "default" alone, some a "tool_use".
---@return string[]
function Tokenizer:chat_template_names()
  local names, i = {}, 0
  while true do
    local p = C.tl_tokenizer_chat_template_name(handle(self, "chat_template_names"), i)
    if p == nil then break end
    i = i + 1
    names[i] = ffi.string(p)
  end
  table.sort(names)
  return names
end

--- The prompt's text of a chat, by the model's own template. Encode it with parse_special and without add_special: the
--- template writes BOS itself where the model wants one.
---@param messages table list of {role = , content = }
---@param o table? {add_generation_prompt = boolean, tools = table, and whatever else the template reads}
---@return string
function Tokenizer:chat(messages, o)
  local ok, text = pcall(require("tl.chat").render, self, messages, o)
  if not ok then F.raise(text) end
  return text
end

--- Releases the memory now instead of at the next collection.
function Tokenizer:free()
  if self.handle then
    C.tl_tokenizer_free(ffi.gc(self.handle, nil))
    self.handle = nil
  end
end

function Tokenizer:__tostring()
  if not self.handle then return "tokenizer (freed)" end
  return ("tokenizer of %s: %d tokens"):format(self.path, self:vocab_size())
end

return tokenizer
