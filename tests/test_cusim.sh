#!/usr/bin/env bash
# test_cusim.sh: the CUDA backend without a GPU: that the simulator catches what it must, that the program computes on it what it
# computes on the CPU, and that nvcc accepts the sources where it is installed. What it would catch: a kernel that needs a barrier
# it has not got, host code that touches device memory, an index array that changes while a copy from it is on its way.
set -uo pipefail
cd "$(dirname "$0")/.."
build=${TL_BUILD_DIR:-build}
failed=0
ok() { echo "ok $1"; }
not_ok() { echo "not ok $1: $2"; failed=1; }
[ -e "$build/tl_cusim.so" ] || { echo "skip cusim: not built (cmake -DTL_CUSIM=ON)"; exit 0; }
t=$(mktemp -d /tmp/tl-cusim-XXXXXX)
trap 'rm -rf "$t"' EXIT

"$build/test_cusim" | sed 's/^\(not ok\|ok\) /&plain: /' || failed=1
"$build/test_cusimcheck" | sed 's/^\(not ok\|ok\) /&checked: /' || failed=1

# the embedded model's logprobs, in bf16 and fp32, forward and random order of threads
logprobs() { "$build/tlrun" logprobs --model tiny --ids 5,80,13,200,31,77,4,92,150,61 --compute "$1" --json; }
for compute in bf16 fp32; do
  logprobs $compute >"$t/cpu" 2>"$t/err" || not_ok "logprobs on the CPU" "$(tail -n 1 "$t/err")"
  for order in forward random; do
    what="logprobs in $compute, $order order, are the CPU's to 1e-3"
    if ! TL_BACKEND=cusim CUSIM_ORDER=$order logprobs $compute >"$t/sim" 2>"$t/err"; then not_ok "$what" "$(tail -n 1 "$t/err")"; continue; fi
    python3 - "$t/cpu" "$t/sim" <<'PY' && ok "$what" || not_ok "$what" "$(cat "$t/sim")"
import json, sys
a, b = (json.load(open(p))["logprobs"] for p in sys.argv[1:])
sys.exit(not (len(a) == len(b) == 9 and max(abs(x - y) for x, y in zip(a, b)) < 1e-3))
PY
  done
done

# the optimiser, and PEFT adapters with their gradients, through the runtime, from the CPU's own tests
for program in test_optim test_parity; do
  TL_BACKEND=cusim timeout 300 "$build/$program" >"$t/out" 2>&1
  status=$?
  sed -n 's/^\(not ok\|ok\|skip\) /&cusim: /p' "$t/out"
  [ $status -eq 0 ] || not_ok "cusim: $program" "exit status $status: $(tail -n 1 "$t/out")"
done

# a device that is not there
what="an unknown device is one clear line"
"$build/tlrun" -e 'tl.model.load("tiny", { device = "nosuch" })' >"$t/out" 2>&1
[ $? -eq 1 ] && grep -q 'device nosuch is not in this build; known: cpu' "$t/out" && ok "$what" || not_ok "$what" "$(cat "$t/out")"
what="a second device in one process is refused"
"$build/tlrun" -e 'tl.model.load("tiny"); tl.model.load("tiny", { device = "cusim" })' >"$t/out" 2>&1
[ $? -eq 1 ] && grep -q 'computes on cpu already' "$t/out" && ok "$what" || not_ok "$what" "$(cat "$t/out")"
what="a module that cannot be used leaves the CPU computing, and says so"
mkdir "$t/modules" && : >"$t/modules/tl_cuda.so"
TL_MODULES=$t/modules "$build/tlrun" -e 'tl.model.load("tiny", { device = "cuda" })' >"$t/out" 2>&1
[ $? -eq 0 ] && grep -q 'the CPU computes' "$t/out" && ok "$what" || not_ok "$what" "$(cat "$t/out")"

# nvcc, one architecture, the file with the most in it
if command -v nvcc >/dev/null; then
  what="nvcc compiles linear.cu for sm_80 without a warning"
  nvcc -std=c++17 -fmad=false -Xcompiler=-Wall -arch=sm_80 -c kernels/cuda/linear.cu -o "$t/linear.o" >"$t/out" 2>&1 && [ ! -s "$t/out" ] &&
    ok "$what" || not_ok "$what" "$(head -n 3 "$t/out")"
else
  echo "skip nvcc: not installed"
fi
exit $failed
