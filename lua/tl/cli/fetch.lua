--- tlrun fetch: a model or data set by name into the cache
local fetch = require "tl.fetch"
local json = require "tl.json"
local options = require "tl.options"

local command = { summary = "gets a model or a data set into the cache", usage = "[NAME | org/name[@revision]] [--file PATTERN]", words = 1 }

command.help = "Gets a model or a data set, verified by its checksums. Without a name: what there is beside the Hugging Face hub.\n"
  .. "org/name[@revision] is a model of the hub (datasets/org/name: a data set): configuration, tokenizer, chat templates and\n"
  .. "safetensors, into the cache that Python's tools share (HF_HOME, HF_HUB_CACHE); HF_TOKEN and HF_ENDPOINT count. What the cache\n"
  .. "has whole is taken as it is. Other names go to TL_HOME (default ~/.cache/tlrun). Stopped downloads are continued."

command.parameters = {
  { "file", { nil, "only the files that match, such as '*Q4_K_M.gguf'", type = "string", value = "PATTERN" } },
  { "refresh", { false, "ask the hub what the revision is now, even when the cache has it" } },
}

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
  if (p.file or p.refresh) and not name:find("/", 1, true) then options.usage "--file and --refresh go with org/name" end
  local r = fetch.get(name, { file = p.file, refresh = p.refresh })
  if p.json then print(json.encode(r))
  else print(("%s%s: %s%s"):format(name, r.commit and " at commit " .. r.commit or "", r.path, r.fetched == 0 and " (was there)" or "")) end
  return 0
end

return command
