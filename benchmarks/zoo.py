"""Small networks of the kinds that people convert, written and trained as users of Flax do.

`python benchmarks/zoo.py` trains those that are not kept yet, which takes a minute on one core. The
benchmark and the tests of architectures take them from here. MNIST's images are reduced to 14x14
pixels, the means of 2x2, since that is four times as fast.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import platformdirs
import tyro
from flax import nnx

import jaxsnn
from jaxsnn.support.digests import digest

IMAGES = 20_000  # to train with
EPOCHS = 2
BATCH = 128
RATE = 1.2e-2  # the peak of the learning rate


class Convolution(nnx.Module):
    """A convolution and its batch norm."""

    def __init__(self, inputs: int, outputs: int, size: int = 3, *, strides: int = 1, rngs):
        self.conv = nnx.Conv(
            inputs,
            outputs,
            (size, size),
            strides=strides,
            padding=size // 2,
            use_bias=False,
            rngs=rngs,
        )
        self.norm = nnx.BatchNorm(outputs, momentum=0.9, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.norm(self.conv(x))


class Block(nnx.Module):
    """Two convolutions and what goes past them, with a ReLU after the sum (He et al. 2015)."""

    def __init__(self, inputs: int, outputs: int, strides: int, *, rngs):
        self.first = Convolution(inputs, outputs, strides=strides, rngs=rngs)
        self.second = Convolution(outputs, outputs, rngs=rngs)
        if strides > 1:
            self.shortcut = Convolution(inputs, outputs, 1, strides=strides, rngs=rngs)
        else:
            self.shortcut = lambda x: x

    def __call__(self, x: jax.Array) -> jax.Array:
        return nnx.relu(self.shortcut(x) + self.second(nnx.relu(self.first(x))))


class ResNet(nnx.Module):
    """Two blocks with the ReLU after the sum."""

    def __init__(self, *, rngs):
        self.stem = Convolution(1, 16, strides=2, rngs=rngs)
        self.blocks = nnx.List([Block(16, 16, 1, rngs=rngs), Block(16, 32, 2, rngs=rngs)])
        self.head = nnx.Linear(32, 10, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = nnx.relu(self.stem(x))
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((1, 2)))


class PreBlock(nnx.Module):
    """Batch norm and ReLU in front of each convolution, none after the sum (He et al. 2016)."""

    def __init__(self, inputs: int, outputs: int, strides: int, *, rngs):
        norm = partial(nnx.BatchNorm, momentum=0.9, rngs=rngs)
        conv = partial(nnx.Conv, use_bias=False, rngs=rngs)
        self.norm1 = norm(inputs)
        self.conv1 = conv(inputs, outputs, (3, 3), strides=strides, padding=1)
        self.norm2 = norm(outputs)
        self.conv2 = conv(outputs, outputs, (3, 3), padding=1)
        self.projection = conv(inputs, outputs, (1, 1), strides=strides) if strides > 1 else None

    def __call__(self, x: jax.Array) -> jax.Array:
        y = nnx.relu(self.norm1(x))
        shortcut = x if self.projection is None else self.projection(y)
        y = self.conv1(y)
        return shortcut + self.conv2(nnx.relu(self.norm2(y)))


class PreResNet(nnx.Module):
    """Two blocks with the ReLUs before the convolutions."""

    def __init__(self, *, rngs):
        self.stem = nnx.Conv(1, 16, (3, 3), strides=2, padding=1, use_bias=False, rngs=rngs)
        self.blocks = nnx.List([PreBlock(16, 16, 1, rngs=rngs), PreBlock(16, 32, 2, rngs=rngs)])
        self.norm = nnx.BatchNorm(32, momentum=0.9, rngs=rngs)
        self.head = nnx.Linear(32, 10, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(nnx.relu(self.norm(x)).mean((1, 2)))


def max_pool(x: jax.Array) -> jax.Array:
    """The maxima of 2x2 pixels."""
    return nnx.max_pool(x, (2, 2), (2, 2))


class VGG(nnx.Module):
    """Three convolutions, each but the second with max pooling, and two dense layers."""

    def __init__(self, *, activation: Callable = nnx.relu, pools_first: bool = False, rngs):
        self.convolutions = nnx.List(
            [
                Convolution(inputs, outputs, rngs=rngs)
                for inputs, outputs in ((1, 8), (8, 16), (16, 32))
            ]
        )
        self.dense = nnx.Linear(3 * 3 * 32, 32, rngs=rngs)
        self.head = nnx.Linear(32, 10, rngs=rngs)
        self.activation = activation
        self.pools_first = pools_first

    def __call__(self, x: jax.Array) -> jax.Array:
        for index, convolution in enumerate(self.convolutions):
            x = convolution(x)
            if index % 2 == 0 and self.pools_first:
                x = self.activation(max_pool(x))
            elif index % 2 == 0:
                x = max_pool(self.activation(x))
            else:
                x = self.activation(x)
        x = self.activation(self.dense(x.reshape(len(x), -1)))
        return self.head(x)


class Mixed(nnx.Module):
    """Branches of several sizes, side by side (Szegedy et al. 2015)."""

    def __init__(self, inputs: int, width: int, *, rngs):
        self.small = Convolution(inputs, width, 1, rngs=rngs)
        self.reduced = Convolution(inputs, width, 1, rngs=rngs)
        self.large = Convolution(width, width, 3, rngs=rngs)
        self.pooled = Convolution(inputs, width, 1, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        pooled = nnx.avg_pool(x, (3, 3), (1, 1), "SAME")
        branches = [self.small(x), self.large(nnx.relu(self.reduced(x))), self.pooled(pooled)]
        return jnp.concatenate([nnx.relu(branch) for branch in branches], axis=-1)


class Inception(nnx.Module):
    """Two modules of branches that are concatenated."""

    def __init__(self, *, rngs):
        self.stem = Convolution(1, 8, rngs=rngs)
        self.first = Mixed(8, 12, rngs=rngs)
        self.second = Mixed(36, 20, rngs=rngs)
        self.head = nnx.Linear(60, 10, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = max_pool(nnx.relu(self.stem(x)))
        x = self.second(max_pool(self.first(x)))
        return self.head(x.mean((1, 2)))


class CNN(nnx.Module):
    """The network of Flax's tutorial on MNIST."""

    def __init__(self, *, rngs):
        self.conv1 = nnx.Conv(1, 32, (3, 3), rngs=rngs)
        self.conv2 = nnx.Conv(32, 64, (3, 3), rngs=rngs)
        self.avg_pool = partial(nnx.avg_pool, window_shape=(2, 2), strides=(2, 2))
        self.linear1 = nnx.Linear(3 * 3 * 64, 256, rngs=rngs)
        self.linear2 = nnx.Linear(256, 10, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.avg_pool(nnx.relu(self.conv1(x)))
        x = self.avg_pool(nnx.relu(self.conv2(x)))
        x = nnx.relu(self.linear1(x.reshape(len(x), -1)))
        return self.linear2(x)


NETWORKS: dict[str, Callable[..., nnx.Module]] = {
    "ResNet": ResNet,
    "pre-activation ResNet": PreResNet,
    "VGG": VGG,
    "VGG, max pooling before the ReLU": partial(VGG, pools_first=True),
    "VGG, ReLU6": partial(VGG, activation=jax.nn.relu6),
    "Inception": Inception,
    "CNN of Flax's tutorial": CNN,
}


# -- Training --------------------------------------------------------------------------------------


@cache
def mnist() -> tuple[jaxsnn.Dataset, jaxsnn.Dataset]:
    """MNIST's images for training, the first 20,000, and for testing, with 14x14 pixels."""
    train, test = jaxsnn.load_dataset("mnist")
    return reduced(train, IMAGES), reduced(test, len(test))


def reduced(data: jaxsnn.Dataset, count: int) -> jaxsnn.Dataset:
    """The first images; a pixel is the mean of 2x2."""
    pixels = data.images[:count].reshape(-1, 14, 2, 14, 2, 1)
    return jaxsnn.Dataset(pixels.mean((2, 4), dtype=np.float32), data.labels[:count])


@nnx.jit
def step(model: nnx.Module, optimizer: nnx.Optimizer, images: jax.Array, labels: jax.Array) -> None:
    """One step of the training."""

    def loss(model: nnx.Module) -> jax.Array:
        logits = model(images)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    optimizer.update(model, nnx.grad(loss)(model))


def fit(model: nnx.Module, data: jaxsnn.Dataset) -> None:
    """Train a network in place, and leave it in evaluation mode."""
    model.train()
    steps = len(data) // BATCH
    schedule = optax.cosine_onecycle_schedule(EPOCHS * steps, RATE)
    optimizer = nnx.Optimizer(model, optax.adam(schedule), wrt=nnx.Param)
    take = nnx.cached_partial(step, model, optimizer)
    for epoch in range(EPOCHS):
        order = np.random.default_rng(epoch).permutation(len(data))[: steps * BATCH]
        for batch in order.reshape(steps, BATCH):
            take(data.images[batch], data.labels[batch])
    model.eval()


def kept_in(name: str) -> Path:
    """The file of a trained network; what changes this module or JAX trains it anew."""
    identity = digest(Path(__file__).read_text(), version("jax"), version("flax"))[:16]
    return Path(platformdirs.user_cache_dir("jaxsnn")) / "zoo" / identity / f"{name}.npz"


def trained(name: str) -> nnx.Module:
    """A network of `NETWORKS` in evaluation mode, trained now or earlier."""
    path = kept_in(name)
    if not path.exists():
        # The generator of XLA itself compiles in a third of the time.
        model = NETWORKS[name](rngs=nnx.Rngs(jax.random.key(0, impl="rbg")))
        fit(model, mnist()[0])
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".unfinished.npz")
        np.savez(unfinished, *jax.tree.leaves(nnx.state(model)))
        unfinished.replace(path)
    model = nnx.eval_shape(lambda: NETWORKS[name](rngs=nnx.Rngs(0)))
    model.eval()
    graph, state = nnx.split(model)
    arrays = map(jnp.asarray, np.load(path).values())
    return nnx.merge(graph, jax.tree.unflatten(jax.tree.structure(state), arrays))


def main(names: tuple[str, ...] = tuple(NETWORKS)) -> None:
    """Train the networks that are not kept yet.

    Args:
        names: which of them.
    """
    for name in names:
        weights = jax.tree.leaves(nnx.state(trained(name), nnx.Param))
        print(f"{name}: {sum(leaf.size for leaf in weights):,} weights", flush=True)


if __name__ == "__main__":
    tyro.cli(main)
