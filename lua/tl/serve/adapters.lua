--- serve/adapters.lua: the adapters that a server offers, by name, and the samplers that decode them.
---
--- TinyLoRA and LoRA-XS on the same A and B are members of one population, and share one sampler: their requests are decoded in one batch,
--- with each other's and the base's. An adapter on other A and B begins a sampler of its own, and so does every LoRA.
---
--- A folder is looked through again when a name is not known: adapters that came, changed or went are taken notice of while others are
--- being decoded. What is being decoded goes on with the numbers it began with.
local adapters = require "tl.adapter"
local artifact = require "tl.artifact"
local fs = require "tl.fs"
local log = require "tl.log"
local population = require "tl.population"
local sample = require "tl.sample"

local Shelf = {}
Shelf.__index = Shelf

--- o: model, decoder (it, or its int8 copy), folders (list), named ({ name = path }), key (a public key's file: only compact files that it signed), force,
--- sampler (options of tl.sample.sampler).
local function new(o)
  local folders = {}
  for i, folder in ipairs(o.folders or {}) do folders[i] = folder:gsub("(.)/+$", "%1") end
  local s = setmetatable({ o = o, model = o.model, folders = folders, groups = {}, entries = {}, broken = {}, gone = {}, reused = 0 }, Shelf)
  s:scan()
  return s
end

-- ---- what is there

-- the adapters in a folder: { name = path }. NAME.tla goes before the folder NAME, which is the same adapter for PEFT
local function in_folder(folder, found)
  local names, why = fs.list(folder)
  if not names then return why end
  for _, file in ipairs(names) do
    local path, name = folder .. "/" .. file, file:match "^([^.].*)%.tla$"
    if name and fs.kind(path) == "file" then
      found[name] = path
    elseif fs.kind(path) == "folder" and not found[file] and fs.kind(path .. ".tla") ~= "file" and adapters.find(path) then
      found[file] = path
    end
  end
end

-- what changes when an adapter's file does
local function stamp_of(path)
  local found, kind = adapters.find(path)
  if not found then return "" end
  if kind == "compact" then return fs.stamp(found) end
  return fs.stamp(found .. "/adapter_config.json") .. " " .. fs.stamp(found .. "/adapter_model.safetensors")
end

-- ---- the samplers

--- The base's group and member: a group of adapters decodes the base too, so that it is in one batch with them.
function Shelf:group_of_base()
  for _, g in ipairs(self.groups) do
    if g.shared then return g, -1 end
  end
  for _, g in ipairs(self.groups) do
    if #g.adapters == 0 then return g, 0 end
  end
  local g = { sampler = sample.sampler(self.o.decoder, self.o.sampler), adapters = {}, users = {} }
  self.groups[#self.groups + 1] = g
  return g, 0
end

-- Frees the groups that no name means and nobody is being answered with, but for the base's.
local function drop_idle(self)
  local needed = { [self:group_of_base()] = true }
  for _, e in pairs(self.entries) do needed[e.group] = true end
  for i = #self.groups, 1, -1 do
    local g, users = self.groups[i], 0
    for _, n in pairs(g.users) do users = users + n end
    if not needed[g] and users == 0 and g.sampler.pending == 0 then
      self.reused = self.reused + g.sampler:stats().reused_tokens
      g.sampler:free()
      if g.set then g.set:free() end
      table.remove(self.groups, i)
    end
  end
end

-- a place in a group: one that no name has and nobody is being answered with, else a new one
local function free_place(self, g)
  local named = {}
  for _, e in pairs(self.entries) do
    if e.group == g then named[e.member + 1] = true end
  end
  for k = 1, #g.adapters do
    if not named[k] and (g.users[k - 1] or 0) == 0 then return k end
  end
  return #g.adapters + 1
end

-- Gives an adapter a place: in the group whose A and B it is on, or in a new one. settle makes it count.
local function place(self, a)
  local shared = a.kind == "tinylora" or a.kind == "loraxs"
  for _, g in ipairs(shared and self.groups or {}) do
    if g.shared and pcall(population.of, { g.adapters[1], a }) then
      local at = free_place(self, g)
      g.adapters[at], g.changed = a, true
      return g, at - 1
    end
  end
  local g = { adapters = { a }, users = {}, shared = shared, changed = true }
  self.groups[#self.groups + 1] = g
  return g, 0
end

-- the samplers of groups that are new, or have new members
local function settle(self)
  for _, g in ipairs(self.groups) do
    if g.changed then
      local set = g.shared and population.of(g.adapters) or nil
      if g.sampler then
        g.sampler:set_population(set)
        g.set:free()
      else
        local o = {}
        for k, v in pairs(self.o.sampler or {}) do o[k] = v end
        o.population, o.adapter = set, not g.shared and g.adapters[1] or nil
        g.sampler = sample.sampler(self.o.decoder, o)
      end
      g.set, g.changed = set, false
    end
  end
end

--- Whether somebody is being answered with a group's member: by so many more, or fewer.
function Shelf:use(g, member, by) g.users[member] = (g.users[member] or 0) + by end

local function basis_of(self)
  for _, g in ipairs(self.groups) do
    if g.shared then return g.adapters[1] end
  end
end

local function load(self, name, path)
  if name == self.o.base then error(("%s: '%s' is the base's name in requests; --name gives the base another"):format(path, name), 0) end
  if self.o.key then
    local found, kind = adapters.find(path)
    if kind ~= "compact" then error(("%s: only compact files can be signed (--key)"):format(found or path), 0) end
    artifact.verify(found, self.o.key)
  end
  local a = adapters.load(self.model, path, { force = self.o.force, basis = basis_of(self) })
  if a.kind == "full" then error(path .. ": full finetuning is a model of its own, not an adapter", 0) end
  return a
end

-- ---- names

-- a folder that cannot be read any more: what was loaded from it stays
local function stay(self, folder, found)
  for name, e in pairs(self.entries) do
    if e.path:sub(1, #folder + 1) == folder .. "/" then found[name] = e.path end
  end
end

--- Looks through the folders: new and changed adapters are loaded, those that went are forgotten. What cannot be loaded is said once
--- on stderr, and to who asks for it.
function Shelf:scan()
  local found = {}
  for _, folder in ipairs(self.folders) do
    local why = in_folder(folder, found)
    if why and not self.scanned then error(why, 0) end
    if why then stay(self, folder, found) end
    if why and not self.gone[folder] then log.warn("%s; its adapters stay as they were", why) end
    self.gone[folder] = why
  end
  self.scanned = true
  for name, path in pairs(self.o.named or {}) do found[name] = path end
  local names = {}
  for name in pairs(found) do names[#names + 1] = name end
  table.sort(names)
  for _, list in ipairs { self.entries, self.broken } do
    for name in pairs(list) do if not found[name] then list[name] = nil end end
  end
  for _, name in ipairs(names) do
    local path, stamp, e = found[name], stamp_of(found[name]), self.entries[name] or self.broken[name]
    local lost = e and stamp == "" and self.gone[path:match "^(.*)/"]  -- with its folder
    if not lost and (not e or e.stamp ~= stamp or e.path ~= path) then
      self.entries[name], self.broken[name] = nil, nil
      local ok, a = pcall(load, self, name, path)
      if ok then
        local g, member = place(self, a)
        self.entries[name] = { name = name, path = path, stamp = stamp, group = g, member = member, adapter = a, since = os.time() }
      else
        local why = tostring(a):gsub("^%S+%.lua:%d+: ", "")
        self.broken[name] = { path = path, stamp = stamp, why = why }
        log.warn("adapter %s is left out: %s", name, why)
      end
    end
  end
  settle(self)
  drop_idle(self)
end

--- The sampler and the member that a name means (nil or the base's name: the base); nil and why not.
function Shelf:find(name)
  if name == nil or name == self.o.base then return self:group_of_base() end
  local e = self.entries[name]
  if not e or e.stamp ~= stamp_of(e.path) then
    self:scan()
    e = self.entries[name]
  end
  if e then return e.group, e.member end
  if self.broken[name] then return nil, ("the adapter '%s' cannot be used: %s"):format(name, self.broken[name].why) end
  return nil, ("the model '%s' does not exist; /v1/models lists those that do"):format(tostring(name))
end

--- The names of all adapters, sorted.
function Shelf:names()
  local list = {}
  for name in pairs(self.entries) do list[#list + 1] = name end
  table.sort(list)
  return list
end

return { new = new }
