"""Answers as tables and pictures: CSV, Audacity labels, SVG."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from html import escape

import numpy as np

from service.api.schemas import Quality, Scene
from service.audio.waveform import Envelope

WIDTH, HEIGHT, MARGIN = 960, 320, 40
MOST_POINTS = 1200
"""Of a drawn curve: more than the picture has columns."""


def curve_csv(answer: Quality) -> str:
    """`time_s,score`, a line a point."""
    curve = answer.curve
    if curve is None:
        return "time_s,score\n"
    times = (curve.start_s + index * curve.step_s for index in range(len(curve.values)))
    return _lines("time_s,score", (f"{time:.4f},{value:.4f}" for time, value in zip(times, curve.values, strict=True)))


def segments_csv(answer: Scene) -> str:
    """`onset_s,offset_s,label,probability`, a line a segment."""
    return _lines(
        "onset_s,offset_s,label,probability",
        (
            f"{one.onset_s:.4f},{one.offset_s:.4f},{_csv(one.label)},{one.probability:.4f}"
            for one in answer.segments or ()
        ),
    )


def segments_audacity(answer: Scene) -> str:
    """A label track as Audacity imports it: onset, offset, label, parted by tabs."""
    return "".join(f"{one.onset_s:.6f}\t{one.offset_s:.6f}\t{one.label}\n" for one in answer.segments or ())


def curve_svg(answer: Quality, outline: Envelope) -> str:
    """The curve over the waveform, the worst stretches shaded, the scale at the side."""
    scale, duration_s = answer.scale, max(answer.audio.duration_s, 1e-9)
    inner_width, inner_height = WIDTH - 2 * MARGIN, HEIGHT - 2 * MARGIN

    def x(time_s: float) -> float:
        return MARGIN + inner_width * min(max(time_s / duration_s, 0.0), 1.0)

    def y(score: float) -> float:
        share = (score - scale.min) / (scale.max - scale.min)
        return MARGIN + inner_height * (1.0 - min(max(share, 0.0), 1.0))

    shades = "".join(
        f'<rect x="{x(bad.onset_s):.1f}" y="{MARGIN}" width="{max(1.0, x(bad.offset_s) - x(bad.onset_s)):.1f}" '
        f'height="{inner_height}" fill="#d9485f" fill-opacity=".18"/>'
        for bad in answer.worst
    )
    title = f"{scale.name} {answer.score:.2f} ({scale.min:g} to {scale.max:g}), {duration_s:.1f} s"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'font-family="sans-serif" font-size="12"><title>{escape(title)}</title>'
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>'
        f'<path d="{_outline_path(outline)}" fill="#c6ccd6"/>{shades}'
        f'<polyline fill="none" stroke="#1f5fbf" stroke-width="2" points="{_curve_points(answer, x, y)}"/>'
        f'<g fill="#333"><text x="{MARGIN}" y="24">{escape(title)}</text>'
        f'<text x="4" y="{y(scale.max) + 4:.0f}">{scale.max:g}</text>'
        f'<text x="4" y="{y(scale.min) + 4:.0f}">{scale.min:g}</text>'
        f'<text x="{MARGIN}" y="{HEIGHT - 14}">0 s</text>'
        f'<text x="{WIDTH - MARGIN}" y="{HEIGHT - 14}" text-anchor="end">{duration_s:.1f} s</text></g></svg>\n'
    )


def _curve_points(answer: Quality, x: Callable[[float], float], y: Callable[[float], float]) -> str:
    curve = answer.curve
    if curve is None or not curve.values:
        return ""
    values = np.array(curve.values)
    group = -(-len(values) // MOST_POINTS)
    starts = np.arange(0, len(values), group)
    means = np.add.reduceat(values, starts) / np.diff(np.append(starts, len(values)))
    times = curve.start_s + (starts + (group - 1) / 2) * curve.step_s
    return " ".join(f"{x(time):.1f},{y(mean):.1f}" for time, mean in zip(times.tolist(), means.tolist(), strict=True))


def _outline_path(outline: Envelope) -> str:
    low, high = outline.low, outline.high
    if not len(low):
        return ""
    middle, half = HEIGHT / 2, (HEIGHT - 2 * MARGIN) / 2
    xs = np.linspace(MARGIN, WIDTH - MARGIN, len(low))
    top = [f"{x:.1f},{middle - half * min(1.0, value):.1f}" for x, value in zip(xs, high, strict=True)]
    bottom = [f"{x:.1f},{middle - half * max(-1.0, value):.1f}" for x, value in zip(xs, low, strict=True)]
    return "M" + "L".join(top + bottom[::-1]) + "Z"


def _csv(text: str) -> str:
    return '"' + text.replace('"', '""') + '"' if set(text) & set(',"\r\n') else text


def _lines(head: str, rows: Iterable[str]) -> str:
    return "\n".join([head, *rows]) + "\n"
