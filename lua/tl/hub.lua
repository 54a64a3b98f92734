--- hub.lua: models of the Hugging Face hub, by org/name[@revision], in the cache that Python's tools share:
---
---   HF_HUB_CACHE (default HF_HOME/hub, HF_HOME default ~/.cache/huggingface)
---     models--org--name/refs/REVISION        the commit that a branch or tag was at when it was last asked for
---     models--org--name/snapshots/COMMIT/    the files, as links into
---     models--org--name/blobs/               one a content, named by its SHA-256 (large files) or by git's SHA-1
---
--- Only what is needed comes: configuration, tokenizer, chat templates and safetensors (or one GGUF); every file is checked
--- against the sum that the hub has for it. What the cache holds whole is taken without asking the network. HF_ENDPOINT, HF_TOKEN
--- (or the file HF_TOKEN_PATH, default HF_HOME/token) and HF_HUB_OFFLINE count as they do there.
local F = require "tl.ffi"
local ffi = require "ffi"
local fs = require "tl.fs"
local json = require "tl.json"
local log = require "tl.log"
local C, check = F.C, F.check

local hub = {}

-- ---------------------------------------------------------------- settings
local function env(...)
  for _, name in ipairs { ... } do
    local v = os.getenv(name)
    if v and v ~= "" then return v end
  end
end

local function home()
  return env "HF_HOME" or (env "XDG_CACHE_HOME" or (env "HOME" or ".") .. "/.cache") .. "/huggingface"
