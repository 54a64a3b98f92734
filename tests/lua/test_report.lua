-- Run directories: what is written, that it reads back, and that a full disk leaves whole lines and one clear error. The bytes of a
-- TensorBoard event are compared with a golden record (TensorBoard's own reader accepts it; see the test's comment).
local tl = require "tl"
local json, fs = tl.json, require "tl.fs"
local report, tensorboard = tl.report, require "tl.tensorboard"

local failed = false
local function test(name, fn)
  local ok, why = pcall(fn)
  if ok and why == "skip" then return end
  print(ok and "ok " .. name or "not ok " .. name .. ": " .. tostring(why))
  failed = failed or not ok
end
local function equal(found, expected, what)
  if found ~= expected then error(("%s: %s, expected %s"):format(what, tostring(found), tostring(expected)), 2) end
end
local function near(found, expected, what)
  if math.abs(found - expected) > 5e-4 then error(("%s: %g, expected %g"):format(what, found, expected), 2) end
end
local function hex(s) return (s:gsub(".", function(c) return ("%02x"):format(c:byte()) end)) end

local dir = os.tmpname()
os.remove(dir)
fs.mkdirs(dir)

local function lines(path)
  local list = {}
  for line in io.lines(path) do list[#list + 1] = json.decode(line) end
  return list
end

-- with none of n the upper bound is z^2 / (n + z^2) = 3.8415 / 13.8415
test("wilson", function()
  local lo, hi = report.wilson(82, 200)
  near(lo, 0.3442, "lower")
  near(hi, 0.4792, "upper")
  lo, hi = report.wilson(0, 10)
  near(lo, 0, "lower of none")
  near(hi, 0.2775, "upper of none")
  lo, hi = report.wilson(0, 0)
  equal(lo == 0 and hi == 1, true, "no trials say nothing")
  equal(report.percent(82, 200), "41.0% [34.4, 47.9]", "text")
end)

-- the check value of CRC-32C (RFC 3720, B.4: 32 bytes of zeros give 8a9136aa)
test("crc32c", function()
  equal(tensorboard.crc32c("123456789"), 0xe3069283, "check value")
  equal(tensorboard.crc32c(("\0"):rep(32)), 0x8a9136aa, "zeros")
end)

-- Golden bytes: written by this encoder, read back by TensorBoard's EventAccumulator as step 300, train/loss 0.5, train/reward -2.
test("a TensorBoard event", function()
  equal(hex(tensorboard.header(1)), "1800000000000000a37f4b2209000000000000f03f1a0d627261696e2e4576656e743a3286bf577a", "header")
  equal(hex(tensorboard.scalars(1, 300, { ["train/reward"] = -2, ["train/loss"] = 0.5, words = "no number" })), "36000000000000004f578cef09000000000000f03f10ac022a280a110a0a747261696e2f6c6f7373150000003f0a130a0c74" ..
    "7261696e2f72657761726415000000c02fece16e", "scalars")
end)

local function rollout()
  local group = { problem = { id = "p1", question = "2+3?", answer = "5" }, prompt = { 1, 2 }, completions = {} }
  for i = 1, 6 do
    group.completions[i] = { text = "#### " .. i, ids = { 1, 2, 3 }, reward = i == 5 and 1 or 0, advantage = i - 3, finish = "stop",
      verdict = { outcome = "ok", message = "" } }
  end
  group.completions[6].reward = 0 / 0
  return { groups = { group } }
end

test("what a step's line says", function()
  local path = dir .. "/shows.lua"
  fs.write(path, ('local run = require("tl").report.run { out = %q, total = 2 } run:step { reward = 0, samples_trained = 0 } run:step { reward = 0.5, samples_trained = 4 } '
    .. 'require("tl").report.run { out = %q }:step { reward = 0 / 0, samples_trained = 0 }'):format(dir .. "/shown", dir .. "/none"))
  local said = {}
  for line in io.popen(("%s %s 2>&1"):format(require("tl").exe, path)):lines() do said[#said + 1] = line end
  equal(said[1]:find("no gradient: rewards are alike in every group", 1, true) ~= nil, true, said[1])
  equal(said[2]:find("no gradient", 1, true), nil, said[2])
  equal(said[3]:find("no gradient: there is no reward", 1, true) ~= nil, true, said[3])
end)

test("a run's folder", function()
  local run = report.run { out = dir .. "/a", name = "test", seed = 7, quiet = true, completions = 3, total = 2,
    config = { lr = 0.5, tie = function() end, list = { 1, 2 }, nested = { x = "y" } } }
  for i = 1, 2 do run:step({ step = i, reward = i / 4, reward_std = 0 / 0, ["completions/mean_length"] = 12 }, rollout()) end
  run:scalars("eval", { accuracy = 0.25 })
  run:finish { after = { accuracy = 0.25 } }
  local config, versions = json.load(dir .. "/a/config.json"), json.load(dir .. "/a/versions.json")
  equal(config.lr, 0.5, "number")
  equal(config.list[2], 2, "list")
  equal(config.tie:find("test_report.lua:%d+") ~= nil, true, "function as " .. config.tie)
  equal(versions.seed, 7, "seed")
  equal(type(versions.tlrun) == "string" and versions.cpus > 0, true, "versions")
  local metrics = lines(dir .. "/a/metrics.jsonl")
  equal(#metrics, 3, "lines")
  equal(metrics[2].reward, 0.5, "reward")
  equal(metrics[2].reward_std, json.null, "NaN has no JSON form")
  equal(metrics[3]["eval/accuracy"], 0.25, "evaluation")
  local samples = lines(dir .. "/a/completions.jsonl")
  equal(#samples, 6, "three of each step")
  equal(samples[1].prompt, "2+3?", "prompt")
  equal(samples[1].completion:sub(1, 5), "#### ", "text")
  equal(json.load(dir .. "/a/summary.json").after.accuracy, 0.25, "summary")
  local events
  for _, name in ipairs(fs.list(dir .. "/a")) do events = events or name:match("^events%.out%.tfevents%..*") end
  equal(fs.read(dir .. "/a/" .. events):sub(1, 8), "\24\0\0\0\0\0\0\0", "events")
end)

test("a run's seed is its config's unless it is given", function()
  report.run({ out = dir .. "/seed5", quiet = true, config = { seed = 5 } }):free()
  equal(json.load(dir .. "/seed5/versions.json").seed, 5, "the config's")
  report.run({ out = dir .. "/seed6", quiet = true, config = { seed = 5 }, seed = 6 }):free()
  equal(json.load(dir .. "/seed6/versions.json").seed, 6, "given")
end)

test("what tells runs apart", function()
  local function labels(...)
    local list = {}
    for i, config in ipairs { ... } do list[i] = { name = "run" .. i, config = config } end
    local out = {}
    for i, g in ipairs(require("tl.report.runs").grouped(list)) do out[i] = g.label end
    return table.concat(out, " | ")
  end
  equal(labels({ name = "a", lr = 1 }, { name = "a", lr = 2 }), "lr 1 | lr 2", "a setting")
  equal(labels({ name = "a", lr = 1, batch = 3 }, { name = "b", lr = 2, steps = 4 }), "a | b", "their recipes' names")
  equal(labels({ name = "a", lr = 1, batch = 3 }, { name = "a", lr = 2, steps = 4 }), "batch 3, lr 1 | lr 2, steps 4", "no setting that a run does not have")
  equal(labels({ name = "a", lr = 1, seed = 1 }, { name = "a", lr = 1, seed = 2 }), "a (2 seeds)", "seeds")
end)

test("the same seed keeps the same completions", function()
  local texts = {}
  for i = 1, 2 do
    local run = report.run { out = dir .. "/same" .. i, seed = 3, quiet = true, completions = 2 }
    run:step({ reward = 1 }, rollout())
    run:free()
    texts[i] = fs.read(dir .. "/same" .. i .. "/completions.jsonl")
  end
  equal(texts[1], texts[2], "completions")
end)

test("two runs of one second have two folders", function()
  local a, b = report.run { dir = dir, name = "twin", quiet = true }, report.run { dir = dir, name = "twin", quiet = true }
  equal(a.path ~= b.path, true, "folders")
  a:free()
  b:free()
end)

-- a worktree's .git is a file; its branches are in the folder of the checkout that it belongs to
test("the commit of a checkout, of a worktree, of none", function()
  local git, a, b, c = dir .. "/main/.git", ("a"):rep(40), ("b"):rep(40), ("c"):rep(40)
  fs.mkdirs(git .. "/refs/heads")
  fs.mkdirs(git .. "/worktrees/w")
  fs.mkdirs(dir .. "/w")
  fs.write(git .. "/HEAD", "ref: refs/heads/one\n")
  fs.write(git .. "/refs/heads/one", a .. "\n")
  fs.write(git .. "/packed-refs", "# pack-refs with: peeled\n" .. b .. " refs/heads/two.x\n")
  fs.write(git .. "/worktrees/w/HEAD", "ref: refs/heads/two.x\n")
  fs.write(git .. "/worktrees/w/commondir", "../..\n")
  fs.write(dir .. "/w/.git", "gitdir: " .. git .. "/worktrees/w\n")
  equal(report.commit(dir .. "/main"), a, "a branch of its own file")
  equal(report.commit(dir .. "/w"), b, "a worktree's, among the packed ones")
  fs.write(dir .. "/w/.git", "gitdir: ../main/.git/worktrees/w\n")
  equal(report.commit(dir .. "/w"), b, "a worktree by a relative path")
  fs.write(git .. "/worktrees/w/HEAD", c .. "\n")
  equal(report.commit(dir .. "/w"), c, "no branch")
  fs.write(dir .. "/w/.git", "something else\n")
  equal(report.commit(dir .. "/w"), nil, "a .git that says nothing")
  equal(report.commit(dir), nil, "no checkout")
end)

-- A limit on the size of files is how a disk is made full without one: the write fails with EFBIG instead of ENOSPC, the same way.
test("a disk that is full", function()
  local path = dir .. "/full"
  local script = dir .. "/full.lua"
  fs.write(script, ([[
    local run = require("tl").report.run { out = %q, quiet = true }
    for i = 1, 10000 do run:step { step = i, reward = 0.5, text = ("x"):rep(100) } end
  ]]):format(path))
  local F = require "tl.ffi"
  local p = io.popen(("trap '' XFSZ; ulimit -f 16; '%s' '%s' 2>&1; echo \"exit $?\""):format(F.exe, script))
  local out = p:read("*a")
  p:close()
  equal(out:find("exit 1\n$") ~= nil, true, "exit code in " .. out)
  equal(out:find("cannot write [^\n]*: File too large\n") ~= nil, true, "message in " .. out)
  equal(select(2, out:gsub("\n", "")), 2, "one line beside the exit code, in " .. out)
  local metrics = lines(path .. "/metrics.jsonl") -- decodes every line: none is cut
  equal(#metrics > 10 and #metrics < 10000, true, "whole lines: " .. #metrics)
  equal(metrics[#metrics].step, #metrics, "last step")
end)

os.execute("rm -rf '" .. dir .. "'")
os.exit(failed and 1 or 0)
