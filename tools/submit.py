#!/usr/bin/env python3
"""Puts a run into the queue of a Slurm cluster, by submitit; or runs it here in the same way (--cluster local, debug).

python tools/submit.py --cfg configs/Kinetics/TimeSformer_divST_8x32_224.yaml --job_dir /shared/jobs/divST \
    --num_shards 4 --num_gpus 8 --partition gpu --follow DATA.PATH_TO_DATA_DIR /shared/kinetics

Preempted or out of time, the job goes back into the queue and the run goes on from its last checkpoint.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import submitit

from timesformer.arguments import as_path, as_source
from timesformer.config import load_config
from timesformer.errors import UserError
from timesformer.runtime.signals import EXIT_REQUEUE

TOOLS = Path(__file__).resolve().parent


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Puts a run into the queue of a Slurm cluster, or runs it here in the same way."
    )
    add = parser.add_argument
    add("--cfg", dest="cfg_file", type=as_path, required=True, metavar="YAML", help="configuration file")
    add(
        "--job_dir",
        required=True,
        type=as_path,
        metavar="DIR",
        help="OUTPUT_DIR, and folder of the logs: on a shared disk",
    )
    add("--num_shards", type=int, default=1, metavar="N", help="machines (1)")
    add("--num_gpus", type=int, metavar="N", help="GPUs of each machine, and so its processes; 0: CPU (NUM_GPUS)")
    add("--partition", metavar="NAME", help="partition of the cluster (its default)")
    add("--timeout", type=int, default=60 * 72, metavar="MINUTES", help="longest time of a start of the job (4320)")
    add("--constraint", metavar="FEATURES", help="features that the machines must have")
    add("--account", metavar="NAME", help="whom to charge")
    add("--qos", metavar="NAME", help="quality of service")
    add("--name", metavar="NAME", help="name of the job (that of the configuration, with --postfix)")
    add("--postfix", default="experiment", metavar="TEXT", help="end of the name (experiment)")
    add("--mem", type=float, metavar="GB", help="memory of each machine (the cluster's default)")
    add("--cpus", type=int, metavar="N", help="CPUs of each process (two more than DATA_LOADER.NUM_WORKERS)")
    add("--comment", metavar="TEXT", help="comment for the scheduler")
    add("--mail", metavar="ADDRESS", help="where to write when the job ends, fails or is put back")
    add("--use_volta32", action="store_true", help="the original's short for --constraint volta32gb")
    add(
        "--resume-from",
        "--resume_from",
        type=as_source,
        metavar="FILE",
        help="TRAIN.CHECKPOINT_FILE_PATH: the checkpoint to start from",
    )
    add(
        "--slurm",
        action="append",
        default=[],
        metavar="OPTION=VALUE",
        help="any other option of sbatch, such as --slurm reservation=friday; may be repeated",
    )
    add("--max_timeouts", type=int, default=30, metavar="N", help="how often a job out of time is put back (30)")
    add("--signal_delay", type=int, default=120, metavar="SECONDS", help="warning before the time is over (120)")
    add(
        "--cluster",
        choices=("slurm", "local", "debug"),
        default="slurm",
        help="local: processes of this machine; debug: in this very process",
    )
    add("--follow", action="store_true", help="show the log until the job has ended; Ctrl-C leaves it running")
    add("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="options that override the file's")
    args = parser.parse_args()
    args.job_dir = args.job_dir.resolve()
    if args.cluster != "slurm" and args.num_shards > 1:
        parser.error(f"--num_shards is {args.num_shards}, but --cluster {args.cluster} is this machine alone")
    if wrong := [option for option in args.slurm if "=" not in option]:
        parser.error(f"--slurm {wrong[0]}, expected OPTION=VALUE")
    return args


class Run:
    """What each process of the job does: the command line of run_net.py. A copy of it goes with the job."""

    def __init__(self, arguments: list[str]) -> None:
        self.tools, self.arguments = str(TOOLS), arguments

    def __call__(self) -> None:
        # The variables of torchrun, which timesformer/runtime/launch.py reads.
        submitit.helpers.TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
        put_back = signal.getsignal(signal.SIGUSR2)  # submitit's answer to the end of the time, and to preemption
        sys.path.insert(0, self.tools)
        sys.argv = ["run_net.py", *self.arguments]
        import run_net

        code = run_net.main()  # which answers first, and has saved
        if callable(put_back) and (code == EXIT_REQUEUE or (code == 128 + signal.SIGTERM and is_still_running())):
            put_back(signal.SIGUSR2, None)  # ends the first process
            time.sleep(60)  # and the job with it, which the end of another would keep it from
        if code:
            sys.exit(code)

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """What to start when the job is put back into the queue: the same, for a run goes on by itself."""
        return submitit.helpers.DelayedSubmission(self)


def is_still_running() -> bool:
    """Whether this job of Slurm was told to end though nobody cancelled it, which means that it is to make way."""
    job = os.environ.get("SLURM_JOB_ID", "")
    return bool(job) and state_of(job) == "RUNNING"


def state_of(job: str) -> str | None:
    """A job's state in the queue, empty if it is not there; None if the controller does not answer."""
    asked = subprocess.run(["squeue", "-h", "-j", job, "-o", "%T"], capture_output=True, text=True, check=False)
    return asked.stdout.strip() if asked.returncode == 0 else "" if "Invalid job id" in asked.stderr else None


