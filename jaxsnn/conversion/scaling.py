"""Scale factors: one function for each published rule.

The scale factor λ of a layer is the ReLU activation that one spike in every step stands for; the
input's is 1. Every rule maps a network (and images) to one λ for each layer. A layer without
weights, such as an average pooling, takes the λ of the layer before it under every rule, since its
values cannot exceed its inputs. A layer without a ReLU never spikes, and has a λ of 1; the λ of a
ReLU with a ceiling does not exceed the ceiling, and that of a clip-floor is its threshold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from math import floor, inf, log10
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxsnn import encoding
from jaxsnn.conversion import statistics
from jaxsnn.network import (
    INPUT,
    AveragePooling,
    Connection,
    Convolution,
    Layer,
    Network,
    Operation,
)
from jaxsnn.support.arrays import is_known
from jaxsnn.support.typed import Count, Images, Numbers, Real, typed
from jaxsnn.support.warn import warn

Scales = Float[Array, "layers"]
ScalesOfChannels = list[Float[Array, "..."]]
Per = Literal["layer", "channel"]

# A scale factor so many times above the largest activation makes spikes rare: worth a warning.
_FAR_ABOVE = 2.0
# Scale factors of channels are at least this share of the layer's largest: some never spike.
_LEAST_CHANNEL = 1e-3


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
    network: Network,
    images: Images,
    *,
    per: Per = "layer",
    batch_size: Count = 500,
    progress: bool | None = None,
) -> Scales | ScalesOfChannels:
    """Scale factors from the largest activation that calibration images cause.

        λₗ = max(maxᵢⱼ wᵢⱼ, max over images and neurons of the ReLU activation)

    Per channel both maxima are those of the channel.

    Source: Diehl et al. 2015, Algorithm 2.

    Where activations are small beside the weights, as in `lambda x: model(x / 255)` on images in
    [0, 1], the weight decides and the layer hardly spikes. The function then gives the published
    value with a warning; `percentile_scales` and `largest_activations` look at activations alone.

    Args:
        network: the ReLU network.
        images: calibration images `[N, ...]`, usually the training set; any number of them.
        per: "layer" for one factor for each layer, "channel" for one for each of its channels.
        batch_size: how many images are computed at a time; the result does not depend on it, but
            for the rounding of float32 sums.
        progress: whether to show a bar; by default where there is more than a second of work.

    Returns:
        One λ for each layer; per channel a list of arrays that broadcast to the neurons.

    Raises:
        ValueError: there are no images, they have the wrong shape or are not finite, or a layer is
            dead (its largest activation is 0); the message names the layer.

    Warns:
        UserWarning: a weight makes a scale factor more than twice the largest activation, or
            pixels are outside [0, 1].

    Example:
        >>> import jax, jax.numpy as jnp, jaxsnn
        >>> weights = jnp.array([[2.0, 1.0], [2.0, -1.0]])
        >>> network = jaxsnn.read_network(lambda x: jax.nn.relu(x @ weights), jnp.zeros((1, 2)))
        >>> jaxsnn.data_based_scales(network, jnp.array([[0.5, 1.0], [1.0, 0.25]])).tolist()
        [3.0]
    """
    _check_known(network)
    checked, axes = _checked(network, images, batch_size), channel_axes(network, per)
    found = statistics.largest(network, checked, axes, batch_size, progress)
    largest = [float(values.max()) for values in found]
    _warn_of_large_weights(network, largest, range(len(network.layers)))
    scales = _scale_layers(network, lambda index, _: _published_scale(network, largest, index))
    weights = map(_largest_weights, network.layers, axes)
    of_channels = [np.maximum(*pair) for pair in zip(map(np.asarray, found), weights)]
    return _for_channels(network, scales, of_channels, axes)


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
    found = largest_activations(network, images, batch_size=batch_size, progress=progress)
    largest = np.asarray(found).tolist()
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
def ceiling_scales(network: Network) -> Scales:
    """Scale factors that are the ceilings of the activations, which training may have learned.

        λₗ = the threshold of a `neurons.clip_floor`, or c of clip(x, 0, c), such as 6 of ReLU6

    Source: Bu et al. 2022, "Optimal ANN-SNN conversion for high-accuracy and ultra-low-latency
    spiking neural networks".

    Args:
        network: a network whose layers of ReLUs all have a ceiling.

    Returns:
        One λ for each layer.

    Raises:
        ValueError: a layer has no ceiling; the message names it.

    Example:
        >>> import jax, jax.numpy as jnp, jaxsnn
        >>> network = jaxsnn.read_network(lambda x: jax.nn.relu6(8 * x), jnp.zeros((1, 1)))
        >>> jaxsnn.ceiling_scales(network).tolist()
        [6.0]
    """
    for index, layer in enumerate(network.layers):
        if layer.spiking and layer.ceiling == inf and _has_its_own(network, index):
            raise ValueError(
                f"{network.name(index)} has no ceiling that could be its scale factor: give scale "
                "factors, such as jaxsnn.percentile_scales(network, images), or train the model "
                "with jaxsnn.neurons.clip_floor in the place of its ReLUs."
            )
    return _scale_layers(network, lambda index, _: network.layers[index].ceiling)


@typed
def percentile_scales(
    network: Network,
    images: Images,
    *,
    percentile: Real = 99.9,
    per: Per = "layer",
    encode: encoding.Encoding = encoding.poisson,
    batch_size: Count = 500,
    progress: bool | None = None,
) -> Scales | ScalesOfChannels:
    """Scale factors from a percentile of the activations, which a few outliers do not raise.

        λₗ = the percentile of all activations of layer l, zeros included

    Per channel each map of a convolution, and each neuron of a dense layer, has a factor of its
    own: spikes then stand for less, and deep networks need fewer steps. A channel whose percentile
    is below a thousandth of the layer's largest gets that.

    Ranks are interpolated linearly, as in `numpy.percentile`. The value is exact at any number of
    images and takes no more memory for more of them.

    Source: Rueckauer et al. 2017, "Conversion of continuous-valued deep networks to efficient
    event-driven networks for image classification".

    Args:
        network: the ReLU network.
        images: calibration images `[N, ...]`.
        percentile: in percent, above 1 and at most 100; 100 is the largest activation.
        per: "layer" for one factor for each layer, "channel" for one for each of its channels.
        encode: how pixels will drive the first layer; for `constant` they may be any finite
            numbers, without a warning.
        batch_size: how many images are computed at a time.
        progress: whether to show a bar; by default where there is more than a second of work.

    Returns:
        One λ for each layer; per channel a list of arrays that broadcast to the neurons, for
        `balance_thresholds`.

    Raises:
        ValueError: as `data_based_scales`, or the percentile is out of range, or so low that it
            is 0 in a whole layer; the message names the layer and the share of its zeros.

    Warns:
        UserWarning: pixels outside [0, 1], unless they are constant currents.

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
    checked = _checked(network, images, batch_size, encode)
    axes = channel_axes(network, per)
    found, zeros = statistics.percentiles(network, checked, percentile, axes, batch_size, progress)
    values = [float(of_layer.max()) for of_layer in found]
    for index, (value, share) in enumerate(zip(values, zeros, strict=True)):
        layer = network.layers[index]
        own = layer.weighted and layer.spiking and not layer.scale_is_trained
        if own and value == 0 and share < 1:
            raise ValueError(
                f"{network.name(index)} has a percentile of zero: {_percent(share)} % of its "
                f"activations are zero, so percentile={percentile:g} falls on one of them. Give a "
                "percentile well above that share; 100 takes the largest activation."
            )

    def rule(index: int, _before: Mapping[int, float]) -> float:
        return values[index]

    return _for_channels(network, _scale_layers(network, rule), found, axes)


