"""Makes a model folder of scene weights that were trained elsewhere.

    python -m training.scene.importer --kind cp-resnet best.pt --labels scenes.txt --out models
    EARMARK_MODELS=models earmark serve

The checkpoint is what `torch.save` wrote of a `state_dict`, or a dict that holds one under `model`, `state_dict`,
`model_state_dict` or `weight`; the net may lie any number of levels down, behind a mel layer or MixStyle. It is read as
data: nothing in it runs. Labels stand one a line, in the order of the net's outputs.

A checkpoint does not say how its features were made, and no check can find it out: a net that hears other features than
it was trained on answers, and answers wrongly. So say it where it differs from the default: `--frames`, `--high-hz`,
and of ACDNet `--sample-rate` and `--samples`. Then compare a few answers with those of the training's own code.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from service.engine.manifest import BadManifest
from training.checkpoint import BadCheckpoint, load, read_weights, without_prefix
from training.complexity import Cost, of_net
from training.export import BadExport, Checked, package
from training.scene import acdnet, cp_resnet, cp_resnet_damped, mobileast, mobileast_first, passt
from training.scene.spectrum import COARSE, FINE, PASST, Hearing

Kind = Literal["acdnet", "cp-resnet", "cp-resnet-damped", "mobileast", "passt"]
KINDS: tuple[Kind, ...] = get_args(Kind)
OUTPUTS = {"clip": ("batch",), "frames": ("batch", "time"), "frame_lengths": ("batch",)}
PIECE_S = 10.0
LEAST_S = 0.25
HEARINGS = {44: COARSE, 64: FINE}
"""By frames of a second."""
AUDIOSET_HZ = 15_000.0
"""Highest edge of the mel bands that PaSST was trained with on AudioSet."""

WHAT: dict[Kind, str] = {
    "acdnet": "ACDNet: a learned filter bank on the waveform, then a dense net (Mohaimenuzzaman et al., 2023).",
    "cp-resnet": "CP-ResNet: a residual net with a bounded receptive field (Koutini et al., 2021).",
    "cp-resnet-damped": "CP-ResNet with frequency damping, folded into its weights (Koutini et al., 2020).",
    "mobileast": "A light MobileViT on spectrograms, after Mehta and Rastegari (2021).",
    "passt": "PaSST: a vision transformer on patches of a spectrogram (Koutini et al., 2022).",
}
CARD = """# {name}, version {version}

## What it does

Says which of {labels} labels a recording belongs to, {sort}, and how that changes over time, with a value every
{step_s:g} s.

{what}
{cost} for {seconds:g} s.

**To be written by who trained it**: what it is not for.

## How it hears

{hearing}.
The checkpoint does not say so: the import was told, or left at its defaults. **If the training made its features
otherwise, every answer is wrong.** Compare a few answers with those of the training's own code before you rely on one.
{windows}

## How good it is

Not measured here.

## How it came to be

**To be written by who trained it**: recordings, labels, epochs.

```
python -m training.scene.importer {command}
```

## Licence and sources

Licence of the weights: {licence}. **To be written by who trained it**: whose recordings it was trained on.
"""
FIXED = """It was made for windows of {seconds:g} s. A longer recording is cut into such windows, the last of which ends
where the recording ends; a shorter one is repeated until it fills one. The answer is their mean."""
FREE = """It takes any length. The answer of a piece comes of the mean of its frames' logits."""


@dataclass(frozen=True, slots=True)
class Told:
    """What no checkpoint says.

    Attributes:
        frames: of a second, of the features of CP-ResNet: 44 or 64.
        high_hz: highest edge of the mel bands; by default 16 kHz, of a PaSST for ten seconds 15 kHz.
        sample_rate, samples: of the windows that an ACDNet was made for.
        exclusive: one label holds at a time.
    """

    frames: int = 64
    high_hz: float | None = None
    sample_rate: int = 32_000
    samples: int = 32_000
    exclusive: bool = True


@dataclass(frozen=True, slots=True)
class Found:
    """A net with its weights, in the form that is exported, and where its frames lie.

    `window_s` is 0 where it takes any length; `context_s` is how far its frames hear there.
    """

    module: nn.Module
    labels: int
    hearing: str
    sample_rate: int
    step_s: float
    offset_s: float
    window_s: float = 0.0
    context_s: float = 0.0


