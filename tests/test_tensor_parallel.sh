#!/usr/bin/env bash
# test_tensor_parallel.sh: ranks that share a model (docs/distributed.md). Would catch: heads or columns that go to the wrong rank, a bias
# that is added by every rank, a sum over ranks that is missing or made twice, a basis of the part instead of the whole, a gradient of one
# rank alone, verdicts that differ between ranks, weights that every rank has whole, files that only a split model could read.
set -uo pipefail
NAME="tensor parallel"
. "$(dirname "$0")/ranks/ranks.sh"
export TL_HOME=$dir/home

# ---- the same numbers, from the same code: three families and a GGUF file with quantised, permuted rows
on 1 make tests/ranks/split.lua --dir "$dir/models" --make
[ $rc = 0 ] || { bad "the models are made" "$(said make)"; exit 1; }
for n in 1 2 4; do
  on $n split$n tests/ranks/split.lua --dir "$dir/models" --result "$dir/split$n" --tensor-parallel $n
  [ $rc = 0 ] || bad "a model shared by $n ranks" "exit code $rc: $(said split$n)"
done
on 2 again tests/ranks/split.lua --dir "$dir/models" --result "$dir/again" --tensor-parallel 2
cmp -s "$dir/split2" "$dir/again" && ok "repeats to the bit" || bad "repeats to the bit" "two runs differ: $(said again)"
cat >"$dir/compare.py" <<'PY'
import json, math, sys
one, many = (json.load(open(p)) for p in sys.argv[1:3])
# fp32 sums in another order: 1e-4 of the list's size. int8: each rank has its own scales of the columns it has.
tolerance = {"logprobs": 1e-4, "adapted": 1e-4, "merged": 1e-4, "tinylora": 1e-4, "loraxs": 1e-4, "int8": 5e-2}
for name, b in many.items():
    a = one[name]
    for key, t in tolerance.items():
        size = math.sqrt(sum(x * x for x in a[key]))
        off = math.sqrt(sum((x - y) ** 2 for x, y in zip(a[key], b[key])))
        if len(a[key]) != len(b[key]) or not off <= t * size: print(f"{name}: {key} is {off / size:.1e} of its size off")
        if not size > 0: print(f"{name}: {key} is zero")
    if a["sampled"] != b["sampled"]: print(f"{name}: other tokens are sampled")
    if a["parameters"] != b["parameters"]: print(f"{name}: it has {b['parameters']} parameters, not {a['parameters']}")
PY
for n in 2 4; do
  why=$(python3 "$dir/compare.py" "$dir/split1" "$dir/split$n" 2>&1)
  [ -z "$why" ] && ok "logprobs, gradients and samples of $n ranks are those of one" || bad "logprobs, gradients and samples of $n ranks are those of one" "$why"
done
same=1
for m in llama qwen2 qwen3 llama.gguf random; do for n in 2 4; do cmp -s "$dir/split1.$m.tla" "$dir/split$n.$m.tla" || same="$m on $n ranks"; done; done
[ $same = 1 ] && ok "an adapter's file is the same bytes, its base and basis too" || bad "an adapter's file is the same bytes, its base and basis too" "other for $same"

# ---- memory: the embedding, which is the head too, is whole on every rank; of the linears, the rest but for the
# norms, there is half, and what a narrow weight is padded by
for n in 1 2; do
  on $n bytes$n -e "tl.comm.split($n) local m = tl.model.load('tiny') print('bytes', m.packed_bytes, m.vocab * m.width * 2)"
