"""Figures: accuracy against time, one image's spikes, firing rates against activations.

Every function returns its Matplotlib figure, for saving (`figure.savefig("accuracy.png", dpi=150)`)
or restyling, and draws into a figure or subfigure of yours where you pass one. Nothing is
registered with pyplot, so that nothing is shown twice or has to be closed; a notebook shows the
figure that a cell ends with. Matplotlib is imported when the first figure is drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, cast

import numpy as np

from jaxsnn.metrics import real_numbers
from jaxsnn.support.figures import (
    COLORS,
    DARK,
    SMALL,
    checked_fraction,
    new_figure,
    show_errors_as_accuracies,
)
from jaxsnn.support.typed import Count, Numbers, Real, typed

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import QuadMesh
    from matplotlib.figure import Figure

Curve = tuple[np.ndarray, np.ndarray]  # times in seconds [T], accuracies [seeds, T]
Curves = Annotated[
    Mapping[str, Any], "variant → accuracies, such as {'data-based': run.accuracy(labels)}"
]


@typed
def plot_accuracy(
    curves: Curves,
    times: Numbers | Mapping[str, Any],
    *,
    relu_accuracy: Real | Mapping[str, Any] | None = None,
    figure: Figure | None = None,
) -> Figure:
    """Draw accuracy against simulated time, a curve for each variant and a panel for each network.

    Both axes are logarithmic, the accuracy's in its distance from 100 %: the first milliseconds
    and the last tenths of a percent, of 500 ms and 100 %, are then both seen. An accuracy of 100 %
    has no place on such an axis and is drawn above all others, at the upper edge. Of several seeds
    the line is the mean, in a band from the lowest to the highest.

    Args:
        curves: variant → accuracies `[T]` (as from `Simulation.accuracy`), or `[seeds, T]`; for
            several panels network → variant → accuracies. A curve may end early.
        times: time in seconds of each accuracy `[T]` (`Simulation.times`), or network → times.
        relu_accuracy: accuracy of the ReLU network, or network → accuracy; a dashed line.
        figure: where to draw; by default a new figure.

    Returns:
        The figure.

    Raises:
        ValueError: there is nothing to draw, or accuracies, times and networks do not match.

    Example:
        >>> from jaxsnn import plotting
        >>> curves = {"unnormalised": [0.1, 0.8, 0.93], "data-based": [0.7, 0.97, 0.98]}
        >>> figure = plotting.plot_accuracy(curves, [0.001, 0.002, 0.003], relu_accuracy=0.985)
        >>> [line.get_label() for line in figure.axes[0].lines]
        ['unnormalised', 'data-based', 'ReLU network']
    """
    data = _checked_panels(curves, times)
    references = {
        network: checked_fraction(f"{network} relu_accuracy", _of(relu_accuracy, network))
        for network in data
        if relu_accuracy is not None
    }
    figure = figure or new_figure(10.0 if len(data) > 1 else 7.0, 3.8)
    axes = figure.subplots(1, len(data), squeeze=False, sharex=True, sharey=True)[0]
    colors: dict[str, str] = {}  # a variant has one colour in all panels
    curves_of_all = [curve for variants in data.values() for curve in variants.values()]
    fractions = [accuracies.ravel() for _, accuracies in curves_of_all]
    errors = 1 - np.concatenate([*fractions, *([value] for value in references.values())])
    floor = min(errors[errors > 0], default=0.01) / 2  # what stands for 0, which has no logarithm
    for ax, (network, variants) in zip(axes, data.items(), strict=True):
        for variant, (seconds, accuracies) in variants.items():
            color = colors.setdefault(variant, COLORS[len(colors) % len(COLORS)])
            times_ms = seconds * 1e3
            style = {"color": color, "lw": 1.5, "drawstyle": "steps-post"}
            # Not clipped: a network that stays silent lies on the axis, and must be seen there.
            mean = np.maximum(1 - accuracies.mean(0), floor)
            ax.plot(times_ms, mean, label=variant, clip_on=False, zorder=3, **style)
            if len(accuracies) > 1:
                error = np.maximum(1 - accuracies, floor)
                band = {"color": color, "alpha": 0.2, "lw": 0, "step": "post"}
                ax.fill_between(times_ms, error.min(0), error.max(0), **band)
        if network in references:
            style = {"color": DARK, "ls": (0, (4, 2)), "lw": 1.2}
            ax.axhline(max(1 - references[network], floor), label="ReLU network", **style)
        ax.set(title=network, xlabel="simulated time (ms)", xscale="log", yscale="log")
        ax.grid(axis="y", color="#dddddd", lw=0.6)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("accuracy (%)")
    show_errors_as_accuracies(axes[0], errors, floor)
    lines = {str(line.get_label()): line for ax in axes for line in ax.lines}
    labels = sorted(lines, key="ReLU network".__eq__)  # that one last
    figure.legend(
        [lines[label] for label in labels],
        labels,
        loc="outside lower center",
        ncols=min(len(labels), 4),
        columnspacing=1.5,
        frameon=False,
    )
    return figure


@typed
def plot_raster(
    spikes: Sequence[Numbers],
    *,
    dt: Real = 1e-3,
    names: Sequence[str] | None = None,
    image: Numbers | None = None,
    max_neurons: Count = 200,
    figure: Figure | None = None,
) -> Figure:
    """Draw the spikes of one sample on their way through the layers.

    One panel for each layer, the input on top; those of many layers are lower. In the output layer
    the neuron with the most spikes has its own colour, and a ring marks the first spike.

    Args:
        spikes: for the input and for each layer the spikes of one sample `[T, ...]`, as from
            `simulate(..., record=lambda step: [step.inputs, *step.spikes])`: there
            `[record[:, 0] for record in run.records]` is the first sample. Arrays that all have
            three axes or more and one size of the second, as those of a batch, are an error.
        dt: duration of a step in seconds.
        names: what to call the input and the layers.
        image: the image, drawn beside its input spikes: `[H, W]`, `[H, W, 1]` or `[H, W, 3]`.
        max_neurons: of a layer with more, this many are drawn, evenly spaced; the label says so.
            The output layer is always drawn whole.
        figure: where to draw; by default a new figure.

    Returns:
        The figure.

    Raises:
        ValueError: there are no layers, steps, names or the image's shape do not match, there are
            several samples, or numbers that are no spikes or pixels.

    Example:
        >>> import numpy as np
        >>> from jaxsnn import plotting
        >>> figure = plotting.plot_raster([np.ones((5, 3)), np.eye(5)[:, 1:]])
        >>> [ax.get_ylabel() for ax in figure.axes if ax.get_ylabel()]
        ['pixel', 'class']
    """
    layers = _checked_spikes(spikes)
    if not 0 < dt < np.inf:
        raise ValueError(f"dt={dt:g}; it must be a positive number of seconds.")
    if max_neurons < 1:
        raise ValueError(f"max_neurons={max_neurons}; it must be at least 1.")
    names = _checked_names(names, ["input", *_layer_names(len(layers) - 1)])
    pixels = None if image is None else _checked_pixels(image)
    hidden = np.clip(10.0 / len(layers), 0.3, 1.0)  # height of a panel, beside 1 of the input
    heights = [1.0, *[hidden] * (len(layers) - 2), 1.5]
    figure = figure or new_figure(9.0, 1.0 + 1.05 * sum(heights))
    grid = figure.subplots(
        len(layers),
        2,
        squeeze=False,
        sharex="col",
        gridspec_kw={"width_ratios": [1, 6], "height_ratios": heights},
    )
    for (side, ax), layer, name, height in zip(grid, layers, names, heights, strict=True):
        noun, low = "pixel" if ax is grid[0, 1] else "neuron", height < 0.8
        if ax is grid[-1, 1]:
            shown = _draw_output(ax, layer, dt)
        else:
            shown = _draw_spikes(ax, layer, dt, max_neurons)
            ax.set_ylabel("" if low else noun)
        number = f"{layer.shape[1]} {noun}s"
        if shown < layer.shape[1]:
            number = f"{shown} of {number}" if low else f"{number},\n{shown} shown"
        label = f"{name}\n{number}"
        if pixels is not None and ax is grid[0, 1]:
            _draw_image(side, pixels, label)
        else:
            side.text(1, 0.5, label, ha="right", va="center", fontsize=SMALL - 1 if low else 9)
        if low:  # no room for the numbers of its neurons
            ax.set_yticks([])
        side.axis("off")
        ax.tick_params(labelsize=SMALL)
        ax.spines[["top", "right"]].set_visible(False)
    grid[-1, 1].set(xlabel="time (ms)", xlim=(0, (len(layers[0]) + 1) * dt * 1e3))
    figure.align_ylabels(list(grid[:, 1]))
    return figure


@typed
def plot_rates(
    activations: Sequence[Numbers],
    spike_counts: Sequence[Numbers],
    scales: Numbers,
    *,
    steps: Count,
    names: Sequence[str] | None = None,
    figure: Figure | None = None,
) -> Figure:
    """Draw firing rates against the ReLU activations that they stand for, a panel for each layer.

    An activation of λ, the scale factor, stands for one spike in every step, so the neurons of an
    exact conversion lie on the dashed line. Colour says how many neurons (of all images) there are.
    A layer without spikes is called silent.

    Args:
        activations: ReLU activations of each layer `[B, ...]`, as from `Network.activations`.
        spike_counts: spikes of each neuron `[B, ...]`, as from `Simulation.spike_counts`.
        scales: λ of each layer, as from `data_based_scales`.
        steps: number of steps in which the spikes were counted.
        names: what to call the layers.
        figure: where to draw; by default a new figure.

    Returns:
        The figure.

    Raises:
        ValueError: there are no layers, the numbers of layers or the shapes do not match, or there
            are no such activations, counts, scale factors or steps.

    Example:
        >>> from jaxsnn import plotting
        >>> figure = plotting.plot_rates([[[0.0, 1.0, 2.0]]], [[[0, 5, 9]]], [2.0], steps=10)
        >>> figure.axes[0].texts[0].get_text().splitlines()
        ['r = 0.998', 'mean |error| 0.033']
    """
    factors = list(cast(Sequence[Numbers], scales)) if np.iterable(scales) else [scales]
    numbers = [len(activations), len(spike_counts), len(factors)]
    if not numbers[0] or len(set(numbers)) > 1:
        raise ValueError(
            f"activations, spike_counts and scales have {numbers} entries; each must have one for "
            "each layer, in the order of Network.activations."
        )
    if steps < 1:
        raise ValueError(f"steps={steps}; it must be the number of steps, at least 1.")
    names = _checked_names(names, _layer_names(len(activations)))
    layers = [
        _checked_rates(*layer, steps)
        for layer in zip(names, activations, spike_counts, factors, strict=True)
    ]
    columns = min(len(layers), 3)
    rows = -(-len(layers) // columns)
    figure = figure or new_figure(3.1 * columns + 0.7, 3.1 * rows)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    meshes = [_draw_density(ax, *layer, steps) for ax, layer in zip(axes, layers, strict=False)]
    most = max(float(cast(np.ndarray, mesh.get_array()).max()) for mesh in meshes)
    for mesh in meshes:  # one colour scale, so that panels can be compared
        mesh.set_clim(1, max(most, 10.0))
    for number, (ax, name, (_, rates)) in enumerate(zip(axes, names, layers)):
        ax.set_title(name if rates.any() else f"{name}: silent")
        ax.set_xlabel("ReLU activation / λ")
        if number % columns == 0:
            ax.set_ylabel("firing rate (spikes per step)")
    for ax in axes[len(layers) :]:
        ax.remove()
    bar = figure.colorbar(meshes[0], ax=list(axes[: len(layers)]), fraction=0.05, pad=0.02)
    bar.set_label("neurons × images")
    return figure


@typed
def plot_layers(table: Any, *, figure: Figure | None = None) -> Figure:
    """Draw a report: for each layer its error, saturated and silent neurons, and what it costs.

    Args:
        table: the table of a `jaxsnn.report`, with a row for each layer.
        figure: where to draw; by default a new figure.

    Returns:
        The figure.

    Raises:
        ValueError: the table lacks a column, or has no rows.

    Example:
        >>> import jax, jax.numpy as jnp, jaxsnn
        >>> network = jaxsnn.read_network(lambda x: jax.nn.relu(0.5 * x), jnp.zeros((1, 2)))
        >>> snn = jaxsnn.balance_thresholds(network, 0.5)
        >>> figure = jaxsnn.plotting.plot_layers(jaxsnn.report(snn, jnp.ones((1, 2))).table)
        >>> [ax.get_xlabel() for ax in figure.axes]
        ['relative error', 'share of neurons (%)', 'for each image']
    """
    columns = ("layer", "error", "saturated", "silent", "spikes", "operations")
    missing = [name for name in columns if name not in getattr(table, "columns", ())]
    if missing or not len(table):
        raise ValueError(f"the table lacks {missing or 'rows'}; give the table of jaxsnn.report.")
    places = np.arange(len(table))
    figure = figure or new_figure(9.0, 1.3 + 0.22 * len(table))
    errors, shares, costs = figure.subplots(1, 3, sharey=True)
    errors.barh(places, table["error"], color=COLORS[1])
    for name, offset, color in (("saturated", -0.2, COLORS[0]), ("silent", 0.2, COLORS[5])):
        shares.barh(places + offset, 100 * table[name], 0.4, label=name, color=color)
    for name, marker, color in (("spikes", "o", COLORS[2]), ("operations", "s", DARK)):
        shown = table[name].where(table[name] > 0)  # the axis is logarithmic
        costs.plot(shown, places, marker, ms=4, label=name, color=color)
    errors.set(xlabel="relative error", xlim=(0, None), ylim=(len(table) - 0.4, -0.6))
    labels = [f"{name}  {number}" for number, name in zip(table.index, table["layer"])]
    errors.set_yticks(places, labels, fontsize=SMALL)
    most = np.nanmax(100 * table[["saturated", "silent"]].to_numpy(float), initial=1.0)
    shares.set(xlabel="share of neurons (%)", xlim=(0, 1.05 * most))
    costs.set(xlabel="for each image", xscale="log")
    for ax in (errors, shares, costs):
        ax.grid(axis="x", color="#dddddd", lw=0.6)
        ax.set_axisbelow(True)
        ax.spines[["top", "right"]].set_visible(False)
    for ax in (shares, costs):
        ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, frameon=False, fontsize=9)
    return figure


# -- Parts -----------------------------------------------------------------------------------------


def _of(values: Any, network: str) -> Any:
    """The network's own entry, where each has its own."""
    if not isinstance(values, Mapping):
        return values
    if network not in values:
        raise ValueError(
            f"no entry for network {network!r} among {list(values)}; times and relu_accuracy are "
            "one value, or have an entry for every network in curves."
        )
    return values[network]


