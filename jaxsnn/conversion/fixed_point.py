"""Fixed point: integer weights, thresholds and potentials, so that spikes are the same everywhere.

Weights are rounded to a grid of 8 or 16 bits, thresholds to multiples of the grid's step. Integer
sums do not depend on their order, and none of them can overflow: a bound is computed from the
weights. So the spikes are bit for bit the same for every batch size, chunk of time, engine and
device.

    potential (in the units of the thresholds) = step size · integer potential
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from jaxsnn import encoding, neurons
from jaxsnn.conversion.balancing import SpikingNetwork, checked_potentials
from jaxsnn.conversion.executable import Executable, gives_probabilities
from jaxsnn.network import AveragePooling, Layer, Network, Operation
from jaxsnn.support.arrays import (
    AnyArray,
    Shape,
    all_known,
    all_true,
    is_known,
    static_field,
)
from jaxsnn.support.typed import Count, Entries, Numbers, typed

Per = Literal["channel", "layer"]

_INTEGERS = {8: np.int8, 16: np.int16}
# Sums of the inputs of one step: of 16 bits with weights of 8 bits, and always below 2^24, so that
# float32 sums of integers are exact.
_LARGEST_SUM = {8: (1 << 15) - 1, 16: (1 << 24) - 1}
# Potentials stay within 2^30 on either side of zero, thresholds too: their sum is an int32.
LARGEST_POTENTIAL = 1 << 30
# Grids of the channels of a layer are at most so many times finer than that of the whole layer.
_FINER = 256
_TINY = float(np.finfo(np.float32).tiny)


@typed
@dataclass(frozen=True)
class FixedPoint:
    """Fixed-point arithmetic: call it with a spiking network, or hand it to `simulate`.

    Attributes:
        bits: 8 or 16 bits for a weight, or one such number for each layer.
        per: whether each output channel of a layer has a grid of its own, or all the same.
        steps: the longest simulation in steps: no potential can overflow in these. The more there
            are, the coarser are weights of 16 bits, since potentials have 32.

    Raises:
        ValueError: another number of bits, another grid, or a number of steps out of range.

    Example:
        >>> import jax, jax.numpy as jnp, jaxsnn
        >>> network = jaxsnn.read_network(lambda x: jax.nn.relu(0.5 * x), jnp.zeros((1, 2)))
        >>> snn = jaxsnn.balance_thresholds(network, 1.0)
        >>> run = jaxsnn.simulate(snn, jnp.array([[0.0, 1.0]]), key=0, duration=0.004,
        ...                       arithmetic=jaxsnn.FixedPoint(bits=8))
        >>> run.spike_counts[0].tolist()
        [[0, 2]]
    """

    bits: Count | Entries = 8
    per: Per = "channel"
    steps: Count = 1000

    def __post_init__(self):
        bits = np.ravel(self.bits).tolist()
        if not bits or not set(bits) <= set(_INTEGERS):
            raise ValueError(f"bits={self.bits}; weights have 8 or 16 bits.")
        plain = tuple(map(int, bits)) if np.ndim(self.bits) else int(bits[0])
        object.__setattr__(self, "bits", plain)  # whatever the type of the integers
        if self.per not in ("channel", "layer"):
            raise ValueError(f"per={self.per!r}; a grid is one for each 'channel' or 'layer'.")
        if not 1 <= self.steps <= 1 << 20:
            raise ValueError(f"steps={self.steps}; it must be from 1 to {1 << 20}.")

    @typed
    def __call__(self, network: SpikingNetwork) -> FixedPointNetwork:
        network.check()
        with jax.ensure_compile_time_eval():  # under jit too: the weights are known
            return with_thresholds(integer_layers(network, self), network)


@typed
def quantize(
    network: SpikingNetwork,
    *,
    bits: Count | Entries = 8,
    per: Per = "channel",
    steps: Count = 1000,
) -> FixedPointNetwork:
    """The network in fixed-point arithmetic, for `simulate`.

    `simulate(network, ..., arithmetic=FixedPoint(...))` does the same in each call; a network that
    is simulated many times is better rounded once.

    Args:
        network: the spiking network.
        bits: 8 or 16 bits for a weight, or one such number for each layer.
        per: whether each output channel has a grid of its own, or all channels of a layer share it.
        steps: the longest simulation in steps.

    Returns:
        The network of integers.

    Raises:
        ValueError: a layer that has no exact form in integers, or a threshold out of range; the
            message names the layer and what can be done.

    Example:
        >>> import jax, jax.numpy as jnp, jaxsnn
        >>> network = jaxsnn.read_network(lambda x: jax.nn.relu(0.5 * x), jnp.zeros((1, 2)))
        >>> fixed = jaxsnn.quantize(jaxsnn.balance_thresholds(network, 1.0))
        >>> fixed.network.layers[0].weights[0].item(), fixed.thresholds[0].item()
        (127, 254)
        >>> print(fixed)
        FixedPointNetwork with inputs (2,)
          layer 1: Multiply → (2,), 8 bits, weights within 0, thresholds within 0
    """
    return FixedPoint(bits, per, steps)(network)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False, repr=False)
class FixedPointNetwork(Executable):
    """A spiking network of integers; `quantize` makes it.

    Attributes:
        network: the operations, with weights of 8 or 16 bits; poolings stand for sums.
        thresholds: for each layer the integer thresholds; they broadcast to its neurons.
        step_sizes: for each layer what a potential of 1 stands for, in the units of the original
            thresholds; they broadcast likewise.
        scale_factors: for each layer the activation that one spike in every step stands for, by
            `balancing.activation_scales` of the network that was rounded.
        weight_errors: for each layer the largest error of a weight, as a fraction of the threshold
            of its neuron.
        threshold_errors: for each layer the largest relative error of a threshold.
        amplitudes: for each layer what a spike weighs on each of its connections: 1 where the
            connection has weights.
        bits: for each layer the bits of a weight.
        steps: the longest simulation in steps.
        initial_potentials: for each layer the integer potential at the start; by default 0.
        reset: what becomes of the membrane potential after a spike.
        encode: how pixels drive the first layer.

    Example:
        >>> import jax, jax.numpy as jnp, jaxsnn
        >>> network = jaxsnn.read_network(lambda x: jax.nn.relu(0.3 * x), jnp.zeros((1, 1)))
        >>> fixed = jaxsnn.quantize(jaxsnn.balance_thresholds(network, 1.0))
        >>> fixed.thresholds[0].item(), round(fixed.step_sizes[0].item(), 6)
        (423, 0.002362)
        >>> round(fixed.threshold_errors[0], 6)
        0.000787
    """

    network: Network
    thresholds: list[AnyArray]
    step_sizes: list[AnyArray]
    scale_factors: list[AnyArray]
    weight_errors: tuple[Any, ...]  # leaves, so that networks that differ in them share programs
    threshold_errors: tuple[Any, ...]
    amplitudes: tuple[tuple[int, ...], ...] = static_field()
    bits: tuple[int, ...] = static_field()
    steps: int = static_field()
    initial_potentials: list[AnyArray] | None = None
    reset: neurons.Reset = static_field(default=neurons.reset_to_zero)
    encode: encoding.Encoding = static_field(default=encoding.poisson)

    @property
    def units(self) -> list[AnyArray]:
        """The step sizes, by their name before version 0.5."""
        return self.step_sizes

    @property
    def dtype(self) -> Any:
        return np.dtype(np.int32)

    @property
    def settings(self) -> dict[str, Any]:
        return {"thresholds": self.thresholds, "step_sizes": self.step_sizes}

    def potentials(self, initial_potential: Numbers) -> list[AnyArray]:
        if not all_known(initial_potential):
            raise ValueError(
                "initial_potential is traced, but fixed-point arithmetic requires known values: "
                "keep it out of the arguments of jit."
            )
        values = enumerate(checked_potentials(self.network, initial_potential))
        with jax.ensure_compile_time_eval():
            return [_in_steps(value, self, index) for index, value in values]

    def probabilities(self, images: Any, max_rate: ArrayLike, dt: float) -> Any:
        # One product of float32 numbers, so that it is the same everywhere.
        numbers = np if is_known(max_rate) else jnp
        rate: Any = numbers.asarray(max_rate, np.float32)
        if numbers is jnp:  # a traced rate that is out of range gives no input, not any
            rate = jnp.where(gives_probabilities(rate, dt), rate, 0)
        return images.astype(np.float32) * (rate * np.float32(dt))

    def check_run(self, steps: int, encode: encoding.Encoding, spike: Any = None) -> None:
        check_steps(steps, self.steps)
        check_exact(self.reset, encode, self.network.input_shape)
        if spike not in (None, neurons.heaviside):
            _check_spike(spike)

    def __str__(self) -> str:
        first, *lines = str(self.network).splitlines()
        errors = zip(lines, self.bits, self.weight_errors, self.threshold_errors, strict=True)
        described = [
            f"{line}, {bits} bits, weights within {weight:.2g}, thresholds within {threshold:.2g}"
            for line, bits, weight, threshold in errors
        ]
        return "\n".join([f"FixedPoint{first}", *described])


def _in_steps(potential: Any, network: FixedPointNetwork, index: int) -> AnyArray:
    """The initial potential of a layer in steps, or ValueError where it is too far from 0."""
    step_size = np.asarray(network.step_sizes[index], np.float64)
    integers = np.rint(np.asarray(potential, np.float64) / step_size)
    if not np.all(np.abs(integers) < LARGEST_POTENTIAL):
        raise ValueError(
            f"initial_potential: {network.network.name(index)} would start at "
            f"{np.max(np.abs(integers)):.3g} steps of its grid; the limit is {LARGEST_POTENTIAL}. "
            "Use float32."
        )
    return jnp.asarray(integers.astype(np.int32))


# -- What a run may be -----------------------------------------------------------------------------


def check_steps(steps: int, most: int) -> None:
    """Raise ValueError where a run in fixed point is longer than its potentials allow."""
    if steps > most:
        raise ValueError(
            f"a run of {steps} steps, but the potentials are sure not to overflow for {most} only: "
            f"take FixedPoint(..., steps={steps}) or quantize(..., steps={steps})."
        )


def check_exact(reset: neurons.Reset, encode: encoding.Encoding, shape: Shape) -> None:
    """Raise ValueError where a reset or an encoding has no exact form in integers.

    Args:
        reset: the reset.
        encode: the encoding.
        shape: shape of an image.
    """
    if reset not in (neurons.reset_to_zero, neurons.reset_by_subtraction):
        raise ValueError(
            "fixed-point arithmetic has the resets reset_to_zero and reset_by_subtraction, for "
            "which potentials are bounded; for another, use float32."
        )
    if encode is encoding.poisson:
        return
    with jax.ensure_compile_time_eval():
        levels = jnp.linspace(0, 1, 9, dtype=jnp.float32)
        sent = jax.vmap(lambda p: encode(jax.random.key(0), jnp.full(shape, p)))(levels)
    if not all_true(lambda value: (value == 0) | (value == 1), sent):
        raise ValueError(
            "the encoding sends other numbers than 0 and 1, but fixed-point arithmetic takes "
            "spikes only: use poisson or another encoding by spikes, or float32."
        )


def _check_spike(spike: Any) -> None:
    with jax.ensure_compile_time_eval():
        theta = jnp.array(1 << 20)
        found = spike(theta + jnp.array([-theta, -1, 0, 1]), theta)
    if not all_true(lambda value: value == np.array([0, 0, 1, 1]), found):
        raise ValueError(
            "the spike function is not a step at the threshold, V >= θ, the only one that "
            "fixed-point arithmetic supports; use float32."
        )


# -- Weights ---------------------------------------------------------------------------------------


class IntegerLayers(NamedTuple):
    """The layers of a network with integer weights, before they have thresholds.

    Attributes:
        network: the layers.
        scales: for each layer how many steps of its grid make 1 of the original potential, if a
            spike that it receives weighs 1; a number or an array of its neurons.
        gains: for each layer what a spike weighs in integers.
        errors: for each layer the largest error of a weight, for its neurons likewise.
        folded: for each layer whether the amplitudes of its spikes are part of its weights.
        bits: for each layer the bits of a weight.
        steps: the longest simulation in steps.
    """

    network: Network
    scales: list[np.ndarray]
    gains: list[int]
    errors: list[np.ndarray]
    folded: list[bool]
    bits: tuple[int, ...]
    steps: int


def integer_layers(snn: SpikingNetwork, arithmetic: FixedPoint) -> IntegerLayers:
    """Round the weights; amplitudes that are arrays become part of them.

    Points of a sweep that differ in thresholds, and in amplitudes that are numbers, share them.

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
    layers, parts, folded = [], [], []
    if (name := network.beyond_a_chain()) is not None:
        raise ValueError(
            f"{name}: fixed point takes chains of ReLUs, without biases and sums, and no outputs "
            "without a ReLU; simulate the network in floating point (arithmetic=None)."
        )
    shapes = [network.input_shape, *network.shapes[:-1]]
    rows = zip(network.layers, snn.amplitudes, shapes, strict=True)
    for index, (layer, row, shape) in enumerate(rows):
        grid = _Grid(
            bits[index], arithmetic.per, arithmetic.steps, network.name(index), _windows(layer)
        )
        amplitude = _weight(row[0])
        scale = np.broadcast_to(1 / amplitude, shape) if amplitude.ndim else np.ones(())
        part = _Part((), shape, scale, np.zeros(()), most=1, weighted=False, uneven="spikes")
        for operation in layer.operations:
            part = _add(part, operation, grid)
        layers.append(layer.with_operations(part.operations))
        parts.append(part if part.weighted else _with_gain(part, grid))
        folded.append(amplitude.ndim > 0)
    return IntegerLayers(
        Network(tuple(layers), network.input_shape),
        [part.scale for part in parts],
        [part.gain for part in parts],
        [part.error for part in parts],
        folded,
        bits,
        arithmetic.steps,
    )


