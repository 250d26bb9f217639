"""Makes a model folder of weights that were trained elsewhere, of a net as `training.quality.note` has it.

    python -m training.quality.importer --kind blstm-attn best.pt --out models
    EARMARK_MODELS=models earmark serve

The checkpoint is what `torch.save` wrote of a `state_dict`, or a dict that holds one under `model`, `state_dict` or
`model_state_dict`; names may begin with `module.`, as those of `DataParallel` do. It is read as data: nothing in it
runs.

A checkpoint does not say how its features were made, and no check can find it out: a net that hears other features than
it was trained on answers, and answers wrongly. So say it: `--log` (the default) or `--magnitude`, `--window` and
`--level`, then compare a few scores with those of the training's own code.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from service.engine.manifest import BadManifest
from training.checkpoint import BadCheckpoint, load, read_weights
from training.export import BadExport, Checked, package
from training.quality import note
from training.quality.export import MIN_S
from training.quality.model import KINDS, LEAST, MOST, Kind
from training.quality.spectrum import RATE_HZ, Hearing, served

OUTPUTS = {"score": ("batch",), "frames": ("batch", "time"), "frame_lengths": ("batch",)}
PIECE_S = 10.24
CONTEXT_S = {"blstm": 1.28, "blstm-attn": 1.28, "cnn": 1.024, "cnn-se": 1.024}
"""By which pieces overlap on both sides: whole numbers of each kind's steps."""

WHAT = {
    "blstm": "Two bidirectional LSTMs of 100 and a head of 50, after Quality-Net (Fu et al., Interspeech 2018).",
    "blstm-attn": "Two bidirectional LSTMs of 100, attention restricted to 64 frames on each side, and a head of 50.",
    "cnn": "Four blocks of dilated convolutions, each step of which is 64 frames, and a linear head.",
    "cnn-se": "Four blocks of dilated convolutions with squeeze-and-excitation, each step 64 frames; a linear head.",
}
KNOWN = {
    "blstm": "",
    "blstm-attn": """
Its attention leaves out what is far only after the weights were shared out, so that the longer a clip, the less its
frames see: scores of clips much longer than those it was trained on, or much shorter, are off. Import it with
`--piece-s` at the length it was trained on.""",
    "cnn": """
Its curve has a value a second and each hears up to 24 s, so it says little of where the damage is; up to a second at
the end of a clip is not heard. Clips below 1.1 s are repeated up to there. Trained on clips of 4 s, the outer taps of
its last blocks never met a sound and are as they were drawn at first: import it with `--piece-s` at the length it was
trained on.""",
}
KNOWN["cnn-se"] = KNOWN["cnn"]
"""What its own arithmetic makes of a net, for the card."""
CARD = """# {name}, version {version}

## What it does

Says how good speech sounds as PESQ wide band (ITU-T P.862.2, 1.0…4.64), without the undamaged reference: one score, and
a curve with a value every {step_ms} ms whose mean is the score.

{what}
{parameters} parameters, imported from a checkpoint. Net and arithmetic are those of the first writing ("faithful"), not
those of the corrected nets.

**Not for** music, or sounds other than speech. **To be written by who trained it**: what else it is not for.

## How it hears

At 16 kHz: {hearing}, 512 samples every 256, centred.
The checkpoint does not say so: the import was told, or left at its defaults. **If the training made its features
otherwise, every score is wrong.** Compare a few scores with those of the training's own code before you rely on one.

## How good it is

Not measured here. Its score may leave the scale at either end: nothing bounds it.{known}

## How it came to be

**To be written by who trained it**: labels, recordings, damage, epochs.

```
python -m training.quality.importer {command}
```

## Licence and sources

Licence of the weights: {licence}. **To be written by who trained it**: whose recordings it was trained on.
"""


def manifest(kind: Kind, net: note.NoteNet, name: str, version: int, licence: str, piece_s: float) -> dict[str, Any]:
    """The tables of `model.toml`.

    Raises:
        ValueError: a piece of *piece_s* would be all context.
    """
    least_s = 2 * CONTEXT_S[kind] + net.step_s
    if piece_s < least_s:
        raise ValueError(f"pieces of {piece_s:g} s are too short; {least_s:g} s is the least")
    return {
        "name": name,
        "version": version,
        "task": "quality",
        "title": f"PESQ-WB without a reference, {kind}, imported",
        "licence": licence,
        # The TorchScript file is compiled here, from this code and plain numbers.
        "trusted": True,
        "sample_rate": RATE_HZ,
        "batching": {"mode": "padded", "max_items": 8, "max_seconds": 80.0},
        "window": {"min_s": MIN_S, "max_s": piece_s, "context_s": CONTEXT_S[kind]},
        "frames": {"step_s": net.step_s, "offset_s": net.offset_s},
        "scales": [{"key": "pesq", "name": "PESQ-WB", "min": LEAST, "max": MOST, "better": "higher"}],
        "figures": {
            "variant": "faithful",
            "kind": kind,
            "features": str(net.front.hearing),
            "parameters": sum(weights.numel() for weights in net.parameters()),
        },
    }


