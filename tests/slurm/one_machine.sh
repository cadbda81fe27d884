#!/usr/bin/env bash
# A Slurm of two nodes on this machine, for tests: everything it writes is in one folder, whose path must be short.
#
#     bash tests/slurm/one_machine.sh start FOLDER      then `export SLURM_CONF=FOLDER/slurm.conf`
#     bash tests/slurm/one_machine.sh stop FOLDER
#
# Needs slurm-wlm and munge (apt-get install slurm-wlm munge). It has its own munged and key, ports that are free, arrays
# of at most 3 tasks and no accounting.
set -euo pipefail
PATH=$PATH:/usr/sbin
folder=$(realpath -m "$2")

configure() { # ports of the controller and of both nodes
    local user
    user=$(id -un)
    cat >"$folder/slurm.conf" <<END
ClusterName=tests
SlurmctldHost=localhost
SlurmctldPort=$1
SlurmUser=$user
SlurmdUser=$user
AuthInfo=socket=$folder/munge/socket
StateSaveLocation=$folder/state
SlurmctldPidFile=$folder/controller.pid
SlurmctldLogFile=$folder/controller.log
SlurmdSpoolDir=$folder/spool-%n
SlurmdPidFile=$folder/%n.pid
SlurmdLogFile=$folder/%n.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
MailProg=$(command -v true)
MaxArraySize=4
KillWait=5
NodeName=first NodeHostname=localhost NodeAddr=127.0.0.1 Port=$2 CPUs=1 RealMemory=1000
NodeName=second NodeHostname=localhost NodeAddr=127.0.0.1 Port=$3 CPUs=1 RealMemory=1000
PartitionName=tests Nodes=first,second Default=YES State=UP
END
}

start() {
    local ports node
    mkdir -p "$folder"/{munge,state}
    chmod 700 "$folder/munge"
    (umask 077 && head -c 1024 /dev/urandom >"$folder/munge/key")
    munged --force --key-file="$folder/munge/key" --socket="$folder/munge/socket" --pid-file="$folder/munge.pid" \
        --log-file="$folder/munge/log" --seed-file="$folder/munge/seed" 2>/dev/null
    ports=$(python3 -c "import socket
sockets = [socket.create_server(('127.0.0.1', 0)) for _ in range(3)]
print(*(one.getsockname()[1] for one in sockets))")
    configure $ports
    export SLURM_CONF=$folder/slurm.conf
    slurmctld
    for node in first second; do slurmd -N $node; done
    for _ in {1..100}; do # until both nodes have registered
        if [ "$(sinfo --noheader --states=idle --format=%D)" = 2 ]; then return; fi
        sleep 0.2
    done
    echo "Slurm does not start; see $folder/controller.log" >&2
    exit 1
}

stop() { # the daemons, and wait for their end
    local file pid
    for file in "$folder"/{first,second,controller,munge}.pid; do
        if [ -f "$file" ] && pid=$(cat "$file") && kill "$pid" 2>/dev/null; then
            for _ in {1..100}; do
                if ! [ -e "/proc/$pid" ] || grep -q '^State:.Z' "/proc/$pid/status" 2>/dev/null; then break; fi
                sleep 0.1
            done
        fi
    done
}

"$1"
