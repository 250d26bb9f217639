"""`python -m benchmarks.levels`: what the plain measurements of a recording cost, beside its decoding and its model."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from benchmarks.http import default_quality
from benchmarks.record import save, table
from benchmarks.timing import interleaved
from service.audio.decode import open_recording
from service.audio.levels import Levels
from service.engine import padding
from service.values import AudioLimits, Samples
from tests.e2e.sounds import speechlike, wav

RATE = 16_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="of the recording")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    body, loaded = wav(speechlike(given.seconds, RATE), RATE), default_quality()

    def decode() -> list[Samples]:
        with open_recording(body, AudioLimits()) as recording:
            return list(recording.blocks())

    blocks = decode()
    batch = padding.assemble([np.concatenate(blocks, axis=1)[0]])

    def measure() -> None:
        levels = Levels(RATE, 1)
        for block in blocks:
            levels.push(block)
        levels.finish()

    taken = interleaved({"decode": decode, "levels": measure, "model": lambda: loaded.backend.run(batch)}, given.rounds)
    found = {name: 1000 * min(seconds) for name, seconds in taken.items()}
    print(table(("part", "ms of processor"), list(found.items())))
    save({"levels": found}, given.out)


if __name__ == "__main__":
    main()
