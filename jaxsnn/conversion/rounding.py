"""Weights as integers: the grid of each layer, and bounds that exclude overflow.

A layer has one grid for each output channel, on which its potential, threshold and bias lie. A
layer of one connection folds what a spike weighs into its threshold; where several connections
meet, or a bias, it goes into the integers:

    weights   round(w · a · S / 2^k), times a gain of 2^k
    identity  a gain of round(a · S)
    bias      round(b · S · rate) in each step

with S steps of the grid for 1 of the original potential, the amplitude a of a spike, and for each
connection the smallest k with which its weights fit into their bits. A sum that several layers read
sends numbers, multiples of 2^-16 of the largest that is possible, which is its amplitude; so do
inputs that are constant currents.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, prod
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxsnn.conversion.balancing import SpikingNetwork
from jaxsnn.network import (
    INPUT,
    AveragePooling,
    Connection,
    Gain,
    Layer,
    Multiply,
    Network,
    Operation,
    Select,
)
from jaxsnn.support.arrays import Shape, all_known

if TYPE_CHECKING:
    from jaxsnn.conversion.fixed_point import FixedPoint, FixedPointNetwork

Per = Literal["channel", "layer"]

INTEGERS = {8: np.int8, 16: np.int16}
# Sums of the inputs of one step: of 16 bits with weights of 8 bits, and always below 2^24, so that
# float32 sums of integers are exact.
_LARGEST_SUM = {8: (1 << 15) - 1, 16: (1 << 24) - 1}
# Potentials stay within 2^30 on either side of zero, thresholds too: their sum is an int32.
LARGEST_POTENTIAL = 1 << 30
# Grids of the channels of a layer are at most so many times finer than that of the whole layer.
_FINER = 256
_TINY = float(np.finfo(np.float32).tiny)
# Numbers that are no spikes, of sums and of constant currents, are multiples of 2^-16.
NUMBER_BITS = 16
# What rounding may add to the sums of a step, as a share of the largest.
_ROOM = 1 / 64


class IntegerLayers(NamedTuple):
    """The layers of a network with integer weights, before they have thresholds.

    Attributes:
        network: the layers; a bias is in steps of the grid, at a rate of one spike in every step.
        scales: for each layer how many steps of its grid make 1 of the original potential, if a
            spike that it receives weighs 1; a number or an array of its neurons.
        gains: for each layer what a spike weighs in integers on each of its connections.
        errors: for each layer the largest error of a weight, for its neurons likewise.
        folded: for each layer whether the amplitudes of its spikes are part of its integers.
        bits: for each layer the bits of a weight.
        steps: the longest simulation in steps.
        largest_input: the largest absolute value of an input.
    """

    network: Network
    scales: list[np.ndarray]
    gains: list[tuple[int, ...]]
    errors: list[np.ndarray]
    folded: list[bool]
    bits: tuple[int, ...]
    steps: int
    largest_input: float


def integer_layers(snn: SpikingNetwork, arithmetic: FixedPoint) -> IntegerLayers:
    """Round the weights; amplitudes that are arrays become part of them.

    Points of a sweep that differ in thresholds, and in amplitudes that are numbers, share them
    where each layer has one connection and no bias.

    Args:
        snn: the network; its thresholds are not looked at.
        arithmetic: bits and grids.

    Returns:
        The layers.

    Raises:
        ValueError: a layer that has no exact form in integers.
    """
    network = snn.network
    if not all_known((network, snn.amplitudes)):
        raise ValueError(
            "fixed-point arithmetic requires concrete weights, got tracers: make the network with "
            "quantize(...) outside of jit, vmap and grad."
        )
    each = arithmetic.bits
    bits = (each,) * len(network.layers) if isinstance(each, int) else tuple(each)
    if len(bits) != len(network.layers):
        raise ValueError(f"bits={each}: {len(bits)} numbers for {len(network.layers)} layers.")
    found: list[_Rounded] = []
    for index, (layer, row) in enumerate(zip(network.layers, snn.amplitudes, strict=True)):
        grid = _Grid.of(bits[index], arithmetic, network.name(index))
        terms = [
            _term(network, connection, amplitude, found, arithmetic.largest_input)
            for connection, amplitude in zip(layer.all_connections, row, strict=True)
        ]
        of_sums = any(network.is_a_sum(term.connection.source) for term in terms)
        if layer.pools_maxima:
            found.append(_Rounded(layer, np.ones(()), (1,), np.zeros(()), True))
        elif network.is_a_sum(index):
            found.append(_of_several(layer, terms, network.shapes[index], grid, a_sum=True))
        elif len(terms) == 1 and layer.bias is None and not of_sums:
            found.append(_of_one_connection(layer, terms[0], grid))
        else:
            found.append(_of_several(layer, terms, network.shapes[index], grid))
    return IntegerLayers(
        Network(tuple(part.layer for part in found), network.input_shape),
        [part.scale for part in found],
        [part.gains for part in found],
        [part.error for part in found],
        [part.folded for part in found],
        bits,
        arithmetic.steps,
        arithmetic.largest_input,
    )


def _term(
    network: Network,
    connection: Connection,
    amplitude: Any,
    before: Sequence[_Rounded],
    largest_input: float,
) -> _Term:
    """A connection with what a spike weighs on it; a sum sends multiples of its largest value."""
    source, largest = connection.source, 1.0
    shape, signed = network.shape_of(source), network.is_a_sum(source)
    if signed:
        amplitude = (1 << NUMBER_BITS) / before[source].scale
    elif source == INPUT:
        largest, signed = largest_input, largest_input > 1
    return _Term(connection, weight_of(amplitude), shape, largest, signed)


def weight_of(amplitude: Any) -> np.ndarray:
    """What a spike weighs; what the input sends weighs 1.

    Example:
        >>> from jaxsnn.conversion.rounding import weight_of
        >>> weight_of(None).item()
        1.0
    """
    return np.asarray(1.0 if amplitude is None else amplitude, np.float64)


class _Rounded(NamedTuple):
    """A layer of integers, with its entries of `IntegerLayers`."""

    layer: Layer
    scale: np.ndarray
    gains: tuple[int, ...]
    error: np.ndarray
    folded: bool


class _Term(NamedTuple):
    """A connection, and what its source sends.

    Attributes:
        connection: the connection.
        amplitude: what a spike weighs on it.
        shape: shape of the source, without the batch axis.
        largest_input: the largest absolute value that is sent.
        signed: whether it may be negative.
    """

    connection: Connection
    amplitude: np.ndarray
    shape: Shape
    largest_input: float
    signed: bool


def _of_one_connection(layer: Layer, term: _Term, grid: _Grid) -> _Rounded:
    """A layer of one connection: an amplitude that is a number is left to the threshold."""
    uniform = term.amplitude.ndim == 0
    part = _in_integers(term, np.ones(()) if uniform else 1 / term.amplitude, grid)
    if not part.weighted:
        part = _with_gain(part._replace(most=ceil(part.most * term.largest_input)), grid)
    operations = layer.with_operations(part.operations)
    return _Rounded(operations, part.scale, (part.gain,), part.error, not uniform)


def _in_integers(term: _Term, scale: Any, grid: _Grid, *, wide: bool = False) -> _Part:
    """A connection in integers.

    Args:
        term: the connection.
        scale: 1 in what is sent is so much in integers; a number, or an array of the source.
        grid: the grid of the weights.
        wide: whether a factor of single values is part of the gain, and no weight of few bits.
    """
    inputs = _windows(term.connection) * term.largest_input
    grid = grid._replace(largest_sum=int(grid.largest_sum / inputs), signed=term.signed)
    scale = np.broadcast_to(scale, term.shape) if np.ndim(scale) else np.asarray(scale)
    most: Any = 1
    part = _Part((), term.shape, scale, np.zeros(()), most, weighted=False, uneven="spikes")
    for operation in term.connection.operations:
        if wide and isinstance(operation, Multiply):
            part = _add_factor(part, operation)
        else:
            part = _add(part, operation, grid)
    return part


# -- Several connections, or a bias ----------------------------------------------------------------


def _of_several(
    layer: Layer, terms: list[_Term], shape: Shape, grid: _Grid, *, a_sum: bool = False
) -> _Rounded:
    """A layer whose connections and bias share one grid; a sum's is 2^-16 of its largest value."""
    axis = _common_axis(terms, shape) if grid.per == "channel" else None
    grid = grid if axis is not None else grid._replace(per="layer")
    if layer.bias is not None:  # so that sums of weights of 8 bits and a bias mostly have 16
        grid = grid._replace(largest_sum=int(grid.largest_sum * (1 - _ROOM)))
    parts = [_in_integers(term, 1 / term.amplitude, grid, wide=True) for term in terms]
    bias = np.zeros(()) if layer.bias is None else np.asarray(layer.bias, np.float64)
    most = 1 << NUMBER_BITS if a_sum else min(LARGEST_POTENTIAL // grid.steps, _LARGEST_SUM[16])
    scale = _over_channels(most * (1 - _ROOM) / _reach(terms, parts, bias), shape, axis)
    finest = [_over_channels(part.scale, shape, axis) for part in parts if part.weighted]
    if finest and not a_sum:  # a grid finer than those of all weights is of no use
        scale = np.minimum(scale, np.max(finest, axis=0))
    while True:
        pairs = zip(terms, parts)
        found = [_on_grid(term, part, scale, shape, axis, grid) for term, part in pairs]
        rounded = [result for result in found if result is not None]
        if len(rounded) == len(found):
            break
        scale = scale * (1 - 1 / 256)  # rounding carried a sum over its bound
    connections = tuple(connection for connection, _ in rounded)
    in_steps = None if layer.bias is None else jnp.asarray(bias * scale, jnp.float32)
    error = np.asarray(np.max(np.broadcast_arrays(*(error for _, error in rounded)), axis=0))
    integers = Layer(connections, in_steps, layer.activation, layer.name)
    return _Rounded(integers, scale, (1,) * len(terms), error, True)


def _common_axis(terms: list[_Term], shape: Shape) -> int | None:
    """The axis of the channels, if the layer's weights are all along it."""
    axes = set()
    for connection in (term.connection for term in terms):
        if any(part.weighted and not isinstance(part, Multiply) for part in connection.operations):
            last = connection.operations[-1]
            apart = last.weighted and last.channels.weights_out is not None
            axes.add(last.channels.outputs % len(shape) if apart else None)
    return axes.pop() if len(axes) == 1 else None


def _reach(terms: list[_Term], parts: list[_Part], bias: np.ndarray) -> np.ndarray:
    """The largest absolute value that a step can bring."""
    reach: Any = np.abs(bias)
    for term, part in zip(terms, parts):
        reach = reach + part.most * term.largest_input / np.abs(part.scale)
    return np.asarray(np.maximum(reach, _TINY))


def _over_channels(values: Any, shape: Shape, axis: int | None) -> np.ndarray:
    """The smallest of the neurons' values in each channel, with axes of size 1 beside it."""
    full = np.broadcast_to(values, shape)
    return full.min(tuple(place for place in range(full.ndim) if place != axis), keepdims=True)


def _on_grid(
    term: _Term, part: _Part, scale: np.ndarray, shape: Shape, axis: int | None, grid: _Grid
) -> tuple[Connection, np.ndarray] | None:
    """The connection on a grid, and the errors of its weights; None where a sum is too large."""
    if not part.weighted:
        gains = np.asarray(np.rint(scale / part.scale))
        kind = Multiply if part.synapses else Gain
        error = np.asarray(np.abs(gains / scale - 1 / part.scale))
        return _with_factor(part, kind, gains, term), error
    finest = _over_channels(part.scale, shape, axis)
    if not np.array_equal(np.broadcast_to(finest, shape), np.broadcast_to(part.scale, shape)):
        raise ValueError(f"{grid.name} has no integer sums: {_UNEVEN[part.uneven]}.")
    gains = np.exp2(np.ceil(np.log2(scale / finest) - 1e-9).clip(0))
    coarser = grid._replace(coarser=scale / gains / finest)
    part = _in_integers(term, 1 / term.amplitude, coarser, wide=True)
    error = np.asarray(part.error * (1.0 if term.amplitude.ndim else term.amplitude))
    return (_with_factor(part, Gain, gains, term), error) if part.fits else None


def _with_factor(
    part: _Part, kind: type[Gain] | type[Multiply], factor: np.ndarray, term: _Term
) -> Connection:
    """A connection that ends with an integer factor, unless that is 1 everywhere."""
    operations = part.operations
    if kind is Multiply or np.any(factor != 1):
        operations = (*operations, kind(jnp.asarray(compact(factor).astype(np.int32))))
    return Connection(operations, term.connection.source)


# -- One connection --------------------------------------------------------------------------------


class _Part(NamedTuple):
    """A layer up to some operation, whose value is an integer / `scale`.

    Attributes:
        operations: the operations so far, with integer weights.
        shape: shape of their output, without the batch axis.
        scale: a number or an array of that shape.
        error: largest error of a weight, likewise.
        most: how large the integers can be if all that is sent is 1; a number, or an array of that
            shape.
        weighted: whether an operation had weights of few bits.
        uneven: what makes `scale` an array, where it is one: see `_UNEVEN`.
        gain: a factor of the output.
        synapses: whether a factor was made part of the scale.
        fits: whether the sums of the weights are within their bound.
    """

    operations: tuple[Operation, ...]
    shape: Shape
    scale: np.ndarray
    error: np.ndarray
    most: Any
    weighted: bool
    uneven: str
    gain: int = 1
    synapses: bool = False
    fits: bool = True


# Why integers cannot hold what the inputs of a weight stand for, and what to do.
_UNEVEN = {
    "spikes": (
        "the spikes that it receives weigh differently within a channel or window; use one scale "
        "factor for each channel or layer, or float32"
    ),
    "pooling": (
        "its average pooling does not count the padding, so that windows at the border divide by "
        "less; use count_include_pad=True or no padding, or a ReLU after the pooling, or float32"
    ),
}


class _Grid(NamedTuple):
    """The grid of the weights of one layer.

    Attributes:
        bits: of a weight.
        per: whether each output channel has a grid, or all share one.
        steps: the longest simulation in steps.
        name: what messages call the layer.
        largest_sum: the largest sum that the inputs of one step may have.
        signed: whether inputs may be negative.
        coarser: a factor of the steps of the grid, at most 1; a number, or one for each channel.
    """

    bits: int
    per: Per
    steps: int
    name: str
    largest_sum: int
    signed: bool = False
    coarser: np.ndarray | None = None

    @classmethod
    def of(cls, bits: int, arithmetic: FixedPoint, name: str) -> _Grid:
        """The grid of a layer."""
        largest_sum = min(_LARGEST_SUM[bits], LARGEST_POTENTIAL // arithmetic.steps)
        return cls(bits, arithmetic.per, arithmetic.steps, name, largest_sum)

    @property
    def largest(self) -> int:
        """The largest weight; of 16 bits, the largest that is two planes of 8."""
        return {8: 127, 16: 127 * 257}[self.bits]


def _windows(connection: Connection) -> int:
    """How many outputs of its weights the poolings of a connection add up."""
    added = 1
    for operation in reversed(connection.operations):
        if operation.weighted:
            return added
        if isinstance(operation, AveragePooling):
            added *= prod(operation.window)
    return 1  # without weights


def _add_factor(part: _Part, operation: Multiply) -> _Part:
    """A factor of single values, as part of the scale."""
    factor = np.broadcast_to(np.asarray(operation.factor, np.float64), part.shape)
    with np.errstate(divide="ignore"):
        return part._replace(scale=part.scale / factor, synapses=True)


def _add(part: _Part, operation: Operation, grid: _Grid) -> _Part:
    """The layer with one more operation."""
    if operation.weighted:
        return _add_weights(part, operation, grid)
    before = part.shape
    part = part._replace(
        operations=(*part.operations, operation),
        shape=operation.output_shape(before),
        most=np.max(part.most),
    )
    if isinstance(operation, AveragePooling):
        return _add_pooling(part, operation, before, grid)
    if isinstance(operation, Select):
        return part._replace(scale=_selected(operation, part.scale), error=np.max(part.error))
    if not operation.permutes:
        raise ValueError(
            f"{grid.name}: fixed-point arithmetic has no {type(operation).__name__}; use float32."
        )
    return part._replace(scale=operation.permute(part.scale), error=operation.permute(part.error))


def _selected(selection: Select, values: np.ndarray) -> np.ndarray:
    """The values at the places of a selection; any where it puts a 0."""
    places = np.maximum(selection.places.values, 0)
    return values.reshape(-1)[places] if values.ndim else values


def _add_pooling(part: _Part, pooling: AveragePooling, shape: Shape, grid: _Grid) -> _Part:
    """A mean becomes a sum: the integers stand for so many times less."""
    places = jnp.arange(prod(shape), dtype=jnp.int32).reshape(1, *shape)
    last, first = (
        np.asarray(pooling.reduce(places, start, over))[0]
        for start, over in ((-1, lax.max), (prod(shape), lax.min))
    )
    counts = np.asarray(pooling.counts(shape), np.int64)[0]
    divisors = pooling.divisors(shape)
    scale, error = part.scale, part.error
    if scale.ndim:
        if not np.array_equal(scale.reshape(-1)[first], scale.reshape(-1)[last]):
            raise ValueError(f"{grid.name} has no integer sums: {_UNEVEN[part.uneven]}.")
        scale, error = scale.reshape(-1)[last], np.broadcast_to(error, shape).reshape(-1)[last]
    divisor = divisors if np.ptp(divisors) else divisors.reshape(-1)[0]
    return part._replace(
        scale=np.asarray(scale * divisor, np.float64),
        error=error,
        most=part.most * counts.max(),
        uneven="pooling" if np.ptp(divisors) else part.uneven,
    )


def _with_gain(part: _Part, grid: _Grid) -> _Part:
    """A layer without weights: spikes weigh a power of 2, which keeps simple fractions exact."""
    largest = min(grid.largest, grid.largest_sum // int(part.most))
    if largest < 1:
        raise ValueError(
            f"{grid.name}: a window of {part.most} inputs, whose sum could overflow in "
            f"{grid.steps} steps; use 16 bits, fewer steps, or float32."
        )
    gain = 1 << max(largest.bit_length() - 1, 0)
    return part._replace(gain=gain, scale=np.asarray(part.scale * gain), error=np.zeros(()))


def _add_weights(part: _Part, operation: Operation, grid: _Grid) -> _Part:
    """The operation with rounded weights: integers = round(weights · steps of the grid)."""
    if part.weighted:
        raise ValueError(
            f"{grid.name}: two operations with weights and no ReLU between them; multiply them "
            "into one, or use float32."
        )
    weights = np.asarray(jax.tree.leaves(operation)[0], np.float64)
    scale = part.scale
    if scale.ndim:
        weights, scale = weights / _along_inputs(operation, part, grid.name), np.ones(())
    channel = operation.channels.weights_out
    together = tuple(a for a in range(weights.ndim) if a != channel or grid.per == "layer")

    def largest(values: Any) -> np.ndarray:
        return np.asarray(np.max(values, axis=together, keepdims=True, initial=0))

    def sums(values: Any) -> np.ndarray:
        """The largest sum that inputs bring: of the weights of one sign, or of all if signed."""
        most, least = _sums_of_signs(operation, values)
        both = most + least if grid.signed else np.maximum(most, least)
        found = np.asarray(both * np.max(part.most))
        if channel is None:
            return largest(found)
        shape = [-1 if axis == channel else 1 for axis in range(weights.ndim)]
        found = found.reshape(shape)
        return np.max(found, keepdims=True) if grid.per == "layer" else found

    sizes = largest(np.abs(weights))
    sizes = np.maximum(sizes, (sizes.max() or 1.0) / _FINER)
    steps = np.minimum(grid.largest / sizes, grid.largest_sum / np.maximum(sums(weights), _TINY))
    integers = np.rint(weights * steps)
    # Rounding may carry a sum over its bound: a slightly coarser grid brings it back.
    while np.any(over := sums(integers) > grid.largest_sum):
        steps = np.where(over, steps * (1 - 1 / 256), steps)
        integers = np.rint(weights * steps)
    if grid.coarser is not None:
        apart = [-1 if axis == channel else 1 for axis in range(weights.ndim)]
        steps = steps * (
            grid.coarser.reshape(apart) if grid.coarser.size > 1 else grid.coarser.item()
        )
        integers = np.rint(weights * steps)
    integer = integers.astype(INTEGERS[grid.bits])
    shape = operation.output_shape(part.shape)
    return _Part(
        (*part.operations, jax.tree.map(lambda _: jnp.asarray(integer), operation)),
        shape,
        np.asarray(scale * _at_outputs(operation, steps, shape)),
        _at_outputs(operation, largest(np.abs(integers / steps - weights)), shape),
        most=_at_outputs(operation, sums(integers), shape),
        weighted=True,
        uneven=part.uneven,
        synapses=part.synapses,
        fits=not np.any(sums(integers) > grid.largest_sum),
    )


def _sums_of_signs(operation: Operation, weights: Any) -> tuple[Any, Any]:
    """For each output the sums of the weights above 0, and of those below, without their sign."""
    above, below = (operation.sum_inputs(np.maximum(sign * weights, 0)) for sign in (1, -1))
    return above, below


def _at_outputs(operation: Operation, values: Any, shape: Shape) -> np.ndarray:
    """One value for each output channel, as an array of all outputs."""
    values = np.asarray(values)
    if values.size == 1:
        return values.reshape(())
    axis = operation.channels.outputs % len(shape)
    apart = [-1 if place == axis else 1 for place in range(len(shape))]
    return np.broadcast_to(values.reshape(apart), shape)


def _along_inputs(operation: Operation, part: _Part, name: str) -> np.ndarray:
    """The scale of the inputs, the same within a channel, as it broadcasts to the weights."""
    axis, values = operation.channels.inputs, part.scale
    rows = np.moveaxis(values, axis, -1).reshape(-1, values.shape[axis])
    spread = operation.over_inputs(rows[0]) if np.all(rows == rows[0]) else None
    if spread is None:
        raise ValueError(f"{name} has no integer weights: {_UNEVEN[part.uneven]}.")
    return spread


def compact(values: Any) -> np.ndarray:
    """The smallest array that broadcasts to these values.

    Example:
        >>> import numpy as np
        >>> from jaxsnn.conversion.rounding import compact
        >>> compact(np.full((2, 3), 5.0)).shape, compact(np.eye(2)[:1]).shape
        ((), (1, 2))
    """
    values = np.asarray(values)
    for axis in range(values.ndim):
        first = values.take([0], axis)
        if np.all(values == first):
            values = first
    return values.reshape(()) if values.size == 1 else values


# -- Bounds of integers ----------------------------------------------------------------------------


def largest_sum(network: FixedPointNetwork, index: int) -> float:
    """A bound of what the neurons of a layer receive in a step, of either sign."""
    layer, shape = network.network.layers[index], network.network.shapes[index]
    if layer.pools_maxima:
        return 0.0
    bias = np.broadcast_to(0.0 if layer.bias is None else np.asarray(layer.bias), shape)
    high, low = bias.clip(0), -bias.clip(None, 0)
    for connection, amplitude in zip(layer.all_connections, network.amplitudes[index], strict=True):
        most = amplitude * (network.largest_input if connection.source == INPUT else 1.0)
        up, down = _largest_outputs(connection, most, most if most > amplitude else 0.0)
        if up.ndim:  # one for each channel
            axis = connection.operations[-1].channels.outputs
            apart = [-1 if place == axis % len(shape) else 1 for place in range(len(shape))]
            up, down = up.reshape(apart), down.reshape(apart)
        high, low = high + up, low + down
    return float(max(high.max(), low.max())) + 2  # biases and numbers are rounded


def _largest_outputs(
    connection: Connection, up: float, down: float
) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of what comes out of integer operations, above and below 0.

    Args:
        connection: the operations.
        up: the largest input.
        down: the largest input below 0, without its sign.

    Returns:
        Two numbers, or two for each channel where the last operation has weights.
    """
    above, below = np.asarray(up), np.asarray(down)
    for operation in connection.operations:
        above, below = above.max(), below.max()
        if operation.weighted:
            weights = np.asarray(jax.tree.leaves(operation)[0], np.float64)
            plus, minus = _sums_of_signs(operation, weights)
            if operation.channels.weights_out is None:
                plus, minus = plus.max(), minus.max()
            above, below = above * plus + below * minus, above * minus + below * plus
        elif isinstance(operation, AveragePooling):  # a sum, in integers
            above, below = above * prod(operation.window), below * prod(operation.window)
        elif isinstance(operation, Gain):
            above, below = np.full(2, max(above, below) * np.abs(operation.factor).max())
        elif not (operation.permutes or isinstance(operation, Select)):
            above = below = np.asarray(np.inf)
    return np.asarray(above), np.asarray(below)
