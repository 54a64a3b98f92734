--- sqlite.lua: SQLite databases from Lua: statements with bound values, rows as tables.
---
---   local db = sqlite.open("runs/store.db")
---   db:exec "create table if not exists t (a integer, b text)"
---   db:run("insert into t values (?, ?)", 1, "one")
---   for _, row in ipairs(db:rows("select a, b from t where a > ?", 0)) do print(row.a, row.b) end
---   db:transaction(function() ... end)                -- all of it, or, when it raises, nothing
---
--- Values: NULL is nil, INTEGER and REAL are numbers, TEXT and BLOB strings; true and false are bound as 1 and 0. A database is
--- opened in write-ahead mode with full synchronisation: what a statement outside a transaction, or a transaction, has written is
--- there after the process or the machine dies, and what it has not finished is not there at all. Another process's lock is waited for (20 s).
--- The library is the system's libsqlite3. Not for folders that several machines share: locks of network file systems are not to be trusted.
local F = require "tl.ffi"
local ffi = require "ffi"
local fs = require "tl.fs"
local C = F.C

ffi.cdef [[
typedef struct sqlite3 sqlite3;
typedef struct sqlite3_stmt sqlite3_stmt;
int sqlite3_open_v2(const char *path, sqlite3 **db, int flags, const char *vfs);
int sqlite3_close_v2(sqlite3 *db);
const char *sqlite3_errmsg(sqlite3 *db);
int sqlite3_exec(sqlite3 *db, const char *sql, void *each, void *context, char **message);
int sqlite3_busy_timeout(sqlite3 *db, int ms);
int sqlite3_prepare_v2(sqlite3 *db, const char *sql, int n, sqlite3_stmt **statement, const char **tail);
int sqlite3_step(sqlite3_stmt *s);
int sqlite3_finalize(sqlite3_stmt *s);
int sqlite3_bind_parameter_count(sqlite3_stmt *s);
int sqlite3_bind_null(sqlite3_stmt *s, int i);
int sqlite3_bind_double(sqlite3_stmt *s, int i, double v);
int sqlite3_bind_int64(sqlite3_stmt *s, int i, int64_t v);
int sqlite3_bind_text(sqlite3_stmt *s, int i, const char *v, int n, intptr_t destructor);
int sqlite3_column_count(sqlite3_stmt *s);
const char *sqlite3_column_name(sqlite3_stmt *s, int i);
int sqlite3_column_type(sqlite3_stmt *s, int i);
double sqlite3_column_double(sqlite3_stmt *s, int i);
const void *sqlite3_column_blob(sqlite3_stmt *s, int i);
int sqlite3_column_bytes(sqlite3_stmt *s, int i);
int sqlite3_changes(sqlite3 *db);
]]

local OK, CANTOPEN, ROW, DONE = 0, 14, 100, 101
local OPEN_READONLY, OPEN_READWRITE, OPEN_CREATE, OPEN_URI = 1, 2, 4, 64
local INTEGER, REAL, NULL = 1, 2, 5
local TRANSIENT = -1  -- SQLITE_TRANSIENT: SQLite copies the text

local sqlite = {}

---@class tl.Database
local Database = {}
Database.__index = Database

local function fail(self) F.raise(("%s: %s"):format(self.path, ffi.string(C.sqlite3_errmsg(self.handle)))) end

--- Opens a database file, which is made when it is not there. Option readonly: it must be there, and is not changed.
---@param path string
---@param o table?
function sqlite.open(path, o)
  local out = ffi.new "sqlite3 *[1]"
  local flags = o and o.readonly and OPEN_READONLY or OPEN_READWRITE + OPEN_CREATE
  local code = C.sqlite3_open_v2(path, out, flags, nil)
  local log = fs.kind(path .. "-wal") == "file" and fs.bytes(path .. "-wal") or 0
  if code == OK and flags == OPEN_READONLY and log == 0 and C.sqlite3_exec(out[0], "select 1 from sqlite_master", nil, nil, nil) == CANTOPEN then
    C.sqlite3_close_v2(out[0])  -- write-ahead mode where nothing can be written: then nobody else writes either
    local quoted = path:gsub("[^%w/._-]", function(c) return ("%%%02x"):format(c:byte()) end)
    code = C.sqlite3_open_v2(("file:%s?immutable=1"):format(quoted), out, flags + OPEN_URI, nil)
  end
  local db = setmetatable({ path = path, handle = ffi.gc(out[0], C.sqlite3_close_v2) }, Database)
  if code ~= OK then fail(db) end
  C.sqlite3_busy_timeout(db.handle, 20000)
  if not (o and o.readonly) then db:exec "pragma journal_mode = wal; pragma synchronous = full" end
  return db
