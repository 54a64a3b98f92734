--- repl.lua: the prompt. A line is an expression, whose values are printed, or statements. A chunk that is not finished goes on
--- over more lines. `? name` prints the comment above a function, or what is in a part of tl. `_` is the last value.
---
--- Every line is a chunk of its own, so a `local` at its top level would be gone with the next line. People type them all the
--- same; here they become globals of the session (those inside functions and blocks stay local).
---
--- Ctrl-C: a C call under way returns at its next safe point; typed Lua is not compiled by the JIT, so that its loops can be
--- stopped too. What was computed before stays. Ctrl-D leaves.
local F = require "tl.ffi"
local ffi = require "ffi"
local host = require "tl.host"
local log = require "tl.log"
local names = require "tl.names"
local C = F.C

local repl = {}

-- ---- values

-- the first n bytes of a longer text, or fewer: no character is cut in two
local function beginning(s, n) return (s:sub(1, n + 1):gsub("[^\128-\191][\128-\191]*$", "")) .. "..." end

local function quoted(s)
  if #s > 2000 then s = beginning(s, 2000) end
  return '"' .. s:gsub('[%c"\\]', function(c)
    return ({ ["\n"] = "\\n", ["\t"] = "\\t", ["\r"] = "\\r", ['"'] = '\\"', ["\\"] = "\\\\" })[c] or ("\\%03d"):format(c:byte())
  end) .. '"'
end

local function number_text(x)
  if x % 1 == 0 and math.abs(x) < 2 ^ 53 then return ("%.0f"):format(x) end
  return ("%.10g"):format(x)
end

local function function_text(f)
  local d = debug.getinfo(f, "S")
  return d.what == "C" and "function (C)" or ("function (%s:%d)"):format(d.short_src:match "[^/]+$" or d.short_src, d.linedefined)
end

