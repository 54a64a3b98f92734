--- parser.lua: tokens to a tree. A node is {t = kind, line = , ...}; eval.lua has one function for each kind.
--- The grammar and the precedence of operators are Jinja's: if-else, or, and, not, comparisons, + -, ~, * / // %, **, unary,
--- then calls, subscripts, filters and tests.
local lexer = require "tl.jinja.lexer"
local V = require "tl.jinja.values"

local parser = {}
local P = {}
P.__index = P

local CONSTANTS = { ["true"] = true, ["True"] = true, ["false"] = false, ["False"] = false, none = V.none, None = V.none }
local COMPARE = { ["=="] = true, ["!="] = true, ["<"] = true, ["<="] = true, [">"] = true, [">="] = true }

function P:fail(message, ...)
  error(setmetatable({ message = message:format(...), line = self.token.line }, V), 0)
end

function P:next()
  local token = self.token
  self.at = self.at + 1
  self.token = self.tokens[self.at] or token
  return token
end

local function shown(token)
  if token.kind == "eof" then return "the end of the template" end
  if token.kind == "data" then return "text" end
  return "'" .. tostring(token.value or token.kind) .. "'"
end

function P:is(kind, value) return self.token.kind == kind and (value == nil or self.token.value == value) end
function P:is_op(value) return self:is("op", value) end
function P:is_name(value) return self:is("name", value) end

function P:accept(kind, value)
  if self:is(kind, value) then return self:next() end
end

function P:expect(kind, value)
  if self:is(kind, value) then return self:next() end
  self:fail("expected %s, found %s", value and "'" .. value .. "'" or kind == "%}" and "'%}'" or "a " .. kind, shown(self.token))
end

-- Expressions and blocks inside one another; n is 1 on the way in, -1 on the way out.
function P:deeper(n)
  self.depth = self.depth + n
  if self.depth > V.MAX_DEPTH then self:fail("nested more than %d deep", V.MAX_DEPTH) end
end

function P:node(t, fields)
  fields = fields or {}
  fields.t, fields.line = t, fields.line or self.token.line
  return fields
end

-- ---------------------------------------------------------------- expressions
function P:expression(no_condition)
  self:deeper(1)
  local line, value = self.token.line, self:binary(1)
  while not no_condition and self:accept("name", "if") do
    local condition, otherwise = self:binary(1), nil
    if self:accept("name", "else") then otherwise = self:expression() end
    value = self:node("condition", { line = line, condition = condition, yes = value, no = otherwise })
  end
  self:deeper(-1)
  return value
end

-- Levels of binary operators, loosest first; each asks for the next one on both sides.
local LEVELS = {
  { kind = "name", ["or"] = "or" },
  { kind = "name", ["and"] = "and" },
  "not",
  "compare",
  { kind = "op", ["+"] = "add", ["-"] = "sub" },
  { kind = "op", ["~"] = "concat" },
  { kind = "op", ["*"] = "mul", ["/"] = "div", ["//"] = "floordiv", ["%"] = "mod" },
  { kind = "op", ["**"] = "pow" },
}

function P:binary(level)
  local ops = LEVELS[level]
  if not ops then return self:unary() end
  if ops == "not" then
    local line = self.token.line
    if self:accept("name", "not") then
      self:deeper(1)
      local node = self:node("not", { line = line, value = self:binary(level) })
      self:deeper(-1)
      return node
    end
    return self:binary(level + 1)
  end
  if ops == "compare" then return self:compare(level) end
  local left = self:binary(level + 1)
  while self.token.kind == ops.kind and ops[self.token.value] and self.token.value ~= "kind" do
    local line, name = self.token.line, ops[self:next().value]
    left = self:node(name, { line = line, left = left, right = self:binary(level + 1) })
  end
  return left
end

