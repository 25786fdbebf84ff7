"""What a calibration compares: outputs of the ReLU network, and scores of the spiking one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from jaxsnn.conversion.balancing import SpikingNetwork
from jaxsnn.conversion.scaling import Per, channel_axes
from jaxsnn.conversion.statistics import Axes
from jaxsnn.network import Network, linear
from jaxsnn.simulation import Simulation, simulate, split
from jaxsnn.support.typed import Key

DT = 1e-3  # seconds: with the full rate its length does not matter


def relu_outputs(network: Network, pixels: np.ndarray, size: int = 500) -> np.ndarray:
    """What the last layer receives: its outputs, before a ReLU that scores do not have."""
    *before, last = network.layers
    linear_network = Network((*before, replace(last, activation=linear)), network.input_shape)
    compute = jax.jit(lambda network, x: network(x))
    starts = range(0, len(pixels), size)
    return np.concatenate([compute(linear_network, pixels[s : s + size]) for s in starts])


def runs(
    snn: SpikingNetwork,
    pixels: np.ndarray,
    steps: int,
    key: Key,
    batch_size: int,
    advance: Callable[[int], Any],
) -> Iterator[tuple[np.ndarray, Simulation]]:
    """Runs at the full rate, batch by batch, with the numbers of their images.

    There may be fewer numbers than images in the run, since the last batch is padded.
    """
    for numbers in split(len(pixels), batch_size):
        run = simulate(
            snn,
            pixels[numbers],
            key=key,
            samples=numbers,
            duration=steps * DT,
            dt=DT,
            max_rate=1 / DT,
            progress=False,
        )
        new = np.unique(numbers)
        advance(len(new))
        yield new, run


def last_scores(found: Iterable[tuple[np.ndarray, Simulation]]) -> np.ndarray:
    """The scores of all images after the last step of their runs `[N, classes]`."""
    return np.concatenate([np.asarray(run.scores)[-1][: len(numbers)] for numbers, run in found])


def parameter_axes(network: Network, per: Per) -> Axes:
    """For each layer the axis whose entries have a parameter each, without the batch; None for one.

    It is that of `channel_axes`; outputs without a ReLU, which have no scale factor, count too.
    """
    *before, last = channel_axes(network, per)
    if last is None and per == "channel" and len(network.shapes[-1]) == 1:
        last = 0
    return (*before, last)


def check_counts(**named: int) -> None:
    """Raise ValueError unless all are at least 1."""
    for name, value in named.items():
        if value < 1:
            raise ValueError(f"{name}={value}; it must be at least 1.")
