"""From a network of integers to flat arrays: who is connected to whom, and where the weights are.

A neuron that spikes adds its weights to *runs* of neurons that follow each other in memory, as the
weights do. In a dense layer that is one run for all neurons. In a convolution, whose neurons are
kept with the maps last and whose kernel is turned around, it is one for each row of the kernel.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import singledispatch
from itertools import product
from math import prod
from typing import NamedTuple

import numpy as np

from jaxsnn import metrics
from jaxsnn.conversion.fixed_point import FixedPointNetwork
from jaxsnn.engines.events.kinds import DENSE, POOL, SCATTER
from jaxsnn.network import (
    INPUT,
    AveragePooling,
    Convolution,
    Dense,
    Layer,
    Multiply,
    Network,
    Operation,
)

# Layers are padded to a multiple of so many neurons: whole vectors, and whole words of flags.
_LANES = 64
_VECTOR = 32  # numbers in a vector of the widest unit
_NEVER = np.iinfo(np.int32).max  # the threshold of padding


class Tables(NamedTuple):
    """A network for the kernels; P neurons in all, with padding.

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
    synapses        [P]         fan-out of each neuron
    input_synapses  [inputs]    fan-out of each input
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


class Layout(NamedTuple):
    """A network for the kernels, and how its neurons are ordered there.

    Attributes:
        tables: the arrays.
        orders: for each layer the place of each neuron, of the layer's own shape, within it.
        in_order: for each layer whether that is the order of its own shape.
        window: for each layer how many runs lead to a neuron, at most.
    """

    tables: Tables
    orders: list[np.ndarray]
    in_order: list[bool]
    window: list[int]


def unsupported_layer(network: Network) -> str | None:
    """Why the events cannot simulate a network, if so."""
    if (name := network.beyond_a_chain()) is not None:
        return f"it takes chains of ReLUs without biases, and {name} is none"
    for index, layer in enumerate(network.layers):
        work = [operation for operation in layer.operations if not operation.permutes]
        for operation in work:
            if runs_of.dispatch(type(operation)) is runs_of.dispatch(object):
                return f"it does not compute {type(operation).__name__}, in {network.name(index)}"
        if len(work) > 1:
            return (
                f"{network.name(index)} has several operations before its neurons (after an "
                "average pooling a ReLU, which changes nothing, makes it a layer of its own)"
            )
    return None


class Runs(NamedTuple):
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


class _Part(NamedTuple):
    """One layer: its senders and neurons, with padding; its runs, sorted; its neurons' places."""

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
        """Of a pooling, the neuron that each sender leads to; if none, one that is padding."""
        if self.kind != POOL:
            return np.zeros(0, np.int64)
        found = np.full(self.senders, self.size - 1)
        found[self.runs[:, 0]] = self.runs[:, 1]
        return found


def lay_out(network: FixedPointNetwork) -> Layout:
    """Make the arrays of a network that the events support."""
    parts = _parts(network)
    orders, first = [part.order for part in parts], _ends([part.size for part in parts])
    first_run = _ends([len(part.runs) for part in parts])
    starts = [start + part.starts() for start, part in zip(first_run, parts)]
    targets = [part.targets() for part in parts]
    inputs, *fan_outs = map(np.asarray, metrics.fan_out(network.network))
    synapses = np.zeros(first[-1], np.int64)
    for start, order, numbers in zip(first, orders, fan_outs):
        synapses[start + order] = numbers
    narrow = set(network.bits) == {8}
    weights = np.concatenate([part.weights for part in parts], dtype=np.int16)
    tables = Tables(
        kinds=np.array([part.kind for part in parts]),
        first=first,
        thresholds=_thresholds(network, orders, first),
        weights=weights.astype(np.int8) if narrow else weights,
        first_weight=_ends([part.weights.size for part in parts]),
        starts=np.concatenate(starts),
        first_start=_ends(list(map(len, starts))),
        runs=np.concatenate([part.runs[:, 1:] for part in parts]),
        targets=np.concatenate(targets),
        first_target=_ends(list(map(len, targets))),
        gains=np.array([row[0] for row in network.amplitudes]),
        synapses=synapses,
        input_synapses=inputs.reshape(-1).astype(np.int64),
        # `quantize` keeps sums of 8-bit weights within 16 bits.
        currents=np.zeros(0, np.int16 if narrow else np.int32),
    )
    in_order = [np.array_equal(order.reshape(-1), np.arange(order.size)) for order in orders]
    window = [int(np.bincount(part.runs[:, 1]).max(initial=0)) for part in parts]
    return Layout(tables, orders, in_order, window)


