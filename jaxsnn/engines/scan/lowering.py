"""What the neurons of each layer receive: functions from spikes to currents, in either arithmetic.

The loop over time knows no more of a network than this.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial, singledispatch
from itertools import takewhile
from math import ceil, log2, prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxsnn.conversion.executable import Executable
from jaxsnn.conversion.fixed_point import FixedPointNetwork
from jaxsnn.conversion.rounding import NUMBER_BITS
from jaxsnn.engines.scan.integers import (
    FLOAT32,
    PLANES,
    Format,
    fastest_format,
    float_planes,
    integer_product,
    planes,
    spike_product,
)
from jaxsnn.engines.scan.patches import Patches, as_patches, as_products
from jaxsnn.network import (
    INPUT,
    AveragePooling,
    Connection,
    Convolution,
    Dense,
    Gain,
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

# The number format of each kind of operation with weights; in floating point, of those whose
# weights are multiplied with spikes in planes.
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


for _kind in (Dense, Gain, MaxPooling, Multiply, AveragePooling, Reshape, Select, Transpose):
    compiled_operation.register(_kind, as_it_is)


@compiled_operation.register
def _(operation: Convolution, shape: Shape) -> Operation:
    if jax.default_backend() == "tpu":  # where patches have not been measured
        return operation
    return as_patches(operation, operation.output_shape(shape)[-2]) or operation


def is_compiled(operation: Operation) -> bool:
    """Whether the scan computes operations of this kind."""
    dispatch = compiled_operation.dispatch
    return dispatch(type(operation)) is not dispatch(object)


# From each source, a layer or `INPUT`, and from what it sends to currents.
Currents = list[tuple[int, Callable[[Array], Array]]]


class Compiled(NamedTuple):
    """The layers as the neurons see them.

    Attributes:
        connections: for each layer the sources of its connections, each a layer or `INPUT`, with a
            function from what they send `[N, ...]` to currents.
        from_numbers: of the connections, those from the input, for inputs that are no spikes but
            numbers of floating point.
        biases: for each layer what its neurons receive in a step at a rate of one spike in each
            step, of floating point, or None.
        spiking: for each layer whether its neurons spike, and not only accumulate.
        pooling: for each layer its max pooling of the numbers of spikes of its source, or None.
        thresholds: for each layer the firing thresholds, in the type of the potentials.
        step_sizes: for each layer what a potential of 1 stands for; None where that is 1.
        dtype: type of potentials and spikes.
    """

    connections: list[Currents]
    from_numbers: list[Currents]
    biases: list[Array | None]
    spiking: list[bool]
    pooling: list[Callable[[Array], Array] | None]
    thresholds: Sequence[Array]
    step_sizes: Sequence[Array | None]
    dtype: Any

    def bias(self, index: int, rate: Array) -> Array | None:
        """What the neurons of a layer [1, ...] receive in a step at a rate, beside currents."""
        values = self.biases[index]
        if values is None:
            return None
        received = rate * (values[None] if values.ndim else values)
        if jnp.issubdtype(self.dtype, jnp.integer):
            return jnp.rint(received).astype(self.dtype)
        return received

    def in_units(self, index: int, potential: Array) -> Array:
        """Potentials [K, B, ...] of a layer in the units of the original thresholds."""
        step_size = self.step_sizes[index]
        if step_size is None:
            return potential
        return potential.astype(step_size.dtype) * (
            step_size[None] if step_size.ndim else step_size
        )


def compiled(network: Executable, formats: Formats, *, unfolded: bool = False) -> Compiled:
    """The currents and thresholds of a network; call it once, outside of the loop over time.

    Args:
        network: a spiking network, of floating-point numbers or of integers.
        formats: what computes products, from `fastest_formats`.
        unfolded: whether convolutions of floating point are products of patches.

    Returns:
        Its layers as the neurons see them.
    """
    integers = isinstance(network, FixedPointNetwork)
    layers = list(zip(network.network.layers, network.network.shapes, strict=True))
    rows = [
        list(zip(layer.all_connections, amplitudes, strict=True))
        for (layer, _), amplitudes in zip(layers, network.amplitudes, strict=True)
    ]

    def current(
        connection: Connection, amplitude: Any, formats: Formats = formats
    ) -> Callable[[Array], Array]:
        shape = network.network.shape_of(connection.source)
        is_a_sum = network.network.is_a_sum(connection.source)
        if integers and is_a_sum:
            return _of_multiples(connection)
        fastest = _fastest(connection, shape)
        if integers:
            return _of_integers(fastest, amplitude, dict(formats))
        fastest = as_products(fastest) if unfolded else fastest
        if formats and not is_a_sum and np.ndim(amplitude) == 0:
            return _of_spikes(fastest, amplitude, dict(formats))
        return _of_floats(fastest, amplitude, shape, network.dtype)

    def from_numbers(connection: Connection, amplitude: Any) -> Callable[[Array], Array]:
        if not integers:
            return current(connection, amplitude, ())
        of_multiples = _of_multiples(connection, amplitude)
        return lambda x: of_multiples(jnp.rint(x * jnp.float32(1 << NUMBER_BITS)).astype(jnp.int32))

    return Compiled(
        [[(part.source, current(part, weight)) for part, weight in row] for row in rows],
        [
            [(INPUT, from_numbers(part, weight)) for part, weight in row if part.source == INPUT]
            for row in rows
        ],
        [_bias(layer, shape, network.network.dtype) for layer, shape in layers],
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


def fastest_formats(network: Executable, *, binary: bool = True) -> Formats:
    """The number formats for the layers of a network on this backend.

    Args:
        network: a spiking network, of floating-point numbers or of integers.
        binary: whether its spikes are 0 or 1 and nobody asks for gradients.

    Returns:
        In floating point none on CPUs, which multiply float32 as fast as anything else.
    """
    kinds: tuple[type[Operation], ...] = (Dense, Patches, Convolution)
    if not isinstance(network, FixedPointNetwork):
        if not binary or jax.default_backend() == "cpu" or network.dtype != jnp.float32:
            return ()
        kinds = (Dense, Patches)  # XLA's convolutions of bfloat16 return bfloat16
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


def _of_spikes(
    connection: Connection, amplitude: Any, formats: dict[type[Operation], Format]
) -> Callable[[Array], Array]:
    """The currents that spikes cause, with the first weights in planes where there is a format."""
    steps: list[Callable[[Array], Array]] = list(connection.operations)
    for index, operation in enumerate(connection.operations):
        if type(operation) in formats:
            weights = float_planes(jax.tree.leaves(operation)[0])
            steps[index] = partial(spike_product, operation, weights)
        if not operation.permutes:  # what follows receives no spikes
            break

    def current(spikes: Array) -> Array:
        found = _applied(steps, spikes)
        return found if amplitude is None else found * amplitude

    return current


def _of_integers(
    connection: Connection, amplitude: int, formats: dict[type[Operation], Format]
) -> Callable[[Array], Array]:
    # Sums over windows may be too large for the terms of narrow formats.
    before_weights = takewhile(lambda operation: not operation.weighted, connection.operations)
    sums_first = not all(operation.permutes for operation in before_weights)
    steps = []
    for operation in connection.operations:
        kind = FLOAT32 if sums_first else formats.get(type(operation), FLOAT32)
        steps.append(_step(operation, kind))

    def current(spikes: Array) -> Array:
        return _applied(steps, spikes) * amplitude

    return current


def _step(operation: Operation, kind: Format) -> Callable[[Array], Array]:
    """An operation on integers, whose products are computed in a number format."""
    if isinstance(operation, AveragePooling):
        return partial(_sum, operation)
    if not operation.weighted or _is_factor(operation):
        return operation
    weights = planes(jax.tree.leaves(operation)[0], kind)
    return partial(integer_product, operation, weights, number_format=kind)


def _is_factor(operation: Operation) -> bool:
    """Whether an operation is a factor of 32 bits, which needs no format."""
    return isinstance(operation, Multiply) and operation.factor.dtype == jnp.int32


def _applied(steps: Sequence[Callable[[Array], Array]], x: Array) -> Array:
    for step in steps:
        x = step(x)
    return x


def _of_multiples(connection: Connection, amplitude: int = 1) -> Callable[[Array], Array]:
    """The currents that integers cause which stand for multiples of 2^-16, to the nearest integer.

    Sums of weights times such integers need more than 32 bits. So they are planes of a few bits,
    whose products are exact in float32, and are added from the lowest on, without what is lost
    beyond the last bit of a current.
    """
    bits = min(6, 17 - ceil(log2(_terms(connection))))
    if bits < 1:
        raise ValueError(f"{connection}: too many inputs that are no spikes, in fixed point.")
    steps = [_step(operation, PLANES) for operation in connection.operations]
    places = range(0, NUMBER_BITS, bits)
    rest = NUMBER_BITS - places[-1]

    def current(multiples: Array) -> Array:
        total = jnp.zeros((), jnp.int32)
        for place in places:
            plane = multiples >> place
            if place != places[-1]:
                plane = plane & ((1 << bits) - 1)
            total = _applied(steps, plane) * amplitude + (total >> bits)
        return (total + (1 << rest - 1)) >> rest

    return current


def _terms(connection: Connection) -> int:
    """How many inputs the sums of a connection have, at most."""
    found = 1
    for operation in connection.operations:
        if isinstance(operation, AveragePooling):
            found *= prod(operation.window)
        elif operation.weighted and not _is_factor(operation):
            (weights,) = jax.tree.leaves(operation)
            found *= max(1, np.size(weights) // np.size(operation.sum_inputs(weights)))
    return found


def _sum(operation: Operation, x: Array) -> Array:
    """Sums over windows: of float32 they are faster than of integers, and as exact."""
    return operation.sum(x.astype(jnp.float32)).astype(jnp.int32)
