#!/usr/bin/env bash
# slurm.sh SRUN-ARGUMENTS...: runs srun under a Slurm of its own: one node, this machine, whose daemons, key and state lie in a folder that goes
# away again. Needs slurmctld, slurmd, srun and munged (Debian: slurm-wlm, munge).
set -euo pipefail
dir=$(mktemp -d) me=$(id -un) host=$(hostname -s) port=$((20000 + $$ % 20000))
clean() {
  local pids; pids=$(cat "$dir"/*.pid 2>/dev/null) || true
  kill $pids 2>/dev/null || true
  for _ in 1 2 3 4 5; do kill -0 $pids 2>/dev/null || break; sleep 0.2; done
  kill -9 $pids 2>/dev/null || true  # slurmd takes its time over a step that was killed
  rm -rf "$dir"
}
trap clean EXIT
export PATH=$PATH:/usr/sbin
mkdir -m 700 "$dir/munge"; mkdir "$dir/state" "$dir/spool"
(umask 077; head -c 1024 /dev/urandom >"$dir/munge/key")
munged --force --key-file "$dir/munge/key" --socket "$dir/munge/socket" --pid-file "$dir/munged.pid" --log-file "$dir/munge/log" --seed-file "$dir/munge/seed" 2>/dev/null
cat >"$dir/slurm.conf" <<CONF
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmUser=$me
SlurmdUser=$me
AuthType=auth/munge
AuthInfo=socket=$dir/munge/socket
CredType=cred/munge
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd.pid
SlurmctldLogFile=$dir/slurmctld.log
SlurmdLogFile=$dir/slurmd.log
SlurmctldPort=$port
SlurmdPort=$((port + 1))
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
NodeName=$host NodeAddr=127.0.0.1 CPUs=$(nproc) State=UNKNOWN
PartitionName=all Nodes=$host Default=YES OverSubscribe=YES MaxTime=INFINITE State=UP
CONF
export SLURM_CONF=$dir/slurm.conf
slurmctld -i; slurmd
for _ in $(seq 50); do [ "$(sinfo -h -o %T 2>/dev/null)" = idle ] && break; sleep 0.2; done
srun "$@"
