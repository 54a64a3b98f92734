#!/usr/bin/env bash
# test_ranks.sh: runs shared by several processes (docs/distributed.md). Would catch: a gradient whose sum depends on the number of
# ranks, rewards or metrics of one rank taken for all, ranks that mix up each other's data, a rank's death that goes unseen or
# spoils the checkpoint, copies of a run where a build has no MPI.
set -uo pipefail
NAME=ranks
. "$(dirname "$0")/ranks/ranks.sh"
ranks() { on "$1" "$2" tests/ranks/train.lua --out "$dir/$2" "${@:3}"; }  # N OUT ARGUMENTS...
hash_of() { sha256sum <"$dir/$1/adapter/adapter_model.safetensors" || echo "$1 has none"; }

# ---- the same bits: what is trained, the completions with rewards and advantages, and metrics that are no times
for kind in tinylora loraxs; do
  for n in 1 2 4; do ranks $n $kind$n --kind $kind --sft 2; [ $rc = 0 ] || bad "$kind on $n ranks" "exit code $rc: $(said $kind$n)"; done
  if [ "$(hash_of ${kind}1)" = "$(hash_of ${kind}2)" ] && [ "$(hash_of ${kind}1)" = "$(hash_of ${kind}4)" ]; then ok "$kind is the same bits on 1, 2 and 4 ranks"
  else bad "$kind is the same bits on 1, 2 and 4 ranks" "the adapters differ"; fi
done
if cmp -s "$dir/tinylora1/completions.jsonl" "$dir/tinylora4/completions.jsonl"; then ok "completions, rewards and advantages of all ranks are recorded"
else bad "completions, rewards and advantages of all ranks are recorded" "completions.jsonl of 1 and 4 ranks differ"; fi
cat >"$dir/metrics.py" <<'PY'
import json, sys
a, b = ([json.loads(l) for l in open(p)] for p in sys.argv[1:])
times = ("_s", "_time", "_bytes", "kept", "batches")
for x, y in zip(a, b):
    for k in x:
        if not k.endswith(times) and not k.startswith("sampling/") and abs(x[k] - y[k]) > 1e-9 * (1 + abs(x[k])):
            print(f"step {x['step']}: {k} is {x[k]} on 1 rank and {y[k]} on 4")
print("" if len(a) == len(b) == 6 else f"{len(a)} and {len(b)} steps", end="")
PY
why=$(python3 "$dir/metrics.py" "$dir/tinylora1/metrics.jsonl" "$dir/tinylora4/metrics.jsonl" 2>&1)
[ -z "$why" ] && ok "metrics are of all ranks" || bad "metrics are of all ranks" "$why"
cmp -s "$dir/tinylora1/summary.json" "$dir/tinylora4/summary.json" && ok "an evaluation is shared" || bad "an evaluation is shared" "summary.json of 1 and 4 ranks differ"
[ -z "$(ls -d "$dir"/tlrun-* 2>/dev/null)" ] && ok "no other rank leaves a folder" || bad "no other rank leaves a folder" "$(ls -d "$dir"/tlrun-*)"

# ---- completions of several turns, whose replies each rank asks for itself
for n in 1 2; do ranks $n turns$n --turns true --top 0.5 --total 2; [ $rc = 0 ] || bad "several turns on $n ranks" "exit code $rc: $(said turns$n)"; done
if [ "$(hash_of turns1)" = "$(hash_of turns2)" ] && cmp -s "$dir/turns1/completions.jsonl" "$dir/turns2/completions.jsonl" && grep -q '"turns":5' "$dir/turns1/completions.jsonl"
then ok "completions of several turns are the same on 1 and 2 ranks"; else bad "completions of several turns are the same on 1 and 2 ranks" "adapters or completions.jsonl differ"; fi

