"""Random models from few kinds of parts, with one part at most that no spiking network computes."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

SIZE = 4
IMAGE_SHAPE = (SIZE, SIZE, 2)
RELU = jax.nn.relu


def weights(rng, *shape):
    return jnp.asarray(rng.normal(size=shape) / np.sqrt(np.prod(shape[:-1])), "float32")


def channels(rng, x, low=-1.0, high=1.0):
    return jnp.asarray(rng.uniform(low, high, x.shape[-1]), "float32")


def convolution(rng, x):
    depthwise, window = rng.random() < 0.25, int(rng.choice([1, 3]))
    kernel = weights(rng, window, window, 1 if depthwise else x.shape[-1], x.shape[-1])
    groups = x.shape[-1] if depthwise else 1
    numbers = ("NHWC", "HWIO", "NHWC")
    options = {"dimension_numbers": numbers, "feature_group_count": groups}
    return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", **options)


def batch_norm(rng, x):
    mean, variance = channels(rng, x), channels(rng, x, 0.5, 2)
    return (x - mean) * (lax.rsqrt(variance + 1e-5) * channels(rng, x)) + channels(rng, x)


def activation(rng, x):
    kinds = [
        *[RELU] * 4,
        jax.nn.relu6,
        lambda x: jax.nn.leaky_relu(x, 0.1),
        jnp.abs,
        lambda x: jnp.clip(x, -0.5, 0.75),
        jax.nn.hard_sigmoid,
        jax.nn.hard_tanh,
        lambda x: jnp.maximum(x, x[..., ::-1]),
        lambda x: jnp.where(x > 0, x, 0.25 * x),
    ]
    return kinds[rng.integers(len(kinds))](x)


def pooling(rng, x):
    window = {"window_shape": (2, 2), "strides": (1, 1), "padding": "SAME"}
    kind = rng.integers(4)
    if kind == 0:
        return nnx.avg_pool(x, **window)
    if kind == 1:
        return nnx.max_pool(RELU(x), **window)
    pooled = nnx.max_pool(x, **window)
    return RELU(pooled + channels(rng, x) if kind == 2 else batch_norm(rng, pooled))


def move(rng, x):
    kinds = [
        lambda x: x.transpose(0, 2, 1, 3),
        lambda x: x[:, ::-1],
        lambda x: jnp.roll(x, 1, 2),
        lambda x: x[..., jnp.array([1, 0])] if x.shape[-1] > 1 else x,
        lambda x: jnp.pad(x[:, 1:], ((0, 0), (0, 1), (0, 0), (0, 0))),
        lambda x: jnp.split(x, 2, 1)[0].repeat(2, 1),
    ]
    return kinds[rng.integers(len(kinds))](x)


def joined(rng, x, before):
    """A residual sum, or a concatenation, with a value that was computed before."""
    other = before[rng.integers(len(before))]
    if rng.random() < 0.7:
        return x + other if rng.random() < 0.7 else other - 0.5 * x
    return jnp.concatenate([x[..., :1], other[..., 1:]], -1)


PARTS = (convolution, convolution, batch_norm, activation, activation, pooling, move)

# What each part is, and what the error says of it.
BAD = {
    "exp": (jnp.exp, "exp"),
    "tanh": (jnp.tanh, "tanh"),
    "sigmoid": (jax.nn.sigmoid, "logistic|sigmoid"),
    "softmax": (jax.nn.softmax, "softmax"),
    "log_softmax": (jax.nn.log_softmax, "log_softmax"),
    "gelu": (jax.nn.gelu, "gelu"),
    "silu": (jax.nn.silu, "silu"),
    "elu": (jax.nn.elu, "elu"),
    "softplus": (jax.nn.softplus, "softplus"),
    "hard_swish": (jax.nn.hard_swish, "hard_silu|hard_swish"),
    "squareplus": (jax.nn.squareplus, "squareplus"),
    "a quotient": (lambda x: x / (1 + jnp.abs(x)), "^div .*dividing"),
    "a product": (lambda x: x * x[..., ::-1], "^mul .*product of two"),
    "a square": (lambda x: x**2, "(square|integer_pow) .*not linear"),
    "a root": (lambda x: jnp.sqrt(jnp.abs(x)), "sqrt .*not linear"),
    "a sort": (lambda x: jnp.sort(x, 1), "sort"),
    "a cumulative sum of squares": (lambda x: jnp.cumsum(x * x, 1), "^mul .*product|square"),
    "a cumulative product": (lambda x: jnp.cumprod(x, 1), "cumprod"),
    "a product of all": (lambda x: x + x.prod(-1, keepdims=True), "reduce_prod"),
    "argmax": (lambda x: x + x.argmax(-1, keepdims=True), "argmax"),
    "rounding": (jnp.round, "round"),
    "the floor": (jnp.floor, "floor"),
    "integers": (lambda x: x.astype(jnp.int32) + x, "convert_element_type .*rounding"),
    "a sine": (jnp.sin, "sin"),
    "the error function": (jax.scipy.special.erf, "erf"),
    "attention": (lambda x: jnp.einsum("bijc,bikc,bikd->bijd", x, x, x), "^dot_general .*two"),
    "LayerNorm": (lambda x: nnx.LayerNorm(x.shape[-1], rngs=nnx.Rngs(0))(x), "^LayerNorm"),
    "GroupNorm": (
        lambda x: nnx.GroupNorm(x.shape[-1], num_groups=1, rngs=nnx.Rngs(0))(x),
        "^GroupNorm",
    ),
    "squeeze and excite": (
        lambda x: x * jnp.clip(x.mean((1, 2), keepdims=True), 0, 1),
        "^mul .*product of two",
    ),
    "statistics of the batch": (lambda x: x - x.mean(0), "^reduce_sum .*batch"),
    "another image": (lambda x: x + x[::-1], "^rev .*batch"),
    "a step": (lambda x: jnp.where(x > 0, 1.0, 0.0) + x, "comparison|chosen"),
    "largest ones": (lambda x: lax.top_k(x, x.shape[-1])[0], "top_k"),
    "a norm": (lambda x: x / jnp.linalg.norm(x, axis=-1, keepdims=True), "norm"),
}


def random_model(seed, bad=None):
    """A function of images [B, 4, 4, 2] to logits; its random choices are the same in each call.

    With the name of a bad part, that part is somewhere on the way to the output.
    """
    start = np.random.default_rng(seed)
    steps = int(start.integers(3, 7))
    place = int(start.integers(steps))

    def model(x):
        rng, before = np.random.default_rng((seed, 1)), [x]
        for step in range(steps):
            if bad is not None and step == place:
                x = BAD[bad][0](x)
            x = PARTS[rng.integers(len(PARTS))](rng, x)
            if rng.random() < 0.4:
                x = joined(rng, x, before)
            before.append(x)
        x = RELU(x.reshape(len(x), -1) @ weights(rng, x[0].size, 5))
        return x @ weights(rng, 5, 3) + 0.5

    return model
