"""Handlers of the primitives that sum over inputs: products with weights, and poolings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import Any, cast

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from jaxsnn.network import AveragePooling, Convolution, Dense, MaxPooling, Shape
from jaxsnn.reading.errors import TWO_SIGNALS, ReadingError
from jaxsnn.reading.maxima import max_pooled
from jaxsnn.reading.moves import moved
from jaxsnn.reading.signals import Factors, Maximum, Padding, Pairs, Signal, Sum, WindowSum
from jaxsnn.reading.simplify import never_negative, with_one_product
from jaxsnn.reading.tracing import opened
from jaxsnn.support.arrays import as_jax

# -- Dense layers ----------------------------------------------------------------------------------


def dot_general(params: dict, lhs: Any, rhs: Any) -> Signal:
    """The product of the signal with constant weights, on either side.

    As for jnp.einsum("bijk,jiyz->bkyz", signal, weights):

        signal   [batch, i, j, k]  →  [batch, k, i, j]  →  [batch, k, i·j]
        weights  [j, i, y, z]      →  [i, j, y, z]      →  [i·j, y·z]
        product  [batch, k, y·z]   →  [batch, k, y, z]

    The axes *contracted* are i and j, those left of the signal b and k, and the *new* ones y and z.
    """
    (contract, weights_contract), (batch, _) = params["dimension_numbers"]
    signal, weights = lhs, rhs
    if not isinstance(lhs, Signal):
        signal, weights, contract, weights_contract = rhs, lhs, weights_contract, contract
    if isinstance(weights, Signal):
        raise ReadingError(TWO_SIGNALS)
    if batch:
        raise ReadingError(
            "weights of their own for each position or group can be read as a grouped convolution "
            "only (feature_group_count=...)."
        )
    signal = with_one_product(signal)
    contracted = tuple(signal.axes[axis] for axis in contract)
    if 0 in contracted:
        raise ReadingError("the images of a batch are mixed with each other here.")
    weights = _float_weights(weights)
    for axis, weights_axis in zip(contracted, weights_contract, strict=True):
        weights = _summed_over_copies(weights, weights_axis, signal.copies[axis - 1])
    new = tuple(axis for axis in range(weights.ndim) if axis not in weights_contract)
    product = _contracted(signal, contracted, weights.transpose((*weights_contract, *new)))
    if not isinstance(rhs, Signal):
        return product
    # The model has the axes in the order of the operands.
    left = len(product.axes) - len(new)
    return replace(product, axes=product.axes[left:] + product.axes[:left])


def _contracted(signal: Signal, contracted: Shape, weights: np.ndarray) -> Signal:
    """The product over some stored axes with the first axes of the weights.

    The model has what is left of the signal's axes, in its order, and then those of the weights.
    """
    new_shape = weights.shape[len(contracted) :]
    left = tuple(axis for axis in signal.axes if axis not in contracted)
    features = tuple(axis for axis in left if axis != 0)
    stored = signal.transposed((0, *features, *contracted))
    copies = (*stored.copies[: len(features)], *(None for _ in new_shape))
    stored = replace(stored, copies=(None,) * len(stored.shape))
    shape = stored.shape[: len(features)]
    kernel = weights.reshape(prod(stored.shape[len(features) :]), prod(new_shape))
    product = stored.stored_as((*shape, kernel.shape[0])).then(Dense(as_jax(kernel)))
    product = product.stored_as((*shape, *new_shape))
    axes = tuple(0 if axis == 0 else 1 + features.index(axis) for axis in left)
    new = range(1 + len(features), 1 + len(copies))
    return replace(product, copies=copies, axes=(*axes, *new))


def _summed_over_copies(weights: np.ndarray, axis: int, factors: Factors) -> np.ndarray:
    """The weights of the one value whose copies along an axis have these factors."""
    if factors is None:
        return weights
    along = np.asarray(factors, weights.dtype).reshape([-1] + [1] * (weights.ndim - axis - 1))
    return (weights * along).sum(axis, keepdims=True)


def _float_weights(weights: ArrayLike) -> np.ndarray:
    """Weights in float32 or better: potentials summed in half precision would drift.

    They are of NumPy while they are read: JAX would compile a program for every shape.
    """
    return np.asarray(weights, jnp.promote_types(jnp.result_type(weights), jnp.float32))


# -- Convolutions ----------------------------------------------------------------------------------


def convolution(params: dict, signal: Any, kernel: Any) -> Signal:
    """The convolution of the signal with a constant kernel."""
    if isinstance(kernel, Signal):
        raise ReadingError("the kernel depends on the images; that is not linear.")
    numbers, groups = params["dimension_numbers"], params["feature_group_count"]
    if (numbers.lhs_spec[0], numbers.out_spec[0], params["batch_group_count"]) != (0, 0, 1):
        raise ReadingError("the batch must be the first axis of a convolution.")
    signal, kernel = signal.in_model_order(), _float_weights(kernel)
    channels = numbers.lhs_spec[1] - 1
    if (factors := signal.copies[channels]) is not None:
        kernel, groups = _of_one_channel(kernel, numbers.rhs_spec, groups, factors), 1
        signal = signal.with_factors(channels, None)
    signal, explicit = signal.in_model_form().without_padding()
    if any(explicit[channels]):
        raise ReadingError("padding of the channels is not supported.")
    signal, dilation = with_one_product(signal), tuple(params["lhs_dilation"])
    # Each zero that is padded before the dilation is followed by the zeros of the dilation.
    explicit = tuple(
        (step * explicit[axis - 1][0], step * explicit[axis - 1][1])
        for step, axis in zip(dilation, numbers.lhs_spec[2:], strict=True)
    )
    return signal.then(
        Convolution(
            as_jax(kernel),
            strides=tuple(params["window_strides"]),
            padding=_both(params["padding"], explicit),
            input_dilation=dilation,
            kernel_dilation=tuple(params["rhs_dilation"]),
            groups=groups,
            dimension_numbers=numbers,
        )
    )


def _of_one_channel(
    kernel: np.ndarray, spec: Shape, groups: int, factors: np.ndarray
) -> np.ndarray:
    """The kernel for the one channel whose copies have these factors."""
    maps, channels = spec[:2]
    kernel = np.moveaxis(kernel, (channels, maps), (0, 1))
    # The maps of a group see the channels of the group.
    seen = factors.reshape(groups, -1).repeat(kernel.shape[1] // groups, 0).T
    seen = np.asarray(seen, kernel.dtype).reshape(*seen.shape, *[1] * (kernel.ndim - 2))
    return np.moveaxis((kernel * seen).sum(0, keepdims=True), (0, 1), (channels, maps))


# -- Padding ---------------------------------------------------------------------------------------


def pad(params: dict, signal: Signal | Sum, value: Any) -> Signal | Sum:
    """Explicit padding: with zeros, it is merged into the convolution or pooling that follows."""
    config = params["padding_config"]
    if isinstance(value, Signal | Sum):
        raise ReadingError("the padding depends on the images.")
    plain = min(map(min, config)) >= 0 and not any(interior for _, _, interior in config)
    batch = signal.terms[0].axes.index(0)
    if not plain or np.any(value) or any(config[batch]):
        return moved(lax.pad_p, params, (signal, value))[0]
    if isinstance(signal, Sum):
        return Sum.of([cast(Signal, pad(params, term, value)) for term in signal.terms])
    signal = signal.in_model_form()
    padding = tuple((int(low), int(high)) for low, high, _ in config[1:])
    return signal.then(Padding(signal.shape, padding)) if np.any(padding) else signal


def _both(one: Sequence[tuple[int, int]], other: Pairs) -> Pairs:
    """Two paddings as one."""
    pairs = zip(one, other, strict=True)
    return tuple((low + more, high + above) for (low, high), (more, above) in pairs)


# -- Sums over windows and axes --------------------------------------------------------------------


def reduce_window(params: dict, signal: Any, start: Any, *others: Any) -> Signal:
    """A reduction of windows by a function, which must be a sum."""
    body, _ = opened(params["jaxpr"])
    names = [equation.primitive.name for equation in body.eqns]
    if others or names != ["add"] or isinstance(start, Signal) or np.any(start):
        raise ReadingError("only sums over windows are linear; use average pooling.")
    return reduce_window_sum(params, signal)


def _check_dilation(params: dict) -> None:
    if any(dilation != 1 for dilation in (*params["base_dilation"], *params["window_dilation"])):
        raise ReadingError("dilated pooling is not supported.")


def _check_batch(window: Shape, strides: Shape, padding: Sequence[tuple[int, int]]) -> None:
    if (window[0], strides[0], tuple(padding[0])) != (1, 1, (0, 0)):
        raise ReadingError(
            "the images of a batch are mixed with each other here, as by a mean over the batch; "
            "read the model in evaluation mode, and let it treat each image alone."
        )


def reduce_window_sum(params: dict, signal: Signal) -> Signal:
    """Sums over windows."""
    _check_dilation(params)
    return _window_sum(
        signal, params["window_dimensions"], params["window_strides"], params["padding"]
    )


def reduce_window_max(params: dict, signal: Signal) -> Signal:
    """The maximum over windows, with a padding that never is the largest."""
    _check_dilation(params)
    return _maximum(
        signal, params["window_dimensions"], params["window_strides"], params["padding"]
    )


def reduce_max(params: dict, signal: Signal) -> Signal:
    """The maximum over whole axes."""
    axes, sizes = set(params["axes"]), signal.model_shape
    window = tuple(n if axis in axes else 1 for axis, n in enumerate(sizes))
    pooled = _maximum(signal, window, (1,) * len(sizes), ((0, 0),) * len(sizes))
    return pooled.reshaped([n for axis, n in enumerate(sizes) if axis not in axes])


def _maximum(
    signal: Signal, window: Shape, strides: Shape, padding: Sequence[tuple[int, int]]
) -> Signal:
    _check_batch(window, strides, padding)
    signal = signal.in_model_form()
    pairs = tuple((low, high) for low, high in padding[1:])
    options = tuple(window[1:]), tuple(strides[1:]), pairs
    if never_negative(signal):
        return max_pooled(signal, MaxPooling(*options))
    return signal.then(Maximum(*options, signal.shape))


def reduce_sum(params: dict, signal: Signal) -> Signal:
    """A sum over whole axes: over stored ones by a window, over copies by their factors."""
    summed, total = set(params["axes"]), 1.0
    shape = [n for axis, n in enumerate(signal.model_shape) if axis not in summed]
    for axis in params["axes"]:
        stored = signal.axes[axis] - 1
        if stored >= 0 and (factors := signal.copies[stored]) is not None:
            total *= factors.sum()
            signal = signal.with_factors(stored, None)
            summed.remove(axis)
    if summed:
        sizes = signal.model_shape
        window = tuple(n if axis in summed else 1 for axis, n in enumerate(sizes))
        signal = _window_sum(signal, window, (1,) * len(sizes), ((0, 0),) * len(sizes))
    if total != 1:
        signal = signal.times(total)
    return signal.reshaped(shape)


def _window_sum(
    signal: Signal, window: Shape, strides: Shape, padding: Sequence[tuple[int, int]]
) -> Signal:
    _check_batch(window, strides, padding)
    window, strides, padding = tuple(window[1:]), tuple(strides[1:]), padding[1:]
    signal = signal.in_model_order()
    reached = zip(signal.copies, window, strides, padding, strict=True)
    if any(c is not None and (n, step, *pair) != (1, 1, 0, 0) for c, n, step, pair in reached):
        signal = signal.in_model_form()
    signal, explicit = signal.without_padding()
    pooling = AveragePooling(window, strides, _both(padding, explicit), count_padding=True)
    return signal.then(WindowSum(pooling, signal.shape), signal.copies)
