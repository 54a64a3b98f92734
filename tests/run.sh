#!/usr/bin/env bash
# run.sh BUILD [NAME...]: runs every test program, counts its lines, ends with 'N passed, N failed'.
# A program that dies or fails without saying so counts as one failure. Called by ./dev test.
set -uo pipefail
build=$1; shift
cd "$(dirname "$0")/.."
export TL_BUILD_DIR=$build TL_TRACE=
# the simulator of CUDA, which ./dev test builds; one that is older than its sources may have another table of ops
if [ -e "$build/cusim/tl_cusim.so" ]; then
  if [ -z "$(find kernels/ops.h kernels/cuda tests/cusim -newer "$build/cusim/tl_cusim.so" -type f)" ]; then export TL_MODULES=$PWD/$build/cusim
  else echo "the simulator of CUDA is older than its sources (./dev test builds it): its tests skip"; fi
fi
passed=0 failed=0 skipped=0
began=$SECONDS

one() {  # label, command...
  local label=$1; shift
  local out status=0 t0=$SECONDS
  out=$(timeout 900 "$@" 2>&1) || status=$?
  local p f s
  p=$(grep -c '^ok ' <<<"$out"); f=$(grep -c '^not ok ' <<<"$out"); s=$(grep -c '^skip ' <<<"$out")
  if [ $status -ne 0 ] && [ "$f" -eq 0 ]; then
    f=1; out+=$'\n'"not ok $label: exit status $status"
    tail -n 25 <<<"$out"
  fi
  if [ "$p" -eq 0 ] && [ "$f" -eq 0 ] && [ "$s" -eq 0 ]; then f=1; out+=$'\n'"not ok $label: it ran no test"; fi
  grep -E '^(not ok|skip) ' <<<"$out"
  printf '%-44s %4d passed %3d failed %3d skipped  %4d s\n' "$label" "$p" "$f" "$s" $((SECONDS - t0))
  passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
}

wanted() {  # no names: all
  local label=$1; shift
  [ $# -eq 0 ] && return 0
  local n; for n in "$@"; do [[ $label == *"$n"* ]] && return 0; done
  return 1
}

# The real model, once, for the tests that compare with it; they skip with a word when it cannot be had.
[ $# -eq 0 ] && { timeout 600 "$build/tlrun" fetch smollm2-135m-instruct >/dev/null 2>&1 || echo "SmolLM2 could not be fetched: its tests skip"; }

# name matches are arguments of this script; the list of programs is what is in tests/
names=("$@")
for src in tests/unit/test_*.c tests/conformance/test_*.c; do
  [ -e "$src" ] || continue
  label=$(basename "$src" .c)
  wanted "$label" "${names[@]}" && one "$label" "$build/$label"
done
for src in tests/lua/test_*.lua tests/recipes/test_*.lua tests/parity/test_*.lua; do
  [ -e "$src" ] || continue
  wanted "$src" "${names[@]}" && one "$src" "$build/tlrun" "$src"
done
for src in tests/lua/test_*.py tests/recipes/test_*.py tests/parity/test_*.py; do
  [ -e "$src" ] || continue
  wanted "$src" "${names[@]}" && one "$src" python3 "$src"
done
for src in tests/test_*.sh; do
  [ -e "$src" ] || continue
  wanted "$src" "${names[@]}" && one "$src" bash "$src"
done
echo "$skipped skipped (each with its reason above), $((SECONDS - began)) s"
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
