"""What a spiking network achieves and costs: accuracy, latency, synaptic operations."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.dtypes import canonicalize_dtype
from jaxtyping import Array, Float

from jaxsnn.network import INPUT, Connection, Network
from jaxsnn.support.arrays import (
    AnyArray,
    all_known,
    all_true,
    cached,
    compiled,
    is_known,
    numbers_of,
)
from jaxsnn.support.typed import Count, Numbers, Real, described, typed


@typed
def accuracy(
    predictions: Numbers, labels: Numbers, *, classes: Count | None = None
) -> Float[Array, "..."]:
    """Fraction of samples, the last axis, whose prediction is the label.

    A sample that is undecided (-1) is wrong.

    Args:
        predictions: classes `[..., B]`, integers from -1 on.
        labels: the true classes `[B]`, integers from 0 on. Values that JAX traces are not checked.
        classes: the number of classes, where it is known; labels must be below it.

    Returns:
        The accuracy `[...]`.

    Raises:
        ValueError: there are not as many labels as samples, or none, or they are no classes.

    Example:
        >>> import jaxsnn
        >>> jaxsnn.metrics.accuracy([[-1, 2], [1, 2]], [1, 2]).tolist()
        [0.5, 1.0]
    """
    found = _integers("predictions", predictions, "scores have classes: scores.argmax(-1)")
    expected = _integers("labels", labels, "name classes by their numbers, from 0 on")
    if expected.ndim != 1 or expected.size == 0 or found.shape[-1:] != expected.shape:
        advice = " One-hot labels have classes: labels.argmax(-1)." if expected.ndim == 2 else ""
        raise ValueError(
            f"predictions of shape {found.shape} and labels of shape {expected.shape}: there must "
            f"be one label for each sample, and at least one.{advice}"
        )
    _check_range("labels", expected, 0, classes)
    # Those of a simulation are 32-bit, right, and perhaps not computed yet: no look at them.
    if isinstance(found, np.ndarray) and found.dtype.itemsize == 8 and found.size:
        _check_range("predictions", found, -1, None)
    found, expected = (jnp.asarray(values).astype(jnp.int32) for values in (found, expected))
    labels_of_all = expected.reshape((1,) * (found.ndim - 1) + expected.shape)
    return ((found == labels_of_all) & (found >= 0)).mean(-1)


def checked_labels(labels: Any, *, classes: int | None = None, name: str = "labels") -> AnyArray:
    """Labels as an array of integers from 0 on; what JAX traces is only asked for its type.

    Args:
        labels: the labels.
        classes: the number of classes, where it is known.
        name: what a message calls them.

    Raises:
        ValueError: the labels are no integers, or out of range.

    Example:
        >>> from jaxsnn.metrics import checked_labels
        >>> checked_labels([0, 3], classes=3)
        Traceback (most recent call last):
        ...
        ValueError: labels range from 0 to 3; they must be classes, from 0 to 2.
    """
    found = _integers(name, labels, "name classes by their numbers, from 0 on")
    if found.size:
        _check_range(name, found, 0, classes)
    return found


def _integers(name: str, values: Any, advice: str) -> AnyArray:
    """Values as an array of integers, on the device if they are there."""
    found = _array(name, values)
    if found.size and not jnp.issubdtype(found.dtype, jnp.integer):
        kind = "text" if found.dtype.kind in "UST" else found.dtype
        raise ValueError(f"{name} must be integers, not {kind}; {advice}.")
    return found


def _array(name: str, values: Any) -> AnyArray:
    """An array, of NumPy unless JAX has or traces the values."""
    if isinstance(values, jax.Array):
        return values
    if isinstance(values, np.ma.MaskedArray):
        raise ValueError(f"{name} must have no mask, which would be ignored; take those without.")
    try:
        return cast(AnyArray, np.asarray(values))
    except jax.errors.TracerArrayConversionError:
        return jnp.asarray(values)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{name} must be an array, or a list of lists of one length, not {described(values)}: "
            f"{error}"
        ) from error


def _check_range(name: str, values: AnyArray, least: int, classes: int | None) -> None:
    """Raise where known integers are not from `least` to the number of classes or of 32 bits."""
    if not is_known(values):
        return
    if not isinstance(values, np.ndarray) and values.is_fully_addressable:
        values = cast(AnyArray, np.asarray(values))
    low, high = int(values.min()), int(values.max())
    limit = (1 << 31) if classes is None else classes
    if low < least or high >= limit:
        end = "on" if classes is None else f"to {classes - 1}"
        raise ValueError(
            f"{name} range from {low} to {high}; they must be classes, from {least} {end}."
        )


def real_numbers(name: str, values: Any, *, bools: bool = False) -> np.ndarray:
    """Values as an array of finite numbers, or ValueError.

    Args:
        name: what a message calls them.
        values: an array, or lists.
        bools: whether bools may stand for 0 and 1.

    Example:
        >>> from jaxsnn.metrics import real_numbers
        >>> real_numbers("times", [1, float("nan")])
        Traceback (most recent call last):
        ...
        ValueError: times must be finite numbers; 1 of 2 are not, such as nan.
    """
    array = _array(name, values)
    if not is_known(array):
        raise ValueError(f"{name} must be known, not traced: call this outside of jit and vmap.")
    found = np.asarray(array)
    real = (jnp.issubdtype(found.dtype, kind) for kind in (jnp.floating, jnp.integer))
    if found.size and not any(real) and not (bools and found.dtype == bool):
        raise ValueError(f"{name} must be real numbers, not {found.dtype}.")
    if found.dtype.kind in "fV":  # bfloat16 is of kind V
        wrong = found[~np.isfinite(found)]
        if wrong.size:
            raise ValueError(
                f"{name} must be finite numbers; {wrong.size} of {found.size} are not, such as "
                f"{float(wrong[0])}."
            )
    return found


@typed
def latency(accuracies: Numbers, *, within: Real = 0.003, dt: Real = 1e-3) -> float:
    """Time from which on the accuracy stays close to its final value.

    Args:
        accuracies: accuracy after every step `[T]`.
        within: how far below the final accuracy still counts as close.
        dt: duration of a step in seconds.

    Returns:
        The time in seconds, at the end of the step.

    Raises:
        ValueError: accuracies, within or dt are no such numbers.

    Example:
        >>> import jaxsnn
        >>> jaxsnn.metrics.latency([0.1, 0.989, 0.99], within=0.003, dt=0.001)
        0.002
    """
    found = real_numbers("accuracies", accuracies)
    if found.ndim != 1 or not found.size:
        raise ValueError(
            f"accuracies have shape {found.shape}; there must be one for each step, [T], and at "
            "least one."
        )
    if found.min() < 0 or found.max() > 1 + 1e-6:  # a mean of ones, rounded
        raise ValueError(
            f"accuracies range from {found.min():g} to {found.max():g}; they must lie in [0, 1]. "
            "Divide percentages by 100."
        )
    if not 0 <= within <= 1:
        raise ValueError(f"within={within:g}; it must be a difference of accuracies, in [0, 1].")
    if not 0 < dt < np.inf:
        raise ValueError(f"dt={dt:g}; it must be a positive number of seconds.")
    below = np.flatnonzero(found < found[-1] - within)
    return float(dt * (below[-1] + 2 if len(below) else 1))


@typed
def fan_out(network: Network) -> list[Float[AnyArray, "..."]]:
    """For the input and each layer but the last, how many synapses lead from each of its neurons.

    A synapse is a weight that is not zero, counted for each output that it reaches: a pixel at
    the border of a convolution has fewer than one in the middle. Layers without weights, such as
    average poolings, have no synapses, as in NeuroBench, which counts dense, convolutional and
    recurrent layers alone. A layer that is a sum, without neurons, sends no spikes: it has none.

    Returns:
        For each source an array of the shape of its neurons.

    Example:
        >>> import jax, jax.numpy as jnp, jaxsnn
        >>> weights = jnp.array([[1.0, 0.0], [1.0, 2.0]])
        >>> network = jaxsnn.read_network(lambda x: jax.nn.relu(x @ weights), jnp.zeros((1, 2)))
        >>> [counts.tolist() for counts in jaxsnn.metrics.fan_out(network)]
        [[1.0, 2.0]]
    """
    found = _fan_outs(network)
    return [
        0 * values if network.is_a_sum(source) else values
        for source, values in enumerate(found, INPUT)
    ]


def _fan_outs(network: Network) -> list[AnyArray]:
    """The synapses of each source, those of sums included; of NumPy where they are known."""

    def found(network: Network) -> list[AnyArray]:
        counts = _fan_out(network)
        return jax.device_get(counts) if all_known(counts) else counts

    return cached(network, "fan_out", found)


@jax.jit
def _fan_out(network: Network) -> list[AnyArray]:
    sources = [INPUT, *range(len(network.layers) - 1)]
    found: dict[int, Any] = {  # of NumPy, which compiles nothing
        source: np.zeros(network.shape_of(source), np.float32) for source in sources
    }
    for layer in network.layers:
        for connection in layer.all_connections:
            if connection.weighted:
                synapses = synapses_of(connection, network.shape_of(connection.source))
                found[connection.source] = found[connection.source] + synapses
    return list(found.values())


def synapses_of(connection: Connection, shape: tuple[int, ...]) -> Array:
    """How many synapses of a connection lead from each neuron of its source, of this shape.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsnn.metrics import synapses_of
        >>> from jaxsnn.network import Connection, Dense
        >>> connection = Connection((Dense(jnp.array([[1.0, 0.0], [1.0, 2.0]])),))
        >>> synapses_of(connection, (2,)).tolist()
        [1.0, 2.0]
    """
    if not connection.weighted:
        return jnp.zeros(shape)

    def paths(x: Array) -> Array:
        for operation in connection.operations:
            x = operation.paths(x)
        return x

    @jax.jit  # as one program, not one an operation
    def count() -> Array:
        # The sum of all outputs, differentiated by an input, counts the paths that leave it.
        outputs, by_inputs = jax.vjp(paths, np.zeros((1, *shape), np.float32))
        return by_inputs(np.ones(outputs.shape, outputs.dtype))[0][0]

    return count()


@typed
def synaptic_operations(
    network: Network, input_spike_counts: Numbers, spike_counts: Sequence[Numbers]
) -> Float[AnyArray, " batch"]:
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

    Raises:
        ValueError: the counts have other shapes, or are no counts.

    Example:
        >>> import jax, jax.numpy as jnp, jaxsnn
        >>> weights = jnp.array([[1.0, 0.0], [1.0, 2.0]])
        >>> network = jaxsnn.read_network(lambda x: jax.nn.relu(x @ weights), jnp.zeros((1, 2)))
        >>> counts = jnp.array([[3.0, 5.0]])
        >>> jaxsnn.metrics.synaptic_operations(network, counts, [jnp.zeros((1, 2))]).tolist()
        [13.0]
    """
    names = ["input_spike_counts", *["spike_counts"] * len(spike_counts)]
    found = list(map(_array, names, [input_spike_counts, *spike_counts]))
    shapes, wanted = [counts.shape for counts in found], [network.input_shape, *network.shapes]
    if [shape[1:] for shape in shapes] != wanted or len({shape[:1] for shape in shapes}) > 1:
        raise ValueError(
            f"input_spike_counts and spike_counts have shapes {shapes}; this network needs "
            f"[B, ...] with one B and, for the input and each layer, {wanted}."
        )
    for name, counts in zip(names, found):
        if jnp.iscomplexobj(counts) or not all_true(lambda c: (c >= 0) & (c < np.inf), counts):
            raise ValueError(f"{name} must be numbers of spikes: finite, and not negative.")
    return operations(fan_out(network), found[:-1])


