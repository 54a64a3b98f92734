--- constraints.lua: does a completion follow checkable instructions? The kinds, names and arguments are IFEval's (Zhou et al. 2023,
--- arXiv:2311.07911), so its problems load as they are: problem.instruction_id_list with problem.kwargs, or problem.instructions, a list of
--- { id = "length_constraints:number_words", relation = "at least", num_words = 50 }.
---
---   config.score   "all" (default): 1 when every instruction is followed, else 0;  "share": the share that is followed
---   config.loose   true: IFEval's loose reading too: without the first line, the last line, or asterisks
---
--- Where IFEval's own checks are lax these are not: keywords are whole words ("teacup" is no "tea"; there existence and frequency find them inside of
--- words), words are what stands between spaces ("don't" is one, not two), a placeholder has something in it, a postscript begins a line, and JSON
--- has no NaN. So scores are not the benchmark's to the digit.
---
--- info names each instruction and whether it was followed. relation is "at least" or "less than" (IFEval's), "at most", "more than" or "exactly".
--- language:response_language goes by script (Arabic, Devanagari, Bengali, Gujarati, Gurmukhi, Tamil, Telugu, Kannada, Malayalam, Thai, Hangul,
--- kana, Han, Cyrillic, Greek, Hebrew, Latin); among the languages in Latin letters, en de fr es it pt are told apart by their commonest words,
--- the others are not.
local tl = require "tl"

local M = {}

local function trim(s) return s:match("^%s*(.*%S)") or "" end

local function relation(n, wanted, rel)
  rel = rel or "at least"
  if rel == "at least" then return n >= wanted end
  if rel == "less than" then return n < wanted end
  if rel == "at most" then return n <= wanted end
  if rel == "more than" then return n > wanted end
  if rel == "exactly" then return n == wanted end
  error(("relation is '%s'; at least, less than, at most, more than or exactly"):format(tostring(rel)), 0)
end

-- in any alphabet
local lower_letter, upper_letter = tl.regex.compile "\\p{Ll}", tl.regex.compile "\\p{Lu}"

local function need(a, name)
  if a[name] == nil then error(("the instruction %s has no %s"):format(tostring(a.id), name), 0) end
  return a[name]
end

-- ---- counting

local function words(text)
  local n = 0
  for w in text:gmatch("[^%s]+") do
    if w:find("[%w\128-\255]") then n = n + 1 end
  end
  return n
end

local abbreviations = {}
for w in ("mr mrs ms dr prof sr jr st vs etc e.g i.e fig no inc ltd co u.s"):gmatch("%S+") do abbreviations[w] = true end

-- sentences end in . ! ? (or their wide forms) before a space or the end; not after an abbreviation or inside a number
local function sentences(text)
  text = text:gsub("\227\128\130", ". "):gsub("\239\188\129", "! "):gsub("\239\188\159", "? "):gsub("\224\165\164", ". ")
  local n, open = 0, false
  for token in text:gmatch("%S+") do
    open = true
    local bare = token:gsub("[\"'%)%]%*_]+$", "")
    local word, mark = bare:match("^(.-)([.!?]+)$")
    if mark and not (mark == "." and (abbreviations[word:lower():gsub("^[%(\"'%[]+", "")] or word:find("^%u$"))) then n, open = n + 1, false end
  end
  return n + (open and 1 or 0)
end

-- whole-word occurrences, in any case
local function occurrences(text, keyword)
  local pattern = keyword:gsub("[%^$().%[%]*+?{}|\\]", "\\%0")
  local n = 0
  for _ in tl.regex.compile("(?<![\\p{L}\\p{N}_])" .. pattern .. "(?![\\p{L}\\p{N}_])", "i"):each(text) do n = n + 1 end
  return n
end

local function paragraphs(text, separator)
  local list, from = {}, 1
  while true do
    local a, b = text:find(separator, from)
    list[#list + 1] = trim(text:sub(from, a and a - 1))
    if not a then break end
    from = b + 1
  end
  local filled = {}
  for i, p in ipairs(list) do
    if p ~= "" then filled[#filled + 1] = p elseif i > 1 and i < #list then return nil end
  end
  return filled
end

local function count(text, pattern)
  local _, n = text:gsub(pattern, "")
  return n
end

-- ---- languages

local scripts = {
  arabic = { 0x600, 0x6FF }, devanagari = { 0x900, 0x97F }, bengali = { 0x980, 0x9FF }, gurmukhi = { 0xA00, 0xA7F }, gujarati = { 0xA80, 0xAFF },
  tamil = { 0xB80, 0xBFF }, telugu = { 0xC00, 0xC7F }, kannada = { 0xC80, 0xCFF }, malayalam = { 0xD00, 0xD7F }, thai = { 0xE00, 0xE7F },
  hangul = { 0xAC00, 0xD7AF }, kana = { 0x3040, 0x30FF }, han = { 0x4E00, 0x9FFF }, cyrillic = { 0x400, 0x4FF }, greek = { 0x370, 0x3FF },
  hebrew = { 0x590, 0x5FF }, latin = { 0x41, 0x24F },
}
local script_of = {
  ar = "arabic", fa = "arabic", ur = "arabic", hi = "devanagari", mr = "devanagari", ne = "devanagari", bn = "bengali", pa = "gurmukhi", gu = "gujarati",
  ta = "tamil", te = "telugu", kn = "kannada", ml = "malayalam", th = "thai", ko = "hangul", ja = "kana", zh = "han", ru = "cyrillic", uk = "cyrillic",
  bg = "cyrillic", el = "greek", he = "hebrew",
}
local common = {
  en = "the of and to in is that it for was on are with as be at this have from or", de = "der die und das ist nicht ein eine zu den mit von im auf für sich des dem es ich",
  fr = "le la les de des et est un une du dans que qui pour pas sur au il avec en", es = "el la los de que y en un una es por con para las del se no su al lo",
  it = "il la di che e un una per non in con del della sono gli le si da i è", pt = "o a os de que e do da em um uma para com não por as no se na é",
}

local function shares(text)
  local found, total = {}, 0
  for c in text:gmatch("[%z\1-\127\194-\244][\128-\191]*") do
    local b = c:byte()
    local code = b
    if b >= 0xF0 then code = (b - 0xF0) * 262144 elseif b >= 0xE0 then code = (b - 0xE0) * 4096 + (c:byte(2) - 128) * 64 + (c:byte(3) or 128) - 128
    elseif b >= 0xC0 then code = (b - 0xC0) * 64 + c:byte(2) - 128 end
    if not (code < 0x41 or code > 0x5A and code < 0x61 or code > 0x7A and code < 0xC0) then
      for name, r in pairs(scripts) do
        if code >= r[1] and code <= r[2] then found[name], total = (found[name] or 0) + 1, total + 1 end
      end
    end
  end
  return found, math.max(1, total)
end

local function in_language(text, language)
  local code = tostring(language):lower():match("^%a%a")
  local script = script_of[code] or "latin"
  local found, total = shares(text)
  if script == "kana" then return (found.kana or 0) > 0 and ((found.kana or 0) + (found.han or 0)) / total > 0.6 end
  if script == "han" then return (found.han or 0) / total > 0.6 and (found.kana or 0) / total < 0.1 end
  if (found[script] or 0) / total < 0.6 then return false end
  if not common[code] then return true end
  local hits, best, best_hits = {}, nil, 0
  for word in text:lower():gmatch("[%a\128-\255]+") do
    for lang, list in pairs(common) do
      if (" " .. list .. " "):find(" " .. word .. " ", 1, true) then hits[lang] = (hits[lang] or 0) + 1 end
    end
  end
  for lang, n in pairs(hits) do
    if n > best_hits then best, best_hits = lang, n end
  end
  return best == nil or best == code or (hits[code] or 0) == best_hits
end

-- ---- the instructions: (text, arguments, problem) -> followed?

local checks = {}

checks["keywords:existence"] = function(text, a)
  for _, k in ipairs(need(a, "keywords")) do if occurrences(text, k) == 0 then return false end end
  return true
end
checks["keywords:forbidden_words"] = function(text, a)
  for _, k in ipairs(need(a, "forbidden_words")) do if occurrences(text, k) > 0 then return false end end
  return true
end
checks["keywords:frequency"] = function(text, a) return relation(occurrences(text, need(a, "keyword")), need(a, "frequency"), a.relation) end
checks["keywords:letter_frequency"] = function(text, a)
  local letter = need(a, "letter"):lower():gsub("%p", "%%%0")
  return relation(count(text:lower(), letter), need(a, "let_frequency"), a.let_relation)
end
checks["language:response_language"] = function(text, a) return in_language(text, need(a, "language")) end
checks["length_constraints:number_words"] = function(text, a) return relation(words(text), need(a, "num_words"), a.relation) end
checks["length_constraints:number_sentences"] = function(text, a) return relation(sentences(text), need(a, "num_sentences"), a.relation) end
checks["length_constraints:number_paragraphs"] = function(text, a)
  local list = paragraphs(text, "%s*%*%*%*%s*")
  return list ~= nil and #list == need(a, "num_paragraphs")
end
checks["length_constraints:nth_paragraph_first_word"] = function(text, a)
  local list = paragraphs(text, "\n%s*\n")
  if not list or #list ~= need(a, "num_paragraphs") then return false end
  local p = list[need(a, "nth_paragraph")]
  local first = p and p:match("^[%p%s]*([%w\128-\255'-]+)")
  return first ~= nil and first:lower() == need(a, "first_word"):lower()
end
checks["detectable_content:number_placeholders"] = function(text, a) return count(text, "%[[^%[%]]+%]") >= need(a, "num_placeholders") end
checks["detectable_content:postscript"] = function(text, a)
  local marker = (a.postscript_marker or "P.S."):lower()
  local spaced = marker:gsub("%.", ""):gsub("%a", "%0%%.?%%s?")
  return ("\n" .. text:lower()):find("\n[%s*_#>-]*" .. spaced .. "%f[^%a][*_%s:.]*[^*_%s:.]") ~= nil
end
checks["detectable_format:number_bullet_lists"] = function(text, a)
  local n = 0
  for line in (text .. "\n"):gmatch("(.-)\n") do if line:find("^%s*%*[^%*]") or line:find("^%s*%-%s*%S") then n = n + 1 end end
  return n == need(a, "num_bullets")
end
checks["detectable_format:constrained_response"] = function(text)
  for _, option in ipairs { "My answer is yes.", "My answer is no.", "My answer is maybe." } do if text:find(option, 1, true) then return true end end
  return false
end
checks["detectable_format:number_highlighted_sections"] = function(text, a)
  local n = 0
  for inner in text:gmatch("%*%*([^\n%*]+)%*%*") do if trim(inner) ~= "" then n = n + 1 end end
  for inner in text:gsub("%*%*[^\n%*]+%*%*", ""):gmatch("%*([^\n%*]+)%*") do if trim(inner) ~= "" then n = n + 1 end end
  return n >= need(a, "num_highlights")
end
checks["detectable_format:multiple_sections"] = function(text, a)
  local n = count(text, need(a, "section_spliter"):gsub("%p", "%%%0") .. "%s?%d+%s?")
  return n >= need(a, "num_sections")
end
checks["detectable_format:json_format"] = function(text)
  local bare = text:gsub("^```%a*", ""):gsub("```$", "")
  return tl.json.parse(trim(bare)) ~= nil
end
checks["detectable_format:title"] = function(text)
  for inner in text:gmatch("<<([^\n]-)>>") do if trim(inner:gsub("[<>]", "")) ~= "" then return true end end
  return false
end
checks["combination:two_responses"] = function(text)
  local list = paragraphs(text, "%*%*%*%*%*%*")
  return list ~= nil and #list == 2 and list[1] ~= list[2]
end
checks["combination:repeat_prompt"] = function(text, a, problem)
  local prompt = trim(a.prompt_to_repeat or problem.question or "")
  return prompt ~= "" and text:lower():sub(1, #prompt) == prompt:lower()
end
checks["startend:end_checker"] = function(text, a)
  local tail = trim(text):gsub('"+$', ""):lower()
  local phrase = trim(need(a, "end_phrase")):lower()
  return tail:sub(-#phrase) == phrase
end
checks["startend:quotation"] = function(text) return #text > 1 and text:find('^".*"$') ~= nil end
checks["change_case:capital_word_frequency"] = function(text, a)
  local n = 0
  for w in text:gmatch("[%a][%a'-]*") do if not w:find("%l") then n = n + 1 end end
  return relation(n, need(a, "capital_frequency"), a.capital_relation)
end
checks["change_case:english_capital"] = function(text) return text:find("%a") ~= nil and not lower_letter:match(text) and in_language(text, "en") end
checks["change_case:english_lowercase"] = function(text) return text:find("%a") ~= nil and not upper_letter:match(text) and in_language(text, "en") end
checks["punctuation:no_comma"] = function(text) return not text:find(",", 1, true) end

--- The kinds of instructions that are known, sorted.
function M.kinds()
  local list = {}
  for id in pairs(checks) do list[#list + 1] = id end
  table.sort(list)
  return list
end

-- without nulls: a table of all kinds' arguments has one for each that a kind has not
local function given(a, id)
  local copy = { id = id }
  for k, v in pairs(a) do
    if v ~= tl.json.null then copy[k] = v end
  end
  return copy
end

local function instructions_of(problem)
  if problem.instructions then
    local list = {}
    for i, a in ipairs(problem.instructions) do list[i] = given(a) end
    return list
  end
  local ids = problem.instruction_id_list or error("the problem has neither instructions nor instruction_id_list", 0)
  local list = {}
  for i, id in ipairs(ids) do
    list[i] = given((problem.kwargs or {})[i] or {}, id)
  end
  return list
end

-- the readings of a text: itself, and IFEval's loose ones
local function readings(text, loose)
  if not loose then return { text } end
  local function variants(t) return { t, (t:gsub("^[^\n]*\n", "", 1)), (t:gsub("\n[^\n]*$", "", 1)), (t:gsub("^[^\n]*\n", "", 1):gsub("\n[^\n]*$", "", 1)) } end
  local list = variants(text)
  for _, v in ipairs(variants(text)) do list[#list + 1] = (v:gsub("%*", "")) end
  return list
end

--- The verifier for a config { score =, loose = }.
function M.make(config)
  config = config or {}
  local score = config.score or "all"
  if score ~= "all" and score ~= "share" then error("verifiers.constraints: score is '" .. tostring(score) .. "'; all or share", 2) end
  return function(problem, completion)
    local texts, followed, info = readings(trim(completion.text), config.loose), 0, {}
    local list = instructions_of(problem)
    for i, a in ipairs(list) do
      local check = checks[a.id] or error(("unknown instruction '%s'"):format(tostring(a.id)), 0)
      local ok = false
      for _, text in ipairs(texts) do ok = ok or trim(text) ~= "" and check(text, a, problem) end
      info[i] = { id = a.id, followed = ok }
      if ok then followed = followed + 1 end
    end
    if #list == 0 then error("the problem has no instructions", 0) end
    if score == "share" then return followed / #list, info end
    return followed == #list and 1 or 0, info
  end
end

M.about = { name = "constraints", wants = { "instructions" }, range = { 0, 1 }, summary = "checkable instructions, IFEval's kinds" }
M.verify = M.make()

return setmetatable(M, { __call = function(_, problem, completion) return M.verify(problem, completion) end })
