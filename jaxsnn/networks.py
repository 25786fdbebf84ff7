"""The paper's two networks and two deeper ones, by the name under which they are documented."""

from jaxsnn.paper.deep_networks import VGG, ResNet
from jaxsnn.paper.networks import ConvNet, FullyConnected, symmetric_uniform

__all__ = ["VGG", "ConvNet", "FullyConnected", "ResNet", "symmetric_uniform"]
