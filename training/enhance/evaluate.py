"""Judge an enhancer on the test split: `python -m training.enhance.evaluate --data DIR --runs DIR [--model FILE]`.

Owns the test list and what is asked of it. The model is an ONNX file that takes waveforms.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from training import corpus
from training.corpus import Mono
from training.enhance.measures import level_dbfs, pesq_wb, si_sdr_db, stoi
from training.enhance.mixtures import Case, Material, fixed_list, open_material
from training.enhance.network import SAMPLE_RATE_HZ
from training.export import onnx_runner
from training.simulate.levels import from_db
from training.simulate.noise import stretch

NAME = "enhance-bandgru"
MAX_S, CONTEXT_S = 20.0, 4.0
"""Longest piece that runs at once, and what pieces overlap by on both sides."""
TEST_SNRS_DB = (-5.0, 0.0, 5.0, 10.0, 15.0)
FLOOR_SNRS_DB = (0.0, 5.0, 10.0)
"""The ratios over which the headline means are taken."""
EACH = 28
SEED = 2026
LEVELS_DBFS = (-45.0, -35.0, -20.0, -12.0)

Enhance = Callable[[Mono], Mono]
Figures = dict[str, float]


def report_path(runs: Path) -> Path:
    return runs / "enhance" / "evaluation.json"


def of_onnx(path: Path) -> Enhance:
    run = onnx_runner(path)

    def enhance(noisy: Mono) -> Mono:
        return np.asarray(run(noisy[None], np.array([len(noisy)], np.int64))["enhanced"][0], dtype=np.float32)

    return enhance


def scores(clean: Mono, given: Mono) -> Figures:
    return {
        "si_sdr_db": si_sdr_db(clean, given),
        "pesq_wb": pesq_wb(clean, given, SAMPLE_RATE_HZ),
        "stoi": stoi(clean, given, SAMPLE_RATE_HZ),
    }


def by_ratio(cases: Sequence[Case], enhance: Enhance) -> dict[str, Figures]:
    """Means of the three measures per ratio, over `FLOOR_SNRS_DB` together ("floor") and over all ("all")."""
    rows = [scores(case.clean, enhance(case.noisy)) for case in tqdm(cases, desc="test list", leave=False)]
    groups = {f"{ratio:g}_db": (ratio,) for ratio in sorted({case.snr_db for case in cases})}
    groups |= {"floor": FLOOR_SNRS_DB, "all": TEST_SNRS_DB}
    return {
        name: mean_of([row for row, case in zip(rows, cases, strict=True) if case.snr_db in ratios])
        for name, ratios in groups.items()
    }


def mean_of(rows: Sequence[Figures]) -> Figures:
    return {key: round(float(np.nanmean([row[key] for row in rows])), 4) for key in rows[0]} if rows else {}


def of_clean(cases: Sequence[Case], enhance: Enhance) -> Figures:
    """What is left of speech that had no noise."""
    return mean_of([scores(case.clean, enhance(case.clean)) for case in cases])


def of_noise(material: Material, enhance: Enhance) -> float:
    """Mean fall of the level in dB where there is noise alone, one 5 s stretch of each recording at -30 dBFS."""
    recorded = material.noises.recorded
    if recorded is None:
        raise ValueError("there is no recorded noise")
    rng, falls = np.random.default_rng(SEED), []
    for group in recorded.corpus.groups:
        at = next(place for place, row in enumerate(recorded.corpus.rows) if row.group == group)
        noise = stretch(rng, 5 * SAMPLE_RATE_HZ, recorded, at)
        noise = noise * np.float32(from_db(-30.0 - level_dbfs(noise)))
        falls.append(level_dbfs(noise) - level_dbfs(enhance(noise)))
    return round(float(np.mean(falls)), 2)


def of_levels(cases: Sequence[Case], enhance: Enhance) -> Figures:
    """Mean SI-SDR gain in dB with the input brought to other levels."""
    figures = {}
    for level in LEVELS_DBFS:
        gains = []
        for case in cases:
            factor = np.float32(from_db(level - level_dbfs(case.noisy)))
            gains.append(si_sdr_db(case.clean, enhance(case.noisy * factor)) - si_sdr_db(case.clean, case.noisy))
        figures[f"{level:g}_dbfs"] = round(float(np.mean(gains)), 2)
    return figures


def real_time_factor(enhance: Enhance, seconds: float = 10.0, runs: int = 7) -> float:
    """Median processor time of one thread over the time of the audio: a busy machine does not change it much."""
    noisy = np.random.default_rng(0).normal(0, 0.05, round(seconds * SAMPLE_RATE_HZ)).astype(np.float32)
    taken = []
    for _ in range(runs):
        start = time.process_time()
        enhance(noisy)
        taken.append(time.process_time() - start)
    return round(float(np.median(taken)) / seconds, 4)


def window_agreement(enhance: Enhance, cases: Sequence[Case], max_s: float, context_s: float) -> float:
    """Largest difference between one pass over 60 s and pieces of *max_s* that overlap by *context_s* on both sides."""
    whole = np.resize(np.concatenate([case.noisy for case in cases[:16]]), 60 * SAMPLE_RATE_HZ).astype(np.float32)
    once = enhance(whole)
    size, context = round(max_s * SAMPLE_RATE_HZ), round(context_s * SAMPLE_RATE_HZ)
    joined = np.zeros_like(whole)
    for start in range(0, len(whole), size - 2 * context):
        first, last = max(start - context, 0), min(start + size - context, len(whole))
        end = last if last == len(whole) else last - context
        joined[start:end] = enhance(whole[first:last])[start - first : end - first]
        if last == len(whole):
            break
    return float(np.abs(joined - once).max())


def judge(material: Material, enhance: Enhance) -> dict[str, Any]:
    """Every figure of the card, for the noisy input and for *enhance*."""
    cases = fixed_list(material, TEST_SNRS_DB, EACH, SEED)
    middle = [case for case in cases if case.snr_db == 5.0][:14]
    noisy, enhanced = by_ratio(cases, lambda given: given), by_ratio(cases, enhance)
    gain = {
        name: {key: round(enhanced[name][key] - before, 4) for key, before in row.items()}
        for name, row in noisy.items()
    }
    return {
        "mixtures": len(cases),
        "seconds": round(sum(len(case.noisy) for case in cases) / SAMPLE_RATE_HZ, 1),
        "speakers": len({case.speaker for case in cases}),
        "noisy": noisy,
        "enhanced": enhanced,
        "gain": gain,
        "clean_in": of_clean(middle, enhance),
        "noise_only_fall_db": of_noise(material, enhance),
        "gain_by_level": of_levels(middle, enhance),
        "real_time_factor": real_time_factor(enhance),
        "window_agreement": window_agreement(enhance, cases, MAX_S, CONTEXT_S),
    }


def main(words: Sequence[str] | None = None) -> dict[str, Any]:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    corpus.add_arguments(made)
    made.add_argument("--model", type=Path, default=Path("exported_models") / NAME / "1" / "model.onnx")
    arguments = made.parse_args(words)
    material = open_material(corpus.read_corpus(arguments.data), "test", arguments.runs)
    enhance = of_onnx(arguments.model)
    figures = judge(material, enhance)
    out = report_path(arguments.runs)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(figures, indent=2) + "\n", "utf-8")
    print(json.dumps(figures, indent=2))
    return figures


if __name__ == "__main__":
    main()
