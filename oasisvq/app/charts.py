"""Charts by Plotly, for the app and for documents. Pictures are (H, W) in [0, 1]; every scale is fixed and labelled."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.colors import sequential
from plotly.subplots import make_subplots

Picture = NDArray[np.floating]

BITS_LIMIT = 12.0  # bits a code on the surprise scale; more shows as this
# Without its first colour, #000004: Streamlit takes #000001 to #000040 for names of its theme's colours.
HEAT = sequential.Inferno[1:]
REGION = "#36c5f0"
TRAINING, VALIDATION = "#7a8794", "#0f7d74"
# Okabe and Ito's, which colour-blind people tell apart.
CODECS = {"JPEG": "#7a8794", "JPEG 2000": "#cc79a7", "AVIF": "#e69f00", "WebP": "#0072b2"}
OURS = "#d55e00"


def surprise(
    picture: Picture,
    values: NDArray[np.floating],
    label: str = "bits per code",
    limit: float = BITS_LIMIT,
    region: NDArray[np.bool_] | None = None,
    again: Picture | None = None,
) -> dict[str, go.Figure]:
    """The slice, and a heat map of its cells (h, w) from 0 to `limit`, by title: figures to stand side by side.

    A region, bool (h, w), is outlined in each; `again` is the slice with that region drawn anew, a third figure.
    """
    height, width = picture.shape
    rows, columns = values.shape
    cells = {
        "x": (np.arange(columns) + 0.5) * width / columns - 0.5,
        "y": (np.arange(rows) + 0.5) * height / rows - 0.5,
    }
    heat = go.Heatmap(
        z=np.round(values, 2), coloraxis="coloraxis", hovertemplate=f"%{{z:.1f}} {label}<extra></extra>", **cells
    )
    grey = {"colorscale": "Greys_r", "cmin": 0, "cmax": 1, "showscale": False}
    bar = {"orientation": "h", "y": -0.02, "yanchor": "top", "thickness": 12, "title": {"text": label}}
    hot = {"colorscale": HEAT, "cmin": 0, "cmax": limit, "colorbar": bar}
    panels = {
        "Slice": ([_grey(picture)], grey),
        label[0].upper() + label[1:]: ([heat, _outline(picture, 0.35, "rgba(255, 255, 255, 0.6)")], hot),
    }
    if again is not None:
        panels["The region drawn again"] = ([_grey(again)], grey)
    if region is not None and region.any():
        # Spread over pixels, so that the outline runs along the edges of cells.
        at = np.ix_(np.arange(height) * rows // height, np.arange(width) * columns // width)
        pixels = region[at].astype(float)
        for traces, _ in panels.values():
            traces.append(_outline(pixels, 0.5, REGION))
    found = {}
    for title, (traces, colours) in panels.items():
        figure = found[title] = go.Figure(traces)
        figure.update_xaxes(visible=False, range=[-0.5, width - 0.5], constrain="domain")
        figure.update_yaxes(visible=False, range=[height - 0.5, -0.5], constrain="domain", scaleanchor="x")
        # Room for the scale under each of them, so that the pictures stand on one line.
        margin = {"l": 0, "r": 0, "t": 0, "b": 64}
        figure.update_layout(showlegend=False, height=384, margin=margin, coloraxis=colours)
    if again is not None:
        mark = {"text": "SYNTHETIC", "font": {"color": "#c8c8c8", "size": 14}, "bgcolor": "#000"}
        place = {"x": 0.03 * width, "y": 0.97 * height, "xanchor": "left", "yanchor": "bottom", "showarrow": False}
        figure.add_annotation(**mark, **place)
    return found


def _outline(values: Picture, at: float, colour: str) -> go.Contour:
    return go.Contour(
        z=np.round(values, 4),
        contours={"coloring": "none", "start": at, "end": at},
        line={"color": colour, "width": 1.5, "smoothing": 0},
        showscale=False,
        hoverinfo="skip",
    )


def curves(history: Sequence[Mapping[str, float]], training: str | None, validation: str, label: str) -> go.Figure:
    """A figure over epochs: validation, and training where it is measured in the same unit."""
    figure = go.Figure()
    epochs = [line["epoch"] for line in history]
    for name, key, colour in (("training", training, TRAINING), ("validation", validation, VALIDATION)):
        if key is not None:
            figure.add_scatter(
                x=epochs,
                y=[line[key] for line in history],
                name=name,
                mode="lines+markers",
                line={"color": colour},
                marker={"size": 5},
            )
    figure.update_layout(
        height=300,
        margin={"l": 0, "r": 0, "t": 8, "b": 0},
        xaxis_title="epoch",
        yaxis_title=label,
        legend={"orientation": "h", "y": 1.12},
        hovermode="x unified",
    )
    return figure


def prior_curves(history: Sequence[Mapping[str, float]]) -> go.Figure:
    """Bits per code of the prior over epochs; its training loss is logged in nats."""
    in_bits = [dict(line) | {"train_bits": line["train_loss"] / math.log(2)} for line in history]
    return curves(in_bits, "train_bits", "val_nll_bits", "bits per code")


def by_level(values: Mapping[str, float], label: str) -> go.Figure:
    """One figure per level of the head, by the number of the level."""
    levels = [int(level) for level in values]
    figure = go.Figure(go.Scatter(x=levels, y=list(values.values()), mode="lines+markers", line={"color": VALIDATION}))
    figure.update_layout(
        height=280,
        margin={"l": 0, "r": 0, "t": 8, "b": 0},
        xaxis_title="level of the slice, 0 = lowest",
        yaxis_title=label,
    )
    return figure


def standing(measured: Sequence[tuple[str, float, Sequence[float]]]) -> go.Figure:
    """Where one slice stands among the test slices, a panel for each measure.

    Args:
        measured: label, value of this slice, and the percentiles 0 to 100 of the test slices.
    """
    figure = make_subplots(1, len(measured), subplot_titles=[label for label, _, _ in measured], shared_yaxes=True)
    for column, (_, value, percentiles) in enumerate(measured, start=1):
        share = float(np.interp(value, percentiles, range(len(percentiles)), left=0, right=100))
        figure.add_scatter(
            x=list(percentiles),
            y=list(range(len(percentiles))),
            mode="lines",
            line={"color": TRAINING, "width": 2},
            hovertemplate="%{y} % of the test slices lie below %{x:.3f}<extra></extra>",
            row=1,
            col=column,
        )
        figure.add_scatter(
            x=[value],
            y=[share],
            mode="markers",
            marker={"color": OURS, "size": 12},
            hovertemplate=f"this slice: %{{x:.3f}}, above {share:.0f} % of the test slices<extra></extra>",
            row=1,
            col=column,
        )
    figure.update_yaxes(range=[-4, 104], dtick=25)
    figure.update_yaxes(title="% of test slices below", col=1)
    figure.update_layout(height=240, margin={"l": 0, "r": 0, "t": 28, "b": 0}, showlegend=False)
    return figure


def by_slice(values: Mapping[str, Sequence[float]], shown: int) -> go.Figure:
    """Figures of every slice of a volume, lowest first, by name; a line marks the slice that is shown."""
    figure = go.Figure()
    for (name, of_slices), colour in zip(values.items(), (VALIDATION, OURS), strict=False):
        figure.add_scatter(
            x=list(range(1, len(of_slices) + 1)),
            y=list(of_slices),
            name=name,
            mode="lines",
            line={"color": colour},
            hovertemplate="%{y:.3f}",
        )
    figure.add_vline(shown + 1, line={"color": TRAINING, "dash": "dot"})
    figure.update_layout(
        height=300,
        margin={"l": 0, "r": 0, "t": 8, "b": 0},
        xaxis_title="slice, from below",
        yaxis_title="SSIM",
        legend={"orientation": "h", "y": 1.12},
        hovermode="x unified",
    )
    return figure


def rate(figures: Mapping[str, Any], size: int) -> go.Figure:
    """SSIM, whole and brain only, against bytes a slice.

    Codecs are lines, solid for a file a slice and dotted for a picture of all slices of a person. Of each of our models
    a star marks the size of a file under the prior, a circle that of codes of fixed length.

    Args:
        figures: what `benchmarks/quality/rate.py` wrote.
        size: side of the slices in pixels; one of `figures["sizes"]`.
    """
    found = figures["sizes"][str(size)]
    whole = f", {figures['slices'] // figures['people']} slices in one picture"
    figure = make_subplots(1, 2, subplot_titles=("SSIM", "SSIM, brain only"), horizontal_spacing=0.08)
    for column, key in enumerate(("ssim", "ssim_foreground"), start=1):
        for where, dash, note in (("codecs", "solid", ""), ("together", "dot", whole)):
            for name, points in found[where].items():
                label = f"{name}{note}"
                look = {"mode": "lines", "line": {"color": CODECS[name], "dash": dash, "width": 2}}
                settings = [p["setting"] for p in points]
                _add_rate(figure, column, key, points, label, settings, look, in_legend=where == "codecs")
        for name, model in found["models"].items():
            both = [model["prior"], model["fixed"]]
            marker = {"color": OURS, "size": 11, "symbol": ["star", "circle-open"]}
            look = {"mode": "lines+markers", "marker": marker, "line": {"color": OURS, "dash": "dash", "width": 1}}
            settings = ["a file under the prior", "codes of fixed length"]
            _add_rate(figure, column, key, both, f"oasisvq, {name}", settings, look)
    figure.update_xaxes(type="log", title="bytes a slice", tickvals=[50, 100, 300, 1000, 3000, 10000, 30000])
    figure.update_yaxes(range=[0.5, 1.005], tickformat=".1f")
    figure.update_layout(
        height=440,
        margin={"l": 32, "r": 8, "t": 28, "b": 48},
        legend={"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom"},
    )
    return figure


def _add_rate(
    figure: go.Figure,
    column: int,
    key: str,
    points: Sequence[Mapping[str, Any]],
    name: str,
    settings: Sequence[str],
    look: dict[str, Any],
    in_legend: bool = True,
) -> None:
    figure.add_scatter(
        x=[p["bytes"] for p in points],
        y=[p[key] for p in points],
        customdata=[(setting, *p[f"{key}_ci95"]) for setting, p in zip(settings, points, strict=True)],
        hovertemplate="%{customdata[0]}: %{x:.0f} bytes, %{y:.3f} (%{customdata[1]:.3f} to %{customdata[2]:.3f})",
        name=name,
        legendgroup=name.partition(",")[0] if not in_legend else name,
        showlegend=in_legend and column == 1,
        row=1,
        col=column,
        **look,
    )


def _grey(picture: Picture) -> go.Heatmap:
    return go.Heatmap(
        z=np.round(picture, 4), coloraxis="coloraxis", hovertemplate="x %{x}, y %{y}: grey %{z:.3f}<extra></extra>"
    )
