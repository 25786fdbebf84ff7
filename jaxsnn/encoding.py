"""How pixels drive the first layer: one function from a key and probabilities to an input.

An encoding gets the key of one sample and one step and the probabilities pixel·max_rate·dt of that
sample, and returns what the input neurons send in this step.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Annotated, Any

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
    probability k/65536 is at most 1/131072 off. Probabilities of 0 and 1 are exact. There is no
    gradient by pixels; `straight_through(poisson)` has one.

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
def straight_through(encode: Encoding) -> Encoding:
    """An encoding with the gradient of its probabilities: forward as it was, backward the identity.

        inputs = p + stop(encode(key, p) - p)

    Drawn spikes alone have no gradient by pixels. With this one, gradients by images are those of
    the probabilities that a spike is drawn with.

    Source: Bengio et al. 2013, "Estimating or propagating gradients through stochastic neurons".

    Args:
        encode: the encoding, such as `poisson`. Equal functions give the same encoding, so that
            nothing is compiled again.

    Example:
        >>> import jax, jax.numpy as jnp, jaxsnn
        >>> encode = jaxsnn.encoding.straight_through(jaxsnn.poisson)
        >>> jax.grad(lambda p: encode(jax.random.key(0), p).sum())(jnp.array([0.25, 0.5])).tolist()
        [1.0, 1.0]
    """
    return _straight_through(encode)


@lru_cache
def _straight_through(encode: Encoding) -> Encoding:
    @jax.custom_jvp
    def encoded(key: Array, probability: Array) -> Array:
        return encode(key, probability)

    @encoded.defjvp
    def _(primals: Any, tangents: Any) -> Any:
        return encoded(*primals), tangents[1]

    return encoded


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
