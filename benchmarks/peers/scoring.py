"""What every peer runs: the same file, the same decoding, the same padding. Only serving is theirs.

Runs in the peers' own environments: of Earmark it takes the padding alone, which needs nothing but numpy.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime
import soundfile
from numpy.typing import NDArray

from service.engine.padding import LENGTHS, assemble, separate

BATCH = int(os.environ.get("PEER_BATCH", "1"))
WORKERS = int(os.environ.get("PEER_WORKERS", "2"))
PORT = int(os.environ.get("PEER_PORT", "0"))
FRAMES = frozenset({"frames"})

Answer = dict[str, Any]


def decode(body: bytes) -> NDArray[np.float32]:
    """(samples,) of a recording in mono."""
    samples, _ = soundfile.read(io.BytesIO(body), dtype="float32")
    return np.asarray(samples)


class Scorer:
    """A session with one thread, or with onnxruntime's own choice where PEER_THREADS is 0."""

    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        if threads := int(os.environ.get("PEER_THREADS", "1")):
            options.intra_op_num_threads = threads
            options.inter_op_num_threads = 1
            options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        path = os.environ["PEER_MODEL"]
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self._names = [node.name for node in self._session.get_outputs()]

    def score(self, waveforms: Sequence[NDArray[np.float32]]) -> list[Answer]:
        """Score and curve of each, from one run of the graph."""
        inputs = assemble(waveforms)
        outputs = dict(zip(self._names, self._session.run(self._names, inputs), strict=True))
        items = separate(outputs, inputs[LENGTHS].astype(np.int64), FRAMES)
        return [{"score": float(item["score"]), "frames": item["frames"].tolist()} for item in items]
