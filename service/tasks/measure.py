"""Plain measurements of a recording, taken on the same walk as everything else."""

from __future__ import annotations

from service.audio.levels import LevelFacts, Levels
from service.audio.waveform import Envelope
from service.tasks.listen import Job
from service.values import AudioFacts, Samples


class MeasureListener:
    """Levels and findings, and the outline of the waveform where one is to be drawn."""

    def __init__(self, facts: AudioFacts, outline_points: int = 0) -> None:
        self._levels = Levels(facts.sample_rate, facts.channels)
        self.outline = Envelope(outline_points) if outline_points else None
        self.facts: LevelFacts | None = None

    def push(self, block: Samples) -> list[Job]:
        self._levels.push(block)
        if self.outline is not None:
            self.outline.push(block)
        return []

    def finish(self) -> list[Job]:
        self.facts = self._levels.finish()
        return []
