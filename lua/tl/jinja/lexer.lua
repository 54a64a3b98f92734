--- lexer.lua: a template's source to tokens, with Jinja's whitespace rules as transformers sets them:
--- trim_blocks (the newline after a block tag goes), lstrip_blocks (blanks between a line's start and a block tag go),
--- "-" inside a tag takes all white space on that side, "+" keeps what the two rules would take, and one newline at the
--- end of the template goes.
---
--- A token is {kind, value, line}; kinds: data, name, string, int, float, op, and the marks {{ }} {% %}.
local text = require "tl.jinja.text"
local V = require "tl.jinja.values"

local lexer = {}

local TWO = { ["//"] = true, ["**"] = true, ["=="] = true, ["!="] = true, [">="] = true, ["<="] = true }
local CLOSES = { [")"] = "(", ["]"] = "[", ["}"] = "{" }
local ESCAPES = { n = "\n", t = "\t", r = "\r", b = "\b", f = "\f", v = "\v", a = "\a", ["\\"] = "\\",
  ["'"] = "'", ['"'] = '"', ["\n"] = "" }

local Lexer = {}
Lexer.__index = Lexer

local function fail_at(line, message, ...)
  error(setmetatable({ message = message:format(...), line = line }, V), 0)
end

-- Everything moves forward only, so lines are counted as the position passes them.
function Lexer:line_at(at)
  while self.newline < at do
    self.line = self.line + 1
    self.newline = self.source:find("\n", self.newline + 1, true) or math.huge
  end
  return self.line
end

function Lexer:add(kind, value, at)
  self.tokens[#self.tokens + 1] = { kind = kind, value = value, line = self:line_at(at) }
end

-- The position after all white space from at.
local function after_space(s, at)
  while at <= #s do
    local next_at = s:match("^[ \t-\r\28-\31]+()", at)
    if next_at then
      at = next_at
    else
      local c = s:match("^[\194-\244][\128-\191]+", at)
      if not c or not text.is_space(c) then break end
      at = at + #c
    end
  end
  return at
end

-- After a closing mark: where the text goes on. sign is what stood before the mark.
local function after_tag(s, at, sign, trims)
  if sign == "-" then return after_space(s, at) end
  if trims and sign ~= "+" and s:sub(at, at) == "\n" then return at + 1 end
  return at
end

-- Text before a tag, as its sign and lstrip_blocks leave it.
local function before_tag(data, sign, is_block, line_starting)
  if sign == "-" then return text.rstrip(data) end
  if sign == "+" or not is_block then return data end
  local head, tail = data:match "^(.*\n)([^\n]*)$"
  if not head then
    if not line_starting then return data end
    head, tail = "", data
  end
  return text.strip(tail) == "" and head or data
end

local function unescape(s, line)
  if not s:find("\\", 1, true) then return s end
  local out, at = {}, 1
  while at <= #s do
    local slash = s:find("\\", at, true)
    if not slash then break end
    out[#out + 1] = s:sub(at, slash - 1)
    local c = s:sub(slash + 1, slash + 1)
    local digits = c == "x" and s:match("^%x%x", slash + 2) or c == "u" and s:match("^%x%x%x%x", slash + 2)
      or c == "U" and s:match("^%x%x%x%x%x%x%x%x", slash + 2)
    local octal = s:match("^[0-7][0-7]?[0-7]?", slash + 1)
    if ESCAPES[c] then
      out[#out + 1] = ESCAPES[c]
      at = slash + 2
    elseif digits then
      local code = tonumber(digits, 16)
      if code > 0x10FFFF then fail_at(line, "a string has the escape \\%s%s, which is no character", c, digits) end
      out[#out + 1] = text.char(code)
      at = slash + 2 + #digits
    elseif octal then
      out[#out + 1] = text.char(tonumber(octal, 8))
      at = slash + 1 + #octal
    else
      out[#out + 1] = "\\"
      at = slash + 1
    end
  end
  out[#out + 1] = s:sub(at)
  return table.concat(out)
end

function Lexer:string(at)
  local s, quote = self.source, self.source:sub(at, at)
  local stop = at + 1
  while true do
    local i = s:find("[\\" .. quote .. "]", stop)
    if not i then fail_at(self:line_at(at), "a string that begins here has no end") end
    if s:sub(i, i) == quote then
      self:add("string", unescape(s:sub(at + 1, i - 1), self:line_at(at)), at)
      return i + 1
    end
    stop = i + 2
  end
end

function Lexer:number(at)
  local s = self.source
  local whole = s:match("^[%d_]*%d", at)
  local stop = at + #whole
  local fraction = s:match("^%.%d[%d_]*", stop) or ""
  local exponent = s:match("^[eE][+-]?%d+", stop + #fraction) or ""
  local literal = (whole .. fraction .. exponent):gsub("_", "")
  self:add(fraction .. exponent ~= "" and "float" or "int", tonumber(literal), at)
  return stop + #fraction + #exponent
end

-- The inside of {{ }} or {% %}; returns the position after it.
function Lexer:inside(at, close)
  local s, open, began = self.source, {}, at
  while true do
    at = after_space(s, at)
    if at > #s then fail_at(self:line_at(began), "a tag that begins here has no '%s'", close) end
    local sign, c = s:match("^[-+]?", at), s:sub(at, at)
    if #open == 0 and s:sub(at + #sign, at + #sign + 1) == close and not (sign == "+" and close == "}}") then
      self:add(close, nil, at)
      local stop = after_tag(s, at + #sign + 2, sign, close == "%}")
      self.line_starting = s:sub(stop - 1, stop - 1) == "\n"
      return stop
    end
    local name = s:match("^[%a_\128-\255][%w_\128-\255]*", at)
    if name then
      self:add("name", name, at)
      at = at + #name
    elseif c:find "%d" then
      at = self:number(at)
    elseif c == "'" or c == '"' then
      at = self:string(at)
    else
      local op = TWO[s:sub(at, at + 1)] and s:sub(at, at + 1) or c
      if not op:find "^[-+*/%%~%[%](){}<>=.:|,;!]" then fail_at(self:line_at(at), "unexpected character '%s'", c) end
      if op == "(" or op == "[" or op == "{" then
        open[#open + 1] = op
      elseif CLOSES[op] then
        local opened = table.remove(open)
        if opened ~= CLOSES[op] then
          fail_at(self:line_at(at), "found '%s', expected %s", op, opened and "what closes '" .. opened .. "'" or "no closing bracket: none is open")
        end
      end
      self:add("op", op, at)
      at = at + #op
    end
  end
end

function Lexer:comment(at)
  local s = self.source
  local stop = s:find("#}", at, true)
  if not stop then fail_at(self:line_at(at), "a comment that begins here has no '#}'") end
  local sign = stop > at and s:sub(stop - 1, stop - 1) or ""
  if sign ~= "-" and sign ~= "+" then sign = "" end
  local next_at = after_tag(s, stop + 2, sign, true)
  self.line_starting = s:sub(next_at - 1, next_at - 1) == "\n"
  return next_at
end

-- {% raw %} ... {% endraw %}; at is after the opening tag
function Lexer:raw(at)
  local s, search = self.source, at
  while true do
    local i = s:find("{%", search, true)
    if not i then fail_at(self:line_at(at), "'raw' that begins here has no 'endraw'") end
    local sign, close_sign, stop = s:match("^([-+]?)%s*endraw%s*([-+]?)%%}()", i + 2)
    if stop then
      self:add("data", before_tag(s:sub(at, i - 1), sign, true, false), at)
      local next_at = after_tag(s, stop, close_sign, true)
      self.line_starting = s:sub(next_at - 1, next_at - 1) == "\n"
      return next_at
    end
    search = i + 2
  end
end

function Lexer:run()
  local s, at = self.source, 1
  while at <= #s do
    local tag = s:find("{[{%%#]", at)
    if not tag then
      self:add("data", s:sub(at), at)
      break
    end
    local mark = s:sub(tag, tag + 1)
    local sign = s:match("^[-+]?", tag + 2)
    local data = before_tag(s:sub(at, tag - 1), sign, mark ~= "{{", self.line_starting)
    if data ~= "" then self:add("data", data, at) end
    at = tag + 2 + #sign
    local raw_sign, raw_stop = s:match("^%s*raw%s*(%-?)%%}()", at)
    if mark == "{#" then
      at = self:comment(at)
    elseif mark == "{%" and raw_stop then
      at = self:raw(raw_sign == "-" and after_space(s, raw_stop) or raw_stop)
    else
      self:add(mark, nil, tag)
      at = self:inside(at, mark == "{{" and "}}" or "%}")
    end
  end
  self:add("eof", nil, #s)
  return self.tokens
end

--- The tokens of a template.
---@param source string
function lexer.tokens(source)
  source = source:gsub("\r\n?", "\n"):gsub("\n$", "")
  return setmetatable({ source = source, tokens = {}, newline = source:find("\n", 1, true) or math.huge, line = 1,
    line_starting = true }, Lexer):run()
end

return lexer
