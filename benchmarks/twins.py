"""The zoo's networks as users of PyTorch write them, with the weights of those of Flax.

Modules have the names that they have in zoo.py, by which their weights are found.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
import torch
from flax import nnx
from torch import Tensor, nn


class Convolution(nn.Module):
    """A convolution and its batch norm."""

    def __init__(self, inputs: int, outputs: int, size: int = 3, *, strides: int = 1):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, size, strides, size // 2, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


class Block(nn.Module):
    """Two convolutions and what goes past them, with a ReLU after the sum."""

    def __init__(self, inputs: int, outputs: int, strides: int):
        super().__init__()
        self.first = Convolution(inputs, outputs, strides=strides)
        self.second = Convolution(outputs, outputs)
        self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()
        if strides > 1:
            self.shortcut = Convolution(inputs, outputs, 1, strides=strides)
        else:
            self.shortcut = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu2(self.shortcut(x) + self.second(self.relu1(self.first(x))))


class ResNet(nn.Module):
    """Two blocks with the ReLU after the sum."""

    def __init__(self):
        super().__init__()
        self.stem = Convolution(1, 16, strides=2)
        self.relu = nn.ReLU()
        self.blocks = nn.Sequential(Block(16, 16, 1), Block(16, 32, 2))
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.relu(self.stem(x))).mean((2, 3)))


class PreBlock(nn.Module):
    """Batch norm and ReLU in front of each convolution, none after the sum."""

    def __init__(self, inputs: int, outputs: int, strides: int):
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(inputs), nn.BatchNorm2d(outputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, strides, 1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()
        self.projection = None
        if strides > 1:
            self.projection = nn.Conv2d(inputs, outputs, 1, strides, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu1(self.norm1(x))
        shortcut = x if self.projection is None else self.projection(y)
        return shortcut + self.conv2(self.relu2(self.norm2(self.conv1(y))))


class PreResNet(nn.Module):
    """Two blocks with the ReLUs before the convolutions."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 16, 3, 2, 1, bias=False)
        self.blocks = nn.Sequential(PreBlock(16, 16, 1), PreBlock(16, 32, 2))
        self.norm = nn.BatchNorm2d(32)
        self.relu = nn.ReLU()
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.relu(self.norm(self.blocks(self.stem(x)))).mean((2, 3)))


def flattened(x: Tensor) -> Tensor:
    """Maps in the order of Flax, in which channels are the last axis."""
    return x.permute(0, 2, 3, 1).flatten(1)


class VGG(nn.Module):
    """Convolutions, each but the second with max pooling, and two dense layers."""

    def __init__(self, activation: Callable[[], nn.Module] = nn.ReLU, pools_first: bool = False):
        super().__init__()
        widths = ((1, 8), (8, 16), (16, 32))
        self.convolutions = nn.ModuleList(Convolution(*pair) for pair in widths)
        self.activations = nn.ModuleList(activation() for _ in range(4))
        self.pools = nn.ModuleList([nn.MaxPool2d(2), nn.Identity(), nn.MaxPool2d(2)])
        self.dense = nn.Linear(3 * 3 * 32, 32)
        self.head = nn.Linear(32, 10)
        self.pools_first = pools_first

    def forward(self, x: Tensor) -> Tensor:
        *activations, last = self.activations
        for convolution, activation, pool in zip(self.convolutions, activations, self.pools):
            x = convolution(x)
            x = activation(pool(x)) if self.pools_first else pool(activation(x))
        return self.head(last(self.dense(flattened(x))))


class Mixed(nn.Module):
    """Branches of several sizes, side by side."""

    def __init__(self, inputs: int, width: int):
        super().__init__()
        self.small = Convolution(inputs, width, 1)
        self.reduced = Convolution(inputs, width, 1)
        self.large = Convolution(width, width)
        self.pooled = Convolution(inputs, width, 1)
        self.pool = nn.AvgPool2d(3, 1, 1)
        self.relu = nn.ReLU()
        self.relus = nn.ModuleList(nn.ReLU() for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        large = self.large(self.relu(self.reduced(x)))
        branches = [self.small(x), large, self.pooled(self.pool(x))]
        return torch.cat([relu(branch) for relu, branch in zip(self.relus, branches)], 1)


class Inception(nn.Module):
    """Two modules of branches that are concatenated."""

    def __init__(self):
        super().__init__()
        self.stem = Convolution(1, 8)
        self.relu = nn.ReLU()
        self.pool1, self.pool2 = nn.MaxPool2d(2), nn.MaxPool2d(2)
        self.first = Mixed(8, 12)
        self.second = Mixed(36, 20)
        self.head = nn.Linear(60, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool1(self.relu(self.stem(x)))
        return self.head(self.second(self.pool2(self.first(x))).mean((2, 3)))


class CNN(nn.Module):
    """The network of Flax's tutorial on MNIST."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 32, 3, 1, 1), nn.Conv2d(32, 64, 3, 1, 1)
        self.relu1, self.relu2, self.relu3 = nn.ReLU(), nn.ReLU(), nn.ReLU()
        self.pool1, self.pool2 = nn.AvgPool2d(2), nn.AvgPool2d(2)
        self.linear1 = nn.Linear(3 * 3 * 64, 256)
        self.linear2 = nn.Linear(256, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool1(self.relu1(self.conv1(x)))
        x = self.pool2(self.relu2(self.conv2(x)))
        return self.linear2(self.relu3(self.linear1(flattened(x))))


TWINS: dict[str, Callable[[], nn.Module]] = {
    "ResNet": ResNet,
    "pre-activation ResNet": PreResNet,
    "VGG": VGG,
    "VGG, max pooling before the ReLU": partial(VGG, pools_first=True),
    "VGG, ReLU6": partial(VGG, nn.ReLU6),
    "Inception": Inception,
    "CNN of Flax's tutorial": CNN,
}

# What PyTorch calls the variables of Flax.
_NAMES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}


def as_torch(images: np.ndarray) -> Tensor:
    """Images `[N, height, width, channels]` as PyTorch has them, `[N, channels, height, width]`."""
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


def twin(name: str, model: nnx.Module, images: np.ndarray) -> nn.Module:
    """The network in PyTorch, in evaluation mode, with the weights of a model.

    Raises:
        AssertionError: the two differ by more than the rounding of float32.
    """
    module = TWINS[name]()
    weights = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(nnx.state(model).to_pure_dict()):
        *parents, last = (str(part.key) for part in path)
        weights[".".join((*parents, _NAMES[last]))] = _transposed(np.asarray(leaf))
    module.load_state_dict(weights, strict=False)  # Flax does not count the batches
    module.eval()
    with jax.default_matmul_precision("highest"):  # the default of GPUs is TF32
        expected = np.asarray(model(images))
    with torch.no_grad():
        found = module(as_torch(images)).numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    return module


def _transposed(weights: np.ndarray) -> Any:
    """Kernels with their outputs first, as PyTorch has them."""
    axes = {2: (1, 0), 4: (3, 2, 0, 1)}.get(weights.ndim)
    return torch.tensor(weights if axes is None else weights.transpose(axes))
