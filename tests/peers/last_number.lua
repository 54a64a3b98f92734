-- The reward of `./dev bench peers --what grpo --reward answer`, and of a table in docs/populations.md: 1 if the completion's last number is the problem's answer, as in trl_step.py.
return function(problem, completion)
  local last
  local text = completion.text:gsub(",", "")
  for number in text:gmatch("%-?%d+%.?%d*") do last = number end
  return last ~= nil and tonumber(last) == tonumber(problem.answer) and 1 or 0
end
