--- options.lua: typed, documented options. The parameters of recipes and the options of the commands are read by this one parser; the tables of
--- options that Lua functions take are held against their names here (options.only).
---
--- A parameter is {default, "doc", ...fields}. Its type comes from the default, or from the field `type`:
---   number    any number; integer = true: whole numbers only; min =, max =: its range
---   boolean   --name, --no-name, --name true|false
---   string    any text; choices = {...}: one of these
---   list      numbers or strings (as the default's elements; of = "number" when it is empty) with commas between
---   size      bytes: 1073741824, 512MiB, 2GiB, 1.5G
--- Other fields: repeated = true (a list that takes one whole word each time it is given);
--- required = true; short = "n" (also -n); value = "PATH" (the word after the name in --help); min, max (of whole numbers 2^31 - 1).
--- A nil default means "not given". Names may be written with _ or with -.
local names = require "tl.names"

local options = {}

-- ---- leaving early: errors that are not mistakes of the program

local Exit = { __tostring = function(e) return e.message or "" end }

--- An error value that ends the program with this exit code and, when given, this line on stderr.
function options.exit(code, message) error(setmetatable({ code = code, message = message }, Exit), 0) end

--- Wrong usage: exit code 2.
function options.usage(format, ...) options.exit(2, select("#", ...) > 0 and format:format(...) or format) end

--- Whether an error value is one of options.exit.
function options.is_exit(e) return getmetatable(e) == Exit end

-- ---- types

local UNITS = { [""] = 1, b = 1, k = 2 ^ 10, m = 2 ^ 20, g = 2 ^ 30, t = 2 ^ 40 }

local function size_of(text)
  local n, unit = text:match "^%s*([%d.]+)%s*(%a?)i?[bB]?%s*$"
  return n and tonumber(n) and UNITS[unit:lower()] and tonumber(n) * UNITS[unit:lower()]
end

local function decimal(text)
  return text:match "^%s*[-+]?[%d.]" and not text:lower():find "^%s*[-+]?0x" and tonumber((text:gsub("^%s*%+", ""))) or nil
end

-- value of a parameter, from a word of the command line (string) or from a config file; nil and what was expected
local convert = {}

function convert.number(v, p)
  local n = v
  if type(v) == "string" and p.from_text then n = decimal(v) end
  local what, max = p.integer and "a whole number" or "a number", p.max
  if p.min then what = what .. (" from %g"):format(p.min) end
  if p.integer and not max and type(n) == "number" and n >= 2 ^ 31 then max = 2 ^ 31 - 1 end  -- C's int
  if max then what = what .. (" to %.16g"):format(max) end
  if type(n) ~= "number" or n - n ~= 0 or p.integer and n % 1 ~= 0 or p.min and n < p.min or max and n > max then return nil, what end
  return n
end

function convert.size(v, p)
  local n = v
  if type(v) == "string" then n = size_of(v) end
  if type(n) ~= "number" or n < 0 then return nil, "a size such as 512MiB or 2GiB" end
  return math.floor(n)
end

local TRUTH = { ["true"] = true, yes = true, on = true, ["1"] = true, ["false"] = false, no = false, off = false, ["0"] = false }

function convert.boolean(v, p)
  if p.from_text then v = TRUTH[v:lower()] end
  if type(v) ~= "boolean" then return nil, "true or false" end
  return v
end

function convert.string(v, p)
  if p.choices then
    for _, c in ipairs(p.choices) do if c == v then return v end end
    return nil, "one of " .. table.concat(p.choices, ", ")
  end
  if type(v) ~= "string" then return nil, "text" end
  return v
end

function convert.list(v, p)
  local out = {}
  local what = (p.of == "number" and "numbers" or "words") .. " with commas between"
  if p.from_text and p.repeated then return { v } end
  if p.from_text then
    for word in v:gmatch "[^,]+" do
      local item = word:match "^%s*(.-)%s*$"
      if p.of == "number" then item = decimal(item) end
      if item == nil then return nil, what end
      out[#out + 1] = item
    end
    return out
  end
  if type(v) ~= "table" then v = { v } end
  for i, item in ipairs(v) do
    if type(item) ~= (p.of == "number" and "number" or "string") then return nil, what end
    out[i] = item
  end
  return out
end

local function canonical(name) return (name:gsub("-", "_")) end
local function dashed(name) return (name:gsub("_", "-")) end

--- One parameter's description from the way it is written in a recipe.
---@param name string
---@param spec any {default, "doc", ...} or the default alone
function options.parameter(name, spec)
  if type(spec) ~= "table" then spec = { spec } end
  local p = {}
  for k, v in pairs(spec) do if type(k) == "string" then p[k] = v end end
  p.name, p.default, p.doc = canonical(name), spec[1], spec[2]
  local kind = p.type or (p.choices and "string") or (type(p.default) == "table" and "list") or type(p.default)
  if kind == "nil" then kind = "string" end
  if kind == "integer" then kind, p.integer = "number", true end
  if kind == "list" and not p.of then p.of = p.default and type(p.default[1]) == "number" and "number" or "string" end
  if not convert[kind] then error(("parameter %s: a default cannot be a %s"):format(name, kind), 4) end
  p.type = kind
  if p.doc ~= nil and type(p.doc) ~= "string" then error(("parameter %s: its doc must be text"):format(name), 4) end
  if p.default ~= nil then
    local v, expected = convert[kind](p.default, p)
    if v == nil then error(("parameter %s: its default is %s, not %s"):format(name, tostring(p.default), expected), 4) end
    p.default = v
  end
  return p
end

--- A value as one writes it on a command line.
local function text_of(v)
  if type(v) == "table" then
    local words = {}
    for i, x in ipairs(v) do words[i] = text_of(x) end
    return table.concat(words, ",")
  end
  return type(v) == "number" and ("%.10g"):format(v) or tostring(v)
end
options.text = text_of

local function shown(v) return type(v) == "string" and "'" .. v .. "'" or type(v) == "table" and "a list or a map" or tostring(v) end

-- ---- tables of options that Lua functions take

-- what other programs (TRL, PEFT, transformers, vLLM) call an option, and what it is called here: of these the first that the function has
local ELSEWHERE = {
  learning_rate = "lr", adam_beta1 = "beta1", adam_beta2 = "beta2", adam_epsilon = "eps", max_steps = "total_steps", steps = "total_steps",
  save_steps = "checkpoint", output_dir = "run", resume_from_checkpoint = "resume", reward_funcs = "reward", reward_func = "reward", reward_fn = "reward",
  group = "num_generations", group_size = "num_generations", num_return_sequences = "n num_generations", kl_coef = "beta", kl_coeff = "beta", epsilon_low = "epsilon",
  max_tokens = "max_new_tokens max_completion_length", max_length = "max_new_tokens max_completion_length", max_new_tokens = "max_completion_length",
  max_completion_length = "max_new_tokens", vllm_importance_sampling_mode = "is_mode", vllm_importance_sampling_cap = "is_max", num_train_epochs = "epochs",
  r = "rank", lora_alpha = "alpha", target_modules = "targets", projection_seed = "seed", torch_dtype = "dtype", compute = "dtype", batch_size = "size",
  per_device_train_batch_size = "size", batch = "size", train_dataset = "problems", eval_dataset = "problems", dataset = "problems", num = "n",
  num_samples = "samples n_samples n limit", k = "samples n", task = "problems", population_size = "members",
}

local function always() return true end
local function from0(n) return n >= 0 end
local function whole(n) return n >= 0 and n % 1 == 0 end

-- what an option of a kind is: in words, its type, which values of that are one, and the largest; of the kind "any" whatever it is. A function or a
-- table that is false is not given
local KINDS = {
  boolean = { "true or false", "boolean", always },
  fn = { "a function", "function", always },
  map = { "a table", "table", always },
  number = { "a number", "number", always },
  amount = { "a number from 0", "number", from0 },
  count = { "a whole number from 0", "number", whole, 2 ^ 31 - 1 },  -- C's int
  seed = { "a whole number from 0", "number", whole, 2 ^ 53 },
  bytes = { "a number of bytes from 0", "number", from0, 2 ^ 53 },
}

--- The options of a function, for options.only: their names by what they are, { any = "model adapter", number = "beta", amount = "delta", count = "n", seed = "seed",
--- bytes = "memory", boolean = "eos", fn = "progress", map = "verifier_config" }; then what others have, which it takes too. Kept above the function's documentation: the one place where they stand.
---@param of table
---@param ... table
function options.names(of, ...)
  local known = { kind = {}, list = {} }
  local function add(name, kind)
    if not known.kind[name] then known.list[#known.list + 1] = name end
    known.kind[name] = kind
  end
  for _, kind in ipairs { "any", "number", "amount", "count", "seed", "bytes", "boolean", "fn", "map" } do
    for name in (of[kind] or ""):gmatch "%S+" do add(name, kind) end
  end
  for _, other in ipairs { ... } do
    for _, name in ipairs(other.list) do if not known.kind[name] then add(name, other.kind[name]) end end
  end
  return known
end

-- the name that was meant by a wrong one; nil when none is near
local function meant(wrong, known)
  for name in (ELSEWHERE[wrong] or ""):gmatch "%S+" do
    if known.kind[name] then return name end
  end
  local plain, of = {}, {}
  for i, name in ipairs(known.list) do
    plain[i] = name:gsub("_", "")
    of[plain[i]] = name
  end
  return of[names.nearest(canonical(wrong):gsub("_", ""), plain)]
end

local function no_option(what, given, known)
  local wrong = {}
  for k in pairs(given) do
    if not known.kind[k] then wrong[#wrong + 1] = tostring(k) end
  end
  table.sort(wrong)
  local near = meant(wrong[1], known)
  return ("%s: there is no option '%s'; %s"):format(what, wrong[1], near and ("did you mean '%s'?"):format(near) or #known.list == 0 and "it has none" or "there are " .. table.concat(known.list, ", "))
end

-- raises at the line of the script, however deep in the library it was found; level: where there is no library (philox.lua says where that is)
local function refuse(message, level)
  local F = package.loaded["tl.ffi"]
  if F then F.raise(message) end
  error(message, level + 1)
end

--- Refuses a table of options with a name that the function does not have, or with no number (of that kind) where it wants one. Done once, when something is made:
--- the table may be read as often as one likes after that. what: the function, as errors name it; known: from options.names; level: as error's, 2 being
--- who called the function that calls this.
function options.only(what, given, known, level)
  level = (level or 2) + 1
  if type(given) ~= "table" then refuse(("%s wants a table of options; got %s"):format(what, given == nil and "nothing" or "a " .. type(given)), level) end
  local kind = known.kind
  for k, v in pairs(given) do
    local want = kind[k]
    if not want then refuse(no_option(what, given, known), level) end
    local words, kind_of, holds, most = unpack(KINDS[want] or {})
    local large = most and type(v) == "number" and v > most
    local absent = v == false and (want == "fn" or want == "map")
    if v ~= v or large or words and not absent and type(v) ~= "cdata" and not (type(v) == kind_of and holds(v)) then
      refuse(("%s: %s wants %s%s; got %s"):format(what, k, words or "a number", large and (" to %.16g"):format(most) or "", shown(v)), level)
    end
  end
end

-- ---- the command line

local function find(list, name)
  for _, p in ipairs(list) do if p.name == name then return p end end
end

local function all_names(list)
  local out = {}
  for _, p in ipairs(list) do
    out[#out + 1] = dashed(p.name)
  end
  out[#out + 1] = "help"
  return out
end

local function short_of(list, letter)
  for _, p in ipairs(list) do if p.short == letter then return p end end
end

-- option, its inline value and whether it was negated
local function recognise(list, word)
  local letter, rest = word:match "^%-(%a)(.*)$"
  if letter then
    local p = short_of(list, letter)
    if p then return p, rest ~= "" and (rest:gsub("^=", "")) or nil end
    options.usage("unknown option %s (--help lists the options)", word)
  end
  local name, value = word:match "^%-%-([^=]+)=(.*)$"
  name = canonical(name or word:sub(3))
  local p = find(list, name)
  if p then return p, value end
  local negated = name:match "^no_(.+)$"
  p = negated and find(list, negated)
  if p and p.type == "boolean" and not value then return p, nil, true end
  options.usage("unknown option --%s%s (--help lists the options)", dashed(name), names.hint(dashed(name), all_names(list), "--"))
end

local function is_number_word(word) return word:match "^%-[%d.]" ~= nil end

--- Reads a command line.
---@param list table parameters (options.parameter)
---@param argv string[]
---@return table given values by name, string[] rest the words that are no options
function options.parse(list, argv)
  local given, rest, i = {}, {}, 1
  while i <= #argv do
    local word = argv[i]
    if word == "--" then
      for k = i + 1, #argv do rest[#rest + 1] = argv[k] end
      break
    elseif word:sub(1, 1) ~= "-" or word == "-" or is_number_word(word) then
      rest[#rest + 1] = word
    elseif word == "--help" or word == "-h" and not short_of(list, "h") then
      given.help = true
    else
      local p, value, negated = recognise(list, word)
      if p.type == "boolean" and value == nil then
        given[p.name] = not negated
        local after = argv[i + 1]
        if not negated and (after == "true" or after == "false") then given[p.name], i = after == "true", i + 1 end
      else
        local label = word:match "^[^=]+"
        if value == nil then
          i = i + 1
          value = argv[i]
          if value == nil or value:sub(1, 2) == "--" and #value > 2 then options.usage("%s wants a value", label) end
        end
        p.from_text = true
        local v, expected = convert[p.type](value, p)
        p.from_text = nil
        if v == nil then
          local hint = p.choices and names.hint(value, p.choices) or ""
          options.usage("%s wants %s; got '%s'%s", label, expected, value, hint)
        end
        if p.repeated and given[p.name] then table.insert(given[p.name], v[1]) else given[p.name] = v end
      end
    end
    i = i + 1
  end
  return given, rest
end

-- ---- config files

local function line_of(path, key)
  local n = 0
  for line in io.lines(path) do
    n = n + 1
    local k = line:match "^%s*[\"']?([%w_-]+)[\"']?%s*:"
    if k == key then return path .. ":" .. n end
  end
  return path
end

--- Values of parameters from a YAML file; errors name file:line and end with exit code 1.
function options.read_config(list, path)
  local ok, map = pcall(require("tl.yaml").load, path)
  if not ok then options.exit(1, (tostring(map):gsub("^.-yaml%.lua:%d+: ", ""))) end
  local json = require "tl.json"
  local mt = type(map) == "table" and getmetatable(map)
  if map == json.null then return {} end
  if not mt or not mt.__order then options.exit(1, path .. ": wants lines of NAME: VALUE") end
  local given, all = {}, {}
  for i, q in ipairs(list) do all[i] = q.name end
  for _, key in ipairs(mt.__order) do
    local p, v = find(list, canonical(key)), map[key]
    if not p then
      local hint = names.hint(canonical(key), all)
      options.exit(1, ("%s: unknown parameter '%s'%s"):format(line_of(path, key), key, hint))
    end
    if v ~= json.null then
      local value, expected = convert[p.type](v, p)
      if value == nil then options.exit(1, ("%s: %s wants %s; got %s"):format(line_of(path, key), key, expected, shown(v))) end
      given[p.name] = value
    end
  end
  return given
end

-- ---- help

local KIND = { number = "NUMBER", string = "TEXT", list = "A,B,...", size = "BYTES" }

local function wrap(text, width)
  local lines, line = {}, ""
  for word in text:gmatch "%S+" do
    if #line > 0 and #line + #word + 1 > width then
      lines[#lines + 1], line = line, word
    else
      line = #line > 0 and line .. " " .. word or word
    end
  end
  lines[#lines + 1] = line
  return lines
end

--- The table of parameters for --help.
function options.table(list)
  local rows, width = {}, 0
  for _, p in ipairs(list) do
    local kind = p.value or p.choices and table.concat(p.choices, "|") or p.integer and "INTEGER" or p.repeated and "TEXT" or KIND[p.type] or ""
    local head = (p.short and "-" .. p.short .. ", " or "") .. (p.default == true and "--[no-]" or "--") .. dashed(p.name) .. (kind ~= "" and " " .. kind or "")
    local doc = p.doc or ""
    if p.default ~= nil and p.type ~= "boolean" and text_of(p.default) ~= "" then doc = doc .. (" [%s]"):format(text_of(p.default)) end
    if p.required then doc = doc .. " (required)" end
    rows[#rows + 1] = { head, doc }
    if #head <= 34 then width = math.max(width, #head) end
  end
  local out = {}
  for _, row in ipairs(rows) do
    local lines = wrap(row[2], 108 - width)
    if #row[1] > width then
      out[#out + 1] = "  " .. row[1]
      row[1] = ""
    end
    for i, line in ipairs(lines) do
      out[#out + 1] = (("  %-" .. width .. "s  %s"):format(i == 1 and row[1] or "", line):gsub("%s+$", ""))
    end
  end
  return table.concat(out, "\n")
end

--- Values in full: those given, else the defaults; refuses when a required one is missing.
function options.resolve(list, ...)
  local out = {}
  for _, p in ipairs(list) do
    local v = p.default
    if type(v) == "table" then v = { unpack(v) } end
    for i = select("#", ...), 1, -1 do
      local given = select(i, ...)
      if given[p.name] ~= nil then v = given[p.name] end
    end
    if v == nil and p.required then options.usage("--%s is required: %s", dashed(p.name), p.doc or "") end
    out[p.name] = v
  end
  return out
end

return options
