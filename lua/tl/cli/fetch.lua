--- tlrun fetch: a model or data set by name into the cache
local fetch = require "tl.fetch"
local json = require "tl.json"

local command = { summary = "gets a model or a data set into the cache", usage = "[NAME]", words = 1, parameters = {} }

command.help = "Gets a model or a data set into the cache (TL_HOME, default ~/.cache/tlrun), verified by its checksum.\n"
  .. "Without a name: what there is. Stopped downloads are continued."

function command.run(p, rest)
  local name = rest[1]
  if not name then
    local list = json.array {}
    for i, n in ipairs(fetch.names()) do
      list[i] = { name = n, about = fetch.about(n) }
      if not p.json then print(("%-24s %s"):format(n, fetch.about(n))) end
    end
    if p.json then print(json.encode { names = list }) end
    return 0
  end
  local r = fetch.get(name)
  if p.json then print(json.encode(r))
  else print(("%s: %s%s"):format(name, r.path, r.fetched == 0 and " (was there)" or "")) end
  return 0
end

return command
