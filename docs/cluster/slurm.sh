#!/bin/bash
# A training on several machines with SLURM:  sbatch docs/cluster/slurm.sh   (from the root of the repository)
# Two minutes before its time is over the run writes its state and ends, the job queues again, and the same command goes
# on from that state. docs/cluster.md says why each line stands here.
#SBATCH --job-name=gantransfer
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=16
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log

# Yours to change: the processes of a machine (one per GPU), and the training. --outdir and --data are on a file system
# that all machines see. Activate your environment here.
PROCESSES=4
TRAIN=(--outdir=runs --data=datasets/digits.zip --fname=lt_25.json --cond=True --add_uc=True --batch=64)

export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=100
HEAD=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
PORT=$((20000 + SLURM_JOB_ID % 10000))

time_is_over() {
    ASKED=1
    scancel --signal=USR1 "$SLURM_JOB_ID" # to all that srun has started, not to this shell
}
trap time_is_over USR1

srun torchrun --nnodes="$SLURM_NNODES" --nproc-per-node="$PROCESSES" --max-restarts=3 \
    --rdzv-id="$SLURM_JOB_ID" --rdzv-backend=c10d --rdzv-endpoint="$HEAD:$PORT" \
    --signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGUSR1 \
    train.py "${TRAIN[@]}" --resume=auto &
wait $!
CODE=$?
if [ -n "$ASKED" ]; then # it was the signal that ended the wait
    wait $!
    CODE=$?
fi

if [ -n "$ASKED" ] && [ "$CODE" -ne 0 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$CODE"