class _Part(NamedTuple):
    """A layer up to some operation, whose value is an integer / `scale`.

    Attributes:
        operations: the operations so far, with integer weights.
        shape: shape of their output, without the batch axis.
        scale: a number or an array of that shape.
        error: largest error of a weight, likewise.
        most: how large the integers can be for each spike that is received, without weights.
        weighted: whether an operation had weights.
        uneven: what makes `scale` an array, where it is one: see `_UNEVEN`.
        gain: a factor of the output.
    """

    operations: tuple[Operation, ...]
    shape: Shape
    scale: np.ndarray
    error: np.ndarray
    most: int
    weighted: bool
    uneven: str
    gain: int = 1


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
    """The grid of the weights of one layer, its name, and inputs of poolings after its weights."""

    bits: int
    per: Per
    steps: int
    name: str
    windows: int

    @property
    def largest(self) -> int:
        """The largest weight; of 16 bits, the largest that is two planes of 8."""
        return {8: 127, 16: 127 * 257}[self.bits]

    @property
    def largest_sum(self) -> int:
        """The largest sum that the inputs of one step may have, before later poolings."""
        return min(_LARGEST_SUM[self.bits], LARGEST_POTENTIAL // self.steps) // self.windows


def _windows(layer: Layer) -> int:
    """How many outputs of its weights the poolings of a layer add up."""
    added = 1
    for operation in reversed(layer.operations):
        if operation.weighted:
            return added
        if isinstance(operation, AveragePooling):
            added *= prod(operation.window)
    return 1  # without weights


def _add(part: _Part, operation: Operation, grid: _Grid) -> _Part:
    """The layer with one more operation."""
    if operation.weighted:
        return _add_weights(part, operation, grid)
    before = part.shape
    part = part._replace(
        operations=(*part.operations, operation), shape=operation.output_shape(before)
    )
    if isinstance(operation, AveragePooling):
        return _add_pooling(part, operation, before, grid)
    if not operation.permutes:
        raise ValueError(
            f"{grid.name}: fixed-point arithmetic has no {type(operation).__name__}; use float32."
        )
    return part._replace(scale=operation.permute(part.scale), error=operation.permute(part.error))


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
        most=part.most * int(counts.max()),
        uneven="pooling" if np.ptp(divisors) else part.uneven,
    )