function P:compare(level)
  local line, first, parts = self.token.line, self:binary(level + 1), {}
  while true do
    local op
    if self.token.kind == "op" and COMPARE[self.token.value] then
      op = self:next().value
    elseif self:accept("name", "in") then
      op = "in"
    elseif self:is_name "not" and (self.tokens[self.at + 1] or {}).value == "in" then
      self:next()
      self:next()
      op = "not in"
    else
      break
    end
    parts[#parts + 1] = { op = op, value = self:binary(level + 1) }
  end
  return #parts == 0 and first or self:node("compare", { line = line, first = first, parts = parts })
end

function P:unary(no_filter)
  local line, value = self.token.line, nil
  local sign = self:accept("op", "-") or self:accept("op", "+")
  if sign then
    self:deeper(1)
    value = self:node(sign.value == "-" and "neg" or "pos", { line = line, value = self:unary(true) })
    self:deeper(-1)
  else
    value = self:primary()
  end
  value = self:postfix(value)
  return no_filter and value or self:filters_and_tests(value)
end

function P:primary()
  local token = self.token
  if token.kind == "name" then
    self:next()
    if CONSTANTS[token.value] ~= nil then return self:node("constant", { line = token.line, value = CONSTANTS[token.value] }) end
    return self:node("name", { line = token.line, name = token.value })
  end
  if token.kind == "string" then
    local parts = {}
    while self:is "string" do parts[#parts + 1] = self:next().value end
    return self:node("constant", { line = token.line, value = table.concat(parts) })
  end
  if token.kind == "int" then return self:node("constant", { value = self:next().value }) end
  if token.kind == "float" then return self:node("constant", { value = V.float(self:next().value) }) end
  if self:accept("op", "(") then
    local value = self:tuple { explicit = true, close = ")" }
    self:expect("op", ")")
    return value
  end
  if self:accept("op", "[") then return self:node("list", { line = token.line, items = self:items "]" }) end
  if self:accept("op", "{") then return self:dict(token.line) end
  self:fail("expected a value, found %s", shown(token))
end

function P:items(close)
  local items = {}
  while not self:is_op(close) do
    if #items > 0 then
      self:expect("op", ",")
      if self:is_op(close) then break end
    end
    items[#items + 1] = self:expression()
  end
  self:expect("op", close)
  return items
end

function P:dict(line)
  local keys, values = {}, {}
  while not self:is_op "}" do
    if #keys > 0 then
      self:expect("op", ",")
      if self:is_op "}" then break end
    end
    keys[#keys + 1] = self:expression()
    self:expect("op", ":")
    values[#values + 1] = self:expression()
  end
  self:expect("op", "}")
  return self:node("dict", { line = line, keys = keys, values = values })
end

-- a, b, c as a tuple, or the one expression there is
function P:tuple(o)
  local line, items, comma = self.token.line, {}, false
  while true do
    if #items > 0 then
      if not self:accept("op", ",") then break end
      comma = true
    end
    if self:is "%}" or self:is "}}" or (o.close and self:is_op(o.close)) or (o.stop and self:is_name(o.stop)) then break end
    items[#items + 1] = self:expression(o.no_condition)
  end
  if #items == 1 and not comma then return items[1] end
  if #items == 0 and not o.explicit then self:fail("expected an expression, found %s", shown(self.token)) end
  return self:node("tuple", { line = line, items = items })
end

function P:postfix(value)
  while true do
    local line = self.token.line
    if self:accept("op", ".") then
      if self:is "int" then
        value = self:node("item", { line = line, value = value, key = self:node("constant", { value = self:next().value }) })
      else
        value = self:node("attribute", { line = line, value = value, name = self:expect("name").value })
      end
    elseif self:accept("op", "[") then
      value = self:subscript(value, line)
    elseif self:is_op "(" then
      value = self:call(value)
    else
      return value
    end
  end
end

function P:subscript(value, line)
  local parts, colons = {}, 0
  while not self:is_op "]" do
    if self:accept("op", ":") then
      colons = colons + 1
    else
      if parts[colons + 1] then self:fail("expected ']', found %s", shown(self.token)) end
      parts[colons + 1] = self:tuple { close = "]" }
    end
  end
  self:expect("op", "]")
  if colons == 0 then
    if not parts[1] then self:fail "an empty subscript" end
    return self:node("item", { line = line, value = value, key = parts[1] })
  end
  if colons > 2 then self:fail "a slice has at most two colons" end
  return self:node("slice", { line = line, value = value, start = parts[1], stop = parts[2], step = parts[3] })
end

-- ( ... ) of a call, a filter or a test
function P:arguments()
  local args = {}
  self:expect("op", "(")
  while not self:is_op ")" do
    if #args > 0 then
      self:expect("op", ",")
      if self:is_op ")" then break end
    end
    local star = self:accept("op", "*") and "*" or self:accept("op", "**") and "**"
    local name
    if not star and self:is "name" and (self.tokens[self.at + 1] or {}).value == "=" then
      name = self:next().value
      self:next()
    end
    args[#args + 1] = { star = star, name = name, value = self:expression() }
  end
  self:expect("op", ")")
  return args
end

function P:call(value)
  local line = self.token.line
  return self:node("call", { line = line, value = value, args = self:arguments() })
end

function P:dotted()
  local name = self:expect("name").value
  while self:accept("op", ".") do name = name .. "." .. self:expect("name").value end
  return name
end

function P:filter(value)
  local line, name = self.token.line, self:dotted()
  return self:node("filter", { line = line, value = value, name = name, args = self:is_op "(" and self:arguments() or {} })
end

local NO_ARGUMENT = { ["else"] = true, ["or"] = true, ["and"] = true, ["if"] = true, ["is"] = true, ["not"] = true, ["in"] = true }

function P:test(value)
  local line, negated = self.token.line, self:accept("name", "not") ~= nil
  local name, args, token = self:dotted(), {}, nil
  token = self.token
  if self:is_op "(" then
    args = self:arguments()
  elseif token.kind == "name" and not NO_ARGUMENT[token.value] or token.kind == "string" or token.kind == "int"
    or token.kind == "float" or token.kind == "op" and (token.value == "[" or token.value == "{") then
    args = { { value = self:postfix(self:primary()) } }
  end
  return self:node("test", { line = line, value = value, name = name, args = args, negated = negated })
end

function P:filters_and_tests(value)
  while true do
    if self:accept("op", "|") then value = self:filter(value)
    elseif self:accept("name", "is") then value = self:test(value)
    elseif self:is_op "(" then value = self:call(value)
    else return value end
  end
end

-- ---------------------------------------------------------------- statements
function P:target(stop)
  local line, items, comma = self.token.line, {}, false
  repeat
    if #items > 0 and (stop and self:is_name(stop) or self:is_op "=") then break end
    if self:accept("op", "(") then
      items[#items + 1] = self:target()
      self:expect("op", ")")
    else
      local name = self:expect("name").value
      if self:accept("op", ".") then
        items[#items + 1] = self:node("field", { name = name, field = self:expect("name").value })
      else
        items[#items + 1] = self:node("name", { name = name })
      end
    end
    local more = self:accept("op", ",")
    comma = comma or more ~= nil
  until not more
  if #items == 1 and not comma then return items[1] end
  return self:node("tuple", { line = line, items = items })
end

-- Statements up to a tag named in `ends`; the tag's name is taken, its rest is not.
function P:body(ends)
  local nodes = {}
  self:deeper(1)
  while true do
    local token = self.token
    if token.kind == "eof" then
      if ends then self:fail("'%s' is missing", ends[#ends]) end
      self:deeper(-1)
      return nodes
    elseif token.kind == "data" then
      nodes[#nodes + 1] = self:node("data", { text = self:next().value })
    elseif token.kind == "{{" then
      self:next()
      nodes[#nodes + 1] = self:node("output", { line = token.line, value = self:tuple {} })
      self:expect "}}"
    else
      self:expect "{%"
      local name = self:expect("name").value
      for _, e in ipairs(ends or {}) do
        if name == e then
          self:deeper(-1)
          return nodes, name
        end
      end
      local parse = P["tag_" .. name]
      if not parse then self:fail("unknown tag '%s'%s", name, ends and (" ('%s' is still open)"):format(ends[#ends]) or "") end
      nodes[#nodes + 1] = parse(self, token.line)
    end
  end
end

function P:block(...)
  self:expect "%}"
  return self:body { ... }
end

-- The body of something that is called, which the loops around it cannot be left from.
function P:called_body(ending)
  local loops = self.loops
  self.loops = 0
  local body = self:block(ending)
  self.loops = loops
  return body
end

function P:tag_for(line)
  local target = self:target "in"
  self:expect("name", "in")
  local node = self:node("for", { line = line, target = target, iter = self:tuple { no_condition = true, stop = "recursive" } })
  if self:accept("name", "if") then node.condition = self:expression() end
  node.recursive = self:accept("name", "recursive") ~= nil
  local ended
  self.loops = self.loops + 1
  node.body, ended = self:block("else", "endfor")
  self.loops = self.loops - 1
  if ended == "else" then node.otherwise = self:block "endfor" end
  self:expect "%}"
  return node
end

function P:tag_if(line)
  local branches, otherwise, ended = {}, nil, nil
  repeat
    local condition, body = self:tuple { no_condition = false }, nil
    body, ended = self:block("elif", "else", "endif")
    branches[#branches + 1] = { condition = condition, body = body }
  until ended ~= "elif"
  if ended == "else" then otherwise = self:block "endif" end
  self:expect "%}"
  return self:node("if", { line = line, branches = branches, otherwise = otherwise })
end

function P:tag_set(line)
  local target = self:target()
  if self:accept("op", "=") then
    local node = self:node("set", { line = line, target = target, value = self:tuple {} })
    self:expect "%}"
    return node
  end
  local filters = {}
  while self:accept("op", "|") do filters[#filters + 1] = self:filter() end
  local node = self:node("set_block", { line = line, target = target, filters = filters, body = self:block "endset" })
  self:expect "%}"
  return node
end

function P:parameters()
  local list = {}
  self:expect("op", "(")
  while not self:is_op ")" do
    if #list > 0 then self:expect("op", ",") end
    local name = self:expect("name").value
    list[#list + 1] = { name = name, default = self:accept("op", "=") and self:expression() or nil }
  end
  self:expect("op", ")")
  return list
end

function P:tag_macro(line)
  local name = self:expect("name").value
  local parameters = self:parameters()
  local node = self:node("macro", { line = line, name = name, parameters = parameters, body = self:called_body "endmacro" })
  self:expect "%}"
  return node
end

function P:tag_call(line)
  local parameters = self:is_op "(" and self:parameters() or {}
  local call = self:expression()
  if call.t ~= "call" then self:fail "'call' wants a call of a macro" end
  local node = self:node("call_block", { line = line, parameters = parameters, call = call, body = self:called_body "endcall" })
  self:expect "%}"
  return node
end

function P:tag_filter(line)
  local filters = { self:filter() }
  while self:accept("op", "|") do filters[#filters + 1] = self:filter() end
  local node = self:node("filter_block", { line = line, filters = filters, body = self:block "endfilter" })
  self:expect "%}"
  return node
end

function P:tag_with(line)
  local sets = {}
  while not self:is "%}" do
    if #sets > 0 then self:expect("op", ",") end
    local target = self:target()
    self:expect("op", "=")
    sets[#sets + 1] = { target = target, value = self:expression() }
  end
  local node = self:node("with", { line = line, sets = sets, body = self:block "endwith" })
  self:expect "%}"
  return node
end

-- transformers' mark of what the assistant wrote: its text stays as it is
function P:tag_generation(line)
  local node = self:node("with", { line = line, sets = {}, body = self:called_body "endgeneration" })
  self:expect "%}"
  return node
end

local function jump(kind)
  return function(self, line)
    if self.loops == 0 then self:fail("'%s' outside a loop", kind) end
    self:expect "%}"
    return self:node(kind, { line = line })
  end
end
P.tag_break, P.tag_continue = jump "break", jump "continue"

--- The tree of a template.
---@param source string
function parser.parse(source)
  local tokens = lexer.tokens(source)
  return (setmetatable({ tokens = tokens, at = 1, token = tokens[1], depth = 0, loops = 0 }, P):body())
end

return parser
