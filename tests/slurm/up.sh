#!/bin/bash
# Start a throw-away Slurm on this host (munged, slurmctld, a slurmd for each virtual node): no systemd, no accounting
# data base, no cgroups. Idempotent. Needs Debian's packages munge slurmctld slurmd slurm-client.
#   SLURM_BASE=FOLDER [SLURM_PORT=N NODES=2 CPUS=2 MEM_MB=8000 KILLWAIT=5] eval "$(up.sh)"   sets SLURM_CONF
set -euo pipefail
BASE=${SLURM_BASE:?a folder whose parents all may enter}
NODES=${NODES:-2}; CPUS=${CPUS:-2}; MEM_MB=${MEM_MB:-8000}; KILLWAIT=${KILLWAIT:-5}
PORT=${SLURM_PORT:-16817}
log() { echo "# [up.sh] $*" >&2; }

export PATH=$PATH:/usr/sbin
ME=$(id -un); HOST=$(hostname -s)
mkdir -p "$BASE"/{munge,state,log}; chmod 755 "$BASE" "$BASE"/munge "$BASE"/state "$BASE"/log

# Configuration: written each time, read when the daemons start.
SOCK=$BASE/munge/munge.sock
last=$(printf '%04d' "$NODES"); pl=$((PORT+10)); ph=$((PORT+9+NODES))
for i in $(seq 1 "$NODES"); do mkdir -p "$BASE/spool/nid$(printf '%04d' "$i")"; done
cat > "$BASE/slurm.conf" <<C
ClusterName=minislurm
SlurmctldHost=$HOST(127.0.0.1)
SlurmctldPort=$PORT
SlurmUser=$ME
SlurmdUser=$ME
AuthType=auth/munge
AuthInfo=socket=$SOCK
CredType=cred/munge
StateSaveLocation=$BASE/state
SlurmdSpoolDir=$BASE/spool/%n
SlurmctldPidFile=$BASE/slurmctld.pid
SlurmdPidFile=$BASE/slurmd-%n.pid
SlurmctldLogFile=$BASE/log/slurmctld.log
SlurmdLogFile=$BASE/log/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2
SlurmdParameters=config_overrides
EnforcePartLimits=ALL
ReturnToService=2
KillWait=$KILLWAIT
OverTimeLimit=0
MinJobAge=300
SlurmctldTimeout=30
SlurmdTimeout=60
MailProg=/bin/true
NodeName=nid[0001-$last] NodeHostname=$HOST NodeAddr=127.0.0.1 Port=[$pl-$ph] CPUs=$CPUS RealMemory=$MEM_MB Feature=cpu State=UNKNOWN
PartitionName=debug   Nodes=ALL Default=YES DefaultTime=00:10:00 MaxTime=00:30:00 State=UP
PartitionName=regular Nodes=ALL DefaultTime=00:30:00 MaxTime=2-00:00:00 State=UP
PartitionName=single  Nodes=nid0001 DefaultTime=00:10:00 MaxTime=00:30:00 State=UP
C
export SLURM_CONF=$BASE/slurm.conf

alive() { # pidfile name
  local p; p=$(cat "$1" 2>/dev/null) || return 1
  [ -n "$p" ] && [ "$(cat /proc/"$p"/comm 2>/dev/null)" = "$2" ]
}
wait_for() { # seconds cmd...
  local n=$(( $1 * 10 )); shift
  while ! "$@" >/dev/null 2>&1; do n=$((n-1)); [ $n -gt 0 ] || { log "timed out: $*"; return 1; }; sleep 0.1; done
}

# munged: own key and socket, as the invoking user
if [ ! -s "$BASE/munge/munge.key" ]; then (umask 077; head -c 1024 /dev/urandom > "$BASE/munge/munge.key"); fi
if ! alive "$BASE/munge/munged.pid" munged; then
  munged --key-file="$BASE/munge/munge.key" --socket="$SOCK" --pid-file="$BASE/munge/munged.pid" \
         --log-file="$BASE/munge/munged.log" --seed-file="$BASE/munge/munged.seed" --num-threads=2
  wait_for 10 munge -S "$SOCK" -n
fi
# slurmctld
if ! alive "$BASE/slurmctld.pid" slurmctld; then
  slurmctld -c -f "$SLURM_CONF"            # -c: forget jobs/nodes of an earlier run
  wait_for 20 scontrol ping
fi
# a slurmd for each virtual node
for i in $(seq 1 "$NODES"); do
  n=nid$(printf '%04d' "$i")
  alive "$BASE/slurmd-$n.pid" slurmd || slurmd -N "$n" -f "$SLURM_CONF"
done
all_idle() { [ "$(sinfo -h -N -p debug -o %t | grep -cxE 'idle|mix|alloc|comp')" = "$NODES" ]; }   # "idle*" = not responding yet
wait_for 30 all_idle
echo "export SLURM_CONF=$SLURM_CONF"
