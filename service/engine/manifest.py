"""`model.toml`: the only registration of a model. Errors name the key; unknown keys are refused.

Knows what may be said about a model, never which models there are.
"""

from __future__ import annotations

import tomllib
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from service.errors import EarmarkError
from service.values import Task

Name = Annotated[str, Field(pattern=r"^[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?$")]
OUTPUTS: dict[Task, tuple[frozenset[str], ...]] = {
    "quality": (frozenset({"score"}), frozenset({"scores"})),
    "scene": (frozenset({"clip"}),),
    "enhance": (frozenset({"enhanced"}),),
}
"""What a graph of each task must give at the least: any one of the sets."""
OUTPUT_ORDER: dict[Task, tuple[str, ...]] = {
    "quality": ("score", "frames", "frame_lengths", "speech"),
    "scene": ("clip", "frames", "frame_lengths"),
    "enhance": ("enhanced",),
}
"""How the outputs of a program that does not name them are named, as many as it gives; `scores` where there are
several scales."""


class BadManifest(EarmarkError):
    """The folder is no model: `detail` names file and key, what is wrong and what would be right."""

    code = "bad-manifest"
    title = "The model's manifest is wrong"


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)


def _inside(value: str) -> str:
    path = PurePosixPath(value)
    if path.is_absolute() or ".." in path.parts or "\\" in value:
        raise ValueError("must be a relative path inside the model's folder")
    return value


InnerPath = Annotated[str, AfterValidator(_inside)]
Sum = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class DataFile(_Table):
    """A file that a graph keeps its weights in."""

    path: InnerPath
    sha256: Sum


class GraphFile(_Table):
    """One file with the whole model in it. Which one serves is chosen at load, see `service.engine.choice`."""

    path: InnerPath
    backend: Literal["onnx", "torchscript"]
    precision: Literal["fp32", "fp16", "int8"] = "fp32"
    sha256: Sum
    batching: Literal["padded", "equal", "alone"] | None = None
    """Overrides the model's own where this file differs (dynamic int8 runs alone)."""
    data: tuple[DataFile, ...] = ()
    """ONNX: every file of external weights that the graph names, none else is opened."""
    outputs: tuple[str, ...] = ()
    """TorchScript: names of a tuple's members, in order; the contract's order where nothing is said."""
    loss: dict[str, float | int | str | bool] = {}
    """What lower precision costs against the first file of full precision, as measured; free keys, as they are."""
    accepted: bool = False
    """Whether that loss is small enough to serve without being asked for; full precision needs no leave."""
    tolerance: Annotated[float, Field(gt=0)] | None = None
    """Of the golden answer, where lower precision needs more than the model's own."""

    @property
    def may_be_chosen(self) -> bool:
        """Whether it may serve without anybody asking for it."""
        return self.precision == "fp32" or self.accepted

    @model_validator(mode="after")
    def _accepted_for_a_reason(self) -> GraphFile:
        if self.accepted and self.precision != "fp32" and not self.loss:
            raise ValueError("accepted needs a `loss` table that says what was measured against full precision")
        return self


class Batching(_Table):
    """How items may share a batch: `padded` (lengths mask everything), `equal` lengths only, or `alone`."""

    mode: Literal["padded", "equal", "alone"] = "padded"
    max_items: Annotated[int, Field(ge=1, le=1024)] = 8
    max_seconds: Annotated[float, Field(gt=0)] = 80.0
    """Padded seconds of one batch: items x longest."""


class Window(_Table):
    """How a recording is cut: pieces of `max_s` overlap by `context_s` on both sides, which the join drops."""

    min_s: Annotated[float, Field(ge=0)] = 0.0
    """Shorter recordings are refused as too short."""
    max_s: Annotated[float, Field(gt=0)] = 10.0
    """Longest piece that runs at once."""
    context_s: Annotated[float, Field(ge=0)] = 0.0
    agreement: Annotated[float, Field(ge=0)] | None = None
    """Largest difference between joined pieces and one pass, as measured by the training's evaluation."""

    @model_validator(mode="after")
    def _leaves_something(self) -> Window:
        if self.min_s > self.max_s:
            raise ValueError("min_s must not be above max_s, or no recording fits")
        if 2 * self.context_s >= self.max_s:
            raise ValueError("twice context_s must be below max_s, or nothing is left of a piece")
        return self


class Frames(_Table):
    """Where the values of `frames` lie: value i is centred at `offset_s + i * step_s`."""

    step_s: Annotated[float, Field(gt=0)]
    offset_s: float = 0.0


class Scale(_Table):
    """What a score means. `key` is its name in the answer's `scores`."""

    key: str
    name: str
    min: float
    max: float
    better: Literal["higher", "lower"] = "higher"

    @model_validator(mode="after")
    def _has_a_range(self) -> Scale:
        if self.min >= self.max:
            raise ValueError("min must be below max")
        return self


