"""One recording, one decode, every answer that was wished for.

All endpoints come through here: `/quality`, `/scene` and `/enhance` wish for one thing, `/analyze` for several.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import ExitStack, aclosing
from dataclasses import dataclass, field
from functools import partial

from service.audio.decode import Recording
from service.audio.levels import LevelFacts
from service.audio.waveform import Envelope
from service.engine.model import Model
from service.errors import BadRequest, InternalFault
from service.tasks.enhance import EnhanceListener, wet_share
from service.tasks.listen import Listener, Workbench, listen
from service.tasks.measure import MeasureListener
from service.tasks.quality import QualityAnswer, QualityListener, check_step
from service.tasks.scene import SceneAnswer, SceneListener, check_alike, conclude
from service.values import AudioFacts, Channel, Curve, OneChannel, Samples, Task, Turn


@dataclass(frozen=True, slots=True)
class QualityWish:
    model: str | None = None
    channel: Channel = "mix"
    step_s: float | None = None


@dataclass(frozen=True, slots=True)
class SceneWish:
    models: tuple[str, ...] = ()
    """None: the default. Several: their mean."""
    channel: Channel = "mix"
    top: int = 5
    threshold: float | None = None
    segments: bool = True


@dataclass(frozen=True, slots=True)
class EnhanceWish:
    model: str | None = None
    channel: Channel = "each"
    rate: int | None = None
    """Of the result, in Hz; None: the recording's own."""
    strength: float = 1.0
    limit_db: float | None = None
    score: bool = False
    """Score the recording before and after with the default quality model."""


@dataclass(frozen=True, slots=True)
class Wishes:
    quality: QualityWish | None = None
    scene: SceneWish | None = None
    enhance: EnhanceWish | None = None
    outline_points: int = 0


@dataclass(frozen=True, slots=True)
class CurvePart:
    """More of the curve of one channel (its place among the answers)."""

    place: int
    curve: Curve


@dataclass(frozen=True, slots=True)
class SoundPart:
    """More of the enhanced recording, (channels, frames) at `rate`."""

    samples: Samples
    rate: int


