"""The handlers of the primitives of JAX: what each makes of a signal, or why it cannot be read.

A handler gets the parameters of an equation of the jaxpr, and its inputs, of which at least one is
a `Signal` and the others are known.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxsnn.network import INPUT, ClipFloor
from jaxsnn.reading import products
from jaxsnn.reading.errors import A_QUOTIENT, NOT_A_RELU, TWO_SIGNALS, ReadingError
from jaxsnn.reading.maxima import relu, settled
from jaxsnn.reading.signals import Mask, Signal, Sum, without_repeats
from jaxsnn.reading.simplify import capped, clip_floored, shared


def _signal_and_constant(x: Any, y: Any, error: str) -> tuple[Any, Any]:
    """The operand that is a signal, broadcast against the other, and the other, which is known."""
    signal, constant = (x, y) if isinstance(x, Signal | Sum) else (y, x)
    if isinstance(constant, Signal | Sum):
        raise ReadingError(error)
    return signal.broadcast_to(np.shape(constant)), constant


# Of factors and constants that the model computes in float32.
_ROUNDING = 1e-6

# -- ReLUs, and what consists of them --------------------------------------------------------------


def _max(params: dict, x: Any, y: Any) -> Any:
    """max(x, y) = relu(x - y) + y."""
    if isinstance(x, Signal | Sum) and isinstance(y, Signal | Sum):
        y = shared(y)
        return _add(params, relu(_sub(params, x, y)), y)
    signal, floor = _signal_and_constant(x, y, "")
    if np.all(np.isneginf(floor)):
        return signal
    if not np.all(np.isfinite(floor)):
        raise ReadingError("the maximum with a constant that is not finite.")
    return relu(signal.plus(-np.asarray(floor, float))).plus(floor)


def _min(params: dict, x: Any, y: Any) -> Any:
    """min(x, c): a ceiling of the ReLU before, or min(x, y) = y - relu(y - x)."""
    if not (isinstance(x, Signal | Sum) and isinstance(y, Signal | Sum)):
        signal, ceiling = _signal_and_constant(x, y, "")
        if np.all(np.isposinf(ceiling)):
            return signal
        if not np.all(np.isfinite(ceiling)):
            raise ReadingError("the minimum with a constant that is not finite.")
        limited = capped(signal, np.asarray(ceiling, np.float64))
        if limited is not None:
            return limited
        x, y = signal, ceiling
    else:
        y = shared(y)
    return _sub(params, y, relu(_sub(params, y, x)))


def _clamp(params: dict, low: Any, x: Any, high: Any) -> Any:
    return _min(params, _max(params, x, low), high)


def _clip_floor(params: dict, x: Any, threshold: Any) -> Any:
    """The clip-floor of a ReLU, which changes nothing before it.

    With several thresholds it is λ times the clip-floor of x/λ with a threshold of 1.
    """
    if isinstance(threshold, Signal | Sum):
        raise ReadingError("the threshold depends on the images; make it a parameter of the model.")
    factors = without_repeats(np.asarray(threshold, np.float64))
    if not np.all((factors > 0) & (factors < np.inf)):
        raise ReadingError(
            f"the threshold is {factors.min():g}, and must be positive and finite; train again "
            "with a smaller learning rate, or learn its logarithm."
        )
    if factors.size > 1:
        return _clip_floor(params, x.times(1 / factors), np.ones(1)).times(factors)
    if isinstance(x, Signal) and x.copies_differ:  # a ReLU may be before such copies
        x = x.with_copies_made()
    return clip_floored(relu(x), ClipFloor(factors.item(), params["levels"]))


def _abs(params: dict, x: Any) -> Any:
    """|x| = relu(x) + relu(-x)."""
    x = shared(x)
    return _add(params, relu(x), relu(x.times(-1.0)))


# -- Choices by the sign of a value ----------------------------------------------------------------


def _greater(params: dict, x: Any, y: Any) -> Mask:
    return Mask(shared(_sub(params, x, y)))


def _less(params: dict, x: Any, y: Any) -> Mask:
    return _greater(params, y, x)


def _chosen(mask: Mask, positive: Any, negative: Any) -> Any:
    """A where v > 0 and b elsewhere, where a - b = k·v: b + k·relu(v), or a + k·relu(-v)."""
    known = [not isinstance(x, Signal | Sum) for x in (positive, negative)]
    if known[0] and (clipped := _clipped(mask.value, positive, negative)) is not None:
        return clipped
    factor = None if all(known) else _multiple(_sub({}, positive, negative), mask.value)
    if factor is None:
        raise ReadingError(
            "values are chosen by the sign of another value; that is piecewise linear only where "
            "their difference is a multiple of that value, as in jnp.where(x > 0, x, 0.1 * x); "
            + NOT_A_RELU
        )
    if known[0]:
        return _add({}, relu(mask.value.times(-1.0)).times(factor), positive)
    spiking = relu(mask.value).times(factor)
    return _add({}, spiking, settled(negative))


def _clipped(at: Signal | Sum, limit: Any, value: Any) -> Signal | Sum | None:
    """A limit where v > 0, elsewhere f·relu(k·v + c) + b, if k > 0 and that is the limit at v = 0.

    So hard tanh is written, jnp.where(x > 1, 1, jnp.where(x < -1, -1, x)); None for anything else.
    """
    base, factor, shift = value.affine() if isinstance(value, Signal) else (None, 0.0, 0.0)
    if base is None or base.operations or base.layer == INPUT:
        return None
    layer = base.graph.layers[base.layer]
    received = [
        replace(base, layer=part.source, operations=part.operations)
        for part in layer.all_connections
    ]
    slope, start = _slope_and_start(received, at.terms) or (0.0, 0.0)
    at_zero = start + np.asarray(0.0 if layer.bias is None else layer.bias)
    reached = np.allclose(factor * at_zero + shift, limit, rtol=_ROUNDING)
    limited = not layer.spiking or layer.ceiling < np.inf
    if limited or slope <= 0 or np.any(at_zero < 0) or not reached:
        return None
    sign = np.sign(factor)
    rising = base.times(abs(factor)).shifted(sign * shift)
    return _min({}, rising, sign * np.asarray(limit)).times(sign)


def _multiple(value: Signal | Sum, of: Signal | Sum) -> float | None:
    """The number by which a value is a multiple of another; None if it is no multiple."""
    slope, start = _slope_and_start(value.terms, of.terms) or (None, 0.0)
    return None if np.any(start) else slope


def _slope_and_start(value: Sequence[Signal], of: Sequence[Signal]) -> tuple[float, Any] | None:
    """K and c of a value that is k·v + c, for another value v; None if it is not."""
    if len(value) != len(of):
        return None
    pairs = [(one.affine(), other.affine()) for one, other in zip(value, of)]
    if not all(base.same_as(other) and scale for (base, _, _), (other, scale, _) in pairs):
        return None
    slopes = [one / scale for (_, one, _), (_, scale, _) in pairs]
    shifts = [(shift, slopes[0] * before) for (_, _, shift), (_, _, before) in pairs]
    starts = [x - y for x, y in shifts if not np.allclose(x, y, rtol=_ROUNDING)]
    if len(starts) > 1 or not np.allclose(slopes, slopes[0], rtol=_ROUNDING):
        return None
    return slopes[0], starts[0] if starts else 0.0


# -- Arithmetic with constants ---------------------------------------------------------------------


def _mul(_params: dict, x: Any, y: Any) -> Any:
    for mask, value in ((x, y), (y, x)):
        if isinstance(mask, Mask):
            return _chosen(mask, value, 0.0)
    signal, factor = _signal_and_constant(x, y, TWO_SIGNALS)
    return signal.times(factor)


def _div(_params: dict, x: Any, y: Any) -> Signal | Sum:
    if isinstance(y, Signal | Sum):
        raise ReadingError(A_QUOTIENT)
    divisor = np.asarray(y, np.float64)
    if not np.all(divisor):
        raise ReadingError("the model divides by 0 here.")
    return x.times(1.0 / divisor)


def _add(_params: dict, x: Any, y: Any) -> Signal | Sum:
    if isinstance(x, Signal | Sum) and isinstance(y, Signal | Sum):
        return Sum.of([*x.terms, *y.terms])
    signal, constant = _signal_and_constant(x, y, TWO_SIGNALS)
    if not np.all(np.isfinite(constant)):
        raise ReadingError("a constant is added here that is NaN or infinite; train again.")
    return signal.plus(constant)


def _sub(params: dict, x: Any, y: Any) -> Any:
    if isinstance(y, Signal | Sum):
        return _add(params, x, y.times(-1.0))
    return _add(params, x, -np.asarray(y, float))


def _select_n(params: dict, which: Any, *cases: Any) -> Any:
    """By a constant mask: the sum of the cases, each times the mask of its own places."""
    if isinstance(which, Mask):
        return _chosen(which, cases[1], cases[0])
    if isinstance(which, Signal | Sum):
        raise ReadingError(f"values are chosen by a value that depends on the images; {NOT_A_RELU}")
    total: Any = 0.0
    for number, case in enumerate(cases):
        mask = np.asarray(which == number, np.float32)
        if isinstance(case, Signal | Sum):
            total = _add(params, case.broadcast_to(mask.shape).times(mask), total)
        else:
            constant = np.where(mask > 0, np.asarray(case, np.float32), 0)
            signal = isinstance(total, Signal | Sum)
            total = _add(params, total, constant) if signal else total + constant
    return total


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


def _convert_element_type(params: dict, signal: Any) -> Any:
    dtype = params["new_dtype"]
    if jnp.issubdtype(dtype, jnp.complexfloating):
        raise ReadingError("complex numbers are not supported.")
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ReadingError(
            f"rounding to {dtype} is not linear, so that no embedding and no table can be read."
        )
    return signal


def _unchanged(_params: dict, *signals: Signal) -> Signal:
    if len(signals) != 1:
        raise ReadingError("several arrays at once are not supported; pass one.")
    return signals[0]


# What the handlers of sums get as they are; others get them as one signal, or term by term.
OF_SUMS = (
    "pad",
    *("max", "min", "clamp", "clip_floor", "abs"),
    *("mul", "div", "neg", "add", "add_any", "sub"),
    *("gt", "ge", "lt", "le", "select_n", "convert_element_type"),
)
OF_MASKS = ("mul", "select_n", "convert_element_type")
# What the ReLU of a max pooling may have between them.
BEFORE_RELU = (*OF_SUMS[1:], "reshape", "squeeze", "broadcast_in_dim", "transpose")
PRODUCTS = ("dot_general", "conv_general_dilated")
MAXIMA = ("reduce_window_max", "reduce_max")

HANDLERS: dict[str, Callable[..., Any]] = {
    "dot_general": products.dot_general,
    "conv_general_dilated": products.convolution,
    "pad": products.pad,
    "reduce_window": products.reduce_window,
    "reduce_window_sum": products.reduce_window_sum,
    "reduce_sum": products.reduce_sum,
    "reduce_window_max": products.reduce_window_max,
    "reduce_max": products.reduce_max,
    "max": _max,
    "min": _min,
    "clamp": _clamp,
    "clip_floor": _clip_floor,
    "abs": _abs,
    "gt": _greater,
    "ge": _greater,
    "lt": _less,
    "le": _less,
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
