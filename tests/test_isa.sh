#!/usr/bin/env bash
# test_isa.sh: the conformance programs on the instruction sets below this processor's best (kernels/cpu/dispatch.c), which a
# plain run never reaches. What the reference does is not counted again.
set -uo pipefail
cd "$(dirname "$0")/.."
build=${TL_BUILD_DIR:-build}
unset TL_MODULES TL_TEST_DEVICE  # the simulator of CUDA and devices do not depend on the instruction set
status=0
for isa in avx512 avx2 portable; do
  for t in ops batch sample; do
    out=$(TL_ISA=$isa "$build/test_conformance_$t" 2>&1) || { status=1; tail -n 5 <<<"$out"; }
    grep -E '^(not )?ok cpu' <<<"$out" || { status=1; echo "not ok $t with $isa: it ran no test of the cpu backend"; }
  done
done
exit $status
