# ranks.sh: what the tests of several ranks begin with; sourced with NAME set, which their lines carry. Leaves $build, $tlrun, a scratch
# folder $dir, and: ok and bad; on, which runs tlrun on some ranks; said, the last lines of a log.
cd "$(dirname "$0")/.."
build=$(realpath "${TL_BUILD_DIR:-build}") tlrun=$(realpath "${TL_BUILD_DIR:-build}")/tlrun
if ! command -v mpirun >/dev/null || [ ! -e "$build/tl_mpi.so" ]; then
  echo "skip $NAME: no MPI here (libopenmpi-dev, openmpi-bin), or the build is without it"; exit 0
fi
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
unset TL_MODULES  # the module for MPI lies beside the program
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 TMPDIR=$dir OMP_WAIT_POLICY=passive
failed=0
ok() { echo "ok $NAME: $1"; }
bad() { echo "not ok $NAME: $1: $2"; failed=1; }
on() {  # RANKS LOG ARGUMENTS...: rc in $rc, what it says in $dir/LOG.log
  local n=$1 log=$dir/$2.log; shift 2
  rc=0
  if [ "$n" = 1 ]; then timeout 120 "$tlrun" "$@" --threads 1 >"$log" 2>&1 || rc=$?
  else timeout 120 mpirun --oversubscribe -n "$n" "$tlrun" "$@" --threads 1 >"$log" 2>&1 || rc=$?; fi
}
said() { grep -v '^--\|^$' "$dir/$1.log" | tail -n 3 | tr '\n' '|'; }
