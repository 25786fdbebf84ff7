"""Number formats whose products are exact, and which of them is the fastest.

A product of integers is exact in any format that holds its terms and its sums: int8 numbers added
in int32, bfloat16 (integers up to 256) or float32 numbers added in float32 as long as the sums stay
below 2^24, which `quantize` ensures. Weights of 16 bits are two planes, W = 256·high + low, where a
plane has to fit into 8 bits. All give the same spikes, so the choice is a matter of speed alone.

A product of spikes, which are 0 or 1, with weights of float32 is exact in bfloat16 too: the 24 bits
of a weight are three planes of 8. Matrix units add such products in float32 several times faster
than other units multiply float32.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from jaxsnn.engines.scan.patches import Patches
from jaxsnn.network import Convolution, Dense, Operation
from jaxsnn.support.arrays import AnyArray


class Format(NamedTuple):
    """A type of numbers to multiply, a type to add them in, and the bits of a plane of weights."""

    terms: Any
    sums: Any
    bits: int


FLOAT32 = Format(jnp.float32, jnp.float32, 16)
BFLOAT16 = Format(jnp.bfloat16, jnp.float32, 8)
INT8 = Format(jnp.int8, jnp.int32, 8)
PLANES = Format(jnp.float32, jnp.float32, 8)  # for terms of several bits: sums stay below 2^24
# The fastest for each kind of operation on CPUs, as benchmarks/formats.py shows for jaxlib 0.10.
# GPUs and TPUs have matrix units for bfloat16, which are faster by far than their float32.
_FASTEST_ON_CPUS = {Dense: INT8, Patches: INT8, Convolution: INT8}
FORMATS = {"float32": FLOAT32, "bfloat16": BFLOAT16, "int8": INT8}


def planes(weights: Array, number_format: Format) -> list[Array]:
    """Integer weights as planes of a number format, the lowest first: W = Σ 256^p · plane p.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsnn.engines.scan.integers import INT8, planes
        >>> [plane.tolist() for plane in planes(jnp.array([300, -129], jnp.int16), INT8)]
        [[44, 127], [1, -1]]
    """
    if jnp.iinfo(weights.dtype).bits <= number_format.bits:
        return [weights.astype(number_format.terms)]
    wide = weights.astype(jnp.int32)
    low = ((wide + 128) & 255) - 128
    return [low.astype(number_format.terms), ((wide - low) >> 8).astype(number_format.terms)]


def float_planes(weights: AnyArray) -> list[Array]:
    """Weights of float32 as planes of bfloat16, the lowest first: W = Σ plane p, exactly.

    The bits are cut and not rounded: XLA may leave out a rounding to bfloat16 and back.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsnn.engines.scan.integers import float_planes
        >>> low, middle, high = float_planes(jnp.float32(1 + 2.0**-8 + 2.0**-23))
        >>> float(low), float(middle), float(high)
        (1.1920928955078125e-07, 0.00390625, 1.0)
    """
    found, rest = [], jnp.asarray(weights)
    for _ in range(3):
        bits = lax.bitcast_convert_type(rest, jnp.uint32) & jnp.uint32(0xFFFF0000)
        plane = lax.bitcast_convert_type(bits, jnp.float32)
        found.append(plane.astype(jnp.bfloat16))
        rest = rest - plane
    return found[::-1]


def spike_product(operation: Operation, weights: list[Array], spikes: Array) -> Array:
    """The operation with weights in planes of bfloat16, for spikes: numbers of float32."""
    spikes = spikes.astype(jnp.bfloat16)
    low, middle, high = (
        operation.product(spikes, plane, preferred_element_type=jnp.float32) for plane in weights
    )
    return (low + middle) + high


def integer_product(
    operation: Operation, weights: list[Array], x: Array, *, number_format: Format
) -> Array:
    """The operation with integer weights in planes, for integers x: integers of 32 bits."""
    x = x.astype(number_format.terms)
    total, *higher = (
        operation.product(
            x,
            plane,
            precision=lax.Precision.HIGHEST if number_format.terms is jnp.float32 else None,
            preferred_element_type=number_format.sums,
        ).astype(jnp.int32)
        for plane in weights
    )
    for place, part in enumerate(higher, 1):
        total = total + (part << 8 * place)
    return total


def fastest_format(kind: type[Operation], backend: str) -> Format:
    """The fastest number format for a kind of operation on a backend."""
    return _FASTEST_ON_CPUS.get(kind, FLOAT32) if backend == "cpu" else BFLOAT16
