--- tensor.lua: small dense tensors (f32, bf16, f16, i32; up to 4 dims) for experiments and for looking at weights and updates.
--- Indices count from 1. A slice, transpose or reshape is a view of the same storage. Arithmetic between tensors repeats dims of 1.
---
---   local a = tl.tensor.normal(3, 4, { seed = 1 })
---   a:T():matmul(a), a:slice(1, 1, 2), (a * 2 + 1):sum(), a:norm(), a[2][3], a:totable()
local F = require "tl.ffi"
local options = require "tl.options"
local ffi = require "ffi"
local C, check = F.C, F.check

local tensor = {}
local Tensor = {}

local DTYPES = { f32 = 0, fp32 = 0, float32 = 0, bf16 = 1, bfloat16 = 1, f16 = 2, fp16 = 2, float16 = 2, i32 = 3, int32 = 3 }
local NAMES = { [0] = "f32", "bf16", "f16", "i32" }
local POINTERS = { [0] = "float *", "uint16_t *", "uint16_t *", "int32_t *" }

local function dtype_of(name, level)
  local d = DTYPES[name or "f32"]
  if not d then F.raise("unknown dtype '" .. tostring(name) .. "': f32, bf16, f16 or i32") end
  return d
end

local function number(v, what)
  if type(v) ~= "number" then F.raise(("%s wants a number; got %s"):format(what, F.shown(v))) end
  return v
end

local function whole(v, what)
  if type(v) ~= "number" or v % 1 ~= 0 then F.raise(("%s wants a whole number; got %s"):format(what, F.shown(v))) end
  return v
end

local function wrap(handle)
  local info = ffi.new "tl_tensor_info"
  C.tl_tensor_get_info(handle, info)
  local shape = {}
  for i = 1, info.n_dims do shape[i] = tonumber(info.dims[i - 1]) end
  return setmetatable({ handle = ffi.gc(handle, C.tl_tensor_free), shape = shape, dtype = NAMES[tonumber(info.dtype)],
    device = ffi.string(info.device), contiguous = info.contiguous }, Tensor)
end

