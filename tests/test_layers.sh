#!/usr/bin/env bash
# test_layers.sh: the dependency rule, read from the #include lines and the requires:
#   kernels know nothing above them, and a backend nothing of another;
#   runtime calls kernels only through kernels/ops.h;
#   inside runtime  base < tensor, comm < model, text < adapter < sample < train;  verify stands beside tensor, on base;
#   a folder's private header is included in that folder only;
#   the program (runtime/*.c) sees tl.h alone; Lua reaches C only through the C of lua/tl/ffi.lua, and so through tl.h;
#   recipes require only "tl"; verifiers require "tl", tl.regex, tl.lpeg and each other.
set -uo pipefail
cd "$(dirname "$0")/.."
failed=0

# verdict NAME LINES: passes when no line breaks the rule
verdict() {
  if [ -z "$2" ]; then echo "ok $1"; else
    failed=1
    while IFS= read -r line; do echo "not ok $1: $line"; done <<<"$2"
  fi
}

# FILE INCLUDED-PATH of every #include "..." under the folders, the path made relative to the repository
includes() {
  local file name
  grep -rnE '^[[:space:]]*#[[:space:]]*include[[:space:]]*["<]' --include='*.[ch]' --include='*.cu' --include='*.cuh' "$@" |
    sed -nE 's/^([^:]+):[0-9]+:[^"<]*["<]([^">]+)[">].*/\1 \2/p' | sort -u | while read -r file name; do
      if [ -e "$(dirname "$file")/$name" ]; then echo "$file $(realpath --relative-to=. "$(dirname "$file")/$name")"
      elif [ -e "$name" ]; then echo "$file $name"
      elif [ -n "$(find runtime kernels -name "$(basename "$name")" -print -quit)" ]; then echo "$file ?/$name"; fi
    done  # what is not in the repository is the system's, or made by the build
}

# ---- kernels
breaks=$(includes kernels | while read -r file to; do
  case $to in kernels/ops.h | kernels/compose.h | "$(dirname "$file")"/*) ;; *) echo "$file includes $to" ;; esac
done)
verdict "kernels include kernels/ops.h, kernels/compose.h and their own folder" "$breaks"
# a name of runtime used without its header: tl_ is runtime's, tlk_ the kernels'
breaks=$(grep -rnE '\btl_[a-z_0-9]+ *\(' --include='*.[ch]' kernels | grep -vE ':[[:space:]]*(//|\*)' | cut -c 1-120)
verdict "kernels call no function of runtime" "$breaks"

# ---- runtime towards kernels
breaks=$(includes runtime | while read -r file to; do
  case $to in kernels/ops.h) ;; kernels/*) echo "$file includes $to" ;; esac
done)
verdict "runtime includes of kernels only ops.h" "$breaks"
breaks=$(grep -rhoE '\btlk_[a-zA-Z0-9_]+' --include='*.[ch]' runtime | sort -u | while read -r name; do
  grep -qE "\b$name\b" kernels/ops.h || echo "$name is not of kernels/ops.h: $(grep -rlE "\b$name\b" --include='*.[ch]' runtime | head -n 1)"
done)
verdict "runtime uses the kernels' names that ops.h has" "$breaks"
breaks=$(grep -rnE '^[[:space:]]*extern[[:space:]]' --include='*.c' runtime | grep -v 'extern "C"')
verdict "runtime declares nothing of others by hand" "$breaks"

# ---- inside runtime
below() {  # what a folder may include
  case $1 in
    base) ;;
    tensor | verify | comm) echo base ;;
    model) echo base tensor comm ;;
    text) echo base tensor ;;
    adapter) echo base tensor model text comm ;;
    sample) echo base tensor model text adapter comm ;;
    train) echo base tensor model text adapter sample comm ;;
    *) return 1 ;;
  esac
}
# the headers that other folders may include; every other one is private
shared=" base/base.h base/profile.h base/safetensors.h base/gguf.h tensor/svd.h model/model.h model/layer.h model/kept.h text/tokenizer.h adapter/adapter.h sample/sampler.h comm/comm.h "
breaks=$(includes runtime | while read -r file to; do
  case $file in runtime/*/*) ;; *) continue ;; esac
  from=${file#runtime/} from=${from%%/*}
  allowed=$(below "$from") || { echo "$file: this test does not know the folder runtime/$from"; continue; }
  case $to in
    kernels/* | runtime/tl.h | "runtime/$from/"*) continue ;;
    runtime/*/*) ;;
    *) echo "$file includes $to"; continue ;;
  esac
  target=${to#runtime/} folder=${target%%/*}
  if [[ " $allowed " != *" $folder "* ]]; then echo "$file includes $to, which is not below $from"
  elif [[ $shared != *" $target "* ]]; then echo "$file includes $to, which is private to its folder"; fi
done)
verdict "inside runtime, no include goes up or into a private header" "$breaks"
breaks=$(for h in $shared; do case $h in comm/*) [ -d runtime/comm ] && [ -n "$(ls runtime/comm)" ] || continue ;; esac; [ -e "runtime/$h" ] || echo "runtime/$h, which this test names, does not exist"; done)
verdict "the shared headers are there" "$breaks"
breaks=$(includes runtime | grep -E '^runtime/[^/]+ ' | while read -r file to; do
  case $to in runtime/tl.h | runtime/host.h) ;; *) echo "$file includes $to" ;; esac
done)
verdict "the program sees the library through tl.h" "$breaks"

# ---- Lua: comments do not count
code() { grep -rnE "$1" --include='*.lua' "${@:2}" | grep -vE '^[^:]+:[0-9]+:[[:space:]]*--'; }
verdict "Lua loads no C library of its own" "$(code '\bffi\.load\b' lua recipes verifiers)"
verdict "Lua reaches C through the C of lua/tl/ffi.lua" "$(code '\bffi\.C\b' lua recipes verifiers | grep -v '^lua/tl/ffi\.lua:')"
declared=$(for f in $(grep -rlE '\bffi\.cdef\b|ffi.cdef' --include='*.lua' lua | grep -v '^lua/tl/ffi\.lua$'); do
  awk -v f="$f" '/ffi\.cdef/ {on = 1} on && /[ *](tl|tlk|tlrun)_[a-z_]+ *\(/ {print f ":" FNR ": " $0} /\]\]/ {on = 0}' "$f"
done)
verdict "Lua declares no function of the library: that is tl.h's" "$declared"
breaks=$(code '\brequire\b' recipes | grep -vE 'require *\(? *"tl"')
verdict 'recipes require only "tl"' "$breaks"
breaks=$(code "\brequire *[(]? *[\"']" verifiers | grep -vE 'require *\(? *"(tl|tl\.regex|tl\.lpeg|verifiers\.[a-z_.]+)"')
verdict 'verifiers require only "tl", tl.regex, tl.lpeg and each other' "$breaks"
verdict "recipes and verifiers leave the FFI alone" "$(code '\bffi\b' recipes verifiers)"

# ---- the test itself: it would see what it looks for
t=$(mktemp -d ./.layers-XXXXXX)
trap 'rm -rf "$t"' EXIT
mkdir -p "$t/a" && printf '#  include "../../runtime/train/pass.h"\n' >"$t/a/x.c"
[ "$(includes "$t" | cut -d ' ' -f 2)" = runtime/train/pass.h ] && echo "ok an include is found and resolved" || { echo "not ok an include is found and resolved: $(includes "$t")"; failed=1; }
exit $failed