class Validity(_Table):
    """quality: what a recording must hold for its score to mean something, as found by the training's evaluation."""

    speech: Annotated[float, Field(ge=0, le=1)] | None = None
    """Least share of speech, of a graph that gives `speech`."""
    narrow_band_hz: Annotated[float, Field(gt=0)] | None = None
    """A band that ends below it was heard too seldom in training."""
    low_level_dbfs: float | None = None
    """Quieter recordings are mostly what their own rounding adds."""


class LabelSpec(_Table):
    name: str
    threshold: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Least probability of the clip at which the label is said."""


class Segmenting(_Table):
    """How frame probabilities become segments: hysteresis, median filter, least length."""

    on: Annotated[float, Field(ge=0, le=1)] = 0.5
    off: Annotated[float, Field(ge=0, le=1)] = 0.3
    median_s: Annotated[float, Field(ge=0)] = 0.0
    min_s: Annotated[float, Field(ge=0)] = 0.1

    @model_validator(mode="after")
    def _starts_above_its_end(self) -> Segmenting:
        if self.off > self.on:
            raise ValueError("off must not be above on: a segment begins at on and ends below off")
        return self


class Golden(_Table):
    """`golden.npz`: `waveform` [samples] and the outputs it must give, by the graph's names, without the batch axis."""

    path: InnerPath = "golden.npz"
    sha256: Sum
    tolerance: Annotated[float, Field(gt=0)] = 1e-3


class Manifest(_Table):
    """A model of one version, as its `model.toml` says."""

    name: Name
    version: Annotated[int, Field(ge=1)]
    task: Task
    title: str
    licence: str
    default: bool = False
    """Serves its task where a request names no model."""
    trusted: bool = False
    """TorchScript files are programs: they load only where this is true."""
    sample_rate: Annotated[int, Field(ge=4000, le=192_000)]
    files: Annotated[tuple[GraphFile, ...], Field(min_length=1)]
    batching: Batching = Batching()
    window: Window = Window()
    frames: Frames | None = None
    scales: tuple[Scale, ...] = ()
    """quality: one for `score`, or as many as `scores` has columns; the first is the answer's `score`."""
    validity: Validity = Validity()
    labels: tuple[LabelSpec, ...] = ()
    exclusive: bool = False
    """scene: exactly one label holds at a time (softmax); otherwise each on its own (sigmoid)."""
    aggregate: Literal["mean", "max"] = "mean"
    """scene: how the clip probabilities of several pieces become one."""
    segmenting: Segmenting = Segmenting()
    golden: Golden | None = None
    figures: dict[str, float | int | str | bool] = {}
    """Measured on the model's own test split; free keys, shown as they are."""

    @property
    def id(self) -> str:
        return f"{self.name}@{self.version}"

    @property
    def labels_named(self) -> tuple[str, ...]:
        return tuple(label.name for label in self.labels)

    def output_names(self, file: GraphFile) -> tuple[str, ...]:
        """Names for the outputs of *file* where it does not say them itself."""
        score = "scores" if len(self.scales) > 1 else "score"
        return file.outputs or tuple(score if name == "score" else name for name in OUTPUT_ORDER[self.task])

    @model_validator(mode="after")
    def _complete_for_its_task(self) -> Manifest:
        if self.task == "quality" and not self.scales:
            raise ValueError("scales: a quality model needs at least one [[scales]] table")
        if self.task == "scene" and not self.labels:
            raise ValueError("labels: a scene model needs its [[labels]] in the order of the graph's classes")
        if len({label.name for label in self.labels}) != len(self.labels):
            raise ValueError("labels: a name stands twice")
        return self


def read_manifest(folder: Path) -> Manifest:
    """Read `folder/model.toml`.

    Raises:
        BadManifest: it is missing, no TOML, or says something that cannot be.
    """
    path = folder / "model.toml"
    # Name and version, not the whole path: callers of the service may read it.
    where = "/".join(path.parts[-3:])
    try:
        tables = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise BadManifest(f"{where}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadManifest(f"{where}: not TOML: {error}") from error
    return parse_manifest(tables, where)


def parse_manifest(tables: dict[str, Any], where: str = "model.toml") -> Manifest:
    """Check *tables* as `read_manifest` does; *where* opens the message.

    Raises:
        BadManifest: see there.
    """
    try:
        return Manifest.model_validate(tables)
    except ValidationError as error:
        faults = (("".join(f".{part}" for part in fault["loc"]).lstrip("."), fault["msg"]) for fault in error.errors())
        raise BadManifest(f"{where}: " + "; ".join(f"{key or 'model'}: {text}" for key, text in faults)) from error
