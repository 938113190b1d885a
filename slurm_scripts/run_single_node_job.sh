#!/usr/bin/env bash
# A run on one node of a Slurm cluster, on all GPUs of the job (docs/slurm.md):
#
#   sbatch [SBATCH OPTIONS] slurm_scripts/run_single_node_job.sh [KEY VALUE ...]
#
# Options of sbatch override the #SBATCH lines below; the variables CFG and PYTHON set the configuration and the Python
# executable. Near its time limit, after preemption and if a node fails, the job is requeued and resumes from its last
# checkpoint.

#SBATCH --job-name=timesformer
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=80
#SBATCH --time=24:00:00
#SBATCH --signal=USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log

set -euo pipefail

CFG=${CFG:-configs/Kinetics/TimeSformer_divST_8x32_224.yaml}
PYTHON=${PYTHON:-python}

code=0
srun "$PYTHON" -u tools/run_net.py --cfg "$CFG" NUM_GPUS "${SLURM_GPUS_ON_NODE:-0}" "$@" || code=$?

# Exit code of a run that was stopped by a signal and has saved a checkpoint: 75 near the time limit, 143 if preempted or
# canceled.
if [ "$code" -eq 75 ] || [ "$code" -eq 143 ]; then
    if [ "$(squeue -h -j "$SLURM_JOB_ID" -o %T)" = RUNNING ]; then
        scontrol requeue "$SLURM_JOB_ID"
    fi
fi
exit "$code"
