--- names.lua: the nearest right name to a wrong one, for messages that say "did you mean".
local names = {}

--- Edit distance with transpositions of neighbours (Damerau-Levenshtein, restricted).
function names.distance(a, b)
  local before, last, row = {}, {}, {}
  for j = 0, #b do last[j] = j end
  for i = 1, #a do
    row = { [0] = i }
    for j = 1, #b do
      local cost = a:byte(i) == b:byte(j) and 0 or 1
      row[j] = math.min(last[j] + 1, row[j - 1] + 1, last[j - 1] + cost)
      if i > 1 and j > 1 and a:byte(i) == b:byte(j - 1) and a:byte(i - 1) == b:byte(j) then
        row[j] = math.min(row[j], before[j - 2] + 1)
      end
    end
    before, last = last, row
  end
  return last[#b]
end

--- The nearest of a list of names; nil when none is near: more than a third of the letters wrong, and not a beginning.
---@param wrong string
---@param list string[]
function names.nearest(wrong, list)
  local best, best_d
  for _, name in ipairs(list) do
    local d = names.distance(wrong:lower(), name:lower())
    if #wrong >= 2 and name:sub(1, #wrong) == wrong then d = math.min(d, 1) end
    if not best_d or d < best_d then best, best_d = name, d end
  end
  if best and best_d <= math.max(1, math.floor(math.max(#wrong, #best) / 3)) then return best end
end

-- what other programs call an option
local OTHERS = { num_generations = "group", group_size = "group", max_completion_length = "new_tokens", max_new_tokens = "new_tokens", max_steps = "total", steps = "total",
  output_dir = "out", output = "out", dataset = "task", num_train_epochs = "epochs" }

-- a name of the list that is the initials of the wrong one's words (learning-rate: lr), or another program's word for it
local function meant(wrong, list)
  local plain = wrong:gsub("-", "_")
  local initials = plain:find "_" and plain:gsub("(%a)[^_]*_?", "%1")
  for _, name in ipairs(list) do
    if name == initials or name:gsub("-", "_") == OTHERS[plain] then return name end
  end
end

--- "; did you mean X?" or "".
function names.hint(wrong, list, prefix)
  local n = names.nearest(wrong, list) or meant(wrong, list)
  return n and ("; did you mean %s%s?"):format(prefix or "", n) or ""
end

return names