@typed
def operations(synapses: Sequence[Numbers], sent: Sequence[Numbers]) -> Float[AnyArray, " batch"]:
    """As `synaptic_operations`, from the numbers of synapses that `fan_out` gives.

    Args:
        synapses: for each layer the synapses that each neuron of the layer before has.
        sent: the spikes of these neurons `[B, ...]`.

    Returns:
        The number of operations `[B]`.

    Example:
        >>> import jax.numpy as jnp, jaxsnn
        >>> synapses, sent = [jnp.array([1.0, 2.0])], [jnp.array([[3.0, 5.0]])]
        >>> jaxsnn.metrics.operations(synapses, sent).tolist()
        [13.0]
    """
    shapes = [np.shape(part) for part in synapses], [np.shape(part)[1:] for part in sent]
    if not synapses or shapes[0] != shapes[1]:
        raise ValueError(
            f"synapses are of shapes {shapes[0]} and sent of [B, ...] with {shapes[1]}; both must "
            "have one entry for each layer, of the same neurons, and at least one."
        )
    counts = [_array("synapses", part) for part in synapses]
    return total_operations(counts, [_array("sent", part) for part in sent])


@partial(compiled, inline=True)
def total_operations(synapses: list[AnyArray], sent: list[AnyArray]) -> AnyArray:
    """As `operations`, without a check; of NumPy's arrays it is exact before it is rounded.

    Example:
        >>> import numpy as np
        >>> from jaxsnn.metrics import total_operations
        >>> total_operations([np.array([1.0, 2.0], np.float32)], [np.array([[3.0, 5.0]])]).tolist()
        [13.0]
    """
    on_host, dtype = numbers_of(sent) is np, canonicalize_dtype(synapses[0].dtype)
    totals: list[AnyArray] = []
    for counts, fan_outs in zip(sent, synapses):
        rows, row = counts.reshape(len(counts), -1), fan_outs.reshape(-1)
        if on_host:  # in 64 bits, in which the sums of integers are exact
            totals.append(cast(Array, np.einsum("bn,n->b", rows, row, dtype=np.float64)))
        else:
            totals.append((rows.astype(dtype) * row[None]).sum(1))
    return sum(totals[1:], totals[0]).astype(dtype)