def _checked_panels(curves: Mapping[str, Any], times: Any) -> dict[str, dict[str, Curve]]:
    """Times and accuracies: network → variant → both; without networks there is one, named ""."""
    nested = {isinstance(curve, Mapping) for curve in curves.values()}
    if len(nested) > 1:
        raise ValueError(
            f"curves mixes networks and variants, {list(curves)}; give variant → accuracies, or "
            "network → variant → accuracies."
        )
    panels = curves if nested == {True} else {"": curves}
    if not curves or not all(panels.values()):
        raise ValueError(
            f"curves has nothing to draw: {dict(curves)}; give accuracies, such as "
            "{'data-based': run.accuracy(labels)}."
        )
    return {
        network: {
            variant: _checked_curve(f"{network} {variant}".strip(), curve, _of(times, network))
            for variant, curve in variants.items()
        }
        for network, variants in panels.items()
    }


def _checked_curve(name: str, accuracies: Any, times: Any) -> Curve:
    found = checked_fraction(f"curve {name}", accuracies)
    seconds = real_numbers(f"curve {name}: times", times).astype(float)
    if not found.size:
        raise ValueError(f"curve {name} has nothing to draw: it has no accuracies.")
    if found.ndim not in (1, 2) or seconds.ndim != 1 or found.shape[-1] > len(seconds):
        raise ValueError(
            f"curve {name}: accuracies of shape {found.shape} and times of shape {seconds.shape}; "
            "there must be one time for each accuracy, which are [T], or [seeds, T]."
        )
    if seconds[0] <= 0 or not np.all(np.diff(seconds) > 0):
        raise ValueError(
            f"curve {name}: the first time is {seconds[0]:g} s, the last {seconds[-1]:g} s; times "
            "must rise from above 0, since the axis is logarithmic. Count them from the end of the "
            "first step, as Simulation.times does."
        )
    return seconds[: found.shape[-1]], np.atleast_2d(found)


