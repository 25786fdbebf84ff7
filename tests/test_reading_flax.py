"""Parts of Flax and ways to call them: scans over layers, calls in calls, convolutions, heads."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx
from jax import lax

import jaxsnn

from models import assert_reads

pytestmark = pytest.mark.promotes


def read(model, images):
    return assert_reads(model, images, rtol=3e-6)


@pytest.fixture
def images(rng):
    return rng.random((4, 8)).astype(np.float32)


# -- Scans over layers -----------------------------------------------------------------------------


class Block(nnx.Module):
    def __init__(self, rngs):
        self.dense = nnx.Linear(8, 8, rngs=rngs)
        self.norm = nnx.BatchNorm(8, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return x + self.dropout(nnx.relu(self.norm(self.dense(x))))


class Scanned(nnx.Module):
    """A residual stream through layers whose parameters are stacked."""

    def __init__(self, remat):
        @nnx.split_rngs(splits=3)
        @nnx.vmap(in_axes=(0,), out_axes=0)
        def make(rngs):
            return Block(rngs)

        self.blocks, self.remat = make(nnx.Rngs(0)), remat
        self.blocks.norm.mean[...] = jnp.linspace(-0.5, 0.5, 24).reshape(3, 8)
        self.blocks.norm.scale[...] = jnp.linspace(2, -1, 24).reshape(3, 8)
        self.last = nnx.Linear(8, 3, rngs=nnx.Rngs(1))

    def __call__(self, x):
        forward = lambda x, block: block(x)  # noqa: E731
        forward = nnx.remat(forward) if self.remat else forward
        scan = nnx.scan(forward, in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
        return self.last(scan(x, self.blocks))


@pytest.mark.parametrize("remat", [False, True])
def test_scans_of_nnx(images, remat):
    model = Scanned(remat)
    model.eval()
    network = read(model, images)
    assert sum(layer.spiking for layer in network.layers) == 3


class LinenBlock(linen.Module):
    @linen.compact
    def __call__(self, x, _):
        y = linen.BatchNorm(use_running_average=True)(linen.Dense(8)(x))
        return x + linen.Dropout(0.5, deterministic=True)(linen.relu(y)), None


class LinenScanned(linen.Module):
    remat: bool

    @linen.compact
    def __call__(self, x):
        scan = linen.scan(
            linen.remat(LinenBlock) if self.remat else LinenBlock,
            variable_axes={"params": 0, "batch_stats": 0},
            split_rngs={"params": True},
            length=3,
        )
        return linen.Dense(3)(scan()(x, None)[0])


@pytest.mark.parametrize("remat", [False, True])
def test_scans_of_linen(images, remat):
    model = LinenScanned(remat)
    variables = model.init(jax.random.key(0), images)
    shifted = jax.tree.map(lambda a: a + jnp.linspace(0, 1, a.shape[-1]), variables["batch_stats"])
    variables = {**variables, "batch_stats": shifted}
    network = read(model.bind(variables), images)
    assert sum(layer.spiking for layer in network.layers) == 3


def test_a_scan_with_two_streams(images, rng):
    kernels = rng.normal(size=(3, 8, 8)).astype(np.float32)

    def step(streams, kernel):
        one, other = streams
        return (other, one + jax.nn.relu(other @ kernel)), None

    def model(x):
        one, other = lax.scan(step, (x, x @ kernels[0]), kernels)[0]
        return one - other

    read(model, images)


def test_a_scan_that_collects_values_says_so(images, rng):
    kernels = rng.normal(size=(3, 8, 8)).astype(np.float32)

    def model(x):
        step = lambda x, kernel: (jax.nn.relu(x @ kernel),) * 2  # noqa: E731
        return lax.scan(step, x, kernels)[1].sum(0)

    with pytest.raises(jaxsnn.ReadingError, match=r"a scan collects .* use the last"):
        jaxsnn.read_network(model, images)


# -- Calls -----------------------------------------------------------------------------------------


@jax.custom_jvp
def own_relu(x):
    return jnp.maximum(x, 0)


own_relu.defjvp(lambda primals, tangents: (own_relu(primals[0]), tangents[0]))


@jax.custom_vjp
def other_relu(x):
    return jnp.maximum(x, 0)


other_relu.defvjp(lambda x: (other_relu(x), x), lambda x, gradient: (gradient,))


@pytest.mark.parametrize(
    "call",
    [
        jax.jit(jax.jit(jax.nn.relu6)),
        jax.checkpoint(lambda x: jax.nn.relu(x) - 0.5),
        nnx.jit(nnx.relu6),
        own_relu,
        other_relu,
        nnx.Dropout(0.5, deterministic=True, rngs=nnx.Rngs(0)),
        lambda x: lax.stop_gradient(jax.nn.relu(x)),
    ],
)
def test_calls(images, rng, call):
    first, last = rng.normal(size=(2, 8, 8)).astype(np.float32)
    read(lambda x: jax.nn.relu(call(4 * x @ first)) @ last, images)


# -- Convolutions and heads ------------------------------------------------------------------------

RNGS = nnx.Rngs(0)
LAYERS = {
    "transposed": nnx.ConvTranspose(3, 4, (3, 3), strides=(2, 2), rngs=RNGS),
    "transposed, valid": nnx.ConvTranspose(3, 4, (2, 2), (2, 2), padding="VALID", rngs=RNGS),
    "transposed, circular": nnx.ConvTranspose(3, 4, (3, 3), (2, 2), padding="CIRCULAR", rngs=RNGS),
    "depthwise": nnx.Conv(3, 6, (3, 3), feature_group_count=3, rngs=RNGS),
    "dilated": nnx.Conv(3, 4, (3, 3), kernel_dilation=2, rngs=RNGS),
    "separable": lambda x: SECOND(FIRST(x)),
    "a general dense layer": nnx.LinearGeneral((5, 3), (4, 2), axis=(2, 3), rngs=RNGS),
    "an einsum": lambda x: jnp.einsum("bhwc,hwcd->bd", x, HEAD),
    "of linen": lambda x: TRANSPOSED.apply(VARIABLES, x),
}
HEAD = jnp.sin(jnp.arange(150.0)).reshape(5, 5, 3, 2)
FIRST = nnx.Conv(3, 3, (3, 3), feature_group_count=3, use_bias=False, rngs=RNGS)
SECOND = nnx.Conv(3, 4, (1, 1), rngs=RNGS)
TRANSPOSED = linen.ConvTranspose(4, (3, 3), strides=(2, 2))
VARIABLES = TRANSPOSED.init(jax.random.key(0), jnp.zeros((1, 5, 5, 3)))


@pytest.mark.parametrize("name", LAYERS)
def test_layers(rng, name):
    maps = rng.random((4, 5, 5, 3)).astype(np.float32)
    network = read(lambda x: jax.nn.relu(LAYERS[name](jax.nn.relu(x - 0.5))) - 0.25, maps)
    # A depthwise and a pointwise convolution stay two, with fewer synapses than their product.
    assert [layer.spiking for layer in network.layers].count(False) == 1 + (name == "separable")


# -- Traps -----------------------------------------------------------------------------------------


def test_bfloat16(rng):
    """Models round their constants and activations; the network computes in float32."""
    maps = rng.random((4, 6, 6, 3)).astype(np.float32)
    options = {"dtype": jnp.bfloat16, "rngs": nnx.Rngs(0)}
    conv = nnx.Conv(3, 4, (3, 3), param_dtype=jnp.bfloat16, **options)
    norm = nnx.BatchNorm(4, use_running_average=True, **options)

    def model(x):
        x = nnx.max_pool(jax.nn.relu6(norm(conv(x))), (2, 2), (2, 2)).reshape(len(x), -1)
        x = jnp.concatenate([x, jnp.ones((len(x), 2), x.dtype)], -1)
        return (x @ jnp.sin(jnp.arange(114.0)).reshape(38, 3).astype(x.dtype)).astype(jnp.float32)

    network = assert_reads(model, maps, rtol=1e-2)
    assert network.dtype == jnp.float32


def test_a_factor_is_not_folded_into_weights_with_another_reader(images, rng):
    kernel = rng.normal(size=(8, 4)).astype(np.float32)

    def model(x):
        y = x @ kernel
        return jax.nn.relu(3 * y) - 2 * jax.nn.relu(y - 1) + y

    network = read(model, images)
    dense = [p for layer in network.layers for c in layer.connections for p in c.operations]
    (weights,) = (p.kernel for p in dense if isinstance(p, jaxsnn.network.Dense))
    np.testing.assert_array_equal(weights, kernel)


MOVES = {
    "a slice at a known place": lambda x: lax.dynamic_slice_in_dim(x, 2, 3, 1),
    "an update": lambda x: lax.dynamic_update_slice(x, 2 * x[:, :2], (0, 3)),
    "values that are set": lambda x: x.at[:, jnp.array([1, 3])].set(0.5),
    "values that are moved": lambda x: x.at[:, 0].set(x[:, 5]),
    "values by their places": lambda x: jnp.take(x, jnp.array([1, 3, 3]), axis=1),
    "places outside": lambda x: x.at[:, jnp.array([1, 99])].get(mode="fill", fill_value=0),
    "onto constants": lambda x: jnp.ones((len(x), 9)).at[:, 1:].set(x),
}


@pytest.mark.parametrize("name", MOVES)
def test_moves_to_known_places(images, rng, name):
    kernel = rng.normal(size=(8, 8)).astype(np.float32)
    read(lambda x: jax.nn.relu(MOVES[name](jax.nn.relu(x @ kernel)) - 0.1), images)


TABLE = nnx.Embed(5, 8, rngs=nnx.Rngs(0))


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (lambda x: nnx.relu(TABLE(x.astype(jnp.int32))), "int32.*no embedding"),
        (lambda x: x * jax.nn.hard_sigmoid(x.mean(1, keepdims=True)), "^mul .*squeeze-and-excite"),
        (lambda x: nnx.relu(x.at[0].set(0.0)), "^scatter .*images of a batch"),
        (lambda x: nnx.relu(x - x.mean(0)), "^reduce_sum .*evaluation mode"),
        (lambda x: jnp.einsum("bg,gij->bgj", x, jnp.ones((8, 2, 2))), "feature_group_count"),
    ],
)
def test_what_cannot_be_read(images, model, words):
    with pytest.raises(jaxsnn.ReadingError, match=words) as caught:
        jaxsnn.read_network(model, images)
    assert __file__ in str(caught.value)


def test_embeddings_are_refused_at_the_entrance():
    with pytest.raises(ValueError, match="dtype int32, but pixels are floats"):
        jaxsnn.read_network(TABLE, np.zeros((1, 4), np.int32))
