"""How good a recording of speech sounds, and where it breaks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.audio.channels import pick
from service.audio.levels import LevelFacts
from service.engine.manifest import Frames, Scale
from service.engine.model import Model
from service.errors import BadRequest, SilentAudio
from service.tasks.curves import FrameJoin, thin, worst_stretches
from service.tasks.feed import Feed
from service.tasks.listen import Job
from service.tasks.windows import Piece
from service.values import Arrays, AudioFacts, Curve, OneChannel, Samples, Stretch

UNSURE_BELOW_S = 1.0
QUIET_DBFS = -50.0
PIECE_STEP_S = 1.0
"""Step of the curve of a model that gives one score a piece and no frames."""


@dataclass(frozen=True, slots=True)
class QualityAnswer:
    """A score on the model's first scale, all its scores, the curve of the first, and what to think of them."""

    score: float
    scale: Scale
    scores: dict[str, float]
    curve: Curve
    worst: list[Stretch]
    valid: bool
    warnings: list[str]


class QualityListener:
    """Scores one channel of a recording with one model.

    Args:
        optional: a recording too short to score is no error, there is just no answer.
    """

    def __init__(self, model: Model, facts: AudioFacts, channel: OneChannel, *, optional: bool = False) -> None:
        manifest = model.manifest
        self._optional = optional
        self._model = model
        self._channel = channel
        self._feed = Feed(manifest, facts.sample_rate)
        self._frames = manifest.frames or Frames(step_s=PIECE_STEP_S, offset_s=PIECE_STEP_S / 2)
        self._join = FrameJoin(self._frames, manifest.sample_rate)
        self._weighted: list[tuple[float, NDArray[np.float64]]] = []
        self._speech: list[float] = []
        self._fresh: list[NDArray[np.float32]] = []

    @property
    def duration_s(self) -> float:
        return self._feed.duration_s

    def push(self, block: Samples) -> list[Job]:
        return [Job(self._model, piece, self.take) for piece in self._feed.push(pick(block, self._channel))]

    def finish(self) -> list[Job]:
        if self._optional and self._feed.is_too_short:
            return []
        return [Job(self._model, piece, self.take) for piece in self._feed.finish()]

    def take(self, piece: Piece, outputs: Arrays) -> Sequence[Job]:
        scores = np.atleast_1d(np.asarray(outputs["scores"] if "scores" in outputs else outputs["score"], np.float64))
        self._weighted.append((float(piece.keep_to - piece.keep_from), scores))
        if "speech" in outputs:
            self._speech.append(float(outputs["speech"]))
        frames = outputs.get("frames")
        if frames is None:
            frames = np.full(self._steps_of(piece), scores[0])
        self._fresh.append(self._join.add(piece, np.asarray(frames, np.float32)))
        return ()

    def fresh(self) -> Curve:
        """The part of the curve that came since the last call; may be empty."""
        values = np.concatenate(self._fresh) if self._fresh else np.zeros(0, np.float32)
        self._fresh.clear()
        first = self._join.count - len(values)
        return Curve(self._frames.offset_s + first * self._frames.step_s, self._frames.step_s, values)

    @property
    def has_answer(self) -> bool:
        return bool(self._weighted)

    def answer(self, levels: LevelFacts, step_s: float | None) -> QualityAnswer:
        """What was heard; call after the last piece was taken.

        Raises:
            SilentAudio: there is no signal to score.
            BadRequest: *step_s* is finer than the model's frames.
        """
        if levels.silent:
            raise SilentAudio("the recording is digital silence: there is nothing to score")
        curve = self._join.curve()
        scales = self._model.manifest.scales
        scale = scales[0]
        scores = self._scores()
        warnings = self._doubts(levels)
        return QualityAnswer(
            score=float(scores[0]),
            scale=scale,
            scores={scale.key: float(value) for scale, value in zip(scales, scores, strict=True)},
            curve=thin(curve, check_step(step_s, curve.step_s)),
            worst=worst_stretches(curve, scale.max - scale.min, scale.better == "higher"),
            valid=not warnings,
            warnings=warnings,
        )

    def _scores(self) -> NDArray[np.float64]:
        """The mean of the pieces' scores, weighted by what each speaks for; of one piece just its own."""
        weights, scores = zip(*self._weighted, strict=True)
        return np.asarray(np.average(scores, axis=0, weights=weights))

    def _steps_of(self, piece: Piece) -> int:
        return max(1, -(-(piece.keep_to - piece.start) // round(PIECE_STEP_S * self._model.manifest.sample_rate)))

    def _doubts(self, levels: LevelFacts) -> list[str]:
        """Why the score may mean little: what the model was never taught, or what holds too little to judge."""
        valid, doubts = self._model.manifest.validity, []
        if self.duration_s < UNSURE_BELOW_S:
            doubts.append(f"shorter than {UNSURE_BELOW_S:g} s: the score is uncertain")
        if valid.speech is not None and self._speech and self._speech_share() < valid.speech:
            doubts.append(f"speech is heard in {100 * self._speech_share():.0f} % of it: the score is one of speech")
        quietest = valid.low_level_dbfs if valid.low_level_dbfs is not None else QUIET_DBFS
        if levels.rms_dbfs < quietest:
            doubts.append(f"very quiet ({levels.rms_dbfs:.0f} dBFS): the score may describe the noise floor")
        doubts += [
            f"the sound ends at {finding.value:.0f} Hz: the score is rough for so narrow a band"
            for finding in levels.findings
            if finding.kind == "narrow_band" and finding.value < (valid.narrow_band_hz or 0.0)
        ]
        quiet_s = sum(finding.offset_s - finding.onset_s for finding in levels.findings if finding.kind == "silence")
        if quiet_s > 0.5 * self.duration_s:
            doubts.append("more than half of the recording is silence: the score describes little speech")
        return doubts

    def _speech_share(self) -> float:
        weights = [weight for weight, _ in self._weighted]
        return float(np.average(self._speech, weights=weights))


def check_step(step_s: float | None, least_s: float) -> float:
    """The step to draw a curve at: *least_s* unless a coarser one is asked for.

    Raises:
        BadRequest: a finer one is asked for.
    """
    if step_s is None:
        return least_s
    if step_s < least_s * (1 - 1e-9):
        raise BadRequest(
            f"step is {step_s:g} s; this model's frames are {least_s:g} s apart", parameter="step", minimum=least_s
        )
    return step_s
