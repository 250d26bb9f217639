"""A recording without its noise: as long as it came, aligned to the sample, its channels kept."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from service.audio.channels import pick
from service.audio.resample import Resampler
from service.engine.model import Model
from service.tasks.feed import Feed
from service.tasks.listen import Job, Listener
from service.tasks.windows import Piece
from service.values import Arrays, AudioFacts, Channel, Samples


def wet_share(strength: float, limit_db: float | None) -> float:
    """How much of the enhanced signal is heard: *strength*, but never more than *limit_db* of attenuation allows."""
    return strength if limit_db is None else min(strength, 1.0 - 10.0 ** (-limit_db / 20.0))


class EnhanceListener:
    """Enhances the chosen channels and mixes them with the untouched ones.

    Args:
        channel: "each" keeps all channels; "mix" or a number gives one.
        rate: of the result, in Hz.
        wet: share of the enhanced signal, 0…1.
        audience: listens to the result, (channels, frames) at *rate*, as if it were a recording.
    """

    def __init__(
        self,
        model: Model,
        facts: AudioFacts,
        channel: Channel,
        rate: int,
        wet: float,
        audience: Listener | None = None,
    ) -> None:
        manifest = model.manifest
        self.rate = rate
        self.channels = facts.channels if channel == "each" else 1
        self._model = model
        self._channel = channel
        self._wet = np.float32(wet)
        self._audience = audience
        self._feeds = [Feed(manifest, facts.sample_rate) for _ in range(self.channels)]
        self._dry_rate = Resampler(facts.sample_rate, rate, self.channels)
        self._dry = Fifo(self.channels)
        self._made_rate = Resampler(manifest.sample_rate, rate, self.channels)
        self._made = Fifo(self.channels)
        self._enhanced = [Fifo(1) for _ in range(self.channels)]
        self._lasts = 0
        self._ready: list[Samples] = []

    def push(self, block: Samples) -> list[Job]:
        chosen = block if self._channel == "each" else pick(block, self._channel)[None]
        self._dry.put(self._dry_rate.push(chosen))
        return [
            Job(self._model, piece, partial(self._take, index))
            for index, feed in enumerate(self._feeds)
            for piece in feed.push(chosen[index])
        ]

    def finish(self) -> list[Job]:
        self._dry.put(self._dry_rate.finish())
        return [
            Job(self._model, piece, partial(self._take, index))
            for index, feed in enumerate(self._feeds)
            for piece in feed.finish()
        ]

    def ready(self) -> Samples:
        """What was finished since the last call, (channels, frames) at `rate`; may be empty."""
        made, self._ready = self._ready, []
        return np.concatenate(made, axis=1) if made else np.zeros((self.channels, 0), np.float32)

    def _take(self, index: int, piece: Piece, outputs: Arrays) -> Sequence[Job]:
        kept = outputs["enhanced"][piece.keep_from - piece.start : piece.keep_to - piece.start]
        self._enhanced[index].put(kept[None].astype(np.float32, copy=False))
        self._lasts += piece.last
        whole = min(fifo.held for fifo in self._enhanced)
        self._made.put(self._made_rate.push(np.concatenate([fifo.get(whole) for fifo in self._enhanced])))
        ended = self._lasts == self.channels
        if ended:
            # two resamplings may round differently from none: the untouched signal says how long the result is
            self._made.put(self._made_rate.finish())
            made, dry = _of_length(self._made.get(self._made.held), self._dry.held), self._dry.get(self._dry.held)
        else:
            both = min(self._made.held, self._dry.held)
            made, dry = self._made.get(both), self._dry.get(both)
        return self._give(made if self._wet == 1 else dry + self._wet * (made - dry), ended)

    def _give(self, mixed: Samples, ended: bool) -> Sequence[Job]:
        self._ready.append(mixed)
        if self._audience is None:
            return ()
        jobs = self._audience.push(mixed) if mixed.shape[1] else []
        return jobs + self._audience.finish() if ended else jobs


class Fifo:
    """Samples (channels, frames) in the order they came."""

    def __init__(self, channels: int) -> None:
        self._blocks: list[Samples] = []
        self._channels = channels
        self.held = 0

    def put(self, block: Samples) -> None:
        self._blocks.append(block)
        self.held += block.shape[1]

    def get(self, frames: int) -> Samples:
        """The oldest *frames* of them; fewer are never held."""
        joined = np.concatenate(self._blocks, axis=1) if self._blocks else np.zeros((self._channels, 0), np.float32)
        self._blocks = [joined[:, frames:]]
        self.held -= frames
        return joined[:, :frames]


def _of_length(block: NDArray[np.float32], frames: int) -> NDArray[np.float32]:
    """Cut, or filled up with silence."""
    missing = frames - block.shape[1]
    return np.pad(block, ((0, 0), (0, missing))) if missing > 0 else block[:, :frames]
