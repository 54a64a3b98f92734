-- JSON and YAML: values, order of keys, numbers, damaged text. Catches: keys shuffled, integers with a point, digits lost, a NaN
-- written as text, half a character that makes a document invalid, trailing junk accepted, yes and on read as booleans.
package.path = arg[0]:match "^(.*)/" .. "/?.lua;" .. package.path
local check = require "check"
local test, equal, raises = check.test, check.equal, check.raises
local json, yaml = require "tl.json", require "tl.yaml"

test("objects keep the order of their keys", function()
  local text = '{"z":1,"a":[1,2,{"y":true,"b":false}],"m":null}'
  local v = json.decode(text)
  equal(getmetatable(v).__order, { "z", "a", "m" })
  equal(getmetatable(v.a).__array, true)
  equal(json.encode(v), text)
  v.a, v.k = nil, "new"
  equal(json.encode(v), '{"z":1,"m":null,"k":"new"}')
end)

test("tables without an order are written sorted", function()
  equal(json.encode { b = 1, a = { 3, 2 }, c = {} }, '{"a":[3,2],"b":1,"c":{}}')
  equal(json.encode(json.array {}), "[]")
end)

test("numbers", function()
  equal(json.encode { 1, -0.5, 1e-4, 2 ^ 40, 0.1, 1 / 3, 1e300, 9007199254740991 }, "[1,-0.5,0.0001,1099511627776,0.1,0.33333333333333331,1e+300,9007199254740991]")
  equal(json.encode { 0 / 0, 1 / 0, -1 / 0 }, "[null,null,null]")
  local f = require("ffi").new("float[1]", 0.1)  -- an fp32 value takes 9 digits, not 17
  equal(json.encode(f[0]), "0.100000001")
  for _, x in ipairs { 0.1, 1 / 3, math.pi, 1e-310, 2 ^ 53 + 2, -1.7976931348623157e308, 123456789.123 } do
    equal(json.decode("[" .. json.encode(x) .. "]")[1] == x, true, "reads back")
  end
end)

test("strings", function()
  local s = 'quote " back \\ line \n tab \t bell \7 \195\164 \240\159\152\128'
  equal(json.decode(json.encode(s)), s)
  equal(json.encode "a\195", '"a\239\191\189"', "half a character")
  equal(json.encode "\255\192\128x", '"\239\191\189\239\191\189\239\191\189x"', "no UTF-8")
  equal(json.decode '"\\u00e4\\ud83d\\ude00"', "\195\164\240\159\152\128")
end)

test("null is a value", function()
  local v = json.decode "[1,null,3]"
  equal(#v, 3)
  equal(v[2] == json.null, true)
end)

test("what is not JSON says where", function()
  raises("line 1, column 4", json.decode, "[1,]")
  raises("line 2", json.decode, '{"a":1,\n"b" 2}')
  raises("not JSON", json.decode, "[1] x")
  raises("not JSON", json.decode, "")
  raises("not JSON at line 1, column 3", json.decode, '"a\0b"')  -- cJSON would read "a"
  raises("not JSON", json.decode, ("["):rep(5000))
  raises("wants a string", json.decode, 3)
end)

test("what has no JSON form", function()
  raises("function", json.encode, { f = print })
  local t = {}
  t.t = t
  raises("contains itself", json.encode, t)
  raises("names and numbers", json.encode, { 1, a = 2 })
end)

test("pretty", function() equal(json.encode({ a = { 1 }, b = {} }, { pretty = true }), '{\n  "a": [\n    1\n  ],\n  "b": {}\n}') end)

local function yaml_of(text)
  local path = check.file(text, ".yaml")
  local ok, v = pcall(yaml.load, path)
  os.remove(path)
  if not ok then error(v, 0) end
  return v
end

test("YAML scalars are those of the core schema", function()
  local v = yaml_of [[
a: 1e-4
b: [1, -2.5, 0x1F, 0o17, .5, 12.]
c: {d: true, e: ~, f: "1", g: 'yes', h: yes, i: on, j: null}
k: |
  two
  lines
l: 1.2.3
m: 007
]]
  equal(v.a, 1e-4)
  equal(v.b, { 1, -2.5, 31, 15, 0.5, 12 })
  equal(v.c.d, true)
  equal(v.c.e == json.null and v.c.j == json.null, true)
  equal({ v.c.f, v.c.g, v.c.h, v.c.i }, { "1", "yes", "yes", "on" })
  equal(v.k, "two\nlines\n")
  equal(v.l, "1.2.3")
  equal(v.m, 7)
  equal(getmetatable(v).__order, { "a", "b", "c", "k", "l", "m" })
end)

test("a NUL in a text and in a key is kept, whatever stands around it", function()
  equal(json.decode [["a\u0000b\\u0000"]], "a\0b\\u0000")
  local v = json.decode [[{"k\u0000":["\u0000\ufdd0","x"],"y":"\\\u0000"}]]
  equal(v["k\0"], { "\0\239\183\144", "x" })
  equal(v.y, "\\\0")
  equal(json.decode(json.encode("\0\0x")), "\0\0x")
  raises("column 11", json.decode, [=[["\u0000" x]]=])
end)

test("YAML that is refused, with its place", function()
  raises(":1:%d+: .*alias", yaml_of, "a: *x\n")
  raises(":2:1: .*given before", yaml_of, "a: 1\na: 2\n")
  raises(":2:%d+: ", yaml_of, "a: [1\nb: 2\n")
  raises("finite", yaml_of, "a: .inf\n")
  raises("second document", yaml_of, "a: 1\n---\nb: 2\n")
  raises("nested too deeply", yaml_of, ("["):rep(200) .. ("]"):rep(200))
  raises("tags", yaml_of, "a: !!python/object 1\n")
  raises("No such file", yaml.load, "/nonexistent.yaml")
end)

check.done()
