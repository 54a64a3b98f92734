--- cli/init.lua: what `tlrun ARGUMENTS` does. A command is a file in this folder that returns
---   { summary = "one line", usage = "what stands after tlrun NAME", parameters = {...}, run = function(p, rest) return code end }
--- with parameters {name, {default, "doc", ...}} as in options.lua, in the order in which --help shows them. --json is every command's.
---
--- Exit codes: 0 done, 1 failed (one clear line on stderr), 2 wrong usage, 130 interrupted. TL_TRACE=1 shows the call stack too.
local F = require "tl.ffi"
local ffi = require "ffi"
local options = require "tl.options"
local names = require "tl.names"

local cli = {}

local LIB = F.lua_dir .. "/tl/"

-- ---- errors

-- the first line of the script on the call stack: the first Lua frame outside the library
local function script_line()
  for level = 3, 60 do
    local frame = debug.getinfo(level, "Sl")
    if not frame then return nil end
    if frame.currentline > 0 and frame.source:sub(1, 1) == "@" and frame.source:sub(2, #LIB + 1) ~= LIB then
      return frame.short_src .. ":" .. frame.currentline
    end
  end
end

-- The message a person reads. An error that the library raised without blaming the caller is given the script's line.
local function explain(e)
  if options.is_exit(e) then return e end
  local message = type(e) == "string" and e or type(e) == "table" and getmetatable(e) and getmetatable(e).__tostring and tostring(e)
    or "error of type " .. type(e) .. ": " .. tostring(e)
  message = message:gsub("(module '[^\n]- not found):\n.*", "%1")  -- without the list of places
  message = message:gsub("(error loading module '[^\n]-':)\n%s*", "%1 ")
  local trace = debug.traceback("", 2)
  local path, line, rest = message:match "^(%S-%.lua):(%d+): (.*)$"
  local here = script_line()
  if path and path:sub(-#"/tl/x") and (path:find("/lua/tl/", 1, true) or path:sub(1, #LIB) == LIB) then
    message = here and ("%s: %s"):format(here, rest) or rest
    if rest:find "^attempt to " then message = ("%s (%s:%s)"):format(message, path, line) end
  end
  return { message = message, trace = trace, code = F.C.tl_interrupted() and 130 or 1 }
end

--- Runs fn(...); an error is explained on stderr. Returns the exit code.
function cli.guard(fn, ...)
  local args, n = { ... }, select("#", ...)
  local ok, result = xpcall(function() return fn(unpack(args, 1, n)) end, explain)
  if ok then return tonumber(result) or 0 end
  if type(result) ~= "table" then result = { message = tostring(result), code = 1 } end
  if result.message and result.message ~= "" then
    io.stdout:flush()
    require("tl.comm").complain(result.message)
  end
  if result.trace and (os.getenv "TL_TRACE" or "") ~= "" then io.stderr:write(result.trace, "\n") end
  return result.code or 1
end

-- ---- commands

--- The commands there are: the files of this folder.
function cli.commands()
  local out = {}
  for _, file in ipairs(require("tl.fs").list(F.lua_dir .. "/tl/cli") or {}) do
    local name = file:match "^([%w_]+)%.lua$"
    if name and name ~= "init" then out[#out + 1] = (name:gsub("_", "-")) end
  end
  return out
end

local function command_named(name)
  for _, known in ipairs(cli.commands()) do
    if known == name then return require("tl.cli." .. (name:gsub("-", "_"))) end
  end
end

local function parameters_of(command)
  local list = {}
  for _, entry in ipairs(command.parameters or {}) do list[#list + 1] = options.parameter(entry[1], entry[2]) end
  list[#list + 1] = options.parameter("json", { false, "one JSON document on stdout" })
  list[#list + 1] = options.parameter("threads", { 0, "CPU threads; 0: all", integer = true, min = 0 })
  return list
end

-- some commands have sub-commands of their own (bench sample, ...): they may return another command for the first word
local function run_command(name, command, argv)
  if command.sub then
    local word = argv[1]
    local sub = word and command.sub[word]
    if sub then return run_command(name .. " " .. word, sub, { unpack(argv, 2) }) end
    if word and word:sub(1, 1) ~= "-" then
      local list = {}
      for k in pairs(command.sub) do list[#list + 1] = k end
      table.sort(list)
      options.usage("tlrun %s has no '%s'%s: %s", name, word, names.hint(word, list), table.concat(list, ", "))
    end
  end
  local list = parameters_of(command)
  local given, rest = options.parse(list, argv)
  if given.help then
    io.stdout:write(("usage: tlrun %s %s\n%s\n\n"):format(name, command.usage or "[options]", command.help or command.summary), options.table(list), "\n")
    return 0
  end
  if not command.run then options.usage("usage: tlrun %s %s", name, command.usage) end
  local most = command.words or 0
  if #rest > most then options.usage("tlrun %s: unexpected argument '%s'; usage: tlrun %s %s", name, rest[most + 1], name, command.usage or "[options]") end
  local p = options.resolve(list, given)
  p.given = given
  if p.device then F.check(F.C.tl_device_select(p.device)) end
  F.C.tl_set_threads(p.threads)
  return command.run(p, rest)
end

-- ---- scripts

local function run_script(path, argv)
  local chunk, why
  if path == "-" then chunk, why = loadstring(io.read "*a", "=stdin") else chunk, why = loadfile(path) end
  if not chunk then options.exit(1, why) end
  _G.arg = { [0] = path, unpack(argv) }
  local result = chunk(unpack(argv))
  local p = package.loaded["tl.recipe"] and require("tl.recipe").last
  if type(result) == "table" and p and p.json then print(require("tl.json").encode(result)) end  -- what a recipe returns is its document
  return type(result) == "number" and result or 0
end

local function run_code(code, argv)
  local chunk, why = loadstring(code, "=(-e)")
  if not chunk then options.exit(1, why) end
  _G.tl = require "tl"
  _G.arg = { [0] = "-e", unpack(argv) }
  chunk(unpack(argv))
  return 0
end

-- ---- help

function cli.help()
  local lines = {
    "usage: tlrun                          the REPL",
    "       tlrun FILE.lua [--NAME VALUE ...] [--config FILE.yaml]   a recipe; --help lists its parameters",
    "       tlrun -e CODE                  runs a line of Lua",
    "       tlrun COMMAND ...              --help after any of them shows its options\n",
    "commands:" }
  for _, name in ipairs(cli.commands()) do
    lines[#lines + 1] = ("  %-14s %s"):format(name, command_named(name).summary)
  end
  lines[#lines + 1] = "\nM in a command's usage is a Hugging Face directory, a GGUF file, or a name that `tlrun fetch` or models/ knows."
  lines[#lines + 1] = "Exit codes: 0 done, 1 failed, 2 wrong usage. TL_TRACE=1 shows where an error came from."
  return table.concat(lines, "\n") .. "\n"
end

local function version()
  io.stdout:write(("tlrun %s (%s)\n"):format(ffi.string(F.C.tl_version()), (ffi.string(F.C.tl_build_info()):gsub("^tlrun [^,]*, ", ""))))
  return 0
end

local function is_script(word) return word == "-" or word:find "%.lua$" or require("tl.fs").kind(word) == "file" end

local function dispatch(argv)
  local word = argv[1]
  local rest = { unpack(argv, 2) }
  if word == nil then return require("tl.repl").run() end
  if word == "--help" or word == "-h" or word == "help" and not rest[1] then io.stdout:write(cli.help()); return 0 end
  if word == "help" then return dispatch { rest[1], "--help" } end
  if word == "--version" or word == "-v" then return version() end
  if word == "-e" then
    if not rest[1] then options.usage "-e wants a line of Lua" end
    return run_code(rest[1], { unpack(rest, 2) })
  end
  if word:sub(1, 1) == "-" and word ~= "-" then options.usage("unknown option %s; tlrun --help shows what there is", word) end
  local command = command_named(word)
  if command then return run_command(word, command, rest) end
  if is_script(word) then return run_script(word, rest) end
  if require("tl.fs").kind(word) == "folder" then options.usage("%s is a folder; tlrun inspect %s says what is in it", word, word) end
  options.usage("unknown command '%s'%s (tlrun --help lists them)", word, names.hint(word, cli.commands()))
end

--- argv[0] is the program's name, argv[1..] its arguments. Returns the exit code.
function cli.main(argv)
  local comm = require "tl.comm"
  local code = cli.guard(function()
    comm.start()
    return dispatch(argv)
  end)
  comm.finish(code)
  return code
end

return cli
