"""Architectures whose reading must not multiply their work: DenseNet-BC and MobileNetV2, in NNX."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx


def with_statistics(build):
    """A model in evaluation form, with batch norms as after training: of random statistics.

    The weights have He's deviations; NumPy draws them, since a program for each shape takes longer
    to compile than all else.
    """
    rng = np.random.default_rng(1)

    def drawn(leaf):
        deviation = np.sqrt(2 / np.prod(leaf.shape[:-1])) if len(leaf.shape) > 1 else 0.1
        return jnp.asarray(rng.normal(0, deviation, leaf.shape), leaf.dtype)

    graph, state = nnx.split(nnx.eval_shape(build))
    model = nnx.merge(graph, jax.tree.map(drawn, state))
    for _, part in nnx.iter_graph(model):
        if isinstance(part, nnx.BatchNorm):
            for name, low in {"mean": -0.2, "var": 0.5, "scale": 0.5, "bias": -0.2}.items():
                values = getattr(part, name)
                values[...] = jnp.asarray(rng.uniform(low, low + 0.5, values.shape), "float32")
    model.eval()
    return model


class NormAndConv(nnx.Module):
    """Batch norm, ReLU and a convolution, in the order of DenseNet."""

    def __init__(self, inputs, outputs, window, rngs):
        self.norm = nnx.BatchNorm(inputs, rngs=rngs)
        self.conv = nnx.Conv(inputs, outputs, (window, window), use_bias=False, rngs=rngs)

    def __call__(self, x):
        return self.conv(nnx.relu(self.norm(x)))


class DenseNet(nnx.Module):
    """DenseNet-BC (Huang et al. 2017): blocks of bottlenecks that add `growth` maps each."""

    def __init__(self, bottlenecks=6, growth=12):
        rngs, maps = nnx.Rngs(0), 2 * growth
        self.first = nnx.Conv(1, maps, (3, 3), use_bias=False, rngs=rngs)
        parts = []
        for block in range(3):
            for _ in range(bottlenecks):
                narrow = NormAndConv(maps, 4 * growth, 1, rngs)
                parts.append(nnx.List([narrow, NormAndConv(4 * growth, growth, 3, rngs)]))
                maps += growth
            if block < 2:
                parts.append(NormAndConv(maps, maps // 2, 1, rngs))
                maps //= 2
        self.parts = nnx.List(parts)
        self.norm = nnx.BatchNorm(maps, rngs=rngs)
        self.last = nnx.Linear(maps, 10, rngs=rngs)

    def __call__(self, x):
        x = self.first(x)
        for part in self.parts:
            if isinstance(part, NormAndConv):
                x = nnx.avg_pool(part(x), (2, 2), (2, 2))
            else:
                narrow, wide = part
                x = jnp.concatenate([x, wide(narrow(x))], -1)
        return self.last(nnx.relu(self.norm(x)).mean((1, 2)))


class InvertedResidual(nnx.Module):
    """Expanded by 1x1, filtered for each map by 3x3, and projected, without a ReLU at the end."""

    def __init__(self, inputs, outputs, stride, expansion, rngs):
        wide = expansion * inputs
        options = {"use_bias": False, "rngs": rngs}
        self.expand = nnx.Conv(inputs, wide, (1, 1), **options)
        self.filter = nnx.Conv(
            wide, wide, (3, 3), strides=stride, feature_group_count=wide, **options
        )
        self.project = nnx.Conv(wide, outputs, (1, 1), **options)
        self.norms = nnx.List([nnx.BatchNorm(n, rngs=rngs) for n in (wide, wide, outputs)])
        self.adds = stride == 1 and inputs == outputs

    def __call__(self, x):
        y = jax.nn.relu6(self.norms[0](self.expand(x)))
        y = jax.nn.relu6(self.norms[1](self.filter(y)))
        y = self.norms[2](self.project(y))
        return x + y if self.adds else y


class MobileNetV2(nnx.Module):
    """The blocks of MobileNetV2 (Sandler et al. 2018) with fewer maps.

    No block comes more than `depth` times in a row.
    """

    def __init__(self, width=4, depth=4):
        rngs = nnx.Rngs(0)
        self.first = nnx.Conv(1, 2 * width, (3, 3), use_bias=False, rngs=rngs)
        self.first_norm = nnx.BatchNorm(2 * width, rngs=rngs)
        inputs, blocks = 2 * width, []
        for expansion, maps, times, stride in [
            *[(1, 1, 1, 1), (6, 2, 2, 2), (6, 3, 3, 2), (6, 4, 4, 1), (6, 6, 3, 1), (6, 8, 3, 2)],
            (6, 10, 1, 1),
        ]:
            for index in range(min(times, depth)):
                blocks.append(
                    InvertedResidual(
                        inputs, maps * width, stride if not index else 1, expansion, rngs
                    )
                )
                inputs = maps * width
        self.blocks = nnx.List(blocks)
        self.wide = nnx.Conv(inputs, 4 * inputs, (1, 1), use_bias=False, rngs=rngs)
        self.wide_norm = nnx.BatchNorm(4 * inputs, rngs=rngs)
        self.last = nnx.Linear(4 * inputs, 10, rngs=rngs)

    def __call__(self, x):
        x = jax.nn.relu6(self.first_norm(self.first(x)))
        for block in self.blocks:
            x = block(x)
        x = jax.nn.relu6(self.wide_norm(self.wide(x)))
        return self.last(x.mean((1, 2)))
