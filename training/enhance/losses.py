"""What training asks of the enhanced spectra and waveform; nothing of networks or data."""

from __future__ import annotations

import torch
from torch import Tensor

COMPRESSION = 0.3
COMPLEX_WEIGHT, MAGNITUDE_WEIGHT, WAVE_WEIGHT = 30.0, 70.0, 2.0
LEVEL = 0.05
"""RMS to which every mixture is brought for the loss, so that loud and quiet ones count alike."""

Spectra = tuple[Tensor, Tensor]
"""Real and imaginary part, [batch, bins, frames] each."""


def level_gain(noisy: Tensor) -> Tensor:
    """Factor [batch] that brings each of *noisy* [batch, samples] to `LEVEL`."""
    return LEVEL / noisy.square().mean(1).sqrt().clamp(min=1e-5)


def compressed(wanted: Spectra, given: Spectra) -> Tensor:
    """Distance of spectra whose magnitudes are raised to 0.3: with phase (weight 30) and without (weight 70).

    After Braun and Tashev, "A consolidated view of loss functions for supervised deep learning-based speech
    enhancement", 2021.
    """
    wanted_re, wanted_im, wanted_mag = _compress(*wanted)
    given_re, given_im, given_mag = _compress(*given)
    phase = (wanted_re - given_re).square().mean() + (wanted_im - given_im).square().mean()
    return COMPLEX_WEIGHT * phase + MAGNITUDE_WEIGHT * (wanted_mag - given_mag).square().mean()


def _compress(real: Tensor, imaginary: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    power = real.square() + imaginary.square() + 1e-7
    magnitude = power ** (COMPRESSION / 2)
    gain = magnitude * power.rsqrt()
    return real * gain, imaginary * gain, magnitude


def negative_si_snr(wanted: Tensor, given: Tensor) -> Tensor:
    """Mean of -log10 of the scale-invariant signal to noise ratio of waveforms [batch, samples].

    Items with a silent reference do not count; 0 where there are no others.
    """
    spoken = wanted.square().mean(1) > 1e-8
    if not bool(spoken.any()):
        return given.sum() * 0.0
    wanted = wanted[spoken] - wanted[spoken].mean(1, keepdim=True)
    given = given[spoken] - given[spoken].mean(1, keepdim=True)
    scale = (wanted * given).sum(1, keepdim=True) / wanted.square().sum(1, keepdim=True)
    target = scale * wanted
    ratio = (target.square().sum(1) + 1e-8) / ((given - target).square().sum(1) + 1e-8)
    return -torch.log10(ratio).mean()


def total(wanted: Spectra, given: Spectra, wanted_wave: Tensor, given_wave: Tensor) -> Tensor:
    """The sum that training lowers; all of it at `LEVEL`."""
    return compressed(wanted, given) + WAVE_WEIGHT * negative_si_snr(wanted_wave, given_wave)
