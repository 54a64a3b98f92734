-- bench_tokenizer.lua: the worker of bench_tokenizer.py. Arguments: a file of texts (each: length in decimal, newline, bytes).
-- Each line of stdin is a tokenizer's path and a repetition count; answered with "seconds ids" of the fastest repetition over all
-- texts through tl_tokenizer_encode, and the seconds that loading took.
local F = require "tl.ffi"
local ffi = require "ffi"
local C, check = F.C, F.check

local texts, longest = {}, 0
local f = assert(io.open(arg[1], "rb"))
for n in function() return f:read "*n" end do
  f:read(1)
  texts[#texts + 1] = n > 0 and f:read(n) or ""
  longest = math.max(longest, n)
end
f:close()
local ids, count, out = ffi.new("int32_t[?]", longest + 16), ffi.new "int[1]", ffi.new "tl_tokenizer *[1]"
local loaded = {}

for line in io.lines() do
  local path, repeats = line:match "^(.*) (%d+)$"
  local load_seconds = 0
  if not loaded[path] then
    local began = C.tl_seconds()
    check(C.tl_tokenizer_load(path, out))
    load_seconds = C.tl_seconds() - began
    loaded[path] = ffi.gc(out[0], C.tl_tokenizer_free)
  end
  local t, best, n = loaded[path], math.huge, 0
  for _ = 1, tonumber(repeats) do
    n = 0
    local began = C.tl_seconds()
    for i = 1, #texts do
      check(C.tl_tokenizer_encode(t, texts[i], #texts[i], false, true, ids, longest + 16, count))
      n = n + count[0]
    end
    best = math.min(best, C.tl_seconds() - began)
  end
  print(("%.6f %d %.6f"):format(best, n, load_seconds))
  io.stdout:flush()
end
