#!/bin/bash
# sbatch slurm.sh train-generator rar_l --tokenizer runs/tokenizer --cache runs/tokens --out runs/generator
#
# Several machines of a Slurm cluster, one torchrun on each. Three minutes before its time is over the job is told to
# stop: it takes the step that it is in, saves, and is queued again; then it goes on from there. So is a job that is
# preempted. When a process dies, torchrun starts all of them anew from the last save, three times at most.
#SBATCH --job-name=robustok
#SBATCH --nodes=8
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=96
#SBATCH --mem=0
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@180
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
set -euo pipefail

read -r first < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=120 # seconds for a step and a save, before processes are killed
export ROBUSTOK_TIMEOUT=600               # seconds that processes wait for one that is slow or gone

told=0
trap 'told=1; kill -TERM "$work"' TERM

srun --kill-on-bad-exit=0 torchrun \
    --nnodes "$SLURM_NNODES" --nproc-per-node "$SLURM_GPUS_PER_NODE" \
    --rdzv-backend c10d --rdzv-endpoint "$first:29500" --rdzv-id "$SLURM_JOB_ID" \
    --max-restarts 3 -m robustok "$@" &
work=$!

status=0
wait "$work" || status=$?
if ((told)); then # the trap ended the first wait, not the work
    wait "$work" || true
    scontrol requeue "$SLURM_JOB_ID"
    exit 0
fi
exit "$status"