# ---- LoRA and full: equal up to rounding, and the same bits again with the same number of ranks
for kind in lora full; do
  for run in 1a 2a 2b; do ranks ${run%[ab]} $kind$run --kind $kind --total 1; [ $rc = 0 ] || bad "$kind on ${run%[ab]} ranks" "exit code $rc: $(said $kind$run)"; done
  file=adapter/adapter_model.safetensors; [ -e "$dir/${kind}2a/$file" ] || file=adapter/model.safetensors
  if [ -s "$dir/${kind}1a/$file" ] && cmp -s "$dir/${kind}2a/$file" "$dir/${kind}2b/$file"; then ok "$kind repeats its bits on 2 ranks"; else bad "$kind repeats its bits on 2 ranks" "they differ"; fi
done

# ---- from device to device: on the simulator's devices, whose NCCL goes over MPI
if [ ! -e "$build/cusim/tl_cusim.so" ]; then echo "skip ranks: device to device: the simulator was not built (./dev test builds it)"
else
  mkdir "$dir/modules"; ln -s "$build/tl_mpi.so" "$build/cusim/tl_cusim.so" "$dir/modules"
  device_sum() {  # NAME RANKS own|same|any joined|host [WORD that must be said]; devices: how many there are, sums: the program
    local name=$1 n=$2 rc=0; shift 2
    TL_MODULES=$dir/modules CUSIM_DEVICES=${devices:-3} timeout 120 mpirun --oversubscribe -n "$n" "${sums:-$build/test_device_sum}" cusim "$1" "$2" >"$dir/sum.log" 2>&1 || rc=$?
    if [ $rc = 0 ] && [ "$(grep -c '^ok' "$dir/sum.log")" = $((5 * n)) ] && grep -q "${3:-^ok}" "$dir/sum.log"; then ok "$name"; else bad "$name" "exit code $rc: $(said sum)"; fi
  }
  device_sum "devices of 2 ranks sum in the order of ranks" 2 own joined
  device_sum "devices of 3 ranks sum in the order of ranks" 3 own joined
  device_sum "ranks on one card exchange through the host, and say so" 2 same host "ranks 0 and 1 are on the same card"
  # a device without a number: the rank's own, also where a launcher shows every rank that one alone (srun --gpus-per-task=1)
  device_sum "ranks that name no device have one each" 3 any joined
  printf '#!/bin/sh\nCUSIM_CARD=$OMPI_COMM_WORLD_RANK exec "%s" "$@"\n' "$build/test_device_sum" >"$dir/own-card"; chmod +x "$dir/own-card"
  devices=1 sums=$dir/own-card device_sum "ranks that see one device each take that one" 3 any joined
  devices=1 device_sum "ranks that see the same device share it, exchange through the host, and say so" 2 any host "ranks 0 and 1 are on the same card"
  TL_MODULES=$dir/modules CUSIM_DEVICES=1 TL_BACKEND=cusim:1 "$tlrun" logprobs --model tiny --ids 1,2 >"$dir/second.log" 2>&1
  grep -q "device cusim:1 cannot be used here (device 1 of 1); the CPU computes" "$dir/second.log" && ok "a second device that is named where there is one is not the first" ||
    bad "a second device that is named where there is one is not the first" "$(said second)"
  CUSIM_LIBRARIES=cusolver device_sum "ranks without NCCL exchange through the host, and say so" 2 own host "rank 0 has no NCCL"
fi

# ---- death: of a rank, by error, by a signal
ranks 2 fails --fail 2
if [ $rc != 0 ] && grep -q "tlrun: rank 1 of 2 ($(hostname)): the data of step 2 are bad" "$dir/fails.log"; then ok "an error of a rank ends the run with the rank's name and the reason"
else bad "an error of a rank ends the run with the rank's name and the reason" "exit code $rc: $(said fails)"; fi
ranks 4 whole --total 6 --checkpoint 2
ranks 2 killed --total 6 --checkpoint 2 --die 4
if [ $rc != 0 ] && grep -q "rank 1 .*signal 9" "$dir/killed.log" && [ "$(sed -n 's/.*"steps": *\([0-9]*\).*/\1/p' "$dir/killed/checkpoint.json")" = 2 ]; then
  ok "a killed rank ends the run, named, and the checkpoint is there"
