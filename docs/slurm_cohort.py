"""Workers for `oflsam2 cohort` from a SLURM queue, by dask-jobqueue.

    pip install ".[cohort]" dask-jobqueue    # in a clone
    python slurm_cohort.py --workers 8 --partition gpu &
    oflsam2 cohort INPUTS --task TASK.oflsam2 --out DIR --scheduler scheduler.json

Run it where jobs are submitted, in a folder that all computers share, and end it with Ctrl-C: its
jobs end with it. `--show` prints the job that would be submitted.
"""

from __future__ import annotations

import argparse
import signal

from dask_jobqueue import SLURMCluster


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=4, help="jobs, one worker each")
    parser.add_argument("--partition", help="of the queue")
    parser.add_argument("--cores", type=int, default=4, help="of a worker")
    parser.add_argument("--memory", default="16GB", help="of a worker")
    parser.add_argument("--walltime", default="08:00:00", help="of a job")
    parser.add_argument("--gpu", action="store_true", help="one GPU a worker")
    parser.add_argument("--show", action="store_true", help="print the job and submit nothing")
    args = parser.parse_args()
    cluster = SLURMCluster(
        queue=args.partition,
        cores=args.cores,
        processes=1,  # One case at a time; PyTorch uses the cores.
        memory=args.memory,
        walltime=args.walltime,
        job_extra_directives=["--gres=gpu:1"] if args.gpu else [],
        job_script_prologue=[f"export OMP_NUM_THREADS={args.cores}"],
    )
    if args.show:
        print(cluster.job_script())
        return
    cluster.scale(jobs=args.workers)
    with open("scheduler.json", "w") as file:
        file.write(f'{{"address": "{cluster.scheduler_address}"}}')
    print(f"{args.workers} jobs are submitted; --scheduler scheduler.json")
    signal.pause()


if __name__ == "__main__":
    main()
