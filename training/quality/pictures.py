"""The pictures of the report, as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.plot import Drawing, scale
from training.corpus import Mono

Values = NDArray[np.floating[Any]]

SIDE, EDGE = 320, 46
BLUE, GREY = "#1b6ca8", "#bbb"
COLOURS = (BLUE, "#d1495b", "#66a182", "#edae49", "#7a5195")
LOW, HIGH = 1.0, 4.64


def calibration_plot(title: str, marks: Sequence[tuple[float, float]], bins: int = 10) -> str:
    """A dot for each clip (predicted, label), and the mean label of each tenth of the predictions."""
    drawing = Drawing(width=SIDE + 2 * EDGE)
    x, y = scale(LOW, HIGH, EDGE, EDGE + SIDE - 60), scale(LOW, HIGH, SIDE - 20, 40)
    drawing.text((x(LOW) + x(HIGH)) / 2, 22, title, size=14)
    for tick in (1, 2, 3, 4):
        drawing.line([(x(LOW), y(tick)), (x(HIGH), y(tick))], "#eee")
        drawing.text(x(LOW) - 8, y(tick) + 4, str(tick), "end")
        drawing.text(x(tick), y(LOW) + 18, str(tick))
    drawing.text((x(LOW) + x(HIGH)) / 2, y(LOW) + 36, "score")
    drawing.text(16, (y(LOW) + y(HIGH)) / 2, "PESQ-WB", turn=True)
    for predicted, label in marks:
        drawing.box(x(min(max(predicted, LOW), HIGH)) - 1, y(min(max(label, LOW), HIGH)) - 1, 2, 2, GREY)
    drawing.line([(x(LOW), y(LOW)), (x(HIGH), y(HIGH))], "#666")
    ordered = np.array(sorted(marks))
    parts = [part.mean(0) for part in np.array_split(ordered, bins) if len(part)]
    drawing.line([(x(min(max(one, LOW), HIGH)), y(two)) for one, two in parts], BLUE, 2.5)
    return drawing.svg()


def curve_plot(
    title: str, samples: Mono, rate_hz: int, curves: dict[str, tuple[float, Values]], bad_s: tuple[float, float]
) -> str:
    """Curves over the waveform, the damaged stretch shaded. *curves*: name to step in seconds and values."""
    width = 820
    drawing = Drawing(width=width)
    seconds = len(samples) / rate_hz
    x, y = scale(0, seconds, EDGE, width - 130), scale(LOW, HIGH, SIDE - 20, 40)
    drawing.text(width / 2, 22, title, size=14)
    drawing.box(x(bad_s[0]), y(HIGH), x(bad_s[1]) - x(bad_s[0]), y(LOW) - y(HIGH), "#fbe3e6")
    columns = np.array_split(samples, 400)
    peak = max(float(np.abs(samples).max()), 1e-9)
    for place, column in enumerate(columns):
        height = float(np.abs(column).max()) / peak * 60
        at = x(seconds * place / len(columns))
        drawing.line([(at, y(LOW) - 70 - height), (at, y(LOW) - 70 + height)], "#ddd")
    for tick in (1, 2, 3, 4):
        drawing.text(x(0) - 8, y(tick) + 4, str(tick), "end")
    for second in range(int(seconds) + 1):
        drawing.text(x(second), y(LOW) + 18, f"{second} s")
    for colour, (name, (step_s, values)) in zip(COLOURS, curves.items(), strict=False):
        points = [(x(min(place * step_s, seconds)), y(float(value))) for place, value in enumerate(values)]
        drawing.line(points, colour, 1.8)
        drawing.parts.append(f'<g fill="{colour}">')
        drawing.text(width - 122, 60 + 18 * list(curves).index(name), name, "start")
        drawing.parts.append("</g>")
    return drawing.svg()


def histogram_plot(title: str, labels: Sequence[float], bins: int = 19) -> str:
    """How many clips have which label."""
    drawing = Drawing(width=SIDE + 2 * EDGE)
    counts, edges = np.histogram(np.clip(labels, LOW, HIGH), bins, (LOW, HIGH))
    x, y = scale(LOW, HIGH, EDGE, EDGE + SIDE - 60), scale(0, max(int(counts.max()), 1), SIDE - 20, 40)
    drawing.text((x(LOW) + x(HIGH)) / 2, 22, title, size=14)
    for count, left, right in zip(counts.tolist(), edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        drawing.box(x(left) + 1, y(count), x(right) - x(left) - 2, y(0) - y(count), BLUE)
    for tick in (1, 2, 3, 4):
        drawing.text(x(tick), y(0) + 18, str(tick))
    drawing.text(x(LOW) - 8, y(int(counts.max())) + 4, str(int(counts.max())), "end")
    return drawing.svg()
