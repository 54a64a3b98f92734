--- access.lua: what a dot and what brackets give: the methods and keys of values, and the fields of `loop`.
local V = require "tl.jinja.values"
local methods = require "tl.jinja.methods"

local access = {}

-- The fields of a loop {items = so far, i = , pull = function(n) -> the n-th or nil, level = , last_seen = }.
local LOOP = {
  index = function(l) return l.i end,
  index0 = function(l) return l.i - 1 end,
  first = function(l) return l.i == 1 end,
  last = function(l) return l.pull(l.i + 1) == nil end,
  length = function(l) l.pull(math.huge) return #l.items end,
  revindex = function(l) l.pull(math.huge) return #l.items - l.i + 1 end,
  revindex0 = function(l) l.pull(math.huge) return #l.items - l.i end,
  previtem = function(l)
    local v = l.items[l.i - 1]
    if v == nil then return V.undefined "there is no previous item" end
    return v
  end,
  nextitem = function(l)
    local v = l.pull(l.i + 1)
    if v == nil then return V.undefined "there is no next item" end
    return v
  end,
  depth = function(l) return l.level end,
  depth0 = function(l) return l.level - 1 end,
  cycle = function(l)
    return V.callable(function(args)
      if #args == 0 then V.fail "no items for cycling given" end
      return args[(l.i - 1) % #args + 1]
    end)
  end,
  changed = function(l)
    return V.callable(function(args)
      local same = l.last_seen and V.equal(V.list(l.last_seen), V.list(args))
      l.last_seen = args
      return not same
    end)
  end,
}

local function missing(v, name)
  return V.undefined(("'%s object' has no attribute '%s'"):format(V.python_type(v), V.string(name)))
end

-- a key of a mapping or a field; nil: there is none
local function field(v, name)
  local t = V.type(v)
  if t == "loop" then return LOOP[name] and LOOP[name](v) end
  if t == "dict" or t == "namespace" then return rawget(v, name) end
end

--- v.name: a method first, then a key.
function access.attribute(v, name)
  V.defined(v)
  local found = methods.find(v, name)
  if found == nil then found = field(v, name) end
  if found == nil then return missing(v, name) end
  return found
end

-- what Python takes as a key; nil for what it cannot hash, which then is no key of anything
local function key_of(key)
  local ok, k = pcall(V.hashable, key)
  return ok and k or nil
end

--- v[key]: a key or an element first, then a method.
function access.item(v, key)
  V.defined(v)
  local t, i, float = V.type(v), V.number(key)
  if t == "string" or t == "list" then
    if i and not float then
      local found = V.index(v, i)
      if found == nil then return V.undefined(("%s has no element %s"):format(V.python_type(v), V.string(key))) end
      return found
    end
  elseif t == "dict" or t == "namespace" or t == "loop" then
    local k = key
    if type(key) == "table" then k = key_of(key) end
    local found
    if k ~= nil then found = field(v, k) end
    if found ~= nil then return found end
  end
  local method = type(key) == "string" and methods.find(v, key) or nil
  if method == nil then return missing(v, key) end
  return method
end

--- The function that takes a dotted path (or an index) out of a value; default: what stands for something undefined on the way.
function access.getter(path, default)
  if path == nil or path == V.none then return function(v) return v end end
  local parts = { path }
  if type(path) == "string" then
    parts = {}
    for part in (path .. "."):gmatch "([^.]*)%." do parts[#parts + 1] = part:find "^%d+$" and tonumber(part) or part end
  end
  return function(v)
    for _, part in ipairs(parts) do
      v = access.item(v, part)
      if V.is_undefined(v) and default ~= nil and default ~= V.none then v = default end
    end
    return v
  end
end

return access
