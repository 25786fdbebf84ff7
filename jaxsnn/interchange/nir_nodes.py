"""Linear operations as nodes of the Neuromorphic Intermediate Representation (NIR).

NIR keeps channels first and has no reshape but `Flatten`. Here reshapes and transposes become no
nodes: a chain of nodes knows the place of each of our numbers among those of NIR, and weights are
permuted where they are written.

All importers of NIR know `Affine` and `Conv2d` without groups; few know `Linear`, `Scale` and
groups. So products are always of the first two kinds, with a bias of 0 where there is none.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import singledispatch
from itertools import permutations
from math import prod
from typing import Any, Literal, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from jaxsnn.network import (
    AveragePooling,
    Connection,
    Convolution,
    Dense,
    Gain,
    Multiply,
    Operation,
    Reshape,
    Select,
    Transpose,
)
from jaxsnn.support.arrays import Shape

Pooling = Literal["average", "sum"]

# Numbers in the matrix of operations that NIR does not have, at most: 256 MiB.
MOST_NUMBERS = 1 << 26


class Node(NamedTuple):
    """A node of NIR before it is made.

    Attributes:
        kind: the name of its class in NIR.
        fields: the arguments of the class.
        inputs: the shape of its input.
        outputs: the shape of its output.
    """

    kind: str
    fields: dict[str, Any]
    inputs: Shape
    outputs: Shape

    @property
    def weighted(self) -> bool:
        """Whether the node is a product, with weights by output channel and a bias."""
        return "weight" in self.fields

    def times(self, channels: np.ndarray) -> Node:
        """A product times a factor for each of its output channels."""
        weight = self.fields["weight"]
        factor = channels.reshape(-1, *[1] * (weight.ndim - 1))
        return self._replace(fields={**self.fields, "weight": weight * factor})


@dataclass(frozen=True, eq=False)
class Chain:
    """Nodes, one after the other, and what they return.

    Attributes:
        nodes: the nodes.
        shape: the shape of the last node's output, channels first.
        order: for each of our numbers, in our own shape, its place among those of NIR in row-major
            order.
        pooling: whether averages are written as such, or sums in their place.
        factor: a factor of the output that is in no node yet; the next product has it.
    """

    nodes: tuple[Node, ...]
    shape: Shape
    order: np.ndarray
    pooling: Pooling = "average"
    factor: float = 1.0

    @property
    def is_flat(self) -> bool:
        """Whether NIR has the numbers in one axis, in our order."""
        return len(self.shape) == 1 and np.array_equal(self.order.ravel(), np.arange(*self.shape))

    def same_form(self, other: Chain) -> bool:
        """Whether the numbers have the same places in both."""
        return self.shape == other.shape and np.array_equal(self.order, other.order)

    def in_nir(self, values: Any) -> np.ndarray:
        """Values that broadcast to ours in NIR's shape and order."""
        values = np.asarray(values)
        found = np.empty(self.order.size, values.dtype)
        found[self.order.ravel()] = np.broadcast_to(values, self.order.shape).ravel()
        return found.reshape(self.shape)

    def then(self, node: Node, order: np.ndarray) -> Chain:
        """The chain with one more node, whose output has this order."""
        factor = self.factor
        if node.weighted:
            node, factor = node.times(np.full(len(node.fields["weight"]), factor)), 1.0
        nodes = (*self.nodes, node)
        return replace(self, nodes=nodes, shape=node.outputs, order=order, factor=factor)

    def flattened(self) -> Chain:
        """The chain with one axis in NIR; the batch is no axis there, so flattening starts at 0."""
        if len(self.shape) == 1:
            return self
        fields = {"input_type": {"input": np.array(self.shape)}, "start_dim": 0}
        return self.then(Node("Flatten", fields, self.shape, (prod(self.shape),)), self.order)


def start(shape: Shape, channels: int, pooling: Pooling) -> Chain:
    """An input of our shape, whose channels lie along an axis."""
    space = np.delete(shape, channels)
    order = np.arange(prod(shape)).reshape(shape[channels], *space)
    return Chain((), order.shape, np.moveaxis(order, 0, channels), pooling)


