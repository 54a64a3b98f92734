--- tests.lua: what may follow `is`. tests.name(value, argument) -> boolean
local V = require "tl.jinja.values"
local text = require "tl.jinja.text"

local tests = {}

local function of_type(...)
  local names = {}
  for _, n in ipairs { ... } do names[n] = true end
  return function(v) return names[V.type(v)] == true end
end

tests.defined = function(v) return not V.is_undefined(v) end
tests.undefined = V.is_undefined
tests.none = function(v) return v == V.none end
tests.string = of_type "string"
tests.number = of_type("int", "float", "boolean")
tests.integer = of_type "int"
tests.float = of_type "float"
tests.boolean = of_type "boolean"
tests.mapping = of_type "dict"
tests.sequence = of_type("list", "string", "dict", "undefined")
tests.iterable = of_type("list", "string", "dict", "undefined", "view", "generator", "loop")
tests.callable = of_type("callable", "undefined")
tests["true"] = function(v) return v == true end
tests["false"] = function(v) return v == false end
tests.escaped = function() return false end

local function integer(v)
  local x = V.number(V.defined(v))
  if not x then V.fail("a number is wanted, not %s", V.python_type(v)) end
  return x
end
tests.odd = function(v) return integer(v) % 2 == 1 end
tests.even = function(v) return integer(v) % 2 == 0 end
tests.divisibleby = function(v, n)
  if integer(n) == 0 then V.fail "division by zero" end
  return integer(v) % integer(n) == 0
end

tests.eq = V.equal
tests.ne = function(a, b) return not V.equal(a, b) end
tests.lt = function(a, b) return V.less(a, b, "<") end
tests.gt = function(a, b) return V.less(b, a, ">") end
tests.le = function(a, b) return V.less(a, b, "<=") or V.equal(a, b) end
tests.ge = function(a, b) return V.less(b, a, ">=") or V.equal(a, b) end
tests.equalto, tests["=="], tests["!="] = tests.eq, tests.eq, tests.ne
tests.lessthan, tests.greaterthan = tests.lt, tests.gt
tests["<"], tests[">"], tests["<="], tests[">="] = tests.lt, tests.gt, tests.le, tests.ge
tests["in"] = function(v, container) return V.contains(container, v) end
tests.sameas = function(a, b) return rawequal(a, b) end
tests.lower = function(v) return text.is_lower(V.string(v)) end
tests.upper = function(v) return text.is_upper(V.string(v)) end
tests.filter = function(v) return rawget(require "tl.jinja.filters", v) ~= nil end
tests.test = function(v) return rawget(tests, v) ~= nil end

return tests