def read(kind: Kind, weights: Mapping[str, Tensor], told: Told) -> Found:
    """The net of *kind* that *weights* belong to.

    Raises:
        BadCheckpoint: they are not those of such a net; the message names them.
    """
    match kind:
        case "acdnet":
            return _acdnet(weights, told)
        case "cp-resnet":
            return _cp_resnet(weights, told, is_damped=False)
        case "cp-resnet-damped":
            return _cp_resnet(weights, told, is_damped=True)
        case "mobileast":
            return _mobileast(weights, told)
        case "passt":
            return _passt(weights, told)


def _acdnet(weights: Mapping[str, Tensor], told: Told) -> Found:
    net, shape, own = acdnet.read(without_prefix(weights, acdnet.ANCHOR), told.sample_rate, told.samples)
    _fill(net, own)
    hearing = f"The waveform in -1…1, {shape.samples} samples at {shape.sample_rate} Hz"
    module = acdnet.export_form(net, shape, told.exclusive)
    return _fixed(module, shape.labels, hearing, shape.sample_rate, shape.samples)


def _cp_resnet(weights: Mapping[str, Tensor], told: Told, is_damped: bool) -> Found:
    own = without_prefix(weights, cp_resnet.ANCHOR)
    shape = cp_resnet.shape_of(own, (2, 4) if is_damped else (1, 2, 4))
    net = cp_resnet_damped.build(shape) if is_damped else cp_resnet.CpResNet(shape)
    _fill(net, own)
    if is_damped:
        net = cp_resnet_damped.folded(net, shape)
    hearing = _hearing(HEARINGS[told.frames], told)
    module = cp_resnet.Export(hearing, net, told.exclusive)
    step_s, offset_s, reach_s = cp_resnet.timing(shape, hearing)
    return Found(module, shape.labels, str(hearing), hearing.sample_rate, step_s, offset_s, context_s=reach_s)


def _mobileast(weights: Mapping[str, Tensor], told: Told) -> Found:
    own = without_prefix(weights, mobileast.ANCHOR)
    net: nn.Module
    if mobileast_first.is_first(own):
        first = mobileast_first.shape_of(own)
        net, labels = mobileast_first.FirstMobileAst(first), first.labels
    else:
        shape = mobileast.shape_of(own)
        net, labels = mobileast.MobileAst(shape), shape.labels
    _fill(net, own)
    hearing = _hearing(FINE, told)
    module = mobileast.export_form(net, hearing, told.exclusive)
    return _fixed(module, labels, str(hearing), hearing.sample_rate, mobileast.SAMPLES)


def _passt(weights: Mapping[str, Tensor], told: Told) -> Found:
    own = without_prefix(weights, passt.ANCHOR)
    shape = passt.shape_of(own)
    net = passt.Passt(shape)
    _fill(net, own)
    published = replace(PASST, high_hz=AUDIOSET_HZ) if shape.places == passt.AUDIOSET.places else PASST
    hearing = _hearing(published, told)
    module = passt.export_form(net, shape, hearing, told.exclusive)
    return _fixed(module, shape.labels, str(hearing), hearing.sample_rate, module.size)


def _fixed(module: nn.Module, labels: int, hearing: str, sample_rate: int, samples: int) -> Found:
    window_s = samples / sample_rate
    return Found(module, labels, hearing, sample_rate, window_s, window_s / 2, window_s)


def _hearing(usual: Hearing, told: Told) -> Hearing:
    return usual if told.high_hz is None else replace(usual, high_hz=told.high_hz)


def _fill(net: nn.Module, weights: dict[str, Tensor]) -> None:
    """Load *weights*; norms saved by an old PyTorch do not say how many batches they have seen, which nothing needs."""
    counters = {name: values for name, values in net.state_dict().items() if name.endswith("num_batches_tracked")}
    load(net, counters | weights)
    net.eval()


