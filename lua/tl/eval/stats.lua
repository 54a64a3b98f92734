--- eval/stats.lua: the statistics of an evaluation.
local philox = require "tl.philox"

local stats = {}

--- pass@k, unbiased (Chen et al. 2021, arXiv:2107.03374): 1 - C(n - c, k) / C(n, k), of n samples with c right; nil when n < k.
function stats.pass_at_k(n, c, k)
  if n < k then return nil end
  if n - c < k then return 1 end
  local miss = 1
  for i = n - c + 1, n do miss = miss * (1 - k / i) end
  return 1 - miss
end

--- 95% interval of the mean of `values` by the bootstrap over them (2,000 resamples, percentiles); a function of the values and the seed.
function stats.bootstrap(values, seed)
  local n, means, g = #values, {}, philox.stream(seed or 0, 9071)
  if n == 0 then return 0, 1 end
  for b = 1, 2000 do
    local sum = 0
    for _ = 1, n do sum = sum + values[g.integer(1, n)] end
    means[b] = sum / n
  end
  table.sort(means)
  return means[51], means[1950]
end

--- Two-sided exact McNemar test: of b + c discordant pairs, b one way: the probability of so uneven a split or a more uneven one at even odds.
function stats.mcnemar(b, c)
  local n, k = b + c, math.min(b, c)
  if n == 0 then return 1 end
  local log_choose, tail = 0, {}
  for i = 0, k do
    tail[#tail + 1] = log_choose - n * math.log(2)
    log_choose = log_choose + math.log(n - i) - math.log(i + 1)
  end
  local sum = 0
  for _, x in ipairs(tail) do sum = sum + math.exp(x) end
  return math.min(1, 2 * sum)
end

--- Does a completion end in a loop? True when its last tokens, at least 48 and at least three turns, repeat with a period of up to 64.
---@param ids integer[]
function stats.is_repetitive(ids)
  local n = #ids
  for period = 1, 64 do
    local span = math.max(48, 3 * period)
    if span > n then return false end
    local same = true
    for i = n, n - span + period + 1, -1 do
      if ids[i] ~= ids[i - period] then same = false break end
    end
    if same then return true end
  end
  return false
end

--- The paired comparison of two lists of per-problem scores (means over the samples, in the same order): fixed, broken (counted at 0.5), McNemar's
--- p, the mean difference, and its bootstrap interval.
function stats.paired(before, after, seed)
  local fixed, broken, differences, sum = 0, 0, {}, 0
  for i = 1, #before do
    local a, b = before[i] > 0.5, after[i] > 0.5
    if b and not a then fixed = fixed + 1 elseif a and not b then broken = broken + 1 end
    differences[i] = after[i] - before[i]
    sum = sum + differences[i]
  end
  local lo, hi = stats.bootstrap(differences, seed)
  return { n = #before, fixed = fixed, broken = broken, p = stats.mcnemar(fixed, broken), difference = #before > 0 and sum / #before or 0, ci95 = { lo, hi } }
end

return stats
