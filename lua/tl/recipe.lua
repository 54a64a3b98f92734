--- recipe.lua: the parameters of a script, typed and documented in one table; the command line, --config and --help come from it.
---
---   local p = tl.recipe {
---     name = "gsm8k_13param", description = "One line for --help.",
---     model = { "tiny", "model directory, GGUF file or name" },
---     lr    = { 1e-2, "AdamW learning rate", min = 0 },
---     batch = { 64, "problems a step", integer = true, min = 1 },
---     loss  = { "grpo", "loss type", choices = { "grpo", "dr_grpo", "dapo", "bnpo" } },
---     merged = { false, "sample from merged weights" },
---     tasks = { { "gsm8k" }, "problem sets" },
---     adapter = { nil, "adapter directory", type = "string" },
---   }
---
--- Types and their fields: options.lua. Command line before config file before default. Every recipe also has --seed, --out,
--- --json, --threads, --device, --tensor-parallel, --memory, --gate, --config and --help; a recipe that names one of them itself sets its default and doc.
--- Words of the command line that are no options are p.args, and are refused unless the recipe has args = "what they are".
--- A table that the script returns is printed as JSON on stdout with --json. recipe.last is the last p.
--- What the script returns, when it is a table, is its JSON document: --json prints it on stdout.
--- A name that the recipe does not have is an error in p too: p.lrr raises, with the nearest right name.
local F = require "tl.ffi"
local ffi = require "ffi"
local options = require "tl.options"
local names = require "tl.names"

local recipe = {}

local STANDARD = {
  { "seed", { 1, "seed of every random draw", integer = true, min = 0, max = 2 ^ 53 } },
  { "out", { nil, "run directory", type = "string", value = "DIR" } },
  { "json", { false, "one JSON document on stdout at the end" } },
  { "threads", { 0, "CPU threads; 0: all", integer = true, min = 0 } },
  { "device", { "cpu", "where to compute" } },
  { "tensor_parallel", require("tl.comm").TENSOR_PARALLEL },
  { "memory", { 0, "what the process may take in all (4G), on a device of its memory; 0: 2.2 GiB beyond the model", type = "size" } },
  { "gate", { true, "refuse to train on a verifier that pays for junk" } },
  { "config", { nil, "YAML file of NAME: VALUE lines", type = "string", value = "FILE" } },
}
local RESERVED = { name = true, description = true, args = true }

-- the order in which the names stand in the recipe's source after its call; names that are not found come last
local function source_order(spec, frame)
  local at = {}
  local path = frame and frame.source:match "^@(.*)"
  local f = path and io.open(path, "r")
  if f then
    local n = 0
    for line in f:lines() do
      n = n + 1
      -- the call's line as LuaJIT reports it may be any line of a call that spans several
      if n >= (frame.linedefined or 0) then
        for pos, key in line:gmatch "()([%a_][%w_]*)%s*=%s*" do
          if spec[key] ~= nil then at[key] = at[key] or n * 1000 + pos end
        end
      end
    end
    f:close()
  end
  return at
end

