#!/usr/bin/env bash
# test_sanitize.sh: the unit tests and the conformance of the ops under AddressSanitizer and UndefinedBehaviorSanitizer, in a
# second build folder beside the first ($TL_BUILD_DIR-asan, kept for the next time). One line a program; what the programs
# themselves say is counted by the plain run. Leaks are looked for too, except where the system forbids it (LeakSanitizer needs
# ptrace) or LuaJIT runs: its memory lies outside what the sanitizer sees, and what only it points to would count as lost.
# The programs run with 2 threads, so that code between threads is entered whatever the machine has.
set -uo pipefail
cd "$(dirname "$0")/.."
build=${TL_BUILD_DIR:-build}-asan
unset TL_MODULES                  # the simulator of CUDA has guards of its own, which do not go together with these
unset TL_BACKEND TL_TEST_DEVICE   # nor is a device's module built there
jobs=${TL_JOBS:-2}
t=$(mktemp -d /tmp/tl-sanitize-XXXXXX)
trap 'rm -rf "$t"' EXIT
failed=0

if ! echo 'int main(void) { return 0; }' | cc -x c -fsanitize=address,undefined -o "$t/probe" - 2>"$t/log" || ! "$t/probe" 2>>"$t/log"; then
  echo "skip sanitize: the compiler has no sanitizer libraries here: $(tail -n 1 "$t/log")"
  exit 0
fi
leaks=1
ASAN_OPTIONS=detect_leaks=1 "$t/probe" 2>/dev/null || { leaks=0; echo "skip leaks: LeakSanitizer does not run on this system"; }

programs=()
for src in tests/unit/test_*.c tests/conformance/test_conformance_ops.c; do programs+=("$(basename "$src" .c)"); done
mkdir -p "$build"
generator=()  # a folder that is configured keeps its generator
if [ ! -e "$build/CMakeCache.txt" ] && command -v ninja >/dev/null; then generator=(-G Ninja); fi
if ! cmake -S . -B "$build" "${generator[@]}" -DTL_SANITIZE=ON -DCMAKE_BUILD_TYPE=None >"$build/configure.log" 2>&1; then
  echo "not ok sanitize: cmake fails: $(tail -n 1 "$build/configure.log")"
  exit 1
fi
cmake --build "$build" -j "$jobs" --target "${programs[@]}" >"$build/build.log" 2>&1 || {
  echo "not ok sanitize: the build fails: $(grep -m 1 -E 'error|undefined reference' "$build/build.log" || tail -n 1 "$build/build.log")"
  exit 1
}

for program in "${programs[@]}"; do
  here=$leaks
  case $program in test_pool*) here=0 ;; esac  # Lua states
  status=0
  ASAN_OPTIONS=detect_leaks=$here:abort_on_error=0:detect_stack_use_after_return=1 UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1 \
    LSAN_OPTIONS=print_suppressions=0 OMP_NUM_THREADS=2 timeout 200 "$build/$program" >"$t/out" 2>"$t/err" || status=$?
  report=$(grep -m 1 -hE 'ERROR: (Address|Leak)Sanitizer|runtime error:|SUMMARY:' "$t/err" "$t/out")
  if [ -n "$report" ]; then
    echo "not ok sanitize $program: $report"
    grep -m 12 -E '^ +#[0-9]+ ' "$t/err"
    failed=1
  elif [ $status -ne 0 ]; then
    echo "not ok sanitize $program: exit status $status: $(grep -m 1 -h '^not ok' "$t/out" || tail -n 1 "$t/err")"
    failed=1
  elif ! grep -q '^ok ' "$t/out" && grep -q '^skip ' "$t/out"; then
    echo "skip sanitize $program: $(grep -m 1 '^skip ' "$t/out" | sed 's/^skip //')"
  elif ! grep -q '^ok ' "$t/out"; then
    echo "not ok sanitize $program: it ran no test"
    failed=1
  else
    echo "ok sanitize $program"
  fi
done
exit $failed