@dataclass(frozen=True, slots=True)
class EnhanceAnswer:
    model: str
    rate: int
    channels: int
    quality_before: float | None = None
    quality_after: float | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that was wished for. Lists have one answer a channel: more than one only for `each`."""

    facts: AudioFacts
    levels: LevelFacts
    warnings: list[str]
    quality_model: str = ""
    quality: list[QualityAnswer] = field(default_factory=list)
    scene_model: str = ""
    scene: list[SceneAnswer] = field(default_factory=list)
    enhance: EnhanceAnswer | None = None
    outline: Envelope | None = None


Event = CurvePart | SoundPart | Report


async def hear(recording: Recording, bench: Workbench, wishes: Wishes, turn: Turn) -> AsyncGenerator[Event]:
    """Listen to *recording*; gives parts as they are made and the report last.

    Args:
        turn: on whose behalf, and by when.

    Raises:
        NotFound, BadRequest: a wish that cannot be met, before anything is decoded.
        EarmarkError: see `service.tasks.listen.listen`.
    """
    with ExitStack() as leases:
        party = _Party(recording.facts, bench, wishes, leases)
        async with aclosing(listen(recording, party.listeners, bench, turn)) as walk:
            async for _ in walk:
                for part in party.parts():
                    yield part
        yield await bench.workers.call(partial(party.report, recording), turn)


async def hear_out(recording: Recording, bench: Workbench, wishes: Wishes, turn: Turn) -> Report:
    """`hear`, when only the report is of interest."""
    async with aclosing(hear(recording, bench, wishes, turn)) as events:
        async for event in events:
            if isinstance(event, Report):
                return event
    raise InternalFault("a walk ended without a report")


class _Party:
    """The listeners that meet the wishes, and what they have to say."""

    def __init__(self, facts: AudioFacts, bench: Workbench, wishes: Wishes, leases: ExitStack) -> None:
        self._facts = facts
        self._bench = bench
        self._wishes = wishes
        self._leases = leases
        self._measure = MeasureListener(facts, wishes.outline_points)
        self._quality: list[QualityListener] = []
        self._scene: list[list[SceneListener]] = []
        self._enhance: EnhanceListener | None = None
        self._before: QualityListener | None = None
        self._after: QualityListener | None = None
        self._models: dict[str, str] = {}
        if wishes.quality:
            self._invite_quality(wishes.quality)
        if wishes.scene:
            self._invite_scene(wishes.scene)
        if wishes.enhance:
            self._invite_enhance(wishes.enhance)

    @property
    def listeners(self) -> list[Listener]:
        scene = [listener for channel in self._scene for listener in channel]
        single = [listener for listener in (self._before, self._enhance) if listener]
        return [self._measure, *self._quality, *scene, *single]

    def parts(self) -> list[CurvePart | SoundPart]:
        """What became ready since the last call."""
        curves = [CurvePart(place, listener.fresh()) for place, listener in enumerate(self._quality)]
        made: list[CurvePart | SoundPart] = [part for part in curves if len(part.curve.values)]
        if self._enhance is not None:
            samples = self._enhance.ready()
            if samples.shape[1]:
                made.append(SoundPart(samples, self._enhance.rate))
        return made

    def report(self, recording: Recording) -> Report:
        """All the answers, once the walk is over."""
        levels = self._measure.facts
        if levels is None:
            raise InternalFault("the walk ended before the measurements did")
        self._count(recording.facts.duration_s or 0.0)
        quality, scene = self._wishes.quality, self._wishes.scene
        return Report(
            facts=recording.facts,
            levels=levels,
            warnings=list(recording.warnings.sentences),
            quality_model=self._models.get("quality", ""),
            quality=[listener.answer(levels, quality.step_s) for listener in self._quality] if quality else [],
            scene_model=self._models.get("scene", ""),
            scene=[
                conclude(models, levels, top=scene.top, threshold=scene.threshold, segments=scene.segments)
                for models in self._scene
            ]
            if scene
            else [],
            enhance=self._enhance_answer(levels),
            outline=self._measure.outline,
        )

    def _lease(self, task: Task, name: str | None) -> Model:
        return self._leases.enter_context(self._bench.models.lease(task, name))

    def _invite_quality(self, wish: QualityWish) -> None:
        model = self._lease("quality", wish.model)
        if model.manifest.frames:
            check_step(wish.step_s, model.manifest.frames.step_s)
        self._models["quality"] = model.manifest.id
        self._quality = [QualityListener(model, self._facts, channel) for channel in self._channels(wish.channel)]

    def _invite_scene(self, wish: SceneWish) -> None:
        models = [self._lease("scene", name) for name in wish.models or (None,)]
        check_alike([model.manifest for model in models])
        self._models["scene"] = ",".join(model.manifest.id for model in models)
        self._scene = [
            [SceneListener(model, self._facts, channel) for model in models] for channel in self._channels(wish.channel)
        ]

    def _invite_enhance(self, wish: EnhanceWish) -> None:
        model = self._lease("enhance", wish.model)
        self._models["enhance"] = model.manifest.id
        self._channels(wish.channel)
        facts, rate = self._facts, wish.rate or self._facts.sample_rate
        channels = facts.channels if wish.channel == "each" else 1
        if wish.score:
            judge = self._lease("quality", None)
            made = AudioFacts("made", "", rate, channels)
            self._before = QualityListener(judge, facts, "mix", optional=True)
            self._after = QualityListener(judge, made, "mix", optional=True)
        wet = wet_share(wish.strength, wish.limit_db)
        self._enhance = EnhanceListener(model, facts, wish.channel, rate, wet, self._after)

    def _channels(self, channel: Channel) -> list[OneChannel]:
        if channel == "each":
            return list(range(self._facts.channels))
        if isinstance(channel, int) and channel >= self._facts.channels:
            raise BadRequest(
                f"channel {channel} was asked for; the recording has {self._facts.channels}, counted from 0",
                parameter="channel",
                got=channel,
            )
        return [channel]

    def _enhance_answer(self, levels: LevelFacts) -> EnhanceAnswer | None:
        if self._enhance is None:
            return None

        def score(listener: QualityListener | None) -> float | None:
            if listener is None or levels.silent or not listener.has_answer:
                return None
            return listener.answer(levels, None).score

        return EnhanceAnswer(
            self._models["enhance"], self._enhance.rate, self._enhance.channels, score(self._before), score(self._after)
        )

    def _count(self, duration_s: float) -> None:
        for task in self._models:
            self._bench.metrics.audio_seconds.labels(task).inc(duration_s)