local function dims_of(list)
  local d = ffi.new("int64_t[?]", math.max(4, #list))
  for i, n in ipairs(list) do d[i - 1] = n end
  return d, #list
end

local function create(dtype, shape, level, device)
  for i, n in ipairs(shape) do
    if type(n) ~= "number" or n % 1 ~= 0 then F.raise(("dim %d of a tensor must be a whole number; got %s"):format(i, tostring(n))) end
  end
  local out = ffi.new "tl_tensor *[1]"
  local d, n = dims_of(shape)
  check(C.tl_tensor_create(dtype, n, d, device, out))
  return wrap(out[0])
end

local PLAIN = options.names { any = "dtype device" }
local NORMAL = options.names({ number = "mean std", seed = "seed stream" }, PLAIN)
local UNIFORM = options.names({ number = "low high", seed = "seed stream" }, PLAIN)
local NONE = options.names {}
local FROM = options.names { any = "dtype" }

-- (3, 4), ({3, 4}), (3, 4, {dtype = ...}): the shape and the options
local function shape_and_options(what, known, ...)
  local shape, o = {}, {}
  for i = 1, select("#", ...) do
    local v = select(i, ...)
    if type(v) == "number" then shape[#shape + 1] = v
    elseif type(v) == "table" and v[1] ~= nil then for _, n in ipairs(v) do shape[#shape + 1] = n end
    elseif type(v) == "table" then o = v
    else error(("tensor.%s wants the dims of a shape and a table of options; got %s"):format(what, tostring(v)), 3) end
  end
  options.only("tensor." .. what, o, known, 3)
  return shape, o
end

--- Zeros: tensor.zeros(3, 4) or tensor.zeros({3, 4}, {dtype = "bf16"}).
function tensor.zeros(...)
  local shape, o = shape_and_options("zeros", PLAIN, ...)
  return create(dtype_of(o.dtype, 2), shape, 2, o.device)
end

--- Every element the same: tensor.full(0.5, 3, 4).
function tensor.full(value, ...)
  local shape, o = shape_and_options("full", PLAIN, ...)
  local t = create(dtype_of(o.dtype, 2), shape, 2, o.device)
  check(C.tl_tensor_fill(t.handle, number(value, "tensor.full")))
  return t
end

--- Normal draws. Options: seed (0), stream (0), mean (0), std (1), dtype.
function tensor.normal(...)
  local shape, o = shape_and_options("normal", NORMAL, ...)
  local t = create(dtype_of(o.dtype, 2), shape, 2, o.device)
  check(C.tl_tensor_normal(t.handle, o.seed or 0, o.stream or 0, o.mean or 0, o.std or 1))
  return t
end

--- Uniform draws in [low, high). Options: seed (0), stream (0), low (0), high (1), dtype.
function tensor.uniform(...)
  local shape, o = shape_and_options("uniform", UNIFORM, ...)
  local t = create(dtype_of(o.dtype, 2), shape, 2, o.device)
  check(C.tl_tensor_uniform(t.handle, o.seed or 0, o.stream or 0, o.low or 0, o.high or 1))
  return t
end

--- From nested Lua tables: tensor.from {{1, 2}, {3, 4}}. Options: dtype.
function tensor.from(values, o)
  if o then options.only("tensor.from", o, FROM) end
  local shape, v = {}, values
  while type(v) == "table" do
    shape[#shape + 1] = #v
    v = v[1]
  end
  local dtype = dtype_of(o and o.dtype, 2)
  local t = create(dtype, shape, 2)
  local index = ffi.new "int64_t[4]"
  local function fill(part, dim)
    if type(part) ~= "table" or #part ~= shape[dim] then F.raise("tensor.from wants tables of equal length at every level") end
    for i = 1, shape[dim] do
      index[dim - 1] = i - 1
      if dim < #shape then fill(part[i], dim + 1)
      elseif type(part[i]) ~= "number" then F.raise("tensor.from wants numbers; got " .. type(part[i]))
      else check(C.tl_tensor_set(t.handle, index, part[i])) end
    end
  end
  fill(values, 1)
  return t
end

--- Whether a value is a tensor.
function tensor.is(x) return getmetatable(x) == Tensor end

local function want(x, what, level)
  if not tensor.is(x) then F.raise(what .. " wants a tensor; got " .. F.shown(x)) end
  return x
end

-- ---- views

local function view(fn, self, level, ...)
  local out = ffi.new "tl_tensor *[1]"
  local args = { ... }
  args[#args + 1] = out
  check(fn(self.handle, unpack(args)))
  return wrap(out[0])
end

local methods = {}

--- Elements from .. to (both included) of a dim, as a view.
function methods:slice(dim, from, to)
  local r = view(C.tl_tensor_slice, self, 2, whole(dim, "slice") - 1, whole(from, "slice") - 1, whole(to or from, "slice"))
  return r
end

--- Two dims exchanged (the last two by default), as a view.
function methods:transpose(a, b)
  local n = #self.shape
  local r = view(C.tl_tensor_transpose, self, 2, whole(a or n - 1, "transpose") - 1, whole(b or n, "transpose") - 1)
  return r
end

methods.T = methods.transpose

--- The same elements in another shape; wants a contiguous tensor.
function methods:reshape(...)
  local shape = shape_and_options("reshape", NONE, ...)
  local d, n = dims_of(shape)
  local r = view(C.tl_tensor_reshape, self, 2, n, d)
  return r
end

--- The i-th part along the first dim: a number when the tensor has one dim, else a view with a dim less.
function methods:part(i)
  if #self.shape == 1 then return self:get(i) end
  local s = view(C.tl_tensor_slice, self, 2, 0, i - 1, i)
  local dims = {}
  for k = 2, #self.shape do dims[#dims + 1] = self.shape[k] end
  if not s.contiguous then s = s:copy() end
  return s:reshape(dims)
end

-- ---- elements

local function index_of(self, list, level)
  if #list ~= #self.shape then F.raise(("%d indices for a tensor of %d dims"):format(#list, #self.shape)) end
  local d = ffi.new "int64_t[4]"
  for i = 1, #list do d[i - 1] = whole(list[i], "an index") - 1 end
  return d
end

--- One element: t:get(2, 3).
function methods:get(...)
  local value = ffi.new "double[1]"
  check(C.tl_tensor_get(self.handle, index_of(self, { ... }, 2), value))
  return value[0]
end

--- Sets one element: t:set(2, 3, value).
function methods:set(...)
  local list = { ... }
  local value = table.remove(list)
  check(C.tl_tensor_set(self.handle, index_of(self, list, 2), number(value, "set")))
  return self
end

--- How many elements.
function methods:count()
  local n = 1
  for _, d in ipairs(self.shape) do n = n * d end
  return n
end

--- Nested Lua tables of the elements.
function methods:totable()
  local index, value = ffi.new "int64_t[4]", ffi.new "double[1]"
  local function read(dim)
    local t = {}
    for i = 1, self.shape[dim] do
      index[dim - 1] = i - 1
      if dim < #self.shape then t[i] = read(dim + 1)
      else
        check(C.tl_tensor_get(self.handle, index, value))
        t[i] = value[0]
      end
    end
    return t
  end
  return read(1)
end

--- Pointer to the first element, of the C type of the dtype (bf16 and f16: uint16_t). The tensor must outlive it.
function methods:data()
  return ffi.cast(POINTERS[DTYPES[self.dtype]], C.tl_tensor_data(self.handle))
end

--- Every element becomes value.
function methods:fill(value)
  check(C.tl_tensor_fill(self.handle, number(value, "fill")))
  return self
end

--- A contiguous copy, in another dtype when one is named.
function methods:copy(dtype)
  local t = create(dtype_of(dtype or self.dtype, 2), self.shape, 2)
  check(C.tl_tensor_copy(t.handle, self.handle))
  return t
end

methods.to = methods.copy

--- Overwrites the elements with those of a tensor of the same shape.
function methods:assign(other)
  check(C.tl_tensor_copy(self.handle, want(other, "assign", 2).handle))
  return self
end

-- ---- arithmetic

local function joined(a, b)
  local shape = {}
  for i = 1, math.max(#a.shape, #b.shape) do
    local x, y = a.shape[#a.shape + 1 - i] or 1, b.shape[#b.shape + 1 - i] or 1
    table.insert(shape, 1, math.max(x, y))
  end
  return shape
end

local function binary(a, b, op, level)
  if type(b) == "number" or type(a) == "number" then
    local t = type(a) == "number" and b or a
    local scalar = create(0, { 1 }, level)
    check(C.tl_tensor_fill(scalar.handle, type(a) == "number" and a or b))
    if type(a) == "number" then a = scalar else b = scalar end
    local out = create(t.dtype == "i32" and 0 or DTYPES[t.dtype], t.shape, level)
    check(C.tl_tensor_binary(out.handle, a.handle, b.handle, op))
    return out
  end
  want(a, "arithmetic", level); want(b, "arithmetic", level)
  local out = create(a.dtype == b.dtype and DTYPES[a.dtype] or 0, joined(a, b), level)
  check(C.tl_tensor_binary(out.handle, a.handle, b.handle, op))
  return out
end

Tensor.__add = function(a, b) local r = binary(a, b, C.TL_ADD, 2) return r end
Tensor.__sub = function(a, b) local r = binary(a, b, C.TL_SUB, 2) return r end
Tensor.__mul = function(a, b) local r = binary(a, b, C.TL_MUL, 2) return r end
Tensor.__div = function(a, b) local r = binary(a, b, C.TL_DIV, 2) return r end
Tensor.__unm = function(a) local r = binary(a, -1, C.TL_MUL, 2) return r end

--- a + b, a - b, a * b (elementwise), a / b: the operators, or these. b: a tensor or a number.
function methods:add(b) local r = binary(self, b, C.TL_ADD, 2) return r end
function methods:sub(b) local r = binary(self, b, C.TL_SUB, 2) return r end
function methods:mul(b) local r = binary(self, b, C.TL_MUL, 2) return r end
function methods:div(b) local r = binary(self, b, C.TL_DIV, 2) return r end

--- Multiplied by a number, in place.
function methods:scale(x)
  check(C.tl_tensor_affine(self.handle, self.handle, number(x, "scale"), 0))
  return self
end

local function reduce(self, op, dim, level)
  if not dim then
    local value = ffi.new "double[1]"
    check(C.tl_tensor_reduce(self.handle, op, value))
    return value[0]
  end
  local shape = { unpack(self.shape) }
  if not shape[dim] then F.raise(("dim %s of a tensor with %d dims"):format(tostring(dim), #shape)) end
  shape[dim] = 1
  local out = create(self.dtype == "i32" and op ~= C.TL_MEAN and op ~= C.TL_NORM and 3 or 0, shape, level)
  check(C.tl_tensor_reduce_dim(out.handle, self.handle, op, dim - 1))
  return out
end

--- Over all elements (a number), or over one dim (a tensor with 1 in its place). norm is Euclidean.
function methods:sum(dim) local r = reduce(self, C.TL_SUM, dim, 2) return r end
function methods:mean(dim) local r = reduce(self, C.TL_MEAN, dim, 2) return r end
function methods:max(dim) local r = reduce(self, C.TL_MAX, dim, 2) return r end
function methods:min(dim) local r = reduce(self, C.TL_MIN, dim, 2) return r end
function methods:norm(dim) local r = reduce(self, C.TL_NORM, dim, 2) return r end

--- Matrix product of two matrices, fp32.
function methods:matmul(b)
  want(b, "matmul", 2)
  local out = create(0, { self.shape[1] or 1, b.shape[2] or 1 }, 2)
  check(C.tl_tensor_matmul(out.handle, self.handle, b.handle))
  return out
end

--- Truncated singular value decomposition of a matrix (n, k): U (n, r), S (r), V (k, r), and the error reached.
function methods:svd(rank)
  if #self.shape ~= 2 then F.raise("svd wants a matrix; this tensor has " .. #self.shape .. " dims") end
  local n, k = self.shape[1], self.shape[2]
  rank = rank or math.min(n, k)
  local w = self.dtype == "f32" and self.contiguous and self or self:copy "f32"
  local U, S, V, e = create(0, { n, rank }, 2), create(0, { rank }, 2), create(0, { k, rank }, 2), ffi.new "double[1]"
  check(C.tl_svd(w:data(), n, k, rank, U:data(), S:data(), V:data(), e))
  return U, S, V, e[0]
end

--- Releases the memory now instead of at the next collection.
function methods:free()
  if rawget(self, "handle") then C.tl_tensor_free(ffi.gc(self.handle, nil)); self.handle = nil end
end

-- ---- printing

local function cell(v)
  if v % 1 == 0 and math.abs(v) < 1e6 then return ("%d"):format(v) end
  return math.abs(v) >= 1e-3 and math.abs(v) < 1e5 and ("%.4f"):format(v) or ("%.3e"):format(v)
end

local EDGE = 4  -- longer dims show this many at each end

local function shown(n)
  local list = {}
  for i = 1, n do
    if n <= 2 * EDGE + 2 or i <= EDGE or i > n - EDGE then list[#list + 1] = i elseif i == EDGE + 1 then list[#list + 1] = false end
  end
  return list
end

local function rows_text(self)
  local index, value = ffi.new "int64_t[4]", ffi.new "double[1]"
  local n_dims, lines, width = #self.shape, {}, 0
  local function walk(dim)
    if dim < n_dims - 1 then
      for _, i in ipairs(shown(self.shape[dim])) do
        if i then
          index[dim - 1] = i - 1
          walk(dim + 1)
        else lines[#lines + 1] = "..." end
      end
      return
    end
    if n_dims > 2 then
      local where = {}
      for d = 1, n_dims - 2 do where[d] = tonumber(index[d - 1]) + 1 end
      lines[#lines + 1] = "[" .. table.concat(where, ", ") .. "]"
    end
    for _, i in ipairs(n_dims == 1 and { 1 } or shown(self.shape[dim])) do
      if n_dims > 1 and i then index[n_dims - 2] = i - 1 end
      local row = {}
      for _, j in ipairs(i and shown(self.shape[n_dims]) or {}) do
        if j then
          index[n_dims - 1] = j - 1
          check(C.tl_tensor_get(self.handle, index, value))
          row[#row + 1] = cell(value[0])
          width = math.max(width, #row[#row])
        else row[#row + 1] = "..." end
      end
      lines[#lines + 1] = i and row or "..."
    end
  end
  walk(n_dims == 1 and 1 or 1)
  for i, line in ipairs(lines) do
    if type(line) == "table" then
      for k, c in ipairs(line) do line[k] = (" "):rep(width - #c) .. c end
      lines[i] = " " .. table.concat(line, "  ")
    end
  end
  return table.concat(lines, "\n")
end

function Tensor.__tostring(self)
  if not rawget(self, "handle") then return "tensor (freed)" end
  return ("%s\ntensor (%s) %s on %s"):format(rows_text(self), table.concat(self.shape, ", "), self.dtype, self.device)
end

Tensor.__index = function(self, key)
  if type(key) == "number" then
    if key < 1 or key > self.shape[1] or key % 1 ~= 0 then return nil end
    return methods.part(self, key)
  end
  if key == "handle" then F.raise "this tensor was freed" end
  return methods[key]
end
Tensor.__methods = methods

return tensor
