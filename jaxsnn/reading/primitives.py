"""The handlers of the primitives of JAX: what each makes of a signal, or why it cannot be read.

A handler gets the parameters of an equation of the jaxpr, and its inputs, of which at least one is
a `Signal` and the others are known.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxsnn.reading import products
from jaxsnn.reading.errors import BRANCHES, TWO_SIGNALS, ReadingError
from jaxsnn.reading.signals import Signal
from jaxsnn.reading.simplify import relu


def _signal_and_constant(x: Any, y: Any, error: str) -> tuple[Signal, Any]:
    """The operand that is a signal, broadcast against the other, and the other, which is known."""
    signal, constant = (x, y) if isinstance(x, Signal) else (y, x)
    if isinstance(constant, Signal):
        raise ReadingError(error)
    return signal.broadcast_to(np.shape(constant)), constant


# -- Arithmetic ------------------------------------------------------------------------------------


def _max(_params: dict, x: Any, y: Any) -> Signal:
    """max(x, c) = relu(x - c) + c."""
    error = "the maximum of two signals is not linear; use average pooling."
    signal, floor = _signal_and_constant(x, y, error)
    if not np.all(np.isfinite(floor)):
        raise ReadingError("the maximum with a constant that is not finite.")
    return relu(signal.plus(-np.asarray(floor))).plus(floor)


def _mul(_params: dict, x: Any, y: Any) -> Signal:
    signal, factor = _signal_and_constant(x, y, TWO_SIGNALS)
    return signal.times(factor)


def _div(_params: dict, x: Any, y: Any) -> Signal:
    if isinstance(y, Signal):
        raise ReadingError("dividing by a value that depends on the images is not linear.")
    divisor = np.asarray(y, np.float64)
    if not np.all(divisor):
        raise ReadingError("the model divides by 0 here.")
    return x.times(1.0 / divisor)


def _add(_params: dict, x: Any, y: Any) -> Signal:
    signal, constant = _signal_and_constant(x, y, BRANCHES)
    if not np.all(np.isfinite(constant)):
        raise ReadingError("a constant is added here that is NaN or infinite; train again.")
    return signal.plus(constant)


def _sub(params: dict, x: Any, y: Any) -> Signal:
    if isinstance(y, Signal):
        return _add(params, x, y.times(-1.0))
    return _add(params, x, -np.asarray(y))


def _select_n(_params: dict, which: Any, *cases: Any) -> Signal:
    """A choice between the signal and 0 by a constant mask is a multiplication with the mask."""
    chosen = [case for case, x in enumerate(cases) if isinstance(x, Signal)]
    linear = not isinstance(which, Signal) and len(cases) == 2 and len(chosen) == 1
    if not linear or np.any(np.asarray(cases[1 - chosen[0]])):
        raise ReadingError(
            "only a choice between values and 0 by a constant mask is linear; write a ReLU as "
            "max(x, 0)."
        )
    signal = cases[chosen[0]].broadcast_to(np.shape(cases[1 - chosen[0]]))
    return signal.times(np.asarray(which == chosen[0], np.float32))


# -- Shapes and types ------------------------------------------------------------------------------


def _squeeze(params: dict, signal: Signal) -> Signal:
    dropped = params["dimensions"]
    return signal.reshaped([n for axis, n in enumerate(signal.model_shape) if axis not in dropped])


def _broadcast_in_dim(params: dict, signal: Signal) -> Signal:
    sizes = dict(zip(params["broadcast_dimensions"], signal.model_shape, strict=True))
    shape = params["shape"]
    return signal.reshaped([sizes.get(axis, 1) for axis in range(len(shape))]).broadcast_to(shape)


def _tile(params: dict, signal: Signal) -> Signal:
    """Each axis of n values becomes [repetitions, n], and both together one axis again."""
    sizes = [*zip(params["reps"], signal.model_shape, strict=True)]
    single = [size for times, n in sizes for size in ([1, n] if times != 1 else [n])]
    copied = [size for times, n in sizes for size in ([times, n] if times != 1 else [n])]
    return signal.reshaped(single).broadcast_to(copied).reshaped([times * n for times, n in sizes])


def _transpose(params: dict, signal: Signal) -> Signal:
    return replace(signal, axes=tuple(signal.axes[axis] for axis in params["permutation"]))


def _convert_element_type(params: dict, signal: Signal) -> Signal:
    dtype = params["new_dtype"]
    if jnp.issubdtype(dtype, jnp.complexfloating):
        raise ReadingError("complex numbers are not supported.")
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ReadingError(f"rounding to {dtype} is not linear.")
    return signal


def _unchanged(_params: dict, *signals: Signal) -> Signal:
    if len(signals) != 1:
        raise ReadingError("several arrays at once are not supported; pass one.")
    return signals[0]


HANDLERS: dict[str, Callable[..., Signal]] = {
    "dot_general": products.dot_general,
    "conv_general_dilated": products.convolution,
    "pad": products.pad,
    "reduce_window": products.reduce_window,
    "reduce_window_sum": products.reduce_window_sum,
    "reduce_sum": products.reduce_sum,
    "max": _max,
    "mul": _mul,
    "div": _div,
    "neg": lambda params, x: x.times(-1.0),
    "add": _add,
    "add_any": _add,
    "sub": _sub,
    "select_n": _select_n,
    "reshape": lambda params, x: x.reshaped(params["new_sizes"]),
    "squeeze": _squeeze,
    "broadcast_in_dim": _broadcast_in_dim,
    "tile": _tile,
    "transpose": _transpose,
    "convert_element_type": _convert_element_type,
    "copy": _unchanged,
    "copy_p": _unchanged,
    "name": _unchanged,
    "sharding_constraint": _unchanged,
    "optimization_barrier": _unchanged,
    "stop_gradient": _unchanged,
}
