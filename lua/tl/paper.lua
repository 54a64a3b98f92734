--- paper.lua: what the recipes of recipes/paper share: one training run described by plain settings, the sizes at which the studies
--- are done, and what a study publishes.
local experiment = require "tl.experiment"
local train = require "tl.paper.train"
local fs = require "tl.fs"
local json = require "tl.json"

local paper = { problems = train.problems }

--- The sizes of a study: what a run is without an option, with --quick and with --ci. Given options go before them.
paper.sizes = {
  full  = { steps = 40, batch = 16, group = 16, new_tokens = 64, valid = 200, test = 400, seeds = 3, sweep_seeds = 1 },
  quick = { steps = 24, batch = 8, group = 16, new_tokens = 48, valid = 100, test = 200, seeds = 3, sweep_seeds = 1 },
  ci    = { steps = 1, batch = 2, group = 4, new_tokens = 16, valid = 4, test = 8, seeds = 1, sweep_seeds = 1 },
}

--- Learning rates that are swept at every point of a study: by method and size.
paper.rates = {
  tinylora = { full = { 3e-3, 1e-2, 3e-2, 1e-1 }, quick = { 3e-3, 1e-2, 3e-2 }, ci = { 3e-2 } },
  loraxs   = { full = { 1e-3, 3e-3, 1e-2, 3e-2 }, quick = { 1e-3, 3e-3, 1e-2 }, ci = { 1e-2 } },
  lora     = { full = { 3e-4, 1e-3, 3e-3, 1e-2 }, quick = { 1e-3, 3e-3 }, ci = { 1e-3 } },
  full     = { full = { 3e-5, 1e-4, 3e-4, 1e-3 }, quick = { 1e-4, 3e-4 }, ci = { 1e-4 } },
}

--- The parameters of a recipe of the paper: those of an experiment, --quick and --ci, the model and the sizes of a run.
---@param spec table as for tl.recipe
function paper.options(spec)
  local own = {
    model = { "tiny", "model directory, GGUF file or name" },
    task = { nil, "problem set; default: wordproblems for the embedded models, else gsm8k", type = "string" },
    quick = { false, "fewer and shorter runs: the whole paper in half an hour" },
    ci = { false, "the smallest size that runs everything; its figures mean nothing" },
    steps = { 0, "steps of a run; 0: the size's", integer = true, min = 0 },
    batch = { 0, "problems a step; 0: the size's", integer = true, min = 0 },
    group = { 0, "completions a problem; 0: the size's", integer = true, min = 0 },
    new_tokens = { 0, "longest completion; 0: the size's", integer = true, min = 0 },
    valid = { 0, "held-out problems by which learning rates are chosen; 0: the size's", integer = true, min = 0 },
    test = { 0, "held-out problems of the reported accuracy; 0: the size's", integer = true, min = 0 },
    seeds = { 0, "seeds of every point; 0: the size's", integer = true, min = 0 },
    sweep_seeds = { 0, "seeds that sweep the learning rates; further ones take each point's best of these; 0: the size's", integer = true, min = 0 },
    lrs = { {}, "learning rates that are swept; none: the method's and size's", of = "number" },
    store = { "runs/paper.db", "SQLite file of the runs", value = "FILE" },
    out = { "runs/paper", "folder for the figures", value = "DIR" } }
  for name, v in pairs(own) do if spec[name] == nil then spec[name] = v end end
  return experiment.options(spec)
end

--- "full", "quick" or "ci".
function paper.size(p) return p.ci and "ci" or p.quick and "quick" or "full" end

--- A number of a run: as it was given (--steps, --batch, ...), else the size's.
function paper.given(p, name) return p[name] > 0 and p[name] or paper.sizes[paper.size(p)][name] end

--- The values of an axis of a study: all of them, or at sizes quick and ci fewer.
function paper.pick(p, full, quick, ci)
  local size = paper.size(p)
  return size == "full" and full or size == "quick" and (quick or full) or ci or { full[1] }
