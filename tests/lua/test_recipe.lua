-- Recipe parameters: types, precedence, refusals with the nearest right name, exit codes, --help. Catches: a misspelt option
-- taken silently, a number read from a word, a config file that beats the command line, an error without its line.
package.path = arg[0]:match "^(.*)/" .. "/?.lua;" .. package.path
local check = require "check"
local test, equal, raises = check.test, check.equal, check.raises
local recipe, options, names = require "tl.recipe", require "tl.options", require "tl.names"
recipe.quiet = true

local function spec()
  return {
    name = "sample", description = "What it does.",
    model = { "tiny", "model directory" },
    lr = { 1e-2, "learning rate", min = 0 },
    batch = { 64, "problems a step", integer = true, min = 1 },
    loss_type = { "grpo", "loss", choices = { "grpo", "dr_grpo", "dapo" } },
    merged = { false, "sample merged" },
    shuffle = { true, "shuffle" },
    tasks = { { "gsm8k" }, "sets" },
    sizes = { { 1, 2 }, "numbers" },
    adapter = { nil, "adapter folder", type = "string" },
  }
end
local function read(...) return recipe.read(spec(), { ... }) end
local function exit_code(pattern, ...)
  local e = raises(pattern, read, ...)
  equal(options.is_exit(e), true, "an exit")
  return e.code
end

test("defaults and the standard parameters", function()
  local p = read()
  equal({ p.model, p.lr, p.batch, p.loss_type, p.merged, p.shuffle, p.tasks, p.sizes }, { "tiny", 0.01, 64, "grpo", false, true, { "gsm8k" }, { 1, 2 } })
  equal({ p.adapter == nil, p.seed, p.json, p.device, p.memory, p.name, p.out == nil }, { true, 1, false, "cpu", 0, "sample", true })
end)

test("values of every type", function()
  local p = read("--lr", "1e-4", "--batch=8", "--loss-type", "dapo", "--merged", "--no-shuffle", "--tasks", "mawps,svamp", "--sizes=3,4.5",
    "--adapter", "x/y", "--memory", "1.5GiB", "--seed", "7")
  equal({ p.lr, p.batch, p.loss_type, p.merged, p.shuffle, p.tasks, p.sizes, p.adapter, p.memory, p.seed },
    { 1e-4, 8, "dapo", true, false, { "mawps", "svamp" }, { 3, 4.5 }, "x/y", 1610612736, 7 })
  equal(read("--merged", "true").merged, true)
  equal(read("--shuffle=false").shuffle, false)
  equal(read("--lr", "0").lr, 0)
  equal(read("--loss_type", "dapo")["loss-type"], "dapo", "names with - and _ are equal")
end)

test("a table default is not shared between runs", function()
  local list = { "a" }
  local s = { tasks = { list, "sets" } }
  table.insert(recipe.read(s, {}).tasks, "b")
  equal(recipe.read(s, {}).tasks, { "a" })
end)

test("ill-typed and unknown options end with exit code 2", function()
  equal(exit_code("%-%-lr wants a number from 0; got 'fast'", "--lr", "fast"), 2)
  equal(exit_code("wants a number", "--lr", "-1"), 2)
  equal(exit_code("wants a number", "--lr", "0x10"), 2)
  equal(exit_code("wants a number", "--lr", "1e999"), 2)
  equal(exit_code("wants a whole number from 1; got '1.5'", "--batch", "1.5"), 2)
  equal(exit_code("one of grpo, dr_grpo, dapo; got 'dapp'; did you mean dapo", "--loss-type", "dapp"), 2)
  equal(exit_code("unknown option %-%-bacth; did you mean %-%-batch", "--bacth", "3"), 2)
  equal(exit_code("did you mean %-%-loss%-type", "--loss_typ", "grpo"), 2)
  equal(exit_code("unknown option %-%-xyzzy %(", "--xyzzy"), 2)
  equal(exit_code("%-%-lr wants a value", "--lr"), 2)
  equal(exit_code("%-%-lr wants a value", "--lr", "--batch", "3"), 2)
  equal(exit_code("unknown option %-%-no%-lr", "--no-lr"), 2)
  equal(exit_code("no argument 'word'", "word"), 2)
end)

