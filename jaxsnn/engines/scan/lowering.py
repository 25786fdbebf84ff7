"""What the neurons of each layer receive: functions from spikes to currents, in either arithmetic.

The loop over time knows no more of a network than this.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial, singledispatch
from itertools import takewhile
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxsnn.conversion.executable import Executable
from jaxsnn.conversion.fixed_point import FixedPointNetwork
from jaxsnn.engines.scan.integers import FLOAT32, Format, fastest_format, integer_product, planes
from jaxsnn.engines.scan.patches import Patches, as_patches
from jaxsnn.network import (
    AveragePooling,
    Connection,
    Convolution,
    Dense,
    Layer,
    MaxPooling,
    Multiply,
    Operation,
    Reshape,
    Select,
    Shape,
    Transpose,
)
from jaxsnn.support.arrays import for_batches

# The number format of each kind of operation with weights; empty in floating point.
Formats = tuple[tuple[type[Operation], Format], ...]


@singledispatch
def compiled_operation(operation: Operation, shape: Shape) -> Operation:
    """The operation in the form that the scan computes fastest.

    Register a function for each kind of operation; `as_it_is` leaves it to JAX.

    Args:
        operation: an operation of a connection.
        shape: shape of its inputs, without the batch axis.

    Returns:
        The same linear map.
    """
    raise TypeError(f"the scan does not compute {type(operation).__name__}.")


def as_it_is(operation: Operation, shape: Shape) -> Operation:
    """The operation itself."""
    del shape
    return operation


for _kind in (Dense, MaxPooling, Multiply, AveragePooling, Reshape, Select, Transpose):
    compiled_operation.register(_kind, as_it_is)


@compiled_operation.register
def _(operation: Convolution, shape: Shape) -> Operation:
    if jax.default_backend() != "cpu":
        return operation
    return as_patches(operation, operation.output_shape(shape)[-2]) or operation


def is_compiled(operation: Operation) -> bool:
    """Whether the scan computes operations of this kind."""
    dispatch = compiled_operation.dispatch
    return dispatch(type(operation)) is not dispatch(object)


class Compiled(NamedTuple):
    """The layers as the neurons see them.

    Attributes:
        connections: for each layer the sources of its connections, each a layer or `INPUT`, with a
            function from what they send `[N, ...]` to currents.
        biases: for each layer what its neurons receive in a step at a rate of one spike in each
            step, or None.
        spiking: for each layer whether its neurons spike, and not only accumulate.
        pooling: for each layer its max pooling of the numbers of spikes of its source, or None.
        thresholds: for each layer the firing thresholds, in the type of the potentials.
        step_sizes: for each layer what a potential of 1 stands for; None where that is 1.
        dtype: type of potentials and spikes.
    """

    connections: list[list[tuple[int, Callable[[Array], Array]]]]
    biases: list[Array | None]
    spiking: list[bool]
    pooling: list[Callable[[Array], Array] | None]
    thresholds: Sequence[Array]
    step_sizes: Sequence[Array | None]
    dtype: Any

    def in_units(self, index: int, potential: Array) -> Array:
        """Potentials [K, B, ...] of a layer in the units of the original thresholds."""
        step_size = self.step_sizes[index]
        if step_size is None:
            return potential
        return potential.astype(step_size.dtype) * (
            step_size[None] if step_size.ndim else step_size
        )


def compiled(network: Executable, formats: Formats) -> Compiled:
    """The currents and thresholds of a network; call it once, outside of the loop over time.

    Args:
        network: a spiking network, of floating-point numbers or of integers.
        formats: what computes products of integers, from `fastest_formats`.

    Returns:
        Its layers as the neurons see them.
    """
    integers = isinstance(network, FixedPointNetwork)
    layers = list(zip(network.network.layers, network.network.shapes, strict=True))

    def current(connection: Connection, amplitude: Any) -> Callable[[Array], Array]:
        shape = network.network.shape_of(connection.source)
        fastest = _fastest(connection, shape)
        if integers:
            return _of_integers(fastest, amplitude, dict(formats))
        return _of_floats(fastest, amplitude, shape, network.dtype)

    return Compiled(
        [
            [
                (connection.source, current(connection, amplitude))
                for connection, amplitude in zip(layer.all_connections, row, strict=True)
            ]
            for (layer, _), row in zip(layers, network.amplitudes, strict=True)
        ],
        [_bias(layer, shape, network.dtype) for layer, shape in layers],
        [layer.spiking for layer, _ in layers],
        [layer.connection if layer.pools_maxima else None for layer, _ in layers],
        [
            for_batches(theta if layer.spiking else 0, shape, network.dtype)
            for theta, (layer, shape) in zip(network.thresholds, layers, strict=True)
        ],
        [
            None if size is None else for_batches(size, shape, size.dtype)
            for size, shape in zip(network.step_sizes, network.network.shapes, strict=True)
        ],
        network.dtype,
    )


def _bias(layer: Layer, shape: Shape, dtype: Any) -> Array | None:
    return None if layer.bias is None else for_batches(layer.bias, shape, dtype)


def fastest_formats(network: Executable) -> Formats:
    """The number formats for the layers of a network on this backend; none in floating point."""
    if not isinstance(network, FixedPointNetwork):
        return ()
    kinds = (Dense, Patches, Convolution)
    return tuple((kind, fastest_format(kind, jax.default_backend())) for kind in kinds)


def _fastest(connection: Connection, shape: Shape) -> Connection:
    """The connection with the fastest form of each operation, for a source of this shape."""
    operations = []
    for operation in connection.operations:
        operations.append(compiled_operation(operation, shape))
        shape = operation.output_shape(shape)
    return Connection(tuple(operations), connection.source)


def _of_floats(
    connection: Connection, amplitude: Any, shape: Shape, dtype: Any
) -> Callable[[Array], Array]:
    if amplitude is None:
        return connection
    weight = for_batches(amplitude, shape, dtype)
    return lambda spikes: connection(spikes * weight)


def _of_integers(
    connection: Connection, amplitude: int, formats: dict[type[Operation], Format]
) -> Callable[[Array], Array]:
    # Sums over windows may be too large for the terms of narrow formats.
    before_weights = takewhile(lambda operation: not operation.weighted, connection.operations)
    sums_first = not all(operation.permutes for operation in before_weights)
    steps = []
    for operation in connection.operations:
        if operation.weighted:
            kind = FLOAT32 if sums_first else formats.get(type(operation), FLOAT32)
            weights = planes(jax.tree.leaves(operation)[0], kind)
            steps.append(partial(integer_product, operation, weights, number_format=kind))
        else:
            steps.append(operation if operation.permutes else partial(_sum, operation))

    def current(spikes: Array) -> Array:
        x = spikes
        for step in steps:
            x = step(x)
        return x * amplitude

    return current


def _sum(operation: Operation, x: Array) -> Array:
    """Sums over windows: of float32 they are faster than of integers, and as exact."""
    return operation.sum(x.astype(jnp.float32)).astype(jnp.int32)
