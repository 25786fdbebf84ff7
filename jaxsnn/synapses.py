"""What the neurons of each layer receive: functions from spikes to currents, in either arithmetic.

The scan and the sweeps know no more of a network than this.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxsnn.balancing import SpikingNetwork
from jaxsnn.fixed_point import FixedPointNetwork
from jaxsnn.network import AveragePooling, Convolution, Dense, Layer, Network, Operation
from jaxsnn.patches import Patches, as_patches
from jaxsnn.units import FLOAT32, Unit, fastest_unit, integer_product, planes

AnyNetwork = SpikingNetwork | FixedPointNetwork
Units = tuple[tuple[type[Operation], Unit], ...]


class Synapses(NamedTuple):
    """The layers as the neurons see them.

    Attributes:
        currents: for each layer a function from the spikes it receives `[N, ...]` to currents.
        thresholds: for each layer the firing thresholds, in the type of the potentials.
        units: for each layer what a potential of 1 stands for; None where that is 1.
        dtype: type of potentials and spikes.
    """

    currents: list[Callable[[Array], Array]]
    thresholds: Sequence[Array]
    units: Sequence[Array | None]
    dtype: Any

    def in_units(self, index: int, potential: Array) -> Array:
        """Potentials or thresholds of a layer in the units of the original thresholds."""
        unit = self.units[index]
        return potential if unit is None else potential * unit


def synapses(network: AnyNetwork, units: Units) -> Synapses:
    """The currents and thresholds of a network; call it once, outside of the loop over time.

    Args:
        network: a spiking network, of floating-point numbers or of integers.
        units: what computes products of integers, from `chosen_units`.

    Returns:
        Its layers as the neurons see them.
    """
    layers = _prepared(network.network)
    if isinstance(network, FixedPointNetwork):
        return _of_integers(network, layers, dict(units))
    dtype = network.network.dtype
    amplitudes = [None, *network.amplitudes[:-1]]
    return Synapses(
        [
            partial(_current, layer, None if amplitude is None else amplitude.astype(dtype))
            for layer, amplitude in zip(layers, amplitudes, strict=True)
        ],
        [threshold.astype(dtype) for threshold in network.thresholds],
        [None] * len(amplitudes),
        dtype,
    )


def chosen_units(network: AnyNetwork) -> Units:
    """The fastest exact units for the layers of a network on this backend; none for floats."""
    if isinstance(network, SpikingNetwork):
        return ()
    return tuple((kind, fastest_unit(kind, jax.default_backend())) for kind in (Dense, Convolution))


def _prepared(network: Network) -> list[Layer]:
    """The layers, with the fastest form of each operation."""
    if jax.default_backend() != "cpu":
        return list(network.layers)
    layers, shape = [], network.input_shape
    for layer in network.layers:
        operations = []
        for part in layer.operations:
            shape = part.output_shape(shape)
            patches = as_patches(part, shape[-2]) if isinstance(part, Convolution) else None
            operations.append(patches or part)
        layers.append(Layer(tuple(operations)))
    return layers


def _current(layer: Layer, amplitude: Array | None, spikes: Array) -> Array:
    return layer(spikes if amplitude is None else spikes * amplitude)


def _of_integers(
    network: FixedPointNetwork, layers: list[Layer], units: dict[type[Operation], Unit]
) -> Synapses:
    currents = []
    for layer, gain in zip(layers, network.gains, strict=True):
        pooled = _pools_first(layer)
        # Sums over windows may be too large for the terms of the narrow units.
        unit = [FLOAT32 if pooled else _unit(part, units) for part in layer.operations]
        prepared = [
            planes(jax.tree.leaves(part)[0], of_part) if part.weighted else []
            for part, of_part in zip(layer.operations, unit, strict=True)
        ]
        currents.append(partial(_integer_current, layer, prepared, gain, unit))
    return Synapses(currents, network.thresholds, network.units, jnp.int32)


def _integer_current(
    layer: Layer,
    prepared: list[list[Array]],
    gain: int,
    units: list[Unit],
    spikes: Array,
) -> Array:
    x = spikes
    for part, weights, unit in zip(layer.operations, prepared, units, strict=True):
        if isinstance(part, AveragePooling):
            # Windows of float32 are added faster than those of integers, and as exactly.
            x = part.sum(x.astype(FLOAT32.terms)).astype(jnp.int32)
        elif part.weighted:
            x = integer_product(part, weights, x, unit)
        else:
            x = part(x)
    return x * gain


def _pools_first(layer: Layer) -> bool:
    """Whether a pooling comes before the weights of a layer."""
    kinds = [
        type(part) for part in layer.operations if part.weighted or type(part) is AveragePooling
    ]
    return len(kinds) > 1 and kinds[0] is AveragePooling


def _unit(operation: Operation, units: dict[type[Operation], Unit]) -> Unit:
    """What computes the products of an operation; those of patches are as those of dense layers."""
    kind = Dense if isinstance(operation, Patches) else type(operation)
    return units.get(kind, FLOAT32)
