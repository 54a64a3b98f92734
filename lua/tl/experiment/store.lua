--- experiment/store.lua: the SQLite file that holds the runs of experiments, one row a run.
---
---   runs   experiment, hash       which run: the hash (SHA-256) is of experiment, version and settings; unique
---          settings, metrics      JSON objects
---          status                 pending -> running -> done | failed
---          owner, attempts        who runs it (host, its process, the sweep that started it); how often it was begun
---          error, code            why it failed (kept while it waits to be tried again); the program's version and commit that ran it
---          started, finished      seconds since 1970;  seconds: what the run took;  folder: its run directory
---
--- A row is claimed in a transaction and finished in another, so however a process dies a finished run stays finished, and a run
--- that was going on is `running` with an owner that is no longer alive: whoever claims next takes it over. A worker's death under a
--- living sweep is the sweep's to record, lest a run that kills its worker be handed on. Owners of other machines are taken as alive.
local F = require "tl.ffi"
local ffi = require "ffi"
local fs = require "tl.fs"
local json = require "tl.json"
local sqlite = require "tl.sqlite"
local summary = require "tl.experiment.summary"
local C = F.C

local store = {}

--- What a row has of its own, beside error: a setting or a metric of such a name would be hidden by it.
store.COLUMNS = {}
for name in ("id experiment hash settings status owner attempts metrics code started finished seconds folder"):gmatch "%S+" do store.COLUMNS[name] = true end

---@class tl.Store
local Store = {}
Store.__index = Store

local SCHEMA = [[
create table if not exists runs (
  id integer primary key, experiment text not null, hash text not null unique, settings text not null,
  status text not null default 'pending' check (status in ('pending', 'running', 'done', 'failed')),
  owner text, attempts integer not null default 0, metrics text, error text, code text,
  started real, finished real, seconds real, folder text);
create index if not exists runs_by_experiment on runs (experiment, status);
create temp table wanted (hash text primary key, position integer unique);
]]

--- Opens a store; it is made when it is not there. Option readonly.
---@param path string
function store.open(path, o)
  if o and o.readonly then return setmetatable({ path = path, db = sqlite.open(path, o) }, Store) end
  local folder = path:match "^(.*)/[^/]*$"
  if folder and folder ~= "" then fs.mkdirs(folder) end
  local s = setmetatable({ path = path, db = sqlite.open(path) }, Store)
  s.db:exec(SCHEMA)
  return s
end

-- ---- who is alive

-- a process's start time in clock ticks since boot: field 22 of its stat, counted behind the name, which may hold anything
local function start_of(pid)
  local line = fs.first_line(("/proc/%d/stat"):format(pid))
  local state, rest = (line or ""):match "%) (%S) (.*)$"
  if not rest or state == "Z" or state == "X" then return nil end
  local n = 3
  for word in rest:gmatch "%S+" do
    n = n + 1
    if n == 22 then return word end
  end
end

local function host() return fs.first_line "/proc/sys/kernel/hostname" or "localhost" end

--- The owner's name of a process of this machine, and of the sweep that looks after it (default: itself).
function store.owner(pid, sweep)
  pid = pid or require("tl.process").pid()
  sweep = sweep or pid
  return ("%s %d %s %d %s"):format(host(), pid, start_of(pid) or "0", sweep, start_of(sweep) or "0")
end

--- Is there still somebody who will finish what this owner is at: its process, or the sweep that records its death?
function store.alive(owner)
  local name, pid, start, sweep, sweep_start = (owner or ""):match "^(%S+) (%d+) (%d+) (%d+) (%d+)$"
  if not name then return false end
  return name ~= host() or start_of(tonumber(pid)) == start or start_of(tonumber(sweep)) == sweep_start
end

-- ---- planning

