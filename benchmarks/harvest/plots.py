"""Plots of a replay as small SVG files, written by hand: no library is needed to read a table of points."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from traces import DAY, Trace

from fallow.decide.harvest.history import Floats
from fallow.decide.harvest.windows import peak_ahead

if TYPE_CHECKING:
    from replay import Part

_WIDTH, _HEIGHT, _LEFT, _TOP, _RIGHT, _BOTTOM = 760, 360, 56, 34, 20, 44
_COLOURS = {"learned margin": "#0b6e4f", "chosen by replay": "#1f4e9c", "oracle": "#555555"}
_OTHER = "#b3541e"
_SHOWN = ("m_1938", range(5, 9))  # a machine of the trace, and days


def draw(folder: Path, part: "Part", figures: dict[str, Any], foretold: dict[str, Floats]) -> None:
    """Draw how a judged part trades violations for harvest, and, of Alibaba's, some days of one machine."""
    if part.use != "judge":
        return
    folder.mkdir(parents=True, exist_ok=True)
    name = f"harvest-{part.trace.name}-{part.trace.resource}"
    (folder / f"{name}.svg").write_text(_trade(figures), encoding="utf-8")
    if _SHOWN[0] in part.trace.servers and part.trace.resource == "cpu":
        row = part.trace.servers.index(_SHOWN[0])
        shown = {other: foretold[other] for other in ("mean+5sd", "learned margin")}
        draw_days(folder / f"{name}-days.svg", part.trace, (row, _SHOWN[1]), shown)


def _trade(figures: dict[str, Any]) -> str:
    done = figures["predictors"]
    across = [each["violation_percent"] for each in done.values()]
    up = [each["harvested_percent"] for each in done.values()]
    x_axis, y_axis = (0.0, max(across) * 1.25 + 1), (min(up) - 3, max(up) + 3)
    title = f"{figures['trace']}, {figures['resource']}, {figures['servers']} servers, days {figures['days']}"
    marks = []
    swept = [(each["violation_percent"], each["harvested_percent"]) for each in figures["prices"].values()]
    if swept:
        points = " ".join(f"{_across(x, x_axis):.0f},{_down(y, y_axis):.0f}" for x, y in swept)
        marks.append(f'<polyline fill="none" stroke="{_COLOURS["learned margin"]}" points="{points}"/>')
    for name, x, y in zip(done, across, up, strict=True):
        column, row, colour = _across(x, x_axis), _down(y, y_axis), _COLOURS.get(name, _OTHER)
        below = row + (18 if name in {"chosen by replay", "mean+5sd"} else -6)
        marks.append(f'<circle cx="{column:.0f}" cy="{row:.0f}" r="5" fill="{colour}"/>')
        marks.append(f'<text x="{column + 6:.0f}" y="{below:.0f}" fill="{colour}">{name}</text>')
    return _frame(title, (x_axis, "% of steps whose peak was above"), (y_axis, "% harvested"), marks)


def draw_days(path: Path, trace: Trace, shown: tuple[int, range], foretold: dict[str, Floats], first: int = 1) -> None:
    """Draw what was foretold of one server, a row of the trace, on some days, from 1 on; the last line in green.

    `first` is the day with which what was foretold begins.
    """
    row, days = shown
    steps = slice((days.start - first) * DAY, (days.stop - first) * DAY)
    peaks = peak_ahead(trace.usage, 12)[:, (first - 1) * DAY :]
    lines = {"peak of the next hour": ("#999999", peaks[row, steps])}
    colours = [_OTHER] * (len(foretold) - 1) + [_COLOURS["learned margin"]]
    lines |= {name: (colour, foretold[name][row, steps]) for name, colour in zip(foretold, colours, strict=True)}
    x_axis, y_axis = (float(days.start), float(days.stop)), (0.0, 100.0)
    marks = []
    for number, (name, (colour, values)) in enumerate(lines.items()):
        marks.extend(_line(values, colour, x_axis, y_axis))
        marks.append(f'<text x="{_LEFT + 10 + number * 170}" y="{_HEIGHT - 8}" fill="{colour}">{name}</text>')
    title = f"{trace.name}, {trace.servers[row]}: processors"
    path.write_text(_frame(title, (x_axis, ""), (y_axis, "% of capacity"), marks), encoding="utf-8")


def _line(values: Floats, colour: str, x_axis: tuple[float, float], y_axis: tuple[float, float]) -> list[str]:
    """Return polylines, broken where nothing is known; every third step, its highest of the three."""
    coarse = np.fmax.reduce(values[: len(values) // 3 * 3].reshape(-1, 3), axis=1)
    marks, points = [], []
    for step, value in enumerate([*coarse, np.nan]):
        if np.isfinite(value):
            day = x_axis[0] + step * 3 / DAY
            points.append(f"{_across(day, x_axis):.0f},{_down(value * 100, y_axis):.0f}")
        elif points:
            marks.append(f'<polyline fill="none" stroke="{colour}" points="{" ".join(points)}"/>')
            points = []
    return marks


def _frame(title: str, x: tuple[tuple[float, float], str], y: tuple[tuple[float, float], str], marks: list[str]) -> str:
    (x_axis, x_name), (y_axis, y_name) = x, y
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" '
        f'font-size="12"><rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        f'<text x="{_LEFT}" y="20" font-size="14">{title}</text>',
        f'<text x="{_WIDTH / 2:.0f}" y="{_HEIGHT - 8}" fill="#444">{x_name}</text>',
        f'<text transform="translate(14 {_HEIGHT / 2 + 40:.0f}) rotate(-90)" fill="#444">{y_name}</text>',
    ]
    for value in _ticks(*y_axis):
        row = _down(value, y_axis)
        parts.append(f'<path d="M{_LEFT} {row:.0f}H{_WIDTH - _RIGHT}" stroke="#ddd"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{row + 4:.0f}" text-anchor="end" fill="#444">{value:g}</text>')
    for value in _ticks(*x_axis):
        column = _across(value, x_axis)
        parts.append(f'<path d="M{column:.0f} {_TOP}V{_HEIGHT - _BOTTOM}" stroke="#eee"/>')
        parts.append(
            f'<text x="{column:.0f}" y="{_HEIGHT - _BOTTOM + 16}" text-anchor="middle" fill="#444">{value:g}</text>'
        )
    return "\n".join([*parts, *marks, "</svg>", ""])


def _ticks(low: float, high: float) -> list[float]:
    step = next(step for step in (1, 2, 5, 10, 20, 50) if (high - low) / step <= 8)
    return [float(value) for value in np.arange(np.ceil(low / step) * step, high + 1e-9, step)]


def _across(value: float, axis: tuple[float, float]) -> float:
    return _LEFT + (value - axis[0]) / (axis[1] - axis[0]) * (_WIDTH - _LEFT - _RIGHT)


def _down(value: float, axis: tuple[float, float]) -> float:
    return _HEIGHT - _BOTTOM - (value - axis[0]) / (axis[1] - axis[0]) * (_HEIGHT - _TOP - _BOTTOM)
