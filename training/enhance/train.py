"""Trains the enhancer: `python -m training.enhance.train --data DIR --runs DIR`.

The same command goes on where it was stopped. Owns the recipe alone: sizes, schedule and what a batch costs; the loop,
the sounds and the network live next door.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from training import corpus, loop
from training.enhance import losses
from training.enhance.measures import si_sdr_db
from training.enhance.mixtures import Case, batches, fixed_list, open_material
from training.enhance.network import Enhancer, Shape

VALIDATION_SNRS_DB = (0.0, 5.0, 10.0)
VALIDATION_SEED = 20
SHAPE = Shape()


def run_folder(runs: Path) -> Path:
    return runs / "enhance"


def cost(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Loss of one batch (noisy, clean), each [items, samples]."""
    assert isinstance(model, Enhancer)
    noisy, clean = batch
    samples = noisy.shape[1]
    lengths = torch.full((len(noisy),), samples)
    gain = losses.level_gain(noisy).unsqueeze(1)
    real, imaginary = model.enhance_spectra(*model.spectra(noisy, lengths))
    wave = model.synthesise(real, imaginary, lengths, samples)
    with torch.no_grad():
        wanted = model.spectra(clean * gain, lengths)
    of_bins = gain.unsqueeze(2)
    return losses.total(wanted, (real * of_bins, imaginary * of_bins), clean * gain, wave * gain)


def enhance(model: nn.Module, noisy: corpus.Mono) -> corpus.Mono:
    """One recording through *model*, alone."""
    with torch.no_grad():
        given = model(torch.from_numpy(noisy).unsqueeze(0), torch.tensor([len(noisy)]))
    return np.asarray(given[0].numpy(), dtype=np.float32)


def validate(model: nn.Module, cases: Sequence[Case]) -> dict[str, float]:
    """Mean gain of SI-SDR over the noisy input in dB, in all and per ratio."""
    model = model.eval()
    before = [si_sdr_db(case.clean, case.noisy) for case in cases]
    after = [si_sdr_db(case.clean, enhance(model, case.noisy)) for case in cases]
    gains = np.array(after) - np.array(before)
    ratios = np.array([case.snr_db for case in cases])
    figures = {f"gain_{ratio:g}_db": float(gains[ratios == ratio].mean()) for ratio in sorted(set(ratios.tolist()))}
    return {"score": float(gains.mean())} | figures


def plan(arguments: argparse.Namespace) -> loop.Plan:
    return loop.Plan(
        epochs=arguments.epochs,
        steps_per_epoch=arguments.steps,
        rate=arguments.rate,
        warm_up_epochs=1.0,
        floor=0.01,
        weight_decay=1e-2,
        average=0.995,
        seed=arguments.seed,
        validate_every=arguments.validate_every,
    )


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    corpus.add_arguments(made)
    made.add_argument("--epochs", type=int, default=58)
    made.add_argument("--steps", type=int, default=100, help="batches of an epoch")
    made.add_argument("--items", type=int, default=4, help="mixtures of a batch")
    made.add_argument("--seconds", type=float, default=3.0, help="length of a mixture")
    made.add_argument("--rate", type=float, default=2e-3, help="largest learning rate")
    made.add_argument("--validate-every", type=int, default=3, help="epochs between validations")
    made.add_argument("--stop-after", type=int, default=None, help="leave after so many epochs in all")
    made.add_argument("--seed", type=int, default=0)
    return made


def main(words: Sequence[str] | None = None) -> Path:
    """Train; returns the folder with `best.pt`, `last.pt` and `history.jsonl`."""
    arguments = parser().parse_args(words)
    torch.set_num_threads(1)
    folder = run_folder(arguments.runs)
    table = corpus.read_corpus(arguments.data)
    material = open_material(table, "train", arguments.runs)
    cases = fixed_list(open_material(table, "val", arguments.runs), VALIDATION_SNRS_DB, 8, VALIDATION_SEED)
    loop.seed(arguments.seed)
    # Channels last is what the convolution kernels of the CPU are fast with.
    model = Enhancer(SHAPE).to(memory_format=torch.channels_last)
    steps = batches(material, arguments.items, arguments.seconds, arguments.steps)
    loop.fit(
        model, steps, cost, plan(arguments), folder, lambda averaged: validate(averaged, cases), arguments.stop_after
    )
    return folder


if __name__ == "__main__":
    main()
