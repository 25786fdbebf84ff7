"""Units that add integers exactly, and which of them is the fastest on this backend.

A product of integers is exact in any unit that holds its terms and its sums: int8 numbers added in
int32, bfloat16 (integers up to 256) or float32 numbers added in float32 as long as the sums stay
below 2^24, which `quantize` sees to. Weights of 16 bits are two planes, W = 256·high + low, where a
plane has to fit into 8 bits. All give the same spikes, so the choice is a matter of speed alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from jaxsnn.network import Convolution, Dense, Operation


class Unit(NamedTuple):
    """A type of numbers to multiply, a type to add them in, and the bits of a plane of weights."""

    terms: Any
    sums: Any
    bits: int


FLOAT32 = Unit(jnp.float32, jnp.float32, 16)
BFLOAT16 = Unit(jnp.bfloat16, jnp.float32, 8)
INT8 = Unit(jnp.int8, jnp.int32, 8)
_ROUNDS = 9  # of measurements
UNITS = {"float32": FLOAT32, "bfloat16": BFLOAT16, "int8": INT8}


def planes(weights: Array, unit: Unit) -> list[Array]:
    """Integer weights as planes of a unit, the lowest first: W = Σ 256^p · plane p.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsnn.units import INT8, planes
        >>> [plane.tolist() for plane in planes(jnp.array([300, -129], jnp.int16), INT8)]
        [[44, 127], [1, -1]]
    """
    if jnp.iinfo(weights.dtype).bits <= unit.bits:
        return [weights.astype(unit.terms)]
    wide = weights.astype(jnp.int32)
    low = ((wide + 128) & 255) - 128
    return [low.astype(unit.terms), ((wide - low) >> 8).astype(unit.terms)]


def integer_product(operation: Operation, weights: list[Array], x: Array, unit: Unit) -> Array:
    """The operation with integer weights in planes, for integers x: integers of 32 bits."""
    x = x.astype(unit.terms)
    total, *higher = (
        operation.product(
            x,
            plane,
            precision=lax.Precision.HIGHEST if unit is FLOAT32 else None,
            preferred_element_type=unit.sums,
        ).astype(jnp.int32)
        for plane in weights
    )
    for place, part in enumerate(higher, 1):
        total = total + (part << 8 * place)
    return total


@lru_cache
def fastest_unit(kind: type[Operation], backend: str) -> Unit:
    """The fastest unit for dense layers or convolutions on a backend, by a measurement on CPUs.

    On CPUs it depends on the processor and on the version of XLA. GPUs and TPUs have matrix units
    for bfloat16, which are faster by far than their float32.
    """
    if backend != "cpu":
        return BFLOAT16
    if kind not in _SAMPLES:
        return FLOAT32
    jobs = {unit: _job(_SAMPLES[kind], unit) for unit in UNITS.values()}
    seconds: dict[Unit, list[float]] = {unit: [] for unit in jobs}
    for _ in range(_ROUNDS):  # in turns, so that what else runs on the machine hinders all
        for unit, job in jobs.items():
            start = time.perf_counter()
            job().block_until_ready()
            seconds[unit].append(time.perf_counter() - start)
    return min(jobs, key=lambda unit: min(seconds[unit]))


def _job(sample: Callable[[], tuple[Operation, Array]], unit: Unit) -> Callable[[], Array]:
    """A compiled product in a unit, that has run once."""
    with jax.ensure_compile_time_eval():
        operation, x = sample()
        weights = planes(jax.tree.leaves(operation)[0], unit)
    product = jax.jit(lambda weights, x: integer_product(operation, weights, x, unit))
    compiled = product.lower(weights, x).compile()
    compiled(weights, x).block_until_ready()
    return partial(compiled, weights, x)


def _dense_sample() -> tuple[Operation, Array]:
    # Sizes that are not powers of two, which would be kind to some units.
    return Dense(jnp.ones((896, 1152), jnp.int8)), jnp.ones((384, 896), jnp.int32)


def _convolution_sample() -> tuple[Operation, Array]:
    numbers = lax.conv_dimension_numbers((1, 8, 8, 16), (3, 3, 16, 32), ("NHWC", "HWIO", "NHWC"))
    kernel = jnp.ones((3, 3, 16, 32), jnp.int8)
    ones, none = (1, 1), ((0, 0), (0, 0))
    operation = Convolution(kernel, ones, none, ones, ones, 1, numbers)
    return operation, jnp.ones((32, 16, 16, 16), jnp.int32)


_SAMPLES = {Dense: _dense_sample, Convolution: _convolution_sample}
