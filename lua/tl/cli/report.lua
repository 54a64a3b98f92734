--- tlrun report: one self-contained HTML page from run directories or stores; live while training
local options = require "tl.options"

local command = { summary = "an HTML page of runs: curves, tables, completions, provenance; --follow: live", usage = "RUN... [-o report.html] | --follow RUN...", words = 1000 }

command.help = "Makes one self-contained HTML page from run directories (runs/NAME-TIME), folders of them, or stores of experiments (*.db):\n"
  .. "curves with bands over seeds, tables, completions with their rewards and each token's change of logprob, configuration and provenance.\n"
  .. "With --follow the page is served on this machine and kept up to date while the runs go on. docs/report.md has more."

command.parameters = {
  { "output", { "report.html", "the page", short = "o", value = "FILE" } },
  { "title", { nil, "the page's title", type = "string" } },
  { "completions", { 12, "completions shown of each run; 0: none", integer = true, min = 0 } },
  { "tokens", { true, "compute each token's change of logprob (loads the run's model)" } },
  { "metric", { "accuracy", "the metric that a store's charts show" } },
  { "plots", { nil, "also draw every chart by gnuplot into this folder, as SVG, or as PNG with --png", type = "string", value = "DIR" } },
  { "png", { false, "PNG instead of SVG" } },
  { "follow", { false, "serve the page on localhost, and keep it up to date" } },
  { "port", { 0, "port of --follow; 0: any that is free", integer = true, min = 0, max = 65535 } },
}

local function draw_plots(doc, p)
  require("tl.fs").mkdirs(p.plots)
  for i, chart in ipairs(doc.drawn) do
    local name = ("%s/%02d-%s.%s"):format(p.plots, i, (chart.title or "chart"):lower():gsub("[^%w]+", "-"):gsub("^%-+", ""):gsub("%-+$", ""):sub(1, 40), p.png and "png" or "svg")
    local ok, why = require("tl.plot").gnuplot(chart, name)
    if not ok then options.exit(1, why) end
  end
end

local function follow(p, rest)
  local server = require("tl.report.serve").start(p.port)
  local build = require "tl.report.build"
  io.stderr:write(("the page is http://127.0.0.1:%d/ (Ctrl-C ends)\n"):format(server.port))
  io.stderr:flush()
  server:keep(rest, function() return build.page(rest, { completions = p.completions, tokens = false, metric = p.metric, title = p.title }):render(true) end)
  return 0
end

function command.run(p, rest)
  if #rest == 0 then options.usage "tlrun report wants run directories or stores; usage: tlrun report RUN... -o report.html" end
  if p.follow then return follow(p, rest) end
  local doc = require("tl.report.build").page(rest, { completions = p.completions, tokens = p.tokens, metric = p.metric, title = p.title })
  doc:write(p.output)
  if p.plots then draw_plots(doc, p) end
  if p.json then print(require("tl.json").encode { report = p.output, charts = #doc.drawn }) else io.stderr:write("the report is ", p.output, "\n") end
  return 0
end

return command
