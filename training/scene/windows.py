"""Nets made for one length, on clips of any length: windows of exactly that length, each judged alone.

The last window is shifted back to end where the clip ends, and a clip shorter than a window is repeated until it fills
one. So every row that the net sees has the same length, and no batch can change an answer.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.frontend import valid


class Windowed(nn.Module):
    """Waveform to probabilities by a net of fixed windows.

    `clip` is the mean over windows, weighted by how much of the clip only they hear; `frames` has a value a window,
    centred at half a window from its start.

    Args:
        front: [batch, size], [batch] to features, and how many are true (all are).
        net: features to logits [batch, labels].
        size: samples of a window.
        exclusive: one label holds at a time (softmax); otherwise each on its own (sigmoid).
    """

    def __init__(self, front: nn.Module, net: nn.Module, size: int, exclusive: bool = True) -> None:
        super().__init__()
        self.front, self.net = front, net
        self.size, self.exclusive = size, exclusive

    def forward(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[batch, samples], [batch] to clip [batch, labels], frames [batch, windows, labels], frame_lengths [batch]."""
        windows, fresh = cut(waveform, lengths, self.size)
        rows = windows.reshape(-1, self.size)
        whole = torch.zeros_like(rows[:, 0], dtype=torch.int64) + self.size
        logits = self.net(self.front(rows, whole)[0])
        frames = torch.softmax(logits, -1) if self.exclusive else torch.sigmoid(logits)
        frames = frames.reshape(windows.shape[0], windows.shape[1], -1)
        counts = torch.div(lengths + (self.size - 1), self.size, rounding_mode="floor")
        frames = frames * valid(counts, frames.shape[1]).to(frames.dtype).unsqueeze(2)
        weight = (fresh / fresh.sum(1, keepdim=True)).unsqueeze(2)
        return (frames * weight).sum(1), frames, counts


def cut(waveform: Tensor, lengths: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Windows [batch, count, size] of *waveform*, and the samples that each hears first, [batch, count], 0 past the
    end."""
    count = (waveform.shape[1] + (size - 1)) // size
    begin = torch.arange(count, device=waveform.device).unsqueeze(0) * size
    last = (lengths - size).clamp(min=0).unsqueeze(1)
    place = torch.minimum(begin, last).unsqueeze(2) + torch.arange(size, device=waveform.device)
    # Only a clip shorter than a window comes round to its start.
    place = torch.remainder(place, lengths.clamp(min=1).unsqueeze(1).unsqueeze(2))
    windows = torch.gather(waveform, 1, place.reshape(waveform.shape[0], -1)).reshape(waveform.shape[0], -1, size)
    fresh = (lengths.unsqueeze(1) - begin).clamp(min=0, max=size).to(waveform.dtype)
    return windows, fresh
