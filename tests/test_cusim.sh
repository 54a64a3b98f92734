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
modules=${TL_MODULES:-$build}
[ -e "$modules/tl_cusim.so" ] || { echo "skip cusim: not built (./dev test builds it)"; exit 0; }
t=$(mktemp -d /tmp/tl-cusim-XXXXXX)
trap 'rm -rf "$t"' EXIT

# what PROGRAM says, with LABEL before each name
told() {
  local label=$1 seconds=$2 status; shift 2
  timeout "$seconds" "$@" >"$t/out" 2>&1
  status=$?
  sed -n "s/^\(not ok\|ok\|skip\) /&$label: /p" "$t/out"
  grep -q '^not ok ' "$t/out" && failed=1
  [ $status -eq 0 ] || grep -q '^not ok ' "$t/out" || not_ok "$label: $*" "exit status $status: $(tail -n 1 "$t/out")"
}
told plain 60 "$modules/test_cusim"
told checked 60 "$modules/test_cusimcheck"

# equal A B FIELD TOLERANCE: two JSON documents' numbers, of the same shape and near each other
equal() {
  python3 - "$@" <<'PY'
import json, sys
def near(a, b, tol):
    if isinstance(a, list): return isinstance(b, list) and len(a) == len(b) > 0 and all(near(x, y, tol) for x, y in zip(a, b))
    return abs(a - b) <= tol
a, b = (json.load(open(p))[sys.argv[3]] for p in sys.argv[1:3])
sys.exit(not near(a, b, float(sys.argv[4])))
PY
}

# logprobs of the embedded model (of a word problem) and of a small Qwen2 with sliding windows, in forward and random order of
# threads. In bf16 an activation that rounds to another neighbour than the CPU's moves logprobs by some 1e-2: so 1e-3 means that
# next to none does. Neighbours in fp16 are eight times as near, so some do: any two backends are 1e-3 to 4e-3 apart, the reference too.
mkdir "$t/qwen2"
ln -s "$PWD/tests/parity/fixtures/models/qwen2_sliding/config.json" "$t/qwen2/config.json"
ln -s "$PWD/tests/parity/fixtures/models/weights/qwen2.safetensors" "$t/qwen2/model.safetensors"
declare -A ids=([tiny]=502,273,223,21,427,16,302,375,223,22,325,457,334,223,20,341,435,16,292,272,427,293,335,294,33,201
  [qwen2]=5,20,13,21,7,17,4,9,15,6,1,47,30,3)
logprobs() { "$build/tlrun" logprobs --model "$1" --ids "${ids[$(basename "$1")]}" --compute "$2" --json; }
for model in tiny "$t/qwen2"; do
  for compute in bf16 fp16 fp32; do
    tolerance=$([ $compute = fp16 ] && echo 5e-3 || echo 1e-3)
    name=$(basename "$model")
    logprobs "$model" $compute >"$t/cpu" 2>"$t/err" || not_ok "logprobs of $name on the CPU" "$(tail -n 1 "$t/err")"
    for order in forward random; do
      what="logprobs of $name in $compute, $order order, are the CPU's to $tolerance"
      if ! TL_BACKEND=cusim CUSIM_ORDER=$order logprobs "$model" $compute >"$t/sim" 2>"$t/err"; then not_ok "$what" "$(tail -n 1 "$t/err")"; continue; fi
      equal "$t/cpu" "$t/sim" logprobs $tolerance && ok "$what" || not_ok "$what" "$(cat "$t/sim")"
    done
  done
done

# the optimiser, PEFT adapters with their gradients, the SVD by the device, and what the runtime reads and writes of its memory, from the CPU's own tests
for program in test_optim test_parity test_svd test_base test_load test_config test_save test_adapter test_artifact; do TL_BACKEND=cusim told cusim 300 "$build/$program"; done

# the likeliest tokens and a prompt's logprobs
TL_BACKEND=cusim TL_TEST_FEW=1 told cusim 120 "$build/tlrun" tests/lua/test_top.lua

# what a step may take of the device's memory, and that it is what was planned
for test in test_memory test_plan; do TL_BACKEND=cusim told cusim 120 "$build/tlrun" tests/lua/$test.lua; done

# five GRPO steps in fp32: the same tokens are drawn, so rewards are the CPU's to the last digit and the 13 numbers follow. Adam's
# first steps are near lr times a gradient's sign, whatever its size, so the numbers' tolerance is a tenth of lr.
what="five GRPO steps follow the CPU's rewards and numbers"
for device in cpu cusim; do
  "$build/tlrun" tests/cusim/grpo.lua --device $device --json --out "$t/grpo-$device" >"$t/$device" 2>"$t/err" || not_ok "$what" "$device: $(tail -n 1 "$t/err")"
