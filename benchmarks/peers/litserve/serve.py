"""LitServe: a worker for each core; batches by its own loop where PEER_BATCH is above 1."""

from typing import Any

import litserve
import numpy as np
from fastapi import Request
from numpy.typing import NDArray

from benchmarks.peers.scoring import BATCH, PORT, WORKERS, Answer, Scorer, decode

Waveform = NDArray[np.float32]


class Quality(litserve.LitAPI):
    def setup(self, device: str) -> None:
        self.scorer = Scorer()

    def decode_request(self, request: Request) -> Waveform:
        return decode(request["audio"].file.read())  # a form by now

    def batch(self, inputs: list[Waveform]) -> list[Waveform]:
        return inputs

    def predict(self, waveforms: Any) -> Any:
        return self.scorer.score(waveforms) if BATCH > 1 else self.scorer.score([waveforms])[0]

    def unbatch(self, output: list[Answer]) -> list[Answer]:
        return output

    def encode_response(self, output: Answer) -> Answer:
        return output


if __name__ == "__main__":
    api = Quality(max_batch_size=BATCH, batch_timeout=0.005 if BATCH > 1 else 0.0, api_path="/score")
    server = litserve.LitServer(
        api, accelerator="cpu", devices=1, workers_per_device=WORKERS, timeout=60, fast_queue=True
    )
    server.run(
        host="127.0.0.1",
        port=PORT,
        num_api_servers=1,
        generate_client_file=False,
        log_level="warning",
        access_log=False,
    )
