"""What is heard in a recording, and when."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.audio.channels import pick
from service.audio.levels import LevelFacts
from service.engine.manifest import Manifest
from service.engine.model import Model
from service.errors import BadRequest
from service.tasks.curves import FrameJoin
from service.tasks.feed import Feed
from service.tasks.listen import Job
from service.tasks.segments import find_segments
from service.tasks.windows import Piece
from service.values import Arrays, AudioFacts, Label, OneChannel, Samples, Segment


@dataclass(frozen=True, slots=True)
class SceneAnswer:
    """Labels above their thresholds, most probable first; their segments by onset; frames (time, classes) of all."""

    labels: list[Label]
    segments: list[Segment]
    names: tuple[str, ...]
    frame_start_s: float
    frame_step_s: float
    frames: NDArray[np.float32]
    exclusive: bool
    warnings: list[str]


class SceneListener:
    """Listens to one channel of a recording with one model."""

    def __init__(self, model: Model, facts: AudioFacts, channel: OneChannel) -> None:
        manifest = model.manifest
        if manifest.frames is None:
            raise BadRequest(f"{manifest.id} gives no frames")
        self.manifest = manifest
        self._model = model
        self._channel = channel
        self._feed = Feed(manifest, facts.sample_rate)
        self._join = FrameJoin(manifest.frames, manifest.sample_rate)
        self._clips: list[tuple[int, NDArray[np.float64]]] = []

    @property
    def duration_s(self) -> float:
        return self._feed.duration_s

    def push(self, block: Samples) -> list[Job]:
        return [Job(self._model, piece, self.take) for piece in self._feed.push(pick(block, self._channel))]

    def finish(self) -> list[Job]:
        return [Job(self._model, piece, self.take) for piece in self._feed.finish()]

    def take(self, piece: Piece, outputs: Arrays) -> Sequence[Job]:
        self._clips.append((piece.keep_to - piece.keep_from, np.asarray(outputs["clip"], np.float64)))
        self._join.add(piece, np.asarray(outputs["frames"], np.float32))
        return ()

    def clip(self) -> NDArray[np.float64]:
        """Probability of each class in the whole recording, (classes,)."""
        weights, clips = zip(*self._clips, strict=True)
        if self.manifest.aggregate == "max":
            return np.asarray(np.max(clips, axis=0))
        return np.asarray(np.average(clips, axis=0, weights=weights))

    def frames(self) -> NDArray[np.float32]:
        """Probability of each class in each frame, (time, classes)."""
        return self._join.joined()


def check_alike(manifests: Sequence[Manifest]) -> None:
    """Models are averaged only if they name the same classes at the same frames.

    Raises:
        BadRequest: they do not.
    """
    first = manifests[0]
    for other in manifests[1:]:
        unlike = (
            "labels" if other.labels_named != first.labels_named else "frames" if other.frames != first.frames else ""
        )
        if unlike:
            raise BadRequest(f"{first.id} and {other.id} differ in their {unlike}: no mean of them", parameter="model")


def conclude(
    listeners: Sequence[SceneListener], levels: LevelFacts, *, top: int, threshold: float | None, segments: bool
) -> SceneAnswer:
    """The mean of what all *listeners* heard; call after the last piece was taken.

    Args:
        listeners: one a model, all of one recording and channel.
        top: most labels to name.
        threshold: instead of each label's own.
        segments: whether to look for them.
    """
    manifest = listeners[0].manifest
    spec = manifest.frames
    assert spec is not None  # noqa: S101  SceneListener refuses models without frames
    names = manifest.labels_named
    shortest = min(len(listener.frames()) for listener in listeners)
    tracks = np.stack([listener.frames()[:shortest] for listener in listeners])
    frames: NDArray[np.float32] = tracks.mean(axis=0, dtype=np.float32)
    warnings = []
    if levels.silent:
        clip = np.zeros(len(names))
        frames = np.zeros_like(frames)
        warnings.append("the recording is digital silence: nothing is heard in it")
    else:
        clip = np.mean([listener.clip() for listener in listeners], axis=0)
    duration_s = listeners[0].duration_s
    heard = [
        Label(label.name, float(clip[index]))
        for index, label in enumerate(manifest.labels)
        if clip[index] >= (label.threshold if threshold is None else threshold) and not levels.silent
    ]
    heard.sort(key=lambda label: (-label.probability, label.label))
    said = {label.label for label in heard}
    found = find_segments(frames, names, spec, manifest.segmenting, duration_s) if segments else []
    return SceneAnswer(
        labels=heard[:top],
        segments=[segment for segment in found if segment.label in said],
        names=names,
        frame_start_s=spec.offset_s,
        frame_step_s=spec.step_s,
        frames=frames,
        exclusive=manifest.exclusive,
        warnings=warnings,
    )