def submit(args: argparse.Namespace) -> submitit.Job:
    """Puts the run into the queue.

    Raises:
        UserError: if the configuration makes no sense, or there is no Slurm here.
    """
    opts = ["OUTPUT_DIR", str(args.job_dir), *args.opts, "NUM_SHARDS", str(args.num_shards)]
    if args.resume_from:
        opts += ["TRAIN.CHECKPOINT_FILE_PATH", args.resume_from]
    if args.num_gpus is not None:
        opts += ["NUM_GPUS", str(args.num_gpus)]
    # Where the job is put into the queue there need not be a GPU.
    cfg = load_config(args.cfg_file, opts, check_gpus=args.cluster != "slurm")
    try:
        executor = submitit.AutoExecutor(args.job_dir / "%j", args.cluster, slurm_max_num_timeout=args.max_timeouts)
    except RuntimeError as error:
        raise UserError(f"{error} Give --cluster local to run on this machine without Slurm") from error
    executor.update_parameters(**parameters(args, cfg.NUM_GPUS, cfg.DATA_LOADER.NUM_WORKERS + 2))
    return executor.submit(Run(["--cfg", str(Path(args.cfg_file).resolve()), *opts]))


def parameters(args: argparse.Namespace, num_gpus: int, cpus: int) -> dict[str, Any]:
    """The job in submitit's words; what is None is left to the cluster."""
    more = dict(option.split("=", 1) for option in args.slurm)
    if args.mail:
        more |= {"mail-user": args.mail, "mail-type": "END,FAIL,REQUEUE"}
    return {
        "name": args.name or f"{Path(args.cfg_file).stem}_{args.postfix}",
        "nodes": args.num_shards,
        "tasks_per_node": max(1, num_gpus),
        "gpus_per_node": num_gpus or None,
        "cpus_per_task": args.cpus or cpus,
        "mem_gb": args.mem,
        "timeout_min": args.timeout,
        "slurm_partition": args.partition,
        "slurm_constraint": args.constraint or ("volta32gb" if args.use_volta32 else None),
        "slurm_account": args.account,
        "slurm_qos": args.qos,
        "slurm_comment": args.comment,
        "slurm_signal_delay_s": args.signal_delay,
        "slurm_additional_parameters": more or None,
        "slurm_srun_args": ["--kill-on-bad-exit=1"],
    }


def follow(job: submitit.Job, cluster: str) -> int:
    """Shows what the first process says until the job has ended, over all its starts.

    Returns:
        The exit code: 0 if every process came to its end, else 1.
    """
    shown = dict.fromkeys((job.paths.stdout, job.paths.stderr), 0)
    is_over = False
    while not is_over:
        is_over = has_ended(job, cluster)  # asked first, so that the last lines are shown
        for path in shown:
            if path.exists():
                with path.open("rb") as log:
                    log.seek(shown[path])
                    sys.stdout.buffer.write(log.read())
                    sys.stdout.flush()
                    shown[path] = log.tell()
        time.sleep(0.0 if is_over else 0.5)
    results = [job.task(number).paths.result_pickle for number in range(job.num_tasks)]
    return 0 if all(path.exists() for path in results) else 1


def has_ended(job: submitit.Job, cluster: str) -> bool:
    """Whether the job has left the queue; asks the queue itself, because not every cluster has accounts of its jobs."""
    if cluster != "slurm":
        return job.done()
    return state_of(job.job_id) in ("", "COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY")


def main() -> int:
    args = parse_args()
    try:
        job = submit(args)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except submitit.core.utils.FailedJobError as error:
        print(f"error: the cluster did not take the job: {error}", file=sys.stderr)
        return 2
    if args.cluster == "debug":
        job.result()
        return 0
    print(
        f"job {job.job_id}: results in {args.job_dir}, logs of its processes in {job.paths.stdout.parent}", flush=True
    )
    if not args.follow:
        return 0
    try:
        return follow(job, args.cluster)
    except KeyboardInterrupt:
        print(f"job {job.job_id} goes on; scancel {job.job_id} ends it", file=sys.stderr)
        return 0


if __name__ == "__main__":
    sys.exit(main())
