"""The figures that the commands draw: of one converted network, and of what accuracy costs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from jaxsnn import plotting
from jaxsnn.conversion.balancing import SpikingNetwork
from jaxsnn.simulation import Simulation, simulate
from jaxsnn.support.figures import (
    COLORS,
    DARK,
    SMALL,
    new_figure,
    show_errors_as_accuracies,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_RATE_IMAGES = 500  # enough points for the figure of rates


def draw_raster(snn: SpikingNetwork, run: Simulation, images: Any, seed: int, dt: float) -> Figure:
    """The first image going through the layers, as spikes."""
    first = simulate(
        snn,
        images[:1],
        key=seed,
        duration=0.05,
        dt=dt,
        record=lambda step: [step.inputs, *step.spikes],
        engine="scan",
    )
    spikes = [layer[:, 0] for layer in first.records]
    return plotting.plot_raster(spikes, dt=dt, image=images[0], names=["input", *_kinds(snn)])


def draw_rates(snn: SpikingNetwork, run: Simulation, images: Any, seed: int, dt: float) -> Figure:
    """Firing rates against activations, of the layers that spike."""
    shown = min(_RATE_IMAGES, len(run.input_spike_counts))
    activations = snn.network.activations(images[:shown])
    layers = [index for index, layer in enumerate(snn.network.layers) if layer.spiking]
    return plotting.plot_rates(
        [activations[index] for index in layers],
        [run.spike_counts[index][:shown] for index in layers],
        [snn.scale_factors[index] for index in layers],
        steps=len(run.predictions),
        names=[_kinds(snn)[index] for index in layers],
    )


def _kinds(snn: SpikingNetwork) -> list[str]:
    return [layer.kind for layer in snn.network.layers]


def draw_costs(table: pd.DataFrame) -> Figure:
    """Accuracy against operations of an image, a line for each method and a panel for each network.

    Args:
        table: columns network, method, steps, ReLU, accuracy and operations, as of `few_steps`.
    """
    names = list(dict.fromkeys(table["network"]))
    figure = new_figure(5.0 * len(names) + 0.5, 4.2)
    axes = figure.subplots(1, len(names), squeeze=False, sharey=True)[0]
    colors = dict(zip(dict.fromkeys(table["method"]), COLORS))
    errors = 1 - table[["accuracy", "ReLU"]].to_numpy(float)
    floor = min(errors[errors > 0], default=0.01) / 2
    for ax, name in zip(axes, names, strict=True):
        rows = table[table["network"] == name]
        for method, points in rows.groupby("method", sort=False):
            error = np.maximum(1 - points["accuracy"], floor)
            style = {"color": colors[str(method)], "marker": "o", "ms": 4, "lw": 1.2}
            ax.plot(points["operations"] / 1e6, error, label=method, clip_on=False, **style)
            for x, y, steps in zip(points["operations"] / 1e6, error, points["steps"]):
                ax.annotate(
                    f"{steps:.0f}", (x, y), (3, 4), textcoords="offset points", fontsize=SMALL
                )
        ax.axhline(1 - rows["ReLU"].max(), color=DARK, ls=(0, (4, 2)), lw=1, label="ReLU network")
        ax.set(title=name, xlabel="synaptic operations of an image (millions)", xscale="log")
        ax.set_yscale("log")
        ax.grid(axis="y", color="#dddddd", lw=0.6)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("accuracy (%); numbers: steps")
    for ax in axes:
        show_errors_as_accuracies(ax, errors, floor)
    lines, labels = axes[0].get_legend_handles_labels()
    figure.legend(lines, labels, loc="outside lower center", ncols=3 * len(names), frameon=False)
    return figure
