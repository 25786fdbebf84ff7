"""How pixels drive the first layer: one function from a key and probabilities to an input.

An encoding gets the key of one sample and one step and the probabilities pixel·max_rate·dt of that
sample, and returns what the input neurons send in this step.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxsnn.support.random import bits_16, threefry_key
from jaxsnn.support.typed import Images, Key, typed

Encoding = Annotated[
    Callable[[Array, Array], Array],
    "a function (key, probabilities) → inputs, such as jaxsnn.poisson or jaxsnn.constant",
]


@typed
def poisson(key: Key, probability: Images) -> Float[Array, "..."]:
    """Spikes of 0 or 1, drawn in each step with the given probability (Diehl et al. 2015).

    A draw has 16 bits: an input spikes where draw < k = round(65536·probability), so that its true
    probability k/65536 is at most 1/131072 off. Probabilities of 0 and 1 are exact.

    Example:
        >>> import jax, jax.numpy as jnp, jaxsnn
        >>> jaxsnn.poisson(jax.random.key(0), jnp.array([0.0, 1.0])).tolist()
        [0.0, 1.0]
    """
    return _drawn(threefry_key(key), jnp.asarray(probability))


@partial(jax.jit, inline=True)  # one program where nothing is traced
def _drawn(key: Array, probability: Array) -> Array:
    draws = bits_16(key, probability.size).reshape(probability.shape)
    return (draws < jnp.round(probability * (1 << 16)).astype(draws.dtype)).astype(
        probability.dtype
    )


@typed
def constant(key: Key, probability: Images) -> Float[Array, "..."]:
    """The mean of the Poisson input in every step: a constant current (Rueckauer et al. 2017).

    Example:
        >>> import jax, jax.numpy as jnp, jaxsnn
        >>> jaxsnn.constant(jax.random.key(0), jnp.array([0.0, 0.5])).tolist()
        [0.0, 0.5]
    """
    del key
    return jnp.asarray(probability)
