"""Models that only benchmarks need, made on the spot: sizes are real, weights are not."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from training.export import package
from training.frontend import Stft, frame_counts, masked_mean, silence_past, valid


class Blstm(nn.Module):
    """Quality-Net (Fu et al., 2018): magnitudes of 512 points, two bidirectional layers of 100, a score a frame."""

    def __init__(self) -> None:
        super().__init__()
        self.stft = Stft(512, 256)
        self.hop = 256
        self.lstm = nn.LSTM(257, 100, 2, batch_first=True, bidirectional=True)
        self.linear1, self.linear2 = nn.Linear(200, 50), nn.Linear(50, 1)

    def forward(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        counts = frame_counts(lengths, self.hop)
        real, imaginary = self.stft(silence_past(waveform, lengths))
        magnitudes = torch.sqrt(real * real + imaginary * imaginary + 1e-10).transpose(1, 2)
        packed = pack_padded_sequence(magnitudes, counts.cpu(), batch_first=True, enforce_sorted=False)
        states, _ = pad_packed_sequence(self.lstm(packed)[0], batch_first=True)
        frames = self.linear2(nn.functional.elu(self.linear1(states))).squeeze(2)
        frames = frames * valid(counts, frames.shape[1]).to(frames.dtype)
        return masked_mean(frames, counts), frames, counts


def blstm(folder: Path) -> Path:
    """Write `folder/qualitynet-blstm/1`, random weights, windows of up to 30 s, and return it."""
    torch.manual_seed(0)
    made = folder / "qualitynet-blstm" / "1"
    manifest = {
        "name": "qualitynet-blstm",
        "version": 1,
        "task": "quality",
        "title": "Quality-Net's size with random weights",
        "licence": "Apache-2.0",
        "trusted": True,
        "sample_rate": 16_000,
        "batching": {"mode": "padded", "max_items": 8, "max_seconds": 240.0},
        "window": {"min_s": 0.25, "max_s": 30.0},
        "frames": {"step_s": 0.016},
        "scales": [{"key": "score", "name": "none", "min": -10.0, "max": 10.0}],
    }
    outputs = {"score": ("batch",), "frames": ("batch", "time"), "frame_lengths": ("batch",)}
    package(Blstm(), outputs, manifest, "# Random weights\n", made)
    return made
