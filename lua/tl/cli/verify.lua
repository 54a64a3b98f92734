--- tlrun verify: rewards of responses
local input = require "tl.input"
local json = require "tl.json"
local options = require "tl.options"

local command = { summary = "rewards of responses, by a verifier", usage = "--verifier math" }

command.help = 'A JSON object a line on stdin, {"gold", "response"}, to a line {"reward", "outcome"} out, in the same order.\n'
  .. "outcome is ok, abstain, error, timeout or memory; reward is null unless it is ok. Other fields of the input reach the verifier\n"
  .. "as fields of the problem, n_tokens and finish as the completion's."

command.parameters = {
  { "verifier", { "math", "module of verifiers/, or a Lua file", value = "NAME" } },
  { "timeout_ms", { 1000, "limit of one call", integer = true, min = 1 } },
  { "memory", { 0, "limit of one worker's Lua state; 0: 256 MiB", type = "size" } },
  { "workers", { 2, "threads", integer = true, min = 1 } },
  { "verifier_config", { nil, "JSON object for verifiers that take one", type = "string", value = "JSON" } },
  { "info", { false, "add what the verifier says beside the reward" } },
}

local AHEAD = 256  -- lines read before the first of them is answered

local function line_of(v, p)
  local reward = v.outcome == "ok" and v.reward or json.null
  local o = json.object({ reward = reward, outcome = v.outcome }, { "reward", "outcome", "message", "info" })
  if v.outcome ~= "ok" and v.outcome ~= "abstain" then
    o.message = v.message
  elseif p.info and v.message ~= "" then
    o.info = json.parse(v.message)
  end
  return json.encode(o)
end

local function config_of(text)
  if not text then return nil end
  local v, why = json.parse(text)
  if type(v) ~= "table" then options.usage("--verifier-config: %s", why or "not a JSON object") end
  return v
end

function command.run(p)
  local pool = require("tl.verify").pool { verifier = p.verifier, timeout_ms = p.timeout_ms, workers = p.workers, memory = p.memory, config = config_of(p.verifier_config) }
  local waiting, done, first, last = {}, {}, 1, 0  -- done[i]: the verdict of line i
  local failed = false
  local function answer(all)
    while first <= last and (all or last - first >= AHEAD) do
      while not done[first] do
        local v = pool:take(1000)
        if v then done[waiting[v.job]], waiting[v.job] = v, nil end
      end
      local v = done[first]
      print(line_of(v, p))
      failed = failed or v.outcome == "error"
      done[first], first = nil, first + 1
    end
  end
  for v, n in input.lines() do
    if v.gold == nil or v.gold == json.null or type(v.response) ~= "string" then options.exit(1, ("stdin, line %d: wants 'gold' and 'response'"):format(n)) end
    local problem = {}
    for k, x in pairs(v) do
      if k ~= "gold" and k ~= "response" and k ~= "n_tokens" and k ~= "finish" and x ~= json.null then problem[k] = x end
    end
    problem.answer = v.gold
    last = last + 1
    waiting[pool:submit(problem, { text = v.response, n_tokens = v.n_tokens, finish = v.finish or "stop" })] = last
    answer(false)
  end
  answer(true)
  pool:free()
  if failed then io.stderr:write "some calls of the verifier failed; their lines say why\n" end
  return 0
end

return command