else bad "a killed rank ends the run, named, and the checkpoint is there" "exit code $rc: $(said killed)"; fi
ranks 1 resumed --total 6 --resume "$dir/killed"
[ $rc = 0 ] && [ "$(hash_of resumed)" = "$(hash_of whole)" ] && ok "a run resumes on another number of ranks with the bits of one that was not stopped" ||
  bad "a run resumes on another number of ranks with the bits of one that was not stopped" "exit code $rc: $(said resumed)"
ranks 1 nothing --resume "$dir/fails"
[ $rc = 1 ] && grep -q "fails has no checkpoint" "$dir/nothing.log" && ok "resume without a checkpoint is one clear line" || bad "resume without a checkpoint is one clear line" "$(said nothing)"
ranks 2 strays --stray true
[ $rc != 0 ] && grep -q "have come to different places of the script" "$dir/strays.log" && ok "ranks that ask for different things find out" ||
  bad "ranks that ask for different things find out" "exit code $rc: $(said strays)"

# ---- a build without MPI
TL_MODULES=$dir timeout 60 mpirun --oversubscribe -n 2 "$tlrun" -e 'print "run"' >"$dir/plain.log" 2>&1
if grep -q "mpirun started 2 processes, but this build has no MPI" "$dir/plain.log" && ! grep -q '^run$' "$dir/plain.log"; then ok "a build without MPI says so under mpirun"
else bad "a build without MPI says so under mpirun" "$(said plain)"; fi
[ "$(TL_COMM=none mpirun --oversubscribe -n 2 "$tlrun" -e 'print(tl.comm.size)' 2>/dev/null | tr '\n' ' ')" = "1 1 " ] && ok "TL_COMM=none runs each process alone" ||
  bad "TL_COMM=none runs each process alone" "it does not"

# ---- two hosts
if [ "$(id -u)" != 0 ] || ! command -v ip >/dev/null || ! ip netns add tl-probe-$$ 2>/dev/null; then
  echo "skip ranks: two hosts: network namespaces need root and iproute2"
else
  ip netns del tl-probe-$$
  rc=0; timeout 120 bash tests/ranks/hosts.sh "$tlrun" tests/ranks/train.lua --threads 1 --out "$dir/hosts" --sft 2 >"$dir/hosts.log" 2>&1 || rc=$?
  [ $rc = 0 ] && [ "$(hash_of hosts)" = "$(hash_of tinylora1)" ] && ok "two hosts give the bits of one process" || bad "two hosts give the bits of one process" "exit code $rc: $(said hosts)"
fi

# ---- srun
if ! PATH=$PATH:/usr/sbin command -v slurmctld slurmd srun munged >/dev/null || [ "$(nproc)" -lt 2 ]; then
  echo "skip ranks: srun: it needs Slurm (slurm-wlm, munge) and two cores"
else
  under_srun() { rc=0; timeout 120 bash tests/ranks/slurm.sh -n 2 --mpi=pmix "$@" >"$dir/srun.log" 2>&1 || rc=$?; }
  under_srun "$tlrun" tests/ranks/train.lua --threads 1 --out "$dir/srun" --sft 2
  [ $rc = 0 ] && [ "$(hash_of srun)" = "$(hash_of tinylora1)" ] && ok "srun's ranks give the bits of one process" || bad "srun's ranks give the bits of one process" "exit code $rc: $(said srun)"
  under_srun --kill-on-bad-exit "$tlrun" tests/ranks/train.lua --threads 1 --out "$dir/srun-dies" --die 2
  [ $rc != 0 ] && [ $rc != 124 ] && grep -q "srun: error: .*task 1: Killed" "$dir/srun.log" && ok "a rank's death ends srun's run" || bad "a rank's death ends srun's run" "exit code $rc: $(said srun)"
fi
exit $failed
