"""BentoML: a worker for each core; its adaptive batching where PEER_BATCH is above 1."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import bentoml

from benchmarks.peers.scoring import BATCH, WORKERS, Scorer, decode


@bentoml.service(workers=WORKERS, traffic={"timeout": 60, "concurrency": max(BATCH, 1)})
class Quality:
    def __init__(self) -> None:
        self.scorer = Scorer()

    if BATCH > 1:

        @bentoml.api(batchable=True, max_batch_size=BATCH, max_latency_ms=60_000)
        def score(self, audio: list[Path]) -> list[dict[str, Any]]:
            return self.scorer.score([decode(one.read_bytes()) for one in audio])

    else:

        @bentoml.api
        def score(self, audio: Path) -> dict[str, Any]:
            return self.scorer.score([decode(audio.read_bytes())])[0]
