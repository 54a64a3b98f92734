--- python.lua: a Python interpreter as a reply (tl.turns), in the sandbox:
---
---   reply = "tl.python", stop = "```output"
---
--- The model writes a block ```python ... ``` and then ```output, as the tool-integrated reasoning of Qwen2.5-Math does; what the program printed
--- follows, and ``` ends it. A program that fails has the last line of its error there, so that the model can mend it. Every block is a program of
--- its own. A completion that does not ask for an output is done.
local sandbox = require "tl.sandbox"

local python = { about = { name = "python", timeout_ms = 60000 } }

--- What a program may take, as in tl.sandbox.run; and how many bytes of its output the model is shown.
python.limits = { wall_ms = 5000, cpu_s = 5, memory = 256 * 2 ^ 20, processes = 8, max_output = 2 ^ 16, shown = 2000 }

local function last_block(text)
  local program
  for block in text:gmatch "```[Pp]ython[^\n]*\n(.-)```" do program = block end
  return program
end

local function run(program)
  local l, folder = python.limits, sandbox.folder { ["program.py"] = program }
  local ok, r = pcall(sandbox.run, { argv = { "/usr/bin/python3", "-I", "/job/program.py" }, folder = folder, wall_ms = l.wall_ms, cpu_s = l.cpu_s,
    memory = l.memory, processes = l.processes, max_output = l.max_output })
  sandbox.remove(folder)
  if not ok then error(r, 0) end
  local why = r.status ~= "ok" and (r.status == "crash" and r.err:match "([^\n]+)%s*$" or ("%s: %s"):format(r.status, r.why)) or nil
  return r.out, why
end

---@return string|nil
function python.reply(_, completion)
  if not completion.text:find "```output%s*$" then return nil end
  local program = last_block(completion.text)
  local out, why = "", "there is no block of Python before this"
  if program then out, why = run(program) end
  if #out > python.limits.shown then out = out:sub(1, python.limits.shown) .. "..." end
  if out ~= "" and out:sub(-1) ~= "\n" then out = out .. "\n" end
  return "\n" .. out .. (why and why .. "\n" or "") .. "```\n"
end

return python
