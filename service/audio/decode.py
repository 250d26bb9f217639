"""Bytes to samples: opens a recording of any format that is read here, and holds it to the limits while it is read.

Headers are shown but never believed: what counts is counted. Nothing touches the disk, and no decoder's text leaves.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from types import TracebackType

import numpy as np

from service.audio.child import ChildSource
from service.audio.probe import probe
from service.audio.raw import RawFormat
from service.audio.riff import read_wav
from service.audio.sndfile import PLAIN, SndfileSource
from service.audio.source import PcmSource, Source, raw_layout
from service.errors import BadAudio, EmptyAudio, InternalFault, NonFiniteAudio, TooLarge, TruncatedAudio
from service.values import AudioFacts, AudioLimits, Samples, Warnings

SLACK_FRAMES = 4096
"""By how much a compressed file may fall short of its header and still be whole: encoders differ about padding."""


def open_recording(
    body: bytes | bytearray | memoryview, limits: AudioLimits, raw: RawFormat | None = None
) -> Recording:
    """Read the header of *body*; the samples come with `Recording.blocks`.

    Args:
        raw: how to read a body that has no header; None: the format is found by content.

    Raises:
        UnsupportedAudio: not audio, or a format that is not read here.
        TooLarge: more channels than allowed.
        BadAudio, EmptyAudio, TruncatedAudio: a rate that is not served, a broken header, no bytes, a header cut off.
        Overloaded: too many recordings are being decoded in processes of their own.
    """
    warnings = Warnings()
    source = _open(memoryview(body).cast("B"), limits, raw, warnings)
    try:
        _check_header(source.facts, limits)
    except BaseException:
        source.close()
        raise
    return Recording(source, limits, warnings)


class Recording:
    """A recording whose samples can be read once. Close it, or use it as a context."""

    def __init__(self, source: Source, limits: AudioLimits, warnings: Warnings) -> None:
        self.facts = source.facts
        """As declared; `frames` is what was counted once the last block is out."""
        self.warnings = warnings
        self._source = source
        self._limits = limits
        self._started = False

    def __enter__(self) -> Recording:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def blocks(self) -> Iterator[Samples]:
        """All samples in order: float32 (channels, n) each, contiguous, n at most ten seconds. Once only.

        Values beyond 1 pass as they are. A recording that breaks off gives what there is, and a warning.

        Raises:
            TooLarge: longer than `max_duration_s`, or more samples than `max_samples` over all channels.
            NonFiniteAudio: NaN or infinity among the samples.
            EmptyAudio, TruncatedAudio: no samples at all; in the latter case there should have been some.
            BadAudio: the decoder gave up.
        """
        if self._started:
            raise InternalFault("a recording was read twice")
        self._started = True
        return self._checked()

    def close(self) -> None:
        """Let go of the body, the decoder and its process. Again does nothing."""
        self._source.close()

    def _checked(self) -> Iterator[Samples]:
        counted = 0
        try:
            if isinstance(self._source, PcmSource):
                # counted from the bytes that are there, not told by a header
                self._check_amount(self.facts.frames or 0)
            for block in self._source.blocks():
                self._check_amount(counted + block.shape[1])
                if not np.isfinite(block).all():
                    first = counted + int(np.flatnonzero(~np.isfinite(block).all(axis=0))[0])
                    raise NonFiniteAudio(f"The samples hold NaN or infinity, first at {self._seconds(first)} s.")
                counted += block.shape[1]
                yield block
            self._conclude(counted)
        finally:
            self.close()

    def _check_amount(self, frames: int) -> None:
        facts, limits = self.facts, self._limits
        if frames > limits.max_duration_s * facts.sample_rate:
            raise TooLarge(
                f"The recording is longer than {limits.max_duration_s:g} s; send it in parts.",
                limit="max_duration_s",
                maximum=limits.max_duration_s,
                got=round(frames / facts.sample_rate, 3),
            )
        if frames * facts.channels > limits.max_samples:
            raise TooLarge(
                f"The recording holds more than {limits.max_samples} samples over all channels; "
                "send it in parts, or with fewer channels.",
                limit="max_samples",
                maximum=limits.max_samples,
                got=frames * facts.channels,
            )

    def _conclude(self, counted: int) -> None:
        source, promised = self._source, self._source.promised_frames or 0
        is_short = source.is_cut or source.broke_off or counted + self._slack() < promised
        if not counted:
            if is_short:
                raise TruncatedAudio("The recording breaks off before its first sample.")
            raise EmptyAudio("The recording holds no samples.")
        if is_short and promised > counted:
            self.warnings.add(
                f"The recording breaks off: its header promises {self._seconds(promised)} s, "
                f"{self._seconds(counted)} s could be read."
            )
        elif is_short:
            self.warnings.add(f"The recording is cut off or damaged after {self._seconds(counted)} s.")
        elif isinstance(source, PcmSource) and source.is_ragged:
            self.warnings.add("The last sample was incomplete and was left out.")
        self.facts = replace(self.facts, frames=counted)

    def _slack(self) -> int:
        return SLACK_FRAMES if self.facts.format in ("mp3", "ogg") else 0

    def _seconds(self, frames: int) -> str:
        return f"{frames / self.facts.sample_rate:.2f}"


def _open(body: memoryview, limits: AudioLimits, raw: RawFormat | None, warnings: Warnings) -> Source:
    if raw is not None:
        return PcmSource(body, raw_layout(body, raw), "raw")
    found = probe(body)
    if found.remark:
        warnings.add(found.remark)
    if found.decoder == "wav":
        return PcmSource(body, read_wav(body), "wav")
    rest = body[found.start_byte : found.end_byte]
    if found.decoder == "plain":
        return SndfileSource(rest, PLAIN, is_cut=found.is_cut, prefix=found.prefix)
    return ChildSource(rest, found, limits)


def _check_header(facts: AudioFacts, limits: AudioLimits) -> None:
    if facts.channels > limits.max_channels:
        raise TooLarge(
            f"The recording has {facts.channels} channels; {limits.max_channels} are the most.",
            limit="max_channels",
            maximum=limits.max_channels,
            got=facts.channels,
        )
    if not limits.min_rate <= facts.sample_rate <= limits.max_rate:
        raise BadAudio(
            f"The sample rate is {facts.sample_rate} Hz; {limits.min_rate} to {limits.max_rate} Hz are read.",
            minimum=limits.min_rate,
            maximum=limits.max_rate,
            got=facts.sample_rate,
        )
