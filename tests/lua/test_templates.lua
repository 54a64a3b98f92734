-- test_templates.lua: the model families' own chat templates render as transformers renders them (make_template_fixtures.py made
-- the checksums). The templates are taken from the package that carries them, TRL's wheel; TL_TRL_WHEEL names the file where there
-- is no package index. Would catch: any construct of a real template that is read differently.
package.path = arg[0]:match "^(.*)/" .. "/?.lua;" .. package.path
local check = require "check"
local chat = require "tl.chat"
local F = require "tl.ffi"
local ffi = require "ffi"
local fetch = require "tl.fetch"
local fs = require "tl.fs"
local jinja = require "tl.jinja"
local json = require "tl.json"

local fixtures = json.load(arg[0]:match "^(.*)/" .. "/../parity/fixtures/templates.json", jinja.json_number)
local WHEEL = { package = "trl", wheel = "trl-1.16.0-py3-none-any.whl",
  sha256 = "c4726e139dd40e1a41661511c639c8a68416782b2e3e8c0befebd77bb7ba0396" }

local function sha256(s)
  local out = ffi.new "char[65]"
  F.check(F.C.tl_sha256_bytes(s, #s, out))
  return ffi.string(out)
end

-- templates that ask for today's date get the fixture's
local clock = os.date
os.date = function(format, time) return clock(format, time or os.time { year = 2025, month = 1, day = 2, hour = 12 }) end

local given = os.getenv "TL_TRL_WHEEL"
local found, wheel = true, given
if not given or given == "" then found, wheel = pcall(fetch.wheel, WHEEL) end
if not found then
  check.skip("the families' chat templates", tostring(wheel))
  check.done()
end

local function source_of(name, expected)
  local path = os.tmpname()
  F.check(F.C.tl_unzip_member(wheel, "trl/chat_templates/" .. name, path))
  local source = fs.read(path)
  os.remove(path)
  check.equal(sha256(source), expected, name)
  return source
end

-- what is rendered of one chat with one set of options, as the fixture has it
local function rendered(source, messages, options)
  local o = { bos_token = "<s>", eos_token = "</s>" }
  for k, v in pairs(options) do o[k] = v end
  local ok, text = pcall(chat.render, source, messages, o)
  if ok then return sha256(text):sub(1, 16), text end
  return "error", text
end

local names = {}
for name in pairs(fixtures.files) do names[#names + 1] = name end
table.sort(names)
for _, name in ipairs(names) do
  check.test(name, function()
    local file, i = fixtures.files[name], 0
    local source = source_of(name, file.sha256)
    for c, messages in ipairs(fixtures.chats) do
      for o, options in ipairs(fixtures.options) do
        i = i + 1
        local sum, text = rendered(source, messages, options)
        if sum ~= file.rendered[i] then error(("chat %d, options %d: %s instead of %s: %q"):format(c, o, sum, file.rendered[i], text), 0) end
      end
    end
  end)
end

check.done()
