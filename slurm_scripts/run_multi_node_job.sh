#!/usr/bin/env bash
# A run on several nodes of a Slurm cluster, one task per GPU (docs/slurm.md):
#
#   sbatch [SBATCH OPTIONS] slurm_scripts/run_multi_node_job.sh [KEY VALUE ...]
#
# Options of sbatch override the lines below, the variables CFG and PYTHON the settings after them. Near its time limit,
# when it is preempted and when a node fails, the job is requeued and resumes from its last checkpoint.

#SBATCH --job-name=timesformer
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=10
#SBATCH --time=24:00:00
#SBATCH --signal=USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log

set -euo pipefail

CFG=${CFG:-configs/Kinetics/TimeSformer_divST_8x32_224.yaml}
PYTHON=${PYTHON:-python}
# Network between the nodes, if the wrong one is found: the name of the interface, from `ip addr`.
# export NCCL_SOCKET_IFNAME=ib0 GLOO_SOCKET_IFNAME=ib0

code=0
srun --label --kill-on-bad-exit=1 "$PYTHON" -u tools/run_net.py --cfg "$CFG" "$@" || code=$?

# A run stopped by a signal has saved: 75 near its time limit, 143 when preempted or cancelled.
if [ "$code" -eq 75 ] || [ "$code" -eq 143 ]; then
    if [ "$(squeue -h -j "$SLURM_JOB_ID" -o %T)" = RUNNING ]; then
        scontrol requeue "$SLURM_JOB_ID"
    fi
fi
exit "$code"
