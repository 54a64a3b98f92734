#!/usr/bin/env bash
# hosts.sh COMMAND...: runs a command with mpirun on two hosts that are network namespaces of this machine, joined by a virtual
# cable, each with a host name of its own: one rank on each. Needs root. What it makes it takes away again.
set -euo pipefail
a=tl-a-$$ b=tl-b-$$ dir=$(mktemp -d)
clean() { ip netns del "$a" 2>/dev/null || true; ip netns del "$b" 2>/dev/null || true; rm -rf "$dir"; }
trap clean EXIT
ip netns add "$a"; ip netns add "$b"
ip link add tl0 netns "$a" type veth peer name tl0 netns "$b"
ip -n "$a" addr add 10.77.0.1/24 dev tl0; ip -n "$b" addr add 10.77.0.2/24 dev tl0
for n in "$a" "$b"; do ip -n "$n" link set lo up; ip -n "$n" link set tl0 up; done
# what mpirun uses instead of ssh: agent HOST COMMAND...
cat >"$dir/agent" <<AGENT
#!/bin/sh
case \$1 in 10.77.0.1) n=$a ;; *) n=$b ;; esac
shift
exec ip netns exec \$n unshare --uts sh -c "hostname \$n; \$*"
AGENT
chmod +x "$dir/agent"
export TMPDIR=$dir OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
ip netns exec "$a" unshare --uts sh -c "hostname $a; exec \"\$@\"" sh mpirun --host 10.77.0.1:1,10.77.0.2:1 -n 2 --mca plm_rsh_agent "$dir/agent" \
  --mca oob_tcp_if_include tl0 --mca btl_tcp_if_include tl0 --mca btl tcp,self --mca pml ob1 "$@"
