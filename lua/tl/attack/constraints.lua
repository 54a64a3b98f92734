--- attack/constraints.lua: what a verifier of instructions (verifiers.constraints) is tried with: texts that follow no instruction and hold nothing.
---
--- There is no gold: a full reward is 1. Instructions about form are met by any text of that form, so "one word over and over" and "the
--- instructions' own words" are `weak`: they are told, and do not stop a training run. Where they are paid, the reward wants a second part that
--- looks at what is said (verifiers.combine).

local function words_of(problem)
  local list = {}
  local function walk(v)
    if type(v) == "table" then
      for _, x in pairs(v) do walk(x) end
    elseif type(v) == "string" then
      list[#list + 1] = v
    end
  end
  for _, a in ipairs(problem.instructions or {}) do for k, v in pairs(a) do if k ~= "id" and k ~= "relation" then walk(v) end end end
  for _, a in ipairs(problem.kwargs or {}) do walk(a) end
  table.sort(list)
  return table.concat(list, " ")
end

local function asks(problem, kind)
  for _, a in ipairs(problem.instructions or {}) do if a.id == kind then return true end end
  for _, id in ipairs(problem.instruction_id_list or {}) do if id == kind then return true end end
  return false
end

local junk = {
  { "nothing", function() return "" end, plain = true },
  { "white space", function() return " \n\n\t\n" end, plain = true },
  { "characters that are not seen", function() return ("\226\128\139"):rep(400) end, plain = true },
  { "marks and no words", function() return ("* - # . ! ? [ ] < > { } \n"):rep(20) end },
  { "the question repeated", function(p) return not asks(p, "combination:repeat_prompt") and p.question or nil end },
  { "a claim that all is followed", function() return "I have followed every instruction of this task" end, plain = true },
  { "one word over and over", function() return ("word "):rep(400) end, weak = true },
  { "the instructions' own words", function(p) return words_of(p) end, weak = true },
}

--- What is judged for a problem with instructions; as attack/puzzles.lua.
return function(problem)
  local list = { { name = "a refusal", text = "no, i will not, thank you", kind = "wrong" } }
  for _, j in ipairs(junk) do
    local text = j[2](problem)
    if text then list[#list + 1] = { name = j[1], text = text, kind = "hack", weak = j.weak, plain = j.plain } end
  end
  return list
end
