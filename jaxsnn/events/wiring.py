"""From a network of integers to flat arrays: who is connected to whom, and where the weights are.

A neuron that spikes adds its weights to *runs* of neurons that follow each other in memory, as the
weights do. In a dense layer that is one run for all neurons. In a convolution, whose neurons are
kept with the maps last and whose kernel is turned around, it is one for each row of the kernel.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from math import prod
from typing import NamedTuple

import numpy as np

from jaxsnn import metrics
from jaxsnn.events.kinds import DENSE, POOL, SCATTER
from jaxsnn.fixed_point import FixedPointNetwork
from jaxsnn.network import (
    AveragePooling,
    Convolution,
    Dense,
    Layer,
    Multiply,
    Operation,
    Reshape,
    Transpose,
    moved,
)

# Neurons of a layer are filled up to a multiple of this: whole vectors, and whole words of flags.
_LANES = 64
_VECTOR = 32  # numbers in a vector of the widest unit
_NEVER = np.iinfo(np.int32).max  # the threshold of neurons that only fill up


class Wiring(NamedTuple):
    """A network for the kernels; P neurons in all, filled up.

    ==============  ==========  ====================================================================
    field           shape       meaning
    ==============  ==========  ====================================================================
    kinds           [L]         how each layer receives spikes
    first           [L + 1]     the first neuron of each layer
    thresholds      [P]         firing thresholds
    weights         [W]         all weights
    first_weight    [L + 1]     the first weight of each layer
    starts          [.]         for each sender of a layer its first run, and the end
    first_start     [L]         where the senders of each layer are in `starts`
    runs            [R, 3]      first neuron, first weight (both within the layer), and length
    targets         [.]         of poolings: the one neuron that each sender leads to
    first_target    [L]         where the senders of each layer are in `targets`
    gains           [L]         of poolings: what a spike weighs
    synapses        [P]         synapses behind each neuron
    input_synapses  [inputs]    and behind each input
    currents        [0]         an array of the type that holds the sum of a step's inputs
    ==============  ==========  ====================================================================
    """

    kinds: np.ndarray
    first: np.ndarray
    thresholds: np.ndarray
    weights: np.ndarray
    first_weight: np.ndarray
    starts: np.ndarray
    first_start: np.ndarray
    runs: np.ndarray
    targets: np.ndarray
    first_target: np.ndarray
    gains: np.ndarray
    synapses: np.ndarray
    input_synapses: np.ndarray
    currents: np.ndarray


class Wired(NamedTuple):
    """A network for the kernels, and how its neurons are ordered there.

    Attributes:
        wiring: the arrays.
        orders: for each layer the place of each neuron, of the layer's own shape, within it.
        in_order: for each layer whether that is the order of its own shape.
        window: for each layer how many runs lead to a neuron, at most.
    """

    wiring: Wiring
    orders: list[np.ndarray]
    in_order: list[bool]
    window: list[int]


def why_not(network: FixedPointNetwork) -> str | None:
    """Why the events cannot serve this network, if so."""
    for index, layer in enumerate(network.network.layers):
        work = [part for part in layer.operations if not isinstance(part, Reshape | Transpose)]
        if len(work) > 1:
            return f"{network.network.name(index)} has several operations before its neurons"
    return None


class _Taps(NamedTuple):
    """The runs of one layer, and its weights.

    Attributes:
        kind: how the layer receives spikes.
        weights: all its weights, flat.
        runs: for each run the sender, the first neuron, the first weight and the length.
        places: the place of each neuron, in the shape of the operation's outputs.
    """

    kind: int
    weights: np.ndarray
    runs: np.ndarray
    places: np.ndarray


def wire(network: FixedPointNetwork) -> Wired:
    """Make the arrays of a network that the events can serve."""
    integers, gains = network.network, network.gains
    senders = np.arange(prod(integers.input_shape)).reshape(integers.input_shape)
    count, wires = senders.size, []
    for layer, shape, gain in zip(integers.layers, integers.shapes, gains, strict=True):
        size = _filled(prod(shape))
        taps = _taps(layer, senders, gain, size)
        if not wires and taps.kind == POOL:  # what inputs send is added by runs
            taps = taps._replace(kind=SCATTER)
        senders = taps.places.reshape(shape)
        wires.append(_Wires(count, size, taps.kind, taps.weights, _sorted(taps.runs), senders))
        count = size
    orders, first = [wire.order for wire in wires], _ends([wire.size for wire in wires])
    first_run = _ends([len(wire.runs) for wire in wires])
    starts = [start + wire.starts() for start, wire in zip(first_run, wires)]
    targets = [wire.targets() for wire in wires]
    inputs, *behind = map(np.asarray, metrics.fan_out(integers))
    synapses = np.zeros(first[-1], np.int64)
    for start, order, numbers in zip(first, orders, behind):
        synapses[start + order] = numbers
    narrow = set(network.bits) == {8}
    wiring = Wiring(
        kinds=np.array([wire.kind for wire in wires]),
        first=first,
        thresholds=_thresholds(network, orders, first),
        weights=np.concatenate([wire.weights for wire in wires], dtype=np.int16),
        first_weight=_ends([wire.weights.size for wire in wires]),
        starts=np.concatenate(starts),
        first_start=_ends(list(map(len, starts))),
        runs=np.concatenate([wire.runs[:, 1:] for wire in wires]),
        targets=np.concatenate(targets),
        first_target=_ends(list(map(len, targets))),
        gains=np.array(gains),
        synapses=synapses,
        input_synapses=inputs.reshape(-1).astype(np.int64),
        # `quantize` sees to it that a sum of weights of 8 bits has 16.
        currents=np.zeros(0, np.int16 if narrow else np.int32),
    )
    if narrow:
        wiring = wiring._replace(weights=wiring.weights.astype(np.int8))
    in_order = [np.array_equal(order.reshape(-1), np.arange(order.size)) for order in orders]
    return Wired(
        wiring, orders, in_order, [int(np.bincount(w.runs[:, 1]).max(initial=0)) for w in wires]
    )


class _Wires(NamedTuple):
    """One layer: its senders and neurons, filled up; its weights and runs; its neurons' places."""

    senders: int
    size: int
    kind: int
    weights: np.ndarray
    runs: np.ndarray
    order: np.ndarray

    def starts(self) -> np.ndarray:
        """The first run of each sender, and the end."""
        return _ends(np.bincount(self.runs[:, 0], minlength=self.senders))

    def targets(self) -> np.ndarray:
        """Of a pooling, the neuron that each sender leads to; if none, one that only fills up."""
        if self.kind != POOL:
            return np.zeros(0, np.int64)
        found = np.full(self.senders, self.size - 1)
        found[self.runs[:, 0]] = self.runs[:, 1]
        return found


