"""The figures of one converted network that `reproduce` draws."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jaxsnn import plotting
from jaxsnn.conversion.balancing import SpikingNetwork
from jaxsnn.simulation import Simulation, simulate

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
