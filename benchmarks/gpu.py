"""`python -m benchmarks.gpu`: what a CUDA device does with the shipped models, beside one core of the machine it is in.

Clips of ten seconds in batches of growing size; lengths that never repeat against few shapes; one batch in flight
against two; the time that copying takes; and the whole queue on mixed lengths.
"""

from __future__ import annotations

import argparse
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.engine import recordings, through_engine
from benchmarks.record import save, table
from service.backends.base import Backend, Device
from service.engine import padding
from service.engine.loading import Loaded, load
from service.engine.manifest import read_manifest
from service.settings import embedded_models
from service.values import Arrays

SIZES = (1, 4, 16, 64)
CLIP_S = 10.0


def clips(loaded: Loaded, items: int, length_s: float = CLIP_S) -> Arrays:
    samples = round(length_s * loaded.manifest.sample_rate)
    rng = np.random.default_rng(items)
    return padding.assemble([rng.normal(0, 0.1, samples).astype(np.float32) for _ in range(items)])


def seconds_of(work: Callable[[], object], budget_s: float = 0.8) -> float:
    """The median of as many runs as fit, after two that do not count."""
    work(), work()
    taken: list[float] = []
    until = time.perf_counter() + budget_s
    while not taken or time.perf_counter() < until:
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return float(np.median(taken))


def by_size(loaded: Loaded, sizes: Sequence[int]) -> dict[str, float]:
    """Seconds of audio a second, by items in a batch."""
    found = {}
    for items in sizes:
        batch = clips(loaded, items)
        found[f"{items}"] = round(items * CLIP_S / seconds_of(lambda batch=batch: loaded.backend.run(batch)))  # type: ignore[misc]
    return found


def in_flight(backend: Backend, batch: Arrays, threads: int, runs: int = 24) -> float:
    """Batches a second with so many of them at once."""

    def work() -> None:
        for _ in range(runs // threads):
            backend.run(batch)

    began = time.perf_counter()
    crew = [threading.Thread(target=work) for _ in range(threads)]
    for thread in crew:
        thread.start()
    for thread in crew:
        thread.join()
    return runs // threads * threads / (time.perf_counter() - began)


def shapes(loaded: Loaded, runs: int = 24) -> dict[str, float]:
    """Milliseconds a run when no length comes twice, as it comes and in the shapes that the engine makes of it."""
    rate, rng = loaded.manifest.sample_rate, np.random.default_rng(3)
    lengths = rng.integers(2 * rate, min(10.0, loaded.manifest.window.max_s) * rate, runs)
    batches = [padding.assemble([rng.normal(0, 0.1, length).astype(np.float32)] * 4) for length in lengths]
    found = {}
    for name, shape in (("new shapes", lambda batch: batch), ("bucketed", padding.bucketed)):
        shaped = [shape(batch) for batch in batches]  # type: ignore[no-untyped-call]
        began = time.perf_counter()
        for batch in shaped:
            loaded.backend.run(batch)
        found[name] = round(1000 * (time.perf_counter() - began) / runs, 2)
        began = time.perf_counter()
        for batch in shaped:
            loaded.backend.run(batch)
        found[f"{name}, again"] = round(1000 * (time.perf_counter() - began) / runs, 2)
    return found


def copying_ms(batch: Arrays) -> float | None:
    """Milliseconds to bring a batch to the device from ordinary memory; None where torch cannot tell."""
    try:
        import torch
    except ImportError:
        return None
    waveform = torch.from_numpy(batch[padding.WAVEFORM])

    def copy() -> None:
        waveform.to("cuda")
        torch.cuda.synchronize()

    return 1000 * seconds_of(copy, 0.2)


def one_model(folder: Path, device: Device, backend: str) -> dict[str, object]:
    manifest = read_manifest(folder)
    chosen = manifest.model_copy(update={"files": tuple(file for file in manifest.files if file.backend == backend)})
    began = time.perf_counter()
    loaded = load(folder, chosen, device)
    found: dict[str, object] = {
        "provider": loaded.backend.provider,
        "load_s": round(time.perf_counter() - began, 2),
        "batching": loaded.policy.mode,
        "note": loaded.note,
        "x_real_time": by_size(loaded, SIZES if device == "cuda" else SIZES[:2]),
    }
    if device == "cuda":
        batch = clips(loaded, 16)
        one, two = in_flight(loaded.backend, batch, 1), in_flight(loaded.backend, batch, 2)
        copied_ms, run_ms = copying_ms(batch), 1000 * seconds_of(lambda: loaded.backend.run(batch))
        found |= {
            "two_in_flight": round(two / one, 3),
            "copying_share": None if copied_ms is None else round(copied_ms / run_ms, 4),
            "run_of_16_ms": round(run_ms, 2),
            "shapes_ms": shapes(loaded),
            "cost_items": list(loaded.cost.items),
            "queue_mixed_x": round(queue_speed(loaded, 2)),
            "queue_mixed_x_one_in_flight": round(queue_speed(loaded, 1)),
        }
    loaded.backend.close()
    return found


def queue_speed(loaded: Loaded, at_once: int) -> float:
    """Seconds of audio a second through the queue, 1 to 30 s mixed and cut to the model's window."""
    items = recordings(loaded, "even", 2.0)[:2000]
    rule = (replace(loaded.policy, device="cuda"), loaded.cost)
    through_engine(loaded.backend, loaded, rule, items[:128], workers=at_once)
    return through_engine(loaded.backend, loaded, rule, items, workers=at_once).speed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    found: dict[str, dict[str, object]] = {}
    for folder in sorted(path.parent for path in embedded_models().glob("*/*/model.toml")):
        for backend in ("onnx", "torchscript"):
            for device in dict.fromkeys((given.device, "cpu")):
                name = f"{folder.parent.name}, {backend}, {device}"
                try:
                    found[name] = one_model(folder, device, backend)
                except Exception as error:
                    found[name] = {"error": f"{type(error).__name__}: {error}"[:500]}
                print(name, found[name], flush=True)
                save({"gpu": found}, given.out)
    rows = [(name, *(row.get("x_real_time", {}).get(f"{size}", "") for size in SIZES)) for name, row in found.items()]  # type: ignore[attr-defined]
    print(table(("x real time, batches of", *map(str, SIZES)), rows))


if __name__ == "__main__":
    main()