def _ends(sizes: Sequence[int] | np.ndarray) -> np.ndarray:
    """Where parts of these sizes begin that follow each other, and the end."""
    return np.concatenate([[0], np.cumsum(sizes)])


def with_thresholds(wired: Wired, network: FixedPointNetwork) -> Wired:
    """The arrays with the thresholds of another network, whose weights are the same."""
    thresholds = _thresholds(network, wired.orders, wired.wiring.first)
    return wired._replace(wiring=wired.wiring._replace(thresholds=thresholds))


def _thresholds(
    network: FixedPointNetwork, orders: Sequence[np.ndarray], first: Sequence[int] | np.ndarray
) -> np.ndarray:
    """The thresholds of all neurons; those that only fill up never spike."""
    found = np.full(first[-1], _NEVER, np.int32)
    for order, start, values in zip(orders, first, network.thresholds):
        found[start + order] = np.broadcast_to(np.asarray(values), order.shape)
    return found


def _filled(size: int) -> int:
    """The size of a layer with neurons that fill it up, at least one."""
    return (size // _LANES + 1) * _LANES


def _sorted(runs: np.ndarray) -> np.ndarray:
    """Runs by sender and neuron."""
    return runs[np.lexsort((runs[:, 1], runs[:, 0]))]


def _merged(runs: np.ndarray) -> np.ndarray:
    """Runs that continue each other, of one sender, made one."""
    if len(runs) == 0:
        return runs
    runs = _sorted(runs)
    before, after = runs[:-1], runs[1:]
    goes_on = (
        (before[:, 0] == after[:, 0])
        & (before[:, 1] + before[:, 3] == after[:, 1])
        & (before[:, 2] + before[:, 3] == after[:, 2])
    )
    begins = np.flatnonzero(np.concatenate([[True], ~goes_on]))
    merged = runs[begins].copy()
    merged[:, 3] = np.add.reduceat(runs[:, 3], begins)
    return merged


# -- Layers ----------------------------------------------------------------------------------------


def _taps(layer: Layer, senders: np.ndarray, gain: int, size: int) -> _Taps:
    """The runs of a layer, and the places of its neurons in their own shape."""
    taps = None
    for operation in layer.operations:
        if isinstance(operation, Reshape | Transpose):
            if taps is None:
                senders = moved(operation, senders)
            else:
                taps = taps._replace(places=moved(operation, taps.places))
        else:
            taps = _operation(operation, senders, gain, size)
    if taps is None:  # each sender leads to the neuron in its place
        taps = _one_to_one(senders, np.full(senders.shape, gain))
    return taps


def _operation(operation: Operation, senders: np.ndarray, gain: int, size: int) -> _Taps:
    if isinstance(operation, Dense):
        return _dense(operation, senders, size)
    if isinstance(operation, Convolution):
        return _convolution(operation, senders, size)
    if isinstance(operation, AveragePooling):
        return _pooling(operation, senders, gain)
    assert isinstance(operation, Multiply)
    return _one_to_one(senders, np.broadcast_to(np.asarray(operation.factor), senders.shape))


def _one_to_one(senders: np.ndarray, weights: np.ndarray) -> _Taps:
    number = np.arange(senders.size)
    runs = np.stack([senders.reshape(-1), number, number, np.ones_like(number)], 1)
    return _Taps(SCATTER, weights.reshape(-1), runs, number.reshape(senders.shape))


def _dense(operation: Dense, senders: np.ndarray, size: int) -> _Taps:
    """Rows of weights, filled up where there is one for the whole layer."""
    kernel = np.asarray(operation.kernel)
    inputs, outputs = kernel.shape
    groups = senders.reshape(-1, inputs)
    row = np.broadcast_to(np.arange(inputs), groups.shape)
    neuron = np.broadcast_to(np.arange(len(groups))[:, None] * outputs, groups.shape)
    places = np.arange(len(groups) * outputs).reshape(*senders.shape[:-1], outputs)
    kind, width = SCATTER, outputs
    if len(groups) == 1:
        # The rows are in the order of the senders.
        kind, width = DENSE, size
        rows = np.zeros((groups.max() + 1, size), kernel.dtype)
        rows[groups[0], :outputs] = kernel
        kernel, row = rows, groups
    lengths = np.full(groups.size, outputs)
    runs = np.stack([groups.reshape(-1), neuron.reshape(-1), row.reshape(-1) * width, lengths], 1)
    return _Taps(kind, kernel.reshape(-1), runs, places)


def _convolution(operation: Convolution, senders: np.ndarray, size: int) -> _Taps:
    """One run for each tap of the kernel, all maps in it; neighbours are merged later."""
    numbers = operation.dimension_numbers
    spatial = len(numbers.lhs_spec) - 2
    axes = [axis - 1 for axis in (*numbers.lhs_spec[2:], numbers.lhs_spec[1])]
    senders = senders.transpose(axes)  # [space, channels]
    maps, channels, *window = numbers.rhs_spec
    kernel = np.asarray(operation.kernel).transpose(*window, channels, maps)
    shape_in, window_shape = senders.shape[:-1], kernel.shape[:spatial]
    shape_out = [
        ((size - 1) * dilation + 1 + low + high - ((taps - 1) * spread + 1)) // stride + 1
        for size, dilation, (low, high), taps, spread, stride in zip(
            shape_in,
            operation.input_dilation,
            operation.padding,
            window_shape,
            operation.kernel_dilation,
            operation.strides,
        )
    ]
    per_group, count = kernel.shape[-2], kernel.shape[-1] // operation.groups
    # Turned around: neighbouring outputs of an input are reached by taps in falling order.
    turned = np.flip(kernel, tuple(range(spatial))).transpose(spatial, *range(spatial), spatial + 1)
    # [channels of a group and outer taps, inner taps and maps], with zeros behind each row
    rows = turned.reshape(-1, turned.shape[-2] * turned.shape[-1])
    weights = np.pad(rows, ((0, 0), (0, _VECTOR - 1)))
    channel = np.arange(senders.shape[-1])
    group, within = np.divmod(channel, per_group)
    found = []
    for tap in product(*map(range, window_shape)):
        where, inside = [], np.ones(shape_in, bool)
        for axis in range(spatial):
            position = np.arange(shape_in[axis]) * operation.input_dilation[axis]
            position = position + operation.padding[axis][0]
            position = position - tap[axis] * operation.kernel_dilation[axis]
            out, off = np.divmod(position, operation.strides[axis])
            good = (off == 0) & (out >= 0) & (out < shape_out[axis])
            apart = [-1 if a == axis else 1 for a in range(spatial)]
            inside = inside & good.reshape(apart)
            where.append(out.reshape(apart))
        if not inside.any():
            continue
        flat = np.ravel_multi_index(
            [np.broadcast_to(w, shape_in)[inside] for w in where], shape_out
        )
        back = [taps - 1 - t for taps, t in zip(window_shape, tap)]
        outer = np.ravel_multi_index([0, *back[:-1]], (1, *window_shape[:-1]))
        row = within * prod(window_shape[:-1]) + outer
        neuron = flat[:, None] * kernel.shape[-1] + group * count
        place = row * weights.shape[1] + back[-1] * kernel.shape[-1] + group * count
        weight = np.broadcast_to(place, neuron.shape)
        who = senders[inside]
        found.append(np.stack([who, neuron, weight, np.full_like(who, count)], -1).reshape(-1, 4))
    runs = _merged(np.concatenate([np.zeros((0, 4), np.int64), *found]))
    # A run up to the end of a row may go on through its zeros, to whole vectors.
    ends = runs[:, 2] % weights.shape[1] + runs[:, 3] == rows.shape[1]
    whole = -(-runs[:, 3] // _VECTOR) * _VECTOR
    fits = runs[:, 1] + whole <= size
    runs[:, 3] = np.where(ends & fits & (runs[:, 3] > _VECTOR // 2), whole, runs[:, 3])
    # The places of the neurons, with the maps last, in the layout of the operation.
    places = np.arange(prod(shape_out) * kernel.shape[-1]).reshape(*shape_out, kernel.shape[-1])
    order = [axis - 1 for axis in (*numbers.out_spec[2:], numbers.out_spec[1])]
    return _Taps(SCATTER, weights.reshape(-1), runs, places.transpose(np.argsort(order)))


def _pooling(operation: AveragePooling, senders: np.ndarray, gain: int) -> _Taps:
    """Each sender of a window leads to its neuron, with the weight of the layer."""
    shape_out = operation.counts(senders.shape).shape[1:]
    found = []
    for tap in product(*map(range, operation.window)):
        # The input that each window has at this place, if there is one.
        positions = [
            np.arange(size) * stride + offset - low
            for size, stride, offset, (low, _) in zip(
                shape_out, operation.strides, tap, operation.padding
            )
        ]
        grid = np.meshgrid(*positions, indexing="ij")
        inside = np.all([(p >= 0) & (p < size) for p, size in zip(grid, senders.shape)], axis=0)
        who = senders[tuple(p[inside] for p in grid)]
        neuron = np.flatnonzero(inside.reshape(-1))
        found.append(np.stack([who, neuron, 0 * who, 0 * who + 1], 1))
    runs = np.concatenate(found)
    alone = len(np.unique(runs[:, 0])) == len(runs)
    places = np.arange(prod(shape_out)).reshape(shape_out)
    return _Taps(POOL if alone else SCATTER, np.array([gain]), runs, places)
