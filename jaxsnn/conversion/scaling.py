"""Scale factors: one function for each published rule.

The scale factor λ of a layer is the ReLU activation that one spike in every step stands for; the
input's is 1. Every rule maps a network (and images) to one λ for each layer. A layer without
weights, such as an average pooling, takes the λ of the layer before it under every rule, since its
values cannot exceed its inputs. A layer without a ReLU never spikes, and has a λ of 1; the λ of a
ReLU with a ceiling does not exceed the ceiling.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from math import ceil, floor, inf, log10, prod
from typing import TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxsnn.network import INPUT, Connection, Convolution, Network, Operation
from jaxsnn.support.arrays import is_known
from jaxsnn.support.progress import progress_bar
from jaxsnn.support.typed import Count, Images, Real, typed
from jaxsnn.support.warn import warn

Scales = Float[Array, "layers"]
Result = TypeVar("Result")

# A scale factor so many times above the largest activation makes spikes rare: worth a warning.
_FAR_ABOVE = 2.0


@typed
def model_based_scales(network: Network) -> Scales:
    """Scale factors from the weights alone, so that no neuron gets over its threshold in a step.

        λₗ = λₗ₋₁ · maxⱼ Σᵢ max(0, wᵢⱼ),   λ₀ = 1

    For a convolution the sum goes over the whole kernel of an output map. Where several weighted
    operations stand in one layer, their largest possible result takes the place of the sum. With
    biases it is λₗ₋₁ · maxⱼ Σᵢ max(0, wᵢⱼ) + maxⱼ bⱼ; in deep networks that is far above all real
    activations.

    Source: Diehl et al. 2015, Algorithm 1.

    Args:
        network: the ReLU network.

    Returns:
        One λ for each layer.

    Raises:
        ValueError: a layer has no positive weight and so never spikes; the message names it.

    Example:
        >>> import jax, jax.numpy as jnp, jaxsnn
        >>> weights = jnp.array([[2.0, 1.0], [2.0, -1.0]])
        >>> network = jaxsnn.read_network(lambda x: jax.nn.relu(x @ weights), jnp.zeros((1, 2)))
        >>> jaxsnn.model_based_scales(network).tolist()
        [4.0]
    """
    _check_known(network)

    def rule(index: int, before: Mapping[int, float]) -> float:
        layer = network.layers[index]
        found = [before[p.source] * _largest_output(p) for p in layer.all_connections]
        return sum(found) + (0.0 if layer.bias is None else float(np.max(layer.bias)))

    sums = [index for index, layer in enumerate(network.layers[:-1]) if not layer.spiking]
    if sums:
        raise ValueError(
            f"{network.name(sums[0])} is a sum that several layers read, which may be negative: "
            "there is no bound from its weights. Use percentile_scales."
        )

    return _scale_layers(network, rule)


@typed
def data_based_scales(
    network: Network, images: Images, *, batch_size: Count = 500, progress: bool | None = None
) -> Scales:
    """Scale factors from the largest activation that calibration images cause.

        λₗ = max(maxᵢⱼ wᵢⱼ, max over images and neurons of the ReLU activation)

    Source: Diehl et al. 2015, Algorithm 2.

    Where activations are small beside the weights, as in `lambda x: model(x / 255)` on images in
    [0, 1], the weight decides and the layer hardly spikes. The function then gives the published
    value with a warning; `percentile_scales` and `largest_activations` look at activations alone.

    Args:
        network: the ReLU network.
        images: calibration images `[N, ...]`, usually the training set; any number of them.
        batch_size: how many images are computed at a time; the result does not depend on it, but
            for the rounding of float32 sums.
        progress: whether to show a bar; by default where there is more than a second of work.

    Returns:
        One λ for each layer.

    Raises:
        ValueError: there are no images, they have the wrong shape or pixels outside [0, 1], or a
            layer is dead (its largest activation is 0); the message names the layer.

    Warns:
        UserWarning: a weight makes a scale factor more than twice the largest activation.

    Example:
        >>> import jax, jax.numpy as jnp, jaxsnn
        >>> weights = jnp.array([[2.0, 1.0], [2.0, -1.0]])
        >>> network = jaxsnn.read_network(lambda x: jax.nn.relu(x @ weights), jnp.zeros((1, 2)))
        >>> jaxsnn.data_based_scales(network, jnp.array([[0.5, 1.0], [1.0, 0.25]])).tolist()
        [3.0]
    """
    _check_known(network)
    largest = largest_activations(network, images, batch_size=batch_size, progress=progress)
    _warn_of_large_weights(network, largest, range(len(network.layers)))
    return _scale_layers(network, lambda index, _: _published_scale(network, largest, index))


@typed
def data_based_scales_of_authors_code(
    network: Network, images: Images, *, batch_size: Count = 500, progress: bool | None = None
) -> Scales:
    """Data-based scale factors as the authors' MATLAB code computes them.

    With sₗ = max(largest weight, largest activation) as in `data_based_scales`, the code divides
    the weights of layer l by fₗ = sₗ / fₗ₋₁ (f₀ = 1) and not by sₗ / sₗ₋₁, so that

        λₗ = λₗ₋₁ · fₗ

    which differs from the paper's rule from the third weighted layer on. In a network with
    convolutions the code leaves the output layer alone: its f is 1.

    Source: the code published with Diehl et al. 2015.

    Args:
        network: the ReLU network.
        images: calibration images `[N, ...]`.
        batch_size: how many images are computed at a time.
        progress: whether to show a bar; by default where there is more than a second of work.

    Returns:
        One λ for each layer.

    Raises:
        ValueError: as `data_based_scales`.

    Warns:
        UserWarning: as `data_based_scales`.

    Example:
        >>> import jax, jax.numpy as jnp, jaxsnn
        >>> def model(x):
        ...     for _ in range(3):
        ...         x = jax.nn.relu(2 * x)
        ...     return x
        >>> network = jaxsnn.read_network(model, jnp.zeros((1, 1)))
        >>> images = jnp.ones((1, 1))
        >>> jaxsnn.data_based_scales(network, images).tolist()
        [2.0, 4.0, 8.0]
        >>> jaxsnn.data_based_scales_of_authors_code(network, images).tolist()
        [2.0, 4.0, 16.0]
    """
    _check_known(network)
    largest = largest_activations(network, images, batch_size=batch_size, progress=progress)
    convolutional = any(
        isinstance(operation, Convolution)
        for layer in network.layers
        for connection in layer.all_connections
        for operation in connection.operations
    )
    untouched = len(network.layers) - 1 if convolutional else None
    touched = [index for index in range(len(network.layers)) if index != untouched]
    _warn_of_large_weights(network, largest, touched)
    applied = 1.0

    def rule(index: int, before: Mapping[int, float]) -> float:
        nonlocal applied
        previous = before[network.layers[index].all_connections[0].source]
        if index == untouched:
            return previous
        applied = _published_scale(network, largest, index) / applied
        return previous * applied

    return _scale_layers(network, rule)


@typed
def percentile_scales(
    network: Network,
    images: Images,
    *,
    percentile: Real = 99.9,
    batch_size: Count = 500,
    progress: bool | None = None,
) -> Scales:
    """Scale factors from a percentile of the activations, which a few outliers do not raise.

        λₗ = the percentile of all activations of layer l, zeros included

    Ranks are interpolated linearly, as in `numpy.percentile`. The value is exact at any number of
    images and takes no more memory for more of them.

    Source: Rueckauer et al. 2017, "Conversion of continuous-valued deep networks to efficient
    event-driven networks for image classification".

    Args:
        network: the ReLU network.
        images: calibration images `[N, ...]`.
        percentile: in percent, above 1 and at most 100; 100 is the largest activation.
        batch_size: how many images are computed at a time.
        progress: whether to show a bar; by default where there is more than a second of work.

    Returns:
        One λ for each layer.

    Raises:
        ValueError: as `data_based_scales`, or the percentile is out of range, or so low that it
            is 0 in a layer; the message names the layer and the share of its zeros.

    Example:
        >>> import jax, jax.numpy as jnp, jaxsnn
        >>> network = jaxsnn.read_network(lambda x: jax.nn.relu(2 * x), jnp.zeros((1, 1)))
        >>> images = jnp.linspace(0, 1, 101)[:, None]
        >>> jaxsnn.percentile_scales(network, images, percentile=75).tolist()
        [1.5]
    """
    if not 1 < percentile <= 100:
        fraction = f": {percentile:g} is {percentile:g} percent; did you mean {100 * percentile:g}?"
        raise ValueError(
            f"percentile={percentile:g}; it must be above 1 and at most 100"
            f"{fraction if 0 < percentile <= 1 else ', such as 99.9.'}"
        )
    _check_known(network)
    checked = _checked(network, images, batch_size)
    values, zeros = _percentiles(network, checked, percentile, batch_size, progress)
    for index, (value, share) in enumerate(zip(values, zeros, strict=True)):
        layer = network.layers[index]
        if layer.weighted and layer.spiking and value == 0 and share < 1:
            raise ValueError(
                f"{network.name(index)} has a percentile of zero: {_percent(share)} % of its "
                f"activations are zero, so percentile={percentile:g} falls on one of them. Give a "
                "percentile well above that share; 100 takes the largest activation."
            )

    def rule(index: int, _before: Mapping[int, float]) -> float:
        return values[index]

    return _scale_layers(network, rule)


@typed
def largest_activations(
    network: Network, images: Images, *, batch_size: Count = 500, progress: bool | None = None
) -> Scales:
    """The largest ReLU activation of each layer over all images.

    Args:
        network: the ReLU network.
        images: images `[N, ...]`.
        batch_size: how many images are computed at a time.
        progress: whether to show a bar; by default where there is more than a second of work.

    Returns:
        One value for each layer, which is 0 for a dead layer.

    Raises:
        ValueError: there are no images, or they have the wrong shape or pixels outside [0, 1].

    Example:
        >>> import jax, jax.numpy as jnp, jaxsnn
        >>> network = jaxsnn.read_network(lambda x: jax.nn.relu(2 * x), jnp.zeros((1, 1)))
        >>> jaxsnn.largest_activations(network, jnp.array([[0.25], [0.75]])).tolist()
        [1.5]
    """
    checked, largest = _checked(network, images, batch_size), None
    for maxima in _over_batches(network, checked, _maxima, batch_size, progress):
        largest = maxima if largest is None else jnp.maximum(largest, maxima)
    return cast(Array, largest)


def _scale_layers(network: Network, rule: Callable[[int, Mapping[int, float]], float]) -> Scales:
    """λ of each layer; `rule(index, λ of every source before)` gives those of weighted layers."""
    dtype = jnp.result_type(float)
    scales = {INPUT: 1.0}
    for index, layer in enumerate(network.layers):
        scales[index] = 1.0
        if not layer.spiking:
            continue
        first, *others = (connection.source for connection in layer.all_connections)
        previous = scales[first]
        if layer.weighted or others or (first != INPUT and not network.spikes_from(first)):
            previous = min(float(rule(index, scales)), layer.ceiling)
            if not previous <= float(jnp.finfo(dtype).max):
                raise ValueError(
                    f"{network.name(index)} would get the scale factor {previous:g}, which is not "
                    f"a finite {dtype}. Check its weights and those of the layers before it."
                )
            if previous <= 0:
                raise ValueError(
                    f"{network.name(index)} is dead: its scale factor is {previous:g}, so it would "
                    "never spike. Check its weights and the calibration images, or train again."
                )
        scales[index] = previous
    return jnp.asarray([scales[index] for index in range(len(network.layers))], dtype)


def _published_scale(network: Network, largest: Scales, index: int) -> float:
    """max(largest weight, largest activation); a layer whose activations are all 0 is dead."""
    activation = float(largest[index])
    return max(activation, _largest_weight(network, index)) if activation else 0.0


def _largest_weight(network: Network, index: int) -> float:
    return max((float(w.max()) for w in network.layers[index].weights), default=-inf)


def _warn_of_large_weights(network: Network, largest: Scales, layers: Iterable[int]) -> None:
    """Warn of layers whose scale factor the weights set far above all activations."""
    found = [
        f"{network.name(index)}: its largest weight, {weight:.3g}, sets λ to "
        f"{weight / activation:.3g} times its largest activation, {activation:.3g}"
        for index in layers
        if network.layers[index].spiking
        and (activation := float(largest[index])) > 0
        and (weight := _largest_weight(network, index)) > _FAR_ABOVE * activation
    ]
    if found:
        warn(
            f"{'; '.join(found)}. Neurons will spike rarely or not at all; use percentile_scales "
            "or largest_activations, which look at activations alone."
        )


def _percent(share: float) -> str:
    """A share below 1 in percent, with as many digits as its distance from 1 needs."""
    digits = max(0, 1 - floor(log10(100 * (1 - share))))
    return f"{100 * share:.{digits}f}"


def _check_known(network: Network) -> None:
    """Raise where JAX traces the network: a rule looks at numbers, and at which layers are dead."""
    if not all(map(is_known, jax.tree.leaves(network))):
        raise ValueError(
            "the network's weights are traced, so their scale factors cannot be computed: call the "
            "rule outside of jit, vmap and grad."
        )


# -- Bounds ----------------------------------------------------------------------------------------


def _largest_output(connection: Connection) -> float:
    """The largest value that inputs in [0, 1] can give."""
    low, high = 0.0, 1.0
    for operation in connection.operations:
        if operation.weighted:
            low, high = _bounds(operation, low, high)
    return high


def _bounds(operation: Operation, low: float, high: float) -> tuple[float, float]:
    """Interval of a weighted operation's outputs, for inputs in [low, high] with 0 in it."""
    (weights,) = jax.tree.leaves(operation)
    positive = operation.sum_inputs(jnp.maximum(weights, 0))
    negative = operation.sum_inputs(jnp.minimum(weights, 0))
    lowest = (positive * low + negative * high).min()
    highest = (positive * high + negative * low).max()
    return float(lowest), float(highest)