def flat(shape: Shape, pooling: Pooling) -> Chain:
    """Numbers of our shape in one axis of NIR."""
    return Chain((), (prod(shape),), np.arange(prod(shape)).reshape(shape), pooling)


def chain_of(connection: Connection, source: Chain) -> Chain | None:
    """A connection as nodes, or None where NIR has no nodes for its operations.

    Args:
        connection: the connection.
        source: what it reads.
    """
    chain: Chain | None = replace(source, nodes=())
    for operation in connection.operations:
        chain = translated(operation, chain)
        if chain is None:
            return None
    return settled(chain)


def as_matrix(connection: Connection, source: Chain, name: str) -> Chain:
    """A connection as the product with its matrix, in which any operation can be written.

    Args:
        connection: the connection.
        source: what it reads.
        name: what messages call the layer.

    Raises:
        ValueError: the matrix would be too large.
    """
    ours, outputs = source.order.shape, source.order.shape
    largest = inputs = prod(ours)
    for operation in connection.operations:
        outputs = operation.output_shape(outputs)
        largest = max(largest, prod(outputs))
    if inputs * largest > MOST_NUMBERS:
        raise ValueError(
            f"{name}: NIR has no nodes for {connection}, and the matrix that stands for any "
            f"operation would have {inputs} x {prod(outputs)} weights here. Write the model with "
            "convolutions, average poolings of whole windows, channels last, and one flatten."
        )
    dtype = jnp.result_type(float, *jax.tree.leaves(connection))
    units = jnp.eye(inputs, dtype=dtype).reshape(inputs, *ours)
    rows = np.asarray(jax.jit(lambda part, x: part(x))(connection, units)).reshape(inputs, -1)
    chain = replace(source, nodes=()).flattened()
    weight = np.empty(rows.T.shape, rows.dtype)
    weight[:, source.order.ravel()] = rows.T
    return chain.then(affine(weight), flat(outputs, source.pooling).order)


# -- Products --------------------------------------------------------------------------------------


def affine(weight: np.ndarray) -> Node:
    """The product with a matrix [outputs, inputs]."""
    fields = {"weight": weight, "bias": np.zeros(len(weight), weight.dtype)}
    return Node("Affine", fields, weight.shape[1:], weight.shape[:1])


def convolved(
    kernel: np.ndarray,
    inputs: Shape,
    outputs: Shape,
    strides: Shape,
    padding: tuple[tuple[int, int], ...],
    dilation: Shape,
    groups: int = 1,
) -> Node:
    """A convolution along one or two axes, with a kernel [outputs, inputs of a group, window]."""
    kernel, sides, dilation = _with_same_sides(kernel, padding, dilation)
    settings = {"stride": tuple(strides), "padding": sides, "dilation": dilation}
    space = inputs[1:]
    if len(space) == 1:
        settings = {key: values[0] for key, values in settings.items()}
    fields = {
        "input_shape": space[0] if len(space) == 1 else space,
        "weight": kernel,
        "bias": np.zeros(len(kernel), kernel.dtype),
        "groups": groups,
        **settings,
    }
    return Node(f"Conv{len(space)}d", fields, inputs, outputs)


def _with_same_sides(
    kernel: np.ndarray, padding: tuple[tuple[int, int], ...], dilation: Shape
) -> tuple[np.ndarray, Shape, Shape]:
    """A kernel with zeros around it where padding differs between sides, or crops.

    With p = max(low, high, 0) zeros of padding on either side, p - low zeros in front of the kernel
    and p - high behind it, each window sees what it saw, for any stride.
    """
    sides, steps = [], []
    for axis, ((low, high), step) in enumerate(zip(padding, dilation), 2):
        side = max(low, high, 0)
        if low != high or low < 0:
            size = list(kernel.shape)
            size[axis] = (size[axis] - 1) * step + 1
            wide = np.zeros(size, kernel.dtype)
            np.moveaxis(wide, axis, 0)[::step] = np.moveaxis(kernel, axis, 0)
            around = [(0, 0)] * kernel.ndim
            around[axis] = (side - low, side - high)
            kernel, step = np.pad(wide, around), 1
        sides.append(side)
        steps.append(step)
    return kernel, tuple(sides), tuple(steps)