def _parts(network: FixedPointNetwork) -> list[_Part]:
    integers, found = network.network, []
    inputs = np.arange(prod(integers.input_shape)).reshape(integers.input_shape)
    senders, counts = {INPUT: inputs}, {INPUT: inputs.size}
    rows = zip(integers.layers, integers.shapes, network.amplitudes, strict=True)
    for index, (layer, shape, (gain,)) in enumerate(rows):
        source, size = layer.connection.source, _padded(prod(shape))
        runs = _of_layer(layer, senders[source], gain, size)
        kind = runs.kind
        if source == INPUT and kind == POOL:  # what inputs send is added by runs
            kind = SCATTER
        senders[index], counts[index] = runs.places.reshape(shape), size
        weights, order = runs.weights, senders[index]
        found.append(_Part(counts[source], size, kind, weights, _sorted(runs.runs), order))
    return found


def _ends(sizes: Sequence[int] | np.ndarray) -> np.ndarray:
    """Where parts of these sizes begin that follow each other, and the end."""
    return np.concatenate([[0], np.cumsum(sizes)])


def with_thresholds(layout: Layout, network: FixedPointNetwork) -> Layout:
    """The arrays with the thresholds of another network, whose weights are the same."""
    thresholds = _thresholds(network, layout.orders, layout.tables.first)
    return layout._replace(tables=layout.tables._replace(thresholds=thresholds))


def _thresholds(
    network: FixedPointNetwork, orders: Sequence[np.ndarray], first: Sequence[int] | np.ndarray
) -> np.ndarray:
    """The thresholds of all neurons; padding never spikes."""
    found = np.full(first[-1], _NEVER, np.int32)
    for order, start, values in zip(orders, first, network.thresholds):
        found[start + order] = np.broadcast_to(np.asarray(values), order.shape)
    return found


def _padded(size: int) -> int:
    """The size of a layer with padding, at least one neuron."""
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
    continues = (
        (before[:, 0] == after[:, 0])
        & (before[:, 1] + before[:, 3] == after[:, 1])
        & (before[:, 2] + before[:, 3] == after[:, 2])
    )
    begins = np.flatnonzero(np.concatenate([[True], ~continues]))
    merged = runs[begins].copy()
    merged[:, 3] = np.add.reduceat(runs[:, 3], begins)
    return merged


# -- Layers ----------------------------------------------------------------------------------------


def _of_layer(layer: Layer, senders: np.ndarray, gain: int, size: int) -> Runs:
    """The runs of a layer, and the places of its neurons in their own shape."""
    runs = None
    for operation in layer.operations:
        if not operation.permutes:
            runs = runs_of(operation, senders, gain, size)
        elif runs is None:
            senders = operation.permute(senders)
        else:
            runs = runs._replace(places=operation.permute(runs.places))
    if runs is None:  # each sender leads to the neuron in its place
        runs = _one_to_one(senders, np.full(senders.shape, gain))
    return runs


@singledispatch
def runs_of(operation: Operation, senders: np.ndarray, gain: int, size: int) -> Runs:
    """The runs of one operation. Register a function for each kind of operation.

    Args:
        operation: an operation that does not permute its inputs.
        senders: the number of each sender, in the shape of the inputs.
        gain: what a spike weighs, for an operation without weights.
        size: the number of neurons of the layer, with padding.
    """
    raise TypeError(f"the events do not compute {type(operation).__name__}.")


@runs_of.register
def _multiply(operation: Multiply, senders: np.ndarray, gain: int, size: int) -> Runs:
    del gain, size
    return _one_to_one(senders, np.broadcast_to(np.asarray(operation.factor), senders.shape))


def _one_to_one(senders: np.ndarray, weights: np.ndarray) -> Runs:
    number = np.arange(senders.size)
    runs = np.stack([senders.reshape(-1), number, number, np.ones_like(number)], 1)
    return Runs(SCATTER, weights.reshape(-1), runs, number.reshape(senders.shape))


@runs_of.register
def _dense(operation: Dense, senders: np.ndarray, gain: int, size: int) -> Runs:
    """Rows of weights, padded where there is one for the whole layer."""
    del gain
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
    return Runs(kind, kernel.reshape(-1), runs, places)


