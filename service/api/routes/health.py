"""Health, limits, metrics: what an operator asks."""

from __future__ import annotations

from dataclasses import asdict

from fastapi import APIRouter, Request, Response
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from service.api.desk import Desk, desk_of
from service.api.problems import responses_for
from service.api.schemas import GpuInfo, Health, Limits, PlanInfo
from service.audio.probe import supported_formats
from service.values import AudioLimits

router = APIRouter(tags=["Operating"])


@router.get("/health/live", summary="Whether the process answers", response_model=Health)
async def live() -> Health:
    return Health(status="ok")


@router.get(
    "/health/ready",
    summary="Whether the default models are loaded and warm",
    response_model=Health,
    responses={503: {"model": Health, "description": "Starting, or shutting down."}},
)
async def ready(request: Request, response: Response) -> Health:
    desk = desk_of(request)
    if desk.draining:
        response.status_code = 503
        return Health(status="draining")
    if not desk.bench.models.ready:
        response.status_code = 503
        return Health(status="starting")
    return Health(status="ok")


@router.get("/limits", summary="Every limit in force", response_model=Limits, responses=responses_for("internal"))
async def limits(request: Request) -> Limits:
    desk = desk_of(request)
    settings, audio = desk.settings, AudioLimits()
    return Limits(
        max_body_bytes=settings.max_body_bytes,
        max_bodies_bytes=desk.memory.max_bytes,
        max_duration_s=settings.max_duration_s,
        max_channels=settings.max_channels,
        max_samples=settings.max_samples,
        min_rate_hz=audio.min_rate,
        max_rate_hz=audio.max_rate,
        max_parts=settings.max_parts,
        max_answer_bytes=settings.max_answer_bytes,
        body_timeout_s=settings.body_timeout_s,
        body_stall_s=settings.body_stall_s,
        body_rate=settings.body_rate,
        deadline_s=settings.deadline_s,
        queue_s=settings.queue_s,
        key_requests=settings.key_requests if settings.keys() else None,
        plan=PlanInfo(**asdict(desk.plan)),
        gpu=await _gpu(desk),
        formats=supported_formats(),
    )


async def _gpu(desk: Desk) -> GpuInfo | None:
    """With the memory that is free now; in a worker, since the driver may take its time."""
    gpu = await desk.bench.workers.call(desk.find_gpu) if desk.plan.slots else None
    return GpuInfo(**asdict(gpu)) if gpu else None


@router.get(
    "/metrics",
    summary="Counters and histograms for Prometheus",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
async def metrics(request: Request) -> Response:
    bench = desk_of(request).bench
    text = await bench.workers.call(lambda: generate_latest(bench.metrics.registry))
    return Response(text, media_type=CONTENT_TYPE_LATEST)
