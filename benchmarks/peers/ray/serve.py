"""Ray Serve: a replica for each core; `serve.batch` where PEER_BATCH is above 1."""

from __future__ import annotations

import signal

import ray
from ray import serve
from starlette.requests import Request

from benchmarks.peers.scoring import BATCH, PORT, WORKERS, Answer, Scorer, decode


@serve.deployment(num_replicas=WORKERS, ray_actor_options={"num_cpus": 1}, max_ongoing_requests=max(5, 2 * BATCH))
class Quality:
    def __init__(self) -> None:
        self.scorer = Scorer()

    @serve.batch(max_batch_size=max(BATCH, 1), batch_wait_timeout_s=0.0)
    async def together(self, bodies: list[bytes]) -> list[Answer]:
        return self.scorer.score([decode(body) for body in bodies])

    async def __call__(self, request: Request) -> Answer:
        body = await request.body()
        return await self.together(body) if BATCH > 1 else self.scorer.score([decode(body)])[0]


if __name__ == "__main__":
    ray.init(num_cpus=WORKERS, include_dashboard=False, log_to_driver=False, logging_level="error")
    serve.start(http_options={"host": "127.0.0.1", "port": PORT}, logging_config={"enable_access_log": False})
    serve.run(Quality.bind(), route_prefix="/score")  # type: ignore[attr-defined]
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    ray.shutdown()