# -- Streaming over images -------------------------------------------------------------------------


@jax.jit
def _maxima(network: Network, images: Array) -> Array:
    return jnp.stack([activation.max() for activation in network.activations(images)])


@jax.jit
def _bits(network: Network, images: Array) -> list[Array]:
    """Activations as integers that are ordered as they are: the bits of non-negative floats."""
    return [
        jax.lax.bitcast_convert_type(activation.astype(jnp.float32).ravel(), jnp.uint32)
        for activation in network.activations(images)
    ]


def _checked(network: Network, images: ArrayLike, batch_size: int) -> np.ndarray:
    """Calibration images on the host, or ValueError."""
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}; it must be at least 1.")
    if not is_known(images):
        raise ValueError(
            "the images are traced, so they cannot calibrate scale factors: call the rule outside "
            "of jit, vmap and grad."
        )
    return np.asarray(network.check_pixels(images))


def _over_batches(
    network: Network,
    images: np.ndarray,
    function: Callable[[Network, Array], Result],
    batch_size: int,
    progress: bool | None,
) -> Iterator[Result]:
    """The function's values over batches of images."""
    starts = range(0, len(images), batch_size)
    for start in progress_bar(progress, iterable=starts, desc="activations"):
        yield function(network, jnp.asarray(images[start : start + batch_size]))