def _checked_spikes(spikes: Sequence[Any]) -> list[np.ndarray]:
    """Spikes of each layer `[T, neurons]`."""
    layers = [real_numbers("spikes", layer, bools=True) for layer in spikes]
    shapes = [layer.shape for layer in layers]
    steps = {layer.shape[0] if layer.ndim and layer.size else 0 for layer in layers}
    if len(layers) < 2 or len(steps) > 1 or steps == {0}:
        raise ValueError(
            f"spikes has {len(layers)} arrays of shapes {shapes}; it must be [T, ...] for the "
            "input and for each layer, with one T, at least 1."
        )
    samples = {shape[1] if len(shape) > 2 else 1 for shape in shapes}
    if len(samples) == 1 and samples != {1}:
        raise ValueError(
            f"spikes has arrays of shapes {shapes}, which look like [T, B, ...] with "
            f"{samples.pop()} samples; take one: [record[:, 0] for record in run.records]. If they "
            "are of one sample, flatten its neurons: [s.reshape(len(s), -1) for s in spikes]."
        )
    for number, layer in enumerate(layers[1:], 1):
        if not np.all((layer == 0) | (layer == 1)):
            raise ValueError(
                f"spikes[{number}] has values from {layer.min():g} to {layer.max():g}; spikes are "
                "0 or 1, as in Step.spikes."
            )
    return [layer.reshape(len(layer), -1) for layer in layers]


