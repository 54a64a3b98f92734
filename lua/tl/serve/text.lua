--- serve/text.lua: a completion's text as it grows: whole characters, without what a stop string cuts off, and without what may yet turn
--- out to be the beginning of one.
local Text = {}
Text.__index = Text

local function new(tokenizer, stops)
  local longest = 0
  for _, s in ipairs(stops) do longest = math.max(longest, #s) end
  return setmetatable({ decoder = tokenizer:stream { skip_special = true }, stops = stops, longest = longest, text = "", sent = 0, last = 0 }, Text)
end

-- up to where the text can be shown: a tail that begins a stop string is held back
function Text:shown()
  for n = math.min(self.longest - 1, #self.text - self.sent), 1, -1 do
    local tail = self.text:sub(-n)
    for _, s in ipairs(self.stops) do
      if s:sub(1, n) == tail then return #self.text - n end
    end
  end
  return #self.text
end

local function part(self, upto)
  local text = self.text:sub(self.sent + 1, upto)
  self.sent = math.max(self.sent, upto)
  return text
end

local function take(self, ids, from)
  for i = from, #ids do
    local text = self.decoder:push(ids[i])
    self.text, self.last = self.text .. text, #text
  end
end

--- Takes ids; returns what can be shown now.
function Text:push(ids)
  take(self, ids, 1)
  return part(self, self:shown())
end

--- Takes the last ids, from the from-th on, and returns the rest. stopped: the completion ended by itself, so if a stop string ends in its
--- last token, the text ends before that.
function Text:finish(ids, from, stopped)
  take(self, ids, from)
  local tail = self.decoder:finish()
  self.text, self.last = self.text .. tail, self.last + #tail
  local upto = #self.text
  for _, s in ipairs(stopped and self.stops or {}) do
    local from = math.max(1, #self.text - self.last - #s + 2)
    local at = s ~= "" and self.text:find(s, from, true)
    if at then upto = math.min(upto, at - 1) end
  end
  self.text = self.text:sub(1, upto)
  return part(self, upto)
end

return { new = new }
