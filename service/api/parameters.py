"""The query parameters of each endpoint; unknown ones are refused, since a misspelt one would be silently ignored."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi.exceptions import RequestValidationError
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, WithJsonSchema
from starlette.datastructures import QueryParams

from service.tasks.hear import EnhanceWish, QualityWish, SceneWish
from service.values import TASKS, Channel, Task

MODEL = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}(@[0-9]{1,9})?$"
MODELS = r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,79}(,[A-Za-z0-9][A-Za-z0-9._@-]{0,79}){0,15}$"
RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 88200, 96000, 176400, 192000)


def _channel(value: str) -> str:
    if value not in ("mix", "each") and not (value.isdecimal() and int(value) < 64):
        raise ValueError("channel must be mix, each, or a number counted from 0")
    return value


ChannelName = Annotated[str, Field(pattern=r"^(mix|each|[0-9]{1,2})$"), AfterValidator(_channel)]


def channel_of(name: str) -> Channel:
    return int(name) if name.isdecimal() else "each" if name == "each" else "mix"


class _Query(BaseModel):
    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class QualityQuery(_Query):
    model: str | None = Field(
        None, pattern=MODEL, description="A model of this task, as name or name@version; default: the task's default."
    )
    curve: bool = Field(True, description="Whether to give the curve over time.")
    step: float | None = Field(
        None, gt=0, le=3600, description="Seconds between two points of the curve; default: the model's frames."
    )
    channel: ChannelName = Field("mix", description="mix: the mean of all; a number: that one; each: all, one by one.")

    def wish(self) -> QualityWish:
        return QualityWish(self.model, channel_of(self.channel), self.step)


class SceneQuery(_Query):
    model: str | None = Field(
        None, pattern=MODELS, description="A model, or several joined by commas: the mean of their probabilities."
    )
    top: int = Field(5, ge=1, le=1000, description="Most labels to name.")
    threshold: float | None = Field(
        None, ge=0, le=1, description="Least probability of a label; default: each label's own."
    )
    segments: bool = Field(True, description="Whether to say when each label is heard.")
    frames: bool = Field(False, description="Whether to give the probability of every label in every frame.")
    channel: ChannelName = Field("mix", description="mix: the mean of all; a number: that one; each: all, one by one.")

    def wish(self) -> SceneWish:
        models = tuple(self.model.split(",")) if self.model else ()
        return SceneWish(models, channel_of(self.channel), self.top, self.threshold, self.segments)


def _rate(value: int) -> int:
    if value not in RATES:
        raise ValueError(f"rate must be one of {', '.join(map(str, RATES))}")
    return value


Rate = Annotated[int, AfterValidator(_rate), WithJsonSchema({"type": "integer", "enum": [*RATES]})]
AudioFormat = Literal["wav", "flac", "opus", "mp3", "f32"]


class EnhanceQuery(_Query):
    model: str | None = Field(
        None, pattern=MODEL, description="A model of this task, as name or name@version; default: the task's default."
    )
    format: AudioFormat = Field(
        "wav", description="Of the answer; f32 is raw little-endian float32, channels interleaved."
    )
    rate: Rate | None = Field(None, description="Sample rate of the answer in Hz; default: the recording's own.")
    strength: float = Field(
        1.0, ge=0, le=1, description="Share of the enhanced signal; the rest is the recording as it came."
    )
    limit_db: float | None = Field(None, ge=0, le=120, description="Largest attenuation in dB; 0 changes nothing.")
    score: bool = Field(False, description="Whether to score the recording before and after.")
    channel: ChannelName = Field(
        "each", description="each: channels stay channels; mix: the mean of all; a number: that one."
    )

    def wish(self) -> EnhanceWish:
        return EnhanceWish(self.model, channel_of(self.channel), self.rate, self.strength, self.limit_db, self.score)


class AnalyzeQuery(_Query):
    """`want`, and the parameters of each task with the task as prefix (`quality.model`, `scene.top`, …)."""

    want: tuple[Task, ...]
    quality: QualityQuery
    scene: SceneQuery
    enhance: EnhanceQuery


DEFAULT_WANT = "quality,scene"


def analyze_query(params: QueryParams) -> AnalyzeQuery:
    """Sort prefixed parameters to their tasks.

    Raises:
        RequestValidationError: as FastAPI raises it for the other endpoints, with the prefixed name.
    """
    groups: dict[str, dict[str, str]] = {task: {} for task in TASKS}
    rest: dict[str, str] = {}
    for name, value in params.items():
        task, dot, field = name.partition(".")
        (groups[task] if dot and task in groups else rest)[field if dot and task in groups else name] = value
    want = rest.pop("want", DEFAULT_WANT).split(",")
    errors = [_error(name, "no such parameter", value) for name, value in rest.items()]
    if not want or any(task not in TASKS for task in want):
        errors.append(_error("want", f"must name some of {', '.join(TASKS)}, joined by commas", ",".join(want)))
    queries: dict[str, Any] = {}
    for task, query in _QUERIES.items():
        try:
            queries[task] = query.model_validate(groups[task])
        except ValidationError as error:
            errors += [{**fault, "loc": ("query", f"{task}.{fault['loc'][0]}")} for fault in error.errors()]
    if errors:
        raise RequestValidationError(errors)
    return AnalyzeQuery(want=tuple(dict.fromkeys(want)), **queries)


def analyze_parameters() -> list[dict[str, Any]]:
    """The same parameters for the OpenAPI document."""
    pattern = f"^({'|'.join(TASKS)})(,({'|'.join(TASKS)})){{0,2}}$"
    want = {"type": "string", "pattern": pattern, "default": DEFAULT_WANT}
    parameters = [{"name": "want", "in": "query", "description": "What to answer, joined by commas.", "schema": want}]
    for task, query in _QUERIES.items():
        for name, schema in query.model_json_schema()["properties"].items():
            text = schema.pop("description", "")
            parameters.append({"name": f"{task}.{name}", "in": "query", "description": text, "schema": schema})
    return [{**parameter, "required": False} for parameter in parameters]


_QUERIES: dict[Task, type[_Query]] = {"quality": QualityQuery, "scene": SceneQuery, "enhance": EnhanceQuery}


def _error(name: str, message: str, value: str) -> dict[str, Any]:
    return {"type": "value_error", "loc": ("query", name), "msg": message, "input": value}
