--- input.lua: what the commands read: token ids, lines of JSON, models and adapters named by options.
local fs = require "tl.fs"
local json = require "tl.json"
local options = require "tl.options"

local input = {}

--- Token ids from a word of the command line: "1,2,3", "-" (stdin) or "@FILE"; commas, blanks or a JSON array.
---@return integer[]
function input.ids(word, option)
  local text, from = word, option
  if word == "-" then
    text, from = io.read "*a", "stdin"
  elseif word:sub(1, 1) == "@" then
    from = word:sub(2)
    text = fs.read(from)
  end
  local ids = {}
  for item in text:gsub("[%[%]]", " "):gmatch "[^,%s]+" do
    local n = tonumber(item)
    if not n or n % 1 ~= 0 or n < 0 then options.usage("%s: '%s' is not a token id", from, item) end
    ids[#ids + 1] = n
  end
  return ids
end

--- Lines of JSON on stdin, as an iterator of objects; a line that is none ends the program with its number. number: as in json.parse.
function input.lines(number)
  local n = 0
  return function()
    while true do
      local line = io.read "*l"
      if not line then return nil end
      n = n + 1
      if line:find "%S" then
        local v, why = json.parse(line, number)
        if type(v) ~= "table" then options.exit(1, ("stdin, line %d: %s"):format(n, why or "not a JSON object")) end
        return v, n
      end
    end
  end
end

--- The parameters of commands that load a model, for their lists.
input.MODEL = { "model", { "tiny", "Hugging Face folder, GGUF file or name", value = "M" } }
input.ADAPTER = { "adapter", { nil, "adapter: compact file, PEFT folder or run folder", type = "string", value = "A" } }
input.TENSOR_PARALLEL = { "tensor_parallel", require("tl.comm").TENSOR_PARALLEL }
input.DEVICE = { "device", { "cpu", "where to compute: cpu, cuda, cuda:1 ...", value = "DEVICE" } }
input.FORCE = { "force", { false, "load a compact adapter even on weights that it was not made for" } }

--- The model, and the adapter when one is named. p.tensor_parallel: ranks that share it.
function input.model(p, dtype)
  if p.tensor_parallel then require("tl.comm").split(p.tensor_parallel) end
  local model = require("tl.model").load(p.model, { dtype = dtype })
  local adapter = p.adapter and require("tl.adapter").load(model, p.adapter, { force = p.force }) or nil
  return model, adapter
end

--- The tokenizer of a model, or an end with a clear line. hint: what else can be done.
function input.tokenizer(model, hint)
  local t = model:tokenizer()
  if not t then options.exit(1, ("%s: no tokenizer %s%s"):format(model.path, model.format == "gguf" and "in this file" or "beside it", hint or "")) end
  return t
end

return input