@typed
def locally_balanced_scales(
    network: Network,
    images: Images,
    *,
    per: Per = "channel",
    passes: Count = 1,
    encode: encoding.Encoding = encoding.poisson,
    batch_size: Count = 50,
    progress: bool | None = None,
) -> Scales | ScalesOfChannels:
    """Scale factors by local threshold balancing, which trades clipping against rounding.

        λ ← λ + 2 · mean(max(0, x - λ)),   λ = 0 at the start

    after every batch of images, with the mean over the batch and the neurons of a channel (or
    layer). x is what the neurons receive from activations that are clipped to the λ so far. So λ
    rises to where little is lost above it, below the largest activations: networks are accurate in
    fewer steps, and an error from clipping stays.

    Source: Bu et al. 2025, "Inference-scale complexity in ANN-SNN conversion for high-performance
    and low-power applications", equations 13 to 17 with a mean in the place of the sum and a rate
    of 1, as in SpikingJelly.

    Args:
        network: the ReLU network.
        images: calibration images `[N, ...]`, in random order.
        per: "channel" for one factor for each channel, "layer" for one for each layer.
        passes: how often to go through the images. There should be tens of batches in all.
        encode: how pixels will drive the first layer; for `constant` they may be any finite
            numbers, without a warning.
        batch_size: images between two updates, on which the result depends.
        progress: whether to show a bar; by default where there is more than a second of work.

    Returns:
        One λ for each layer; per channel a list of arrays that broadcast to the neurons.

    Raises:
        ValueError: as `data_based_scales`, or there are no passes.

    Warns:
        UserWarning: pixels outside [0, 1], unless they are constant currents.

    Example:
        >>> import jax, jax.numpy as jnp, jaxsnn
        >>> network = jaxsnn.read_network(lambda x: jax.nn.relu(2 * x), jnp.zeros((1, 1)))
        >>> images = jnp.array([[0.5], [0.0], [0.25], [1.0]])
        >>> jaxsnn.locally_balanced_scales(network, images, per="layer", batch_size=2).tolist()
        [2.0]
    """
    if passes < 1:
        raise ValueError(f"passes={passes}; there must be at least 1.")
    _check_known(network)
    checked, axes = _checked(network, images, batch_size, encode), channel_axes(network, per)
    balanced = [jnp.zeros((), network.dtype)] * len(axes)
    for _ in range(passes):
        for batch in statistics.batches(checked, batch_size, progress):
            balanced = _balanced(network, batch, balanced, axes)
    found = [np.atleast_1d(np.asarray(values).squeeze()) for values in balanced]
    values = [float(of_layer.max()) for of_layer in found]
    scales = _scale_layers(network, lambda index, _: values[index])
    return _for_channels(network, scales, found, axes)


