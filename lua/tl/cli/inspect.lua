--- tlrun inspect: what a model, an adapter, a checkpoint or a run directory is
local artifact = require "tl.artifact"
local fs = require "tl.fs"
local json = require "tl.json"
local log = require "tl.log"
local options = require "tl.options"

local command = { summary = "what a model, adapter, checkpoint or run directory is", usage = "PATH", words = 1, parameters = {} }

command.help = "Says what PATH is, without loading it: a model (folder, GGUF file or name), an adapter (compact file or PEFT\n"
  .. "folder), a run directory, a safetensors or JSON file."

-- the header of a safetensors file: its tensors
local function safetensors_of(path)
  local f = assert(io.open(path, "rb"))
  local head = f:read(8) or ""
  local n = 0
  for i = math.min(8, #head), 1, -1 do n = n * 256 + head:byte(i) end
  local size = fs.bytes(path)
  if #head < 8 or n > size - 8 or n > 100e6 then
    f:close()
    options.exit(1, path .. ": not a safetensors file: its header does not fit into it")
  end
  local doc, why = json.parse(f:read(n))
  f:close()
  if type(doc) ~= "table" then options.exit(1, path .. ": not a safetensors file: its header is " .. (why or "no object")) end
  local list, count = json.array {}, 0
  for _, name in ipairs(getmetatable(doc).__order or {}) do
    local t = doc[name]
    if name ~= "__metadata__" and type(t) == "table" then
      local elements = 1
      for _, d in ipairs(t.shape or {}) do elements = elements * d end
      count = count + elements
      list[#list + 1] = json.object({ name = name, dtype = t.dtype, shape = t.shape }, { "name", "dtype", "shape" })
    end
  end
  return json.object({ kind = "safetensors", path = path, bytes = size, n_tensors = #list, n_parameters = count,
    metadata = doc.__metadata__, tensors = list }, { "kind", "path", "bytes", "n_tensors", "n_parameters", "metadata", "tensors" })
end

local RUN_FILES = { "config.json", "run.json" }

local function run_of(path)
  local r = { kind = "run", path = path, files = json.array(fs.list(path)) }
  for _, name in ipairs(RUN_FILES) do
    local file = path .. "/" .. name
    if fs.kind(file) == "file" then
      local v = json.parse(fs.read(file))
      if type(v) == "table" then r[name:match "^%w+"] = v end
    end
  end
  local m = require("tl.report.runs").load(path)
  r.last = m.steps[#m.steps]
  r.steps = r.last and r.last.step or 0
  for _, e in ipairs(m.evals) do if e["eval/accuracy"] then r.eval = e end end
  if require("tl.adapter").find(path) then r.adapter = artifact.describe(path) end
  return r
end

local function model_of(path)
  return require("tl.model").inspect(path)
end

local function examine(path)
  local kind = fs.kind(path)
  local function has(name) return fs.kind(path .. "/" .. name) == "file" end
  if kind == "folder" then
    if has "adapter_config.json" then return artifact.describe(path) end
    if has "metrics.jsonl" then return run_of(path) end
  elseif artifact.is_compact(path) then return artifact.describe(path)
  elseif kind == "file" and path:match "%.safetensors$" then return safetensors_of(path)
  elseif kind == "file" and path:match "%.json$" then return { kind = "json", path = path, content = json.load(path) }
  end
  local ok, resolved = pcall(require("tl.model").resolve, path)
  if ok then return model_of(resolved) end
  if kind == "folder" then options.exit(1, path .. ": neither a model, an adapter nor a run directory (no config.json, adapter_config.json or metrics.jsonl)") end
  options.exit(1, tostring(resolved):gsub("^[^%s:]*%.lua:%d+: ", ""), nil)
end

local function show(v, indent)
  local order = getmetatable(v) and getmetatable(v).__order or {}
  local seen, keys = {}, {}
  for _, k in ipairs(order) do keys[#keys + 1], seen[k] = k, true end
  local rest = {}
  for k in pairs(v) do if not seen[k] then rest[#rest + 1] = k end end
  table.sort(rest, function(a, b) return tostring(a) < tostring(b) end)
  for _, k in ipairs(rest) do keys[#keys + 1] = k end
  for _, k in ipairs(keys) do
    local x = v[k]
    if k == "tensors" and type(x) == "table" then
      print(("%s%-18s %d"):format(indent, k, #x))
    elseif type(x) == "table" and x ~= json.null and x[1] == nil and next(x) ~= nil then
      print(indent .. k)
      show(x, indent .. "  ")
    elseif x ~= nil then
      local text = type(x) == "table" and x ~= json.null and json.encode(x) or tostring(x)
      if type(x) == "number" and tostring(k):find "bytes$" then text = ("%d (%s)"):format(x, log.bytes(x)) end
      print(("%s%-18s %s"):format(indent, k, text))
    end
  end
end

function command.run(p, rest)
  if not rest[1] then options.usage "tlrun inspect wants a path or a model's name" end
  local r = examine(rest[1])
  if p.json then print(json.encode(r))
  elseif r.kind == "adapter" then print(table.concat(artifact.lines(r), "\n"))
  else show(r, "") end
  return 0
end

return command
