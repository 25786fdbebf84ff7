"""From scale factors to a spiking network: normalised weights or balanced thresholds.

The two are views of one thing. Dividing the weights of a layer by its λ and multiplying them by the
λ before it, with thresholds of 1, gives the same spikes as leaving the weights alone, setting the
threshold to λ and letting a spike weigh the λ of the layer that sends it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxsnn.network import AnyArray, Network, holds, is_known, per_layer, remembered
from jaxsnn.typed import Entries, Numbers, typed


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class SpikingNetwork:
    """A network of integrate-and-fire neurons, one in the place of each ReLU.

    Attributes:
        network: the linear operations and their weights.
        thresholds: for each layer the firing threshold: a scalar, or an array that broadcasts to
            the layer's neurons.
        amplitudes: for each layer what a spike of it weighs: a scalar, or such an array.

    Example:
        >>> import jax, jax.numpy as jnp, jaxsnn
        >>> network = jaxsnn.read_network(lambda x: jax.nn.relu(2 * x), jnp.zeros((1, 1)))
        >>> snn = jaxsnn.balance_thresholds(network, jaxsnn.model_based_scales(network))
        >>> [float(threshold) for threshold in snn.thresholds]
        [2.0]
    """

    network: Network
    thresholds: list[AnyArray]
    amplitudes: list[AnyArray]

    def __repr__(self) -> str:
        return str(self)

    def __str__(self) -> str:
        first, *lines = str(self.network).splitlines()
        described = [
            f"{line}, threshold {_short(threshold)}, spikes of {_short(amplitude)}"
            for line, threshold, amplitude in zip(
                lines, self.thresholds, self.amplitudes, strict=True
            )
        ]
        return "\n".join([f"Spiking{first}", *described])


@typed
def balance_thresholds(network: Network, scales: Numbers) -> SpikingNetwork:
    """Thresholds λ, spikes that weigh the λ of the layer that sends them, weights as they are.

    All points of a sweep over thresholds then share one set of weights.

    A layer without weights, such as an average pooling, gets spikes that weigh 1 and the threshold
    λ/λ(previous), which is 1 under every scale rule, as in the network with normalised weights: its
    potentials are small fractions, and meet its threshold exactly where a multiple of λ would be
    rounded. (With an array for the layer before, its spikes weigh λ and the threshold is λ.)

    Args:
        network: the ReLU network.
        scales: one λ for each layer, or one for all: 1.0 gives thresholds of 1 everywhere, the
            network without normalisation. An entry may be an array that broadcasts to the layer's
            neurons, for a factor for each channel.

    Returns:
        The spiking network.

    Raises:
        ValueError: a scale factor is not positive and finite, or there are too few or too many.

    Example:
        >>> import jax, jax.numpy as jnp, jaxsnn
        >>> network = jaxsnn.read_network(lambda x: jax.nn.relu(2 * x), jnp.zeros((1, 1)))
        >>> snn = jaxsnn.balance_thresholds(network, 1.0)
        >>> print(snn)
        SpikingNetwork with inputs (1,)
          layer 1: Multiply → (1,), threshold 1, spikes of 1
    """
    scales = _checked(network, scales)
    thresholds, amplitudes = list(scales), list(scales)
    for index, layer in enumerate(network.layers):
        before = scales[index - 1] if index else jnp.ones(())
        if not layer.weighted and before.ndim == 0:
            thresholds[index] = scales[index] / before
            if index:
                amplitudes[index - 1] = jnp.ones_like(before)
    return SpikingNetwork(network, thresholds, amplitudes)


@typed
def normalize_weights(network: Network, scales: Numbers) -> SpikingNetwork:
    """Weights W·λ(previous)/λ, thresholds of 1 and spikes that weigh 1.

    A layer without weights, such as an average pooling, has the threshold λ/λ(previous) instead,
    which is 1 under every scale rule.

    Source: Diehl et al. 2015, Algorithms 1 and 2.

    Args:
        network: the ReLU network.
        scales: one λ for each layer, or one for all.

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
    scales = _checked(network, scales)
    for index, scale in enumerate(scales):
        if scale.ndim:
            raise ValueError(
                f"{network.name(index)}: a scale factor of shape {scale.shape}, but normalised "
                "weights take one number for a layer; balance_thresholds takes arrays."
            )
    one = jnp.ones((), scales[0].dtype)
    layers, thresholds, previous = [], [], one
    for layer, scale in zip(network.layers, scales, strict=True):
        layers.append(layer.times(previous / scale))
        thresholds.append(one if layer.weighted else scale / previous)
        previous = scale
    return SpikingNetwork(
        Network(tuple(layers), network.input_shape), thresholds, [one] * len(layers)
    )


