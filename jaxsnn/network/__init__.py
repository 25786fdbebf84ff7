"""Networks: linear operations, and layers of neurons that they connect."""

from jaxsnn.network.graph import (
    INPUT,
    LAYER_BEFORE,
    Capped,
    ClipFloor,
    Connection,
    Layer,
    Network,
    check_range,
    linear,
    per_layer,
    relu,
)
from jaxsnn.network.operations import (
    AveragePooling,
    Channels,
    Convolution,
    Dense,
    Gain,
    MaxPooling,
    Multiply,
    Operation,
    Reshape,
    Select,
    Transpose,
)
from jaxsnn.network.poolings import merge_poolings
from jaxsnn.support.arrays import AnyArray, Shape, is_known

__all__ = [
    "INPUT",
    "LAYER_BEFORE",
    "AnyArray",
    "AveragePooling",
    "Capped",
    "Channels",
    "ClipFloor",
    "Connection",
    "Convolution",
    "Dense",
    "Gain",
    "Layer",
    "MaxPooling",
    "Multiply",
    "Network",
    "Operation",
    "Reshape",
    "Select",
    "Shape",
    "Transpose",
    "check_range",
    "is_known",
    "linear",
    "merge_poolings",
    "per_layer",
    "relu",
]
