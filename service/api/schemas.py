"""The shapes of all answers, with examples: what the OpenAPI document shows and clients may rely on.

Values are rounded here, once: 17 digits of a float32 are noise.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer

from service.values import Task


def _rounded(digits: int) -> PlainSerializer:
    return PlainSerializer(lambda value: round(value, digits), return_type=float)


Seconds = Annotated[float, _rounded(4)]
Score = Annotated[float, _rounded(4)]
Probability = Annotated[float, Field(ge=0, le=1), _rounded(4)]


class _Shape(BaseModel):
    model_config = ConfigDict(protected_namespaces=(), json_schema_serialization_defaults_required=True)


class AudioInfo(_Shape):
    """The recording as it was read."""

    duration_s: Seconds
    sample_rate: int
    channels: int
    format: str = Field(examples=["flac"])
    subtype: str = Field(examples=["PCM_16"])
    peak_dbfs: Annotated[float, _rounded(2)] | None = Field(description="null for digital silence")
    rms_dbfs: Annotated[float, _rounded(2)] | None = Field(description="null for digital silence")
    sha256: str = Field(description="of the bytes received")


class ScaleInfo(_Shape):
    name: str = Field(examples=["PESQ-WB"])
    min: float
    max: float
    better: Literal["higher", "lower"]


class CurveInfo(_Shape):
    """`values[i]` is centred at `start_s + i * step_s`."""

    start_s: Seconds
    step_s: float
    values: list[Score]


class StretchInfo(_Shape):
    onset_s: Seconds
    offset_s: Seconds
    score: Score


class FindingInfo(_Shape):
    kind: Literal["clipping", "dropout", "silence", "narrow_band", "low_level", "dc_offset", "hum"]
    onset_s: Seconds
    offset_s: Seconds
    value: Annotated[float, _rounded(4)]


class ChannelQuality(_Shape):
    """What is said of one channel."""

    score: Score = Field(description="on `scale`")
    scale: ScaleInfo
    scores: dict[str, Score] = Field(description="all scores of the model by key", examples=[{"pesq": 3.412}])
    valid: bool = Field(
        description="false where the score is outside what the model was trained for; `warnings` say why"
    )
    curve: CurveInfo | None = None
    worst: list[StretchInfo] = Field(description="the stretches that pull the score down, worst first")
    warnings: list[str]


class Quality(ChannelQuality):
    """How good the recording sounds, and where it breaks."""

    model: str = Field(examples=["quality-blstm@2"])
    audio: AudioInfo
    findings: list[FindingInfo] = Field(description="plain measurements that say why")
    channels: list[ChannelQuality] | None = Field(
        None, description="with channel=each: one a channel; the top level then describes the worst of them"
    )
    request_id: str


class LabelInfo(_Shape):
    label: str
    probability: Probability


class SegmentInfo(_Shape):
    label: str
    onset_s: Seconds
    offset_s: Seconds
    probability: Probability


class FramesInfo(_Shape):
    """`values[i][k]` is the probability of `labels[k]` at `start_s + i * step_s`."""

    start_s: Seconds
    step_s: float
    labels: list[str]
    values: list[list[Probability]]


class ChannelScene(_Shape):
    labels: list[LabelInfo] = Field(description="above their thresholds, most probable first; empty rather than wrong")
    segments: list[SegmentInfo] | None = Field(None, description="by onset")
    frames: FramesInfo | None = None
    exclusive: bool = Field(description="true: exactly one label holds at a time; false: each is judged on its own")
    warnings: list[str]


class Scene(ChannelScene):
    """What is heard, and when."""

    model: str
    audio: AudioInfo
    channels: list[ChannelScene] | None = Field(
        None, description="with channel=each: one a channel; the top level is the first"
    )
    request_id: str


class Enhanced(_Shape):
    """The enhanced recording inside JSON."""

    model: str
    audio: AudioInfo
    media_type: str = Field(examples=["audio/wav"])
    sample_rate: int
    channels: int
    quality_before: Score | None = Field(None, description="with score=true, where the recording can be scored")
    quality_after: Score | None = None
    data: str | None = Field(None, description="the file, base64")
    warnings: list[str]
    request_id: str


class Analysis(_Shape):
    """Everything that was wanted of one upload."""

    audio: AudioInfo
    quality: Quality | None = None
    scene: Scene | None = None
    enhance: Enhanced | None = None
    request_id: str


class ModelInfo(_Shape):
    name: str
    version: int
    task: Task | None = Field(description="null where the manifest cannot be read; so are the next ones")
    title: str | None
    sample_rate: int | None
    licence: str | None
    labels: list[str]
    default: bool = Field(description="serves its task where a request names no model")
    serving: bool = Field(description="answers to its bare name, without a version")
    state: Literal["loading", "ready", "failed", "unloaded", "draining"]
    reason: str | None = Field(None, description="why it failed, or what is unusual about it")
    backend: str | None = Field(None, description="that really runs it")
    provider: str | None = None
    device: str | None = Field(None, description="that it really runs on: cpu or cuda:0")
    precision: str | None = None
    gain: float | None = Field(
        None,
        description="how many times as fast as full precision the lower one runs here, whichever serves; null where there was nothing to compare",
    )
    tuned: bool = Field(False, description="whether its costs were read from a tuning file instead of measured at load")
    batching: str | None = Field(None, description="as it is really batched: padded, equal or alone")
    file_bytes: int | None = None
    details: dict[str, str | int | float | bool] = Field(
        {},
        description="of the device: its name, memory, driver; how exactly it computes; how much of the graph it takes",
    )


class ModelList(_Shape):
    models: list[ModelInfo]


class ModelDetail(ModelInfo):
    manifest: dict[str, Any] | None
    card: str | None = Field(None, description="CARD.md: data, figures, what it must not be used for")
    versions: list[int]


class PlanInfo(_Shape):
    """How much computes at once, and why."""

    workers: int = Field(description="threads that run batches, decode, resample and encode")
    threads_a_run: int = Field(description="that one batch computes with on the CPU")
    children: int = Field(description="processes that decode the rarer formats")
    slots: dict[str, int] = Field(description="batches at once, for each device that bounds them")
    why: str


class GpuInfo(_Shape):
    """The GPU that models may run on; what each really runs on says `/models`."""

    name: str
    memory_bytes: int
    free_bytes: int | None = Field(description="null where the driver does not tell")
    driver: str | None


class Limits(_Shape):
    """Every limit in force. A 413 names the one that was passed."""

    max_body_bytes: int
    max_bodies_bytes: int
    max_duration_s: float
    max_channels: int
    max_samples: int
    min_rate_hz: int
    max_rate_hz: int
    max_parts: int
    max_answer_bytes: int
    body_timeout_s: float
    body_stall_s: float
    body_rate: float = Field(description="least bytes a second of a body, after its first ten seconds; 0 for any")
    deadline_s: float
    queue_s: float
    key_requests: int | None = Field(description="requests in flight for one key; null where no keys are set")
    plan: PlanInfo
    gpu: GpuInfo | None = Field(description="null where there is none, or models are kept off it")
    formats: list[str]


class Health(_Shape):
    status: Literal["ok", "starting", "draining"]