@partial(jax.jit, static_argnames="axes")
def _balanced(
    network: Network, images: Array, scales: list[Array], axes: statistics.Axes
) -> list[Array]:
    """λ after one more batch, each with axes of size 1 beside that of its channels."""
    values, found = {INPUT: images.astype(network.dtype)}, []
    for index, (layer, axis) in enumerate(zip(network.layers, axes, strict=True)):
        received, scale = layer.received(values), scales[index]
        values[index] = layer.activation(received)
        if layer.spiking and _has_its_own(network, index) and not layer.scale_is_trained:
            above = jnp.maximum(received - scale, 0)
            mean = above.mean(statistics.over_all_but(axis, above), keepdims=True)
            scale = scale + 2 * mean
            values[index] = jnp.minimum(values[index], scale)
        found.append(scale)
    return found


def channel_axes(network: Network, per: Per) -> statistics.Axes:
    """For each layer the axis of its channels, without the batch; None for one group of all."""
    found: list[int | None] = []
    for layer, shape in zip(network.layers, network.shapes, strict=True):
        *_, last = (None, *layer.all_connections[0].operations)
        axis = last.channels.outputs if last is not None and last.weighted else -1
        grouped = per == "channel" and layer.spiking and not layer.scale_is_trained and shape
        found.append(axis % len(shape) if grouped else None)
    return tuple(found)


def _for_channels(
    network: Network, scales: Array, found: list[np.ndarray], axes: statistics.Axes
) -> Scales | ScalesOfChannels:
    """λ of each channel; a pooling takes those of its source, as its channels are the same."""
    if all(axis is None for axis in axes):
        return scales
    factors: list[Array] = []
    for index, (layer, axis, shape) in enumerate(zip(network.layers, axes, network.shapes)):
        if axis is None:
            factors.append(scales[index])
            continue
        if not _has_its_own(network, index):
            values = _of_source(network, layer.all_connections[0], factors, axis)
            values = np.where(values > 0, values, float(scales[index]))  # padded with zeros
        else:
            least = _LEAST_CHANNEL * float(scales[index])
            values = np.clip(found[index], least, layer.ceiling)
        sizes = [-1 if place == axis else 1 for place in range(len(shape))]
        factors.append(jnp.asarray(values.reshape(sizes), scales.dtype))
    return factors


