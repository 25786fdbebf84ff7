"""From a connection to runs of weights: whom the spikes of each sender reach, and with what.

A neuron that spikes adds its weights to *runs* of neurons that follow each other in memory, as the
weights do. In a dense layer that is one run for all neurons. In a convolution, whose neurons are
kept with the maps last and whose kernel is turned around, it is one for each row of the kernel.

A connection is at most one product, dense or a convolution, between moves: operations without
weights, which are sparse matrices here. Moves that do no more than rename senders or neurons leave
the runs of the product as they are; others multiply it out, so that each synapse has its own
weight.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import singledispatch
from itertools import product
from math import prod
from typing import Any, NamedTuple

import jax
import numpy as np
from scipy import sparse

from jaxsnn.engines.events.kinds import DENSE, SCATTER, TARGET
from jaxsnn.network import (
    AveragePooling,
    Connection,
    Convolution,
    Dense,
    Gain,
    MaxPooling,
    Multiply,
    Operation,
    Reshape,
    Select,
    Transpose,
)
from jaxsnn.support.arrays import Shape, cached

# Synapses of a connection that would each need a weight of their own, at most.
_MOST_SYNAPSES = 1 << 25


class UnsupportedError(ValueError):
    """Why the events do not compute something, as the end of a sentence."""


class Runs(NamedTuple):
    """The runs of one connection, and its weights.

    Attributes:
        kind: `DENSE`, where each sender has one weight for each neuron; `TARGET`, where it leads
            to one neuron at most; or `SCATTER`.
        weights: of `DENSE` [senders, neurons], else flat.
        runs: for each run the sender, the first neuron, the first weight and the length [R, 4];
            None for `DENSE`.
        places: the place of each neuron among those that runs speak of, in the layer's own shape.
        width: of a convolution the weights in a row of the kernel, beyond which come zeros.
        stride: from one row to the next.
    """

    kind: int
    weights: np.ndarray
    runs: np.ndarray | None
    places: np.ndarray
    width: int = 0
    stride: int = 0


def runs_of(connection: Connection, shape: Shape, amplitude: Any, exact: bool) -> Runs:
    """The runs of a connection.

    Args:
        connection: the connection.
        shape: shape of its source, whose neurons are numbered in row-major order.
        amplitude: what a spike weighs, a number or an array that broadcasts to the source.
        exact: whether all are integers, where average poolings stand for sums.

    Raises:
        UnsupportedError: an operation that is not known here, or too many weights.
    """
    before, main, after = _around_the_product(connection)
    sent = np.broadcast_to(1 if amplitude is None else amplitude, shape).reshape(-1)
    into = _diagonal(sent)
    into, inputs = _moved(into, before, shape, exact)
    if main is None:
        return _of_matrix(into, inputs)
    outputs = main.output_shape(inputs)
    out = _diagonal(np.ones(prod(outputs), np.int64))
    out, neurons = _moved(out, after, outputs, exact)
    if isinstance(main, Dense) and prod(inputs) == len(main.kernel):
        return _of_dense(main, into, out, neurons)
    base = cached(main, f"runs of {inputs}", lambda operation: _runs_of_product(operation, inputs))
    renamed = _renamed(main, base, into, out, inputs, neurons)
    if renamed is not None:
        return renamed
    return _of_matrix(out @ _matrix_of_runs(main, base, prod(inputs)) @ into, neurons)


def _around_the_product(
    connection: Connection,
) -> tuple[Sequence[Operation], Any, Sequence[Operation]]:
    """The operations before the product of a connection, it or None, and those after it."""
    operations = connection.operations
    found = [n for n, part in enumerate(operations) if isinstance(part, Dense | Convolution)]
    if not found:
        return operations, None, ()
    if len(found) > 1:
        raise UnsupportedError(f"{connection} has two products and no neurons between them")
    (at,) = found
    return operations[:at], operations[at], operations[at + 1 :]


def _moved(
    matrix: Any, operations: Sequence[Operation], shape: Shape, exact: bool
) -> tuple[Any, Shape]:
    """A matrix multiplied by those of operations, and the shape of their output."""
    for operation in operations:
        if matrix_of.dispatch(type(operation)) is matrix_of.dispatch(object):
            raise UnsupportedError(f"it does not compute {type(operation).__name__}")
        matrix = matrix_of(operation, shape, exact) @ matrix
        shape = operation.output_shape(shape)
    return matrix, shape


def _of_matrix(matrix: Any, shape: Shape) -> Runs:
    """A matrix [neurons, senders], of which each weight is kept."""
    _check_synapses(matrix.nnz)
    columns = sparse.csc_array(matrix)
    columns.sort_indices()
    runs = _by_column(columns, np.arange(columns.nnz))
    kind = TARGET if np.diff(columns.indptr).max(initial=0) <= 1 else SCATTER
    places = np.arange(prod(shape)).reshape(shape)
    return Runs(kind, columns.data, runs if kind == TARGET else merged(runs), places)


def _by_column(columns: Any, weights: np.ndarray) -> np.ndarray:
    """A run of length 1 for each entry of a matrix [neurons, senders], with its weight."""
    senders = np.repeat(np.arange(columns.shape[1]), np.diff(columns.indptr))
    return np.stack([senders, columns.indices, weights, np.ones_like(weights)], 1)


def _matrix_of_runs(operation: Operation, base: Runs, senders: int) -> Any:
    """The matrix [neurons, senders] of a product, with the neurons in their own order."""
    runs, order = singles(_required(base.runs)), np.argsort(base.places.reshape(-1))
    (weights,) = map(np.asarray, jax.tree.leaves(operation))
    data = _flat(operation, weights)[runs[:, 2]]
    where = order[runs[:, 1]], runs[:, 0]
    exact = np.issubdtype(data.dtype, np.integer)
    data = data.astype(np.int64 if exact else np.float64)
    return sparse.coo_array((data, where), (base.places.size, senders)).tocsr()


def _required(runs: np.ndarray | None) -> np.ndarray:
    assert runs is not None
    return runs


# -- Moves -----------------------------------------------------------------------------------------


@singledispatch
def matrix_of(operation: Operation, shape: Shape, exact: bool) -> Any:
    """The matrix [outputs, inputs] of an operation. Register a function for each kind.

    Args:
        operation: an operation that is no product.
        shape: shape of its inputs.
        exact: whether all are integers, where average poolings stand for sums.
    """
    raise TypeError(f"the events do not compute {type(operation).__name__}.")


def _diagonal(values: np.ndarray) -> Any:
    size = len(values)
    return sparse.csr_array((values, np.arange(size), np.arange(size + 1)), (size, size))


def _selection(places: np.ndarray, inputs: int) -> Any:
    """The matrix that takes the input of each place; -1 is none."""
    flat = places.reshape(-1)
    rows = np.flatnonzero(flat >= 0)
    ones = np.ones(len(rows), np.int64)
    return sparse.coo_array((ones, (rows, flat[rows])), (flat.size, inputs)).tocsr()


@matrix_of.register(Reshape)
@matrix_of.register(Transpose)
def _(operation: Reshape | Transpose, shape: Shape, exact: bool) -> Any:
    return _selection(operation.permute(np.arange(prod(shape)).reshape(shape)), prod(shape))


@matrix_of.register
def _(operation: Select, shape: Shape, exact: bool) -> Any:
    return _selection(operation.places.values, prod(shape))


@matrix_of.register(Gain)
@matrix_of.register(Multiply)
def _(operation: Gain | Multiply, shape: Shape, exact: bool) -> Any:
    factors = np.broadcast_to(np.asarray(operation.factor), shape).reshape(-1)
    return _diagonal(factors)


@matrix_of.register
def _(operation: AveragePooling, shape: Shape, exact: bool) -> Any:
    matrix = _windows_of(operation, shape)
    if exact:
        return matrix
    divisors = np.asarray(operation.divisors(shape)).reshape(-1)
    return _diagonal(1 / divisors) @ matrix


@matrix_of.register
def _(operation: MaxPooling, shape: Shape, exact: bool) -> Any:
    return _windows_of(operation, shape)


def windows_of(connection: Connection, shape: Shape) -> Runs:
    """The windows of a max pooling that each sender is in, as runs without weights."""
    senders = _diagonal(np.ones(prod(shape), np.int64))
    matrix, shape_out = _moved(senders, connection.operations, shape, True)
    columns = sparse.csc_array(matrix)
    columns.sort_indices()
    runs = merged(_by_column(columns, np.zeros(columns.nnz, np.int64)))
    return Runs(SCATTER, np.zeros(0), runs, np.arange(prod(shape_out)).reshape(shape_out))


def _windows_of(operation: AveragePooling | MaxPooling, shape: Shape) -> Any:
    """The matrix [windows, inputs] with 1 for each input of a window."""
    shape_out = operation.output_shape(shape)
    numbers, found = np.arange(prod(shape)).reshape(shape), []
    for position in product(*map(range, operation.window)):
        # The input that each window has at this place, if there is one.
        positions = [
            np.arange(windows) * stride + offset - low
            for windows, stride, offset, (low, _) in zip(
                shape_out, operation.strides, position, operation.padding
            )
        ]
        grid = np.meshgrid(*positions, indexing="ij")
        inside = np.all([(p >= 0) & (p < end) for p, end in zip(grid, shape)], axis=0)
        inputs = numbers[tuple(p[inside] for p in grid)]
        found.append(np.stack([np.flatnonzero(inside.reshape(-1)), inputs]))
    where = np.concatenate(found, 1)
    ones = np.ones(where.shape[1], np.int64)
    return sparse.coo_array((ones, tuple(where)), (prod(shape_out), prod(shape))).tocsr()


# -- Products --------------------------------------------------------------------------------------


def _of_dense(operation: Dense, into: Any, out: Any, shape: Shape) -> Runs:
    kernel = np.asarray(operation.kernel)
    weights = kernel
    if np.issubdtype(kernel.dtype, np.integer):
        into, out, weights = into.astype(np.int64), out.astype(np.int64), kernel.astype(np.int64)
    if not _is_identity(into):
        weights = into.T @ weights
    if not _is_identity(out):
        weights = (out @ weights.T).T
    return Runs(DENSE, np.asarray(weights), None, np.arange(prod(shape)).reshape(shape))


def _is_identity(matrix: Any) -> bool:
    """Whether a matrix does nothing."""
    return _keeps_order(matrix) and bool(np.all(matrix.data == 1))


def _renamed(
    operation: Operation, base: Runs, into: Any, out: Any, shape: Shape, neurons: Shape
) -> Runs | None:
    """The runs of a product with other senders and neurons, where its weights remain shared.

    They do where all senders of an input have one factor, and all inputs of a channel; and where
    each output is one neuron, with one factor for each channel. Otherwise None.
    """
    (weights,) = map(np.asarray, jax.tree.leaves(operation))
    factors, gains = _one_in_each_row(into), _one_in_each_row(out)
    each = np.diff(out.indptr)
    renames = np.array_equal(np.sort(out.indices), np.arange(out.shape[1])) and np.all(each == 1)
    if factors is None or gains is None or not renames:
        return None
    if np.any(factors != 1):
        axis = operation.channels.inputs
        rows = np.moveaxis(factors.reshape(shape), axis, -1).reshape(-1, shape[axis])
        spread = operation.over_inputs(rows[0]) if np.all(rows == rows[0]) else None
        if spread is None:
            return None
        weights = weights * spread
    if np.any(gains != 1):
        along, axis = operation.channels.weights_out, operation.channels.outputs
        by_output = np.empty_like(gains)
        by_output[out.indices] = gains
        values = np.moveaxis(by_output.reshape(base.places.shape), axis, -1)
        values = values.reshape(-1, base.places.shape[axis])
        if along is None or not np.all(values == values[0]):
            return None
        weights = weights * np.expand_dims(
            values[0], [a for a in range(weights.ndim) if a != along % weights.ndim]
        )
    runs = _required(base.runs)
    if not _keeps_order(into):
        runs = _with_senders(runs, into)
    places = base.places.reshape(-1)[out.indices].reshape(neurons)
    return base._replace(weights=_flat(operation, weights), runs=runs, places=places)


def _keeps_order(matrix: Any) -> bool:
    """Whether each input is the sender of the same number."""
    rows, columns = matrix.shape
    return rows == columns == matrix.nnz and np.array_equal(matrix.indices, np.arange(rows))


def _one_in_each_row(matrix: Any) -> np.ndarray | None:
    """The only value of each row of a matrix, 1 where there is none; None if rows have several."""
    counts = np.diff(matrix.indptr)
    if np.all(counts == 1):
        return matrix.data
    found = np.ones(matrix.shape[0], matrix.dtype)
    full = counts > 0
    found[full] = matrix.data[matrix.indptr[:-1][full]]
    return found if np.array_equal(np.repeat(found, counts), matrix.data) else None


def _with_senders(runs: np.ndarray, into: Any) -> np.ndarray:
    """Runs of inputs as those of the senders that lead to them, each of which gets a copy."""
    by_input = runs[np.argsort(runs[:, 0], kind="stable")]
    starts = np.searchsorted(by_input[:, 0], np.arange(into.shape[0] + 1))
    inputs = np.repeat(np.arange(into.shape[0]), np.diff(into.indptr))
    counts = np.diff(starts)[inputs]
    ends = np.cumsum(counts)
    within = np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - counts, counts)
    copies = by_input[np.repeat(starts[:-1][inputs], counts) + within].copy()
    copies[:, 0] = np.repeat(into.indices, counts)
    return copies


@singledispatch
def _runs_of_product(operation: Operation, shape: Shape) -> Runs:
    """The runs of a dense product of parts of the inputs, or a convolution, of weights of 1."""
    raise TypeError(f"{operation} is no product.")


@_runs_of_product.register
def _(operation: Dense, shape: Shape) -> Runs:
    inputs, outputs = operation.kernel.shape
    senders = np.arange(prod(shape)).reshape(-1, inputs)
    row = np.broadcast_to(np.arange(inputs), senders.shape)
    neuron = np.broadcast_to(np.arange(len(senders))[:, None] * outputs, senders.shape)
    lengths = np.full(senders.size, outputs)
    runs = [senders.reshape(-1), neuron.reshape(-1), row.reshape(-1) * outputs, lengths]
    places = np.arange(len(senders) * outputs).reshape(*shape[:-1], outputs)
    return Runs(SCATTER, np.zeros(0), np.stack(runs, 1), places)


# Zeros after each row of a kernel, through which runs are extended to whole vectors.
_VECTOR = 32


@_runs_of_product.register
def _(operation: Convolution, shape: Shape) -> Runs:
    """One run for each position in the kernel, all maps in it; neighbours are merged."""
    numbers = operation.dimension_numbers
    shape_of_outputs = operation.output_shape(shape)
    shape_out = tuple(shape_of_outputs[axis - 1] for axis in numbers.out_spec[2:])
    axes = [axis - 1 for axis in (*numbers.lhs_spec[2:], numbers.lhs_spec[1])]
    senders = np.arange(prod(shape)).reshape(shape).transpose(axes)  # [space, channels]
    maps, channels, *window = (np.shape(operation.kernel)[axis] for axis in numbers.rhs_spec)
    count, width = maps // operation.groups, window[-1] * maps
    stride = width + _VECTOR - 1
    group, within = np.divmod(np.arange(senders.shape[-1]), channels)
    found = []
    for position, inside, outputs in _positions(operation, senders.shape[:-1], shape_out):
        back = [size - 1 - at for size, at in zip(window, position)]
        outer = np.ravel_multi_index([0, *back[:-1]], (1, *window[:-1]))
        row = within * prod(window[:-1]) + outer
        neuron = outputs[:, None] * maps + group * count
        weight = row * stride + back[-1] * maps + group * count
        run = [senders[inside], neuron, np.broadcast_to(weight, neuron.shape)]
        found.append(np.stack([*run, np.full_like(neuron, count)], -1).reshape(-1, 4))
    runs = merged(np.concatenate([np.zeros((0, 4), np.int64), *found]))
    # The places of the neurons, with the maps last, in the layout of the operation.
    places = np.arange(prod(shape_out) * maps).reshape(*shape_out, maps)
    order = [axis - 1 for axis in (*numbers.out_spec[2:], numbers.out_spec[1])]
    return Runs(SCATTER, np.zeros(0), runs, places.transpose(np.argsort(order)), width, stride)


@singledispatch
def _flat(operation: Operation, weights: np.ndarray) -> np.ndarray:
    """Weights like those of a product, in the order that its runs speak of."""
    raise TypeError(f"{operation} is no product.")


@_flat.register
def _(operation: Dense, weights: np.ndarray) -> np.ndarray:
    return weights.reshape(-1)


@_flat.register
def _(operation: Convolution, weights: np.ndarray) -> np.ndarray:
    """[channels of a group and outer positions, inner positions and maps], then zeros."""
    maps, channels, *window = operation.dimension_numbers.rhs_spec
    spatial = len(window)
    kernel = weights.transpose(*window, channels, maps)
    # Turned around: neighbouring outputs of an input are reached by positions in falling order.
    turned = np.flip(kernel, tuple(range(spatial))).transpose(spatial, *range(spatial), spatial + 1)
    rows = turned.reshape(-1, turned.shape[-2] * turned.shape[-1])
    return np.pad(rows, ((0, 0), (0, _VECTOR - 1))).reshape(-1)


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


# -- Runs ------------------------------------------------------------------------------------------


def ordered(runs: np.ndarray) -> np.ndarray:
    """Runs by sender and neuron."""
    return runs[np.lexsort((runs[:, 1], runs[:, 0]))]


def merged(runs: np.ndarray) -> np.ndarray:
    """Runs that continue each other, of one sender, made one."""
    if len(runs) == 0:
        return runs
    runs = ordered(runs)
    before, after = runs[:-1], runs[1:]
    continues = (
        (before[:, 0] == after[:, 0])
        & (before[:, 1] + before[:, 3] == after[:, 1])
        & (before[:, 2] + before[:, 3] == after[:, 2])
    )
    begins = np.flatnonzero(np.concatenate([[True], ~continues]))
    found = runs[begins].copy()
    found[:, 3] = np.add.reduceat(runs[:, 3], begins)
    return found


def _check_synapses(number: int) -> None:
    if number > _MOST_SYNAPSES:
        raise UnsupportedError(f"{number:,} synapses would each have a weight of their own")


def singles(runs: np.ndarray) -> np.ndarray:
    """Runs of length 1 in the place of each run.

    Raises:
        UnsupportedError: too many.
    """
    lengths = runs[:, 3]
    _check_synapses(int(lengths.sum()))
    found = runs.repeat(lengths, 0)
    within = np.arange(len(found)) - (np.cumsum(lengths) - lengths).repeat(lengths)
    found[:, 1] += within
    found[:, 2] += within
    found[:, 3] = 1
    return found


def in_vectors(found: Runs, size: int) -> np.ndarray:
    """Runs that end where a row of a kernel does, extended through its zeros to whole vectors.

    Args:
        found: the runs of a connection.
        size: the number of neurons, with padding.
    """
    runs = _required(found.runs)
    if not found.width:
        return runs
    ends = runs[:, 2] % found.stride + runs[:, 3] == found.width
    whole = -(-runs[:, 3] // _VECTOR) * _VECTOR
    fits = runs[:, 1] + whole <= size
    lengths = np.where(ends & fits & (runs[:, 3] > _VECTOR // 2), whole, runs[:, 3])
    return np.concatenate([runs[:, :3], lengths[:, None]], 1)