--- The hash of a run.
function store.hash(experiment, version, settings)
  local text = json.encode { experiment, version or "", settings }
  local out = ffi.new "char[65]"
  F.check(C.tl_sha256_bytes(text, #text, out))
  return ffi.string(out)
end

--- Puts runs ({hash, settings} each) into the store where they are not there yet, and makes them the ones that are claimed here.
--- retry: failed ones become pending again; what they failed with stays with them until they are begun.
function Store:want(experiment, runs, retry)
  self.db:transaction(function()
    self.db:exec "delete from wanted"
    for i, r in ipairs(runs) do
      self.db:run("insert or ignore into runs (experiment, hash, settings) values (?, ?, ?)", experiment, r.hash, json.encode(r.settings))
      self.db:run("insert into wanted values (?, ?)", r.hash, i)
    end
    if retry then self.db:exec "update runs set status = 'pending' where status = 'failed' and hash in (select hash from wanted)" end
  end)
end

--- The end of a sweep: wanted runs that had failed and were not begun again are failed, as before.
function Store:rest()
  self.db:run "update runs set status = 'failed' where status = 'pending' and error is not null and finished is not null and hash in (select hash from wanted)"
end

--- {pending, running, done, failed} of the wanted runs.
function Store:counts()
  local c = { pending = 0, running = 0, done = 0, failed = 0 }
  for _, row in ipairs(self.db:rows "select status, count(*) as n from runs join wanted using (hash) group by status") do c[row.status] = row.n end
  return c
end

--- The wanted runs, in their order, as they stand: one whose worker is no longer alive is pending, whatever its row says.
function Store:standing()
  local rows, known = self:wanted(), {}
  for _, r in ipairs(rows) do
    if r.status == "running" and r.owner then
      if known[r.owner] == nil then known[r.owner] = store.alive(r.owner) end
      if not known[r.owner] then r.status = "pending" end
    end
  end
  return rows
end

-- ---- running

-- the wanted runs that may be claimed, in their order, some at a time: most claims need the first alone
local PAGE = 64

local function claimable(self)
  local rows, at, last = {}, 0, -1
  return function()
    at = at + 1
    if at > #rows and (at == 1 or #rows == PAGE) then
      rows, at = self.db:rows([[select runs.*, wanted.position from wanted cross join runs using (hash)
        where status in ('pending', 'running') and wanted.position > ? order by wanted.position limit ?]], last, PAGE), 1
    end
    local row = rows[at]
    if row then last, row.position = row.position, nil end
    return row
  end
end

local function take(self, r, owner, code)
  self.db:run("update runs set status = 'running', owner = ?, attempts = attempts + 1, started = ?, code = ?, error = null, finished = null where id = ?", owner, os.time(), code, r.id)
  r.attempts = r.attempts + 1
  return r
end

--- Takes the next wanted run that nobody is at, and with family (a function of the row, settings read) up to `most` in all of those whose family
--- is equal to its own (nil: none): in their order; an empty list when there is none. A run that something befell among others (it has an error, and
--- was never finished) is taken by itself. code: recorded with them.
function Store:claim(owner, code, family, most)
  return self.db:transaction(function()
    local known, list, mine = {}, {}, nil
    for r in claimable(self) do
      if r.owner and known[r.owner] == nil then known[r.owner] = store.alive(r.owner) end
      if r.status == "pending" or not known[r.owner] then
        r.settings = json.decode(r.settings)
        local its = family and not (r.error and not r.finished) and family(r) or nil
        if #list == 0 then
          list[1], mine = take(self, r, owner, code), its
          if not mine then break end
        elseif its == mine then
          list[#list + 1] = take(self, r, owner, code)
        end
        if #list == (most or 1) then break end
      end
    end
    return list
  end)
end

--- Records a finished run. Refused when another owner has taken it over meanwhile.
function Store:done(row, owner, metrics, seconds, folder)
  local n = self.db:run([[update runs set status = 'done', metrics = ?, seconds = ?, finished = ?, folder = ?, error = null
    where id = ? and status = 'running' and owner = ?]], json.encode(metrics), seconds, os.time(), folder, row.id, owner)
  if n ~= 1 then error(("run %d is no longer %s's"):format(row.id, owner), 0) end
end

--- Records that a run has failed.
function Store:failed(row, owner, message)
  self.db:run("update runs set status = 'failed', error = ?, finished = ? where status = 'running' and owner = ? and id = ?", message, os.time(), owner, row.id)
end

--- Records that what an owner was at came to nothing: one run has failed; several are to be tried again, each by itself. Returns how many.
function Store:lost(owner, message)
  return self.db:transaction(function()
    local rows = self.db:rows("select id from runs where status = 'running' and owner = ?", owner)
    if #rows == 1 then self:failed(rows[1], owner, message)
    else self.db:run("update runs set status = 'pending', owner = null, error = ? where status = 'running' and owner = ?", message, owner) end
    return #rows
  end)
end

-- ---- asking

local function object(text)
  if not text then return {} end
  local v = json.parse(text)
  return type(v) == "table" and v or {}
end

-- a row for people: settings and metrics as tables, and their fields beside the row's own (settings before metrics)
local function readable(row)
  row.settings, row.metrics = object(row.settings), object(row.metrics)
  for _, from in ipairs { row.settings, row.metrics } do
    for k, v in pairs(from) do
      if row[k] == nil then row[k] = v ~= json.null and v or nil end
    end
  end
  return row
end

--- Runs as a list of tables, with settings and metrics as fields: store:runs { status = "done", u = { 1, 13 } }, or a function of
--- the row that says which. In the order in which they were planned.
---@param want table|function|nil
function Store:runs(want)
  local rows = self.db:rows "select * from runs order by id"
  for _, row in ipairs(rows) do readable(row) end
  return summary.where(rows, want or {})
end

--- The wanted runs, in their order.
function Store:wanted()
  local out = {}
  for i, row in ipairs(self.db:rows "select runs.* from runs join wanted using (hash) order by wanted.position") do out[i] = readable(row) end
  return out
end

--- Any query of SQL, with values for its ?: store:query("select json_extract(settings, '$.u') as u, avg(seconds) as s from runs group by 1")
---@return table[] rows, string[] columns
function Store:query(sql, ...) return self.db:rows(sql, ...) end

--- Closes the file; the store cannot be asked any more.
function Store:close() self.db:close() end

function Store:__tostring()
  local parts = {}
  for _, r in ipairs(self.db:rows "select experiment, count(*) as n, sum(status = 'done') as done, sum(status = 'failed') as failed from runs group by 1 order by 1") do
    parts[#parts + 1] = ("%s: %d runs, %d done, %d failed"):format(r.experiment, r.n, r.done, r.failed)
  end
  return ("store %s; %s"):format(self.path, #parts > 0 and table.concat(parts, "; ") or "empty")
end

return store