def _of_source(
    network: Network, connection: Connection, factors: Sequence[Array], axis: int
) -> np.ndarray:
    """λ of each channel of a layer without weights: the largest λ of those that lead into it."""
    source = connection.source
    before = jnp.ones(()) if source == INPUT else factors[source]
    values = jnp.broadcast_to(before, network.shape_of(source))[None]
    for operation in connection.operations:
        mean = isinstance(operation, AveragePooling)
        values = operation.reduce(values, 0, jax.lax.max) if mean else operation(values)
    return np.asarray(values.max(statistics.over_all_but(axis, values)))


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
        ValueError: there are no images, or they have the wrong shape or are not finite.

    Example:
        >>> import jax, jax.numpy as jnp, jaxsnn
        >>> network = jaxsnn.read_network(lambda x: jax.nn.relu(2 * x), jnp.zeros((1, 1)))
        >>> jaxsnn.largest_activations(network, jnp.array([[0.25], [0.75]])).tolist()
        [1.5]
    """
    checked, axes = _checked(network, images, batch_size), channel_axes(network, "layer")
    found = statistics.largest(network, checked, axes, batch_size, progress)
    return jnp.concatenate(found)


def _scale_layers(network: Network, rule: Callable[[int, Mapping[int, float]], float]) -> Scales:
    """λ of each layer; `rule(index, λ of every source before)` gives those of weighted layers."""
    dtype = jnp.result_type(float)
    scales = {INPUT: 1.0}
    for index, layer in enumerate(network.layers):
        scales[index] = 1.0
        if not layer.spiking:
            continue
        previous = scales[layer.all_connections[0].source]
        if _has_its_own(network, index):
            previous = min(float(rule(index, scales)), layer.ceiling)
            previous = layer.ceiling if layer.scale_is_trained else previous
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


def multiplied(network: Network, scales: Numbers, by: float) -> Scales | ScalesOfChannels:
    """Scale factors of all layers multiplied, but for those that were trained.

    Args:
        network: the ReLU network.
        scales: a number for each layer, or a list of those of channels.
        by: a factor of at most 1, so that no λ exceeds a ceiling.

    Example:
        >>> import jax, jax.numpy as jnp, jaxsnn
        >>> from jaxsnn.conversion.scaling import multiplied
        >>> network = jaxsnn.read_network(lambda x: jax.nn.relu(2 * x), jnp.zeros((1, 1)))
        >>> multiplied(network, jnp.array([4.0]), 0.75).tolist()
        [3.0]
    """
    factors = {INPUT: 1.0}
    for index, layer in enumerate(network.layers):
        own = by if _has_its_own(network, index) else factors[layer.all_connections[0].source]
        factors[index] = own if layer.spiking and not layer.scale_is_trained else 1.0
    of_layers = [factors[index] for index in range(len(network.layers))]
    if isinstance(scales, list):
        return [jnp.asarray(scale * by) for scale, by in zip(scales, of_layers, strict=True)]
    values = jnp.asarray(scales)
    return values * jnp.asarray(of_layers, values.dtype)


def _has_its_own(network: Network, index: int) -> bool:
    """Whether a layer has a λ of its own, and not that of its only source, as poolings have."""
    layer = network.layers[index]
    first, *others = (connection.source for connection in layer.all_connections)
    from_a_sum = first != INPUT and not network.spikes_from(first)
    return layer.weighted or bool(others) or from_a_sum or layer.ceiling < inf


def _published_scale(network: Network, largest: Sequence[float], index: int) -> float:
    """max(largest weight, largest activation); a layer whose activations are all 0 is dead."""
    activation = float(largest[index])
    return max(activation, _largest_weight(network, index)) if activation else 0.0


def _largest_weight(network: Network, index: int) -> float:
    return float(_largest_weights(network.layers[index], None))


def _largest_weights(layer: Layer, axis: int | None) -> np.ndarray:
    """The largest weight that leads into a layer; with an axis, into each channel along it.

    Weights that all channels share count for each.
    """
    most = np.asarray(-inf, np.float32)
    for connection in layer.all_connections:
        for operation in connection.operations:
            weights, maps = jax.tree.leaves(operation), operation.channels.weights_out
            last = operation is connection.operations[-1]
            for values in map(np.asarray, weights):
                apart = axis is not None and last and maps is not None
                others = [place for place in range(values.ndim) if not apart or place != maps]
                most = np.maximum(most, values.max(tuple(others)))
    return np.asarray(most)


def _warn_of_large_weights(
    network: Network, largest: Sequence[float], layers: Iterable[int]
) -> None:
    """Warn of layers whose scale factor the weights set far above all activations."""
    found = [
        f"{network.name(index)}: its largest weight, {weight:.3g}, sets λ to "
        f"{weight / activation:.3g} times its largest activation, {activation:.3g}"
        for index in layers
        if network.layers[index].spiking
        and not network.layers[index].scale_is_trained
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


# -- Calibration images ----------------------------------------------------------------------------


def _checked(
    network: Network,
    images: ArrayLike,
    batch_size: int,
    encode: encoding.Encoding = encoding.poisson,
) -> np.ndarray:
    """Calibration images on the host, or ValueError; a warning if they cannot be encoded."""
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}; it must be at least 1.")
    checked = network.images_on_host(images)
    low, high = float(checked.min()), float(checked.max())
    if encode is not encoding.constant and not (low >= 0 and high <= 1 + 1e-6):
        warn(
            f"pixels range from {low:.9g} to {high:.9g}; only constant currents (encode=constant) "
            "take such images, all else those in [0, 1]. Divide 8-bit pixels by 255."
        )
    return checked
