"""`python -m benchmarks.plot FOLDER`: a table (`results.md`) and a drawing (`results.svg`) from the JSON in a folder.

The drawing is written by hand: it needs a few lines and no library. Left: latency over load, from http.json. Right:
Earmark's throughput over each peer's at equal p99, from peers.json. What is not there is not drawn.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from benchmarks.record import table

WIDTH, HEIGHT, LEFT, BOTTOM = 460, 300, 60, 50
COLOURS = ("#1b6ca8", "#d1495b", "#66a182", "#edae49")
MEASURES = {"p50_ms": "median", "p99_ms": "p99"}


@dataclass
class Drawing:
    """An SVG that grows."""

    parts: list[str] = field(default_factory=list)
    width: int = 0

    def text(self, x: float, y: float, words: str, anchor: str = "middle", size: int = 12, turn: bool = False) -> None:
        turned = f' transform="rotate(-90 {x:.1f} {y:.1f})"' if turn else ""
        style = f'text-anchor="{anchor}" font-size="{size}"'
        self.parts.append(f'<text x="{x:.1f}" y="{y:.1f}" {style}{turned}>{escape(words)}</text>')

    def line(self, points: Sequence[tuple[float, float]], colour: str = "#999", width: float = 1.0) -> None:
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self.parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}"/>')

    def box(self, x: float, y: float, width: float, height: float, colour: str) -> None:
        place = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'
        self.parts.append(f'<rect {place} fill="{colour}"/>')

    def svg(self) -> str:
        size = f'width="{self.width}" height="{HEIGHT + 40}" viewBox="0 0 {self.width} {HEIGHT + 40}"'
        ground = '<rect width="100%" height="100%" fill="white"/>'
        head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif">'
        return "\n".join([head, ground, *self.parts, "</svg>\n"])


def scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    """Linear from *low*…*high* to *start*…*end*."""
    return lambda value: start + (value - low) / (high - low) * (end - start)


def latency(drawing: Drawing, loads: Sequence[dict[str, Any]]) -> None:
    """Latency, logarithmic, over load as a share of capacity."""
    right, top, floor = drawing.width + WIDTH - 20, 40, HEIGHT - BOTTOM + 40
    values = [row[key] for row in loads for key in MEASURES if row[key]]
    x = scale(0.0, max(row["share"] for row in loads), drawing.width + LEFT, right)
    decades = range(math.floor(math.log10(min(values))), math.ceil(math.log10(max(values))) + 1)
    y = scale(decades[0], decades[-1], floor, top)
    drawing.text(drawing.width + WIDTH / 2, 22, "Latency under load", size=14)
    for decade in decades:
        drawing.line([(drawing.width + LEFT, y(decade)), (right, y(decade))], "#ddd")
        drawing.text(drawing.width + LEFT - 6, y(decade) + 4, f"{10.0**decade:g} ms", "end")
    for row in loads:
        drawing.text(x(row["share"]), floor + 18, f"{row['share']:g}")
    drawing.text((drawing.width + LEFT + right) / 2, floor + 38, "load, as a share of capacity")
    for colour, (key, name) in zip(COLOURS, MEASURES.items(), strict=False):
        points = [(x(row["share"]), y(math.log10(row[key]))) for row in loads if row[key]]
        drawing.line(points, colour, 2.5)
        drawing.text(points[-1][0], points[-1][1] - 8, name, "end")
    drawing.width += WIDTH


def ratios(drawing: Drawing, peers: dict[str, dict[str, Any]]) -> None:
    """A bar for each peer and mix: median of the rounds, the line at 1 is a tie."""
    bars = [(mix, name, middle) for mix, of in peers.items() for name, found in of.items() if (middle := _ratio(found))]
    if not bars:
        return
    names = list(dict.fromkeys(name for _, name, _ in bars))
    mixes = list(dict.fromkeys(mix for mix, _, _ in bars))
    left, right, top, floor = drawing.width + LEFT, drawing.width + WIDTH - 20, 40, HEIGHT - BOTTOM + 40
    y = scale(0.0, max(1.5, *(middle for _, _, middle in bars)) * 1.1, floor, top)
    slot = (right - left) / len(names)
    drawing.text((left + right) / 2, 22, "Throughput over each peer's, at equal p99", size=14)
    for mix, name, middle in bars:
        width = 0.8 * slot / len(mixes)
        x = left + slot * (names.index(name) + 0.1) + width * mixes.index(mix)
        drawing.box(x, y(middle), width, floor - y(middle), COLOURS[mixes.index(mix) % len(COLOURS)])
        drawing.text(x + width / 2, y(middle) - 4, f"{middle:.2f}", size=11)
    for i, name in enumerate(names):
        drawing.text(left + slot * (i + 0.5), floor + 18, name)
    for i, mix in enumerate(mixes):
        drawing.box(left + 90 * i, floor + 28, 10, 10, COLOURS[i % len(COLOURS)])
        drawing.text(left + 90 * i + 15, floor + 38, mix, "start")
    drawing.line([(left, y(1.0)), (right, y(1.0))], "#333")
    drawing.text(left - 6, y(1.0) + 4, "1", "end")
    drawing.width += WIDTH


def summary(results: dict[str, dict[str, Any]]) -> str:
    """Every figure of every file as rows, and what it was measured on; a peer's many loads are left to the JSON."""
    blocks = []
    for name, document in results.items():
        about = ", ".join(f"{key} {value}" for key, value in document["machine"].items())
        rows = [(path, value) for path, value in _leaves(document, "") if not _is_left_out(path)]
        blocks.append(f"## {name}\n\n{about}\n\n{table(('figure', 'value'), rows)}\n")
    return "\n".join(blocks)


def _is_left_out(path: str) -> bool:
    return path.startswith("machine") or ", loads " in path.partition(", rounds ")[2]


def _leaves(value: Any, path: str) -> list[tuple[str, object]]:
    if isinstance(value, dict):
        return [leaf for key, one in value.items() for leaf in _leaves(one, f"{path}, {key}" if path else str(key))]
    if isinstance(value, list):
        return [leaf for i, one in enumerate(value) for leaf in _leaves(one, f"{path} {i + 1}") if _is_plain(leaf[1])]
    return [(path, value)] if _is_plain(value) else []


def _is_plain(value: object) -> bool:
    return value is None or isinstance(value, int | float | str)


def _ratio(found: dict[str, Any]) -> float | None:
    values = [pair["ratio"] for pair in found.get("rounds", ()) if pair["ratio"]]
    return statistics.median(values) if values else None


def draw(results: dict[str, dict[str, Any]]) -> str | None:
    """The SVG, or None where there is nothing to draw."""
    drawing = Drawing()
    if loads := [row for row in results.get("http", {}).get("http", {}).get("loads", ()) if row["p50_ms"]]:
        latency(drawing, loads)
    if peers := results.get("peers", {}).get("peers"):
        ratios(drawing, peers)
    return drawing.svg() if drawing.width else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    results = {path.stem: json.loads(path.read_text("utf-8")) for path in sorted(folder.glob("*.json"))}
    (folder / "results.md").write_text(summary(results), "utf-8")
    if svg := draw(results):
        (folder / "results.svg").write_text(svg, "utf-8")
    print(f"{folder / 'results.md'}" + (f", {folder / 'results.svg'}" if svg else ""))


if __name__ == "__main__":
    main()
