#!/usr/bin/env bash
# curves.sh OUT.svg RUN...: mean reward and mean completion length of runs, step by step, as one picture (needs gnuplot).
# Thin: each step; thick: mean of the ten steps before it.
set -euo pipefail
out=$1; shift
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
plots=("" ""); i=0
for run in "$@"; do
  i=$((i + 1))
  "${TLRUN:-build/tlrun}" -e 'local j = require "tl.json"
    local window, n = { {}, {} }, 0
    for line in io.lines(arg[1] .. "/metrics.jsonl") do
      local m = j.decode(line)
      if m.reward then
        n = n + 1
        local out = { m.step, m.reward, m["completions/mean_length"] }
        for k = 1, 2 do
          window[k][n] = out[k + 1]
          local sum, first = 0, math.max(1, n - 9)
          for i = first, n do sum = sum + window[k][i] end
          out[k + 3] = sum / (n - first + 1)
        end
        print(table.concat(out, " "))
      end
    end' "$run" > "$work/$i"
  name=$(basename "$run")
  for k in 0 1; do
    plots[k]+="${plots[k]:+, }\"$work/$i\" using 1:$((k + 2)) with lines lw 0.6 lc $i notitle, \"$work/$i\" using 1:$((k + 4)) with lines lw 2.5 lc $i title \"$name\""
  done
done
gnuplot <<G
set terminal svg size 900,330 font "sans-serif,12" background "white"
set output "$out"
set multiplot layout 1,2
set key bottom right; set grid lc rgb "#dddddd"; set xlabel "step"; set yrange [0:*]
set title "mean reward"; plot ${plots[0]}
set title "mean length, tokens"; set key top right; plot ${plots[1]}
G
