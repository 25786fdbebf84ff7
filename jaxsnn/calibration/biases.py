"""Biases that make up for what a layer's rates are wrong by on average."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxsnn.calibration.outputs import check_counts, parameter_axes, runs
from jaxsnn.conversion import statistics
from jaxsnn.conversion.balancing import SpikingNetwork
from jaxsnn.conversion.scaling import Per
from jaxsnn.network import Network
from jaxsnn.support.arrays import AnyArray
from jaxsnn.support.progress import progress_bar
from jaxsnn.support.typed import Count, Images, Key, typed


@typed
def correct_biases(
    snn: SpikingNetwork,
    images: Images,
    *,
    steps: Count,
    per: Per = "channel",
    key: Key = 0,
    batch_size: Count = 100,
    progress: bool | None = None,
) -> SpikingNetwork:
    """Add the mean errors of each layer to its biases, one layer after the other.

        bⱼ ← bⱼ + mean(aⱼ - sⱼ)

    with the activations a of the ReLU network and what the spikes stand for in so many steps, s
    (`Simulation.activations`; of a last layer without a ReLU its scores); the mean is over images
    and the neurons of a channel. Each layer is corrected with those before it corrected already.

    Source: "light" calibration, bias correction, of Li et al. 2021, "A free lunch from ANN: towards
    efficient, accurate spiking neural networks calibration", section 4.2.

    Args:
        snn: the spiking network, with the encoding and the reset that it is to run with.
        images: calibration images `[N, ...]`, such as a few hundred of the training set.
        steps: how many steps the network is to run, each with a full rate.
        per: "channel" or "layer": what shares a correction.
        key: as for `simulate`, for encodings that draw at random.
        batch_size: how many images are simulated at a time.
        progress: whether to show a bar; by default where there is more than a second of work.

    Returns:
        The network with other biases. `report` compares it with a ReLU network of those biases, so
        take the reports before.

    Raises:
        ValueError: a bad value, named with its remedy.

    Example:
        >>> import jax, jax.numpy as jnp, jaxsnn
        >>> network = jaxsnn.read_network(
        ...     lambda x: jax.nn.relu(x) @ jnp.full((2, 1), 0.5), jnp.zeros((1, 2)))
        >>> snn = jaxsnn.balance_thresholds(network, 1.0, encode=jaxsnn.constant)
        >>> better = jaxsnn.correct_biases(snn, jnp.full((1, 2), 0.75), steps=2)
        >>> [layer.bias.tolist() for layer in better.network.layers]
        [[0.25, 0.25], [-0.25]]
    """
    snn.check()
    check_counts(steps=steps, batch_size=batch_size)
    network, pixels = snn.network, snn.network.images_on_host(images)
    axes = parameter_axes(network, per)
    wanted = _mean_activations(network, pixels, axes, batch_size, progress)
    corrected = [index for index in range(len(network.layers)) if _has_a_bias(network, index)]
    total = len(corrected) * len(pixels)
    with progress_bar(progress, total=total, desc="biases", unit="image") as bar:
        for index in corrected:
            found: Any = 0.0
            for numbers, run in runs(snn, pixels, steps, key, batch_size, bar.update):
                means = _of_channels(run.activations()[index][: len(numbers)], axes[index])
                found = found + means * (len(numbers) / len(pixels))
            snn = _with_more_bias(snn, index, wanted[index] - found)
    return snn


def _has_a_bias(network: Network, index: int) -> bool:
    """Whether a layer has neurons, or outputs, that sum weighted spikes."""
    layer, last = network.layers[index], index + 1 == len(network.layers)
    return layer.weighted and not layer.pools_maxima and (layer.spiking or last)


def _mean_activations(
    network: Network,
    pixels: np.ndarray,
    axes: statistics.Axes,
    batch_size: int,
    progress: bool | None,
) -> list[Any]:
    """For each layer the means of its channels over all images."""
    found: list[Any] = [0.0] * len(network.layers)
    for batch in statistics.batches(pixels, batch_size, progress):
        share = len(batch) / len(pixels)
        for index, values in enumerate(network.activations(batch)):
            found[index] = found[index] + _of_channels(values, axes[index]) * share
    return found


def _of_channels(values: AnyArray, axis: int | None) -> np.ndarray:
    """The mean of each channel of activations [B, ...], with axes of size 1 beside its own."""
    numbers: Any = np.asarray(values, np.float64)
    means = numbers.mean(statistics.over_all_but(axis, numbers), keepdims=axis is not None)
    return np.asarray(means if axis is None else means[0])


def _with_more_bias(snn: SpikingNetwork, index: int, more: np.ndarray) -> SpikingNetwork:
    """The network with something added to the bias of a layer."""
    if not np.all(np.isfinite(more)):
        raise ValueError(
            f"spikes of {snn.network.name(index)} stand for no activation, so that its mean error "
            "is not known: thresholds or amplitudes were set by hand. Use balance_thresholds."
        )
    layers = list(snn.network.layers)
    bias = layers[index].bias
    new = more if bias is None else np.asarray(bias, np.float64) + more
    layers[index] = layers[index].with_bias(jnp.asarray(new, snn.network.dtype))
    network = Network(tuple(layers), snn.network.input_shape)
    return replace(snn, network=network)
