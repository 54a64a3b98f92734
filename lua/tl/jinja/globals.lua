--- globals.lua: the functions that every template has.
local V = require "tl.jinja.values"

local globals = {}
local MAX_RANGE = 100000  -- the sandbox's

local function whole(v)
  local x, float = V.number(V.defined(v))
  if not x or float then V.fail("range wants integers, not %s", V.python_type(v)) end
  return x
end

globals.range = V.callable(function(args)
  if #args < 1 or #args > 3 then V.fail("range wants one to three integers, %d given", #args) end
  local start, stop, step = 0, whole(args[1]), 1
  if args[2] ~= nil then start, stop, step = stop, whole(args[2]), args[3] == nil and 1 or whole(args[3]) end
  if step == 0 then V.fail "range's step is not 0" end
  if math.max(0, math.ceil((stop - start) / step)) > MAX_RANGE then V.fail("range is limited to %d elements", MAX_RANGE) end
  local out = {}
  for i = start, stop - (step > 0 and 1 or -1), step do out[#out + 1] = i end
  V.spend_list(#out)
  return V.range(out, ("range(%d, %d%s)"):format(start, stop, step ~= 1 and (", %d"):format(step) or ""))
end)

-- the pairs of dict(...)'s arguments, one after another, to set(key, value)
local function pairs_of(args, named, set)
  local from = args[1]
  if #args > 1 then V.fail("dict takes one value, %d given", #args) end
  if from ~= nil and V.type(from) == "dict" then
    for _, k in ipairs(V.keys(from)) do set(k, from[k]) end
  elseif from ~= nil then
    for _, pair in ipairs(V.iter(V.defined(from))) do
      local two = V.iter(pair)
      if #two ~= 2 then V.fail("dict wants pairs; one has %d elements", #two) end
      set(two[1], two[2])
    end
  end
  for _, k in ipairs(named) do set(k, named[k]) end
end

globals.dict = V.callable(function(args, named)
  local d = V.dict()
  pairs_of(args, named, function(k, v) V.set(d, k, v) end)
  return d
end)

globals.namespace = V.callable(function(args, named)
  local n = V.namespace()
  pairs_of(args, named, function(k, v) V.set_field(n, k, v) end)
  return n
end)

globals.raise_exception = V.callable(function(args) V.fail("%s", V.string(args[1] == nil and "" or args[1])) end)

globals.strftime_now = V.callable(function(args)
  if type(args[1]) ~= "string" then V.fail "strftime_now wants a format" end
  -- "!" and "*" at the beginning are os.date's own
  local own, format = args[1]:match "^([!*]*)(.*)$"
  return own .. os.date(format)
end)

globals.joiner = V.callable(function(args, named)
  local sep, used = args[1] or named.sep or ", ", false
  return V.callable(function()
    if used then return sep end
    used = true
    return ""
  end)
end)

-- a namespace with next(), reset() and current
globals.cycler = V.callable(function(args)
  if #args == 0 then V.fail "at least one item has to be provided" end
  local c, at = V.namespace(), 0
  local function show() c.current = args[at + 1] end
  c.next = V.callable(function()
    local v = args[at + 1]
    at = (at + 1) % #args
    show()
    return v
  end)
  c.reset = V.callable(function()
    at = 0
    show()
    return V.none
  end)
  show()
  return c
end)

return globals