--- The first frame of the call stack outside the library.
local function caller()
  for level = 2, 20 do
    local frame = debug.getinfo(level, "Sl")
    if not frame then return nil end
    if frame.what ~= "C" and frame.source:sub(2, #F.lua_dir + 4) ~= F.lua_dir .. "/tl" then return frame end
  end
end

--- The list of parameters of a recipe's table, the standard ones last.
function recipe.parameters(spec, frame)
  local at, own, list = source_order(spec, frame), {}, {}
  for key in pairs(spec) do
    if type(key) ~= "string" then error("tl.recipe: every parameter needs a name: name = {default, \"doc\"}", 3) end
    if not RESERVED[key] then own[#own + 1] = key end
  end
  table.sort(own, function(a, b)
    local x, y = at[a] or math.huge, at[b] or math.huge
    if x ~= y then return x < y end
    return a < b
  end)
  for _, key in ipairs(own) do
    if key == "help" then error("tl.recipe: --help is taken", 3) end
    list[#list + 1] = options.parameter(key, spec[key])
  end
  for _, entry in ipairs(STANDARD) do
    if spec[entry[1]] == nil then list[#list + 1] = options.parameter(entry[1], entry[2]) end
  end
  return list
end

local function help(spec, list, script)
  local lines = { ("usage: tlrun %s [--NAME VALUE ...] [--config FILE.yaml]%s"):format(script or "RECIPE.lua", spec.args and " " .. spec.args or "") }
  if spec.description then lines[#lines + 1] = spec.description end
  lines[#lines + 1] = "\nparameters (defaults in brackets):"
  lines[#lines + 1] = options.table(list)
  return table.concat(lines, "\n") .. "\n"
end

local function announce(name, list, p)
  local words = {}
  for _, q in ipairs(list) do
    local v = p[q.name]
    if v ~= nil and q.name ~= "config" and q.name ~= "json" then words[#words + 1] = q.name .. "=" .. options.text(v) end
  end
  io.stderr:write(("%s: %s\n"):format(name, table.concat(words, " ")))
  io.stderr:write(("%s: tlrun %s, %s %s, %d threads\n"):format(name, ffi.string(F.C.tl_version()), ffi.string(F.C.tl_backend_name()),
    ffi.string(F.C.tl_backend_isa()), F.C.tl_threads()))
  local comm = require "tl.comm"
  local shared = comm.shards > 1 and (", in groups of %d that share a model"):format(comm.shards) or ""
  if comm.size > 1 then io.stderr:write(("%s: %d ranks (%s)%s, this one on %s\n"):format(name, comm.size, comm.kind, shared, comm.host)) end
end

-- p: plain fields, and an error for a name that is no parameter
local function guarded(values, list, given)
  local known = { args = true, name = true }
  local all = {}
  for _, q in ipairs(list) do known[q.name], all[#all + 1] = true, q.name end
  return setmetatable(values, { given = given, __index = function(_, key)
    if type(key) == "string" then
      local plain = key:gsub("-", "_")
      if known[plain] then return rawget(values, plain) end
      error(("the recipe has no parameter '%s'%s"):format(key, names.hint(plain, all)), 2)
    end
  end })
end

--- Reads the parameters for a command line. argv defaults to the script's own (the global arg).
---@param spec table the recipe's table
---@param argv string[]?
---@return table p values by name; p.name is the recipe's, p.args the other words
function recipe.read(spec, argv)
  local frame = caller()
  local list = recipe.parameters(spec, frame)
  local script = _G.arg and _G.arg[0]
  local name = spec.name or script and script:match "([^/]+)%.lua$" or "recipe"
  local given, rest = options.parse(list, argv or _G.arg or {})
  if given.help then
    io.stdout:write(help(spec, list, script))
    options.exit(0)
  end
  if #rest > 0 and not spec.args then options.usage("%s takes no argument '%s'; parameters are given as --NAME VALUE", name, rest[1]) end
  local config = given.config and options.read_config(list, given.config) or {}
  local p = options.resolve(list, given, config)
  for key, v in pairs(config) do if given[key] == nil then given[key] = v end end
  p.name, p.args = name, rest
  local comm = require "tl.comm"
  if type(p.device) == "string" then F.check(F.C.tl_device_select(p.device)) end
  if type(p.threads) == "number" then F.C.tl_set_threads(p.threads) end
  if type(p.tensor_parallel) == "number" then comm.split(p.tensor_parallel, 2) end
  if not recipe.quiet then announce(name, list, p) end
  recipe.last = guarded(p, list, given)
  return recipe.last
end

--- Which parameters were given by the command line or the config file (a table of their values).
function recipe.given(p) return getmetatable(p).given end

return setmetatable(recipe, { __call = function(_, spec) return recipe.read(spec) end })
