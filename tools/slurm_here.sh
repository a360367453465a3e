#!/bin/bash
# A SLURM on this computer alone, for tests, without systemd:
#     tools/slurm_here.sh start|stop|env FOLDER [NODES] [CPUS_PER_NODE]
# As root, with Debian's slurmctld, slurmd, slurm-client and munge, which it does not install. Files, sockets and logs are
# in FOLDER; everything listens on this computer only. A shell uses it after: eval "$(tools/slurm_here.sh env FOLDER)"
set -eu
usage="tools/slurm_here.sh start|stop|env FOLDER [NODES] [CPUS_PER_NODE]"
what=${1:?$usage} here=$(readlink -m "${2:?$usage}") nodes=${3:-3} cpus=${4:-1}
port=${SLURM_HERE_PORT:-27817}
export SLURM_CONF=$here/slurm.conf

wait_for() {  # until a command succeeds, 20 s at most
    for _ in $(seq 200); do
        "$@" >/dev/null 2>&1 && return
        sleep 0.1
    done
    return 1
}

no_jobs() { [ -z "$(squeue -h -o %A)" ]; }
gone() { ! kill -0 "$1"; }
all_idle() { [ "$(sinfo -h -t idle -o %D | awk '{n += $1} END {print n + 0}')" = "$nodes" ]; }

configure() {
    memory=$(awk '/MemTotal/ {print int($2 / 1024 * 0.9)}' /proc/meminfo)
    cat <<CONF
ClusterName=here
SlurmctldHost=$(hostname)(127.0.0.1)
SlurmctldPort=$port
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$here/munge.socket
CredType=cred/munge
StateSaveLocation=$here/state
SlurmdSpoolDir=$here/spool/%n
SlurmctldPidFile=$here/slurmctld.pid
SlurmdPidFile=$here/slurmd.%n.pid
SlurmctldLogFile=$here/log/slurmctld.log
SlurmdLogFile=$here/log/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=2,sched_min_interval=0
SlurmdParameters=config_overrides
ReturnToService=2
MinJobAge=300
KillWait=5
InactiveLimit=0
CONF
    for i in $(seq "$nodes"); do  # host names of their own: two nodes of one host are refused
        echo "NodeName=node$i NodeHostname=node$i NodeAddr=127.0.0.1 Port=$((port + 1 + i)) CPUs=$cpus" \
            "RealMemory=$((memory / nodes))"
    done
    echo "PartitionName=main Nodes=node[1-$nodes] Default=YES MaxTime=INFINITE State=UP"
}

start() {
    mkdir -p "$here/state" "$here/spool" "$here/log"
    chmod 755 "$here"
    (umask 077; [ -s "$here/munge.key" ] || head -c 128 /dev/urandom > "$here/munge.key")
    # It wants to be the owner of its files and folders, who is root here.
    munged --force --key-file="$here/munge.key" --socket="$here/munge.socket" --pid-file="$here/munged.pid" \
        --log-file="$here/log/munged.log" --seed-file="$here/munge.seed" --num-threads=2
    configure > "$SLURM_CONF"
    slurmctld -c
    for i in $(seq "$nodes"); do slurmd -N "node$i"; done
    wait_for all_idle && return
    echo "Not all nodes came up:" >&2
    tail -n 5 "$here"/log/*.log >&2
    exit 1
}

stop() {  # jobs outlive the daemons of their nodes; then what this folder started, and nothing else
    if [ -s "$here/slurmctld.pid" ]; then
        jobs=$(timeout 5 squeue -h -o %A 2>/dev/null || true)
        if [ -n "$jobs" ]; then
            timeout 10 scancel $jobs || true
            wait_for no_jobs || true
        fi
    fi
    for file in "$here"/slurmd.*.pid "$here/slurmctld.pid" "$here/munged.pid"; do
        [ -s "$file" ] || continue
        pid=$(cat "$file")
        kill "$pid" 2>/dev/null || true
        wait_for gone "$pid" || true
        rm -f "$file"
    done
}

case $what in
    start) start ;;
    stop) stop ;;
    env) echo "export SLURM_CONF=$SLURM_CONF" ;;
    *) echo "$usage" >&2; exit 2 ;;
esac
