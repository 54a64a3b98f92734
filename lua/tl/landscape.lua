--- landscape.lua: accuracy, reward or loss over a plane in v: what the adapter's numbers do around where they are. The grid's points are the
--- members of populations (tl.population), computed many at once.
---
---   local l = tl.landscape { adapter = a, problems = problems, n = 9 }     -- printed, it is drawn in the terminal
---   l:svg "landscape.svg"
---
--- The point (x, y) is origin + x dx + y dy. Left alone, the origin is where the adapter is and dx its v itself, so that x = -1 is the base
--- model and x = 0 the adapter; dy is a random direction at a right angle, as long as dx.
local sft = require "tl.sft"
local pass = require "tl.pass"
local escape = require("tl.plot").escape
local philox = require "tl.philox"
local population = require "tl.population"
local F = require "tl.ffi"
local options = require "tl.options"

local landscape = {}
local Landscape = {}
Landscape.__index = Landscape

local AT_ONCE = 32  -- points of a population

-- ---- the plane

local function dot(a, b)
  local s = 0
  for i = 1, #a do s = s + a[i] * b[i] end
  return s
end

-- a direction: numbers, an adapter (the way to it from the origin), or nil
local function direction(d, origin, adapter, what)
  if type(d) ~= "table" then F.raise(("landscape: %s is a list of %d numbers or an adapter; got %s"):format(what, #origin, F.shown(d))) end
  local to = d
  if F.class_of(d) then
    F.object("landscape: " .. what, d, "adapter")
    F.check(F.C.tl_adapter_alike(adapter.handle, d.handle))
    to = d:parameters()
    for i = 1, #to do to[i] = to[i] - origin[i] end
  end
  for i = 1, #to do if type(to[i]) ~= "number" then F.raise(("landscape: number %d of %s is %s"):format(i, what, F.shown(to[i]))) end end
  if #to ~= #origin then F.raise(("landscape: %s has %d numbers, the adapter %d"):format(what, #to, #origin)) end
  if dot(to, to) == 0 then F.raise(("landscape: %s is no direction: it is the origin, or all zero"):format(what)) end
  return to
end

-- normal numbers at a right angle to `from`, of this length
local function random_direction(n, from, length, seed, stream)
  local d = {}
  for i = 1, n do d[i] = philox.normal(seed, stream, i) end
  if from and n > 1 then
    local along = dot(d, from) / dot(from, from)
    for i = 1, n do d[i] = d[i] - along * from[i] end
  end
  local scale = length / math.sqrt(dot(d, d))
  for i = 1, n do d[i] = d[i] * scale end
  return d
end

local function plane(o)
  local origin, seed = o.origin or o.adapter:parameters(), o.seed or 0
  if type(origin) ~= "table" or #origin ~= o.adapter.n_parameters then F.raise(("landscape: origin is a list of %d numbers"):format(o.adapter.n_parameters)) end
  local n = #origin
  local dx = o.x and direction(o.x, origin, o.adapter, "x")
  if not dx then
    dx = {}
    for i = 1, n do dx[i] = origin[i] end
    if dot(dx, dx) == 0 then dx = random_direction(n, nil, 1, seed, 1) end
  end
  local dy = o.y and direction(o.y, origin, o.adapter, "y") or random_direction(n, dx, math.sqrt(dot(dx, dx)), seed, 2)
  return origin, dx, dy
end

-- n numbers, evenly spread over a range
local function ticks(what, range, n)
  if type(n) ~= "number" or n < 1 or n % 1 ~= 0 then F.raise(("landscape: n is a number of points from 1, or { along x, along y }; got %s"):format(F.shown(n))) end
  if type(range) ~= "table" or type(range[1]) ~= "number" or type(range[2]) ~= "number" or (range[2] - range[1]) - (range[2] - range[1]) ~= 0 then
    F.raise(("landscape: %s is { from, to }; got %s"):format(what, type(range) == "table" and "something else" or F.shown(range)))
  end
  local lo, hi, t = range[1], range[2], {}
  for i = 1, n do t[i] = n == 1 and lo or lo + (hi - lo) * (i - 1) / (n - 1) end
  return t
end

-- ---- what is measured at a point

-- mean over the problems' solution tokens of -logprob, of each member
local function losses(set, problems, o)
  local batch, out = pass.batch(), {}
  for k = 1, #set.adapters do
    batch:member(k - 1)
    for i, problem in ipairs(problems) do sft.add(batch, set.model, problem, o, i) end
  end
  local lp, offsets = pass.logprobs(set.model, batch, { population = set, memory = o.memory }), batch:offsets()
  for k = 1, #set.adapters do
    local from, to, sum = tonumber(offsets[(k - 1) * #problems]), tonumber(offsets[k * #problems]), 0
    for i = from, to - 1 do sum = sum - lp[i] end
    out[k] = sum / (to - from)
  end
  batch:free()
  return out
end

local function rewards(set, problems, o, field)
  local out = population.rewards(set, problems, { verifier = o.verifier or not o.reward and "verifiers.math" or nil, reward = o.reward, prompt = o.prompt,
    max_new_tokens = o.max_new_tokens or 64, temperature = o.temperature, n = o.n_samples, seed = o.seed, max_sequences = o.max_sequences })
  for k, r in ipairs(out) do out[k] = r[field] end
  return out
end

local MEASURES = {
  loss = losses,
  accuracy = function(set, problems, o) return rewards(set, problems, o, "accuracy") end,
  reward = function(set, problems, o) return rewards(set, problems, o, "reward") end,
}

local OPTIONS = options.names { any = "adapter problems metric verifier reward prompt n range x_range y_range x y origin", fn = "target progress",
  number = "temperature", count = "max_new_tokens n_samples max_sequences", seed = "seed", bytes = "memory" }

--- A measure over a plane in v. o:
--- adapter           TinyLoRA or LoRA-XS; it stays as it is
--- problems          what is measured on
--- metric            "accuracy" (greedy), "reward" (give temperature and n_samples for sampled ones), "loss" (of the problems' solutions)
--- verifier ("verifiers.math") or reward, prompt, target, max_new_tokens (64), temperature (0), n_samples (1), max_sequences
--- n (11)            points a side, or { along x, along y }
--- range ({-1, 1})   of both coordinates, or x_range, y_range
--- x, y              directions: a list of numbers, or an adapter of the same family, which is then at 1; origin: a list of numbers
--- seed (0), memory (bytes for activations of the loss), progress: function(done, total)
--- Returns { x = {...}, y = {...}, z = { { at y[1]: x[1], ... }, ... }, dx, dy, origin, metric }, best(), svg(path); printed, it is drawn.
---@param o table
function landscape.run(o)
  options.only("landscape", o, OPTIONS)
  F.object("landscape", o.adapter, "adapter")
  if type(o.problems) ~= "table" or #o.problems == 0 then error("tl.landscape wants problems", 2) end
  local metric = o.metric or "accuracy"
  local measure = MEASURES[metric] or error(('landscape: metric is "accuracy", "reward" or "loss"; got %s'):format(tostring(metric)), 2)
  local origin, dx, dy = plane(o)
  local nx, ny = unpack(type(o.n) == "table" and o.n or { o.n or 11, o.n or 11 })
  local range = o.range or { -1, 1 }
  local l = setmetatable({ x = ticks("x_range", o.x_range or range, nx), y = ticks("y_range", o.y_range or range, ny), z = {}, dx = dx, dy = dy, origin = origin, metric = metric }, Landscape)
  local points = {}
  for j, y in ipairs(l.y) do
    l.z[j] = {}
    for i, x in ipairs(l.x) do points[#points + 1] = { i = i, j = j, x = x, y = y } end
  end
  for first = 1, #points, AT_ONCE do
    local count, clones = math.min(AT_ONCE, #points - first + 1), {}
    for k = 1, count do
      local p, v = points[first + k - 1], {}
      for i = 1, #origin do v[i] = origin[i] + p.x * dx[i] + p.y * dy[i] end
      clones[k] = o.adapter:clone():set(v)
    end
    local set = population.of(clones)
    for k, value in ipairs(measure(set, o.problems, o)) do
      local p = points[first + k - 1]
      l.z[p.j][p.i] = value
    end
    set:free()
    for _, c in ipairs(clones) do c:free() end
    if o.progress then o.progress(first + count - 1, #points) end
  end
  return l
end

-- ---- the picture

local function bounds(l)
  local lo, hi = math.huge, -math.huge
  for _, row in ipairs(l.z) do
    for _, z in ipairs(row) do lo, hi = math.min(lo, z), math.max(hi, z) end
  end
  return lo, hi
end

--- The best point: its value, x, y, and v there (the lowest loss, or the highest accuracy or reward; the first of equals).
function Landscape:best()
  local sign, best = self.metric == "loss" and -1 or 1, nil
  for j, row in ipairs(self.z) do
    for i, z in ipairs(row) do
      if not best or sign * z > sign * best.value then best = { value = z, x = self.x[i], y = self.y[j] } end
    end
  end
  best.v = {}
  for i = 1, #self.origin do best.v[i] = self.origin[i] + best.x * self.dx[i] + best.y * self.dy[i] end
  return best
end

local RAMP = " .:-=+*#%@"

function Landscape:__tostring()
  local lo, hi = bounds(self)
  local lines = { ("%s over %d x %d points in v; %.4g '%s' to %.4g '%s'"):format(self.metric, #self.x, #self.y, lo, RAMP:sub(1, 1), hi, RAMP:sub(-1)) }
  for j = #self.y, 1, -1 do
    local cells = {}
    for i = 1, #self.x do
      local share = hi > lo and (self.z[j][i] - lo) / (hi - lo) or 0
      local shade = RAMP:sub(1 + math.min(9, math.floor(10 * share)), 1 + math.min(9, math.floor(10 * share)))
      cells[i] = shade:rep(3)
    end
    lines[#lines + 1] = ("%7.3g |%s|"):format(self.y[j], table.concat(cells))
  end
  lines[#lines + 1] = (" "):rep(8) .. "+" .. ("-"):rep(3 * #self.x) .. "+"
  local left, right = ("%.3g"):format(self.x[1]), ("%.3g"):format(self.x[#self.x])
  lines[#lines + 1] = (" "):rep(9) .. left .. (" "):rep(math.max(1, 3 * #self.x - #left - #right)) .. right
  local b = self:best()
  lines[#lines + 1] = ("best %.4g at x = %.3g, y = %.3g"):format(b.value, b.x, b.y)
  return table.concat(lines, "\n")
end

-- five colours of a scale that is even in lightness, from dark to light
local COLOURS = { { 42, 24, 84 }, { 52, 90, 140 }, { 40, 140, 140 }, { 105, 190, 90 }, { 250, 225, 60 } }

local function colour(share)
  local at = math.max(0, math.min(1, share)) * (#COLOURS - 1)
  local i = math.min(#COLOURS - 2, math.floor(at))
  local a, b, t = COLOURS[i + 1], COLOURS[i + 2], at - i
  return ("#%02x%02x%02x"):format(a[1] + (b[1] - a[1]) * t, a[2] + (b[2] - a[2]) * t, a[3] + (b[3] - a[3]) * t)
end

local PICTURE = options.names { any = "title labels", number = "cell" }

--- The landscape as a picture of its own (SVG). o: title, cell (36 pixels), labels = { x =, y = }. Without a path the text is returned.
---@param path string?
---@param o table?
function Landscape:svg(path, o)
  o = o or {}
  options.only("landscape:svg", o, PICTURE)
  local cell, nx, ny, left, top = o.cell or 36, #self.x, #self.y, 70, 40
  local lo, hi = bounds(self)
  local w, h, out = left + nx * cell + 90, top + ny * cell + 60, {}
  local function add(format, ...) out[#out + 1] = format:format(...) end
  add('<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" font-family="sans-serif" font-size="11">', w, h, w, h)
  add('<rect width="%d" height="%d" fill="#ffffff"/>', w, h)
  add('<text x="%d" y="22" font-size="14">%s</text>', left, escape(o.title or self.metric .. " over a plane in v"))
  for j = 1, ny do
    local y = top + (ny - j) * cell
    for i = 1, nx do
      local share = hi > lo and (self.z[j][i] - lo) / (hi - lo) or 0
      add('<rect x="%d" y="%d" width="%d" height="%d" fill="%s" shape-rendering="crispEdges"><title>x %.3g, y %.3g: %.4g</title></rect>', left + (i - 1) * cell, y, cell, cell, colour(share),
        self.x[i], self.y[j], self.z[j][i])
    end
    add('<text x="%d" y="%d" text-anchor="end">%.3g</text>', left - 6, y + cell / 2 + 4, self.y[j])
  end
  for i = 1, nx do add('<text x="%d" y="%d" text-anchor="middle">%.3g</text>', left + (i - 0.5) * cell, top + ny * cell + 16, self.x[i]) end
  local labels = o.labels or {}
  add('<text x="%d" y="%d" text-anchor="middle">%s</text>', left + nx * cell / 2, top + ny * cell + 38, escape(labels.x or "x"))
  add('<text x="14" y="%d" text-anchor="middle" transform="rotate(-90 14 %d)">%s</text>', top + ny * cell / 2, top + ny * cell / 2, escape(labels.y or "y"))
  local bar = left + nx * cell + 20
  for k = 0, 19 do add('<rect x="%d" y="%.1f" width="14" height="%.1f" fill="%s"/>', bar, top + (19 - k) * ny * cell / 20, ny * cell / 20 + 0.5, colour(k / 19)) end
  add('<text x="%d" y="%d">%.4g</text>', bar + 18, top + 10, hi)
  add('<text x="%d" y="%d">%.4g</text>', bar + 18, top + ny * cell, lo)
  add "</svg>"
  local text = table.concat(out, "\n") .. "\n"
  if not path then return text end
  require("tl.fs").write(path, text)
  return self
end

return setmetatable(landscape, { __call = function(_, o) return landscape.run(o) end })
