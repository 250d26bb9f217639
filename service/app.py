"""Builds the service from its parts, starts it, drains it. The only file that sees every floor."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware

from service import __version__
from service.api import problems
from service.api.desk import Desk
from service.api.doors import AdminDoor, door_for
from service.api.gate import Gate
from service.api.hangup import HangUp
from service.api.linger import Linger
from service.api.routes import analyze, enhance, health, models, pages, quality, scene
from service.api.trace import Trace
from service.api.upload import BodyMemory
from service.audio import child
from service.backends import machine
from service.backends.base import Options
from service.backends.gpu import find_gpu, the_gpu
from service.clock import MonotonicClock
from service.engine.loading import Terms
from service.engine.manager import ModelManager
from service.engine.plan import Machine, plan_for
from service.engine.tuning import Tuning, read_tuning
from service.engine.workers import Workers
from service.metrics import Metrics
from service.settings import Settings
from service.tasks.listen import Workbench

LAG_PROBE_S = 0.25
SWITCH_INTERVAL_S = 0.001
"""A worker in plain Python code must not keep the event loop waiting for the interpreter's usual 5 ms."""

DESCRIPTION = (
    "Send a recording, as the raw body or as a form; get how good the speech sounds and where it breaks, "
    "what is heard and when, and the recording without its noise. "
    "Every failure is a problem document; `/problems` lists them."
)

ABOUT: dict[str, Any] = {
    "title": "Earmark",
    "version": __version__,
    "description": DESCRIPTION,
    "docs_url": None,
    "redoc_url": None,
}

logger = logging.getLogger("earmark")


def create_app(settings: Settings) -> FastAPI:
    """The whole application; models are loaded when it starts, not here."""
    desk = _desk(settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        loading = asyncio.create_task(desk.bench.models.start(settings.preload))
        loading.add_done_callback(_say_if_failed)
        probe = asyncio.create_task(_probe_lag(desk.bench.metrics))
        try:
            yield
        finally:
            desk.draining = True
            probe.cancel()
            loading.cancel()
            with suppress(asyncio.CancelledError):
                await loading
            await desk.bench.models.drain(settings.drain_s)
            desk.bench.models.close()
            desk.bench.workers.stop()

    app = _routed(FastAPI(**ABOUT, lifespan=lifespan))
    app.state.desk = desk
    pages.mount_assets(app)
    _add_middleware(app, desk)
    return app


def openapi_document() -> dict[str, Any]:
    """What the service promises, without starting any of it."""
    return _routed(FastAPI(**ABOUT)).openapi()


def _routed(app: FastAPI) -> FastAPI:
    problems.install(app)
    for room in (quality, scene, enhance, analyze, models, health, pages):
        app.include_router(room.router)
    return app


def _desk(settings: Settings) -> Desk:
    metrics, clock = Metrics(), MonotonicClock()
    tuning = _tuning(settings)
    plan = plan_for(_machine(settings), settings.workers or (tuning.workers if tuning else 0))
    child.allow(plan.children)
    workers = Workers(plan.workers, clock, metrics)
    options = Options(gpu_memory_bytes=settings.gpu_memory_bytes, tf32=settings.tf32)
    manager = ModelManager(
        settings.model_folders,
        workers,
        metrics,
        clock,
        pins=settings.pin,
        device=settings.device,
        terms=Terms(settings.precision, options, tuning),
        queue_s=settings.queue_s,
        slots=plan.slots,
    )
    memory_bytes = machine.usable_memory_bytes()
    budget = settings.max_bodies_bytes or max(settings.max_body_bytes, memory_bytes // 4)
    facts = {"version": __version__, "memory_bytes": memory_bytes, "pid": os.getpid()} | asdict(plan)
    logger.info("starting", extra=facts)
    return Desk(
        settings=settings,
        plan=plan,
        find_gpu=find_gpu,
        bench=Workbench(manager, workers, metrics, clock),
        memory=BodyMemory(budget, metrics.bodies_bytes),
        door=door_for(settings.keys(), settings.key_requests),
        admin=AdminDoor(settings.admin_key.get_secret_value()),
        gate=Gate(plan.workers, settings.queue_s),
    )


def _machine(settings: Settings) -> Machine:
    gpu = "cuda:0" if settings.device != "cpu" and the_gpu() else None
    return Machine(machine.usable_cores(), machine.cpu_quota(), machine.usable_memory_bytes(), gpu)


def _tuning(settings: Settings) -> Tuning | None:
    """What was measured on this machine before; what was found elsewhere is of no use.

    Raises:
        BadSettings: the file cannot be read, or is none of ours.
    """
    if not settings.tuning:
        return None
    tuning = read_tuning(Path(settings.tuning))
    if stale := tuning.stale():
        facts = {"event": "tuning_ignored", "file": settings.tuning}
        logger.warning("the tuning is ignored: %s; `earmark tune` writes it anew", stale, extra=facts)
        return None
    return tuning


def _add_middleware(app: FastAPI, desk: Desk) -> None:
    """The last added is the outermost."""
    app.add_middleware(HangUp)
    app.add_middleware(Linger)
    if desk.settings.cors:
        app.add_middleware(
            CORSMiddleware, allow_origins=list(desk.settings.cors), allow_methods=["*"], allow_headers=["*"]
        )
    app.add_middleware(Trace, metrics=desk.bench.metrics)


async def _probe_lag(metrics: Metrics) -> None:
    """How late the loop wakes is how long everybody waits for nothing."""
    loop = asyncio.get_running_loop()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    while True:
        due = loop.time() + LAG_PROBE_S
        await asyncio.sleep(LAG_PROBE_S)
        metrics.loop_lag_seconds.observe(max(0.0, loop.time() - due))


def _say_if_failed(loading: asyncio.Task[None]) -> None:
    if not loading.cancelled() and loading.exception():
        logger.error("the models could not be loaded", exc_info=loading.exception())
