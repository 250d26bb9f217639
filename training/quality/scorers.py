"""Whoever scores a clip, asked alike: a net in training, a shipped export, DNSMOS."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import nn

from service.engine.manifest import read_manifest
from service.importers.dnsmos import MissingExtra, add_dnsmos
from training.corpus import Mono

RATE_HZ = 16000


@dataclass(frozen=True, slots=True)
class Heard:
    """A score, its curve (empty where there is none), and the share of speech (1 where nobody says)."""

    score: float
    curve: Mono
    speech: float = 1.0


Scorer = Callable[[Mono], Heard]


def trained(model: nn.Module) -> Scorer:
    """A net as it is in training."""

    def score(samples: Mono) -> Heard:
        with torch.no_grad():
            given = model(torch.from_numpy(samples)[None], torch.tensor([len(samples)]))
        return Heard(float(given[0]), given[1][0].numpy(), float(given[3]) if len(given) > 3 else 1.0)

    return score


def exported(path: Path) -> Scorer:
    """The ONNX file *path* of a version folder, on one core.

    Raises:
        ValueError: the model wants another rate than 16 kHz.
    """
    if read_manifest(path.parent).sample_rate != RATE_HZ:
        raise ValueError(f"{path}: not a model for {RATE_HZ} Hz")
    session = _session(path)
    names = [output.name for output in session.get_outputs()]

    def score(samples: Mono) -> Heard:
        fed = {"waveform": samples[None].astype(np.float32), "lengths": np.array([len(samples)])}
        given = dict(zip(names, session.run(None, fed), strict=True))
        if "scores" in given:
            return Heard(float(given["scores"][0, 0]), np.zeros(0, np.float32))
        return Heard(float(given["score"][0]), given["frames"][0], float(given.get("speech", [1.0])[0]))

    return score


def dnsmos() -> Scorer | None:
    """DNSMOS P.835's overall score (Reddy et al., 2022); None without the packages of the extra `dnsmos`."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            return exported(add_dnsmos(Path(folder)) / "model.onnx")
        except MissingExtra:
            return None


def _session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
