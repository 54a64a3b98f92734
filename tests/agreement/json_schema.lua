-- json_schema.lua SUITE.json: called by json_schema.py. Exit code 1 below 98% of the required tests.
local tl = require "tl"
local schema = require "verifiers.structured.schema"
local file = assert(io.open(arg[1]))
local doc = tl.json.decode(file:read "*a")
file:close()
local right, total = 0, 0
for _, f in ipairs(doc.suite) do
  for _, g in ipairs(f.groups) do
    local ok, s = pcall(schema.compile, g.schema, { remotes = doc.remotes })
    for _, t in ipairs(g.tests) do
      total = total + 1
      local said, why
      if ok then ok, said, why = pcall(s.check, s, t.data) end
      if ok and said == t.valid then
        right = right + 1
      else
        print(("%s: %s: %s%s"):format(f.file, g.description, t.description, ok and "" or " (" .. tostring(said or s) .. ")"))
        ok = s ~= nil and type(s) == "table"
      end
    end
  end
end
print(("%d of %d required tests of draft 2020-12 (%.2f%%)"):format(right, total, 100 * right / total))
os.exit(right >= 0.98 * total and 0 or 1)