end
local function cache() return env("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE") or home() .. "/hub" end
local function endpoint() return ((env "HF_ENDPOINT" or "https://huggingface.co"):gsub("/+$", "")) end
local function offline()
  local v = env("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
  return v ~= nil and ({ ["1"] = true, ON = true, YES = true, TRUE = true })[v:upper()] == true
end

--- The access token, or nil.
function hub.token()
  local t = env("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
  if not t then
    local path = env "HF_TOKEN_PATH" or home() .. "/token"
    t = fs.kind(path) == "file" and fs.read(path) or ""
  end
  t = t:gsub("%s+", "")
  return t ~= "" and t or nil
end

-- ---------------------------------------------------------------- names
--- The parts of "org/name[@revision]" or "datasets/org/name[@revision]"; nil when a name is not of that form.
---@param name string
---@return table? {kind = "model"|"dataset", repo, revision}
function hub.parse(name)
  if type(name) ~= "string" then return nil end
  local id, revision = name:match "^([^@]+)@(.+)$"
  id = id or name
  local kind, rest = "model", id:match "^datasets/(.+)$"
  if rest then kind, id = "dataset", rest end
  local org, repo = id:match "^([%w][%w._-]*)/([%w][%w._-]*)$"
  if not org or id:find("..", 1, true) or id:find("--", 1, true) then return nil end
  if revision and (revision:find "[%s%c]" or revision:find("..", 1, true) or revision:sub(1, 1) == "/") then return nil end
  return { kind = kind, repo = id, revision = revision or "main" }
end

local function folder(r) return ("%s/%ss--%s"):format(cache(), r.kind, (r.repo:gsub("/", "--"))) end

local function escaped(s) return (s:gsub("[^%w._~/-]", function(c) return ("%%%02X"):format(c:byte()) end)) end
local function in_one(s) return (escaped(s):gsub("/", "%%2F")) end

--- The address of a file of a model.
function hub.url(repo, revision, path)
  return ("%s/%s/resolve/%s/%s"):format(endpoint(), repo, in_one(revision), escaped(path))
end

-- ---------------------------------------------------------------- which files
local PLAIN = { "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
  "added_tokens.json", "vocab.json", "merges.txt", "vocab.txt", "tokenizer.model", "chat_template.jinja", "chat_template.json",
  "adapter_config.json", "adapter_model.safetensors" }
local WANTED = {}
for _, name in ipairs(PLAIN) do WANTED[name] = true end

-- a pattern with * and ? as Lua's; a pattern without a slash is for the file's name in any folder
local function matcher(pattern)
  local lua = "^" .. pattern:gsub("[%^%$%(%)%%%.%[%]%+%-]", "%%%0"):gsub("%*", ".*"):gsub("%?", ".") .. "$"
  return function(path)
    return path:find(lua) ~= nil or not pattern:find("/", 1, true) and (path:match "[^/]*$"):find(lua) ~= nil
  end
end

-- the names that a choice by --file takes, with the other parts of a GGUF that is split
local function chosen(paths, pattern)
  local matches, stems, out = matcher(pattern), {}, {}
  for _, p in ipairs(paths) do
    if matches(p) then
      local stem, total = p:match "^(.*)%-%d%d%d%d%d%-of%-(%d%d%d%d%d)%.gguf$"
      if stem then stems[stem .. total] = true end
    end
  end
  for _, p in ipairs(paths) do
    local stem, total = p:match "^(.*)%-%d%d%d%d%d%-of%-(%d%d%d%d%d)%.gguf$"
    if matches(p) or stem and stems[stem .. total] then out[#out + 1] = p end
  end
  return out
end

local function with_ending(paths, ending)
  local out = {}
  for _, p in ipairs(paths) do
    if p:sub(-#ending) == ending then out[#out + 1] = p end
  end
  return out
end

-- the weights among the files of the top folder: safetensors (not a second copy of them beside), else one GGUF
local function weights(paths, where)
  local top, model, gguf = {}, {}, with_ending(paths, ".gguf")
  for _, p in ipairs(with_ending(paths, ".safetensors")) do
    if not p:find("/", 1, true) and not WANTED[p] then
      top[#top + 1] = p
      if p:find "^model[.-]" then model[#model + 1] = p end
    end
  end
  if #top > 0 then return #model > 0 and model or top end
  local first = gguf[1] and chosen(gguf, gguf[1]) or {}
  if #gguf > 0 and #first == #gguf then return gguf end
  if #gguf > 0 then
    error(("%s has %d GGUF files; choose with --file: %s"):format(where, #gguf, table.concat(gguf, ", ")), 0)
  end
  return {}
end

-- The paths to fetch out of all that there are; an error says what is missing.
local function needed(paths, r, pattern)
  local where = ("%s@%s"):format(r.repo, r.revision)
  if pattern then
    local out = chosen(paths, pattern)
    if #out == 0 then error(("%s has no file '%s'; it has: %s"):format(where, pattern, table.concat(paths, ", ")), 0) end
    return out
  end
  if r.kind == "dataset" then error(("%s: choose a data set's files with --file; it has: %s"):format(where, table.concat(paths, ", ")), 0) end
  local out, adapter = weights(paths, where), false
  for _, p in ipairs(paths) do
    if WANTED[p] or p:find "^additional_chat_templates/[^/]+%.jinja$" or p:find "^[^/]*%.safetensors%.index%.json$" then out[#out + 1] = p end
    adapter = adapter or p == "adapter_model.safetensors"
  end
  if not adapter and #with_ending(out, ".safetensors") == 0 and #with_ending(out, ".gguf") == 0 then
    error(("%s has neither safetensors nor GGUF weights; it has: %s"):format(where, table.concat(paths, ", ")), 0)
  end
  return out
end

-- in the order in which files are fetched: a snapshot is whole when its weights are there (is_whole), so they come last
local function weights_last(list)
  local out = {}
  for pass = 1, 2 do
    for _, p in ipairs(list) do
      local heavy = p:find "%.safetensors$" ~= nil or p:find "%.gguf$" ~= nil
      if heavy == (pass == 2) then out[#out + 1] = p end
    end
  end
  return out
end

-- ---------------------------------------------------------------- the cache
local function walk(dir, prefix, out)
  for _, name in ipairs(fs.list(dir) or {}) do
    local kind = fs.kind(dir .. "/" .. name)
    if kind == "folder" then walk(dir .. "/" .. name, prefix .. name .. "/", out) elseif kind == "file" then out[#out + 1] = prefix .. name end
  end
  return out
end

-- the commit that the cache has for a revision, or nil
local function cached_commit(r)
  if r.revision:find "^%x+$" and #r.revision == 40 then return r.revision end
  local ref = folder(r) .. "/refs/" .. r.revision
  local commit = fs.kind(ref) == "file" and fs.read(ref):match "^%s*(%x+)%s*$"
  return commit and #commit == 40 and commit or nil
end

-- whether a snapshot's files are a whole model: what an index names is there
local function is_whole(dir, paths, r, pattern)
  local ok, list = pcall(needed, paths, r, pattern)
  if not ok then return false end
  local there = {}
  for _, p in ipairs(paths) do there[p] = true end
  for _, p in ipairs(paths) do
    local stem, total = p:match "^(.*)%-%d%d%d%d%d%-of%-(%d%d%d%d%d)%.%a+$"
    for i = 1, tonumber(total) or 0 do
      local ending = p:match "%.%a+$"
      if i > 99999 or not there[("%s-%05d-of-%s%s"):format(stem, i, total, ending)] then return false end
    end
  end
  if pattern or #with_ending(list, ".gguf") > 0 then return true end
  local tokenizer = there["tokenizer.json"] or there["tokenizer.model"] or there["vocab.json"]
  return there["adapter_config.json"] or there["config.json"] and tokenizer ~= nil
end

--- What the cache has of a name, without the network: {name, kind, path, commit, files, fetched = 0}, or nil when it is not whole.
---@param name string
---@param o table?  file = pattern
function hub.find(name, o)
  local r = hub.parse(name)
  local commit = r and cached_commit(r)
  local dir = commit and folder(r) .. "/snapshots/" .. commit
  if not dir or fs.kind(dir) ~= "folder" then return nil end
  local paths = walk(dir, "", {})
  local pattern = o and o.file
  if not is_whole(dir, paths, r, pattern) then return nil end
  local files = json.array {}
  for i, p in ipairs(pattern and chosen(paths, pattern) or paths) do files[i] = dir .. "/" .. p end
  return { name = name, kind = r.kind, path = dir, commit = commit, files = files, fetched = 0 }
end

-- ---------------------------------------------------------------- the hub
-- a failure of the hub, in words for who has to do something about it
local function explained(message, r)
  local code = tonumber(message:match "HTTP (%d+)")
  local token = hub.token()
  local page = ("%s/%s%s"):format(endpoint(), r.kind == "dataset" and "datasets/" or "", r.repo)
  if code == 401 then
    return ("%s: the hub wants to know who asks (HTTP 401): %s; %s"):format(r.repo, token and "the token is not valid" or "the repository is gated or private, or there is none of this name",
      "make a token in the settings of the hub and give it as HF_TOKEN")
  elseif code == 403 then
    return ("%s is gated (HTTP 403): ask for access at %s with the account of the token%s"):format(r.repo, page, token and "" or ", and give that as HF_TOKEN")
  elseif code == 404 then
    return ("%s: the hub has no such repository, or it has no revision '%s' (HTTP 404)"):format(r.repo, r.revision)
  end
  return message
end

-- an entry of the hub's list: its path and what the file has to be
local function sibling(s, wrong)
  local path = type(s) == "table" and s.rfilename
  -- a path that leaves its folder is nobody's file
  local safe = type(path) == "string" and path ~= "" and not path:find("..", 1, true) and not path:find "^/" and not path:find "[%c\\]"
  if not safe then wrong(("'%s' is no file's name"):format(tostring(path))) end
  local lfs = type(s.lfs) == "table" and s.lfs or {}
  local function sum(v, digits) return type(v) == "string" and #v == digits and not v:find "[^0-9a-f]" and v or nil end
  local function size(v) return type(v) == "number" and v >= 0 and v < 2 ^ 53 and v % 1 == 0 and v or nil end
  local sha256 = sum(lfs.sha256, 64) or sum(lfs.oid, 64)
  return { path = path, sha256 = sha256, git_sha1 = not sha256 and sum(s.blobId, 40) or nil, bytes = size(lfs.size) or size(s.size) or 0 }
end

--- Reads the hub's description of a repository (JSON): the commit, its files by path {path, bytes, sha256 or git_sha1}, and the
--- paths in order. where: what errors call it.
function hub.answer(text, where)
  local doc, why = json.parse(text)
  local function wrong(what) error(("%s: not what the hub answers: %s"):format(where, what), 0) end
  if type(doc) ~= "table" then wrong(why or "not an object") end
  local commit = doc.sha
  if type(commit) ~= "string" or not commit:find "^%x+$" or #commit ~= 40 then wrong "'sha' is no commit" end
  if type(doc.siblings) ~= "table" then wrong "'siblings' is no list" end
  local files, paths = {}, {}
  for _, s in ipairs(doc.siblings) do
    local file = sibling(s, wrong)
    if not files[file.path] then paths[#paths + 1] = file.path end
    files[file.path] = file
  end
  table.sort(paths)
  return commit, files, paths
end

-- the same of a revision, from the hub
local function ask(r)
  local url = ("%s/api/%ss/%s/revision/%s?blobs=true"):format(endpoint(), r.kind, r.repo, in_one(r.revision))
  local out = ffi.new "char *[1]"
  if C.tl_http_get(url, "application/json", hub.token(), 64 * 2 ^ 20, out) ~= 0 then error(explained(ffi.string(C.tl_last_error()), r), 0) end
  return hub.answer(F.take_string(out[0]), url)
end

-- one file into blobs/ and its link into the snapshot; true when it was not there yet
local function get(r, commit, file, label)
  local base = folder(r)
  local name = file.sha256 or file.git_sha1
  if not name then error(("%s: the hub gives no checksum for %s"):format(r.repo, file.path), 0) end
  local blob, link = base .. "/blobs/" .. name, ("%s/snapshots/%s/%s"):format(base, commit, file.path)
  local fresh = not (fs.kind(blob) == "file" and (file.bytes == 0 or fs.bytes(blob) == file.bytes))
  if fresh then
    local url = ("%s/%s%s/resolve/%s/%s"):format(endpoint(), r.kind == "dataset" and "datasets/" or "", r.repo, commit, escaped(file.path))
    local status = C.tl_download(url, blob, ffi.new("tl_download_options", { sha256 = file.sha256, git_sha1 = file.git_sha1, bytes = file.bytes,
      token = hub.token(), label = label }))
    if status ~= 0 then error(explained(ffi.string(C.tl_last_error()), r), 0) end
  end
  if fs.kind(link) ~= "file" then
    fs.mkdirs(link:match "^(.*)/")
    local _, deep = file.path:gsub("/", "")
    fs.symlink(("../"):rep(deep + 2) .. "blobs/" .. name, link)
  end
  return fresh
end

local function mib(bytes) return ("%.1f MiB"):format(bytes / 2 ^ 20) end

--- Gets a model (or, with file, files of a data set) into the cache. Options: file = a pattern for the files to take ("*Q4_K_M.gguf"),
--- refresh = true: ask the hub for the revision's commit even when the cache has it whole.
---@param name string  org/name[@revision], datasets/org/name[@revision]
---@param o table?
---@return table {name, kind, path, commit, files, fetched}
function hub.fetch(name, o)
  o = o or {}
  local r = hub.parse(name)
  if not r then error(("'%s' is not org/name[@revision]"):format(tostring(name)), 2) end
  local there = not (o.refresh and not offline()) and hub.find(name, o)
  if there then return there end
  if offline() then error(("%s is not whole in %s, and HF_HUB_OFFLINE forbids to ask for it"):format(name, cache()), 0) end
  local commit, files, paths = ask(r)
  local wanted, total = needed(paths, r, o.file), 0
  for _, p in ipairs(wanted) do total = total + files[p].bytes end
  log.info("%s@%s: commit %s, %d files, %s", r.repo, r.revision, commit, #wanted, mib(total))
  local base = folder(r)
  fs.mkdirs(base .. "/blobs")
  fs.mkdirs(base .. "/snapshots/" .. commit)
  local out = { name = name, kind = r.kind, path = base .. "/snapshots/" .. commit, commit = commit, files = json.array {}, fetched = 0 }
  for i, p in ipairs(weights_last(wanted)) do
    if get(r, commit, files[p], ("%s (%d of %d)"):format(p, i, #wanted)) then out.fetched = out.fetched + 1 end
  end
  for i, p in ipairs(wanted) do out.files[i] = out.path .. "/" .. p end
  if r.revision ~= commit then
    local ref = base .. "/refs/" .. r.revision
    fs.mkdirs(ref:match "^(.*)/")
    fs.write(ref, commit)
  end
  return out
end

return hub
