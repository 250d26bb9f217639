"""Judges a trained net on speakers and recordings it never heard; prints the figures and keeps them as JSON.

    python -m training.quality.evaluate --data FOLDER --name blstm

For recordings of your own, with or without a trained run, see `training.quality.compare`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from tqdm import tqdm

from training.corpus import Corpus, Mono, add_arguments, read_corpus
from training.quality.hand import fit_line, measure_all
from training.quality.labels import RATE_HZ, Clips, Fact, Maker, labels_folder, score
from training.quality.measures import (
    agreement,
    area_under_curve,
    by_kind,
    by_range,
    calibration,
    interval,
    linear_correlation,
    rank_correlation,
)
from training.quality.model import Shape
from training.quality.probes import ladders, lengths, level_shift, locality, pieces
from training.quality.scorers import Heard, Scorer, dnsmos, trained
from training.quality.train import load_net
from training.simulate.levels import from_db, rms
from training.simulate.speech import AS_RECORDED

PIECE_S, CONTEXT_S = 10.24, 1.28
"""How the service is told to cut long recordings; both whole numbers of scores apart."""
LADDERS, CLIPS = 40, 40
"""Clips for each climb, and for finding the bad stretch."""


QUIET_DBFS = (-30.0, -40.0, -50.0, -60.0)
QUIET_CLIPS = 60
DNSMOS_CLIPS = 160


def heard_of(scorer: Scorer, clips: Clips) -> list[Heard]:
    """What *scorer* says of each clip, one at a time."""
    return [scorer(samples.astype(np.float32) / 32768) for samples in clips.waveforms()]


def on_labels(heard: list[Heard], facts: list[Fact], corpus: Corpus) -> dict[str, Any]:
    """Agreement with the labels: in all, by damage, reference, source, language, part of the scale, over speakers."""
    rows = [row for row, fact in enumerate(facts) if fact.label]
    known = [facts[row] for row in rows]
    predicted = np.array([heard[row].score for row in rows])
    labels = np.array([fact.label for fact in known])
    speakers = [fact.speaker for fact in known]
    source = {row.group: Path(row.path).parent.name for row in corpus}
    language = {row.group: row.language for row in corpus}
    return {
        "all": agreement(predicted, labels) | {"speakers": len(set(speakers)), "label_deviation": float(labels.std())},
        "lcc_interval": interval(predicted, labels, speakers, linear_correlation),
        "srcc_interval": interval(predicted, labels, speakers, rank_correlation),
        "calibration": calibration(predicted, labels),
        "by_damage": by_kind(predicted, labels, [fact.family for fact in known]),
        "by_reference": by_kind(predicted, labels, [fact.preparation for fact in known]),
        "by_source": by_kind(predicted, labels, [source[speaker] for speaker in speakers]),
        "by_language": by_kind(predicted, labels, [language[speaker] or "unknown" for speaker in speakers]),
        "by_band": by_kind(predicted, labels, ["narrow" if _is_narrow(fact) else "wide" for fact in known]),
        "by_range": by_range(predicted, labels),
        "pairs": [[round(float(one), 3), round(float(two), 3)] for one, two in zip(predicted, labels, strict=True)],
    }


def _is_narrow(fact: Fact) -> bool:
    """Whether it went through a telephone line or another band below 4 kHz."""
    codecs = {"gsm", "g721"}
    return any(
        "line_hz" in step["parameters"]  # type: ignore[operator]
        or step["parameters"].get("codec") in codecs  # type: ignore[attr-defined]
        or (0 < step["parameters"].get("high_hz", 0) < 4000 and step["family"] == "band")  # type: ignore[attr-defined]
        for step in fact.steps
    )


def unseen(heard: list[Heard], facts: list[Fact], without: list[str]) -> dict[str, float]:
    """Agreement on the clips that were damaged by kinds left out of the training, and by no other."""
    left_out = set(without)
    rows = [row for row, fact in enumerate(facts) if fact.label and {step["family"] for step in fact.steps} <= left_out]
    return agreement(np.array([heard[row].score for row in rows]), np.array([facts[row].label for row in rows]))


def knows_speech(heard: list[Heard], facts: list[Fact]) -> dict[str, Any]:
    """How well the share of speech parts clips with speech from others, and where a threshold would lie."""
    shares, spoken = np.array([one.speech for one in heard]), np.array([fact.label > 0 for fact in facts])
    return {
        "auc": area_under_curve(shares, spoken),
        "speechless": int((~spoken).sum()),
        "lowest_of_speech": _quantiles(shares[spoken], (0.0, 0.005, 0.01, 0.05)),
        "highest_of_others": _quantiles(shares[~spoken], (0.5, 0.9, 0.95, 1.0)),
    }


def _quantiles(values: NDArray[np.float64], at: tuple[float, ...]) -> list[float]:
    return [float(value) for value in np.quantile(values, at)] if len(values) else [0.0] * len(at)


def quiet(scorer: Scorer, maker: Maker, facts: list[Fact]) -> dict[str, dict[str, float]]:
    """Agreement with PESQ's own opinion of clips that were stored at a low level in 16 bits."""
    chosen = [fact for fact in facts if fact.label][:QUIET_CLIPS]
    pairs = [maker.pair(fact.attempt) for fact in chosen]
    found = {}
    for level_dbfs in QUIET_DBFS:
        stored = [_stored(heard, level_dbfs) for _, heard in pairs]
        labels = [score(ideal, heard) for (ideal, _), heard in zip(pairs, stored, strict=True)]
        known = [row for row, label in enumerate(labels) if label is not None]
        predicted = np.array([scorer(stored[row]).score for row in known])
        found[f"{level_dbfs:g}"] = agreement(predicted, np.array([labels[row] for row in known]))
    return found