done
equal "$t/cpu" "$t/cusim" rewards 1e-9 && equal "$t/cpu" "$t/cusim" v 1e-3 && ok "$what" || not_ok "$what" "$(cut -c 1-300 "$t/cusim")"

# and two in fp16, where gradients pass the simulated device times a loss scale
what="two GRPO steps in fp16 follow the CPU's"
for device in cpu cusim; do
  "$build/tlrun" tests/cusim/grpo.lua --device $device --dtype f16 --total 2 --json --out "$t/f16-$device" >"$t/$device" 2>"$t/err" || not_ok "$what" "$device: $(tail -n 1 "$t/err")"
done
equal "$t/cpu" "$t/cusim" rewards 1e-9 && equal "$t/cpu" "$t/cusim" v 1e-3 && ok "$what" || not_ok "$what" "$(cut -c 1-300 "$t/cusim")"

# the same from merged weights, whose products are cuBLASLt's, also inside recorded decode steps; without the library the device says so
what="GRPO steps from merged weights, by cuBLASLt, follow the CPU's"
"$build/tlrun" tests/cusim/grpo.lua --device cpu --json --total 2 --rollouts merged --out "$t/merged-cpu" >"$t/cpu" 2>"$t/err" || not_ok "$what" "cpu: $(tail -n 1 "$t/err")"
for libraries in cusolver,cublasLt,nccl cusolver; do
  CUSIM_LIBRARIES=$libraries "$build/tlrun" tests/cusim/grpo.lua --device cusim --json --total 2 --rollouts merged --out "$t/merged" >"$t/cusim" 2>"$t/err-$libraries" ||
    not_ok "$what" "with $libraries: $(tail -n 1 "$t/err-$libraries")"
  equal "$t/cpu" "$t/cusim" rewards 1e-9 && equal "$t/cpu" "$t/cusim" v 1e-3 && ok "$what (installed: $libraries)" || not_ok "$what" "with $libraries: $(cut -c 1-300 "$t/cusim")"
done
what="a library that is not installed is named once, with what is done instead"
[ "$(grep -c 'own kernels make all products' "$t/err-cusolver")" = 1 ] && ! grep -q 'own kernels make' "$t/err-cusolver,cublasLt,nccl" && ok "$what" || not_ok "$what" "$(tail -n 1 "$t/err-cusolver")"

# the quickstart as it stands, but small: GRPO, SFT, three evaluations, the adapter written
what="the quickstart runs whole on the simulator"
"$build/tlrun" recipes/quickstart.lua --device cusim --total 2 --batch 1 --group 4 --eval 2 --new-tokens 8 --out "$t/quickstart" --json >"$t/out" 2>"$t/err" &&
  [ "$(python3 -c 'import json, sys; d = json.load(open(sys.argv[1])); print(d["trained_parameters"], d["after"]["n"], d["sft"]["n"])' "$t/out")" = "13 2 2" ] &&
  [ -s "$t/quickstart/adapter.tla" ] && grep -q 'cuda cusim' "$t/err" && ok "$what" || not_ok "$what" "$(tail -n 1 "$t/err")"

what="the program itself has no trace of CUDA"
traces=$(ldd "$build/tlrun" | grep -iE 'cuda|cublas|cusolver|nccl|cusim'; ls "$build" | grep -E '^tl_(cuda|cusim).*\.so$')
[ -z "$traces" ] && ok "$what" || not_ok "$what" "$traces"

# commands take --device too
what="commands compute where --device says"
"$build/tlrun" logprobs --model tiny-xs --ids 5,16,27,38,9 --json --device cusim >"$t/device" 2>"$t/err" &&
  TL_BACKEND=cusim "$build/tlrun" logprobs --model tiny-xs --ids 5,16,27,38,9 --json >"$t/backend" 2>>"$t/err" && cmp -s "$t/device" "$t/backend" &&
  "$build/tlrun" bench sample --model tiny-xs --batch 2 --new-tokens 4 --reps 1 --device cusim 2>>"$t/err" | grep -q cusim && ok "$what" || not_ok "$what" "$(tail -n 1 "$t/err")"

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