def activation_scales(thresholds: Sequence[AnyArray], amplitudes: Sequence[AnyArray]) -> list[Any]:
    """For each layer the ReLU activation that one spike in every step stands for: λ in effect.

        cₗ = θₗ / gₗ₋₁,   gₗ = aₗ / cₗ,   g₀ = 1

    with thresholds θ and amplitudes a, for inputs that spike in every step where a pixel is 1: a
    layer at the rate r has the activation r·c, and sends r·a = g·(r·c). For `balance_thresholds`
    that is λ, also where a layer without weights follows, whose senders have amplitudes of 1.

    Args:
        thresholds: of each layer.
        amplitudes: of each layer.

    Returns:
        For each layer a number or an array of its neurons; nan where the amplitudes before it are
        no multiple of what they stand for, so that there is no such activation.

    Example:
        >>> from jaxsnn.balancing import activation_scales
        >>> [float(scale) for scale in activation_scales([2.0, 4.0], [2.0, 4.0])]
        [2.0, 4.0]
        >>> [float(scale) for scale in activation_scales([2.0, 1.0], [1.0, 2.0])]
        [2.0, 2.0]
    """
    numbers = np if all(map(is_known, (*thresholds, *amplitudes))) else jnp
    scales, sent = [], numbers.ones(())
    for threshold, amplitude in zip(thresholds, amplitudes, strict=True):
        scales.append(numbers.asarray(threshold) / sent)
        ratio = numbers.asarray(amplitude) / scales[-1]
        same = numbers.ptp(ratio) <= 1e-5 * numbers.max(ratio)
        sent = numbers.where(same, numbers.max(ratio), numbers.nan)
    return scales


def check_spiking_network(network: SpikingNetwork) -> None:
    """Raise ValueError where a spiking network cannot be simulated, and say why."""
    remembered(network, "_checked", _check)


def _fields(network: Network, thresholds: Entries, amplitudes: Entries) -> None:
    """The fields of a spiking network, which JAX may fill with anything while it transforms it."""


_fields.__qualname__ = "SpikingNetwork"  # for messages
_check_types = typed(_fields)


def _check(network: SpikingNetwork) -> None:
    _check_types(network.network, network.thresholds, network.amplitudes)
    thresholds = per_layer(network.network, network.thresholds, "thresholds")
    amplitudes = per_layer(network.network, network.amplitudes, "amplitudes")
    shape = network.network.shapes[-1]
    if len(shape) != 1:
        raise ValueError(
            f"the output layer has neurons of shape {shape}; classes need one axis, so flatten the "
            "model's outputs."
        )
    for index, layer in enumerate(network.network.layers):
        name = network.network.name(index)
        for what, value in (("thresholds", thresholds[index]), ("amplitudes", amplitudes[index])):
            if not holds(lambda number: (number > 0) & (number < jnp.inf), value):
                raise ValueError(f"{name}: its {what} must be positive and finite, not {value}.")
        if not all(holds(jnp.isfinite, weights) for weights in layer.weights):
            raise ValueError(f"{name}: its weights are not all finite; train it again.")


def _checked(network: Network, scales: Numbers) -> list[Array]:
    values = per_layer(network, scales, "scale factors")
    for index, value in enumerate(values):
        if not holds(lambda scale: (scale > 0) & jnp.isfinite(scale), value):
            raise ValueError(
                f"{network.name(index)}: scale factor {_short(value)}; it must be positive and "
                "finite."
            )
    return values


def _short(value: AnyArray) -> str:
    if jnp.ndim(value):
        return f"of shape {jnp.shape(value)}"
    return f"{float(value):.4g}" if is_known(value) else "traced"