def _stored(samples: Mono, level_dbfs: float) -> Mono:
    quieter = samples * np.float32(from_db(level_dbfs) / max(rms(samples), 1e-9))
    return (np.rint(np.clip(quieter, -1, 1) * 32767) / 32767).astype(np.float32)


def beside(runs: Path, split: str, heard: list[Heard], clips: Clips, corpus: Corpus) -> dict[str, Any] | None:
    """What DNSMOS says of the first `DNSMOS_CLIPS` clips, and the net of the same; None without DNSMOS.

    DNSMOS takes about half a second for each of its windows: it is asked once, and its scores are kept.
    """
    path, count = labels_folder(runs) / f"{split}.dnsmos.json", min(DNSMOS_CLIPS, len(clips.facts))
    scores = json.loads(path.read_text()) if path.exists() else []
    if len(scores) < count:
        scorer = dnsmos()
        if scorer is None:
            return None
        rest = clips.waveforms()[len(scores) : count]
        scores += [scorer(samples.astype(np.float32) / 32768).score for samples in tqdm(rest, desc="dnsmos")]
        path.write_text(json.dumps(scores))
    said = [Heard(value, np.zeros(0, np.float32)) for value in scores[:count]]
    found = {}
    for name, one in (("dnsmos", said), ("net", heard[:count])):
        agreed = on_labels(one, clips.facts[:count], corpus)
        found[name] = {"all": agreed["all"], "by_damage": agreed["by_damage"]}
    return found


def yardstick(runs: Path, split: str, count: int = 4000) -> dict[str, float]:
    """Agreement of a straight line through ten measurements, fitted on training clips."""
    train, test = Clips(labels_folder(runs), "train"), Clips(labels_folder(runs), split)
    known, asked = measure_all(train, count), measure_all(test, len(test.facts))
    learnt, scored = train.labels()[: len(known)], test.labels() > 0
    line = fit_line(known[learnt > 0], learnt[learnt > 0], asked[scored])
    return agreement(line, test.labels()[scored])


def behaviour(model: nn.Module, maker: Maker, step_s: float) -> dict[str, Any]:
    """The probes, on references and noise of the maker's split."""
    rng = np.random.default_rng(3)
    speech = [maker.voices.draw(rng, 4 * RATE_HZ, AS_RECORDED).waveform for _ in range(10)]
    long = [maker.voices.draw(rng, 25 * RATE_HZ, AS_RECORDED).waveform for _ in range(6)]
    spoilt = [maker.recipe.damage(rng, clip).waveform for clip in long]
    return {
        "ladders": ladders(model, maker, LADDERS),
        "level": level_shift(model, speech),
        "locality_auc": locality(model, maker, step_s, CLIPS),
        "halves_mae": lengths(model, [clip[: 10 * RATE_HZ] for clip in spoilt]),
        "pieces": pieces(model, spoilt, step_s, PIECE_S, CONTEXT_S),
    }


def _rounded(figures: Any) -> Any:
    if isinstance(figures, dict):
        return {key: _rounded(value) for key, value in figures.items()}
    if isinstance(figures, list | tuple):
        return [_rounded(value) for value in figures]
    return round(figures, 4) if isinstance(figures, float) else figures


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m training.quality.evaluate", description=__doc__.split("\n")[0])
    add_arguments(parser)
    parser.add_argument("--name", default="blstm", help="run to judge (default: %(default)s)")
    parser.add_argument("--split", default="test", choices=("val", "test"))
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    folder = options.runs / "quality" / options.name
    model, settings = load_net(folder)
    shape, corpus = Shape.from_table(settings["shape"]), read_corpus(options.data)
    clips = Clips(labels_folder(options.runs), options.split)
    scorer, facts = trained(model), clips.facts
    heard = heard_of(scorer, clips)
    figures = on_labels(heard, facts, corpus)
    figures |= {"speech": knows_speech(heard, facts), "straight_line": yardstick(options.runs, options.split)}
    if settings["without"]:
        figures["unseen"] = unseen(heard, facts, settings["without"])
    figures |= {"quiet": quiet(scorer, Maker(corpus, options.split, options.runs, seed=0), facts)}
    figures |= behaviour(model, Maker(corpus, options.split, options.runs, seed=1), shape.step_s)
    figures |= {
        "beside": beside(options.runs, options.split, heard, clips, corpus) if options.split == "test" else None,
        "parameters": sum(weights.numel() for weights in model.parameters()),
        "clips_trained_on": settings["clips"],
    }
    figures = _rounded(figures)
    (folder / f"figures-{options.split}.json").write_text(json.dumps(figures) + "\n", "utf-8")
    print(json.dumps({name: value for name, value in figures.items() if name != "pairs"}, indent=1))


if __name__ == "__main__":
    main()
