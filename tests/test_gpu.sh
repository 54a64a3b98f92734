#!/usr/bin/env bash
# test_gpu.sh: ./dev gpu as far as it can be tried without a GPU: that it says so in one line and ends with 1, what it installs and builds for,
# and that the report's benchmarks run and hold every op against a device's peaks. Would catch: a report that stops half way on the day there is a GPU.
set -uo pipefail
cd "$(dirname "$0")/.."
build=${TL_BUILD_DIR:-build}
failed=0
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
ok() { echo "ok gpu: $1"; }
bad() { echo "not ok gpu: $1: $2"; failed=1; }

what="without a GPU ./dev gpu is one clear line and exit code 1"
mkdir "$dir/bin"
for tool in bash dirname nproc; do ln -s "$(command -v $tool)" "$dir/bin/$tool"; done  # no nvidia-smi, whatever this machine has
PATH=$dir/bin bash ./dev gpu >"$dir/out" 2>&1
code=$?
[ $code = 1 ] && [ "$(wc -l <"$dir/out")" = 1 ] && grep -q "no GPU here: nvidia-smi is not installed" "$dir/out" && ok "$what" || bad "$what" "exit code $code: $(head -n 3 "$dir/out")"
what="a driver without a device is one clear line"
printf '#!/bin/bash\necho "NVIDIA-SMI has failed because it could not communicate with the NVIDIA driver."\nexit 9\n' >"$dir/bin/nvidia-smi"
chmod +x "$dir/bin/nvidia-smi"
PATH=$dir/bin bash ./dev gpu >"$dir/out" 2>&1
code=$?
[ $code = 1 ] && [ "$(wc -l <"$dir/out")" = 1 ] && grep -q "no GPU here: nvidia-smi: NVIDIA-SMI has failed" "$dir/out" && ok "$what" || bad "$what" "exit code $code: $(head -n 3 "$dir/out")"

what="the build is for the devices that nvcc knows"
mkdir "$dir/tools"
printf '#!/bin/bash\ncase $1 in *compute_cap*) printf "9.0\\n8.9\\n6.1\\n12.0\\n8.9\\n" ;; *) echo a card ;; esac\n' >"$dir/tools/nvidia-smi"
printf '#!/bin/bash\necho "$*" >>"%s/cmake"\nexit 1\n' "$dir" >"$dir/tools/cmake"
printf '#!/bin/bash\nprintf "compute_%%s\\n" $known\n' >"$dir/tools/nvcc"
chmod +x "$dir"/tools/*
for known in "60 61 80 86 89 90" "50 60 80"; do
  known=$known TL_BUILD=$dir/build PATH=$dir/tools:$PATH bash tests/gpu/gpu.sh "$dir/unused.md" >>"$dir/out" 2>&1
done
got=$(grep -o 'ARCHITECTURES=.*\|TL_CUDA=ON$' "$dir/cmake" | tr '\n' ' ')
[ "$got" = "ARCHITECTURES=89;90 TL_CUDA=ON " ] && ok "$what" || bad "$what" "cmake was given: $(tr '\n' '|' <"$dir/cmake")"

what="packages are installed without questions, by sudo too"
printf '#!/bin/bash\necho 1000\n' >"$dir/tools/id"
printf '#!/bin/bash\nexit 1\n' >"$dir/tools/dpkg-query"
printf '#!/bin/bash\nexec env -i "PATH=$PATH" "$@"\n' >"$dir/tools/sudo"
printf '#!/bin/bash\necho "${DEBIAN_FRONTEND-asks} $*" >>"%s/apt"\n[ $1 = update ]\n' "$dir" >"$dir/tools/apt-get"
chmod +x "$dir"/tools/*
PATH=$dir/tools:$PATH bash ./dev gpu >"$dir/out" 2>&1
code=$?
[ $code = 1 ] && grep -q "^noninteractive install -y .* libluajit-5.1-dev " "$dir/apt" && grep -q "apt-get failed" "$dir/out" && ok "$what" ||
  bad "$what" "exit code $code: $(tail -n 1 "$dir/apt")"

what="the report holds every op against the device's peaks"
"$build/tlrun" tests/gpu/report.lua --device-name "NVIDIA H100 80GB HBM3" --prompts 2 --group 2 --new-tokens 6 --batch 3 --tokens 12 --reps 1 >"$dir/report.md" 2>"$dir/err"
code=$?
rows=$(grep -cE '^\| (linear_fwd|attn_fwd|attn_bwd|head_bwd|linear_bwd_x) ?[0-9x]* \| [0-9]+ \| [0-9.]+ \| [0-9.]+ % \| [0-9]+ \| [0-9]+ \| [0-9]+ % \|$' "$dir/report.md")
[ $code = 0 ] && [ "$rows" -ge 10 ] && grep -q "peaks: h100, 989 TFLOP/s bf16, 3350 GB/s" "$dir/report.md" && grep -q "tlrun plan. says" "$dir/report.md" &&
  ok "$what" || bad "$what" "exit code $code, $rows rows: $(tail -n 1 "$dir/err")"
what="names of devices as the driver gives them"
got=$("$build/tlrun" -e 'local d = require "tl.plan.devices"
  for _, n in ipairs { "NVIDIA A100-SXM4-80GB", "NVIDIA A100-PCIE-40GB", "NVIDIA H100 PCIe", "NVIDIA H200", "NVIDIA L4", "NVIDIA L40S", "NVIDIA GeForce RTX 4090", "NVIDIA B200", "Tesla T4" } do
    local x = d.of_name(n) io.write(x and x.name or "none", " ") end')
[ "$got" = "a100 a100-40gb h100-pcie h200 l4 l40s rtx4090 b200 none " ] && ok "$what" || bad "$what" "$got"
exit $failed
