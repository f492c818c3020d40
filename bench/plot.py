"""The picture of the README, drawn from the JSON that a run wrote."""

import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

_COLUMNS = 3
_OURS = "#0b6e4f"
_OURS_TOO = "#4fa283"
_PEER = "#9aa5b1"
_FLOOR = "#d8dee4"
_INK = "#24292f"


def _colour(name: str) -> str:
    if name == "tim":
        return _OURS
    if name.startswith("tim"):
        return _OURS_TOO
    return _FLOOR if name == "floor" else _PEER


def _number(value: float) -> str:
    return f"{value:.3f}" if value < 0.1 else f"{value:.2f}" if value < 10 else f"{value:.1f}"


def _edge(values: list[float]) -> float:
    """Where the longest bar ends: it is cut when it would dwarf all the others."""
    *_, second, longest = sorted(values)
    return second * 1.4 if longest > 3 * second else longest


def _panel(axes: Axes, row: dict[str, Any]) -> None:
    names = list(row["medians"])
    values = [row["medians"][name]["us_per_delivery"] for name in names]
    places = range(len(names))
    edge = _edge(values)
    axes.barh(
        places,
        [min(value, edge) for value in values],
        color=[_colour(name) for name in names],
        height=0.68,
    )
    for place, name, value in zip(places, names, values, strict=True):
        cut = value > edge
        if cut:  # a bar that does not end here
            axes.plot([edge * 0.93, edge * 0.95], [place + 0.5, place - 0.5], color="w", lw=3)
        axes.annotate(
            _number(value),
            (min(value, edge), place),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
            color=_INK,
            fontweight="bold" if name.startswith("tim") else "normal",
        )
    labels = ["floor (C)" if name == "floor" else name for name in names]
    axes.set_yticks(list(places), labels=labels, fontsize=9.5, color=_INK)
    axes.invert_yaxis()
    axes.set_xlim(0, edge * 1.18)
    axes.set_xticks([])
    axes.tick_params(length=0)
    for side in ("top", "right", "bottom"):
        axes.spines[side].set_visible(False)
    axes.spines["left"].set_color(_PEER)
    axes.set_title(
        f"{row['row']}  {row['title']}", loc="left", fontsize=9.5, color=_INK, pad=8, wrap=True
    )


def plot(source: Path, target: Path) -> list[Path]:
    """Draw ``target``.svg from the JSON at ``source``; return it, or nothing without rows."""
    everything = json.loads(source.read_text())
    rows = [
        row
        for row in everything["rows"]
        if len(row["medians"]) > 1
        and "tim" in row["medians"]
        and all(medians["us_per_delivery"] > 0 for medians in row["medians"].values())
    ]
    if not rows:
        return []
    lines = -(-len(rows) // _COLUMNS)
    plt.rcParams["svg.fonttype"] = "none"
    plt.rcParams["svg.hashsalt"] = "bench"
    plt.rcParams["font.family"] = ["DejaVu Sans"]
    figure, grid = plt.subplots(
        lines, _COLUMNS, figsize=(13, 0.9 + 2.35 * lines), squeeze=False, layout="constrained"
    )
    for axes, row in zip(grid.flat, rows, strict=False):
        _panel(axes, row)
    for axes in list(grid.flat)[len(rows) :]:
        axes.set_visible(False)
    if (engine := figure.get_layout_engine()) is not None:
        engine.set(h_pad=0.12, hspace=0.06)  # type: ignore[call-arg]
    about = everything["machine"]
    figure.suptitle(
        "Server CPU per delivered frame, in µs (shorter is better)",
        x=0.01,
        ha="left",
        fontsize=13,
        fontweight="bold",
        color=_INK,
    )
    figure.supxlabel(
        f"median of the runs; {about['cores']} cores, {about['processor']}, {about['kernel']}, "
        f"Python {about['python']}; {about['date'][:10]}",
        x=0.01,
        ha="left",
        fontsize=8,
        color="#57606a",
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    path = target.with_name(target.name + ".svg")
    figure.savefig(path, facecolor="white", metadata={"Date": None})
    plt.close(figure)
    return [path]
