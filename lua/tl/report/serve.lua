--- report/serve.lua: a page on localhost that is made anew whenever what it is made from has changed.
local F = require "tl.ffi"
local ffi = require "ffi"
local fs = require "tl.fs"
local sqlite = require "tl.sqlite"
local C, check = F.C, F.check

local serve = {}
local Server = {}
Server.__index = Server

--- Starts serving on 127.0.0.1. port 0: one that is free; the server's `port` says which.
---@param port integer
function serve.start(port)
  local out, used = ffi.new "tl_page_server *[1]", ffi.new "int[1]"
  check(C.tl_page_server_start(port, out, used))
  return setmetatable({ handle = ffi.gc(out[0], C.tl_page_server_stop), port = used[0] }, Server)
end

--- Puts a page in the place of the one before.
function Server:set(html) check(C.tl_page_server_set(self.handle, html, #html)) end

-- SQLite's count of the transactions that others have committed to a store; one connection each stays open for it. nil: none that can be read
local function commits(stores, path)
  local inode = fs.stamp(path):match "[^/]*/[^/]*$"
  local s = stores[path]
  if s and s.inode ~= inode then
    s.db:close()
    s = nil
  end
  local ok, found = pcall(function()
    s = s or { inode = inode, db = sqlite.open(path, { readonly = true }) }
    stores[path] = s
    return s.db:row "pragma data_version"
  end)
  return ok and found and found.data_version or nil
end

-- what tells whether the files that a page is made from have changed
local function state_of(paths, stores)
  local parts = {}
  local function add(path) parts[#parts + 1] = fs.stamp(path) end
  local function folder(path)
    for _, name in ipairs { "metrics.jsonl", "completions.jsonl", "summary.json", "config.json" } do add(path .. "/" .. name) end
  end
  for _, path in ipairs(paths) do
    if fs.kind(path) == "folder" then
      folder(path)
      for _, name in ipairs(fs.list(path) or {}) do
        if fs.kind(path .. "/" .. name) == "folder" then folder(path .. "/" .. name) end
      end
    else
      add(path)
      add(path .. "-wal")
      parts[#parts + 1] = tostring(commits(stores, path))
    end
  end
  return table.concat(parts, " ")
end

--- Keeps the page up to date until the process is interrupted: make() is called when the files of `paths` have changed, at most once a
--- second. A page that cannot be made (a folder that is just being written) is tried again.
---@param paths string[]
---@param make function
function Server:keep(paths, make)
  local seen, stores = nil, {}
  while true do
    local state = state_of(paths, stores)
    if state ~= seen then
      local ok, html = pcall(make)
      if ok then
        self:set(html)
        seen = state
      elseif not seen then error(html, 0) end
    end
    for _ = 1, 10 do
      if C.tl_interrupted() then self:stop() error("interrupted", 0) end
      C.tl_sleep(0.1)
    end
  end
end

function Server:stop()
  if self.handle then C.tl_page_server_stop(ffi.gc(self.handle, nil)) end
  self.handle = nil
end

return serve
