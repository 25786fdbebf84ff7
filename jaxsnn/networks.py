"""The paper's two networks, by the name under which they are documented."""

from jaxsnn.paper.networks import ConvNet, FullyConnected, symmetric_uniform

__all__ = ["ConvNet", "FullyConnected", "symmetric_uniform"]