def pointwise(weight: np.ndarray, inputs: Shape) -> Node:
    """The product of the channels at each place with a matrix [outputs, inputs]."""
    space = inputs[1:]
    ones, none = (1,) * len(space), ((0, 0),) * len(space)
    kernel = weight.reshape(*weight.shape, *ones)
    return convolved(kernel, inputs, (len(weight), *space), ones, none, ones)


def by_channel(values: np.ndarray) -> np.ndarray | None:
    """The value of each channel, of values in NIR's shape; None where they differ within one."""
    channels = values.reshape(len(values), -1)
    return channels[:, 0] if np.all(channels == channels[:, :1]) else None


def scaled(chain: Chain, factor: Any) -> Chain:
    """The chain times a factor that broadcasts to our shape, in its weights if it can be."""
    if np.size(factor) == 1:
        return replace(chain, factor=chain.factor * float(np.reshape(factor, ())))
    values = chain.in_nir(factor)
    channels = by_channel(values)
    if channels is None or not chain.nodes or not chain.nodes[-1].weighted:
        return times(chain, values)
    *before, last = chain.nodes
    return replace(chain, nodes=(*before, last.times(channels)))


def times(chain: Chain, values: np.ndarray) -> Chain:
    """The chain and one more node, that multiplies by values in NIR's shape."""
    channels = by_channel(values)
    if channels is not None and len(chain.shape) in (2, 3):
        return chain.then(pointwise(np.diag(channels), chain.shape), chain.order)
    scale = {"scale": values * chain.factor}
    chain = replace(chain, factor=1.0)
    return chain.then(Node("Scale", scale, chain.shape, chain.shape), chain.order)


def settled(chain: Chain) -> Chain:
    """The chain with its factor in its last product, if there is one."""
    at = max((n for n, node in enumerate(chain.nodes) if node.weighted), default=None)
    if at is None or chain.factor == 1:
        return chain
    nodes = list(chain.nodes)
    nodes[at] = nodes[at].times(np.full(len(nodes[at].fields["weight"]), chain.factor))
    return replace(chain, nodes=tuple(nodes), factor=1.0)


def with_bias(chain: Chain, bias: np.ndarray) -> Chain | None:
    """The chain with a bias in NIR's shape in its last node; None where it does not fit there."""
    channels = by_channel(bias)
    if channels is None or not chain.nodes or not chain.nodes[-1].weighted:
        return None
    *before, last = chain.nodes
    node = last._replace(fields={**last.fields, "bias": channels})
    return replace(chain, nodes=(*before, node))


# -- Operations ------------------------------------------------------------------------------------


@singledispatch
def translated(operation: Operation, chain: Chain) -> Chain | None:
    """The chain with an operation; None where NIR has no nodes for it in this order.

    Register a function for each kind.
    """
    return None


@translated.register(Reshape)
@translated.register(Transpose)
def _(operation: Reshape | Transpose, chain: Chain) -> Chain:
    return replace(chain, order=operation(cast(Any, chain.order[None]))[0])


@translated.register
def _(operation: Dense, chain: Chain) -> Chain | None:
    kernel = np.asarray(operation.kernel)
    if chain.order.ndim == 1:
        weight = np.empty(kernel.T.shape, kernel.dtype)
        weight[:, chain.order] = kernel.T
        return chain.flattened().then(affine(weight), np.arange(len(weight)))
    axes = (chain.order.ndim - 1, *range(chain.order.ndim - 1))
    if chain.order.ndim > 3 or not _lies(chain, axes):
        return None
    node = pointwise(kernel.T, chain.shape)
    return chain.then(node, _order(node.outputs, axes))


