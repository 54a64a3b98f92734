--- math/extract.lua: where a solution's answer stands.
---
---   "strict"    the last `#### x` line or the last \boxed{x}, whichever stands later in the text
---   "hash"      the last `#### x` line only                       "boxed"  the last \boxed{x} only
---   "phrase"    strict, else what follows the last "the answer is" (or "answer:", "final answer is")
---   "flexible"  the last match of lm-evaluation-harness' flexible-extract: (-?[$0-9.,]{2,})|(-?[0-9]+); unlike there, matches
---               without a digit are passed over
---   "any"       as Math-Verify looks: the last group of boxes (boxes joined by "and", "or" or commas are one list), else after an answer
---               phrase, else the last formula between math delimiters, else the last number or expression of digits
---
--- An answer that is cut off (\boxed{12 at the end) is no answer.
local extract = {}

-- Where every brace of the text closes: { [place of {] = place of } }. One pass, whatever the text.
local function closing_braces(text)
  local closes, open, n, at = {}, {}, 0, 1
  while true do
    at = text:find("[{}\\]", at)
    if not at then return closes end
    local c = text:sub(at, at)
    if c == "{" then
      n = n + 1
      open[n] = at
    elseif c == "}" and n > 0 then
      closes[open[n]], n = at, n - 1
    end
    at = at + (c == "\\" and text:find("^[{}\\]", at + 1) and 2 or 1) -- \{ and \} are not braces
  end
end

local function find_boxed(text, out)
  local closes, at = nil, 1
  while true do
    local first, last = text:find("\\f?boxe?d?%s*", at)
    if not first then return out end
    at = last + 1
    if not text:find("^\\box%A", first) then
      closes = closes or closing_braces(text)
      local close, content = closes[last + 1], nil
      if close then
        content, at = text:sub(last + 2, close - 1), close + 1
      elseif text:sub(last + 1, last + 1) ~= "{" then
        content = text:match("^[%w.,%-]+", last + 1) -- \boxed 7
        at = last + 1 + #(content or "")
      end
      if content then out[#out + 1] = { at = first, after = at, text = content, kind = "boxed" } end
    end
  end
end

local function find_hash(text, out)
  local at = text:find("####", 1, true)
  while at do
    local following = text:find("####", at + 4, true)
    local line = text:sub(at + 4, following and following - 1):match("^[ \t]*([^\r\n]*)")
    out[#out + 1] = { at = at, text = line, kind = "hash" }
    at = following
  end
  return out
end

local function find_flexible(text, out)
  local at = 1
  while true do
    local first = text:find("[%-$0-9.,]", at)
    if not first then return out end
    local match = text:match("^%-?[$0-9.,][$0-9.,]+", first) or text:match("^%-?[0-9]+", first)
    if match and match:find("%d") then out[#out + 1] = { at = first, text = match:gsub("[,$]", ""), kind = "flexible" } end
    at = first + (match and #match or 1)
  end
end

-- the sentence after a place: up to a full stop with a space after it, or the end of the line; math in it is kept whole
local function sentence(text, at)
  local line = text:match("^[ \t]*([^\r\n]*)", at)
  local math_text = line:match("^%$([^$]+)%$") or line:match("^\\%((.-)\\%)")
  if math_text then return math_text end
  return (line:gsub("%.%s.*$", ""):gsub("%s+[Ii] hope.*$", ""):gsub("[%s.]+$", ""))
end

local function find_phrase(text, out)
  local lower, at = text:lower(), 1
  while true do
    local _, last = lower:find("answer[%w%s]- is:?%s*", at)
    local _, colon = lower:find("answer:%**%s*", at)
    if colon and (not last or colon < last) then last = colon end
    if not last then return out end
    local s = sentence(text, last + 1)
    if s ~= "" then out[#out + 1] = { at = last, text = s, kind = "phrase" } end
    at = last + 1
  end
end

-- ---- "any"

local CONNECTOR_BYTES, GAP_BYTES = 60, 8

-- do two boxes belong together, with this text between them?
local function joined(gap)
  if gap:find("\n\n", 1, true) or #gap > CONNECTOR_BYTES then return false end
  local bare = gap:gsub("\\%a+", " "):gsub("[%s{}$\\]", "")
  return #bare <= GAP_BYTES or gap:find("%f[%a]and%f[%A]") ~= nil or gap:find("%f[%a]or%f[%A]") ~= nil or gap:find("^%s*,") ~= nil
end

local function box_group(text)
  local boxes = find_boxed(text, {})
  if #boxes == 0 then return nil end
  local first = #boxes
  while first > 1 and joined(text:sub(boxes[first - 1].after, boxes[first].at - 1)) do first = first - 1 end
  local parts = {}
  for i = first, #boxes do
    if parts[#parts] ~= boxes[i].text then parts[#parts + 1] = boxes[i].text end
  end
  local percent = text:match("^%$?%s*\\?(%%)", boxes[#boxes].after) or text:match("^%$?%s*[Pp]ercent", boxes[#boxes].after) or text:match("^%$?%s*pct", boxes[#boxes].after)
  return table.concat(parts, ", ") .. (percent and "\\%" or "")
end

local environments = {
  { "%$%$", "%$%$", true }, { "\\%[", "\\%]", true }, { "\\%(", "\\%)", false }, { "%$", "%$", false },
}

-- formulas between delimiters, in their order: { at, after, text }
local function formulas(text)
  local out, at = {}, 1
  while true do
    local first, best = nil, nil
    for _, e in ipairs(environments) do
      local from, to = text:find(e[1], at)
      while from and e[1] == "%$" and text:sub(from - 1, from - 1) == "\\" do from, to = text:find(e[1], to + 1) end
      if from and (not first or from < first) then first, best = from, { e, to } end
    end
    if not first then return out end
    local e, open_end = best[1], best[2]
    local close, last = text:find(e[2], open_end + 1)
    while close and e[1] == "%$" and text:sub(close - 1, close - 1) == "\\" do close, last = text:find(e[2], last + 1) end
    if not close then
      at = open_end + 1
    else
      local inner = text:sub(open_end + 1, close - 1)
      if inner:find("%S") and (e[3] or not inner:find("\n")) then
        out[#out + 1] = { at = first, after = last + 1, text = inner }
        at = last + 1
      else
        at = e[3] and last + 1 or open_end + 1
      end
    end
  end
end

local function percent_after(text, at) return text:find("^%s*\\?%%", at) or text:find("^%s*[Pp]ercent", at) or text:find("^%s*pct", at) end

-- the last formulas that belong together, as one text, and where they end
local function formula_group(text)
  local list = formulas(text)
  local last = #list
  if last == 0 then return nil end
  local first = last
  while first > 1 do
    local gap = text:sub(list[first - 1].after, list[first].at - 1)
    if not (gap:find("^%s*,?%s*and%s*$") or gap:find("^%s*,?%s*or%s*$") or gap:find("^%s*,%s*$")) then break end
    first = first - 1
  end
  local parts = {}
  for i = first, last do
    local f = list[i].text
    local box = box_group(f)
    parts[#parts + 1] = box or f
  end
  return table.concat(parts, ", ") .. (percent_after(text, list[last].after) and "\\%" or ""), list[last].after
end

local function fraction(text)
  local found, after
  for sign, a, b, at in text:gmatch("(%-?)\\[dtc]?frac{(%-?[%d.,]+)}{(%-?[%d.,]+)}()") do found, after = sign .. "\\frac{" .. a .. "}{" .. b .. "}", at end
  return found, after
end

-- The last number or expression of digits that is not part of a word, and where it ends.
local function expression(text)
  local found, after, at = nil, 0, 1
  while true do
    local first = text:find("%d", at)
    if not first then return found, after end
    local start = first
    while start > 1 and text:find("^[%-.(]", start - 1) do start = start - 1 end
    local run = text:match("^%-?%(?%-?%.?%d[%d.,%s+%-*/^()]*", start)
    if not run then start, run = first, text:match("^[%d.,%s+%-*/^()]+", first) end
    if not run:find("%d%s*[+%-*/^]%s*[%-(]*%d") then -- no operator: one number
      run = run:match("^%-?%(?%-?[1-9]%d?%d?%f[ ,][ ,%d]*%.?%d*") or run
      if not run:gsub("^[%-(]+%d%d?%d?", "", 1):gsub("^%d%d?%d?", "", 1):find("^[ ,]%d%d%d%f[%D]") then run = text:match("^%-?[%d.][%d.]*,?%d*", start) or text:match("^[%d.]+,?%d*", first) end
    end
    local clean = run:gsub("[%s.,+%-*/^(]+$", "")
    if not clean:find("(", 1, true) then clean = clean:gsub("%)+$", "") end
    local before = text:sub(start - 1, start - 1)
    if before == "" or before:find("[%s=*$]") or before:byte() >= 128 or text:find("^\\%$", start - 2) then
      found, after = clean .. (percent_after(text, start + #clean) and "%" or ""), start + #clean
    end
    at = math.max(first + 1, start + #clean)
    while text:find("^[%w.]", at) do at = at + 1 end -- the rest of a word is no number
  end
end

-- the later of the last formula and the last plain expression
local function later(text, latex, expr)
  local formula, formula_end, plain, plain_end
  if latex then
    formula, formula_end = formula_group(text)
    if not formula then formula, formula_end = fraction(text) end
  end
  if expr then plain, plain_end = expression(text) end
  if formula and plain then return plain_end > formula_end and plain or formula end
  return formula or plain
end

local PHRASE_BYTES = 160

local function find_any(text, kinds)
  local latex, expr = not kinds or kinds.latex, not kinds or kinds.expr
  local lower, final, from = text:lower(), nil, nil
  for at in lower:gmatch("final answer()") do
    local phrase = lower:sub(at, at + 110):match("^[^\n]-%sis:?()")
    final = phrase and at + phrase - 1 or final
  end
  for at in lower:gmatch("()answer") do from = at end
  local answer
  if final then
    local rest = text:sub(final, final + PHRASE_BYTES):gsub("%.%s+[Ii] hope.*$", "")
    answer = latex and box_group(rest) or later(rest, latex, expr)
  end
  if not answer and latex then answer = box_group(text) end
  if not answer and from then answer = later(text:sub(from, from + PHRASE_BYTES), latex, expr) end
  if not answer then answer = later(text, latex, expr) end
  return answer and { { at = 1, text = answer, kind = "any" } } or {}
end

local function by_place(a, b) return a.at < b.at end

extract.finders = {
  hash = function(text) return find_hash(text, {}) end,
  boxed = function(text) return find_boxed(text, {}) end,
  flexible = function(text) return find_flexible(text, {}) end,
  any = find_any,
  strict = function(text)
    local all = find_boxed(text, find_hash(text, {}))
    if #all > 1 then table.sort(all, by_place) end
    return all
  end,
  phrase = function(text)
    local all = find_boxed(text, find_hash(text, {}))
    if #all == 0 then return find_phrase(text, {}) end
    table.sort(all, by_place)
    return all
  end,
}

return extract