local function brief(v)
  local kind = type(v)
  if kind == "string" then return quoted(#v > 60 and beginning(v, 57) or v) end
  if kind == "number" then return number_text(v) end
  if kind == "function" then return function_text(v) end
  if kind == "table" then
    local mt = getmetatable(v)
    if require("tl.tensor").is(v) then return ("tensor (%s) %s"):format(table.concat(v.shape, ", "), v.dtype) end
    if type(mt) == "table" and rawget(mt, "__tostring") then return (tostring(v):gsub("\n.*", " ...")) end
    if next(v) == nil then return "{}" end
    return #v > 0 and ("{... %d values}"):format(#v) or "{...}"
  end
  return tostring(v)
end

local function key_text(k) return type(k) == "string" and k:match "^[%a_][%w_]*$" and k or "[" .. brief(k) .. "]" end

local SHOWN = 24  -- entries of a table

local function sorted_keys(t, from)
  local keys = {}
  for k in pairs(t) do
    if not (type(k) == "number" and k >= 1 and k <= from and k % 1 == 0) then keys[#keys + 1] = k end
  end
  table.sort(keys, function(a, b)
    if type(a) == type(b) and (type(a) == "string" or type(a) == "number") then return a < b end
    return type(a) .. tostring(a) < type(b) .. tostring(b)
  end)
  return keys
end

local function table_text(t)
  local n, parts, lengths = #t, {}, 0
  for i = 1, math.min(n, SHOWN) do parts[i] = brief(t[i]) end
  if n > SHOWN then parts[#parts + 1] = ("... %d more"):format(n - SHOWN) end
  local keys = sorted_keys(t, n)
  for i, k in ipairs(keys) do
    if i > SHOWN then
      parts[#parts + 1] = ("... %d more"):format(#keys - SHOWN)
      break
    end
    parts[#parts + 1] = key_text(k) .. " = " .. brief(t[k])
  end
  for _, p in ipairs(parts) do lengths = lengths + #p + 2 end
  if lengths <= 100 then return "{ " .. table.concat(parts, ", ") .. " }" end
  if #keys == 0 and lengths / #parts < 16 then  -- a long list of short values: in lines
    local lines, line = {}, "  "
    for i, p in ipairs(parts) do
      line = line .. p .. (i < #parts and ", " or "")
      if #line > 100 then lines[#lines + 1], line = line, "  " end
    end
    lines[#lines + 1] = line
    return "{\n" .. table.concat(lines, "\n") .. "\n}"
  end
  return "{\n  " .. table.concat(parts, ",\n  ") .. "\n}"
end

--- How a value is shown at the prompt: strings quoted, tables one level deep and shortened, tensors with shape and dtype.
function repl.format(v)
  local kind = type(v)
  if kind == "string" then return quoted(v) end
  if kind == "table" then
    local mt = getmetatable(v)
    if type(mt) == "table" and rawget(mt, "__tostring") then return tostring(v) end
    return next(v) == nil and "{}" or table_text(v)
  end
  return brief(v)
end

-- ---- chunks

local OPENS = { ["if"] = true, ["do"] = true, ["function"] = true, ["repeat"] = true }
local CLOSES = { ["end"] = true, ["until"] = true }

-- where the token that starts at i ends; its kind: "name", "skip" (string, comment, blank) or "other"
local function token(code, i)
  local stop = select(2, code:find("^%s+", i))
  if stop then return stop, "skip" end
  stop = select(2, code:find("^%-%-%[(=*)%[.-%]%1%]", i)) or select(2, code:find("^%-%-[^\n]*", i)) or select(2, code:find("^%[(=*)%[.-%]%1%]", i))
  if stop then return stop, "skip" end
  local quote = code:match("^[\"']", i)
  if quote then
    local at = i + 1
    while at <= #code and code:sub(at, at) ~= quote do at = at + (code:sub(at, at) == "\\" and 2 or 1) end
    return math.min(at, #code), "skip"
  end
  stop = select(2, code:find("^[%a_][%w_]*", i))
  if stop then return stop, "name" end
  return i, "other"
end

--- Code with the locals of its top level made globals.
function repl.globals(code)
  local out, i, depth = {}, 1, 0
  while i <= #code do
    local stop, kind = token(code, i)
    local word = code:sub(i, stop)
    if kind == "name" and depth == 0 and word == "local" then
      local list, after = code:match("^%s+([%a_][%w_%s,]*)()", stop + 1)
      local first = list and list:match "^[%a_][%w_]*"
      if first and first ~= "function" then
        -- the list of names, without the keyword that may stand after it
        local declared = code:match("^%s+([%a_][%w_]*)", stop + 1)
        local at = stop + 1 + #code:match("^%s+", stop + 1) + #declared
        while true do
          local more, next_at = code:match("^(%s*,%s*[%a_][%w_]*)()", at)
          if not more then break end
          declared, at = declared .. more, next_at
        end
        out[#out + 1] = declared
        if not code:match("^%s*=", at) then out[#out + 1] = " = nil " end
        stop = at - 1
      elseif not first then out[#out + 1] = word
      end  -- local function f: the keyword is left out
    else
      if kind == "name" and OPENS[word] or word:match "^[%(%[{]$" then depth = depth + 1 end
      if kind == "name" and CLOSES[word] or word:match "^[%)%]}]$" then depth = depth - 1 end
      out[#out + 1] = word
    end
    i = stop + 1
  end
  return table.concat(out)
end

-- a function; or nil, "more" when the chunk is not finished; or nil and the message
local function compile(code)
  local f = loadstring("return " .. code, "=stdin") or loadstring("return " .. code:gsub("^%s*=", "", 1), "=stdin")
  if f then return f end
  local why
  f, why = loadstring(repl.globals(code), "=stdin")
  if not f then f, why = loadstring(code, "=stdin") end
  if f then return f end
  local short = why:find "unfinished string near" and code:sub(-1) ~= "\\"  -- a quote that is not closed on its line
  if why:match "near '?<eof>'?$" and not short then return nil, "more", why end
  return nil, why
end

-- ---- help

local function lines_of(path)
  local f = io.open(path, "r")
  if not f then return nil end
  local list = {}
  for line in f:lines() do list[#list + 1] = line end
  f:close()
  return list
end

-- the --- block that ends just above a line, or above the functions of one line each that stand there
local function block_above(lines, at)
  while at > 1 and lines[at - 1]:match "^%s*function .*%f[%w]end$" do at = at - 1 end
  local first = at - 1
  while first >= 1 and lines[first]:match "^%s*%-%-%-" do first = first - 1 end
  local out = {}
  for i = first + 1, at - 1 do out[#out + 1] = (lines[i]:gsub("^%s*%-%-%-%s?", "")) end
  return out
end

local function help_on_function(f, name)
  local d = debug.getinfo(f, "S")
  local lines = d.source:sub(1, 1) == "@" and lines_of(d.source:sub(2))
  if not lines then return ("%s: %s"):format(name, function_text(f)) end
  local doc = block_above(lines, d.linedefined)
  local head = (lines[d.linedefined] or ""):gsub("^%s+", "")
  doc[#doc + 1] = head:gsub("%s+return .-end$", "")
  doc[#doc + 1] = ("(%s:%d)"):format(d.short_src, d.linedefined)
  return table.concat(doc, "\n")
end

local function file_of(t)
  for module, value in pairs(package.loaded) do
    if value == t then return package.searchpath(module, package.path) end
  end
end

-- the lines of a comment up to the end of its first sentence
local function first_sentence(doc)
  local out = {}
  for i, line in ipairs(doc) do
    local upto = (line .. " "):match "^(.-%.)%s" or (doc[i + 1] or "") == "" and line
    local more = line:find "^%s" or line:find "^@"
    if i > 1 and more then break end
    out[i] = upto or line
    if upto then break end
  end
  return out
end

-- a table that is a module: the comment that opens its file, then its public functions with their first sentences
local function help_on_table(t, name)
  local path = file_of(t)
  local lines = path and lines_of(path)
  local out = {}
  if lines then
    for _, line in ipairs(lines) do
      if not line:match "^%-%-" then break end
      out[#out + 1] = (line:gsub("^%-+ ?", ""))
    end
    local seen = {}
    local function add(fn, doc)
      if not doc or not doc[1] or seen[fn] then return end
      if not next(seen) then out[#out + 1] = "" end
      seen[fn] = true
      local says = first_sentence(doc)
      out[#out + 1] = ("  %-44s %s"):format(fn, says[1])
      for k = 2, #says do out[#out + 1] = (" "):rep(47) .. says[k] end
    end
    for i, line in ipairs(lines) do
      local fn = line:match "^function ([%w_.:]+%b())"
      add(fn, fn and block_above(lines, i))
    end
    -- those that it has from another file of the library
    local others = {}
    for k, v in pairs(t) do
      local d = type(v) == "function" and debug.getinfo(v, "S")
      if d and d.linedefined > 0 and d.source ~= "@" .. path then others[#others + 1] = { k, d } end
    end
    table.sort(others, function(a, b) return a[1] < b[1] end)
    for _, of in ipairs(others) do
      local theirs = lines_of(of[2].source:sub(2)) or {}
      add(name:match "[^.]*$" .. "." .. of[1] .. ((theirs[of[2].linedefined] or ""):match "%b()" or "()"), block_above(theirs, of[2].linedefined))
    end
    out[#out + 1] = ("(%s)"):format(path)
    return table.concat(out, "\n")
  end
  return ("%s = %s"):format(name, repl.format(t))
end

local LEAVE = { exit = true, quit = true }

local USAGE = [[
An expression prints its values; statements run. A name:
  ? tl              the parts of tl            ? tl.grpo.trainer   what a function does
  Tab               completes names            _                   the last value
  Ctrl-C            stops what runs            Ctrl-D, exit, quit  leave]]

--- The text that `? name` prints.
function repl.help(name)
  name = name:match "^%s*(.-)%s*$"
  if name == "" then return USAGE end
  local f = loadstring("return " .. name:gsub(":", "."), "=stdin")
  local ok, v = pcall(f or function() error("not a name", 0) end)
  if not ok then return ("%s: %s"):format(name, (tostring(v):gsub("^stdin:%d+: ", ""))) end
  if v == nil then
    local known = {}
    for k in pairs(_G) do if type(k) == "string" then known[#known + 1] = k end end
    return ("%s is nil%s"):format(name, names.hint(name, known))
  end
  if type(v) == "function" then return help_on_function(v, name) end
  if type(v) == "table" then
    local mt = getmetatable(v)
    local methods = type(mt) == "table" and (rawget(mt, "__methods") or rawget(mt, "__index"))
    if not file_of(v) and type(methods) == "table" then
      local list = {}
      for k, m in pairs(methods) do if type(m) == "function" and not tostring(k):match "^__" then list[#list + 1] = ":" .. k end end
      table.sort(list)
      return ("%s = %s\nmethods: %s"):format(name, repl.format(v), table.concat(list, " "))
    end
    return help_on_table(v, name)
  end
  return ("%s = %s (%s)"):format(name, repl.format(v), type(v))
end

-- ---- completion

local KEYWORDS = { "and", "break", "do", "else", "elseif", "end", "false", "for", "function", "if", "in", "local", "nil", "not", "or",
  "repeat", "return", "then", "true", "until", "while" }

local function parts_of_tl()
  local out = {}
  for _, file in ipairs(require("tl.fs").list(F.lua_dir .. "/tl") or {}) do out[#out + 1] = file:match "^([%w_]+)%.lua$" end
  return out
end

local function add_fields(found, t, only_functions)
  for depth = 1, 4 do
    if type(t) ~= "table" then return end
    for k, v in next, t do
      if type(k) == "string" and k:match "^[%a_][%w_]*$" and not k:match "^__" and (not only_functions or type(v) == "function") then found[k] = true end
    end
    local mt = debug.getmetatable(t)
    t = mt and (rawget(mt, "__methods") or rawget(mt, "__index"))
  end
end

--- Candidates for the end of a line, and how many of its bytes they replace.
function repl.complete(line)
  local path = line:match "[%w_.:]*$"
  local base, separator, partial = path:match "^(.-)([.:])([%w_]*)$"
  local found = {}
  if not base then
    partial = path
    if partial == "" then return {}, 0 end
    for k in pairs(_G) do if type(k) == "string" then found[k] = true end end
    for _, k in ipairs(KEYWORDS) do found[k] = true end
  else
    local f = base:match "^[%a_]" and loadstring("return " .. base:gsub(":", "."), "=stdin")
    local ok, t = pcall(f or error)
    if not ok then return {}, 0 end
    if type(t) == "string" then t = string end
    add_fields(found, t, separator == ":")
    if t == package.loaded.tl then for _, k in ipairs(parts_of_tl()) do found[k] = true end end
  end
  local list = {}
  for k in pairs(found) do
    if k:sub(1, #partial) == partial then list[#list + 1] = k end
  end
  table.sort(list)
  return list, #partial
end

-- ---- the loop

local function explain(e)
  if require("tl.options").is_exit(e) then return e end
  local message = type(e) == "string" and e or repl.format(e)
  if (os.getenv "TL_TRACE" or "") ~= "" then message = debug.traceback(message, 2) end
  return { message = message }
end

local function show(n, ...)
  for i = 1, n do io.stdout:write(repl.format((select(i, ...))), "\n") end
  if n > 0 then _G._ = (...) end
end

-- values of the chunk after xpcall's true
local function finish(seconds, loud, ok, ...)
  if ok then
    local shown, why = pcall(show, select("#", ...), ...)
    if not shown then io.stderr:write("error: ", tostring(why), "\n") end
  else
    local e = ...
    io.stdout:flush()
    if loud and e.message and e.message:find "interrupted$" then io.stdout:write "\n"; io.stdout:flush() end
    if e.message and e.message ~= "" then io.stderr:write("error: ", e.message, "\n") end
    ok = e.code == 0
  end
  if loud and seconds() > 0.05 then io.stdout:write(("[%s]\n"):format(log.duration(seconds()))) end
  io.stdout:flush()
  return ok
end

--- Runs one finished chunk and prints its values; false when it failed.
function repl.execute(f, loud)
  jit.off(f, true)
  local began, ended = C.tl_seconds(), nil
  host.interrupt_clear()
  local function seconds()
    ended = ended or C.tl_seconds()
    return ended - began
  end
  local function run(...)
    ended = C.tl_seconds()
    host.interrupt_clear()
    return finish(seconds, loud, ...)
  end
  return run(xpcall(f, explain))
end

local function banner()
  io.stdout:write(("tlrun %s: %s %s, %d threads\n"):format(ffi.string(C.tl_version()), ffi.string(C.tl_backend_name()),
    ffi.string(C.tl_backend_isa()), C.tl_threads()), "? tl shows what there is, Tab completes, Ctrl-D leaves\n")
  io.stdout:flush()
end

-- lines from a terminal, or quietly from a pipe
local function reader(terminal)
  if not terminal then return function() return io.read "*l" end end
  if F.C.tl_mkdirs(F.home()) == 0 then host.history_open(F.home() .. "/history") end
  return function(more)
    io.stdout:flush()
    local list
    return host.readline(more and ">> " or "> ", function(line)
      list = { repl.complete(line) }
      return list[1], list[2]
    end)
  end
end

--- The loop. Returns the exit code: with a terminal 0; without one 1 when a chunk failed.
function repl.run()
  _G.tl = require "tl"
  local terminal = host.isatty(0)
  local read, pending, failed = reader(terminal), nil, false
  host.interactive(terminal)
  if terminal then banner() end
  while true do
    local line = read(pending)
    if line == nil then break end
    if line == false then pending = nil  -- Ctrl-C
    elseif not pending and LEAVE[line:match "^%s*([%a_]*)[%s();]*$"] and rawget(_G, line:match "[%a_]+") == nil then break
    elseif not pending and line:match "^%s*help[%s();]*$" and rawget(_G, "help") == nil then io.stdout:write(USAGE, "\n")
    elseif not pending and line:match "^%s*help%s+[%a_][%w_.:]*%s*$" then io.stdout:write(repl.help(line:match "^%s*help%s+(.*)$"), "\n")
    elseif not pending and line:match "^%s*%?" then
      io.stdout:write(repl.help(line:match "^%s*%?(.*)$"), "\n")
    elseif pending or line:find "%S" then
      local code = pending and pending .. "\n" .. line or line
      local f, why = compile(code)
      if f then
        pending = nil
        failed = not repl.execute(f, terminal) or failed
      elseif why == "more" then pending = code
      else
        pending, failed = nil, true
        io.stderr:write("error: ", why, "\n")
      end
    end
  end
  if pending then
    io.stderr:write("error: ", select(3, compile(pending)) or "the input ends inside a chunk", "\n")
    failed = true
  end
  if terminal then io.stdout:write "\n" end
  return not terminal and failed and 1 or 0
end

return repl
