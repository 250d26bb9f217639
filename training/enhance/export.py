"""Writes the trained enhancer as a version folder.

`python -m training.enhance.export --data DIR --runs DIR --version 1`. Figures come from
`training.enhance.evaluate`, which judges the finished ONNX file, so an export is made in two calls: once without
figures (`--draft`), then, after the evaluation of that file, with them. The graphs are the same.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.corpus import Corpus, add_arguments, read_corpus
from training.enhance.evaluate import CONTEXT_S, EACH, MAX_S, NAME, report_path
from training.enhance.network import BINS, FRAME_SAMPLES, HOP_SAMPLES, SAMPLE_RATE_HZ, Enhancer
from training.enhance.train import SHAPE, run_folder
from training.export import package

OUTPUTS = {"enhanced": ("batch", "samples")}


def trained(folder: Path, last: bool = False) -> Enhancer:
    """The best weights of a run by validation, or the average at its end."""
    if last:
        average: dict[str, Tensor] = torch.load(folder / "last.pt", weights_only=True)["average"]
        head = "module."
        weights = {name.removeprefix(head): value for name, value in average.items() if name.startswith(head)}
    else:
        weights = torch.load(folder / "best.pt", weights_only=True)["model"]
    model = Enhancer(SHAPE)
    model.load_state_dict(weights)
    return model.eval()


def used_rows(corpus: Corpus) -> Corpus:
    """Every recording that training, validation or test hears."""
    return (
        corpus.select(kind="speech", clear=True)
        + corpus.select(use="noise")
        + corpus.select(kind="rir").select(split="train")
    )


def manifest(version: int, found: dict[str, Any] | None) -> dict[str, Any]:
    """Tables of `model.toml`; *found* is the evaluation's answer, None for a draft."""
    tables = {
        "name": NAME,
        "version": version,
        "task": "enhance",
        "title": "Speech without its noise, 16 kHz, causal",
        "licence": "Apache-2.0",
        "default": True,
        "trusted": True,
        "sample_rate": SAMPLE_RATE_HZ,
        "batching": {"mode": "padded", "max_items": 8, "max_seconds": 80.0},
        "window": {"min_s": 0.0, "max_s": MAX_S, "context_s": CONTEXT_S},
    }
    if found is None:
        return tables
    floor_noisy, floor = found["noisy"]["floor"], found["enhanced"]["floor"]
    tables["window"]["agreement"] = found["window_agreement"]
    tables["figures"] = {
        "split": "test",
        "mixtures": found["mixtures"],
        "snr_db": "0, 5, 10",
        "si_sdr_db_noisy": floor_noisy["si_sdr_db"],
        "si_sdr_db": floor["si_sdr_db"],
        "pesq_wb_noisy": floor_noisy["pesq_wb"],
        "pesq_wb": floor["pesq_wb"],
        "stoi_noisy": floor_noisy["stoi"],
        "stoi": floor["stoi"],
        "noise_only_fall_db": found["noise_only_fall_db"],
        "clean_in_si_sdr_db": found["clean_in"]["si_sdr_db"],
        "real_time_factor": found["real_time_factor"],
    }
    return tables


def card(
    version: int, model: Enhancer, found: dict[str, Any], history: Sequence[dict[str, float]], corpus: Corpus
) -> str:
    levels = {level.removesuffix("_dbfs"): gain for level, gain in found["gain_by_level"].items()}
    return CARD.format(
        name=NAME,
        version=version,
        parameters=sum(one.numel() for one in model.parameters()),
        frame=FRAME_SAMPLES,
        hop=HOP_SAMPLES,
        bins=BINS,
        latency_ms=round(1000 * (FRAME_SAMPLES - HOP_SAMPLES) / SAMPLE_RATE_HZ),
        mixtures=found["mixtures"],
        speakers=found["speakers"],
        each=EACH,
        rows=_rows(found),
        clean=found["clean_in"],
        fall=found["noise_only_fall_db"],
        levels=", ".join(f"{gain:+.1f} dB at {level} dBFS" for level, gain in levels.items()),
        factor=found["real_time_factor"],
        agreement=found["window_agreement"],
        max_s=MAX_S,
        context_s=CONTEXT_S,
        epochs=len(history),
        files=len(corpus),
        minutes=corpus.seconds / 60,
        credits="\n".join(corpus.credits()),
    )


def _rows(found: dict[str, Any]) -> str:
    names = {"floor": "0, 5 and 10 dB together", "all": "all"}
    lines = []
    for name, noisy in found["noisy"].items():
        given = found["enhanced"][name]
        label = names.get(name, name.replace("_db", " dB"))
        lines.append(
            f"| {label} | {noisy['si_sdr_db']:.2f} → {given['si_sdr_db']:.2f} "
            f"| {noisy['pesq_wb']:.2f} → {given['pesq_wb']:.2f} | {noisy['stoi']:.3f} → {given['stoi']:.3f} |"
        )
    return "\n".join(lines)


