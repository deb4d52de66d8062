#!/bin/sh
# Run a command beside a real Slurm: munged, one slurmctld and two slurmd (nodes n1 and n2) on this machine.
#
#     tests/slurm.sh .venv/bin/python -m pytest tests/test_slurm.py
#
# The command finds sbatch and the others configured (SLURM_CONF) and PACKMULE_SLURM=1; PACKMULE_SLURM_PIDS names the
# file with the slurmds' process ids. Needs Debian's package slurm-wlm (apt-get install --no-install-recommends
# slurm-wlm munge) and root. Everything it writes is in one temporary folder; it stops what it started and no more.
set -eu
[ $# -gt 0 ] || { echo "usage: tests/slurm.sh COMMAND..." >&2; exit 2; }
for tool in munged slurmctld slurmd sbatch squeue scancel sinfo; do
    command -v "$tool" >/dev/null || { echo "$tool is missing: apt-get install slurm-wlm munge" >&2; exit 2; }
done
[ "$(id -u)" = 0 ] || { echo "slurmd needs root" >&2; exit 2; }

home=$(mktemp -d "${TMPDIR:-/tmp}/packmule-slurm.XXXXXX")
chmod 755 "$home"
pids=""
stop() {
    scancel --me 2>/dev/null || true # and its processes with it, while there is a slurmd to see to that
    left=40
    while [ "$left" -gt 0 ] && [ -n "$(squeue --me --noheader 2>/dev/null)" ]; do
        left=$((left - 1))
        sleep 0.5
    done
    for pid in $pids; do kill "$pid" 2>/dev/null || true; done
    for pid in $pids; do wait "$pid" 2>/dev/null || true; done
    rm -rf "$home"
}
trap stop EXIT
trap 'exit 130' INT TERM

free_port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}
cores=$(nproc)
memory=$(awk '/MemTotal/ { print int($2 / 1024) }' /proc/meminfo)

mkdir -m 700 "$home/munge"
dd if=/dev/urandom of="$home/munge/key" bs=128 count=1 2>/dev/null
chmod 400 "$home/munge/key"
munged --foreground --force --key-file="$home/munge/key" --socket="$home/munge.socket" --pid-file="$home/munge/pid" \
    --log-file="$home/munge/log" --seed-file="$home/munge/seed" >/dev/null 2>&1 & pids="$pids $!"

mkdir "$home/state" "$home/spool-n1" "$home/spool-n2"
cat >"$home/slurm.conf" <<CONF
ClusterName=packmule
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmctldPort=$(free_port)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$home/munge.socket
CredType=cred/munge
StateSaveLocation=$home/state
SlurmdSpoolDir=$home/spool-%n
SlurmdPidFile=$home/%n.pid
SlurmctldPidFile=$home/slurmctld.pid
SlurmctldLogFile=$home/slurmctld.log
SlurmdLogFile=$home/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SlurmdTimeout=15
InactiveLimit=0
KillWait=5
MinJobAge=60
ReturnToService=2
MaxArraySize=20001
MaxJobCount=20001
SchedulerParameters=sched_interval=5,batch_sched_delay=0,defer_batch=0,sched_min_interval=100000
PropagatePrioProcess=0
NodeName=n1 NodeHostname=$(hostname -s) NodeAddr=127.0.0.1 Port=$(free_port) CPUs=$cores RealMemory=$memory
NodeName=n2 NodeHostname=$(hostname -s) NodeAddr=127.0.0.1 Port=$(free_port) CPUs=$cores RealMemory=$memory
PartitionName=debug Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
CONF
export SLURM_CONF="$home/slurm.conf"

wait_for() { # seconds, what, command...
    left=$1 what=$2
    shift 2
    until "$@" >/dev/null 2>&1; do
        left=$((left - 1))
        [ "$left" -gt 0 ] || { echo "$what did not start; its log:" >&2; tail -n 20 "$home"/*.log >&2; exit 1; }
        sleep 1
    done
}

wait_for 30 munged sh -c "munge --socket='$home/munge.socket' -n"
slurmctld -D >/dev/null 2>&1 & pids="$pids $!"
for node in n1 n2; do
    slurmd -D -N "$node" >/dev/null 2>&1 & pids="$pids $!"
    echo "$node $!" >>"$home/slurmds"
done
wait_for 60 "Slurm" sh -c "[ \"\$(sinfo -h -N -o %T | sort -u)\" = idle ]"
export PACKMULE_SLURM=1 PACKMULE_SLURM_PIDS="$home/slurmds"
echo "$(sinfo --version), nodes $(sinfo -h -N -o %N | tr '\n' ' ')" >&2
"$@"
