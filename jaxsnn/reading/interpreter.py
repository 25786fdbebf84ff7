"""The interpreter of jaxprs: what depends on the images is a `Signal`, all else is computed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.extend.core import Jaxpr, JaxprEqn, Literal

from jaxsnn.reading.errors import NOT_A_RELU, ReadingError, UnsupportedError, explained
from jaxsnn.reading.origins import Origin, is_library, origin_of
from jaxsnn.reading.primitives import HANDLERS
from jaxsnn.reading.signals import Signal
from jaxsnn.reading.tracing import opened


def interpret(
    jaxpr: Jaxpr, consts: Sequence[Any], arguments: Sequence[Any], origin: Origin | None = None
) -> Sequence[Any]:
    """Outputs of a jaxpr. What cannot be read becomes an error that is raised only if it is used.

    `origin` is that of the call where the jaxpr is that of a library function.
    """
    values: dict[Any, Any] = dict(zip(jaxpr.constvars, consts, strict=True))
    values.update(zip(jaxpr.invars, arguments, strict=True))

    def value(atom: Any) -> Any:
        return atom.val if isinstance(atom, Literal) else values[atom]

    for equation in jaxpr.eqns:
        inputs = [value(atom) for atom in equation.invars]
        outputs: Sequence[Any]
        try:
            outputs = _outputs(equation, inputs, origin or origin_of(equation))
        except ReadingError as error:
            outputs = [error] * len(equation.outvars)
        values.update(zip(equation.outvars, outputs, strict=True))
    return [value(atom) for atom in jaxpr.outvars]


def _outputs(equation: JaxprEqn, inputs: list[Any], origin: Origin) -> Sequence[Any]:
    """Outputs of one equation."""
    for error in (x for x in inputs if isinstance(x, ReadingError)):
        raise error
    name, params = equation.primitive.name, equation.params
    if name in _CALLS:
        called = str(params.get("name", "")).strip("_")
        origin = origin._replace(function=origin.function or called)
        return _of_body(next(filter(None, map(params.get, _BODIES))), inputs, origin)
    if name == "random_bits":
        raise ReadingError(
            f"random numbers are drawn at {origin.line}: read the model in its evaluation form, "
            "with its dropout off (model.eval(), deterministic=True), and make its layers once, "
            "outside of the function."
        )
    signal = next((x for x in inputs if isinstance(x, Signal)), None)
    if signal is None:
        output = equation.primitive.bind(*inputs, **params)
        return output if equation.primitive.multiple_results else [output]
    try:
        if name in _CONTROL:
            return _CONTROL[name](params, inputs, origin)
        if name not in HANDLERS:
            raise UnsupportedError(name)
        return [HANDLERS[name](params, *inputs).with_origin(origin, signal)]
    except ReadingError as error:
        raise explained(name, error, origin) from None


# -- Primitives that run functions -----------------------------------------------------------------

# Those that run a function once, on their inputs, and where they keep it.
_CALLS = (
    *("jit", "pjit", "closed_call", "core_call", "remat", "remat2", "checkpoint"),
    *("custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr"),
)
_BODIES = ("jaxpr", "call_jaxpr", "fun_jaxpr")


def _of_body(body: Any, arguments: Sequence[Any], origin: Origin) -> Sequence[Any]:
    """Outputs of the function that a primitive runs."""
    jaxpr, consts = opened(body)
    return interpret(jaxpr, consts, arguments, origin if is_library(jaxpr) else None)


def _scan(params: dict, inputs: list[Any], origin: Origin) -> Sequence[Any]:
    """A scan, or a loop with fixed bounds, is its body as many times."""
    constants, carried = params["num_consts"], params["num_consts"] + params["num_carry"]
    consts, carry, xs = inputs[:constants], inputs[constants:carried], inputs[carried:]
    if any(isinstance(x, Signal) for x in xs):
        raise ReadingError(
            "the loop runs over an axis of the images, as recurrent networks do; only a chain of "
            "layers can be read."
        )
    steps, collected = range(params["length"]), []
    for step in reversed(steps) if params["reverse"] else steps:
        outputs = _of_body(params["jaxpr"], [*consts, *carry, *(x[step] for x in xs)], origin)
        carry = outputs[: len(carry)]
        collected.append(outputs[len(carry) :])
    if params["reverse"]:
        collected.reverse()
    results = len(opened(params["jaxpr"])[0].outvars) - len(carry)
    return [*carry, *(_stacked([found[n] for found in collected]) for n in range(results))]


def _stacked(values: Sequence[Any]) -> Any:
    if not values or any(isinstance(value, Signal | ReadingError) for value in values):
        return ReadingError("a scan collects values that depend on the images: use the last.")
    return jnp.stack(values)


def _cond(params: dict, inputs: list[Any], origin: Origin) -> Sequence[Any]:
    """The branch of a known index."""
    index, *arguments = inputs
    if isinstance(index, Signal):
        raise ReadingError(f"the branch depends on the images, which is not linear; {NOT_A_RELU}")
    branches = params["branches"]
    return _of_body(branches[int(np.clip(index, 0, len(branches) - 1))], arguments, origin)


_CONTROL: dict[str, Callable[[dict, list[Any], Origin], Sequence[Any]]] = {
    "scan": _scan,
    "cond": _cond,
}