def _layer_names(layers: int) -> list[str]:
    return [*(f"layer {number}" for number in range(1, layers)), "output"]


def _checked_names(names: Sequence[str] | None, default: list[str]) -> list[str]:
    if names is None:
        return default
    if isinstance(names, str) or len(names) != len(default):
        what = repr(names) if isinstance(names, str) else f"has {len(names)} entries"
        raise ValueError(
            f"names {what}, but there are {len(default)} panels; give a list such as {default}."
        )
    return list(names)


def _checked_pixels(image: Any) -> np.ndarray:
    """An image as Matplotlib draws it."""
    pixels = real_numbers("image", image, bools=True)
    if pixels.ndim == 3 and pixels.shape[-1] == 1:
        pixels = pixels[..., 0]
    if not pixels.size or (pixels.ndim != 2 and (pixels.ndim != 3 or pixels.shape[-1] != 3)):
        raise ValueError(
            f"image has shape {pixels.shape}; it must be [H, W], [H, W, 1] or [H, W, 3], with "
            "pixels. Take one image of a batch: images[0]."
        )
    if pixels.min() < 0 or pixels.max() > 1 + 1e-6:
        raise ValueError(
            f"image has pixels from {pixels.min():g} to {pixels.max():g}; they must lie in [0, 1]. "
            "Divide 8-bit pixels by 255."
        )
    return pixels.astype(float)


