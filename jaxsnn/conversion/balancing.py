"""From scale factors to a spiking network: normalised weights or balanced thresholds.

The two are views of one thing. Dividing the weights of a layer by its λ and multiplying them by the
λ before it, with thresholds of 1, gives the same spikes as leaving the weights alone, setting the
threshold to λ and letting a spike weigh the λ of the layer that sends it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array

from jaxsnn import encoding, neurons
from jaxsnn.conversion.executable import Executable
from jaxsnn.conversion.scaling import ceiling_scales
from jaxsnn.network import INPUT, Capped, Layer, Network, per_layer, relu
from jaxsnn.support.arrays import (
    AnyArray,
    all_known,
    all_true,
    cached,
    is_finite,
    is_known,
    numbers_of,
    static_field,
)
from jaxsnn.support.typed import Entries, Numbers, readable, typed


@readable
@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False, repr=False)
class SpikingNetwork(Executable):
    """A network of integrate-and-fire neurons, one in the place of each ReLU.

    Attributes:
        network: the linear operations and their weights.
        thresholds: for each layer the firing threshold: a scalar, or an array that broadcasts to
            the layer's neurons; infinity for a layer without a ReLU, which never spikes.
        amplitudes: for each layer what a spike weighs on each of its connections: a scalar, or an
            array that broadcasts to the neurons of the source; None for the input and for sums,
            which send values.
            In place of the lists of connections, there may be one value for each layer: what its
            spikes weigh everywhere.
        initial_potentials: for each layer the membrane potential at the start, likewise in the
            units of the thresholds; by default 0.
        reset: what becomes of the membrane potential after a spike.
        encode: how pixels drive the first layer, unless `simulate` is told otherwise.

    Example:
        >>> import jax, jax.numpy as jnp, jaxsnn
        >>> network = jaxsnn.read_network(lambda x: jax.nn.relu(2 * x), jnp.zeros((1, 1)))
        >>> snn = jaxsnn.balance_thresholds(network, jaxsnn.model_based_scales(network))
        >>> [float(threshold) for threshold in snn.thresholds]
        [2.0]
    """

    network: Network
    thresholds: list[AnyArray]
    amplitudes: list[Any]
    initial_potentials: list[AnyArray] | None = None
    reset: neurons.Reset = static_field(default=neurons.reset_to_zero)
    encode: encoding.Encoding = static_field(default=encoding.poisson)

    def __post_init__(self) -> None:
        entries = self.amplitudes
        if (
            isinstance(self.network, Network)
            and isinstance(entries, list | tuple)
            and len(entries) == len(self.network.layers)
            and not any(isinstance(entry, list) for entry in entries)
        ):
            object.__setattr__(self, "amplitudes", _by_connection(self.network, entries))

    @property
    def dtype(self) -> Any:
        return self.network.dtype

    @property
    def step_sizes(self) -> list[None]:
        return [None] * len(self.network.layers)

    @property
    def settings(self) -> dict[str, Any]:
        return {"thresholds": self.thresholds, "amplitudes": self.amplitudes}

    @property
    def scale_factors(self) -> list[Any]:
        return cached(self, "scale_factors", activation_scales)

    def potentials(self, initial_potential: Numbers) -> list[Array]:
        checked = checked_potentials(self.network, initial_potential)
        return [values.astype(self.dtype) for values in checked]

    def probabilities(self, images: Any, max_rate: ArrayLike, dt: float) -> Any:
        return images * (max_rate * dt)

    def check(self) -> None:
        cached(self, "checked", _check)

    def __str__(self) -> str:
        first, *lines = str(self.network).splitlines()
        described = [
            f"{line}, receives spikes of {', '.join(map(_short, row))}, threshold {_short(theta)}"
            for line, theta, row in zip(lines, self.thresholds, self.amplitudes, strict=True)
        ]
        return "\n".join([f"Spiking{first}", *described])


def _by_connection(network: Network, sent: Sequence[Any]) -> list[list[Any]]:
    """What a spike weighs on each connection, from what the spikes of each layer weigh."""
    return [
        [
            sent[connection.source] if network.spikes_from(connection.source) else None
            for connection in layer.all_connections
        ]
        for layer in network.layers
    ]


@typed
def balance_thresholds(
    network: Network,
    scales: Numbers | None = None,
    *,
    initial_potential: Numbers | None = None,
    reset: neurons.Reset = neurons.reset_to_zero,
    encode: encoding.Encoding = encoding.poisson,
) -> SpikingNetwork:
    """Thresholds λ, spikes that weigh the λ of the layer that sends them, weights as they are.

    All points of a sweep over thresholds then share one set of weights. Biases stay as they are,
    too: a neuron receives its bias times max_rate·dt in every step. The outputs of a last layer
    without a ReLU have an infinite threshold and accumulate.

    A layer without weights, such as an average pooling, gets spikes that weigh 1 and the threshold
    λ/λ(previous), which is 1 under every scale rule, as in the network with normalised weights: its
    potentials are small fractions, and meet its threshold exactly where a multiple of λ would be
    rounded. (With an array for the layer before, its spikes weigh λ and the threshold is λ.)

    Without scale factors, thresholds are the ceilings of the activations, and potentials start at
    half of them. A model that was trained with `neurons.clip_floor` is then computed as it was
    trained, in as many steps as its activations have levels, if `encode` is `constant` and `reset`
    is `reset_by_subtraction`: exactly in the first layer; in those behind, spikes may come too late
    or too many too soon.

    Args:
        network: the ReLU network.
        scales: one λ for each layer, or one for all: 1.0 gives thresholds of 1 everywhere, the
            network without normalisation. An entry may be an array that broadcasts to the layer's
            neurons, for a factor for each channel. By default `ceiling_scales(network)`.
        initial_potential: membrane potential at the start as a fraction of the threshold, for all
            layers, or one for each; 0.5 rounds rates to the nearest, and lets deep networks spike
            soonest. By default 0, and 0.5 without scale factors.
        reset: `reset_to_zero`, `reset_by_subtraction` or a function of yours.
        encode: `poisson`, `constant` or a function of yours.

    Returns:
        The spiking network.

    Raises:
        ValueError: a scale factor is not positive and finite, or there are too few or too many; or
            none are given, and a layer has no ceiling.

    Example:
        >>> import jax, jax.numpy as jnp, jaxsnn
        >>> network = jaxsnn.read_network(lambda x: jax.nn.relu(2 * x), jnp.zeros((1, 1)))
        >>> snn = jaxsnn.balance_thresholds(network, 1.0)
        >>> print(snn)
        SpikingNetwork with inputs (1,)
          layer 1: Multiply → (1,), receives spikes of 1, threshold 1
    """
    factors, fraction = _with_defaults(network, scales, initial_potential)
    thresholds, amplitudes = list(factors), _by_connection(network, factors)
    for index, layer in enumerate(network.layers):
        row = amplitudes[index]
        if not layer.spiking:
            thresholds[index] = _never(factors[index])
        elif not layer.weighted and len(row) == 1 and row[0] is not None and row[0].ndim == 0:
            thresholds[index] = factors[index] / row[0]
            amplitudes[index] = [jnp.ones_like(row[0])]
    start = at_fraction(network, thresholds, fraction)
    return SpikingNetwork(network, thresholds, amplitudes, start, reset, encode)


@typed
def normalize_weights(
    network: Network,
    scales: Numbers | None = None,
    *,
    initial_potential: Numbers | None = None,
    reset: neurons.Reset = neurons.reset_to_zero,
    encode: encoding.Encoding = encoding.poisson,
) -> SpikingNetwork:
    """Weights W·λ(previous)/λ, biases b/λ, thresholds of 1 and spikes that weigh 1.

    A layer without weights, such as an average pooling, has the threshold λ/λ(previous) instead,
    which is 1 under every scale rule. A last layer without a ReLU keeps the scale of its outputs:
    its λ is taken for 1, and its threshold is infinite.

    Source: Diehl et al. 2015, Algorithms 1 and 2.

    Args:
        network: the ReLU network.
        scales: one λ for each layer, or one for all; by default `ceiling_scales(network)`.
        initial_potential: as a fraction of the threshold, as in `balance_thresholds`.
        reset: `reset_to_zero`, `reset_by_subtraction` or a function of yours.
        encode: `poisson`, `constant` or a function of yours.

    Returns:
        The spiking network.

    Raises:
        ValueError: as `balance_thresholds`, or a factor is not one number for its layer.

    Example:
        >>> import jax, jax.numpy as jnp, jaxsnn
        >>> network = jaxsnn.read_network(lambda x: jax.nn.relu(2 * x), jnp.zeros((1, 1)))
        >>> snn = jaxsnn.normalize_weights(network, 4.0)
        >>> snn.network.layers[0].weights[0].item()
        0.5
    """
    factors, fraction = _with_defaults(network, scales, initial_potential)
    for index, scale in enumerate(factors):
        if scale.ndim:
            raise ValueError(
                f"{network.name(index)}: a scale factor of shape {scale.shape}, but normalised "
                "weights take one number for a layer; balance_thresholds takes arrays."
            )
    one = jnp.ones((), factors[0].dtype)
    layers, thresholds = [], []
    for layer, scale in zip(network.layers, factors, strict=True):
        sources = [part.source for part in layer.all_connections]
        before = [factors[s] if network.spikes_from(s) else one for s in sources]
        scale = scale if layer.spiking else one
        threshold = one if layer.spiking else _never(scale)
        connections = layer.all_connections
        if layer.weighted or len(sources) > 1 or not layer.spiking:
            connections = tuple(p.times(b / scale) for p, b in zip(connections, before))
        else:
            threshold = scale / before[0]
        bias = None if layer.bias is None else layer.bias / scale
        activation = layer.activation
        if isinstance(activation, Capped) and is_known(scale):
            activation = replace(activation, ceiling=activation.ceiling / float(scale))
        elif isinstance(activation, Capped):
            activation = relu
        layers.append(Layer(connections, bias, activation, layer.name))
        thresholds.append(threshold)
    start = at_fraction(network, thresholds, fraction)
    normalized = Network(tuple(layers), network.input_shape)
    return SpikingNetwork(normalized, thresholds, [one] * len(layers), start, reset, encode)


def _never(scale: Array) -> Array:
    """A threshold that is never reached, in the type of a scale factor."""
    return jnp.full((), jnp.inf, scale.dtype)


def at_fraction(
    network: Network, thresholds: Sequence[AnyArray], fraction: Numbers
) -> list[Array] | None:
    """Initial potentials at a fraction of the thresholds; None stands for 0 everywhere.

    Outputs that accumulate start at 0.
    """
    if isinstance(fraction, int | float) and fraction == 0:
        return None
    fractions = checked_potentials(network, fraction)
    return [
        part * jnp.asarray(theta) if layer.spiking else jnp.zeros_like(part)
        for part, theta, layer in zip(fractions, thresholds, network.layers, strict=True)
    ]


def checked_potentials(network: Network, potential: Numbers) -> list[Array]:
    """One finite number, or an array of them for its neurons, for each layer; or ValueError."""
    with jax.ensure_compile_time_eval() if all_known(potential) else nullcontext():
        potentials = list(map(jnp.asarray, per_layer(network, potential, "initial_potential")))
    for index, values in enumerate(potentials):
        if not all_true(is_finite, values):
            raise ValueError(
                f"initial_potential: {network.name(index)} would start at {values}; it must be "
                "finite."
            )
    return potentials


def activation_scales(snn: SpikingNetwork) -> list[Any]:
    """For each layer the ReLU activation that one spike in every step stands for: λ in effect.

        c = θ / g,   g = a / c(source),   c(input) = 1

    with the threshold θ and the amplitude a, for inputs that spike in every step where a pixel
    is 1: a layer at the rate r has the activation r·c, and sends r·a = g·(r·c). For
    `balance_thresholds` that is λ, also where a layer without weights receives spikes of 1. For a
    last layer without a ReLU it is what a potential of 1 stands for, 1 / g. Where thresholds are
    no multiple of the amplitudes, since they were learned, it is what a spike weighs.

    Returns:
        For each layer a number or an array of its neurons; nan where the amplitudes are no multiple
        of what the spikes stand for, so that there is no such activation.

    Example:
        >>> import jax, jax.numpy as jnp, jaxsnn
        >>> from jaxsnn.conversion.balancing import activation_scales
        >>> network = jaxsnn.read_network(lambda x: jax.nn.relu(2 * x), jnp.zeros((1, 1)))
        >>> activation_scales(jaxsnn.balance_thresholds(network, 4.0))[0].item()
        4.0
    """
    numbers = numbers_of(snn.settings)
    scales: dict[Any, Any] = {INPUT: numbers.ones(())}
    rows = list(zip(snn.network.layers, snn.thresholds, snn.amplitudes, strict=True))
    weighed = {
        part.source: weight
        for layer, _, row in rows
        for part, weight in zip(layer.all_connections, row)
        if part.weighted and weight is not None
    }
    for index, (layer, theta, row) in enumerate(rows):
        ratios = [
            numbers.asarray(1.0 if weight is None else weight) / scales[part.source]
            for part, weight in zip(layer.all_connections, row, strict=True)
        ]
        most, same = _most(numbers, ratios)
        unit = numbers.asarray(theta) if layer.spiking else numbers.ones(())
        scales[index] = unit / numbers.where(same, most, np.nan)
        if layer.spiking and index in weighed:
            sent = numbers.asarray(weighed[index])
            _, multiple = _most(numbers, [sent / scales[index]])
            scales[index] = numbers.where(multiple, scales[index], sent)
    return list(scales.values())[1:]


def _most(numbers: Any, ratios: Sequence[AnyArray]) -> tuple[AnyArray, AnyArray]:
    """The largest of some ratios, and whether all are the same."""
    most = numbers.stack([numbers.max(ratio) for ratio in ratios]).max()
    least = numbers.stack([numbers.min(ratio) for ratio in ratios]).min()
    return most, most - least <= 1e-5 * most


def _fields(network: Network, thresholds: Entries, amplitudes: Entries) -> None:
    """The fields of a spiking network, which JAX may fill with anything while it transforms it."""


_fields.__qualname__ = "SpikingNetwork"  # for messages
_check_types = typed(_fields)


def _check(network: SpikingNetwork) -> None:
    _check_types(network.network, network.thresholds, network.amplitudes)
    if network.initial_potentials is not None:
        checked_potentials(network.network, network.initial_potentials)
    relus = network.network
    thresholds = per_layer(relus, network.thresholds, "thresholds")
    amplitudes = per_layer(relus, _sent(network), "amplitudes")
    shape = relus.shapes[-1]
    if len(shape) != 1:
        raise ValueError(
            f"the output layer has neurons of shape {shape}; classes need one axis, so flatten the "
            "model's outputs."
        )
    for index, layer in enumerate(relus.layers):
        name, row = relus.name(index), network.amplitudes[index]
        sends = [relus.spikes_from(part.source) for part in layer.all_connections]
        if [weight is not None for weight in row] != sends:
            raise ValueError(
                f"{name}: its amplitudes are {row}; there must be one for each connection, and "
                "None for those from the input and from sums."
            )
        settings = {"amplitudes": amplitudes[index]}
        if layer.spiking:
            settings = {"thresholds": thresholds[index], **settings}
        elif not all_true(lambda number: number == jnp.inf, thresholds[index]):
            raise ValueError(
                f"{name}: outputs without a ReLU never spike; its threshold must be infinite."
            )
        for what, value in settings.items():
            if not all_true(lambda number: (number > 0) & (number < jnp.inf), value):
                raise ValueError(f"{name}: its {what} must be positive and finite, not {value}.")
        if not all(all_true(is_finite, weights) for weights in jax.tree.leaves(layer)):
            raise ValueError(f"{name}: its weights are not all finite; train it again.")


def _sent(network: SpikingNetwork) -> Sequence[Any]:
    """For each layer what its spikes weigh; what was not understood is left as it is."""
    rows, layers = network.amplitudes, network.network.layers
    if not all(isinstance(row, list) for row in rows):
        return rows
    pairs = ((zip(layer.all_connections, row)) for layer, row in zip(layers, rows))
    sent = {part.source: weight for row in pairs for part, weight in row if weight is not None}
    return [sent.get(index, 1.0) for index in range(len(rows))]


def _with_defaults(
    network: Network, scales: Numbers | None, initial_potential: Numbers | None
) -> tuple[list[Array], Numbers]:
    """λ of each layer, checked, and the fractions of the thresholds at which potentials start."""
    by_default = 0.0
    if scales is None:
        scales, by_default = ceiling_scales(network), 0.5
    start = by_default if initial_potential is None else initial_potential
    return _checked(network, scales), start


def _checked(network: Network, scales: Numbers) -> list[Array]:
    values = per_layer(network, scales, "scale factors")
    for index, value in enumerate(values):
        if not all_true(lambda scale: (scale > 0) & is_finite(scale), value):
            raise ValueError(
                f"{network.name(index)}: scale factor {_short(value)}; it must be positive and "
                "finite."
            )
        ceiling = network.layers[index].ceiling
        if not all_true(lambda scale: scale <= ceiling * (1 + 1e-6), value):  # noqa: B023
            raise ValueError(
                f"{network.name(index)}: scale factor {_short(value)}; it must not exceed the "
                f"ceiling of the activation, {ceiling:g}, which neurons compute by spiking in "
                "every step at most."
            )
    return list(map(jnp.asarray, values))


def _short(value: AnyArray | None) -> str:
    if value is None:
        return "1"
    if not is_known(value):
        return "traced"
    low, high = (f"{float(extreme):.4g}" for extreme in (np.min(value), np.max(value)))
    return low if low == high else f"{low} to {high}"
