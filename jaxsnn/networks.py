"""The paper's two networks, one for few steps and two deeper ones: where they are documented."""

from jaxsnn.paper.deep_networks import VGG, ResNet
from jaxsnn.paper.networks import (
    ClipFloorConvNet,
    ClipFloorFullyConnected,
    ConvNet,
    FullyConnected,
    symmetric_uniform,
)

__all__ = [
    "VGG",
    "ClipFloorConvNet",
    "ClipFloorFullyConnected",
    "ConvNet",
    "FullyConnected",
    "ResNet",
    "symmetric_uniform",
]
