"""Figures of a sweep: maps over two parameters, curves against time, the Pareto front.

They take the dataset that `jaxsnn.sweep` returns, or a selection of it (`data.sel(...)`). Seeds are
averaged; of the parameters that a figure has no axis for, only one may have several values, which
make its panels (the Pareto front takes any number). Figures are as in `jaxsnn.plotting`: returned,
unknown to pyplot, and drawn into a figure or subfigure of yours where you pass one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxsnn.metrics import real_numbers
from jaxsnn.support.figures import (
    COLORS,
    DARK,
    SMALL,
    checked_fraction,
    new_figure,
    percent,
    show_errors_as_accuracies,
)
from jaxsnn.support.typed import Real, typed
from jaxsnn.sweeps.results import pareto_front

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import QuadMesh
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure
    from xarray import Dataset

# What an axis is called, its unit, how many of that unit make one of the dataset's, and what a note
# says about one of its values.
_AXES = {
    "scales": ("scale factors", "", 1.0, "{}"),
    "threshold": ("threshold", "λ", 1.0, "{} λ"),
    "max_rate": ("maximum rate", "Hz", 1.0, "{} Hz"),
    "dt": ("time step", "ms", 1e3, "steps of {} ms"),
    "refractory_period": ("refractory period", "ms", 1e3, "refractory for {} ms"),
    "initial_potential": ("initial potential", "θ", 1.0, "starts at {} θ"),
    "reset": ("reset", "", 1.0, "{}"),
    "seed": ("seed", "", 1.0, "seed {}"),
}
_COSTS = {
    "synaptic_operations": "synaptic operations per image (millions)",
    "time": "simulated time (ms)",
    "spikes": "spikes per image",
}
MAX_PANELS = 6
_MAX_ENTRIES = 12  # of a legend of numbers; those between can be guessed
_MAX_NOTES = 5
_HATCHED: dict[str, Any] = {"facecolor": "#f2f2f2", "edgecolor": "#d0d0d0", "hatch": "////"}
_SETTLED = 0.99  # of the last accuracy
_USELESS = 0.5  # of the best last accuracy


@typed
def plot_map(
    data: Dataset,
    *,
    x: str = "max_rate",
    y: str = "threshold",
    time: Real | None = None,
    figure: Figure | None = None,
) -> Figure:
    """Draw accuracy, and the time that it takes, over two parameters.

    On the left is the accuracy after `time`. Its colours are logarithmic in the distance from
    100 %, and end at 25 times the least distance: all that is worse has the darkest one. On the
    right is the time from which on the accuracy stays at 99 % of its last value, or above. Cells
    whose last value is zero, or less than half of the best in the figure, are hatched there: how
    soon a useless accuracy is reached says nothing.

    A further parameter with several values makes rows of panels, with the same colours in all.
    Accuracies are means over the seeds, and the times those of the mean curves.

    Args:
        data: what `jaxsnn.sweep` returned.
        x: the parameter from left to right.
        y: the parameter from bottom to top.
        time: when to read the accuracy, in seconds; by default at the end.
        figure: where to draw; by default a new figure.

    Returns:
        The figure.

    Raises:
        ValueError: x or y is no dimension of the dataset, `time` is not among its times, or there
            are more parameters or values than there is room for.

    Example:
        >>> import xarray
        >>> from jaxsnn.sweeps import plotting
        >>> data = xarray.Dataset(
        ...     {"accuracy": (("threshold", "max_rate", "time"), [[[0.5, 0.98], [0.9, 0.97]]])},
        ...     {"threshold": [1.0], "max_rate": [250.0, 1000.0], "time": [0.01, 0.02]},
        ... )
        >>> figure = plotting.plot_map(data, time=0.01)
        >>> [[text.get_text() for text in ax.texts] for ax in figure.axes[:2]]
        [['50.00', '90.00'], ['20', '20']]
    """
    if x == y:
        raise ValueError(f"x and y are both {x!r}; a map needs two parameters.")
    data, panel = _arranged(data, [x, y])
    seconds = data["time"].values
    step = _step(seconds, time)
    accuracy = _accuracy(data, [panel, y, x]).mean(-2)  # over the seeds
    errors, floor = _errors(accuracy[..., step])
    last = accuracy[..., -1]
    useful = (last > 0) & (last >= _USELESS * last.max())
    latency = np.ma.masked_array(1e3 * _settling_times(accuracy, seconds), ~useful)

    rows, height, width = errors.shape
    titles = _panel_titles(data, panel) if panel else []
    longest = max(map(len, titles), default=0)
    figure = figure or new_figure(
        2 * (max(np.clip(0.46 * width, 1.6, 6), 0.085 * longest) + 1.6),
        rows * (np.clip(0.3 * height, 1.2, 5) + 0.3 * bool(panel)) + 0.8,
    )
    axes = figure.subplots(rows, 2, squeeze=False)
    for ax in axes.flat:
        _label_cells(ax, data, x, y, bottom=ax in axes[-1])
    for pair, title in zip(axes, titles):
        for ax in pair:
            ax.set_title(title, fontsize=10)
    label = f"accuracy after\n{1e3 * seconds[step]:g} ms (%)"
    _draw_accuracies(figure, list(axes[:, 0]), errors, floor, label)
    label = f"time to {100 * _SETTLED:g} % of the\nlast accuracy (ms)"
    _draw_times(figure, list(axes[:, 1]), latency, 1e3 * seconds, label)
    if not useful.all():
        _explain_hatching(figure)
    return figure


@typed
def plot_curves(data: Dataset, *, along: str = "threshold", figure: Figure | None = None) -> Figure:
    """Draw accuracy against simulated time, a curve for each value of a parameter.

    The axes are those of `plotting.plot_accuracy`. A further parameter with several values makes
    panels. Curves are means over the seeds; where there are several, a light band reaches from the
    lowest accuracy of a seed to the highest.

    Args:
        data: what `jaxsnn.sweep` returned.
        along: the parameter that has a colour for each value; colours of numbers go from dark (the
            least) to light.
        figure: where to draw; by default a new figure.

    Returns:
        The figure.

    Raises:
        ValueError: `along` is no dimension of the dataset, or there are more parameters or values
            than there is room for.

    Example:
        >>> import xarray
        >>> from jaxsnn.sweeps import plotting
        >>> data = xarray.Dataset(
        ...     {
        ...         "accuracy": (("threshold", "time"), [[0.8, 0.9], [0.5, 0.95]]),
        ...         "relu_accuracy": 0.98,
        ...     },
        ...     {"threshold": [0.5, 1.0], "time": [0.01, 0.02]},
        ... )
        >>> figure = plotting.plot_curves(data)
        >>> [line.get_label() for line in figure.axes[0].lines]
        ['0.5', '1', 'ReLU network']
    """
    data, panel = _arranged(data, [along])
    accuracy, relu = _accuracy(data, [panel, along]), _relu_accuracy(data)
    errors, floor = _errors(np.append(accuracy, relu))
    milliseconds = 1e3 * data["time"].values
    panels = len(accuracy)
    columns = {1: 1, 2: 2, 4: 2}.get(panels, 3)
    rows = -(-panels // columns)
    figure = figure or new_figure(1.6 + (5.4, 3.7, 2.9)[columns - 1] * columns, 0.8 + 3 * rows)
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
    labels, colors = _labels(data, along), _colors(data, along)
    for ax, curves in zip(axes, accuracy, strict=False):
        for label, color, seeds in zip(labels, colors, curves, strict=True):
            _draw_curve(ax, milliseconds, seeds, floor, label, color)
        _draw_relu(ax, relu, floor)
    for number, ax in enumerate(axes[:panels]):
        _restyle(ax)
        if panel:
            ax.set_title(_panel_titles(data, panel)[number], fontsize=10)
        if number % columns == 0:
            ax.set_ylabel("accuracy (%)")
        if number + columns >= panels:  # nothing below
            ax.set_xlabel("simulated time (ms)")
            ax.tick_params(labelbottom=True)
    for ax in axes[panels:]:
        ax.remove()
    show_errors_as_accuracies(axes[0], errors, floor)
    _draw_legend(figure, axes[0], data, along)
    return figure


@typed
def plot_pareto(
    data: Dataset,
    *,
    along: str = "scales",
    cost: str = "synaptic_operations",
    figure: Figure | None = None,
) -> Figure:
    """Draw accuracy against what it costs, for all parameters and times, and the Pareto front.

    Each point of the grid is a faint curve through simulated time. On the bold front are those
    (parameters, time) than which nothing of at least that accuracy is cheaper, from the first right
    prediction on; notes beside some of them name the parameters that have several values. Both
    axes are logarithmic, as in `plotting.plot_accuracy`. Seeds are averaged.

    Args:
        data: what `jaxsnn.sweep` returned.
        along: the parameter that has a colour for each value.
        cost: "synaptic_operations", "spikes" (of all layers) or "time".
        figure: where to draw; by default a new figure.

    Returns:
        The figure.

    Raises:
        ValueError: `along` is no dimension of the dataset, or there is no such cost.

    Example:
        >>> import xarray
        >>> from jaxsnn.sweeps import plotting
        >>> data = xarray.Dataset(
        ...     {
        ...         "accuracy": (("threshold", "time"), [[0.8, 0.9], [0.5, 0.95]]),
        ...         "synaptic_operations": (("threshold", "time"), [[2e6, 4e6], [1e6, 3e6]]),
        ...         "relu_accuracy": 0.98,
        ...     },
        ...     {"threshold": [0.5, 1.0], "time": [0.01, 0.02]},
        ... )
        >>> figure = plotting.plot_pareto(data, along="threshold")
        >>> [text.get_text() for text in figure.axes[0].texts]
        ['1 λ, after 20 ms', '0.5 λ, after 10 ms', '1 λ, after 10 ms']
    """
    from matplotlib.ticker import LogLocator

    if cost not in _COSTS:
        raise ValueError(f"cost={cost!r}; it must be one of {', '.join(map(repr, _COSTS))}.")
    data = _sorted(_checked(data, [along]), [along])
    dims = [along, *(dim for dim in _grid(data) if dim not in (along, "seed"))]
    accuracy, costs = _accuracy(data, dims).mean(-2), _costs(data, dims, cost)
    relu = _relu_accuracy(data)
    errors, floor = _errors(np.append(accuracy, relu))
    heights = np.maximum(1 - accuracy, floor)
    candidates = np.flatnonzero((costs > 0) & (accuracy > 0))
    front = candidates[pareto_front(costs.flat[candidates], accuracy.flat[candidates])]
    where = np.unravel_index(front, accuracy.shape)

    figure = figure or new_figure(8.0, 4.6)
    ax = figure.subplots()
    colors = _colors(data, along)
    for label, color, x, y in zip(_labels(data, along), colors, costs, heights, strict=True):
        style = {"color": color, "lw": 0.7, "marker": ".", "ms": 2.5, "mew": 0, "alpha": 0.4}
        ax.plot(*_joined(x, y), label=label, rasterized=True, **style)
    x, y = costs[where], heights[where]
    style = {"color": DARK, "lw": 1.8, "drawstyle": "steps-post", "zorder": 3}
    ax.plot(x, y, label="Pareto front", **style)
    style = {"s": 18, "edgecolors": DARK, "linewidths": 0.8, "zorder": 4}
    ax.scatter(x, y, c=[colors[index] for index in where[0]], **style)
    _draw_relu(ax, relu, floor)
    _restyle(ax)
    ax.set(xlabel=_COSTS[cost], ylabel="accuracy (%)")
    show_errors_as_accuracies(ax, errors, floor)
    if len(front):
        ax.set_xlim(left=x[0] / 1.3)
    useful = accuracy[where] >= _USELESS * accuracy.max()
    texts = _points(data, dims if cost == "time" else [*dims, "time"], where)
    _draw_notes(ax, x[useful], y[useful], [text for text, use in zip(texts, useful) if use])
    left, right = ax.get_xlim()
    if right > 2000 * left:
        ax.xaxis.set_major_locator(LogLocator())
    _draw_legend(figure, ax, data, along)
    return figure


# -- The dataset -----------------------------------------------------------------------------------


def _grid(data: Dataset) -> list[str]:
    """The dimensions that are parameters."""
    return [str(dim) for dim in data["accuracy"].dims if dim != "time"]


def _sizes(data: Dataset, dims: Sequence[str]) -> str:
    return ", ".join(f"{dim} ({data.sizes[dim]})" for dim in dims)


def _variable(data: Dataset, name: str) -> np.ndarray:
    """Finite values of a variable or coordinate that a sweep has."""
    if name not in data or not data[name].size:
        has = ", ".join(map(repr, data.variables)) or "nothing"
        raise ValueError(f"data has no {name!r}, but {has}; give what jaxsnn.sweep returned.")
    return real_numbers(f"data[{name!r}]", data[name].values)


def _relu_accuracy(data: Dataset) -> float:
    found = checked_fraction("data['relu_accuracy']", _variable(data, "relu_accuracy"))
    if found.size != 1:
        raise ValueError(
            f"data['relu_accuracy'] has {found.size} values; it must be one, as jaxsnn.sweep gives."
        )
    return float(found.squeeze())


def _checked(data: Dataset, axes: Sequence[str]) -> Dataset:
    if "accuracy" not in data or "time" not in data["accuracy"].dims:
        raise ValueError(
            f"data has {', '.join(map(repr, data.variables)) or 'nothing'}, but no 'accuracy' over "
            "'time'; give what jaxsnn.sweep returned, and select several times."
        )
    if not data["accuracy"].size:
        raise ValueError(f"data has no accuracies: {_sizes(data, [*_grid(data), 'time'])}.")
    missing = [axis for axis in axes if axis not in _grid(data)]
    if missing:
        raise ValueError(
            f"{missing[0]!r} is not a dimension of this dataset, which has "
            f"{_sizes(data, _grid(data)) or 'none'}. Name one of these, or give the parameter as a "
            "list to the grid of the sweep."
        )
    unknown = int(data["accuracy"].isnull().sum())
    if unknown:
        raise ValueError(
            f"{unknown} of {data['accuracy'].size} accuracies are nan; select the points and times "
            "that were simulated, with data.sel(...) or data.dropna(...)."
        )
    seconds = _variable(data, "time")
    if seconds[0] <= 0 or not np.all(np.diff(seconds) > 0):
        raise ValueError(
            f"data has times from {seconds[0]:g} to {seconds[-1]:g} s; they must rise from above 0."
        )
    return data


def _sorted(data: Dataset, axes: Sequence[str]) -> Dataset:
    """Numbers in rising order, names as they are."""
    for axis in axes:
        if _is_number(data, axis):
            data = data.sortby(axis)
    return data


def _arranged(data: Dataset, axes: Sequence[str]) -> tuple[Dataset, str]:
    """Dataset in the order of the figure, and the dimension of its panels or ""."""
    _checked(data, axes)
    others = [dim for dim in _grid(data) if dim not in (*axes, "seed")]
    several = [dim for dim in others if data.sizes[dim] > 1]
    if len(several) > 1:
        example = ", ".join(f"{dim}={data[dim].values[0].item()!r}" for dim in several[1:])
        raise ValueError(
            f"beside {' and '.join(axes)} there are {_sizes(data, several)}, and there is room for "
            f"one of them. Select a value of the others: data.sel({example})."
        )
    if several and data.sizes[several[0]] > MAX_PANELS:
        example = ", ".join(repr(value.item()) for value in data[several[0]].values[:2])
        raise ValueError(
            f"{several[0]} has {data.sizes[several[0]]} values, and there is room for panels of "
            f"{MAX_PANELS}. Select some: data.sel({several[0]}=[{example}])."
        )
    data = data.squeeze([dim for dim in others if dim not in several], drop=True)
    return _sorted(data, [*axes, *several]), several[0] if several else ""


def _array(data: Dataset, name: str, dims: Sequence[str]) -> np.ndarray:
    """Values of a variable in just these dimensions; those it lacks are added."""
    sizes = {dim: data.sizes.get(dim, 1) for dim in dims}
    return data[name].variable.set_dims(sizes).transpose(*dims).values


def _accuracy(data: Dataset, dims: Sequence[str]) -> np.ndarray:
    """Accuracies `[*dims, seed, time]`; there is one seed where the seed is among dims."""
    dims = [*dims, "one seed" if "seed" in dims else "seed", "time"]
    return checked_fraction("accuracy", _array(data, "accuracy", dims))


def _costs(data: Dataset, dims: Sequence[str], cost: str) -> np.ndarray:
    """Costs `[*dims, time]` in the unit of `_COSTS`, means over the seeds."""
    if _variable(data, cost).min() < 0:
        raise ValueError(f"data[{cost!r}] has negative costs; give what jaxsnn.sweep returned.")
    dims = [*dims, "one seed" if "seed" in dims else "seed", "time"]
    if cost == "spikes":
        return _array(data, cost, [*dims, "layer"]).sum(-1).mean(-2)
    return _array(data, cost, dims).mean(-2) * (1e3 if cost == "time" else 1e-6)


def _errors(accuracies: np.ndarray) -> tuple[np.ndarray, float]:
    """Distances from 1, and what stands for a distance of zero, which has no logarithm."""
    errors = 1 - accuracies
    return errors, float(min(errors[errors > 0], default=0.01)) / 2


def _step(seconds: np.ndarray, time: float | None) -> int:
    if time is None:
        return len(seconds) - 1
    step = int(np.abs(seconds - time).argmin())
    if not np.isclose(seconds[step], time, rtol=1e-6, atol=0):
        raise ValueError(
            f"time={time:g} s is not among the {len(seconds)} times of the dataset, "
            f"{seconds.min():g} to {seconds.max():g} s; the nearest is {seconds[step]:g}."
        )
    return step


def _settling_times(accuracy: np.ndarray, seconds: np.ndarray) -> np.ndarray:
    """When accuracies `[..., T]` have come to stay at 99 % of their last value or above."""
    settled = accuracy >= _SETTLED * accuracy[..., -1:] - 1e-9  # less than one in 10^9 images
    steps = np.logical_and.accumulate(settled[..., ::-1], -1).sum(-1)  # settled ones at the end
    return seconds[len(seconds) - steps]


# -- Names of parameters and values ----------------------------------------------------------------


def _is_per_layer(data: Dataset, axis: str) -> bool:
    """Whether the values are numbers of rows in a table with one multiplier for each layer."""
    return (
        "multipliers" in data.coords
        and axis in data["multipliers"].dims
        and np.issubdtype(data[axis].dtype, np.integer)
    )


def _is_number(data: Dataset, axis: str) -> bool:
    return np.issubdtype(data[axis].dtype, np.number) and not _is_per_layer(data, axis)


def _name(data: Dataset, axis: str) -> str:
    name = _AXES[axis][0] if axis in _AXES else data[axis].attrs.get("long_name", axis)
    return f"{name} of each layer" if _is_per_layer(data, axis) else name


def _unit(data: Dataset, axis: str) -> str:
    if not _is_number(data, axis) and not _is_per_layer(data, axis):
        return ""
    return _AXES[axis][1] if axis in _AXES else data[axis].attrs.get("units", "")


def _title(data: Dataset, axis: str) -> str:
    unit = _unit(data, axis)
    return f"{_name(data, axis)} ({unit})" if unit else _name(data, axis)


def _panel_titles(data: Dataset, axis: str) -> list[str]:
    name, unit = _name(data, axis), _unit(data, axis)
    return [f"{name}: {label} {unit}".strip() for label in _labels(data, axis)]


def _labels(data: Dataset, axis: str) -> list[str]:
    """The values, in the unit of the axis."""
    if _is_per_layer(data, axis):
        table = data["multipliers"].transpose(axis, "layer").values
        return ["/".join(f"{value:.3g}" for value in row) for row in table]
    values = data[axis].values
    if not _is_number(data, axis):
        return [str(value) for value in values]
    values = [float(value) * (_AXES[axis][2] if axis in _AXES else 1) for value in values]
    short = [f"{_rounded(value):g}" for value in values]
    return short if len({*short}) == len({*values}) else [f"{value:g}" for value in values]


def _rounded(value: float) -> float:
    """Three significant digits; digits before the point are kept."""
    return round(value, max(0, 2 - int(np.floor(np.log10(abs(value)))))) if value else 0.0


def _notes(data: Dataset, axis: str) -> list[str]:
    """The values as in a sentence."""
    if axis == "time":
        return [f"after {1e3 * seconds:g} ms" for seconds in data["time"].values]
    template = _AXES[axis][3] if axis in _AXES else f"{_name(data, axis)} {{}}"
    return [(template if _unit(data, axis) else "{}").format(v) for v in _labels(data, axis)]


def _colors(data: Dataset, axis: str) -> list[str]:
    """A colour for each value: in order for numbers, easily told apart for a few names."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    values = data.sizes[axis]
    if values <= len(COLORS) and not _is_number(data, axis):
        return list(COLORS[:values])
    return [to_hex(color) for color in colormaps["viridis"](np.linspace(0, 0.9, values))]