def read_labels(path: Path) -> list[str]:
    """Labels in *path*, one a line.

    Raises:
        BadCheckpoint: there is no such file, or no label in it.
    """
    try:
        labels = [line.strip() for line in path.read_text("utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise BadCheckpoint(f"{path}: cannot be read as labels: {error}") from error
    if not labels:
        raise BadCheckpoint(f"{path}: holds no labels")
    return labels


def manifest(
    kind: Kind, found: Found, labels: list[str], cost: Cost, told: Told, name: str, version: int, licence: str
) -> dict[str, Any]:
    """The tables of `model.toml`."""
    # A piece is whole windows, so that joined pieces hear what one pass would.
    piece_s = found.window_s * max(1, int(PIECE_S / found.window_s)) if found.window_s else PIECE_S
    return {
        "name": name,
        "version": version,
        "task": "scene",
        "title": f"{len(labels)} labels by {kind}, imported",
        "licence": licence,
        # The TorchScript file is compiled here, from this code and plain numbers.
        "trusted": True,
        "sample_rate": found.sample_rate,
        "exclusive": told.exclusive,
        "aggregate": "mean",
        "batching": {"mode": "padded", "max_items": 8, "max_seconds": 80.0},
        "window": {"min_s": LEAST_S, "max_s": piece_s, "context_s": found.context_s},
        "frames": {"step_s": found.step_s, "offset_s": found.offset_s},
        "figures": {
            "kind": kind,
            "features": found.hearing,
            "parameters": cost.parameters,
            "mmac_as_dcase_counts": round(cost.figure / 1e6, 3),
            "net_mmac": round(cost.macs / 1e6, 3),
            "front_end_mmac": round(cost.front_macs / 1e6, 3),
            "mmac_of_s": _cost_s(found),
        },
        "labels": [{"name": label} for label in labels],
    }


def _cost_s(found: Found) -> float:
    """Seconds whose cost is stated: a window, or one where there is none."""
    return found.window_s or 1.0


def import_checkpoint(
    path: Path,
    kind: Kind,
    labels: list[str],
    out: Path,
    told: Told,
    name: str,
    version: int = 1,
    licence: str = "not stated",
    command: str = "",
) -> tuple[Path, Checked]:
    """Write `out/name/version`, whole or not at all; returns it and how well its files agree.

    Args:
        labels: in the order of the net's outputs.
        command: what the card says the import was asked.

    Raises:
        BadCheckpoint: the file holds no such net, or one of another number of labels.
        BadExport: the formats disagree.
        BadManifest: name, version or labels cannot be.
    """
    found = read(kind, read_weights(path), told)
    if found.labels != len(labels):
        raise BadCheckpoint(f"the net has {found.labels} outputs, but {len(labels)} labels were given")
    samples = round(_cost_s(found) * found.sample_rate)
    cost = of_net(found.module, torch.zeros(1, samples), torch.tensor([samples]))
    tables = manifest(kind, found, labels, cost, told, name, version, licence)
    card = CARD.format(
        name=name,
        version=version,
        labels=len(labels),
        sort="exactly one" if told.exclusive else "any number",
        step_s=found.step_s,
        what=WHAT[kind],
        cost=cost,
        seconds=_cost_s(found),
        hearing=found.hearing,
        windows=FIXED.format(seconds=found.window_s) if found.window_s else FREE,
        command=command,
        licence=licence,
    )
    folder = out / name / str(version)
    return folder, package(found.module, OUTPUTS, tables, card, folder)


def main(arguments: list[str] | None = None) -> int:
    asked = sys.argv[1:] if arguments is None else arguments
    options = _options(asked)
    told = Told(options.frames, options.high_hz, options.sample_rate, options.samples, not options.several)
    try:
        folder, checked = import_checkpoint(
            options.checkpoint, options.kind, read_labels(options.labels), options.out, told,
            options.name or f"scene-{options.kind}", options.version, options.licence, " ".join(asked),
        )  # fmt: skip
    except (BadCheckpoint, BadExport, BadManifest) as error:
        print(f"not imported: {getattr(error, 'detail', error)}", file=sys.stderr)
        return 1
    print(f"{folder}: {checked}")
    return 0


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m training.scene.importer", description=__doc__.split("\n")[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--kind", choices=KINDS, required=True)
    parser.add_argument("--labels", type=Path, required=True, help="a file of one label a line, in the net's order")
    parser.add_argument("--out", type=Path, required=True, help="the model goes to OUT/NAME/VERSION")
    parser.add_argument("--name", help="(default: scene-KIND)")
    parser.add_argument("--version", type=int, default=1)
    parser.add_argument("--licence", default="not stated")
    parser.add_argument(
        "--several", action="store_true", help="any number of labels holds at a time (sigmoid); else exactly one"
    )
    parser.add_argument(
        "--frames", type=int, choices=sorted(HEARINGS), default=64,
        help="CP-ResNet: frames of a second, 44 for hop 744, 64 for hop 500 (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--high-hz", type=float, help="highest edge of the mel bands (default: as published)")
    parser.add_argument("--sample-rate", type=int, default=32_000, help="ACDNet (default: %(default)s)")
    parser.add_argument("--samples", type=int, default=32_000, help="ACDNet: of a window (default: %(default)s)")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
