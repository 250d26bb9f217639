"""MLServer's custom runtime: a worker for each core; its adaptive batching where PEER_BATCH is above 1."""

from __future__ import annotations

import json

from mlserver import MLModel
from mlserver.codecs import Base64Codec, StringCodec
from mlserver.types import InferenceRequest, InferenceResponse

from benchmarks.peers.scoring import Scorer, decode


class Quality(MLModel):
    async def load(self) -> bool:
        self.scorer = Scorer()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        bodies = Base64Codec.decode_input(payload.inputs[0])
        answers = self.scorer.score([decode(body) for body in bodies])
        texts = [json.dumps(answer) for answer in answers]
        return InferenceResponse(model_name=self.name, outputs=[StringCodec.encode_output("answer", texts)])