# -- Maps ------------------------------------------------------------------------------------------


def _label_cells(ax: Axes, data: Dataset, x: str, y: str, *, bottom: bool) -> None:
    columns, rows = _labels(data, x), _labels(data, y)
    every = -(-len(columns) // 16), -(-len(rows) // 24)  # more would not be legible
    long = sum(len(label) + 2 for label in columns[:: every[0]]) > 6 * max(len(columns), 4)
    rotation = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if long else {}
    ax.set_xticks(range(0, len(columns), every[0]), columns[:: every[0]], **rotation)
    ax.set_yticks(range(0, len(rows), every[1]), rows[:: every[1]])
    ax.tick_params(labelsize=SMALL, length=0, labelbottom=bottom)
    ax.spines[:].set_visible(False)
    ax.set_ylabel(_title(data, y))
    if bottom:
        ax.set_xlabel(_title(data, x))


def _draw_accuracies(
    figure: Figure, axes: list[Axes], errors: np.ndarray, floor: float, label: str
) -> None:
    from matplotlib.colors import LogNorm
    from matplotlib.ticker import FuncFormatter, LogLocator

    shown = np.maximum(errors, floor)
    least, most = float(shown.min()), float(shown.max())
    worst = min(max(most, 2.5 * least), 25 * least, 1.0)
    norm = LogNorm(min(least, worst / 2.5), worst)  # never without a tick
    texts = [[f"{100 * (1 - error):.2f}" for error in cells.flat] for cells in errors]
    meshes = [
        _draw_cells(ax, np.ma.masked_array(cells), norm, "viridis_r", printed)
        for ax, cells, printed in zip(axes, shown, texts, strict=True)
    ]
    bar = figure.colorbar(
        meshes[0],
        ax=axes,
        pad=0.02,
        extend="max" if most > worst else "neither",
        ticks=LogLocator(subs=(1, 2, 5)),
        format=FuncFormatter(percent),
    )
    bar.minorticks_off()
    bar.ax.invert_yaxis()  # accuracies grow upwards
    bar.set_label(label)


def _draw_times(
    figure: Figure,
    axes: list[Axes],
    latency: np.ma.MaskedArray,
    milliseconds: np.ndarray,
    label: str,
) -> None:
    from matplotlib.colors import LogNorm, Normalize
    from matplotlib.ticker import LogLocator

    found = latency.compressed() if latency.count() else milliseconds
    least, most = float(found.min()), max(float(found.max()), 1.25 * float(found.min()))
    wide = most > 5 * least
    norm = LogNorm(least, most) if wide else Normalize(least, most)
    texts = [[f"{time:.4g}" for time in cells.filled(np.nan).flat] for cells in latency]
    meshes = [
        _draw_cells(ax, cells, norm, "cividis_r", printed)
        for ax, cells, printed in zip(axes, latency, texts, strict=True)
    ]
    for ax in axes:
        ax.patch.set(**_HATCHED)
    ticks = {"ticks": LogLocator(subs=(1, 2, 3, 5)), "format": "{x:g}"} if wide else {}
    bar = figure.colorbar(meshes[0], ax=axes, pad=0.02, **ticks)
    bar.minorticks_off()
    bar.ax.invert_yaxis()  # better is further up, and lighter, as on the left
    bar.set_label(label)


def _draw_cells(
    ax: Axes, cells: np.ma.MaskedArray, norm: Normalize, colors: str, texts: Sequence[str]
) -> QuadMesh:
    """Cells of one size, with their values where there is room."""
    height, width = cells.shape
    edges = np.arange(width + 1) - 0.5, np.arange(height + 1) - 0.5
    mesh = ax.pcolormesh(*edges, cells, norm=norm, cmap=colors, rasterized=cells.size > 1000)
    if cells.size > 100 or width > 12:
        return mesh
    mesh.set(edgecolor="white", linewidth=0.8)
    fills = mesh.cmap(norm(cells)).reshape(-1, 4)
    positions = np.ndindex(height, width)
    for (row, column), fill, text in zip(positions, fills, texts, strict=True):
        hidden = text == "nan"
        color = DARK if hidden else _readable(fill)
        ax.text(
            column,
            row,
            "–" if hidden else text,
            color=color,
            ha="center",
            va="center",
            fontsize=7.5,
        )
    return mesh


def _readable(fill: np.ndarray) -> str:
    """Black or white, whichever has more contrast (WCAG 2.1's relative luminance)."""
    linear = np.where(fill[:3] <= 0.04045, fill[:3] / 12.92, ((fill[:3] + 0.055) / 1.055) ** 2.4)
    return "black" if linear @ (0.2126, 0.7152, 0.0722) > 0.179 else "white"


def _explain_hatching(figure: Figure) -> None:
    from matplotlib.patches import Patch

    patch = Patch(**_HATCHED, linewidth=0)
    text = "last accuracy zero, or below half of the best"
    figure.legend([patch], [text], loc="outside lower right", frameon=False, fontsize=SMALL)


# -- Curves ----------------------------------------------------------------------------------------


def _draw_curve(
    ax: Axes,
    milliseconds: np.ndarray,
    seeds: np.ndarray,
    floor: float,
    label: str,
    color: str,
) -> None:
    """The mean of accuracies `[seed, T]`, and their range."""
    if len(seeds) > 1:
        bounds = (np.maximum(1 - seeds.max(0), floor), np.maximum(1 - seeds.min(0), floor))
        ax.fill_between(milliseconds, *bounds, step="post", color=color, alpha=0.2, lw=0)
    # Not clipped: a network that stays silent lies on the axis, and must be seen there.
    style = {"color": color, "lw": 1.5, "drawstyle": "steps-post", "clip_on": False, "zorder": 3}
    ax.plot(milliseconds, np.maximum(1 - seeds.mean(0), floor), label=label, **style)


def _draw_relu(ax: Axes, accuracy: float, floor: float) -> None:
    style = {"color": DARK, "ls": (0, (4, 2)), "lw": 1.2}
    ax.axhline(max(1 - accuracy, floor), label="ReLU network", **style)


def _restyle(ax: Axes) -> None:
    ax.set(xscale="log", yscale="log")
    ax.grid(axis="y", color="#dddddd", lw=0.6)
    ax.spines[["top", "right"]].set_visible(False)


def _draw_legend(figure: Figure, ax: Axes, data: Dataset, along: str) -> None:
    """The values of a parameter, then what else there is."""
    from matplotlib.lines import Line2D

    labels, colors = _labels(data, along), _colors(data, along)
    shown = range(len(labels))
    if _is_number(data, along):
        shown = np.linspace(0, len(labels) - 1, min(len(labels), _MAX_ENTRIES)).round().astype(int)
    handles = [Line2D([], [], color=colors[index], label=labels[index]) for index in shown]
    handles += [line for line in ax.lines if line.get_label() in ("Pareto front", "ReLU network")]
    title = _title(data, along)
    figure.legend(handles=handles, title=title, loc="outside right upper", frameon=False)


# -- The Pareto front ------------------------------------------------------------------------------


def _joined(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Curves `[..., T]` as one, with a gap after each, and without costs of zero."""
    gaps = [(0, 0)] * (x.ndim - 1) + [(0, 1)]
    x, y = (np.pad(values, gaps, constant_values=np.nan).ravel() for values in (x, y))
    return np.where(x > 0, x, np.nan), y


def _points(data: Dataset, dims: Sequence[str], where: Sequence[np.ndarray]) -> list[str]:
    """What is special about some points: the values of the dimensions that have several."""
    several = [
        (_notes(data, dim), indices)
        for dim, indices in zip(dims, where, strict=False)
        if data.sizes[dim] > 1
    ]
    return [
        ", ".join(notes[indices[number]] for notes, indices in several)
        for number in range(len(where[0]))
    ]


def _draw_notes(ax: Axes, x: np.ndarray, y: np.ndarray, texts: Sequence[str]) -> None:
    """Notes at some points of a front, to the left of them and above, where nothing else can be."""
    bottom, top = ax.get_ylim()
    heights = np.log(bottom / y) / np.log(bottom / top)
    chosen: list[int] = []
    for index in reversed(range(len(texts))):
        apart = max(0.08, (heights[-1] - heights[0]) / _MAX_NOTES)
        if not chosen or heights[chosen[-1]] - heights[index] >= apart:
            chosen.append(index)
    left, right = np.log(ax.get_xlim())
    for index in chosen[:_MAX_NOTES]:
        style = {"ha": "right", "fontsize": SMALL, "color": DARK, "zorder": 2.5}
        style["bbox"] = {"facecolor": "white", "alpha": 0.85, "linewidth": 0, "pad": 0.5}
        position = {"xytext": (-4, 4), "textcoords": "offset points"}
        ax.annotate(texts[index], (x[index], y[index]), **position, **style)
        # Room for it: a character takes about 0.55 of the size of the font, and the axes have about
        # 0.7 of the figure's width.
        width = 0.55 * SMALL / 72 * (len(texts[index]) + 2)
        share = min(width / (0.7 * ax.figure.bbox.width / ax.figure.dpi), 0.6)
        left = min(left, (np.log(x[index]) - share * right) / (1 - share))
    ax.set_xlim(np.exp(left), np.exp(right))