done
set -- $(sed -n 's/^bytes//p' "$dir/bytes1.log") $(sed -n 's/^bytes//p' "$dir/bytes2.log")
[ $# = 4 ] && awk -v a="$1" -v b="$3" -v table="$2" 'BEGIN { half = (b - table) / (a - table); exit !(half > 0.49 && half < 0.56) }' &&
  ok "a rank holds half of the weights" || bad "a rank holds half of the weights" "$* bytes: $(said bytes2)"

# ---- training: three steps follow those of one process; groups of ranks share the prompts, and do not change a bit
train() { local n=$1 out=$2; shift 2; on "$n" "$out" tests/ranks/train.lua --out "$dir/$out" --dtype f32 --total 3 "$@"; [ $rc = 0 ] || bad "$out" "exit code $rc: $(said "$out")"; }
hash_of() { sha256sum <"$dir/$1/adapter/adapter_model.safetensors" || echo "$1 has none"; }
for kind in tinylora loraxs lora; do
  train 1 $kind-whole --kind $kind --sft 1
  train 2 $kind-split --kind $kind --sft 1 --tensor-parallel 2
done
train 1 turns-whole --turns true --sft 1
train 2 turns-split --turns true --sft 1 --tensor-parallel 2
train 2 again-split --sft 1 --tensor-parallel 2
train 4 groups --sft 1 --tensor-parallel 2
cat >"$dir/metrics.py" <<'PY'
import json, sys
a, b = ([json.loads(l) for l in open(p + "/metrics.jsonl")] for p in sys.argv[1:])
for x, y in zip(a, b):
    for k in ("reward", "completions/mean_length", "num_tokens", "loss", "grad_norm", "entropy"):
        if k in x and abs(x[k] - y[k]) > 1e-3 * (abs(x[k]) + 1e-3): print(f"step {x['step']}: {k} is {x[k]} alone and {y[k]} shared")
print("" if len(a) == len(b) == 4 else f"{len(a)} and {len(b)} steps", end="")
PY
for kind in tinylora loraxs lora turns; do
  why=$(python3 "$dir/metrics.py" "$dir/$kind-whole" "$dir/$kind-split" 2>&1)
  [ -z "$why" ] && ok "$kind: rewards and losses of the steps are those of one process" || bad "$kind: rewards and losses of the steps are those of one process" "$why"
done
[ "$(hash_of tinylora-split)" = "$(hash_of again-split)" ] && ok "a run repeats its bits" || bad "a run repeats its bits" "the adapters differ"
[ "$(hash_of tinylora-split)" = "$(hash_of groups)" ] && ok "two groups of two get the bits of one" || bad "two groups of two get the bits of one" "the adapters differ"
cmp -s "$dir/tinylora-split/completions.jsonl" "$dir/groups/completions.jsonl" && ok "completions of all groups are recorded, once" ||
  bad "completions of all groups are recorded, once" "completions.jsonl of one and two groups differ"
ids=5,7,9,11,13,17,19,23,29,31
for form in adapter adapter.tla; do
  on 1 load1 logprobs --model tiny --adapter "$dir/tinylora-split/$form" --ids $ids --json; one=$(grep logprobs "$dir/load1.log")
  on 2 load2 logprobs --model tiny --adapter "$dir/tinylora-split/$form" --ids $ids --json --tensor-parallel 2; two=$(grep logprobs "$dir/load2.log")
  python3 -c 'import json, sys
a, b = (json.loads(t)["logprobs"] for t in sys.argv[1:])
sys.exit(not (len(a) == len(b) == 9 and all(abs(x - y) < 1e-4 * (1 + abs(x)) for x, y in zip(a, b))))' "$one" "$two" 2>/dev/null &&
    ok "$form of a shared model loads into a whole one, and back" || bad "$form of a shared model loads into a whole one, and back" "$(said load1) and $(said load2)"
done

# ---- a checkpoint goes on as if it had not been stopped, and on another number of ranks too
on 2 half tests/ranks/train.lua --out "$dir/half" --dtype f32 --total 2 --checkpoint 2 --tensor-parallel 2
train 2 resumed --resume "$dir/half" --tensor-parallel 2
train 2 unstopped --tensor-parallel 2
[ "$(hash_of resumed)" = "$(hash_of unstopped)" ] && ok "a run resumes with the bits of one that was not stopped" || bad "a run resumes with the bits of one that was not stopped" "they differ"
train 1 alone --resume "$dir/half"
[ -s "$dir/alone/adapter/adapter_model.safetensors" ] && ok "a checkpoint of a shared model is resumed by one process" || bad "a checkpoint of a shared model is resumed by one process" "$(said alone)"

# ---- sums on devices: on one card they go through the host, with a card each from device to device; the bits are the same
if [ ! -e "$build/cusim/tl_cusim.so" ] || [ -n "$(find kernels/ops.h kernels/cuda tests/cusim -newer "$build/cusim/tl_cusim.so" -type f)" ]; then
  echo "skip tensor parallel: on a simulated device: the simulator of CUDA is not there, or older than its sources (./dev test builds it)"
else
  mkdir "$dir/modules"; ln -s "$build/tl_mpi.so" "$build/cusim/tl_cusim.so" "$dir/modules"
  TL_MODULES=$dir/modules CUSIM_DEVICES=1 TL_BACKEND=cusim on 2 device tests/ranks/split.lua --dir "$dir/models" --models qwen3 --result "$dir/device" --tensor-parallel 2
  why=$(python3 "$dir/compare.py" "$dir/split1" "$dir/device" 2>&1)
  [ $rc = 0 ] && [ -z "$why" ] && ok "a simulated device computes, trains and samples the same" || bad "a simulated device computes, trains and samples the same" "$why $(said device)"
  TL_MODULES=$dir/modules CUSIM_DEVICES=2 TL_BACKEND=cusim on 2 cards tests/ranks/split.lua --dir "$dir/models" --models qwen3 --result "$dir/cards" --tensor-parallel 2
  [ $rc = 0 ] && grep -q "on the same card" "$dir/device.log" && ! grep -q "on the same card" "$dir/cards.log" && cmp -s "$dir/device" "$dir/cards" &&
    ok "sums from device to device give the host's bits" || bad "sums from device to device give the host's bits" "exit code $rc: $(said device) $(said cards)"
fi

# ---- death, and ranks that part ways
on 2 killed tests/ranks/train.lua --out "$dir/killed" --tensor-parallel 2 --die 2
[ $rc != 0 ] && grep -q "rank 1 .*signal 9" "$dir/killed.log" && ok "a killed rank ends the run, named" || bad "a killed rank ends the run, named" "exit code $rc: $(said killed)"
on 2 fails tests/ranks/train.lua --out "$dir/fails" --tensor-parallel 2 --fail 2
[ $rc != 0 ] && grep -q "tlrun: rank 1 of 2 .*: the data of step 2 are bad" "$dir/fails.log" && ok "an error of a rank ends the run, named" ||
  bad "an error of a rank ends the run, named" "exit code $rc: $(said fails)"
on 2 strays tests/ranks/train.lua --out "$dir/strays" --tensor-parallel 2 --total 1 --stray true
[ $rc != 0 ] && grep -q "share a model, but have other tokens" "$dir/strays.log" && ok "ranks that sample other tokens find out" ||
  bad "ranks that sample other tokens find out" "exit code $rc: $(said strays)"

# ---- what cannot be done is one clear line
refused() {  # NAME RANKS WORDS ARGUMENTS...
  local name=$1 n=$2 words=$3; shift 3
  on "$n" refused "$@"
  [ $rc = 1 ] && [ "$(grep -c "$words" "$dir/refused.log")" = 1 ] && ok "$name is refused" || bad "$name is refused" "exit code $rc: $(said refused)"
}
refused "a number of key/value heads that does not divide" 4 "num_key_value_heads is 2, which tensor parallelism over 4 ranks does not divide" logprobs --model tiny --ids 1,2 --tensor-parallel 4
refused "a number of ranks that does not divide" 3 "there are 3 processes" logprobs --model tiny --ids 1,2 --tensor-parallel 2
refused "sharing a model alone" 1 "there is 1 process; start them with mpirun -n 2" logprobs --model tiny --ids 1,2 --tensor-parallel 2
refused "full finetuning of a shared model" 2 "full finetuning needs the model in one process; here 2 ranks share it" tests/ranks/train.lua --out "$dir/no" --kind full --tensor-parallel 2
refused "saving a model of which each rank has a part" 2 "saving a model needs the model in one process" -e "tl.comm.split(2) tl.model.load('tiny'):save('$dir/no')"
exit $failed
