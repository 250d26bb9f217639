"""`/models`: which models there are, what is known of each, and loading them by hand."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Path, Request

from service.api.desk import desk_of
from service.api.problems import responses_for
from service.api.schemas import ModelDetail, ModelInfo, ModelList
from service.engine.status import ModelStatus
from service.errors import NotFound

router = APIRouter(prefix="/models", tags=["Models"])

Name = Annotated[str, Path(max_length=80, description="A model, as name or name@version.")]
CARD_LIMIT = 256 * 1024


@router.get("", summary="All models", response_model=ModelList, responses=responses_for("bad-request", "internal"))
async def models(request: Request) -> ModelList:
    return ModelList(models=[_info(status) for status in desk_of(request).bench.models.models()])


@router.get(
    "/{name}",
    summary="All that is known of one model",
    response_model=ModelDetail,
    responses=responses_for("bad-request", "not-found", "internal"),
)
async def model(request: Request, name: Name) -> ModelDetail:
    return await _detail(request, name)


@router.post(
    "/{name}/{action}",
    summary="Load, unload or reload a model",
    description="Needs the admin key; without one set, a caller on this machine. No request in flight fails.",
    response_model=ModelDetail,
    responses=responses_for(
        "bad-request", "unauthorized", "forbidden", "not-found", "bad-manifest", "internal", "model-unavailable"
    ),
)
async def act(request: Request, name: Name, action: Literal["load", "unload", "reload"]) -> ModelDetail:
    desk = desk_of(request)
    desk.admin.enter(request)
    manager = desk.bench.models
    await {"load": manager.load, "unload": manager.unload, "reload": manager.reload}[action](name)
    return await _detail(request, name)


async def _detail(request: Request, name: str) -> ModelDetail:
    bench = desk_of(request).bench
    statuses = bench.models.models()
    bare, _, version = name.partition("@")
    family = [status for status in statuses if status.name == bare]
    chosen = [status for status in family if version in ("", str(status.version))]
    if not chosen:
        raise NotFound(f"there is no model {name!r}", models=sorted({f"{one.name}@{one.version}" for one in statuses}))
    status = next((one for one in chosen if one.serving), chosen[-1])
    return ModelDetail(
        **_info(status).model_dump(),
        manifest=status.manifest.model_dump(mode="json") if status.manifest else None,
        card=await bench.workers.call(status.card),
        versions=sorted(one.version for one in family),
    )


def _info(status: ModelStatus) -> ModelInfo:
    manifest = status.manifest
    return ModelInfo(
        name=status.name,
        version=status.version,
        task=status.task,
        title=manifest.title if manifest else None,
        sample_rate=manifest.sample_rate if manifest else None,
        licence=manifest.licence if manifest else None,
        labels=list(manifest.labels_named) if manifest else [],
        default=status.default,
        serving=status.serving,
        state=status.state,
        reason=status.reason,
        backend=status.backend,
        provider=status.provider,
        device=status.device,
        precision=status.precision,
        gain=round(status.gain, 2) if status.gain else None,
        tuned=status.tuned,
        batching=status.batching,
        file_bytes=status.file_bytes,
        details=dict(status.details),
    )