class Additions(NamedTuple):
    """What a time step of a network computes beside its synaptic operations, for one sample.

    Attributes:
        biases: neurons that receive a bias.
        sums: synapses that lead from sums without neurons, whose values are no spikes: each is a
            multiply-accumulate in every step.
    """

    biases: int
    sums: int


@typed
def additions(network: Network) -> Additions:
    """The operations of every time step that do not depend on spikes.

    NeuroBench's definition counts the operations that spikes cause, `synaptic_operations`. A graph
    has others beside them: its biases, and the weights that multiply a sum which several layers
    read, such as the stream of a pre-activation residual network.

    Example:
        >>> import jax, jax.numpy as jnp, jaxsnn
        >>> weights = jnp.ones((2, 3))
        >>> network = jaxsnn.read_network(lambda x: jax.nn.relu(x @ weights + 1), jnp.zeros((1, 2)))
        >>> jaxsnn.metrics.additions(network)
        Additions(biases=3, sums=0)
    """
    _check_known(network)
    pairs = zip(network.layers, network.shapes)
    biased = [
        np.broadcast_to(layer.bias, shape) for layer, shape in pairs if layer.bias is not None
    ]
    found = _fan_outs(network)[1:]
    sums = [synapses for layer, synapses in zip(network.layers, found) if not layer.spiking]
    return Additions(
        sum(int(np.count_nonzero(bias)) for bias in biased),
        int(sum(jnp.asarray(synapses).sum() for synapses in sums)),
    )


@typed
def dense_operations(network: Network) -> float:
    """Multiply-accumulates of one pass of the ReLU network, zeros included.

    Example:
        >>> import jax, jax.numpy as jnp, jaxsnn
        >>> weights = jnp.ones((2, 3))
        >>> network = jaxsnn.read_network(lambda x: jax.nn.relu(x @ weights), jnp.zeros((1, 2)))
        >>> jaxsnn.metrics.dense_operations(network)
        6.0
    """
    _check_known(network)
    return float(sum(jnp.asarray(synapses).sum() for synapses in _fan_outs(network)))


def _check_known(network: Network) -> None:
    if not all(map(is_known, jax.tree.leaves(network))):
        raise ValueError("the network must be known, not traced: call this outside of jit.")
