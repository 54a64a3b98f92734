-- test_jinja.lua: templates and chats render as transformers renders them (tests/parity/make_chat_fixtures.py made the
-- expectations, make_jinja_fuzz.py those of random templates; TL_JINJA_CASES names a file with more of them). Would catch: a wrong
-- whitespace rule, precedence, scope, filter, method or format, or the order of keys in tojson.
package.path = arg[0]:match "^(.*)/" .. "/?.lua;" .. package.path
local check = require "check"
local chat = require "tl.chat"
local F = require "tl.ffi"
local jinja = require "tl.jinja"
local json = require "tl.json"

local V = require "tl.jinja.values"

local folder = arg[0]:match "^(.*)/" .. "/../parity/fixtures/"
local fixtures = json.load(folder .. "chat.json", V.json_number)
local random = json.load(os.getenv "TL_JINJA_CASES" or folder .. "jinja_fuzz.json", V.json_number)

-- one line for each fixture that fails, one for all that pass
local function all(name, list, render)
  check.test(name, function()
    local wrong = {}
    for _, c in ipairs(list) do
      local ok, found = pcall(render, c)
      if c.error and ok then
        wrong[#wrong + 1] = ("%s: no error, rendered %q"):format(c.name, found)
      elseif not c.error and found ~= c.expected then
        wrong[#wrong + 1] = ("%s: %q, expected %q"):format(c.name, tostring(found), c.expected)
      elseif c.error and not tostring(found):find "line %d+: " and not tostring(found):find "no messages" then
        wrong[#wrong + 1] = ("%s: the error names no line: %s"):format(c.name, tostring(found))
      end
    end
    if #wrong > 0 then error(("%d of %d wrong; first: %s"):format(#wrong, #list, wrong[1]), 0) end
  end)
end

all("expressions, layout and errors", fixtures.cases, function(c) return jinja.render(c.template, fixtures.context) end)

all("random templates", random.cases, function(c) return jinja.render(c.template, random.context) end)

local function options_of(c)
  local o = { bos_token = "<s>", eos_token = "</s>" }
  for k, v in pairs(c.options) do o[k] = v end
  return o
end
all("chats", fixtures.chats, function(c) return chat.render(fixtures.templates[c.template], c.messages, options_of(c)) end)

local path = F.home() .. "/models/smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf"
local file = io.open(path)
if file then
  file:close()
  local tokenizer = require("tl.tokenizer").load(path)
  all("SmolLM2's own template", fixtures.smollm2, function(c) return tokenizer:chat(c.messages, c.options) end)
else
  check.skip("SmolLM2's own template", "smollm2-135m-instruct is not in the cache (tlrun fetch smollm2-135m-instruct)")
end

check.test("plain Lua tables are read as lists and dicts", function()
  check.equal(jinja.render("{% for m in messages %}{{ m.role }}:{{ m.content }};{% endfor %}{{ t|tojson }}{{ e|length }}",
    { messages = { { role = "user", content = "a" }, { role = "x", content = "b" } }, t = { b = 1, a = { 1, 2 } }, e = {} }),
    'user:a;x:b;{"a": [1, 2], "b": 1}0')
  check.equal(jinja.render("{{ f(2) }} {{ none_of is none }} {{ nope is defined }}", { f = function(x) return x * 2 end, none_of = json.null }),
    "4 True False")
end)

check.test("errors name the line and raise_exception's words", function()
  check.raises("line 3: 'x' is undefined", jinja.render, "a\nb\n{{ x.y }}", {})
  check.raises("line 2: only this", jinja.render, "a\n{{ raise_exception('only this') }}", {})
  check.raises("line 2: unknown tag 'include'", jinja.render, "\n{% include 'x' %}", {})
  check.raises("no chat template", chat.render, { path = "model", chat_template = function() end, chat_template_names = function() return {} end }, { { role = "user", content = "x" } })
  check.raises("list of", chat.render, "{{ 1 }}", { role = "user", content = "x" })
end)

check.test("a template cannot run away: each ends in one error with its line", function()
  local function ends(pattern, template) check.raises("^chat template, line %d+: .*" .. pattern, jinja.render, template, {}) end
  ends("range is limited", "{% for i in range(1000000000) %}{% endfor %}")
  ends("too long", "{{ 'x' * 10000000000 }}")
  ends("too long", "{{ [1] * 10000000000 }}")
  ends("too long", "{% set ns = namespace(s='xxxxxxxx') %}{% for i in range(99) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}")
  ends("too long", "{% set ns = namespace(s=[1]) %}{% for i in range(99) %}{% set ns.s = ns.s + ns.s %}{% endfor %}")
  ends("does not end", "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}")
  ends("longer than", "{% set x = 'x' * 1000000 %}{% for i in range(1000) %}{{ x }}{% endfor %}")
  ends("deep", "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}")
  ends("deep", "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}")
  ends("deep", "{% set ns = namespace(s=[]) %}{% for i in range(999) %}{% set ns.s = [ns.s] %}{% endfor %}{{ ns.s|tojson }}")
  ends("deep", "{% set ns = namespace(s=[]) %}{% for i in range(90000) %}{% set ns.s = [ns.s] %}{% endfor %}{{ ns.s }}")
  ends("deep", "{{ " .. ("("):rep(100000) .. "1" .. (")"):rep(100000) .. " }}")
  ends("deep", "{{ " .. ("not "):rep(100000) .. "1 }}")
  ends("deep", "{{ " .. ("-"):rep(100000) .. "1 }}")
  ends("deep", ("{% if 1 %}"):rep(100000))
  ends("width is at most", "{{ '%99999999d' % 1 }}")
  ends("width is at most", "{{ '{:>99999999}'.format(1) }}")
  ends("too long", "{{ 'a'|center(99999999999) }}")
  ends("too long", "{{ 'ab'.replace('', 'x' * 60000000) }}")
  ends("too long", "{{ (['x' * 1000000] * 1000)|join }}")
  ends("too long", "{{ '\\t'.expandtabs(99999999999) }}")
end)

check.test("numbers as JSON wrote them", function()
  local v = json.decode('{"a": 2.0, "b": 2, "c": 12345678901234567890, "d": [1e2, "1.0, \\" 7"], "e": -0.5}', V.json_number)
  check.equal(jinja.render("{{ v|tojson }}", { v = v }), '{"a": 2.0, "b": 2, "c": 12345678901234567890, "d": [100.0, "1.0, \\" 7"], "e": -0.5}')
end)

check.done()
