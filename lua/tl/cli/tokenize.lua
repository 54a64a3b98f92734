--- tlrun tokenize: text to token ids and back
local input = require "tl.input"
local json = require "tl.json"
local options = require "tl.options"

local command = { summary = "text on stdin to token ids, or back", usage = "--model M [--decode] [--jsonl]" }

command.help = "Text on stdin to token ids on stdout; with --decode token ids to text. With --jsonl a JSON object a line:\n"
  .. '{"text"} in, {"ids"} out; with --decode the reverse.'

command.parameters = {
  input.MODEL,
  { "tokenizer", { nil, "tokenizer.json, a folder or a GGUF file, instead of --model where there are no weights", type = "string", value = "PATH" } },
  { "decode", { false, "token ids to text" } },
  { "stream", { false, "decode id by id, as text is shown while it is made; the text is the same" } },
  { "jsonl", { false, "one JSON object a line, in and out" } },
  { "add_special", { false, "add what the tokenizer puts around a text (BOS)" } },
  { "special", { true, "special tokens in the text are matched; when decoding, they are written" } },
}

local function load(p)
  local tokenizer = require "tl.tokenizer"
  local path = p.tokenizer or require("tl.model").resolve(p.model)
  return tokenizer.load(path)
end

function command.run(p)
  local t = load(p)
  local function encode(text) return t:encode(text, { add_special = p.add_special, parse_special = p.special }) end
  local stream = p.stream and t:stream { skip_special = not p.special }
  local function decode(ids)
    if not stream then return t:decode(ids, { skip_special = not p.special }) end
    local parts = {}
    for i, id in ipairs(ids) do parts[i] = stream:push(id) end
    parts[#parts + 1] = stream:finish()
    return table.concat(parts)
  end
  if p.jsonl then
    for v, n in input.lines() do
      local key = p.decode and "ids" or "text"
      if type(v[key]) ~= (p.decode and "table" or "string") then options.exit(1, ("stdin, line %d: '%s' is missing"):format(n, key)) end
      print(json.encode(p.decode and { text = decode(v.ids) } or { ids = json.array(encode(v.text)) }))
    end
    return 0
  end
  if p.decode then
    local text = decode(input.ids("-", "stdin"))
    if p.json then print(json.encode { text = text }) else io.write(text, "\n") end
    return 0
  end
  local ids = encode(io.read "*a")
  print(p.json and json.encode { ids = json.array(ids) } or table.concat(ids, " "))
  return 0
end

return command