end

local function bind(self, s, values, n)
  local wanted = C.sqlite3_bind_parameter_count(s)
  if wanted ~= n then
    C.sqlite3_finalize(s)
    F.raise(("%s: the statement has %d places for values, %d given"):format(self.path, wanted, n))
  end
  for i = 1, n do
    local v = values[i]
    local kind = type(v)
    if kind == "boolean" then v, kind = v and 1 or 0, "number" end
    if v == nil then C.sqlite3_bind_null(s, i)
    elseif kind == "number" and v % 1 == 0 and math.abs(v) < 2 ^ 53 then C.sqlite3_bind_int64(s, i, v)
    elseif kind == "number" then C.sqlite3_bind_double(s, i, v)
    elseif kind == "string" then C.sqlite3_bind_text(s, i, v, #v, TRANSIENT)
    else
      C.sqlite3_finalize(s)
      F.raise(("%s: value %d is a %s; a number, a text, true, false or nil is wanted"):format(self.path, i, kind))
    end
  end
end

local function column(s, i)
  local kind = C.sqlite3_column_type(s, i)
  if kind == NULL then return nil end
  if kind == INTEGER or kind == REAL then return C.sqlite3_column_double(s, i) end
  local p = C.sqlite3_column_blob(s, i)
  return p == nil and "" or ffi.string(p, C.sqlite3_column_bytes(s, i))
end

-- runs one prepared statement to its end, calling on_row for each row
local function finish(self, s, on_row)
  while true do
    local code = C.sqlite3_step(s)
    if code == ROW then
      if on_row then on_row(s) end
    elseif code == DONE then
      C.sqlite3_finalize(s)
      return
    else
      local message = ("%s: %s"):format(self.path, ffi.string(C.sqlite3_errmsg(self.handle)))
      C.sqlite3_finalize(s)
      F.raise(message)
    end
  end
end

--- Runs every statement of a text, without values.
---@param sql string
function Database:exec(sql)
  local s, tail = ffi.new "sqlite3_stmt *[1]", ffi.new "const char *[1]"
  local at = ffi.cast("const char *", sql)
  while at[0] ~= 0 do
    if C.sqlite3_prepare_v2(self.handle, at, -1, s, tail) ~= OK then fail(self) end
    if s[0] ~= nil then finish(self, s[0]) end
    at = tail[0]
  end
end

local function statement(self, sql, ...)
  local s = ffi.new "sqlite3_stmt *[1]"
  if C.sqlite3_prepare_v2(self.handle, sql, #sql, s, nil) ~= OK then fail(self) end
  if s[0] == nil then F.raise(self.path .. ": the statement is empty") end
  bind(self, s[0], { ... }, select("#", ...))
  return s[0]
end

--- Runs one statement with values for its ?; returns how many rows it changed.
---@param sql string
function Database:run(sql, ...)
  finish(self, statement(self, sql, ...))
  return C.sqlite3_changes(self.handle)
end

--- The rows of one query as a list of tables by column name; columns is the list of names in their order.
---@param sql string
---@return table[] rows, string[] columns
function Database:rows(sql, ...)
  local s, rows, names = statement(self, sql, ...), {}, {}
  for i = 0, C.sqlite3_column_count(s) - 1 do names[i + 1] = ffi.string(C.sqlite3_column_name(s, i)) end
  finish(self, s, function(at)
    local row = {}
    for i, name in ipairs(names) do row[name] = column(at, i - 1) end
    rows[#rows + 1] = row
  end)
  return rows, names
end

--- The first row of a query, or nil.
function Database:row(sql, ...) return (self:rows(sql, ...))[1] end

--- Runs fn in a transaction that no other process writes beside; rolled back when fn or the commit fails. Returns what fn returns.
---@param fn function
function Database:transaction(fn)
  self:exec "begin immediate"
  local ok, result = pcall(function()
    local r = fn()
    self:exec "commit"
    return r
  end)
  if not ok then
    pcall(self.exec, self, "rollback")  -- when the disk failed, SQLite has done so already
    error(result, 0)
  end
  return result
end

function Database:close()
  if self.handle then C.sqlite3_close_v2(ffi.gc(self.handle, nil)) end
  self.handle = nil
end

return sqlite
