--- tlrun chat-template: messages to the prompt's text
local input = require "tl.input"
local jinja = require "tl.jinja"
local json = require "tl.json"
local options = require "tl.options"

local command = { summary = "messages JSON on stdin to the prompt's text", usage = "--model M [--jsonl]" }

command.help = 'Renders the chat template of the model. stdin: a list of messages [{"role", "content"}, ...], or an object\n'
  .. '{"messages", "add_generation_prompt", "tools"}; with --jsonl such an object a line, and {"text"} a line out.'

command.parameters = {
  input.MODEL,
  { "tokenizer", { nil, "tokenizer.json, a folder or a GGUF file, instead of --model", type = "string", value = "PATH" } },
  { "jsonl", { false, "one JSON object a line, in and out" } },
  { "add_generation_prompt", { true, "end with the opening of the assistant's turn, where the input does not say" } },
}

-- everything else in the object is a variable of the template
local function render(t, p, v, where)
  local messages = v.messages or (getmetatable(v) or {}).__array and v
  if type(messages) ~= "table" then options.exit(1, where .. ": 'messages' is missing") end
  local o = { add_generation_prompt = p.add_generation_prompt }
  if messages ~= v then
    for _, k in ipairs((getmetatable(v) or {}).__order or {}) do
      if k ~= "messages" and v[k] ~= json.null then o[k] = v[k] end
    end
  end
  return t:chat(messages, o)
end

function command.run(p)
  local t = require("tl.tokenizer").load(p.tokenizer or require("tl.model").resolve(p.model))
  if p.jsonl then
    for v, n in input.lines(jinja.json_number) do print(json.encode { text = render(t, p, v, "stdin, line " .. n) }) end
    return 0
  end
  local v, why = json.parse(io.read "*a", jinja.json_number)
  if type(v) ~= "table" then options.exit(1, "stdin: " .. (why or "not messages")) end
  local text = render(t, p, v, "stdin")
  if p.json then print(json.encode { text = text }) else io.write(text) end
  return 0
end

return command
