--- report/tokens.lua: how a run's adapter changed the logprob of each token of completions that the run kept.
local json = require "tl.json"

local tokens = {}

local function prompt_ids(tok, prompt)
  return require("tl.grpo").prompt_ids(tok, function() return prompt end, {})
end

-- a completion's tokens with their logprobs of the base and of the adapter
local function changes(model, adapter, c)
  local tok = model:tokenizer()
  local ids, text = prompt_ids(tok, c.prompt), tok:encode(c.completion, { parse_special = c.turns ~= nil })  -- of several turns: a transcript
  if c.finish == "stop" and not c.turns then text[#text + 1] = model:end_token() end
  local n = #ids
  for _, id in ipairs(text) do ids[#ids + 1] = id end
  local before, after, out = model:logprobs(ids), model:logprobs(ids, adapter), {}
  for i, id in ipairs(text) do
    out[i] = { text = tok:is_special(id) and (tok:token(id) or "") or tok:decode { id }, before = before[n + i - 1], after = after[n + i - 1] }
  end
  return out
end

--- Fills c.tokens of up to `limit` completions of a run: {text, before, after} for each token. The completion is encoded again from its
--- text, which gives the sampled tokens but for texts that have two encodings. Returns how many, or nil and why none.
---@param run table as from report.runs.load
---@param list table[] completions
---@param models table models that are loaded already, by name; kept for the next run
function tokens.fill(run, list, models)
  local name = run.config.model
  local path, why = require("tl.adapter").find(run.path)
  if not path then return nil, "the run has no adapter" end
  if type(name) ~= "string" then return nil, "the run's config names no model" end
  local ok, message = pcall(function()
    models[name] = models[name] or require("tl.model").load(name)
    local adapter = require("tl.adapter").load(models[name], path)
    for _, c in ipairs(list) do
      if c.prompt ~= nil and c.prompt ~= json.null and type(c.completion) == "string" and #c.completion > 0 then c.tokens = changes(models[name], adapter, c) end
    end
    adapter:free()
  end)
  if not ok then return nil, tostring(message) end
  return #list
end

return tokens