CARD = """# {name}, version {version}

## What it does

Takes steady and changing noise from speech at 16 kHz, sample by sample aligned with its input and as long as it.

A causal net of {parameters} parameters on a transform of {frame} samples every {hop}: overlapping patches of bins
become 32 and then 16 bands, convolutions over bands and past frames and one recurrent layer over all bands follow, and
a complex mask for each of {bins} bins comes out. The transform and its inverse are inside the graph. An output sample
needs at most the {hop} samples' block behind it: {latency_ms} ms of look-ahead.

## Data and split

Clear speech, recorded noise and room responses of one corpus; noises are also computed (coloured, swelling, hum,
clicks, babble of the training's own talkers). {files} recordings, {minutes:.0f} minutes in all splits together.
Speakers and original recordings never cross splits: no voice and no noise recording of the figures below was heard in
training or validation. Most kinds of noise are the same in all splits, so a new kind may come off worse.

## Figures

{mixtures} mixtures of 3.5 to 6 s, {each} for each ratio, {speakers} speakers of the test split, at -28 dBFS, the
ratio being that of whole powers; noisy → enhanced, by `python -m training.enhance.evaluate --data DIR --runs DIR`:

| ratio | SI-SDR, dB | PESQ-WB | STOI |
|---|---|---|---|
{rows}

By the same command:

- clean speech in: SI-SDR {clean[si_sdr_db]:.1f} dB, PESQ-WB {clean[pesq_wb]:.2f} are left;
- noise alone falls by {fall:.1f} dB on average;
- gain of SI-SDR at 5 dB with the input at other levels: {levels};
- real-time factor on one core of the machine that trained it: {factor};
- pieces of {max_s:g} s with {context_s:g} s of context on both sides agree with one pass to {agreement:.1e}.

No re-alignment is done before SI-SDR. One list of this size moves by some tenths of a dB with its seed.

## Training

```
python -m training.enhance.train --data DIR --runs DIR --items 8 --seconds 1.5 --stop-after 31
python -m training.enhance.train --data DIR --runs DIR
python -m training.enhance.train --data DIR --runs DIR --epochs 92 --rate 1.5e-3
python -m training.enhance.export --data DIR --runs DIR --version {version} --last --draft
python -m training.enhance.evaluate --data DIR --runs DIR
python -m training.enhance.export --data DIR --runs DIR --version {version} --last
```

{epochs} epochs of 100 batches on one thread of a CPU, mixtures drawn on the fly: -6 to 18 dB, a room in three of
ten, levels of -40 to -15 dBFS, one in twenty without noise and one without speech; compressed spectral loss and SI-SNR;
AdamW with warm-up and cosine. Exported is the average of weights at the end, whose PESQ in validation was better than
that of the epoch with the best SI-SDR there. In this run `--epochs` was changed on the way (50, then 62 from epoch 19,
72 from 29, 58 from 38, then 92 with `--rate 1.5e-3` from 58) and the random start of the recurrent layer began with
epoch 22. The weights of epoch 58 had been judged on the test list too: +4.00 dB, +0.227 PESQ-WB, -0.0014 STOI.

## Limits

- Not for forensic use or as evidence, nor for medical or safety decisions: it removes and reshapes parts of speech.
- Nothing above 8 kHz is enhanced.
- One voice: a second talker behind the first may be kept or taken away. Music and singing are not meant.
- It takes noise, not the room: of reverberation only what follows 50 ms after the direct sound was to be taken.
- A training of about an hour on a small corpus: larger models trained longer take more noise away.

## Licence

Apache-2.0 for weights and code.

## Sources

{credits}
"""


def main(words: Sequence[str] | None = None) -> Path:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add_arguments(made)
    made.add_argument("--version", type=int, required=True)
    made.add_argument("--draft", action="store_true", help="without figures, to be evaluated")
    made.add_argument("--last", action="store_true", help="the average at the run's end, not the best of validation")
    made.add_argument("--out", type=Path, default=Path("exported_models"))
    arguments = made.parse_args(words)
    model = trained(run_folder(arguments.runs), arguments.last)
    found = None if arguments.draft else json.loads(report_path(arguments.runs).read_text("utf-8"))
    text = "# Draft\n"
    if found is not None:
        history = [json.loads(line) for line in (run_folder(arguments.runs) / "history.jsonl").read_text().splitlines()]
        text = card(arguments.version, model, found, history, used_rows(read_corpus(arguments.data)))
    folder: Path = arguments.out / NAME / str(arguments.version)
    print(package(model, OUTPUTS, manifest(arguments.version, found), text, folder))
    return folder


if __name__ == "__main__":
    main()
