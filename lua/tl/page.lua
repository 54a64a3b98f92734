--- page.lua: one self-contained HTML page: words, charts, tables, completions. No script but the live page's, no font, no picture and no
--- style from elsewhere; light and dark by the reader's setting; readable on a phone.
---
---   local page = tl.page.new("Title", "a line below it")
---   page:heading "Curves"; page:text "Words."; page:charts { chart }; page:table { columns = {...}, rows = {{...}} }
---   page:write "report.html"
---
--- Every text is escaped; only page:raw is taken as it is.
local plot = require "tl.plot"
local escape = plot.escape

local page = {}

---@class tl.Page
local Page = {}
Page.__index = Page

local STYLE = [[
:root { color-scheme: light dark; --bg: #fff; --fg: #1b1f24; --dim: #5c6670; --rule: #d9dee3; --soft: #f4f6f8; --good: 26, 127, 55; --bad: 207, 34, 46;
  --c0: #1f6feb; --c1: #d1570c; --c2: #1a7f37; --c3: #8250df; --c4: #bf3989; --c5: #7a6200; --c6: #0b7285; --c7: #57606a; }
@media (prefers-color-scheme: dark) { :root { --bg: #0f1318; --fg: #e4e8ec; --dim: #9aa5b1; --rule: #2c343d; --soft: #181e25; --good: 63, 185, 80; --bad: 248, 81, 73;
  --c0: #6cb0ff; --c1: #ff9d5c; --c2: #57d364; --c3: #c8a6ff; --c4: #ff8ac4; --c5: #e3c04b; --c6: #4fd1e0; --c7: #a7b1bb; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--bg); color: var(--fg); font: 16px/1.5 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; }
main { max-width: 60rem; margin: 0 auto; padding: 1.2rem 1rem 4rem; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: .4rem 0; } h2 { font-size: 1.2rem; margin: 2.2rem 0 .6rem; padding-top: .6rem; border-top: 1px solid var(--rule); } h3 { font-size: 1rem; margin: 1.4rem 0 .4rem; }
p { margin: .5rem 0; max-width: 46rem; } .dim, figcaption, .legend, th { color: var(--dim); }
.grid2 { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 1rem; }
figure { margin: .8rem 0; min-width: 0; } figure svg { width: 100%; height: auto; display: block; overflow: visible; } figcaption { font-size: .85rem; }
svg text { fill: var(--dim); font-size: 12px; } svg .label { font-size: 13px; } .grid2 svg text { font-size: 15px; }
.grid { stroke: var(--rule); stroke-width: 1; } .axis { stroke: var(--dim); fill: none; } .reference { stroke: var(--dim); stroke-dasharray: 2 4; }
.line { fill: none; stroke-width: 2; } .dashed { stroke-dasharray: 6 4; } .band { opacity: .18; stroke: none; } .bar { stroke-width: 1.5; }
.legend { font-size: .85rem; display: flex; flex-wrap: wrap; gap: .1rem 1rem; padding-left: 3rem; } .key { display: inline-block; width: .8em; height: .8em; border-radius: 2px; margin-right: .35em; } .key.half { clip-path: polygon(0 0, 35% 0, 35% 100%, 65% 100%, 65% 0, 100% 0, 100% 100%, 0 100%); }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; } caption { text-align: left; color: var(--dim); padding: .3rem 0; }
th, td { text-align: left; padding: .28rem .9rem .28rem 0; border-bottom: 1px solid var(--rule); vertical-align: top; } th { font-weight: 600; }
td.n, th.n { text-align: right; } td { overflow-wrap: break-word; min-width: 3.5rem; max-width: 24rem; } td.long { min-width: 15rem; } td.n { white-space: nowrap; }
pre, .text { font: 13px/1.5 ui-monospace, "DejaVu Sans Mono", monospace; white-space: pre-wrap; overflow-wrap: anywhere; margin: .3rem 0; }
.box { background: var(--soft); border: 1px solid var(--rule); border-radius: 8px; padding: .6rem .8rem; margin: .7rem 0; } .box .head { font-size: .85rem; color: var(--dim); display: flex; flex-wrap: wrap; gap: 0 1.2rem; }
.prompt { color: var(--dim); } .up { background: rgba(var(--good), var(--d)); } .down { background: rgba(var(--bad), var(--d)); } .tok { border-radius: 3px; }
.verdict { font-weight: 600; } details > summary { cursor: pointer; color: var(--dim); margin: .6rem 0; }
@media (max-width: 40rem) { svg text, svg .label, .grid2 svg text { font-size: 18px; } td.short { white-space: nowrap; } }
@media print { main { max-width: none; } .box, figure, tr { break-inside: avoid; } }
]]

local function colours()
  local out = {}
  for i = 0, 7 do
    out[#out + 1] = (".line.c%d, .bar.c%d { stroke: var(--c%d); } .band.c%d, .dot.c%d { fill: var(--c%d); } .key.c%d { background: var(--c%d); }"):format(i, i, i, i, i, i, i, i)
  end
  return table.concat(out, "\n")
end

--- A new page. title, and a line below it (nil: none).
---@param title string
---@param subtitle string?
---@return tl.Page
function page.new(title, subtitle)
  local self = setmetatable({ title = title, parts = {}, drawn = {} }, Page)
  self:raw(("<h1>%s</h1>"):format(escape(title)))
  if subtitle then self:raw(('<p class="dim">%s</p>'):format(escape(subtitle))) end
  return self
end

--- HTML as it is. Whoever calls it answers for what is in it.
function Page:raw(html) self.parts[#self.parts + 1] = html end

function Page:heading(text, level) self:raw(("<h%d>%s</h%d>"):format(level or 2, escape(text), level or 2)) end

--- A paragraph; class: "dim", "verdict" or nil.
function Page:text(text, class) self:raw(("<p%s>%s</p>"):format(class and (' class="%s"'):format(class) or "", escape(text))) end

--- Charts (plot.lua), side by side where there is room. page.drawn lists all of the page.
function Page:charts(list)
  local out = {}
  for i, chart in ipairs(list) do out[i], self.drawn[#self.drawn + 1] = plot.svg(chart), chart end
  self:raw(#out > 1 and '<div class="grid2">' .. table.concat(out) .. "</div>" or out[1] or "")
end

local SHORT, LONG = 34, 60 -- bytes of a cell that is not wrapped on a phone, and of one that wants a wide column

local function numeric(text) return tostring(text):match "^[-+]?[%d.]+e?[-+]?%d*%%?$" ~= nil end

--- A table { title, columns, rows }: rows are lists of texts or numbers.
function Page:table(t)
  local out = { '<div class="scroll"><table>' }
  if t.title then out[#out + 1] = "<caption>" .. escape(t.title) .. "</caption>" end
  local right = {}
  for c = 1, #t.columns do
    right[c] = #t.rows > 0
    for _, row in ipairs(t.rows) do right[c] = right[c] and (row[c] == nil or row[c] == "" or numeric(row[c])) end
  end
  local function line(tag, cells)
    local parts = {}
    for c = 1, #t.columns do
      local text = cells[c] == nil and "" or tostring(cells[c])
      local class = right[c] and "n" or tag == "td" and (#text > LONG and "long" or #text <= SHORT and "short") or nil
      parts[c] = ("<%s%s%s>%s</%s>"):format(tag, tag == "th" and ' scope="col"' or "", class and (' class="%s"'):format(class) or "", escape(text), tag)
    end
    out[#out + 1] = "<tr>" .. table.concat(parts) .. "</tr>"
  end
  line("th", t.columns)
  for _, row in ipairs(t.rows) do line("td", row) end
  out[#out + 1] = "</table></div>"
  self:raw(table.concat(out, "\n"))
end

-- characters that turn the direction of text around are named, so that a completion cannot be shown as what it is not
local function visible(text)
  return (text:gsub("\226\128[\142\143\170-\174]", function(c) return ("<U+20%02X>"):format(c:byte(3) - 128) end)
    :gsub("\226\129[\166-\169]", function(c) return ("<U+20%02X>"):format(c:byte(3) - 64) end))
end

-- the tokens of a completion, each tinted by how its logprob changed: full colour at a change of 2 nats
local function tinted(tokens)
  local out = {}
  for _, t in ipairs(tokens) do
    local d = t.after - t.before
    out[#out + 1] = ('<span class="tok %s" style="--d:%.2f" title="logprob %.3f, before %.3f">%s</span>'):format(d >= 0 and "up" or "down", math.min(0.55, math.abs(d) * 0.275),
      t.after, t.before, escape(visible(t.text)))
  end
  return table.concat(out)
end

--- A completion { step, prompt, completion, reward, advantage, answer, finish, outcome, n_tokens, tokens = {{text, before, after}} or nil };
--- outcome is told when it is not "ok".
function Page:completion(c)
  local head = {}
  local function add(format, v) if v ~= nil then head[#head + 1] = "<span>" .. escape(format:format(v)) .. "</span>" end end
  add("step %d", c.step)
  add("reward %.4g", c.reward)
  if c.outcome ~= "ok" then add("verifier: %s", c.outcome) end
  if c.reward == nil then add("%s", "no reward") end
  add("advantage %+.3f", c.advantage)
  add("answer %s", c.answer ~= nil and tostring(c.answer) or nil)
  add("%d tokens", c.n_tokens)
  add("%s", c.finish)
  if c.tokens then
    local before, after = 0, 0
    for _, t in ipairs(c.tokens) do before, after = before + t.before, after + t.after end
    add("logprob %s", ("%.2f, before %.2f"):format(after, before))
  end
  self:raw(('<div class="box"><div class="head">%s</div><div class="text prompt">%s</div><div class="text">%s</div></div>'):format(table.concat(head), escape(visible(c.prompt or "")),
    c.tokens and tinted(c.tokens) or c.completion == "" and '<span class="dim">(nothing)</span>' or escape(visible(c.completion or ""))))
end

--- Something long, closed until it is asked for: fill is called to fill it.
function Page:details(summary, fill)
  self:raw("<details><summary>" .. escape(summary) .. "</summary>")
  fill(self)
  self:raw "</details>"
end

-- asks the server that it came from whether there is a newer page, and takes its content
local LIVE = [[
<script>
let seen = null;
setInterval(async () => {
  try {
    const v = await (await fetch("version", { cache: "no-store" })).text();
    if (seen !== null && v !== seen) {
      const open = [...document.querySelectorAll("details")].map(d => d.open);
      const next = new DOMParser().parseFromString(await (await fetch("./", { cache: "no-store" })).text(), "text/html");
      document.querySelector("main").replaceWith(next.querySelector("main"));
      document.querySelectorAll("details").forEach((d, i) => { d.open = open[i] || false; });
    }
    seen = v;
  } catch (e) { }
}, 2000);
</script>
]]

--- The whole page as text. live: with the script that asks the server for newer content.
---@param live boolean?
---@return string
function Page:render(live)
  return ('<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">\n'
    .. '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; style-src \'unsafe-inline\'%s">\n<title>%s</title>\n<style>%s%s</style></head>\n<body><main>\n'):format(
    live and "; script-src 'unsafe-inline'; connect-src 'self'" or "", escape(self.title), STYLE, colours()) .. table.concat(self.parts, "\n") .. "\n</main>\n" .. (live and LIVE or "") .. "</body></html>\n"
end

function Page:write(path) require("tl.fs").write(path, self:render()) end

return page
