--- reply.lua: a function that replies to what the model wrote, as a verifier pool calls it (tl.turns): its text or messages travel as a
--- verdict's info. A module of its own, since the workers load it for the replies that are modules' (reply = "my_tool").
local reply = {}

local function is_message(m) return type(m) == "table" and type(m.role) == "string" and type(m.content) == "string" end

local function checked(r)
  if r == nil or type(r) == "string" then return r end
  local fine = type(r) == "table" and #r > 0
  for _, m in ipairs(fine and r or {}) do fine = fine and is_message(m) end
  if fine then return r end
  error(("a reply is a text, a list of messages { role =, content = } or nil; got %s"):format(type(r) == "table" and "another table" or tostring(r)), 0)
end

--- The function as a verifier: 1, { reply =, state = }.
function reply.wrap(fn)
  return function(problem, completion)
    local r = checked(fn(problem, completion))
    return 1, { reply = r, state = completion.state }
  end
end

--- What a worker calls. config: { module =, path = what is searched for it }.
function reply.make(config)
  package.path = config.path
  local value = require(config.module)
  if type(value) == "table" then value = value.reply end
  if type(value) ~= "function" then error(("%s does not give a function(problem, completion), nor a table with one as `reply`"):format(config.module), 0) end
  return reply.wrap(value)
end

return reply
