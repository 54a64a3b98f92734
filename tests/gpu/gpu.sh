#!/usr/bin/env bash
# gpu.sh [REPORT.md]: everything about the CUDA backend that needs a GPU: builds it for the devices that are here, runs the whole
# suite and then the benchmarks on the first, compute-sanitizer where it is installed, and writes one report. Called by ./dev gpu, which
# has looked for what is needed. Exit code 1 when a test failed; the report is written all the same.
set -uo pipefail
cd "$(dirname "$0")/../.."
build=${TL_BUILD:-build-gpu} report=${1:-gpu-report.md}
name=$(nvidia-smi --query-gpu=name --format=csv,noheader | head -n 1)
say() { echo "dev gpu: $*" >&2; }
failed=0

# The devices' own architectures, those that nvcc knows; where it knows none of them the build takes its usual ones, whose PTX the driver
# compiles. Not CMake's "native", which needs 3.24 (Ubuntu 22.04 has 3.22) and ends at a device that nvcc does not know.
known=$(nvcc --list-gpu-arch)
architectures=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | tr -d '. ' | sort -u | while read -r c; do
  [[ $c =~ ^[0-9]+$ && $c -ge 80 ]] && grep -qx "compute_$c" <<<"$known" && echo "$c"
done | paste -sd ';')

say "building into $build/ for this machine's devices (${architectures:-the usual architectures})"
mkdir -p $build
if ! { cmake -S . -B $build -DCMAKE_BUILD_TYPE=Release -DTL_CUDA=ON ${architectures:+"-DCMAKE_CUDA_ARCHITECTURES=$architectures"} && cmake --build $build -j "$(nproc)"; } >$build/build.log 2>&1; then
  tail -n 15 $build/build.log >&2; say "the build failed; the whole log is $build/build.log"; exit 1
fi
# a device that cannot be opened leaves the work to the CPU with a warning, and everything below would pass there
device=$(TL_BACKEND=cuda $build/tlrun -e 'local F = require "tl.ffi"; print(require("ffi").string(F.C.tl_backend_name()))' 2>$build/device.log)
if [ "$device" != cuda ]; then
  say "the device does not compute: $(tail -n 1 $build/device.log)"; exit 1
fi
{
  echo "# tlrun on $name"
  echo
  echo "| | |"; echo "|---|---|"
  nvidia-smi --query-gpu=index,name,driver_version,memory.total,compute_cap,power.limit,clocks.max.sm --format=csv,noheader | sed 's/^/| device | /; s/$/ |/'
  echo "| nvcc | $(nvcc --version | tail -n 2 | head -n 1) |"
  echo "| program | $($build/tlrun --version) |"
  echo "| commit | $(git rev-parse HEAD 2>/dev/null || echo unknown)$([ -z "$(git status --porcelain 2>/dev/null)" ] || echo ', changed') |"
  echo "| host | $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1), $(nproc) cores, $(uname -r) |"
  echo "| date | $(date -u +%FT%TZ) |"
} >"$report"

say "the suite on the device (log: $build/suite.log)"
TL_BACKEND=cuda TL_TEST_DEVICE=cuda tests/run.sh $build >$build/suite.log 2>&1 || failed=1
{
  echo; echo "## Tests on the device (TL_BACKEND=cuda TL_TEST_DEVICE=cuda tests/run.sh $build)"; echo
  tail -n 1 $build/suite.log; echo; echo '```'
  grep -E '^(not ok|skip) ' $build/suite.log || echo "none failed, none skipped"
  echo '```'
} >>"$report"

# without NVIDIA's libraries: what these tools say of their kernels is not ours to mend, and our own take their place
{ echo; echo "## compute-sanitizer"; echo; } >>"$report"
if command -v compute-sanitizer >/dev/null; then
  for tool in memcheck racecheck synccheck initcheck; do
    say "compute-sanitizer $tool"
    status=0
    TL_LIBRARIES=0 TL_TEST_DEVICE=cuda timeout 1800 compute-sanitizer --tool $tool --error-exitcode 9 $build/test_conformance_ops >$build/$tool.log 2>&1 || status=$?
    echo "- $tool over every op: exit code $status; $(grep -E 'ERROR SUMMARY|RACECHECK SUMMARY' $build/$tool.log | tail -n 1)" >>"$report"
    [ $status = 0 ] || failed=1
  done
else
  echo "not installed" >>"$report"
fi

say "benchmarks"
for args in "--model tiny" "--model smollm2-135m-instruct --prompts 16 --group 8" "--shape qwen2.5-0.5b" "--shape qwen2.5-7b --tokens 128 --reps 1"; do
  # shellcheck disable=SC2086
  TL_BACKEND=cuda timeout 1200 $build/tlrun tests/gpu/report.lua --device-name "$name" $args >>"$report" 2>$build/bench.log ||
    { failed=1; printf '\nbenchmark %s failed: %s\n' "$args" "$(tail -n 1 $build/bench.log)" >>"$report"; }
done
say "the report is $report"
exit $failed