@runs_of.register
def _convolution(operation: Convolution, senders: np.ndarray, gain: int, size: int) -> Runs:
    """One run for each position in the kernel, all maps in it; neighbours are merged."""
    del gain
    numbers = operation.dimension_numbers
    spatial = len(numbers.lhs_spec) - 2
    shape = operation.output_shape(senders.shape)
    shape_out = tuple(shape[axis - 1] for axis in numbers.out_spec[2:])
    axes = [axis - 1 for axis in (*numbers.lhs_spec[2:], numbers.lhs_spec[1])]
    senders = senders.transpose(axes)  # [space, channels]
    maps, channels, *window = numbers.rhs_spec
    kernel = np.asarray(operation.kernel).transpose(*window, channels, maps)
    window_shape, per_group = kernel.shape[:spatial], kernel.shape[-2]
    count = kernel.shape[-1] // operation.groups
    # Turned around: neighbouring outputs of an input are reached by positions in falling order.
    turned = np.flip(kernel, tuple(range(spatial))).transpose(spatial, *range(spatial), spatial + 1)
    # [channels of a group and outer positions, inner positions and maps], then zeros for each row
    rows = turned.reshape(-1, turned.shape[-2] * turned.shape[-1])
    weights = np.pad(rows, ((0, 0), (0, _VECTOR - 1)))
    group, within = np.divmod(np.arange(senders.shape[-1]), per_group)
    found = []
    for position, inside, outputs in _positions(operation, senders.shape[:-1], shape_out):
        back = [size - 1 - at for size, at in zip(window_shape, position)]
        outer = np.ravel_multi_index([0, *back[:-1]], (1, *window_shape[:-1]))
        row = within * prod(window_shape[:-1]) + outer
        neuron = outputs[:, None] * kernel.shape[-1] + group * count
        weight = row * weights.shape[1] + back[-1] * kernel.shape[-1] + group * count
        run = [senders[inside], neuron, np.broadcast_to(weight, neuron.shape)]
        found.append(np.stack([*run, np.full_like(neuron, count)], -1).reshape(-1, 4))
    runs = _merged(np.concatenate([np.zeros((0, 4), np.int64), *found]))
    runs = _in_vectors(runs, rows.shape[1], weights.shape[1], size)
    # The places of the neurons, with the maps last, in the layout of the operation.
    places = np.arange(prod(shape_out) * kernel.shape[-1]).reshape(*shape_out, kernel.shape[-1])
    order = [axis - 1 for axis in (*numbers.out_spec[2:], numbers.out_spec[1])]
    return Runs(SCATTER, weights.reshape(-1), runs, places.transpose(np.argsort(order)))


def _positions(
    operation: Convolution, shape_in: Sequence[int], shape_out: Sequence[int]
) -> Iterator[tuple[tuple[int, ...], np.ndarray, np.ndarray]]:
    """For each position in the kernel the inputs that it reaches outputs from, and these, flat."""
    spatial = len(shape_in)
    kernel = [np.shape(operation.kernel)[axis] for axis in operation.dimension_numbers.rhs_spec[2:]]
    for position in product(*map(range, kernel)):
        where, inside = [], np.ones(shape_in, bool)
        for axis in range(spatial):
            at = np.arange(shape_in[axis]) * operation.input_dilation[axis]
            at = at + operation.padding[axis][0] - position[axis] * operation.kernel_dilation[axis]
            out, off = np.divmod(at, operation.strides[axis])
            good = (off == 0) & (out >= 0) & (out < shape_out[axis])
            apart = [-1 if a == axis else 1 for a in range(spatial)]
            inside = inside & good.reshape(apart)
            where.append(out.reshape(apart))
        if inside.any():
            outputs = [np.broadcast_to(w, shape_in)[inside] for w in where]
            yield position, inside, np.ravel_multi_index(outputs, tuple(shape_out))


def _in_vectors(runs: np.ndarray, width: int, stride: int, size: int) -> np.ndarray:
    """Runs that end where a row of weights does, extended through its zeros to whole vectors."""
    ends = runs[:, 2] % stride + runs[:, 3] == width
    whole = -(-runs[:, 3] // _VECTOR) * _VECTOR
    fits = runs[:, 1] + whole <= size
    runs[:, 3] = np.where(ends & fits & (runs[:, 3] > _VECTOR // 2), whole, runs[:, 3])
    return runs


@runs_of.register
def _pooling(operation: AveragePooling, senders: np.ndarray, gain: int, size: int) -> Runs:
    """Each sender of a window leads to its neuron, with the weight of the layer."""
    del size
    shape_out = operation.output_shape(senders.shape)
    found = []
    for position in product(*map(range, operation.window)):
        # The input that each window has at this place, if there is one.
        positions = [
            np.arange(windows) * stride + offset - low
            for windows, stride, offset, (low, _) in zip(
                shape_out, operation.strides, position, operation.padding
            )
        ]
        grid = np.meshgrid(*positions, indexing="ij")
        inside = np.all([(p >= 0) & (p < end) for p, end in zip(grid, senders.shape)], axis=0)
        who = senders[tuple(p[inside] for p in grid)]
        neuron = np.flatnonzero(inside.reshape(-1))
        found.append(np.stack([who, neuron, 0 * who, 0 * who + 1], 1))
    runs = np.concatenate(found)
    alone = len(np.unique(runs[:, 0])) == len(runs)
    places = np.arange(prod(shape_out)).reshape(shape_out)
    return Runs(POOL if alone else SCATTER, np.array([gain]), runs, places)
