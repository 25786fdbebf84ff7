"""Layers, connections, and the neurons that belong to a spiking network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsnn
from jaxsnn.network import INPUT, Connection, Dense, Layer, Network, Reshape

import models


def dense(*shape):
    return (Dense(jnp.ones(shape)),)


def test_operations_alone_are_a_connection_from_the_layer_before():
    by_hand = Network((Layer(dense(4, 3)), Layer((Connection(dense(3, 2), 0),))), (4,))
    assert [layer.connection.source for layer in by_hand.layers] == [INPUT, 0]
    assert by_hand(jnp.ones((1, 4))).tolist() == [[12.0, 12.0]]
    assert [by_hand.shape_of(source) for source in (INPUT, 0, 1)] == [(4,), (3,), (2,)]


@pytest.mark.parametrize(
    "layer",
    [
        Layer((Connection(dense(3, 2), 1),)),
        Layer((Connection(dense(3, 2)), Connection(dense(4, 2), 2))),
        Layer(dense(3, 2), activation=jnp.abs),
        Layer((Reshape((3,)),), bias=jnp.ones(3)),
    ],
    ids=["from itself", "from a later one", "another activation", "a bias without weights"],
)
def test_what_a_layer_cannot_be(layer):
    with pytest.raises(ValueError, match=r"layer 2 (receives|has)"):
        Network((Layer(dense(4, 3)), layer), (4,))


def test_names_of_layers_compile_nothing_anew(rng):
    network, _ = models.dense_network(rng)
    renamed = Network(
        tuple(Layer(layer.operations, name=f"layer {n}") for n, layer in enumerate(network.layers)),
        network.input_shape,
    )
    assert str(renamed.layers[1].name) == "layer 1"
    assert jax.tree.structure(renamed) == jax.tree.structure(network)


def test_what_a_spike_weighs_belongs_to_the_connection(rng):
    network, _ = models.dense_network(rng)
    by_sender = jaxsnn.SpikingNetwork(network, [1.0, 1.0, 1.0], [2.0, 4.0, 8.0])
    assert by_sender.amplitudes == [[None], [2.0], [4.0]]
    by_connection = jaxsnn.SpikingNetwork(network, [1.0, 1.0, 1.0], [[None], [2.0], [4.0]])
    images = models.dyadic_images(rng, 3, 12)
    one, other = (
        jaxsnn.simulate(snn, images, key=0, duration=0.01) for snn in (by_sender, by_connection)
    )
    for counts, expected in zip(one.spike_counts, other.spike_counts, strict=True):
        np.testing.assert_array_equal(counts, expected)
    with pytest.raises(ValueError, match="one for each connection, and None"):
        jaxsnn.SpikingNetwork(network, [1.0] * 3, [[2.0], [2.0], [4.0]]).check()


@pytest.mark.parametrize("arithmetic", [None, jaxsnn.FixedPoint(8)], ids=["float", "8 bits"])
def test_arguments_of_a_run_override_the_neurons_of_the_network(rng, arithmetic):
    network, _ = models.dense_network(rng)
    images = models.dyadic_images(rng, 3, 12)
    plain = jaxsnn.balance_thresholds(network, 2.0)
    ahead = jaxsnn.balance_thresholds(
        network, 2.0, initial_potential=0.5, reset=jaxsnn.reset_by_subtraction
    )

    def counts(snn, **options):
        options = {"key": 0, "duration": 0.012, "arithmetic": arithmetic, **options}
        return [counts.tolist() for counts in jaxsnn.simulate(snn, images, **options).spike_counts]

    half = {"reset": jaxsnn.reset_by_subtraction, "initial_potential": [1.0, 1.0, 1.0]}
    assert counts(ahead) == counts(plain, **half)
    none = {"reset": jaxsnn.reset_to_zero, "initial_potential": 0.0}
    assert counts(ahead, **none) == counts(plain)
    assert counts(ahead) != counts(plain)


@pytest.mark.parametrize("fraction", [np.nan, [0.5], [0.5, np.inf, 0.5]])
def test_bad_initial_potentials(rng, fraction):
    network, _ = models.dense_network(rng)
    with pytest.raises(ValueError, match="initial_potential"):
        jaxsnn.balance_thresholds(network, 1.0, initial_potential=fraction)
