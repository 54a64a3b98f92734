--- chat.lua: messages to the text of a prompt, by a model's chat template, as transformers' apply_chat_template(tokenize=False).
local jinja = require "tl.jinja"

local chat = {}

local REASONING = { "reasoning_content", "thinking", "reasoning" }

-- Keys that are null go, as in transformers: templates look whether content or tool_calls are there.
local function without_nulls(message)
  if type(message) ~= "table" then error("a message is a table {role = , content = }; got " .. type(message), 0) end
  local out, order = {}, {}
  for _, k in ipairs((getmetatable(message) or {}).__order or {}) do
    if message[k] ~= jinja.none then order[#order + 1] = k end
  end
  for k, v in pairs(message) do
    if v ~= jinja.none then out[k] = v end
  end
  return setmetatable(out, { __order = order })
end

-- transformers offers a message's reasoning under the names that templates look for.
local function with_reasoning(message)
  local reasoning
  for _, name in ipairs(REASONING) do
    if reasoning == nil then reasoning = message[name] end
  end
  if reasoning == nil then return message end
  local out, order = {}, {}
  if message.thinking == nil then order[1] = "thinking" end
  for _, k in ipairs((getmetatable(message) or {}).__order or {}) do order[#order + 1] = k end
  for k, v in pairs(message) do out[k] = v end
  if out.thinking == nil then out.thinking = reasoning end
  if out.reasoning_content == nil then order[#order + 1] = "reasoning_content" end
  out.reasoning_content = reasoning
  return setmetatable(out, { __order = order })
end

local function context_of(source, messages, o)
  local list = setmetatable({}, { __array = true })
  for i, m in ipairs(messages) do list[i] = with_reasoning(without_nulls(m)) end
  local context = { messages = list, tools = jinja.none, documents = jinja.none, add_generation_prompt = false }
  if source then
    for name, id in pairs { bos_token = source:bos() or false, eos_token = source:eos() or false } do
      if id then context[name] = source:token(id) end
    end
  end
  for k, v in pairs(o or {}) do context[k] = v end
  -- {} from Lua has no mark; here it is a list
  for _, k in ipairs { "tools", "documents" } do
    local v = context[k]
    if type(v) == "table" and v ~= jinja.none and next(v) == nil and not getmetatable(v) then
      context[k] = setmetatable({}, { __array = true })
    end
  end
  return context
end

-- The rendering up to the end of the last message's content: a mark behind it shows where that is.
local MARK = "CONTINUE_FINAL_MESSAGE_TAG "
local function continued(template, context)
  if context.add_generation_prompt == true then error("continue_final_message and add_generation_prompt exclude one another", 0) end
  context.continue_final_message = nil
  local last = context.messages[#context.messages]
  if type(last.content) ~= "string" then error("continue_final_message wants a last message whose content is text", 0) end
  last.content = last.content .. MARK
  local text, bare = jinja.render(template, context), MARK:sub(1, -2)
  local at, from = nil, 1
  repeat
    from = text:find(bare, from, true)
    at, from = from or at, from and from + 1
  until not from
  if not at then error("continue_final_message: the template does not show the last message's content", 0) end
  -- without its blank, the mark was trimmed, and the text's own end with it
  return text:sub(at, at + #MARK - 1) == MARK and text:sub(1, at - 1) or (text:sub(1, at - 1):gsub("%s+$", ""))
end

-- As transformers chooses: the one that is named, or given as a source; for a chat with tools (an empty list too) "tool_use",
-- where there is one; "default".
local function choose(source, o)
  local wanted, names = o and o.chat_template, source:chat_template_names()
  if wanted then return source:chat_template(wanted) or wanted end
  local tools = o and o.tools ~= nil and o.tools ~= jinja.none
  local template = tools and source:chat_template "tool_use" or source:chat_template()
  if not template and #names > 0 then
    error(("%s: several chat templates and no default: give one of them as chat_template: %s"):format(source.path, table.concat(names, ", ")), 3)
  end
  return template
end

--- Renders messages {role = , content = , ...}. The first argument is a tokenizer (its template, bos_token and eos_token are
--- used) or a template's source. Options are the template's variables: add_generation_prompt (false), tools, documents,
--- bos_token, eos_token and whatever else it reads; chat_template replaces the tokenizer's own, or names one of several (with tools
--- "tool_use" is taken where there is one). continue_final_message (true) ends the text where the last message's content ends,
--- for a completion that goes on from there.
---@param tokenizer_or_template table|string
---@param messages table
---@param o table?
---@return string
function chat.render(tokenizer_or_template, messages, o)
  if type(messages) ~= "table" then error("messages are a list of {role = , content = }; got " .. type(messages), 2) end
  if messages.role then error("messages are a list of {role = , content = }; got a single message", 2) end
  if #messages == 0 then error("there are no messages; a chat has at least one", 2) end
  local source = type(tokenizer_or_template) == "table" and tokenizer_or_template or nil
  local template = source and choose(source, o) or not source and (o and o.chat_template or tokenizer_or_template)
  if not template then
    error(("%s: no chat template (tokenizer_config.json's chat_template, chat_template.jinja or the GGUF's tokenizer.chat_template); "
      .. "give prompts as text, or a template as chat_template"):format(tostring(source.path)), 2)
  end
  local ok, result = pcall(function()
    local context = context_of(source, messages, o)
    if not context.continue_final_message then return jinja.render(template, context) end
    return continued(template, context)
  end)
  if not ok then error((source and source.path .. ": " or "") .. tostring(result), 0) end
  return result
end

return chat
