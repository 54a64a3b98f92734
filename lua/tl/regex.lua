--- regex.lua: Perl-compatible regular expressions (PCRE2), through the FFI; usable in recipes and in verifiers.
---
---   local re = regex.compile("(?<a>\\d+)\\s*apples", "i")
---   local first, last, captures = re:find(text)      -- nil when there is no match; captures[1], captures.a
---   for captures in re:each(text) do ... end          -- captures[0] is the whole match
---
--- Text is taken as UTF-8; bytes that are not are never matched, and are no error. A match that backtracks more than
--- regex.match_limit times raises an error: it is not "no match". flags: i caseless, m multi-line ^ and $, s dot matches newline,
--- x spaces and comments in the pattern, A anchored at the start.
local F = require "tl.ffi"
local ffi = require "ffi"

ffi.cdef [[
void *pcre2_compile_8(const char *pattern, size_t length, uint32_t options, int *error, size_t *offset, void *context);
void pcre2_code_free_8(void *code);
void *pcre2_match_data_create_from_pattern_8(const void *code, void *context);
void pcre2_match_data_free_8(void *data);
void *pcre2_match_context_create_8(void *context);
int pcre2_set_match_limit_8(void *context, uint32_t limit);
int pcre2_match_8(const void *code, const char *subject, size_t length, size_t start, uint32_t options, void *data, void *context);
size_t *pcre2_get_ovector_pointer_8(void *data);
uint32_t pcre2_get_ovector_count_8(void *data);
int pcre2_get_error_message_8(int error, uint8_t *buffer, size_t length);
int pcre2_pattern_info_8(const void *code, uint32_t what, void *where);
]]

local lib = F.C  -- the program is linked with PCRE2

local regex = { match_limit = 1000000 }

-- values of pcre2.h
local UTF, MATCH_INVALID_UTF = 0x00080000, 0x04000000
local FLAGS = { i = 0x00000008, m = 0x00000400, s = 0x00000020, x = 0x00000080, A = 0x80000000 }
local NOMATCH, NOTEMPTY_ATSTART, ANCHORED = -1, 0x00000008, 0x80000000
local INFO_NAMECOUNT, INFO_NAMEENTRYSIZE, INFO_NAMETABLE = 17, 18, 19

local Regex = {}
Regex.__index = Regex
local context

local function message(code)
  local buffer = ffi.new("uint8_t[256]")
  lib.pcre2_get_error_message_8(code, buffer, 256)
  return ffi.string(buffer)
end

-- { name = number } of the named groups; a table entry is the number in two bytes, then the name
local function names(code)
  local n, size, entry = ffi.new("uint32_t[1]"), ffi.new("uint32_t[1]"), ffi.new("uint8_t *[1]")
  lib.pcre2_pattern_info_8(code, INFO_NAMECOUNT, n)
  lib.pcre2_pattern_info_8(code, INFO_NAMEENTRYSIZE, size)
  lib.pcre2_pattern_info_8(code, INFO_NAMETABLE, entry)
  local list = {}
  for i = 0, n[0] - 1 do
    local e = entry[0] + i * size[0]
    list[ffi.string(e + 2)] = e[0] * 256 + e[1]
  end
  return list
end

local cache, cached = {}, 0

--- Compiles a pattern (kept for the next call with the same one).
---@param pattern string
---@param flags string|nil any of "imsxA"
function regex.compile(pattern, flags)
  if type(pattern) ~= "string" then error("a pattern is a string; got " .. type(pattern), 2) end
  local key = (flags or "") .. "\0" .. pattern
  if cache[key] then return cache[key] end
  local options = UTF + MATCH_INVALID_UTF
  for f in (flags or ""):gmatch(".") do
    options = options + (FLAGS[f] or error("unknown flag '" .. f .. "' of a pattern; the flags are i m s x A", 2))
  end
  local code, offset = ffi.new("int[1]"), ffi.new("size_t[1]")
  local compiled = lib.pcre2_compile_8(pattern, #pattern, options, code, offset, nil)
  if compiled == nil then
    error(("pattern %s: %s at its byte %d"):format(pattern, message(code[0]), tonumber(offset[0]) + 1), 2)
  end
  compiled = ffi.gc(compiled, lib.pcre2_code_free_8)
  local data = ffi.gc(lib.pcre2_match_data_create_from_pattern_8(compiled, nil), lib.pcre2_match_data_free_8)
  if cached >= 256 then cache, cached = {}, 0 end
  cache[key] = setmetatable({ code = compiled, data = data, names = names(compiled), pattern = pattern }, Regex)
  cached = cached + 1
  return cache[key]
end

-- captures of a match from byte `start` (0-based), or nil
local function run(self, text, start, options)
  if not context then context = lib.pcre2_match_context_create_8(nil) end
  lib.pcre2_set_match_limit_8(context, regex.match_limit)
  local n = lib.pcre2_match_8(self.code, text, #text, start, options, self.data, context)
  if n == NOMATCH then return nil end
  if n < 0 then error(("pattern %s: %s"):format(self.pattern, message(n)), 3) end
  local o, captures = lib.pcre2_get_ovector_pointer_8(self.data), {}
  for i = 0, n - 1 do
    local a, b = tonumber(o[2 * i]), tonumber(o[2 * i + 1])
    if b <= #text and a <= b then captures[i] = text:sub(a + 1, b) end -- an unset group has offsets of ~0
  end
  for name, i in pairs(self.names) do captures[name] = captures[i] end
  return captures, tonumber(o[0]), tonumber(o[1])
end

--- First match at or after byte init: its first and last byte, and the captures; nil when there is none.
---@return integer|nil first, integer last, table captures
function Regex:find(text, init)
  if init and init > #text + 1 then return nil end
  local captures, from, to = run(self, text, (init or 1) - 1, 0)
  if not captures then return nil end
  return from + 1, to, captures
end

--- The captures of the first match, or nil.
function Regex:match(text, init)
  local _, _, captures = self:find(text, init)
  return captures
end

--- Does the whole text match?
function Regex:full(text)
  local first, last = self:find(text)
  return first == 1 and last == #text
end

--- Iterates over the captures of all matches, left to right, not overlapping.
function Regex:each(text)
  local at, empty_at = 0, nil
  return function()
    while at <= #text do
      -- after an empty match, look at the same place for one that is not empty, then one character further
      local captures, from, to = run(self, text, at, empty_at == at and NOTEMPTY_ATSTART + ANCHORED or 0)
      if captures then
        empty_at = from == to and to or nil
        at = to
        return captures
      elseif empty_at ~= at then
        return nil
      end
      repeat at = at + 1 until at >= #text or not text:find("^[\128-\191]", at + 1)
      empty_at = nil
    end
  end
end

return regex