def _with_gain(part: _Part, grid: _Grid) -> _Part:
    """A layer without weights: spikes weigh a power of 2, which keeps simple fractions exact."""
    largest = min(grid.largest, grid.largest_sum // part.most)
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
        """The larger of the sums of positive and of negative weights."""
        most, least = (operation.sum_inputs(np.maximum(s * values, 0)) for s in (1, -1))
        found = np.asarray(np.maximum(most, least) * part.most)
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
    integer = integers.astype(_INTEGERS[grid.bits])
    shape = operation.output_shape(part.shape)
    return _Part(
        (*part.operations, jax.tree.map(lambda _: jnp.asarray(integer), operation)),
        shape,
        np.asarray(scale * _at_outputs(operation, steps, shape)),
        _at_outputs(operation, largest(np.abs(integers / steps - weights)), shape),
        most=1,
        weighted=True,
        uneven=part.uneven,
    )


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
    channels, values = operation.channels, part.scale
    rows = np.moveaxis(values, channels.inputs, -1).reshape(-1, values.shape[channels.inputs])
    if channels.weights_in is None or not np.all(rows == rows[0]):
        raise ValueError(f"{name} has no integer weights: {_UNEVEN[part.uneven]}.")
    rank = np.ndim(jax.tree.leaves(operation)[0])
    return rows[0].reshape([-1 if axis == channels.weights_in else 1 for axis in range(rank)])


# -- Thresholds ------------------------------------------------------------------------------------


def with_thresholds(layers: IntegerLayers, snn: SpikingNetwork) -> FixedPointNetwork:
    """Integer layers with thresholds, in the units of the original network.

        Θ = round(θ · scale / amplitude)

    Args:
        layers: integer layers.
        snn: the network with the thresholds; amplitudes that are arrays are those that the layers
            were made with.

    Returns:
        The network of integers.

    Raises:
        ValueError: a threshold is below half a step of the grid, or too far above it.
    """
    if not all_known((snn.thresholds, snn.amplitudes, snn.initial_potentials)):
        raise ValueError(
            "fixed-point arithmetic requires concrete thresholds, got tracers: make the network "
            "with quantize(...) outside of jit, vmap and grad."
        )
    found, step_sizes, weight_errors, threshold_errors = [], [], [], []
    for index, (theta, row) in enumerate(zip(snn.thresholds, snn.amplitudes, strict=True)):
        theta = np.asarray(theta, np.float64)
        scale = layers.scales[index] / (1 if layers.folded[index] else _weight(row[0]))
        exact = theta * scale
        found.append(_integer_thresholds(layers, index, theta, exact))
        step_sizes.append(jnp.asarray(_compact(1 / scale).astype(np.float32)))
        errors = layers.errors[index] * (scale / layers.scales[index]) ** -1 / theta
        weight_errors.append(float(np.max(errors)))
        threshold_errors.append(float(np.max(np.abs(np.rint(exact) / exact - 1))))
    fixed = FixedPointNetwork(
        layers.network,
        found,
        step_sizes,
        list(map(jnp.asarray, snn.scale_factors)),
        tuple(weight_errors),
        tuple(threshold_errors),
        tuple((gain,) for gain in layers.gains),
        layers.bits,
        layers.steps,
        reset=snn.reset,
        encode=snn.encode,
    )
    return fixed.with_neurons(snn.initial_potentials, None)


def _weight(amplitude: Any) -> np.ndarray:
    """What a spike weighs; what the input sends weighs 1."""
    return np.asarray(1.0 if amplitude is None else amplitude, np.float64)


def _integer_thresholds(
    layers: IntegerLayers, index: int, theta: np.ndarray, exact: Any
) -> AnyArray:
    """The thresholds of a layer, rounded to steps of its grid; or ValueError."""
    integers = np.rint(exact)
    if not np.all((integers >= 1) & (integers <= LARGEST_POTENTIAL)):
        remedy = "Use 16 bits, or float32." if np.min(integers) < 1 else "Use float32."
        raise ValueError(
            f"{layers.network.name(index)}: a threshold of {np.min(theta):.3g} to "
            f"{np.max(theta):.3g} is {np.min(exact):.3g} to {np.max(exact):.3g} steps of the "
            f"grid of its {layers.bits[index]}-bit weights, but must be 1 to "
            f"{LARGEST_POTENTIAL}. {remedy}"
        )
    return jnp.asarray(_compact(integers).astype(np.int32))


def _compact(values: Any) -> np.ndarray:
    """The smallest array that broadcasts to these values."""
    values = np.asarray(values)
    for axis in range(values.ndim):
        first = values.take([0], axis)
        if np.all(values == first):
            values = first
    return values.reshape(()) if values.size == 1 else values
