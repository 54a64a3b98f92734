--- plot.lua: line charts from plain data: as inline SVG for a page, and by gnuplot (when it is there) as SVG or PNG for a paper.
---
---   chart = { title = "...", x = { label = "trained numbers", log = true }, y = { label = "accuracy", percent = true, min = 0 },
---     series = { { name = "GRPO", points = { { 1, 0.31, 0.28, 0.35 }, { 13, 0.62 } }, style = "line" } },   -- x, y[, low, high[, name]]
---     lines = { { y = 0.02, name = "base" } } }                                  -- horizontal reference lines
---   svg = tl.plot.svg(chart)
---   tl.plot.gnuplot(chart, "figure.svg")
---
--- style: "line" (points joined; a band where points have low and high, or bars when `bars`), "points", "dashed". x.values: names
--- for x = 1, 2, 3... (categories). Colours are classes c0 to c7 of the page's style sheet (page.lua), so that one drawing serves a
--- light and a dark page; the ninth to sixteenth line are dashed. Points whose x or y is not a finite number are left out, on a log axis also those that are not positive; a line is
--- broken there. Bars of several series at one x stand side by side. An axis whose points are all whole numbers has no ticks between them.
local xml_escapes = { ["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;", ['"'] = "&quot;", ["'"] = "&#39;" }

local plot = {}

local W, H = 640, 360
local LEFT, RIGHT, TOP, BOTTOM = 68, 14, 14, 46

local FLAT = 1e-3 -- a curve that varies by less, beside its size, is shown as nearly flat: its ticks would be one number in nine digits

--- A text for HTML or XML. Control characters that XML does not have are left out.
function plot.escape(s)
  return (tostring(s):gsub("[%z\1-\8\11\12\14-\31]", ""):gsub("[&<>\"']", xml_escapes))
end

local function finite(v) return type(v) == "number" and v == v and math.abs(v) < math.huge end

local function usable(p, chart)
  return finite(p[1]) and finite(p[2]) and not (chart.x.log and p[1] <= 0) and not (chart.y.log and p[2] <= 0)
end

-- smallest and largest of what is drawn along an axis (1: x, 2: y with its bounds and lines)
local function range(chart, axis, at)
  local lo, hi = math.huge, -math.huge
  local function take(v)
    if finite(v) and not (axis.log and v <= 0) then lo, hi = math.min(lo, v), math.max(hi, v) end
  end
  for _, s in ipairs(chart.series) do
    for _, p in ipairs(s.points) do
      if at == 1 then
        take(p[1]) -- also where y is missing: the gap is shown
      elseif usable(p, chart) then
        take(p[2]); take(p[3]); take(p[4])
      end
    end
  end
  if at == 2 then for _, l in ipairs(chart.lines or {}) do take(l.y) end end
  if axis.values then lo, hi = 0.5, #axis.values + 0.5 end
  if lo > hi then lo, hi = axis.log and 1 or 0, axis.log and 10 or 1 end
  lo, hi = axis.min or lo, axis.max or hi
  if axis.values then return lo, hi end
  if axis.log then
    if hi <= lo then lo, hi = lo / 2, lo * 2 end
    return lo / 1.15, hi * 1.15
  end
  if hi <= lo then lo, hi = lo == 0 and 0 or lo - math.abs(lo) / 2, lo == 0 and 1 or lo + math.abs(lo) / 2 end
  if at == 2 and hi - lo < FLAT * math.abs(hi + lo) / 2 then lo, hi = lo - FLAT * math.abs(lo), hi + FLAT * math.abs(hi) end
  local pad = at == 2 and 0.05 * (hi - lo) or 0
  return axis.min and lo or lo - pad, axis.max and hi or hi + pad
end

local function all_whole(chart)
  for _, s in ipairs(chart.series) do
    for _, p in ipairs(s.points) do if finite(p[1]) and p[1] % 1 ~= 0 then return false end end
  end
  return true
end

local function ticks(axis, lo, hi, whole)
  local out = {}
  if axis.values then
    for i = 1, #axis.values do out[i] = i end
    return out
  end
  if axis.log then
    local first, last = math.ceil(math.log10(lo) - 1e-9), math.floor(math.log10(hi) + 1e-9)
    local every = math.max(1, math.ceil((last - first + 1) / 8))
    for e = first, last, every do out[#out + 1] = 10 ^ e end
    if #out < 3 then
      for e = first - 1, last + 1 do
        for _, m in ipairs { 2, 5 } do
          local v = m * 10 ^ e
          if v >= lo and v <= hi then out[#out + 1] = v end
        end
      end
      table.sort(out)
    end
    if #out >= 3 then return out end
    out = {}
  end
  local rough = (hi - lo) / 5
  local unit = 10 ^ math.floor(math.log10(rough))
  local step = rough / unit < 1.5 and unit or rough / unit < 3.5 and 2 * unit or rough / unit < 7.5 and 5 * unit or 10 * unit
  if whole then step = math.max(1, step) end
  local i = math.ceil(lo / step - 1e-9)
  while i * step <= hi + 1e-9 * step do
    out[#out + 1] = i * step
    i = i + 1
  end
  return out
end

local function tick_text(axis, v)
  if axis.values then return axis.values[v] end
  if math.abs(v) < 1e-12 then v = 0 end
  if axis.percent then return ("%.4g%%"):format(100 * v) end
  if axis.log and v >= 1e4 then
    local e = math.floor(math.log10(v) + 1e-9)
    local m = v / 10 ^ e
    return math.abs(m - 1) < 1e-6 and ("1e%d"):format(e) or ("%.3ge%d"):format(m, e)
  end
  return ("%.6g"):format(v)
end

local function scale(axis, lo, hi, from, to)
  if axis.log then lo, hi = math.log(lo), math.log(hi) end
  return function(v)
    if axis.log then v = math.log(v) end
    return from + (to - from) * (v - lo) / (hi - lo)
  end
end

local function clamp(v, a, b) return math.max(math.min(a, b), math.min(math.max(a, b), v)) end

local function add(out, format, ...) out[#out + 1] = format:format(...) end

local function axes(out, chart, X, Y, x_ticks, y_ticks)
  for _, v in ipairs(y_ticks) do
    add(out, '<line class="grid" x1="%d" x2="%d" y1="%.1f" y2="%.1f"/><text class="tick" x="%d" y="%.1f" text-anchor="end">%s</text>', LEFT, W - RIGHT, Y(v), Y(v),
      LEFT - 6, Y(v) + 4, plot.escape(tick_text(chart.y, v)))
  end
  for _, v in ipairs(x_ticks) do
    add(out, '<line class="grid" x1="%.1f" x2="%.1f" y1="%d" y2="%d"/><text class="tick" x="%.1f" y="%d" text-anchor="middle">%s</text>', X(v), X(v), TOP, H - BOTTOM,
      X(v), H - BOTTOM + 17, plot.escape(tick_text(chart.x, v)))
  end
  add(out, '<path class="axis" d="M%d %dV%dH%d"/>', LEFT, TOP, H - BOTTOM, W - RIGHT)
  add(out, '<text class="label" x="%d" y="%d" text-anchor="middle">%s</text>', (LEFT + W - RIGHT) / 2, H - 8, plot.escape(chart.x.label or ""))
  if chart.y.label and chart.y.label ~= chart.title then -- the title stands below the chart
    add(out, '<text class="label" transform="translate(6 %d) rotate(-90)" text-anchor="middle">%s</text>', (TOP + H - BOTTOM) / 2, plot.escape(chart.y.label))
  end
end

local function band(out, points, X, Y, colour, low, high)
  local up, down = {}, {}
  for _, p in ipairs(points) do
    if finite(p[3]) and finite(p[4]) then
      up[#up + 1] = ("%.1f %.1f"):format(X(p[1]), Y(clamp(p[4], low, high)))
      table.insert(down, 1, ("%.1f %.1f"):format(X(p[1]), Y(clamp(p[3], low, high))))
    end
  end
  if #up > 1 then add(out, '<path class="band %s" d="M%sL%sZ"/>', colour, table.concat(up, "L"), table.concat(down, "L")) end
end

-- does the colour come for the second time?
local function again(s, i) return not s.colour and math.floor((i - 1) / 8) % 2 == 1 end

-- the usable points, and the same in stretches without a gap
local function stretches(s, chart)
  local points, list = {}, { {} }
  for _, p in ipairs(s.points) do
    if usable(p, chart) then
      points[#points + 1] = p
      table.insert(list[#list], p)
    elseif #list[#list] > 0 then
      list[#list + 1] = {}
    end
  end
  return points, list
end

local function series(out, s, i, chart, X, Y, low, high)
  local colour = "c" .. (s.colour or i - 1) % 8
  local points, unbroken = stretches(s, chart)
  local joined, dashed = s.style ~= "points" and not chart.x.values, s.style == "dashed" or again(s, i)
  if s.bars or not joined then -- side by side
    local shift, middle = X, (#chart.series + 1) / 2
    X = function(v) return shift(v) + 4 * (i - middle) end
  end
  for _, stretch in ipairs(joined and unbroken or {}) do
    local at = {}
    for k, p in ipairs(stretch) do at[k] = ("%.1f %.1f"):format(X(p[1]), Y(clamp(p[2], low, high))) end
    if not s.bars then band(out, stretch, X, Y, colour, low, high) end
    if #at > 1 then add(out, '<path class="line %s%s" d="M%s"/>', colour, dashed and " dashed" or "", table.concat(at, "L")) end
  end
  if not joined or s.bars then
    for _, p in ipairs(points) do
      if finite(p[3]) and finite(p[4]) then
        add(out, '<line class="bar %s" x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f"/>', colour, X(p[1]), X(p[1]), Y(clamp(p[3], low, high)), Y(clamp(p[4], low, high)))
      end
    end
  end
  local alone = {} -- a point that no line goes through is drawn in any case
  for _, stretch in ipairs(unbroken) do if #stretch == 1 then alone[stretch[1]] = true end end
  for _, p in ipairs(points) do
    if #points <= 60 or alone[p] then
      add(out, '<circle class="dot %s" cx="%.1f" cy="%.1f" r="3"><title>%s: %s, %s</title></circle>', colour, X(p[1]), Y(clamp(p[2], low, high)), plot.escape(s.name or ""),
        plot.escape(p[5] or tick_text(chart.x, p[1])), plot.escape(tick_text(chart.y, p[2])))
    end
  end
end

local function legend(chart)
  local parts = {}
  for i, s in ipairs(chart.series) do
    if s.name then parts[#parts + 1] = ('<span><i class="key c%d%s"></i>%s</span>'):format((s.colour or i - 1) % 8, again(s, i) and " half" or "", plot.escape(s.name)) end
  end
  return #parts > 0 and '<div class="legend">' .. table.concat(parts, " ") .. "</div>" or ""
end

--- A chart as an HTML figure with inline SVG.
---@param chart table
---@return string html
function plot.svg(chart)
  chart.x, chart.y, chart.series = chart.x or {}, chart.y or {}, chart.series or {}
  local x0, x1 = range(chart, chart.x, 1)
  local y0, y1 = range(chart, chart.y, 2)
  local X, Y = scale(chart.x, x0, x1, LEFT + 8, W - RIGHT - 8), scale(chart.y, y0, y1, H - BOTTOM, TOP)
  local out = {}
  add(out, '<figure><svg viewBox="0 0 %d %d" role="img" aria-label="%s">', W, H, plot.escape(chart.title or chart.y.label or ""))
  axes(out, chart, X, Y, ticks(chart.x, x0, x1, all_whole(chart)), ticks(chart.y, y0, y1))
  for _, l in ipairs(chart.lines or {}) do
    if finite(l.y) then
      add(out, '<line class="reference" x1="%d" x2="%d" y1="%.1f" y2="%.1f"/><text class="tick" x="%d" y="%.1f" text-anchor="end">%s</text>', LEFT, W - RIGHT, Y(l.y), Y(l.y),
        W - RIGHT - 2, Y(l.y) - 4, plot.escape(l.name or ""))
    end
  end
  for i, s in ipairs(chart.series) do series(out, s, i, chart, X, Y, y0, y1) end
  out[#out + 1] = "</svg>" .. legend(chart)
  if chart.title then add(out, "<figcaption>%s</figcaption>", plot.escape(chart.title)) end
  out[#out + 1] = "</figure>"
  return table.concat(out, "\n")
end

-- ---- gnuplot

-- between single quotes gnuplot knows one escape, the doubled quote; enhanced text is off
local function quoted(s) return "'" .. tostring(s):gsub("[%z\1-\31]", " "):gsub("'", "''") .. "'" end

local function data(s, chart)
  local lines = {}
  for _, p in ipairs(s.points) do
    if usable(p, chart) then
      lines[#lines + 1] = ("%.9g %.9g %.9g %.9g"):format(p[1], p[2], finite(p[3]) and p[3] or p[2], finite(p[4]) and p[4] or p[2])
    elseif #lines > 0 then
      lines[#lines + 1] = "" -- breaks the line
    end
  end
  return lines
end

local function at_most_one(chart, name)
  for _, s in ipairs(chart.series) do
    for _, p in ipairs(s.points) do if finite(p[1]) and finite(p[2]) and p[name == "x" and 1 or 2] > 1 then return false end end
  end
  return true
end

--- The gnuplot program that draws a chart into a file (SVG or PNG by its name).
---@param chart table
---@param path string
---@return string
function plot.gnuplot_script(chart, path)
  chart.x, chart.y, chart.series = chart.x or {}, chart.y or {}, chart.series or {}
  local x, y = chart.x, chart.y
  local out, plots, blocks = {}, {}, {}
  add(out, path:find "%.png$" and "set terminal pngcairo noenhanced size 1280,800 font ',20'" or "set terminal svg noenhanced size 640,400 font 'sans,13' background 'white'")
  add(out, "set output %s", quoted(path))
  add(out, "set grid; set key outside top center horizontal; set style fill transparent solid 0.18 noborder")
  if chart.title then add(out, "set title %s", quoted(chart.title)) end
  for name, axis in pairs { x = x, y = y } do
    add(out, "set %slabel %s", name, quoted(axis.label or ""))
    if axis.log then add(out, "set logscale %s", name) end
    if axis.percent then add(out, "set format %s '%%.0f%%%%'", name) end
    local scaled = axis.percent and 100 or 1
    local most = axis.max and scaled * axis.max or axis.percent and at_most_one(chart, name) and "*<105" or "*" -- no 120% over shares
    if axis.min or most ~= "*" then add(out, "set %srange [%s:%s]", name, axis.min and scaled * axis.min or "*", most) end
  end
  if x.values then
    local names = {}
    for i, v in ipairs(x.values) do names[i] = ("%s %d"):format(quoted(v), i) end
    add(out, "set xtics (%s); set xrange [0.5:%g]", table.concat(names, ", "), #x.values + 0.5)
  end
  local k = y.percent and "100*" or ""
  for i, s in ipairs(chart.series) do
    local lines = data(s, chart)
    if #lines > 0 then
      add(blocks, "$s%d << EOD\n%s\nEOD", i, table.concat(lines, "\n"))
      local title = s.name and "title " .. quoted(s.name) or "notitle"
      if s.style == "points" or x.values then
        add(plots, "$s%d using 1:(%s$2):(%s$3):(%s$4) with yerrorbars linecolor %d pointtype 7 %s", i, k, k, k, i, title)
      else
        if s.bars then add(plots, "$s%d using 1:(%s$2):(%s$3):(%s$4) with yerrorbars linecolor %d pointtype 7 pointsize 0.5 notitle", i, k, k, k, i)
        else add(plots, "$s%d using 1:(%s$3):(%s$4) with filledcurves linecolor %d notitle", i, k, k, i) end
        add(plots, "$s%d using 1:(%s$2) with linespoints linecolor %d pointtype 7 pointsize 0.5%s %s", i, k, i, s.style == "dashed" and " dashtype 2" or "", title)
      end
    end
  end
  for _, l in ipairs(chart.lines or {}) do
    if finite(l.y) then add(plots, "%.9g with lines linecolor 'gray40' dashtype 3 title %s", l.y * (y.percent and 100 or 1), quoted(l.name or "")) end
  end
  if #plots == 0 then return nil end
  return table.concat(blocks, "\n") .. "\n" .. table.concat(out, "\n") .. "\nplot " .. table.concat(plots, ", \\\n  ") .. "\n"
end

--- Draws a chart into a file by gnuplot: SVG, or PNG when the name ends in .png. Returns true, or nil and why not.
---@param chart table
---@param path string
function plot.gnuplot(chart, path)
  local script = plot.gnuplot_script(chart, path)
  if not script then return nil, "the chart has no points" end
  local ok, r = pcall(require("tl.process").run, { argv = { "gnuplot", "-" }, input = script, wall_ms = 60000 })
  if not ok then return nil, "gnuplot (Debian: gnuplot-nox) could not be started" end
  if r.exit ~= 0 then return nil, "gnuplot: " .. (r.err:match "[^\n]+[^\n]*$" or "failed") end
  return true
end

return plot
