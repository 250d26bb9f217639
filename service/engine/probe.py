"""Does a loaded graph keep its contract? Names and shapes, and whether its answers depend on who shares the batch.

The cheap questions, asked at every load; `service.engine.checks` asks the dear ones. Knows a backend and a manifest.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from service.backends.base import Backend
from service.engine import padding
from service.engine.lane import Mode
from service.engine.manifest import OUTPUTS, Manifest
from service.values import Arrays

INVARIANCE = 1e-4
"""Largest difference that a neighbour in the batch may make."""
INPUTS = {padding.WAVEFORM: ("float32", 2), padding.LENGTHS: ("int64", 1)}
"""Type and number of axes of what every graph takes."""
LEVELS = (0.1, 0.9, 0.003)


def noise(samples: int, level: float, seed: int = 0) -> NDArray[np.float32]:
    """Reproducible white noise, (samples,), with its peak at *level*."""
    return np.random.default_rng(seed).uniform(-level, level, samples).astype(np.float32)


def run_batch(backend: Backend, waveforms: Sequence[NDArray[np.float32]]) -> list[Arrays]:
    """What each of *waveforms* gets when they share a batch.

    Raises:
        BackendError: the run failed, or its outputs do not fit what went in.
    """
    inputs = padding.assemble(waveforms)
    lengths = inputs[padding.LENGTHS].astype(np.int64, copy=False)
    return padding.separate(backend.run(inputs), lengths, padding.framewise(backend.outputs))


def contract_faults(backend: Backend, manifest: Manifest) -> list[str]:
    """What the graph's declared inputs and outputs lack for its task; sentences, none if it fits."""
    faults = []
    inputs = {tensor.name: tensor for tensor in backend.inputs}
    if set(inputs) != set(INPUTS):
        right = "waveform float32 [batch, samples] and lengths int64 [batch]"
        faults.append(f"takes {_named(inputs)}; it must take {right}")
    for name, (dtype, axes) in INPUTS.items():
        tensor = inputs.get(name)
        if tensor and tensor.dtype not in (dtype, "?"):
            faults.append(f"takes {name} as {tensor.dtype}; it must be {dtype}")
        shape = tensor.shape if tensor else ()
        if shape and (len(shape) != axes or not all(isinstance(axis, str) for axis in shape)):
            faults.append(f"takes {name} of shape {list(shape)}; it must have {axes} axes of free size")
    outputs = {tensor.name for tensor in backend.outputs}
    if outputs and not any(needed <= outputs for needed in OUTPUTS[manifest.task]):
        faults.append(f"gives {_named(outputs)}; a {manifest.task} model must give {_needed(manifest)}")
    return faults


def answer_faults(answer: Arrays, manifest: Manifest, samples: int) -> list[str]:
    """What one item's outputs lack for its task and manifest; sentences, none if they fit."""
    if not any(needed <= set(answer) for needed in OUTPUTS[manifest.task]):
        return [f"gives {_named(answer)}; a {manifest.task} model must give {_needed(manifest)}"]
    faults = [
        f"gives {name} of shape {list(answer[name].shape)} for one item; it must be {list(shape)}, as model.toml says"
        for name, shape in _shapes(manifest, samples).items()
        if name in answer and answer[name].shape != shape
    ]
    frames = answer.get(padding.FRAMES)
    if frames is None:
        if manifest.frames is not None:
            faults.append("gives no frames, though model.toml has a [frames] table")
        return faults
    if manifest.frames is None:
        faults.append("gives frames, but model.toml has no [frames] table to say where they lie")
    axes = (len(manifest.labels),) if manifest.task == "scene" else ()
    if frames.shape[1:] != axes:
        faults.append(f"gives frames of shape {list(frames.shape)} for one item; it must be {['time', *axes]}")
    return faults


def difference(one: Arrays, other: Arrays) -> float:
    """Largest absolute difference between two answers; infinite where their names or shapes differ."""
    if one.keys() != other.keys() or any(one[name].shape != other[name].shape for name in one):
        return float("inf")
    gaps = [np.abs(one[name].astype(np.float64) - other[name].astype(np.float64)) for name in one if one[name].size]
    worst = max((float(gap.max()) for gap in gaps), default=0.0)
    return worst if np.isfinite(worst) else float("inf")


def probe_lengths(manifest: Manifest) -> tuple[int, int, int]:
    """Three unlike lengths in samples that the model takes, about half a second to two."""
    rate, window = manifest.sample_rate, manifest.window
    least, most = max(window.min_s, 0.25), window.max_s
    spread = min(most - least, 1.7)
    return tuple(max(1, round((least + share * spread) * rate)) for share in (0.17, 1.0, 0.49))  # type: ignore[return-value]


def batching_gap(backend: Backend, lengths: Sequence[int]) -> float:
    """Largest difference between answers alone and in one batch, for items of *lengths* at unlike levels."""
    waveforms = [noise(samples, LEVELS[i % len(LEVELS)], seed=i) for i, samples in enumerate(lengths)]
    alone = [run_batch(backend, [waveform])[0] for waveform in waveforms]
    return max(map(difference, alone, run_batch(backend, waveforms)))


def true_mode(backend: Backend, declared: Mode, lengths: Sequence[int]) -> tuple[Mode, float]:
    """How the graph may really be batched, at most as *declared*, and the difference that decided it."""
    if declared == "alone":
        return "alone", 0.0
    tried = lengths if declared == "padded" else [max(lengths)] * len(lengths)
    gap = batching_gap(backend, tried)
    return (declared if gap <= INVARIANCE else "alone"), gap


def _shapes(manifest: Manifest, samples: int) -> dict[str, tuple[int, ...]]:
    return {
        "score": (),
        "scores": (len(manifest.scales),),
        "clip": (len(manifest.labels),),
        padding.ENHANCED: (samples,),
        padding.FRAME_LENGTHS: (),
    }


def _named(names: object) -> str:
    return ", ".join(sorted(names)) or "nothing"  # type: ignore[call-overload]


def _needed(manifest: Manifest) -> str:
    return " or ".join(", ".join(sorted(names)) for names in OUTPUTS[manifest.task])
