#!/usr/bin/env bash
# scaling.sh TLRUN [RANKS [ROUNDS [ARGUMENTS of tlrun bench grpo...]]]: seconds of a GRPO step on one rank with one thread, and on RANKS
# ranks with one thread each, in turns; medians and the speed-up. Called by ./dev bench ranks.
set -euo pipefail
tlrun=$1 n=${2:-2} rounds=${3:-3}
shift $(($# < 3 ? $# : 3))
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
[ $# -gt 0 ] || set -- --prompts 8 --group 8 --new-tokens 48 --reps 2
seconds() { sed -nE 's/.*"seconds_per_step":([0-9.e+-]+).*/\1/p'; }
median() { sort -g | awk '{v[NR] = $1} END {print v[int((NR + 1) / 2)]}'; }
one=() many=()
for ((i = 0; i < rounds; i++)); do
  one+=("$("$tlrun" bench grpo --threads 1 --json "$@" 2>/dev/null | seconds)")
  many+=("$(mpirun --oversubscribe -n "$n" "$tlrun" bench grpo --threads 1 --json "$@" 2>/dev/null | seconds)")
  echo "round $((i + 1)): 1 rank ${one[i]} s, $n ranks ${many[i]} s"
done
a=$(printf '%s\n' "${one[@]}" | median) b=$(printf '%s\n' "${many[@]}" | median)
awk -v a="$a" -v b="$b" -v n="$n" 'BEGIN {printf "step: 1 rank %.3f s, %d ranks %.3f s: %.2f times as fast, %.0f %% of %d\n", a, n, b, a / b, 100 * a / b / n, n}'
