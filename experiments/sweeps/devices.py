"""Divides the GPUs and the cores of this machine among the jobs that run side by side."""

import collections
import os
import shutil
import subprocess
from collections.abc import Sequence
from typing import NamedTuple

from diffusion.experiments.sweeps.combinators import SweepError

MEMORY = 0.9  # the share of a GPU's memory that several jobs use together; a single job uses JAX's default


class Slot(NamedTuple):
    """The devices and the environment of one job."""

    variables: dict[str, str]  # variables of its environment, besides the sweep's
    cores: frozenset[int]  # cores that it may use; empty for all


def slots(jobs: int, gpus: Sequence[str], cores: Sequence[int]) -> list[Slot]:
    """Divides GPUs and cores among jobs that run side by side.

    Args:
        jobs: the number of jobs, at least 1.
        gpus: the GPUs by their names in CUDA_VISIBLE_DEVICES; one that is named twice is shared by two jobs.
        cores: the numbers of the cores; () to let the operating system assign them.

    Raises:
        SweepError: if the GPUs cannot be divided evenly.
    """
    if jobs < 1:
        raise SweepError(f"--jobs={jobs}. Valid: at least 1.")
    if gpus and len(gpus) % jobs:
        raise SweepError(
            f"{len(gpus)} devices ({','.join(gpus)}) cannot be shared evenly by --jobs={jobs}. Valid: as many jobs as "
            "devices, or a divisor of their number. Two jobs share a device that is named twice, as in --devices=0,0."
        )
    shared = collections.Counter(gpus)
    per_job = len(gpus) // jobs
    dealt = []
    for job in range(jobs):
        variables = {}
        if job_gpus := gpus[job * per_job : (job + 1) * per_job]:
            variables["CUDA_VISIBLE_DEVICES"] = ",".join(job_gpus)
            if (sharing := max(shared[gpu] for gpu in job_gpus)) > 1:
                variables["XLA_PYTHON_CLIENT_MEM_FRACTION"] = f"{MEMORY / sharing:.3g}"
        dealt.append(Slot(variables, frozenset(_share(cores, job, jobs))))
    return dealt


def _share(cores: Sequence[int], job: int, jobs: int) -> Sequence[int]:
    if jobs > len(cores) > 0:
        return [cores[job % len(cores)]]
    return cores[job * len(cores) // jobs : (job + 1) * len(cores) // jobs]


def visible_gpus() -> list[str]:
    """The GPUs of this machine that the sweep may use; it does not initialize them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [gpu for gpu in visible.split(",") if gpu.strip() not in ("", "-1")]
    if shutil.which("nvidia-smi") is None:
        return []
    listed = subprocess.run(
        ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"], capture_output=True, text=True
    )
    return listed.stdout.split() if listed.returncode == 0 else []


def usable_cores() -> list[int]:
    """The cores that this process may use; [] if the system does not let a process choose its cores."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