def _percentiles(
    network: Network, images: np.ndarray, percentile: float, batch_size: int, progress: bool | None
) -> tuple[list[float], list[float]]:
    """Percentile of every layer's activations by radix selection: 16 bits of them at a time.

    With it comes the share of zeros among them, which is counted (and not 0) only where the
    percentile is 0.

    Two passes, each counting 65,536 bins, find an order statistic exactly, whatever the order of
    the images; sorting would need all activations at once.
    """
    sizes = [len(images) * prod(shape) for shape in network.shapes]
    positions = [percentile / 100 * (size - 1) for size in sizes]
    # Each layer's percentile lies between two neighbours in the order of its activations.
    ranks = [(layer, rank(p)) for layer, p in enumerate(positions) for rank in (floor, ceil)]

    def count(selections: list[tuple[int, Callable[[np.ndarray], np.ndarray]]]) -> np.ndarray:
        counts = np.zeros((len(selections), 1 << 16), np.int64)
        for batch in _over_batches(network, images, _bits, batch_size, progress):
            arrays = [np.asarray(bits) for bits in batch]
            for row, (layer, select) in zip(counts, selections):
                row += np.bincount(select(arrays[layer]), minlength=len(row))
        return counts

    upper = count([(layer, lambda bits: bits >> 16) for layer in range(len(sizes))])
    high = [int(np.searchsorted(upper[layer].cumsum(), rank, "right")) for layer, rank in ranks]
    lower = count(
        [
            (layer, lambda bits, bin=bin: bits[bits >> 16 == bin] & 0xFFFF)
            for (layer, _), bin in zip(ranks, high)
        ]
    )
    low = [
        int(np.searchsorted(counts.cumsum(), rank - upper[layer, :bin].sum(), "right"))
        for counts, (layer, rank), bin in zip(lower, ranks, high)
    ]
    bits = np.array(high, np.uint32) << 16 | np.array(low, np.uint32)
    pairs = bits.view(np.float32).reshape(-1, 2)
    values = [float(np.interp(p % 1, (0, 1), pair)) for p, pair in zip(positions, pairs)]
    # Zeros have the bits 0, and are counted where the lower neighbour starts with these.
    counted = zip(high[::2], lower[::2], sizes, strict=True)
    return values, [float(counts[0] / size) if bin == 0 else 0.0 for bin, counts, size in counted]