what="without a driver the program says so and the CPU computes"
CUSIM_DRIVER=0 "$build/tlrun" -e 'tl.model.load("tiny", { device = "cusim" }) print("computed by " .. require("ffi").string(require("tl.ffi").C.tl_backend_name()))' >"$t/out" 2>&1
[ $? -eq 0 ] && grep -q 'there is no CUDA driver.*the CPU computes' "$t/out" && grep -q 'computed by cpu' "$t/out" && ok "$what" || not_ok "$what" "$(cat "$t/out")"
what="a device number beyond the last one leaves the CPU computing, and says so"
"$build/tlrun" -e 'tl.model.load("tiny", { device = "cusim:2" })' >"$t/out" 2>&1
[ $? -eq 0 ] && grep -q 'device 2 of 2.*the CPU computes' "$t/out" && ok "$what" || not_ok "$what" "$(cat "$t/out")"
what="the second device computes what the first one does"
logprobs "$t/qwen2" bf16 >"$t/cpu" 2>/dev/null
TL_BACKEND=cusim:1 logprobs "$t/qwen2" bf16 >"$t/sim" 2>"$t/err" && equal "$t/cpu" "$t/sim" logprobs 1e-3 && ok "$what" || not_ok "$what" "$(tail -n 1 "$t/err")"

what="processes that share a machine have a device each, as many as there are"
cat >"$t/slots.lua" <<'LUA'
local tl = require "tl"
local p = tl.recipe(tl.experiment.options { name = "slots" })
local rows = tl.experiment.run(p, { runs = tl.experiment.grid { x = { 1, 2, 3 } }, run = function()
  return { slot = tonumber(os.getenv "TL_DEVICE_SLOT"), device = require("ffi").string(require("tl.ffi").C.tl_backend_isa()) }
end })
for _, r in ipairs(rows) do print(r.device == (r.slot % 2 == 0 and "cusim" or "cusim 1") and "right" or "wrong", r.slot, r.device) end
LUA
CUSIM_DEVICES=2 "$build/tlrun" "$t/slots.lua" --device cusim --workers 2 --store "$t/slots.db" >"$t/out" 2>"$t/err"
got=$(for slot in 0 1 2 3 x; do TL_DEVICE_SLOT=$slot CUSIM_DEVICES=2 "$build/tlrun" -e 'tl.model.load("tiny", { device = "cusim" }) print(require("ffi").string(require("tl.ffi").C.tl_backend_isa()))'; done | tr '\n' ',')
[ "$got" = "cusim,cusim 1,cusim,cusim 1,cusim," ] && [ "$(grep -c ^right "$t/out")" = 3 ] && ok "$what" || not_ok "$what" "$got $(cat "$t/out" "$t/err" | tail -n 4)"

# the real module, where it was built (cmake -B build-cuda -DTL_CUDA=ON) and there is no device
if [ -e build-cuda/tl_cuda.so ] && [ ! -e /dev/nvidiactl ]; then
  what="the module of the toolkit, on a machine without a driver: the program says so and the CPU computes"
  TL_MODULES=build-cuda "$build/tlrun" -e 'tl.model.load("tiny", { device = "cuda" })' >"$t/out" 2>&1
  [ $? -eq 0 ] && grep -q 'device cuda cannot be used here (.*driver.*the CPU computes' "$t/out" && ok "$what" || not_ok "$what" "$(cat "$t/out")"
else
  echo "skip the toolkit's module: build-cuda/tl_cuda.so is not there, or a device is"
fi

# the architectures of the build: nvcc refuses one that it does not know
what="the module is built for the devices that the version of nvcc knows"
printf 'include(%s/kernels/cuda/architectures.cmake)\nforeach(v 12.0.140 12.6.85 12.8.61 13.0.48)\n  tl_cuda_architectures(${v} got)\n  message("${got}")\nendforeach()\n' "$PWD" >"$t/versions.cmake"
got=$(cmake -P "$t/versions.cmake" 2>&1 | tr '\n' ' ')
[ "$got" = "80;86;89;90 80;86;89;90 80;86;89;90;100;120 80;86;89;90;100;120 " ] && ok "$what" || not_ok "$what" "$got"

# nvcc, one architecture, the file with the most in it
if command -v nvcc >/dev/null; then
  what="nvcc compiles linear.cu for sm_80 without a warning"
  nvcc -std=c++17 -fmad=false -Xcompiler=-Wall -arch=sm_80 -c kernels/cuda/linear.cu -o "$t/linear.o" >"$t/out" 2>&1 && [ ! -s "$t/out" ] &&
    ok "$what" || not_ok "$what" "$(head -n 3 "$t/out")"
else
  echo "skip nvcc: not installed"
fi
exit $failed
