#!/bin/bash
# Stop what up.sh started, by its pid files alone. Idempotent. CLEAN=1: and remove its folder.
set -uo pipefail
BASE=${SLURM_BASE:?the folder that up.sh was given}
export SLURM_CONF=$BASE/slurm.conf PATH=$PATH:/usr/sbin
stop() { # pidfile comm
  local p; p=$(cat "$1" 2>/dev/null) || return 0
  [ -n "$p" ] && [ "$(cat /proc/"$p"/comm 2>/dev/null)" = "$2" ] || { rm -f "$1"; return 0; }
  kill "$p" 2>/dev/null
  for _ in $(seq 100); do [ -d /proc/"$p" ] || break; sleep 0.1; done
  [ -d /proc/"$p" ] && kill -9 "$p" 2>/dev/null
  rm -f "$1"; echo "# [down.sh] stopped $2 ($p)" >&2
}
if [ "$(cat /proc/"$(cat "$BASE/slurmctld.pid" 2>/dev/null)"/comm 2>/dev/null)" = slurmctld ]; then
  # jobs first: slurmstepd outlives slurmd
  ids=$(squeue -h -o %A 2>/dev/null); [ -n "$ids" ] && scancel $ids 2>/dev/null
  for _ in $(seq 150); do [ -z "$(squeue -h 2>/dev/null)" ] && break; sleep 0.1; done
fi
for f in "$BASE"/slurmd-*.pid; do [ -e "$f" ] && stop "$f" slurmd; done
stop "$BASE/slurmctld.pid" slurmctld
stop "$BASE/munge/munged.pid" munged
[ "${CLEAN:-0}" = 1 ] && rm -rf "$BASE"
exit 0