@translated.register
def _(operation: Convolution, chain: Chain) -> Chain | None:
    image, rhs, out = operation.dimension_numbers
    axes = tuple(axis - 1 for axis in image[1:])
    plain = all(step == 1 for step in operation.input_dilation)
    if not plain or len(axes) not in (2, 3) or not _lies(chain, axes):
        return None
    back = tuple(axis - 1 for axis in out[1:])
    shape = operation.output_shape(chain.order.shape)
    node = convolved(
        np.asarray(operation.kernel).transpose(rhs),
        chain.shape,
        tuple(shape[axis] for axis in back),
        operation.strides,
        operation.padding,
        operation.kernel_dilation,
        operation.groups,
    )
    return chain.then(node, _order(node.outputs, back))


@translated.register
def _(operation: Multiply, chain: Chain) -> Chain:
    return scaled(chain, operation.factor)


@translated.register
def _(operation: Gain, chain: Chain) -> Chain:
    return scaled(chain, operation.factor)


@translated.register
def _(operation: AveragePooling, chain: Chain) -> Chain | None:
    """Averages of whole windows, times a factor where they divide by less."""
    fits = (
        axes
        for axes in permutations(range(chain.order.ndim))
        if operation.window[axes[0]] == 1 == operation.strides[axes[0]] and _lies(chain, axes)
    )
    axes, ours = next(fits, None), chain.order.shape
    if axes is None or len(axes) not in (2, 3):
        return None
    shape = operation.output_shape(ours)
    node = _pooled(operation, chain, axes, tuple(shape[axis] for axis in axes))
    chain = chain.then(node, _order(node.outputs, axes))
    if chain.pooling == "sum":
        chain = scaled(chain, 1 / prod(operation.window))
    if operation.count_padding or not np.any(operation.padding):
        return chain
    return times(chain, chain.in_nir(prod(operation.window) / operation.divisors(ours)))


def _pooled(operation: AveragePooling, chain: Chain, axes: Shape, outputs: Shape) -> Node:
    """A pooling of whole windows; with padding, of which NIR's say nothing, a convolution."""
    window, strides = (
        tuple(values[axis] for axis in axes[1:]) for values in (operation.window, operation.strides)
    )
    padding = tuple(operation.padding[axis] for axis in axes[1:])
    if len(window) == 2 and not np.any(padding):
        kind = "AvgPool2d" if chain.pooling == "average" else "SumPool2d"
        sizes = {"kernel_size": window, "stride": strides, "padding": (0, 0)}
        fields = {name: np.array(size) for name, size in sizes.items()}
        return Node(kind, fields, chain.shape, outputs)
    weight = 1 / prod(window) if chain.pooling == "average" else 1.0
    each = np.eye(chain.shape[0]) * weight
    kernel = np.tile(each.reshape(*each.shape, *[1] * len(window)), (1, 1, *window))
    return convolved(kernel, chain.shape, outputs, strides, padding, (1,) * len(window))


@translated.register
def _(operation: Select, chain: Chain) -> Chain | None:
    """A choice of channels, the same at each place, such as a concatenation of zeros and channels.

    Others move numbers between places, for which there is the matrix alone.
    """
    places, rank = operation.places.values, chain.order.ndim
    axes = (rank - 1, *range(rank - 1))
    same_space = places.shape[:-1] == chain.order.shape[:-1]
    if rank not in (2, 3) or places.ndim != rank or not same_space or not _lies(chain, axes):
        return None
    channels = chain.order.shape[-1]
    chosen = np.where(places < 0, -1, places % channels).reshape(-1, places.shape[-1])[0]
    at = np.arange(prod(places.shape[:-1])).reshape(*places.shape[:-1], 1) * channels
    if not np.array_equal(places, np.where(chosen < 0, -1, at + chosen)):
        return None
    node = pointwise((chosen[:, None] == np.arange(channels)) * 1.0, chain.shape)
    return chain.then(node, _order(node.outputs, axes))


def _lies(chain: Chain, axes: Shape) -> bool:
    """Whether NIR has our numbers with the axes in this order, channels first."""
    placed = chain.order.transpose(axes)
    return placed.shape == chain.shape and np.array_equal(placed.ravel(), np.arange(placed.size))


def _order(shape: Shape, axes: Shape) -> np.ndarray:
    """The order of numbers of a shape of NIR, of which ours has the axes in these places."""
    return np.arange(prod(shape)).reshape(shape).transpose(np.argsort(axes))
