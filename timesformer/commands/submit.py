"""Submits a run to a Slurm cluster with submitit, or runs it on this node in the same way (docs/slurm.md).

python tools/submit.py --cfg configs/Kinetics/TimeSformer_divST_8x32_224.yaml --job_dir /shared/jobs/divST \
    --num_shards 4 --num_gpus 8 --partition gpu --follow DATA.PATH_TO_DATA_DIR /shared/kinetics

A job that is preempted or out of time is requeued and resumes from its last checkpoint.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cloudpickle
import submitit

from timesformer.arguments import Parser, add_import, as_path, as_source, positive
from timesformer.commands.command import run_command
from timesformer.config import load_config
from timesformer.config.shipped import find_config
from timesformer.errors import UserError
from timesformer.runtime.signals import EXIT_REQUEUE

ENDED = ("", "COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY")
CLUSTERS = ("slurm", "local", "debug")
PACKAGE = str(Path(__file__).resolve().parents[2])  # the folder that `timesformer` is imported from

# A job can then read its `Run` before this package is in its path.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


def make_parser() -> argparse.ArgumentParser:
    parser = Parser(description="Submits a run to a Slurm cluster, or runs it here in the same way.")
    add = parser.add_argument
    add("--cfg", dest="cfg_file", type=as_path, required=True, metavar="YAML", help="configuration file")
    add("--job_dir", type=as_path, required=True, metavar="DIR", help="OUTPUT_DIR and logs, on a shared disk")
    add("--num_shards", type=int, default=1, metavar="N", help="number of nodes (1)")
    add("--num_gpus", type=int, metavar="N", help="GPUs, and processes, per node; 0: CPU (NUM_GPUS)")
    add("--partition", metavar="NAME", help="partition of the cluster (its default)")
    add("--timeout", type=int, default=60 * 72, metavar="MINUTES", help="time limit of each start of the job (4320)")
    add("--constraint", metavar="FEATURES", help="features that the nodes must have")
    add("--account", metavar="NAME", help="account to charge")
    add("--qos", metavar="NAME", help="quality of service")
    add("--name", metavar="NAME", help="name of the job (that of the configuration, with --postfix)")
    add("--postfix", default="experiment", metavar="TEXT", help="end of the name (experiment)")
    add("--mem", type=positive, metavar="GB", help="memory of each node (the cluster's default)")
    add("--cpus", type=int, metavar="N", help="CPUs of each process (DATA_LOADER.NUM_WORKERS + 2)")
    add("--comment", metavar="TEXT", help="comment for the scheduler")
    add("--mail", metavar="ADDRESS", help="address for mails when the job ends, fails or is requeued")
    add("--use_volta32", action="store_true", help="the original's alias of --constraint volta32gb")
    add("--resume-from", "--resume_from", type=as_source, metavar="FILE", help="TRAIN.CHECKPOINT_FILE_PATH")
    add("--slurm", action="append", default=[], metavar="OPTION=VALUE", help="another option of sbatch; repeatable")
    add("--max_timeouts", type=int, default=30, metavar="N", help="how often a job out of time is requeued (30)")
    add("--signal_delay", type=int, default=120, metavar="SECONDS", help="warning before the time limit (120)")
    add("--cluster", choices=CLUSTERS, default="slurm", help="local: processes on this node; debug: in this process")
    add("--follow", action="store_true", help="show the log until the job ended; Ctrl-C does not end the job")
    add_import(parser)
    add("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="options that override those of the file")
    return parser


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = make_parser()
    args = parser.parse_args(arguments)
    args.job_dir = args.job_dir.resolve()
    if args.cluster != "slurm" and args.num_shards > 1:
        parser.error(f"--num_shards is {args.num_shards}, but --cluster {args.cluster} is a single node")
    if invalid := [option for option in args.slurm if "=" not in option]:
        parser.error(f"--slurm {invalid[0]}, expected OPTION=VALUE")
    return args


class Run:
    """Work of each process of the job: the command line of `train`. It is pickled with the job."""

    def __init__(self, arguments: list[str]) -> None:
        self.package, self.arguments = PACKAGE, arguments

    def __call__(self) -> None:
        # Sets the variables of torchrun, which timesformer/runtime/launch.py reads.
        submitit.helpers.TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
        requeue = signal.getsignal(signal.SIGUSR2)  # submitit's handler of timeouts and preemption
        if self.package not in sys.path:
            sys.path.insert(0, self.package)
        from timesformer.commands import train

        code = train.main(self.arguments)  # has its own handlers, and has saved
        if callable(requeue) and (code == EXIT_REQUEUE or (code == 128 + signal.SIGTERM and is_still_running())):
            requeue(signal.SIGUSR2, None)  # exits in the first process
            time.sleep(60)  # the others are ended with the job, and must not fail before
        if code:
            sys.exit(code)

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """Returns what a requeued job runs: the same, because a run resumes by itself."""
        return submitit.helpers.DelayedSubmission(self)


def is_still_running() -> bool:
    """Returns whether this job of Slurm got a signal without being cancelled, which means preemption."""
    job = os.environ.get("SLURM_JOB_ID", "")
    return bool(job) and state_of(job) == "RUNNING"


def state_of(job: str) -> str | None:
    """Returns the state of a job in the queue, "" if it is not there, None if the controller does not answer."""
    done = subprocess.run(["squeue", "-h", "-j", job, "-o", "%T"], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else "" if "Invalid job id" in done.stderr else None


def submit(args: argparse.Namespace) -> submitit.Job:
    """Submits the run; UserError if the configuration is invalid, or there is no Slurm."""
    opts = ["OUTPUT_DIR", str(args.job_dir), *args.opts, "NUM_SHARDS", str(args.num_shards)]
    if args.resume_from:
        opts += ["TRAIN.CHECKPOINT_FILE_PATH", args.resume_from]
    if args.num_gpus is not None:
        opts += ["NUM_GPUS", str(args.num_gpus)]
    has_gpus = args.cluster != "slurm"  # login nodes have none
    cfg = load_config(args.cfg_file, opts, check_gpus=has_gpus, imports=args.imports)
    imports = [word for name in args.imports for word in ("--import", name)]
    try:
        executor = submitit.AutoExecutor(args.job_dir / "%j", args.cluster, slurm_max_num_timeout=args.max_timeouts)
    except RuntimeError as error:
        raise UserError(f"{error} Without Slurm, use --cluster local") from error
    executor.update_parameters(**job_parameters(args, cfg.NUM_GPUS, cfg.DATA_LOADER.NUM_WORKERS + 2))
    return executor.submit(Run(["--cfg", str(find_config(args.cfg_file).resolve()), *imports, *opts]))


def job_parameters(args: argparse.Namespace, num_gpus: int, cpus: int) -> dict[str, Any]:
    """Returns the parameters of submitit; None means the cluster's default."""
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
    """Shows the log of the first process until the job ended; returns 0 if all processes succeeded, else 1."""
    shown = dict.fromkeys((job.paths.stdout, job.paths.stderr), 0)
    has_ended = False
    while not has_ended:
        # Before the log is read, so that its last lines are shown. Not every cluster records the states of ended jobs.
        has_ended = job.done() if cluster != "slurm" else state_of(job.job_id) in ENDED
        for path in shown:
            if path.exists():
                with path.open("rb") as log:
                    log.seek(shown[path])
                    sys.stdout.buffer.write(log.read())
                    sys.stdout.flush()
                    shown[path] = log.tell()
        time.sleep(0.0 if has_ended else 0.5)
    results = [job.task(number).paths.result_pickle for number in range(job.num_tasks)]
    return 0 if all(path.exists() for path in results) else 1


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse_args(arguments)
    return run_command(lambda: run(args))


def run(args: argparse.Namespace) -> int:
    try:
        job = submit(args)
    except submitit.core.utils.FailedJobError as error:
        raise UserError(str(error)) from error
    if args.cluster == "debug":
        job.result()
        return 0
    print(f"job {job.job_id}: results in {args.job_dir}, logs in {job.paths.stdout.parent}", flush=True)
    if not args.follow:
        return 0
    try:
        return follow(job, args.cluster)
    except KeyboardInterrupt:
        print(f"job {job.job_id} continues; `scancel {job.job_id}` ends it", file=sys.stderr)
        return 0
