"""One plan for everything that computes at once: worker threads, threads a run, decoding children, batches on a GPU.

Pure: what the machine is comes in, the numbers and the reasons come out. `python -m benchmarks.sessions` measures what
the rules stand on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

THREADS_A_RUN = 1
"""Cores go to runs, not to operators: two runs of one thread do more than one run of two, for less processor time."""
BATCHES_ON_A_GPU = 2
"""One computes while the next is assembled and copied; a third would only wait."""
CHILDREN_A_WORKER = 16
"""A child that decodes mostly waits until somebody reads on; reading happens in workers."""
CHILD_BYTES = 96 << 20
"""What such a process holds, about."""
CHILDREN_MEMORY_SHARE = 0.25
LEAST_CHILDREN = 4


@dataclass(frozen=True, slots=True)
class Machine:
    """What this process may use.

    Attributes:
        cores: threads that can compute at once, affinity and quota considered.
        quota: cores' worth of time that its control group allows; None without a limit.
        gpu: the device that models may run on, such as "cuda:0"; None where there is none or none is wanted.
    """

    cores: int
    quota: float | None
    memory_bytes: int
    gpu: str | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """How much at once.

    Attributes:
        workers: threads that run batches, decode, resample and encode.
        threads_a_run: that one batch computes with, on the CPU.
        children: processes that decode the rarer formats.
        slots: by device, batches at once; the workers alone bound the CPU's.
        why: a sentence for an operator.
    """

    workers: int
    threads_a_run: int
    children: int
    slots: Mapping[str, int]
    why: str


def plan_for(machine: Machine, workers: int = 0) -> Plan:
    """The plan for *machine*, or for as many *workers* as somebody insists on."""
    count, why = workers or machine.cores, _reason(machine, workers)
    slots: dict[str, int] = {}
    if machine.gpu:
        slots[machine.gpu] = BATCHES_ON_A_GPU
        if not workers and count <= BATCHES_ON_A_GPU:
            # Whoever waits for the GPU computes nothing: one more decodes meanwhile.
            count = BATCHES_ON_A_GPU + 1
            why += f", and {BATCHES_ON_A_GPU} batches on the GPU must leave somebody to decode"
    room = int(CHILDREN_MEMORY_SHARE * machine.memory_bytes / CHILD_BYTES)
    children = max(LEAST_CHILDREN, min(CHILDREN_A_WORKER * count, room))
    return Plan(count, THREADS_A_RUN, children, slots, why)


def _reason(machine: Machine, workers: int) -> str:
    if workers:
        return f"{workers} workers are set"
    if machine.quota is not None and machine.cores == max(1, int(machine.quota)):
        return f"{machine.cores} workers for a quota of {machine.quota:g} cores"
    return f"a worker for each of {machine.cores} cores"