def _draw_image(ax: Axes, pixels: np.ndarray, label: str) -> None:
    inset = ax.inset_axes((0, 0.42, 1, 0.6))
    inset.imshow(pixels, cmap="gray_r", vmin=0, vmax=1)
    inset.set(anchor="E", xticks=[], yticks=[])
    ax.text(1, 0.36, label, ha="right", va="top", fontsize=9)


def _spike_times(spikes: np.ndarray, dt: float) -> tuple[np.ndarray, np.ndarray]:
    """Time in milliseconds, at the end of the step as in `Simulation.times`, and neuron."""
    step, neuron = np.nonzero(spikes)
    return (step + 1) * dt * 1e3, neuron


def _draw_spikes(ax: Axes, spikes: np.ndarray, dt: float, max_neurons: int) -> int:
    """A dot for each spike; returns how many neurons are shown."""
    size = spikes.shape[1]
    shown = np.linspace(0, size - 1, min(max_neurons, size)).round().astype(int)
    times, which = _spike_times(spikes[:, shown], dt)
    diameter = np.clip(200 / len(spikes), 0.8, 2)  # in points; a panel is about 500 wide
    ax.scatter(times, shown[which], s=diameter**2, color=DARK, linewidths=0, rasterized=True)
    margin = max(0.6, 0.03 * size)
    ax.set(ylim=(size - 1 + margin, -margin), yticks=[0, size - 1])
    return len(shown)


