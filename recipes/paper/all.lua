-- all.lua: the paper in miniature: every study, part after part, and one report of them.
--
--   tlrun recipes/paper/all.lua                 the whole of it: three hours, in parts of two at most; the same command goes on
--   tlrun recipes/paper/all.lua --quick         half an hour;  --ci: seconds, figures without meaning;  --dry_run: the plan
--
-- Every part is a recipe of this folder, run as a process of its own; what it has done is in the store, and is not done again.
local tl = require "tl"
local p = tl.recipe {
  name = "paper", description = "Every study of the paper, and one report.", args = "[OPTIONS OF THE PARTS: --steps 24 ...]",
  quick = { false, "fewer and shorter runs" }, ci = { false, "the smallest size that runs everything" },
  parts = { { "accuracy_grpo", "accuracy_sft", "grpo_against_sft", "rank", "tying", "u_and_tying", "bytes", "length", "rollouts", "model_size", "information" }, "which, in this order" },
  model = { "tiny", "model of the studies" }, models = { {}, "models of the study of model size, the smallest first; default: the embedded sizes, or --model where that is another" },
  store = { "runs/paper.db", "SQLite file of the runs", value = "FILE" }, out = { "runs/paper", "folder for the figures and the report", value = "DIR" },
  workers = { 2, "processes that run at once", integer = true, min = 0 }, hours = { 2, "a part begins no run after so long; 0: no limit", min = 0 },
  dry_run = { false, "print every part's plan, and run nothing" },
}

if #p.models == 0 then p.models = p.model == "tiny" and { "tiny-xs", "tiny-s", "tiny", "tiny-l" } or { p.model } end
local done, failed, seconds, work = {}, {}, {}, 0

-- seconds of "2 h 5 min", "1 min 15 s", "4.0 s" or "7 ms", as a plan says them
local function seconds_of(text)
  local sum = 0
  for n, unit in text:gmatch "([%d.]+) (%a+)" do sum = sum + tonumber(n) * (({ h = 3600, min = 60, s = 1, ms = 1e-3 })[unit] or 0) end
  return sum
end

-- prints a part's plan, adds what it is going to take to `work`; the exit code
local function plan(part, argv)
  print("== " .. part)
  local r = tl.process.run { argv = argv, wall_ms = 120000, max_output = 16 * 2 ^ 20 }
  io.stdout:write(r.out)
  for text in r.out:gmatch "to do; ([^\n]-) of work" do work = work + seconds_of(text) end
  if r.exit ~= 0 then io.stderr:write(r.err) end
  return r.exit, r.signal
end

for _, part in ipairs(p.parts) do
  local argv = { tl.exe, ("%s/recipes/paper/%s.lua"):format(tl.root, part), "--store", p.store, "--out", p.out, "--model", p.model, "--workers", tostring(p.workers), "--hours", tostring(p.hours) }
  if p.quick then argv[#argv + 1] = "--quick" end
  if p.ci then argv[#argv + 1] = "--ci" end
  if p.dry_run then argv[#argv + 1] = "--dry_run" end
  if part == "model_size" then argv[#argv + 1], argv[#argv + 2] = "--models", table.concat(p.models, ",") end
  for _, word in ipairs(p.args) do argv[#argv + 1] = word end
  local began, code, signal = os.time()
  if p.dry_run then
    code, signal = plan(part, argv)
  else
    tl.log.info("== %s", part)
    code, signal = tl.process.attend(argv)
  end
  seconds[part] = os.time() - began
  if code ~= 0 then tl.log.warn("%s ended with %s", part, code and "code " .. code or "signal " .. signal); failed[#failed + 1] = part else done[#done + 1] = part end
  if not p.dry_run then tl.log.info("== %s took %s", part, tl.log.duration(seconds[part])) end
end
if p.dry_run then
  print(("in all: %s of work, %s with %d workers; less where parts share runs, more for the further seeds"):format(tl.log.duration(work),
    tl.log.duration(work / math.max(1, p.workers)), math.max(1, p.workers)))
end
local path = not p.dry_run and tl.paper.report(p.out, p.parts) or nil
if path then tl.log.info("the report is %s", path) end
if #failed > 0 then error(("parts that failed: %s%s"):format(table.concat(failed, ", "), path and "; the report is of the others" or ""), 0) end
return path and { report = path, parts = done, seconds = seconds }
