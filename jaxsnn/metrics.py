"""What a spiking network achieves and costs: accuracy, latency, synaptic operations."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxsnn.network import AveragePooling, Layer, Network, remembered


def accuracy(
    predictions: ArrayLike | Sequence, labels: ArrayLike | Sequence
) -> Float[Array, "..."]:
    """Fraction of samples, the last axis, whose prediction is the label.

    A sample that is undecided (-1) is wrong.

    Args:
        predictions: classes `[..., B]`.
        labels: the true classes `[B]`.

    Returns:
        The accuracy `[...]`.

    Raises:
        ValueError: there are not as many labels as samples, or none.

    Example:
        >>> import jaxsnn
        >>> jaxsnn.metrics.accuracy([[-1, 2], [1, 2]], [1, 2]).tolist()
        [0.5, 1.0]
    """
    predictions, labels = jnp.asarray(predictions), jnp.asarray(labels)
    if labels.ndim != 1 or labels.size == 0 or predictions.shape[-1:] != labels.shape:
        raise ValueError(
            f"predictions of shape {predictions.shape} and labels of shape {labels.shape}: there "
            "must be one label for each sample, and at least one."
        )
    return ((predictions == labels) & (predictions >= 0)).mean(-1)


def latency(accuracies: ArrayLike | Sequence, *, within: float = 0.003, dt: float = 1e-3) -> float:
    """Time from which on the accuracy stays close to its final value.

    Args:
        accuracies: accuracy after every step `[T]`.
        within: how far below the final accuracy still counts as close.
        dt: duration of a step in seconds.

    Returns:
        The time in seconds, at the end of the step.

    Example:
        >>> import jaxsnn
        >>> jaxsnn.metrics.latency([0.1, 0.989, 0.99], within=0.003, dt=0.001)
        0.002
    """
    accuracies = np.asarray(accuracies)
    below = np.flatnonzero(accuracies < accuracies[-1] - within)
    return float(dt * (below[-1] + 2 if len(below) else 1))


def fan_out(network: Network) -> list[Float[Array, "..."]]:
    """For each layer, how many synapses lead into it from each neuron of the layer before.

    A synapse is a weight that is not zero, counted for each output it really serves: a pixel at
    the border of a convolution has fewer than one in the middle. Layers without weights, such as
    average poolings, have no synapses, as in NeuroBench, which counts dense, convolutional and
    recurrent layers alone.

    Returns:
        For each layer an array of the shape of its inputs.

    Example:
        >>> import jax, jax.numpy as jnp, jaxsnn
        >>> weights = jnp.array([[1.0, 0.0], [1.0, 2.0]])
        >>> network = jaxsnn.read_network(lambda x: jax.nn.relu(x @ weights), jnp.zeros((1, 2)))
        >>> [counts.tolist() for counts in jaxsnn.metrics.fan_out(network)]
        [[1.0, 2.0]]
    """
    return remembered(network, "fan_out", _fan_out)


@jax.jit
def _fan_out(network: Network) -> list[Array]:
    shapes = [network.input_shape, *network.shapes[:-1]]
    return [_synapses(layer, shape) for layer, shape in zip(network.layers, shapes, strict=True)]


def _synapses(layer: Layer, shape: tuple[int, ...]) -> Array:
    if not layer.weighted:
        return jnp.zeros(shape)

    def ones_for_weights(x: Array) -> Array:
        for operation in layer.operations:
            if isinstance(operation, AveragePooling):
                x = operation.sum(x)
            else:
                x = jax.tree.map(lambda w, dtype=x.dtype: (w != 0).astype(dtype), operation)(x)
        return x

    # The sum of all outputs, differentiated by an input, counts the paths that leave that input.
    return jax.grad(lambda x: ones_for_weights(x).sum())(jnp.zeros((1, *shape)))[0]


def synaptic_operations(
    network: Network, input_spike_counts: ArrayLike, spike_counts: Sequence[ArrayLike]
) -> Float[Array, " batch"]:
    """Effective synaptic operations of each sample, by NeuroBench's definition.

        Σ over spikes of the number of synapses with a weight that is not zero that it reaches

    Source: Yik et al. 2025, "The NeuroBench framework", effective accumulates (effective
    multiply-accumulates for an input that is not 0 or 1).

    Args:
        network: the network simulated.
        input_spike_counts: for each input the number of steps in which it was not zero `[B, ...]`.
        spike_counts: for each layer the spikes of its neurons `[B, ...]`.

    Returns:
        The number of operations `[B]`.

    Example:
        >>> import jax, jax.numpy as jnp, jaxsnn
        >>> weights = jnp.array([[1.0, 0.0], [1.0, 2.0]])
        >>> network = jaxsnn.read_network(lambda x: jax.nn.relu(x @ weights), jnp.zeros((1, 2)))
        >>> counts = jnp.array([[3.0, 5.0]])
        >>> jaxsnn.metrics.synaptic_operations(network, counts, [jnp.zeros((1, 2))]).tolist()
        [13.0]
    """
    return operations(fan_out(network), [input_spike_counts, *spike_counts[:-1]])


def operations(synapses: Sequence[ArrayLike], sent: Sequence[ArrayLike]) -> Float[Array, " batch"]:
    """As `synaptic_operations`, from the numbers of synapses that `fan_out` gives.

    Args:
        synapses: for each layer the synapses behind each neuron of the layer before.
        sent: the spikes of these neurons `[B, ...]`.

    Returns:
        The number of operations `[B]`.

    Example:
        >>> import jax.numpy as jnp, jaxsnn
        >>> synapses, sent = [jnp.array([1.0, 2.0])], [jnp.array([[3.0, 5.0]])]
        >>> jaxsnn.metrics.operations(synapses, sent).tolist()
        [13.0]
    """
    totals = [
        (counts * behind).sum(range(1, counts.ndim))
        for counts, behind in zip(map(jnp.asarray, sent), synapses, strict=True)
    ]
    return jnp.stack(totals).sum(0)


def dense_operations(network: Network) -> float:
    """Multiply-accumulates of one pass of the ReLU network, zeros included.

    Example:
        >>> import jax, jax.numpy as jnp, jaxsnn
        >>> weights = jnp.ones((2, 3))
        >>> network = jaxsnn.read_network(lambda x: jax.nn.relu(x @ weights), jnp.zeros((1, 2)))
        >>> jaxsnn.metrics.dense_operations(network)
        6.0
    """
    return float(sum(synapses.sum() for synapses in fan_out(network)))