def _draw_output(ax: Axes, spikes: np.ndarray, dt: float) -> int:
    """A dash for each spike; the class with most in colour, a ring around the first, the counts."""
    times, which = _spike_times(spikes, dt)
    classes = spikes.shape[1]
    counts = np.bincount(which, minlength=classes)
    predicted = int(counts.argmax()) if len(which) else -1
    chosen = which == predicted
    dash = {"marker": "|", "s": 16, "linewidths": 1.2}
    ax.scatter(times[~chosen], which[~chosen], color=DARK, **dash)
    ax.set(ylabel="class", ylim=(classes - 0.4, -0.6))
    legend = {"loc": "lower right", "bbox_to_anchor": (1, 1), "ncols": 2, "borderaxespad": 0}
    if len(which):
        label = f"predicted class: {predicted}"
        ax.scatter(times[chosen], which[chosen], color=COLORS[0], label=label, **dash)
        ring = {"s": 50, "facecolors": "none", "edgecolors": COLORS[1]}
        ax.scatter(times[0], which[0], label=f"first spike: {times[0]:g} ms", **ring)
        ax.legend(**legend, frameon=False, fontsize=9, handletextpad=0.2)
    else:
        ax.set_title("no output spike: undecided", loc="right", fontsize=9)
    if classes <= 20:  # more would not be legible
        ax.set_yticks(range(classes))
        for neuron, (count, tick) in enumerate(zip(counts, ax.get_yticklabels(), strict=True)):
            text = f"{count} spikes" if neuron == predicted else f"{count}"
            color = COLORS[0] if neuron == predicted else DARK
            tick.set_color(color)
            ax.annotate(
                text,
                (1.01, neuron),
                xycoords=("axes fraction", "data"),
                va="center_baseline",
                fontsize=SMALL,
                color=color,
            )
    return classes


def _checked_rates(
    name: str, activation: Any, counts: Any, scale: Any, steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """Activations divided by λ, and firing rates, flattened."""
    values = real_numbers(f"{name}: activations", activation)
    spikes = real_numbers(f"{name}: spike_counts", counts)
    factor = real_numbers(f"{name}: scales", scale)
    if values.shape != spikes.shape or not spikes.size:
        raise ValueError(
            f"{name}: activations of shape {values.shape} and spike_counts of shape "
            f"{spikes.shape}; they must be of the same images, and at least one."
        )
    if values.min() < 0:
        raise ValueError(
            f"{name}: activations as low as {values.min():g}; those of a ReLU are not negative, "
            "as from Network.activations."
        )
    if spikes.min() < 0 or spikes.max() > steps or np.any(spikes != np.rint(spikes)):
        raise ValueError(
            f"{name}: spike_counts from {spikes.min():g} to {spikes.max():g} with steps={steps}; "
            "they must be whole numbers, with at most one spike in a step."
        )
    if factor.size == 0 or factor.min() <= 0:
        raise ValueError(f"{name}: scales of {factor.tolist()}; they must be positive.")
    sizes = zip(factor.shape[::-1], values.shape[::-1], strict=False)
    if factor.ndim > values.ndim or not all(size in (1, neurons) for size, neurons in sizes):
        raise ValueError(
            f"{name}: scales of shape {factor.shape} for activations of shape {values.shape}; give "
            "one for the layer, or an array that broadcasts to its neurons."
        )
    with np.errstate(over="ignore"):
        relative = np.ravel(values.astype(float) / factor)
    return real_numbers(f"{name}: activations / scales", relative), np.ravel(spikes) / steps


def _draw_density(ax: Axes, activation: np.ndarray, rate: np.ndarray, steps: int) -> QuadMesh:
    """How many neurons there are in each cell of activation and firing rate."""
    from matplotlib.colors import LogNorm

    largest = max(float(activation.max()), float(rate.max()), 1 / steps)
    # Cells hold a whole number of the rates 0, 1/T, 2/T, …, or some would be empty and some double.
    width = -(-largest * steps // 50)
    edges = (np.arange((largest * steps + 0.5) // width + 2) * width - 0.5) / steps
    cells = np.histogram2d(activation, rate, bins=(edges, edges))[0].T
    mesh = ax.pcolormesh(
        edges, edges, np.ma.masked_equal(cells, 0), norm=LogNorm(), cmap="viridis", rasterized=True
    )
    ax.plot([0, largest], [0, largest], color=COLORS[0], ls=(0, (4, 2)), lw=1.2, label="identity")
    ax.set(xlim=edges[[0, -1]], ylim=edges[[0, -1]], aspect="equal")
    text = f"mean |error| {np.abs(rate - activation).mean():.2g}" if rate.any() else "no spikes"
    if np.ptp(activation) > 0 and np.ptp(rate) > 0:
        text = f"r = {np.corrcoef(activation, rate)[0, 1]:.3f}\n{text}"
    ax.text(0.04, 0.96, text, va="top", transform=ax.transAxes, fontsize=9)
    ax.spines[["top", "right"]].set_visible(False)
    return mesh
