"""Average poolings without neurons of their own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from jaxsnn.network.graph import Connection, Layer, Network, needed_layers, relu
from jaxsnn.support.typed import typed


@typed
def merge_poolings(network: Network) -> Network:
    """Fold average poolings into the layers that read them, wherever their ReLU changes nothing.

    An average of what ReLUs send is never negative, so that the ReLU after it keeps it, and the
    neurons that would spike for it only round it. Without them the network is one layer less deep
    there, and needs fewer steps; the price are operations, since each spike in front of a pooling
    then reaches the neurons behind it through weights of its own: compare
    `metrics.dense_operations` of both, or what `report` says of them.

    Kept are poolings of the input, which may be negative, those that a max pooling reads, and one
    that is the output.

    Source: the largest gain of the paper's ConvNet at few steps, with the same ReLU network.

    Args:
        network: the ReLU network.

    Returns:
        The same function, to the rounding of sums.

    Example:
        >>> import jax, jax.numpy as jnp, jaxsnn
        >>> from flax import nnx
        >>> def model(x):
        ...     x = jax.nn.relu(nnx.avg_pool(jax.nn.relu(2 * x), (2, 2), (2, 2)))
        ...     return x.reshape(len(x), -1) @ jnp.ones((4, 1))
        >>> network = jaxsnn.read_network(model, jnp.zeros((1, 4, 4, 1)))
        >>> len(network.layers), len(jaxsnn.merge_poolings(network).layers)
        (3, 2)
    """
    layers = list(network.layers)
    for index in mergeable_poolings(network):
        pooling = {index: layers[index].connection}
        layers = [_through(layer, pooling) for layer in layers]
    return Network(needed_layers(layers), network.input_shape)


def mergeable_poolings(network: Network) -> list[int]:
    """The indices of the layers that `merge_poolings` removes.

    Example:
        >>> import jax, jax.numpy as jnp, jaxsnn
        >>> from jaxsnn.network.poolings import mergeable_poolings
        >>> network = jaxsnn.read_network(lambda x: jax.nn.relu(2 * x), jnp.zeros((1, 2)))
        >>> mergeable_poolings(network)
        []
    """
    found = []
    for index, layer in enumerate(network.layers[:-1]):
        readers = [r for r in network.layers if index in {p.source for p in r.all_connections}]
        if _averages(network, layer) and not any(reader.pools_maxima for reader in readers):
            found.append(index)
    return found


def _averages(network: Network, layer: Layer) -> bool:
    """Whether the ReLU of a layer changes nothing, since it averages what spiking layers send."""
    return (
        len(layer.all_connections) == 1
        and network.spikes_from(layer.connection.source)
        and layer.activation is relu
        and layer.bias is None
        and not layer.weighted
        and not layer.pools_maxima
    )


def _through(layer: Layer, merged: Mapping[int, Connection]) -> Layer:
    """The layer with connections that lead through the operations of the layers merged."""
    connections = tuple(
        Connection((*before.operations, *part.operations), before.source)
        if (before := merged.get(part.source)) is not None
        else part
        for part in layer.all_connections
    )
    return replace(layer, connections=connections)
