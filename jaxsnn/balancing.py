"""From scale factors to a spiking network: normalised weights or balanced thresholds.

The two are views of one thing. Dividing the weights of a layer by its λ and multiplying them by the
λ before it, with thresholds of 1, gives the same spikes as leaving the weights alone, setting the
threshold to λ and letting a spike weigh the λ of the layer that sends it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array

from jaxsnn.network import AnyArray, Layer, Network, expect, holds, per_layer, remembered


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

    def __str__(self) -> str:
        first, *lines = str(self.network).splitlines()
        described = [
            f"{line}, threshold {_short(threshold)}, spikes of {_short(amplitude)}"
            for line, threshold, amplitude in zip(
                lines, self.thresholds, self.amplitudes, strict=True
            )
        ]
        return "\n".join([f"Spiking{first}", *described])


def balance_thresholds(network: Network, scales: ArrayLike | Sequence[ArrayLike]) -> SpikingNetwork:
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


def normalize_weights(network: Network, scales: ArrayLike | Sequence[ArrayLike]) -> SpikingNetwork:
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


def check_spiking_network(network: SpikingNetwork) -> None:
    """Raise ValueError where a spiking network cannot be simulated, and say why."""
    expect(network, SpikingNetwork, "balance_thresholds(network, scales)")
    per_layer(network.network, network.thresholds, "thresholds")
    per_layer(network.network, network.amplitudes, "amplitudes")
    shape = network.network.shapes[-1]
    if len(shape) != 1:
        raise ValueError(
            f"the output layer has neurons of shape {shape}; classes need one axis, so flatten the "
            "model's outputs."
        )
    for index, layer in enumerate(network.network.layers):
        threshold, name = network.thresholds[index], network.network.name(index)
        if not holds(lambda value: value > 0, threshold):
            raise ValueError(f"{name}: its thresholds must be positive, not {threshold}.")
        if not remembered(layer, "finite", _finite):
            raise ValueError(f"{name}: its weights are not all finite; train it again.")


def _finite(layer: Layer) -> bool:
    return all(holds(jnp.isfinite, weights) for weights in layer.weights)


def _checked(network: Network, scales: ArrayLike | Sequence[ArrayLike]) -> list[Array]:
    values = per_layer(network, scales, "scale factors")
    for index, value in enumerate(values):
        if not holds(lambda scale: (scale > 0) & jnp.isfinite(scale), value):
            raise ValueError(
                f"{network.name(index)}: scale factor {_short(value)}; it must be positive and "
                "finite."
            )
    return values


def _short(value: Array) -> str:
    return f"{float(value):.4g}" if value.ndim == 0 else f"of shape {value.shape}"
