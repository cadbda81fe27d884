
# submit.py appended the lines from here (engine/cluster/task.sh). A task runs the shards in its entry of TASKS, at once.
# Each shard's exit status goes to a file, because not every site keeps accounts that could be asked for it.

RESTARTS=3 # a task that reaches its time limit starts again, and continues, at most so often

report() { # write a file with the state of a shard, which other machines see whole: shard, state
    local temporary=$FOLDER/status/.$JOB-$1.$(hostname).$BASHPID
    echo "$2" >"$temporary" && mv -f "$temporary" "$FOLDER/status/$JOB-$1"
}

run() { # shard, its place in the task
    local shard=$1 gpus code=1
    IFS=, read -ra gpus <<<"${CUDA_VISIBLE_DEVICES:-}"
    if [ ${#gpus[@]} -gt 1 ]; then export CUDA_VISIBLE_DEVICES=${gpus[$2 % ${#gpus[@]}]}; fi
    report "$shard" running
    {
        echo "== $STAGE $shard/$SHARDS on $(hostname)${SLURM_JOB_ID:+, job ${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}, $(date '+%F %T')"
        run_shard "$shard/$SHARDS"
        code=$?
        echo "== exit status $code, $(date '+%F %T')"
    } >>"$FOLDER/logs/$STAGE-$shard.log" 2>&1
    report "$shard" $code
}

continue_later() { # Slurm sends USR1 before the time limit
    if [ "${SLURM_RESTART_COUNT:-0}" -lt $RESTARTS ]; then
        scontrol requeue "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"
    fi
}
trap continue_later USR1

cores=$(nproc)
if [ "$PARALLEL" -gt 1 ] && [ "$cores" -ge "$PARALLEL" ]; then # or each would use all cores
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((cores / PARALLEL))}
fi
shards=(${TASKS[SLURM_ARRAY_TASK_ID - 1]})
for place in "${!shards[@]}"; do run "${shards[place]}" "$place" & done
while [ -n "$(jobs -pr)" ]; do wait; done # a signal ends `wait`
for shard in "${shards[@]}"; do
    if [ "$(cat "$FOLDER/status/$JOB-$shard")" != 0 ]; then exit 1; fi
done
