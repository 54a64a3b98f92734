#!/usr/bin/env bash
# The CUDA sources with what the first CUDA 12 has: its headers (runtime, cuBLASLt, cuSOLVER, NCCL 2.18) and its assembler, from NVIDIA's wheels on
# PyPI, host and device code, by clang 19, which needs no toolkit of its own. It shows that nothing of a later CUDA is used; it does not show that
# nvcc 12 itself takes the sources, since that compiler is on no package index. Downloads 1 GB once, into the cache, and leaves 53 MB there.
#   tests/gpu/cuda12.sh [sm_80 sm_90 ...]
# Needs clang-19 and python3-venv (Debian 12 has both). Ends with one line; exit code 1 if a file does not compile.
set -euo pipefail
cd "$(dirname "$0")/../.."
[ $# -gt 0 ] || set -- sm_80 sm_86 sm_89 sm_90
command -v clang++-19 >/dev/null || { echo "clang++-19 is not here: apt-get install clang-19" >&2; exit 1; }
root=${TL_HOME:-$HOME/.cache/tlrun}/cuda12
wheels="nvidia-cuda-runtime-cu12==12.0.146 nvidia-cuda-nvcc-cu12==12.0.140 nvidia-cublas-cu12==12.0.2.224 nvidia-cusolver-cu12==11.4.3.1
  nvidia-cusparse-cu12==12.0.1.140 nvidia-curand-cu12==10.3.1.124 nvidia-nccl-cu12==2.18.1"
if [ ! -f "$root/complete" ]; then
  rm -rf "$root"
  mkdir -p "$root/include"
  python3 -m venv "$root/venv"
  for wheel in $wheels; do  # curand and cusparse: clang's own headers and cuSOLVER's include theirs
    "$root/venv/bin/pip" download -q --no-deps --only-binary :all: -d "$root/wheel" "$wheel"
    python3 -m zipfile -e "$root"/wheel/*.whl "$root/files"
    rm -r "$root/wheel"
    for part in "$root"/files/nvidia/*/; do
      [ ! -d "$part/include" ] || cp -r "$part/include/." "$root/include/"
      if [ -d "$part/nvvm" ]; then cp -r "$part/nvvm" "$part/bin" "$root/"; chmod +x "$root"/bin/*; fi
    done
    rm -r "$root/files"
  done
  rm -r "$root/venv"
  touch "$root/complete"
fi
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
export root out
one() {  # FILE ARCHITECTURE|host
  local how=(--cuda-host-only -fsyntax-only) name
  name=$(basename "$1" .cu).$2
  [ "$2" = host ] || how=("--cuda-gpu-arch=$2" --cuda-device-only -c -o "$out/$name.cubin")
  # -isystem before the compiler's own folders: a newer toolkit may have put its headers there
  if ! clang++-19 -x cuda --cuda-path="$root" -isystem "$root/include" -std=c++17 -O2 -ffp-contract=off -Wno-unknown-attributes -Wno-unknown-cuda-version \
      -Iruntime -I. "${how[@]}" "$1" >"$out/$name.log" 2>&1; then
    echo "$1 for $2:" >&2
    head -n 10 "$out/$name.log" >&2
    exit 255
  fi
}
export -f one
files=(kernels/cuda/*.cu)
for file in "${files[@]}"; do for target in host "$@"; do echo "$file $target"; done; done | xargs -P "$(nproc)" -L 1 bash -c 'one "$1" "$2"' one || exit 1
echo "${#files[@]} files compiled for the host and $*: CUDA $(sed -n 's/#define CUDART_VERSION *//p' "$root/include/cuda_runtime_api.h"), NCCL $(sed -n 's/#define NCCL_VERSION_CODE *//p' "$root/include/nccl.h")"
