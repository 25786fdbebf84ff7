"""Fixed point: integer weights, thresholds and potentials, so that spikes are the same everywhere.

Weights are rounded to a grid of 8 or 16 bits, thresholds to multiples of the grid's step. Integer
sums do not depend on their order, and none of them can overflow: a bound is computed from the
weights. So the spikes are bit for bit the same for every batch size, chunk of time, engine and
device.

    potential (in the units of the thresholds) = step size · integer potential
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxsnn import encoding, neurons
from jaxsnn.conversion.balancing import SpikingNetwork, checked_potentials
from jaxsnn.conversion.executable import Executable, gives_probabilities
from jaxsnn.conversion.rounding import (
    INTEGERS,
    LARGEST_POTENTIAL,
    IntegerLayers,
    Per,
    compact,
    integer_layers,
    weight_of,
)
from jaxsnn.network import Network
from jaxsnn.network.graph import broadcasts
from jaxsnn.support.arrays import (
    AnyArray,
    Shape,
    all_known,
    all_true,
    cached,
    is_known,
    static_field,
)
from jaxsnn.support.typed import Count, Entries, Numbers, Real, readable, typed


@typed
@dataclass(frozen=True)
class FixedPoint:
    """Fixed-point arithmetic: call it with a spiking network, or hand it to `simulate`.

    Attributes:
        bits: 8 or 16 bits for a weight, or one such number for each layer.
        per: whether each output channel of a layer has a grid of its own, or all the same.
        steps: the longest simulation in steps: no potential can overflow in these. The more there
            are, the coarser are weights of 16 bits, since potentials have 32.
        largest_input: the largest absolute value of a pixel; 1 stands for pixels in [0, 1], more
            for constant currents, which may then be negative. The more it is, the coarser is the
            grid of the first layer.

    Raises:
        ValueError: another number of bits, another grid, a number of steps out of range, or a
            largest input that is not a number from 1 to 1,000.

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
    largest_input: Real = 1.0

    def __post_init__(self) -> None:
        bits = np.ravel(self.bits).tolist()
        if not bits or not set(bits) <= set(INTEGERS):
            raise ValueError(f"bits={self.bits}; weights have 8 or 16 bits.")
        plain = tuple(map(int, bits)) if np.ndim(self.bits) else int(bits[0])
        object.__setattr__(self, "bits", plain)  # whatever the type of the integers
        if self.per not in ("channel", "layer"):
            raise ValueError(f"per={self.per!r}; a grid is one for each 'channel' or 'layer'.")
        if not 1 <= self.steps <= 1 << 20:
            raise ValueError(f"steps={self.steps}; it must be from 1 to {1 << 20}.")
        if not 1 <= self.largest_input <= 1000:
            raise ValueError(
                f"largest_input={self.largest_input:g}; it must be from 1, for pixels in [0, 1], "
                "to 1000."
            )

    def __str__(self) -> str:
        numbers = f"bits={self.bits}, per={self.per!r}, steps={self.steps}"
        wide = f", largest_input={self.largest_input:g}" if self.largest_input != 1 else ""
        return f"FixedPoint({numbers}{wide})"

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
    largest_input: Real = 1.0,
) -> FixedPointNetwork:
    """The network in fixed-point arithmetic, for `simulate`.

    `simulate(network, ..., arithmetic=FixedPoint(...))` does the same in each call; a network that
    is simulated many times is better rounded once.

    Args:
        network: the spiking network.
        bits: 8 or 16 bits for a weight, or one such number for each layer.
        per: whether each output channel has a grid of its own, or all channels of a layer share it.
        steps: the longest simulation in steps.
        largest_input: the largest absolute value of a pixel, for constant currents beyond [0, 1],
            such as `abs(images).max()` of standardised ones.

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
    return FixedPoint(bits, per, steps, largest_input)(network)


@readable
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
        largest_input: the largest absolute value of a pixel.
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
    largest_input: float = static_field(default=1.0)
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

    def check(self) -> None:
        cached(self, "checked", _check)

    def check_run(
        self, steps: int, encode: encoding.Encoding, spike: Any = None, images: Any = 0.0
    ) -> None:
        check_steps(steps, self.steps)
        if encode is encoding.constant:
            self._check_range(images)
        check_exact(self.reset, encode, self.network.input_shape)
        if spike not in (None, neurons.heaviside):
            _check_spike(spike)

    def _check_range(self, images: Any) -> None:
        """Raise ValueError where constant currents are beyond those that the grid is made for."""
        high = self.largest_input * (1 + 1e-6)
        low = -high if self.largest_input > 1 else 0.0
        if not all_true(lambda pixels: (pixels >= low) & (pixels <= high), images):
            pixels = np.asarray(images)
            needed = max(1.01, np.ceil(100 * np.abs(pixels).max()) / 100)
            raise ValueError(
                f"pixels range from {pixels.min():.6g} to {pixels.max():.6g}, but the integers are "
                f"for {low:.6g} to {self.largest_input:g}: take FixedPoint(..., largest_input="
                f"{needed:.3g}) or quantize(..., largest_input={needed:.3g})."
            )

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


def _check(fixed: FixedPointNetwork) -> None:
    """Raise ValueError unless the fields are of one network; `quantize` makes no others."""
    network = fixed.network
    values = {"thresholds": fixed.thresholds, "step_sizes": fixed.step_sizes}
    if fixed.initial_potentials is not None:
        values["initial_potentials"] = fixed.initial_potentials
    for what, entries in values.items():
        shapes = list(map(np.shape, entries))
        if len(shapes) != len(network.layers) or not all(map(broadcasts, shapes, network.shapes)):
            raise ValueError(
                f"{what} have shapes {shapes}; there must be one for each layer, which broadcasts "
                f"to its neurons, of shapes {network.shapes}."
            )
    rows = list(zip(network.layers, fixed.amplitudes, fixed.bits))
    if not len(fixed.amplitudes) == len(fixed.bits) == len(network.layers):
        raise ValueError(
            f"there are {len(fixed.amplitudes)} amplitudes and {len(fixed.bits)} bits for "
            f"{len(network.layers)} layers."
        )
    for index, (layer, row, bits) in enumerate(rows):
        whole = all(jnp.issubdtype(leaf.dtype, jnp.integer) for leaf in layer.weights)
        if len(row) != len(layer.all_connections) or bits not in INTEGERS or not whole:
            raise ValueError(
                f"{network.name(index)}: it must have integer weights, of 8 or 16 bits, and an "
                "amplitude for each connection; make the network with quantize(...)."
            )


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
    if encode in (encoding.poisson, encoding.constant):
        return
    with jax.ensure_compile_time_eval():
        levels = jnp.linspace(0, 1, 9, dtype=jnp.float32)
        sent = jax.vmap(lambda p: encode(jax.random.key(0), jnp.full(shape, p)))(levels)
    if not all_true(lambda value: (value == 0) | (value == 1), sent):
        raise ValueError(
            "the encoding sends other numbers than 0 and 1, but fixed-point arithmetic takes "
            "spikes, or constant currents: use poisson, constant, another encoding by spikes, or "
            "float32."
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
    rows = zip(layers.network.layers, snn.thresholds, snn.amplitudes, strict=True)
    for index, (layer, theta, row) in enumerate(rows):
        # Outputs that accumulate and max poolings have no threshold.
        fires = layer.spiking and not layer.pools_maxima
        theta = np.asarray(theta if fires else 1.0, np.float64)
        scale = layers.scales[index] / (1 if layers.folded[index] else weight_of(row[0]))
        exact = theta * scale
        integers = _integer_thresholds(layers, index, theta, exact) if fires else np.ones(())
        found.append(jnp.asarray(compact(integers).astype(np.int32)))
        step_sizes.append(jnp.asarray(compact(1 / scale).astype(np.float32)))
        errors = layers.errors[index] * (scale / layers.scales[index]) ** -1 / theta
        weight_errors.append(float(np.max(errors)))
        threshold_errors.append(float(np.max(np.abs(integers / exact - 1))) if fires else 0.0)
    fixed = FixedPointNetwork(
        layers.network,
        found,
        step_sizes,
        list(map(jnp.asarray, snn.scale_factors)),
        tuple(weight_errors),
        tuple(threshold_errors),
        tuple(layers.gains),
        layers.bits,
        layers.steps,
        layers.largest_input,
        reset=snn.reset,
        encode=snn.encode,
    )
    return fixed.with_neurons(snn.initial_potentials, None)


def _integer_thresholds(
    layers: IntegerLayers, index: int, theta: np.ndarray, exact: Any
) -> np.ndarray:
    """The thresholds of a layer, rounded to steps of its grid; or ValueError.

    Channels whose threshold is below half a step get a whole one: a single spike takes their
    neurons further than that, so that they spike in every step for either.
    """
    integers = np.asarray(np.maximum(np.rint(exact), 1))
    if not (np.max(exact) >= 0.5 and np.max(integers) <= LARGEST_POTENTIAL):
        remedy = "Use 16 bits, or float32." if np.max(exact) < 0.5 else "Use float32."
        raise ValueError(
            f"{layers.network.name(index)}: a threshold of {np.min(theta):.3g} to "
            f"{np.max(theta):.3g} is {np.min(exact):.3g} to {np.max(exact):.3g} steps of the "
            f"grid of its {layers.bits[index]}-bit weights, but must be 1 to "
            f"{LARGEST_POTENTIAL}. {remedy}"
        )
    return integers