def import_checkpoint(
    path: Path,
    kind: Kind,
    out: Path,
    hearing: Hearing,
    name: str,
    version: int = 1,
    licence: str = "not stated",
    piece_s: float = PIECE_S,
    sizes: tuple[int, int] = (note.FILTER, note.FEATURE),
    command: str = "",
) -> tuple[Path, Checked]:
    """Write `out/name/version`, whole or not at all; returns it and how well its files agree.

    Args:
        sizes: filter and feature size of the convolutional kinds.
        command: what the card says the import was asked.

    Raises:
        BadCheckpoint: see `read_weights` and `load`.
        BadExport: the formats disagree.
        BadManifest: name or version cannot be.
        ValueError: sizes or *piece_s* cannot be.
    """
    net = note.build(kind, hearing, *sizes)
    load(net, read_weights(path))
    tables = manifest(kind, net, name, version, licence, piece_s)
    card = CARD.format(
        name=name,
        version=version,
        step_ms=round(1000 * net.step_s),
        what=WHAT[kind],
        parameters=tables["figures"]["parameters"],
        hearing=_words(hearing),
        known=KNOWN[kind],
        command=command,
        licence=licence,
    )
    folder = out / name / str(version)
    return folder, package(net.eval(), OUTPUTS, tables, card, folder, onnx=served(net))


def _words(hearing: Hearing) -> str:
    feature = "(log10(power + 1e-10) + 4) / 3" if hearing.feature == "log" else "plain magnitudes"
    level = {
        "rms": "brought to an RMS of 0.05",
        "peak": "brought to a peak of 1",
        "none": "in -1…1 at its own level",
    }[hearing.level]
    return f"{feature} of the waveform {level}, {hearing.window.title()} window"


def main(arguments: list[str] | None = None) -> int:
    asked = sys.argv[1:] if arguments is None else arguments
    options = _options(asked)
    try:
        folder, checked = import_checkpoint(
            options.checkpoint, options.kind, options.out, Hearing(options.feature, options.window, options.level),
            options.name or f"quality-{options.kind}-note", options.version, options.licence, options.piece_s,
            (options.filter, options.feature_dim), " ".join(asked),
        )  # fmt: skip
    except (BadCheckpoint, BadExport, BadManifest, ValueError) as error:
        print(f"not imported: {getattr(error, 'detail', error)}", file=sys.stderr)
        return 1
    print(f"{folder}: {checked}")
    return 0


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m training.quality.importer", description=__doc__.split("\n")[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--kind", choices=KINDS, required=True)
    parser.add_argument("--out", type=Path, required=True, help="the model goes to OUT/NAME/VERSION")
    parser.add_argument("--name", help="(default: quality-KIND-note)")
    parser.add_argument("--version", type=int, default=1)
    parser.add_argument("--licence", default="not stated")
    feature = parser.add_mutually_exclusive_group()
    feature.add_argument(
        "--log", dest="feature", action="store_const", const="log", default="log",
        help="features are (log10(power + 1e-10) + 4) / 3 (the default)",
    )  # fmt: skip
    feature.add_argument("--magnitude", dest="feature", action="store_const", const="magnitude", help="|STFT| as it is")
    parser.add_argument("--window", choices=("hann", "hamming"), default="hann", help="(default: %(default)s)")
    parser.add_argument(
        "--level", choices=("rms", "peak", "none"), default="rms",
        help="what the waveform was divided by: 20 times its RMS, its peak, nothing (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--piece-s", type=float, default=PIECE_S,
        help="longest piece that runs at once; best the length of the training's clips (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--filter", type=int, default=note.FILTER, help="of the CNNs (default: %(default)s)")
    parser.add_argument("--feature-dim", type=int, default=note.FEATURE, help="of the CNNs (default: %(default)s)")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