local function with_config(text, ...)
  local path = check.file(text, ".yaml")
  local ok, p = pcall(read, "--config", path, ...)
  os.remove(path)
  if not ok then error(p, 0) end
  return p
end

test("the command line beats the config file, which beats the default", function()
  local p = with_config("lr: 3e-4\nbatch: 16\nloss-type: dapo\ntasks: [a, b]\nmerged: true\nadapter: ~\n", "--batch", "4")
  equal({ p.lr, p.batch, p.loss_type, p.tasks, p.merged, p.adapter == nil }, { 3e-4, 4, "dapo", { "a", "b" }, true, true })
  equal(recipe.given(p).batch, 4)
end)

test("a bad config file ends with exit code 1 and its line", function()
  local e = raises("%.yaml:2: batch wants a whole number from 1; got 'big'", with_config, "lr: 1\nbatch: big\n")
  equal(e.code, 1)
  raises("%.yaml:1: lr wants a number from 0; got '1e%-4'", with_config, "lr: '1e-4'\n")
  raises("%.yaml:1: unknown parameter 'lrr'; did you mean lr", with_config, "lrr: 1\n")
  raises("%.yaml:3:1: ", with_config, "lr: 1\nb: [1\n")
  raises("NAME: VALUE", with_config, "- 1\n")
end)

test("a misspelt parameter in the script raises", function()
  local p = read()
  raises("no parameter 'lrr'; did you mean lr", function() return p.lrr end)
end)

test("mistakes in a recipe's table", function()
  raises("its default is 1.5, not a whole number", recipe.read, { a = { 1.5, "x", integer = true } }, {})
  raises("a default cannot be a function", recipe.read, { a = { print, "x" } }, {})
  raises("needs a name", recipe.read, { { 1, "x" } }, {})
end)

test("nearest names", function()
  equal(names.nearest("leraning", { "batch", "learning" }), "learning")
  equal(names.nearest("qqq", { "batch", "learning" }), nil)
  equal(names.distance("ab", "ba"), 1)
end)

test("from the shell: --help in the order of the source, exit codes, where an error is", function()
  local script = check.file([[
local tl = require "tl"
local p = tl.recipe {
  description = "A recipe.",
  zeta = { 1, "first" },
  alpha = { "x", "second" },
}
print(p.zeta, p.seed)
if p.zeta == 2 then tl.json.decode "{" end
if p.zeta == 3 then local t = nil; t.x = 1 end
if p.zeta == 4 then error { 1 } end
]], ".lua")
  local function run(...) return check.run(check.tlrun .. " " .. script .. " " .. table.concat({ ... }, " ")) end
  local code, out, err = run "--help"
  equal(code, 0)
  equal(out:find "%-%-zeta" < out:find "%-%-alpha" and out:find "%-%-alpha" < out:find "%-%-seed", true, "the order of the source")
  equal(err, "")
  code, out, err = run()
  equal({ code, out }, { 0, "1\t1\n" })
  equal(err:find "zeta=1 alpha=x seed=1" ~= nil and err:find "tlrun %d" ~= nil, true, "what it runs with, on stderr: " .. err)
  code, out, err = run "--zetta 1"
  equal({ code, out, err }, { 2, "", "tlrun: unknown option --zetta; did you mean --zeta? (--help lists the options)\n" })
  code, out, err = run "--zeta 2"
  equal(code, 1)
  equal(err:match "tlrun: ([^\n]*)\n$", script .. ":8: not JSON at line 1, column 2")
  code, out, err = run "--zeta 3"
  equal(err:match "tlrun: ([^\n]*)\n$", script .. ":9: attempt to index local 't' (a nil value)")
  equal(run "--zeta 4", 1)
  os.remove(script)
end)

test("a syntax error names file and line", function()
  local script = check.file("local x = 1\nx = = 2\n", ".lua")
  local code, _, err = check.run(check.tlrun .. " " .. script)
  equal({ code, err }, { 1, ("tlrun: %s:2: unexpected symbol near '='\n"):format(script) })
  os.remove(script)
end)

check.done()