end

--- A list of points, each with every learning rate of its adapter and every seed, as settings of runs. Seeds come outermost.
---@param p table the recipe's parameters
---@param points table[] settings without lr and seed
---@param few table? learning rates by size for a study that sweeps fewer there: { quick = { 3e-3, 1e-2 } }
function paper.runs(p, points, few)
  local out, size = {}, paper.size(p)
  for seed = 1, paper.given(p, "seeds") do
    for _, point in ipairs(points) do
      local rates = point.method == "base" and { 0 } or point.lr and { point.lr } or #p.lrs > 0 and p.lrs or few and few[size] or paper.rates[point.adapter][size]
      for _, lr in ipairs(rates) do
        local s = { model = p.model, task = p.task, steps = paper.given(p, "steps"), batch = paper.given(p, "batch"), group = paper.given(p, "group"),
          new_tokens = paper.given(p, "new_tokens"), valid = paper.given(p, "valid"), test = paper.given(p, "test"), seed = seed }
        for k, v in pairs(point) do s[k] = v end
        s.lr = lr
        if s.method == "base" then s.lr, s.steps, s.batch, s.group = nil, nil, nil, nil end
        if s.method == "sft" then s.group = nil end
        out[#out + 1] = s
      end
    end
  end
  return out
end

--- The ladder of trained numbers from 1 to all of them, as points of a study: TinyLoRA tied over everything (u = 1 to 13), TinyLoRA
--- without tying, LoRA-XS, LoRA, full finetuning. bytes are fp32's.
function paper.ladder(p, method)
  local function tiny(u, tie) return { method = method, adapter = "tinylora", rank = 2, u = u, tie = tie } end
  return paper.pick(p, {
    tiny(1, "full"), tiny(2, "full"), tiny(4, "full"), tiny(13, "full"), tiny(1, "none"), tiny(4, "none"),
    { method = method, adapter = "loraxs", rank = 4 }, { method = method, adapter = "loraxs", rank = 8 },
    { method = method, adapter = "lora", rank = 1 }, { method = method, adapter = "lora", rank = 8 }, { method = method, adapter = "full" },
  }, {
    tiny(1, "full"), tiny(4, "full"), tiny(13, "full"), tiny(1, "none"), tiny(4, "none"), { method = method, adapter = "loraxs", rank = 4 },
    { method = method, adapter = "lora", rank = 1 }, { method = method, adapter = "lora", rank = 8 }, { method = method, adapter = "full" },
  }, { tiny(13, "full"), { method = method, adapter = "loraxs", rank = 2 }, { method = method, adapter = "lora", rank = 1 }, { method = method, adapter = "full" } })
end

-- ---- runs

-- relative to one another only: the plan scales them by what done runs took
local function cost(s)
  local eval = 0.004 * (s.valid + s.test)
  if s.method == "base" then return eval end
  return eval + s.steps * s.batch * (s.group or 1) * (s.method == "sft" and 0.003 or 0.002)
end

local STUDIES = { name = "paper", train = train.describe, measure = train.measure, cost = cost }

local function do_runs(p, runs, how)
  return experiment.run(p, { name = how.name, runs = runs, train = how.train, measure = how.measure, cost = how.cost or cost })
end

-- a run's point: its settings but for learning rate and seed
local function point_of(s)
  local rest = {}
  for k, v in pairs(s) do if k ~= "lr" and k ~= "seed" then rest[k] = v end end
  return json.encode(rest)
end

-- point -> the learning rate whose runs are judged best on average
local function chosen_rates(rows)
  local list, out = {}, {}
  for i, r in ipairs(rows) do list[i] = { point = point_of(r.settings), lr = r.lr, judged = r.judged } end
  for _, best in ipairs(experiment.best(list, { by = { "point" }, best = "lr", value = "judged" })) do out[best.point] = best.lr end
  return out
end

--- Does the runs of a study (those the store does not have); returns the done ones and how many are not, or nil after --dry_run. Seeds up
--- to sweep_seeds do every learning rate; further seeds the best of these at each point, and only rows of that rate are returned
--- then. Recipes of the paper share one experiment, so that a run that two of them want is done once; a study with a training of its own
--- gives that as `how`: { name, train, measure } as for tl.experiment.run.
---@param p table
---@param runs table[]
---@param how table?
function paper.run(p, runs, how)
  how = how or STUDIES
  local sweep, first, later = paper.given(p, "sweep_seeds"), {}, {}
  for _, s in ipairs(runs) do table.insert((s.seed <= sweep or not s.lr) and first or later, s) end
  local rows, missing = do_runs(p, first, how)
  if not rows then
    if #later > 0 then io.stdout:write(("and then %d further seeds of each point, at the learning rate that is chosen\n"):format(paper.given(p, "seeds") - sweep)) end
    return nil, 0
  end
  if #later > 0 then
    local rates, list = chosen_rates(rows), {}
    for _, s in ipairs(runs) do if not s.lr or s.lr == rates[point_of(s)] then list[#list + 1] = s end end
    rows, missing = do_runs(p, list, how)
  end
  if missing > 0 then require("tl.log").warn("%s: %d of %d runs are not done; the figures are of the others", rawget(p, "name"), missing, #rows + missing) end
  return rows, missing
end

--- One metric of a run, step by step, as points of a chart; empty when the run's folder is not there any more.
function paper.curve(row, field)
  local runs = require "tl.report.runs"
  return row.folder and runs.curve({ runs.load(row.folder) }, field) or {}
end

--- Greedy answers of a done run's adapter to its test problems, of the base kept writing as long, and of the base told by the words `ask` (nil: not
--- asked); as tl.probe.length gives them. Nil when the run's folder is not there any more.
---@return table?
function paper.length(row, ask)
  local path = row.folder and row.folder .. "/adapter.tla"
  if not path or fs.kind(path) ~= "file" then return nil end
  local w = train.world(row.settings)
  local adapter = require("tl.adapter").load(w.model, path)
  local l = require("tl.probe").length { model = w.model, adapter = adapter, problems = w.test, verifier = "verifiers.math", max_new_tokens = row.new_tokens, k = 1, temperature = 0, ask = ask }
  adapter:free()
  return l
end

-- ---- what a study says

--- The standard error of a point of tl.experiment.best: the spread over seeds, or where that is larger (few seeds agree by chance)
--- the binomial error of the problems measured.
function paper.error(point, n_test)
  local binomial = math.sqrt(math.max(point.mean * (1 - point.mean), 1 / n_test) / n_test)
  return math.max(point.std, binomial) / math.sqrt(point.n)
end

--- Which of two points is higher: their difference, its standard error, and "higher", "lower" or "no different" (within two errors).
function paper.compare(a, b, n_test)
  local d, se = a.mean - b.mean, math.sqrt(paper.error(a, n_test) ^ 2 + paper.error(b, n_test) ^ 2)
  return d, se, d > 2 * se and "higher" or d < -2 * se and "lower" or "no different"
end

--- "61.2% +- 1.3" of a point.
function paper.text(point, n_test) return ("%.1f%% ± %.1f"):format(100 * point.mean, 100 * paper.error(point, n_test)) end

--- A point of a chart: x, mean, and one standard error below and above.
function paper.point(x, point, n_test, label)
  local e = paper.error(point, n_test)
  return { x, point.mean, math.max(0, point.mean - e), math.min(1, point.mean + e), label }
end

--- Adds points to a series of a chart: those of a list, over their field x. Returns the series.
function paper.line(series, list, x, n_test)
  series.points = {}
  for i, q in ipairs(list) do series.points[i] = paper.point(q[x], q, n_test) end
  return series
end

local NAMES = { tinylora = "TinyLoRA", loraxs = "LoRA-XS", lora = "LoRA", full = "full finetuning" }

--- The points of a ladder, best learning rate of each: a list in order of trained numbers, and charts' series, one an adapter kind.
function paper.climb(rows, n_test)
  local list = experiment.best(rows, { by = { "adapter", "trained_parameters", "u", "rank", "tie" }, best = "lr", judge = "judged" })
  table.sort(list, function(a, b) return a.trained_parameters < b.trained_parameters end)
  local series = {}
  for i, kind in ipairs { "tinylora", "loraxs", "lora", "full" } do
    local s = paper.line({ name = NAMES[kind], colour = i - 1, bars = true }, experiment.where(list, { adapter = kind }), "trained_parameters", n_test)
    if #s.points > 0 then series[#series + 1] = s end
  end
  return list, series
end

--- A table of points: columns of names, then accuracy, spread, learning rate.
function paper.rows_of(list, n_test, names, headings)
  local t = { columns = {}, rows = {} }
  for i, name in ipairs(names) do t.columns[i] = headings and headings[i] or name end
  for _, heading in ipairs { "learning rate", "accuracy ± standard error", "std over seeds", "seeds", "tokens an answer" } do t.columns[#t.columns + 1] = heading end
  for _, point in ipairs(list) do
    local row = {}
    for i, name in ipairs(names) do row[i] = point[name] ~= nil and tostring(point[name]) or "" end
    local length = experiment.spread(experiment.values(point.rows, "mean_length")).mean
    for _, v in ipairs { point.lr and ("%g"):format(point.lr) or "", paper.text(point, n_test), ("%.1f"):format(100 * point.std), tostring(point.n), ("%.1f"):format(length) } do
      row[#row + 1] = v
    end
    t.rows[#t.rows + 1] = row
  end
  return t
end

--- The base model's accuracy: a point, from runs of method "base".
function paper.base(rows)
  return experiment.best(experiment.where(rows, { method = "base" }), { by = { "method" } })[1]
end

--- The point with the highest mean of a list; the first of equals.
function paper.top(list)
  local best
  for _, q in ipairs(list) do if not best or q.mean > best.mean then best = q end end
  return best
end

--- The smallest update of a list of paper.climb that has this share of the gain of its best one over the base; nil without a base.
function paper.smallest(list, base, share)
  local best = paper.top(list)
  for _, q in ipairs(base and list or {}) do if q.mean - base.mean >= share * (best.mean - base.mean) then return q end end
end

--- The study of a method over the ladder, the base model beside it. judge: function(list, base, n_test) -> verdict, finding; list as from
--- paper.climb. Returns what paper.publish does; nil after --dry_run.
---@param p table
---@param method string "grpo" or "sft"
---@param claim string
---@param judge function
function paper.accuracy(p, method, claim, judge)
  local points, name, verdict, finding = paper.ladder(p, method), method:upper(), nil, nil
  table.insert(points, 1, { method = "base" })
  local rows, missing = paper.run(p, paper.runs(p, points))
  if not rows or #rows == 0 then return end
  local n, base = rows[1].test, paper.base(rows)
  local list, series = paper.climb(experiment.where(rows, { method = method }), n)
  if base then verdict, finding = judge(list, base, n) end
  return paper.publish(p, { title = name .. ": accuracy against trained numbers", missing = missing, verdict = verdict or "not decided",
    finding = finding or "too few runs are done", claim = claim,
    charts = { { title = name .. ", learning rate swept at every size; bars: one standard error", x = { label = "trained numbers", log = true },
      y = { label = "accuracy", percent = true, min = 0 }, series = series, lines = { base and { y = base.mean, name = "base model" } } } },
    tables = { paper.rows_of(list, n, { "adapter", "trained_parameters", "rank", "u", "tie" }, { "adapter", "trained numbers", "r", "u", "tying" }) } })
end

-- the command line that this process was started by, for a shell in the project's folder
local function command()
  local given = rawget(_G, "arg")
  if not given then return nil end
  local words, root = { "tlrun" }, require("tl.ffi").root .. "/"
  for i, w in ipairs { given[0], unpack(given) } do
    if i == 1 and w:sub(1, #root) == root then w = w:sub(#root + 1) end
    words[#words + 1] = w:find "^[%w_./,:=@+-]+$" and w or "'" .. w:gsub("'", "'\\''") .. "'"
  end
  return table.concat(words, " ")
end

--- Writes a study into the folder p.out: NAME.json (what all.lua puts together) and NAME.svg when gnuplot is there. part:
---   title, claim (the paper's), verdict ("reproduced", "not reproduced", "not decided", "not tried" and the like), finding (in words)
---   charts, tables ({ columns, rows, title }), missing (runs not done), seeds (the size's)
---@return table part
function paper.publish(p, part)
  local name = rawget(p, "name")
  part.name, part.model = name, p.model
  if rawget(p, "seeds") then part.size, part.seeds, part.test = paper.size(p), part.seeds or paper.given(p, "seeds"), paper.given(p, "test") end
  if part.seeds == 1 then part.finding = (part.finding or "") .. " One seed: what another draw of P and of the samples would change is not in these errors." end
  part.versions, part.command = require("tl.report").versions(), command()
  fs.mkdirs(p.out)
  json.save(("%s/%s.json"):format(p.out, name), part)
  for i, chart in ipairs(part.charts or {}) do
    local ok, why = require("tl.plot").gnuplot(chart, ("%s/%s%s.svg"):format(p.out, name, i > 1 and "-" .. i or ""))
    if not ok then require("tl.log").warn("no figure for a paper: %s", why) end
  end
  require("tl.log").info("%s: %s. %s", name, part.verdict or "no verdict", part.finding or "")
  return part
end

local SIZE_WORDS = { full = "full size", quick = "--quick", ci = "--ci: the figures mean nothing" }

--- Puts studies into one page, p.out/report.html: what reproduces and what does not, then every study with its charts and table.
---@param out string the folder that paper.publish wrote into
---@param names string[] the studies, in their order; those that have not been published are named as missing
---@return string path
function paper.report(out, names)
  local page = require "tl.page"
  local doc, parts, absent = page.new("The paper in miniature", "Learning to Reason in 13 Parameters (arXiv:2602.04118), its figures and tables on a small model"), {}, {}
  for _, name in ipairs(names) do
    local path = ("%s/%s.json"):format(out, name)
    if fs.kind(path) == "file" then parts[#parts + 1] = json.load(path) else absent[#absent + 1] = name end
  end
  doc:heading "Claim by claim"
  local t = { columns = { "study", "claim", "here", "what was seen" }, rows = {} }
  local function sentence(s) return ((s or ""):gsub("^%l", string.upper)) end
  for i, part in ipairs(parts) do t.rows[i] = { part.title, part.claim or "", part.verdict or "", sentence(part.finding) } end
  doc:table(t)
  if #absent > 0 then doc:text("Not run: " .. table.concat(absent, ", ") .. ".", "dim") end
  for _, part in ipairs(parts) do
    doc:heading(part.title)
    doc:text("Claim: " .. (part.claim or "") .. ".", "dim")
    doc:text(sentence(part.verdict or "no verdict") .. ". " .. sentence(part.finding), "verdict")
    doc:charts(part.charts or {})
    for _, each in ipairs(part.tables or {}) do doc:table(each) end
    local v = part.versions or {}
    doc:text(("model %s%s; %s; tlrun %s%s, %s %s"):format(part.model, part.size and (", %s, %d seeds, %d problems"):format(SIZE_WORDS[part.size], part.seeds, part.test) or "",
      part.command or ("recipes/paper/%s.lua"):format(part.name), v.tlrun or "?", v.commit and " " .. v.commit:sub(1, 12) or "", v.backend or "", v.isa or "") .. ((part.missing or 0) > 0 and ("; %d runs were not done"):format(part.missing) or ""), "dim")
  end
  local path = out .. "/report.html"
  doc:write(path)
  return path
end

return paper
