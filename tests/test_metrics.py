"""Accuracy, latency and operations: their values, and what is no accuracy, label or count."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsnn
from jaxsnn import metrics

PREDICTIONS = np.array([[0, 1, -1], [2, 1, 0]])


# -- Accuracy --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [list, np.array, jnp.array, lambda v: np.array(v, np.uint8)])
def test_accuracy_of_every_kind_of_integers(kind):
    found = metrics.accuracy(PREDICTIONS, kind([2, 1, 0]), classes=3)
    np.testing.assert_allclose(found, [1 / 3, 1.0])
    np.testing.assert_allclose(metrics.accuracy(jnp.asarray(PREDICTIONS), kind([2, 1, 0])), found)


def test_accuracy_can_be_traced_with_its_labels():
    labels = jnp.array([2, 1, 0])
    traced = jax.jit(metrics.accuracy)(PREDICTIONS, labels)
    np.testing.assert_array_equal(traced, metrics.accuracy(PREDICTIONS, labels))
    mapped = jax.vmap(lambda p: metrics.accuracy(p, labels))(jnp.asarray(PREDICTIONS))
    np.testing.assert_array_equal(mapped, traced)
    of_traced = jax.jit(lambda a: metrics.accuracy(PREDICTIONS, [a, 1, 0]))(2)
    np.testing.assert_array_equal(of_traced, traced)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0.5, 1.0, 2.0], "labels must be integers, not float64; name classes by their numbers"),
        (jnp.array([0.0, 1.0, 2.0]), "labels must be integers, not float32"),
        ([0.0, np.nan, 1.0], "labels must be integers"),
        ([True, False, True], "labels must be integers, not bool"),
        (["0", "1", "2"], "labels must be integers, not text"),
        ([0, -1, 2], r"labels range from -1 to 2; they must be classes, from 0 on"),
        (jnp.array([0, -1, 2]), r"labels range from -1 to 2"),
        ([0, 1, 2**32 + 2], "labels range from 0 to 4294967298"),
        (np.array([0, 1, 2**32 + 2], np.uint64), "labels range from 0 to 4294967298"),
        ([[0], [1, 2]], "labels must be an array, or a list of lists of one length"),
        ([], "one label for each sample"),
        ([0, 1], "one label for each sample"),
        (np.eye(3, dtype=int), r"One-hot labels have classes: labels.argmax\(-1\)"),
    ],
)
def test_accuracy_refuses_labels(labels, message):
    with pytest.raises(ValueError, match=message):
        metrics.accuracy(PREDICTIONS, labels)


def test_accuracy_refuses_labels_beyond_the_known_classes():
    with pytest.raises(ValueError, match=r"labels range from 0 to 3; .* from 0 to 2"):
        metrics.accuracy(PREDICTIONS, [0, 3, 1], classes=3)


@pytest.mark.parametrize(
    ("predictions", "message"),
    [
        ([0.5, 1.0, 2.0], r"predictions must be integers, not float64; .* scores.argmax\(-1\)"),
        (jnp.zeros((3, 3)), r"predictions must be integers, not float32"),
        ([True, False, True], "predictions must be integers, not bool"),
        ([-2, 0, 1], "predictions range from -2 to 1; they must be classes, from -1 on"),
        ([0, 1, 2**32 + 2], "predictions range from 0 to 4294967298"),
        ([], "one label for each sample"),
        (1, "one label for each sample"),
    ],
)
def test_accuracy_refuses_predictions(predictions, message):
    with pytest.raises(ValueError, match=message):
        metrics.accuracy(predictions, [0, 1, 2])


def test_masks_are_not_ignored():
    """Without the type checker, which would speak first."""
    with pytest.raises(ValueError, match="labels must have no mask"):
        metrics.checked_labels(np.ma.masked_array([0, 1], [True, False]))


def test_predictions_are_not_waited_for():
    """What is computed elsewhere has no values to look at."""
    donated = jnp.array([0, 1, 2])
    donated.delete()
    with pytest.raises(RuntimeError, match="deleted"):  # by the comparison, not by a check
        metrics.accuracy(donated, [0, 1, 2])


# -- Latency ---------------------------------------------------------------------------------------


def test_latency_is_the_end_of_the_first_step_from_which_on_the_accuracy_is_close():
    accuracies = [0.1, 0.99, 0.5, 0.98, 0.99]
    assert metrics.latency(accuracies, within=0.02, dt=0.5) == 2.0
    assert metrics.latency(accuracies, within=0.0, dt=0.5) == 2.5
    assert metrics.latency(jnp.array([0.5, 0.5]), dt=2) == 2.0
    assert metrics.latency([1, 1 + 2**-23]) == 0.001  # a mean of ones, rounded in float32


@pytest.mark.parametrize(
    ("accuracies", "message"),
    [
        ([], r"accuracies have shape \(0,\)"),
        (0.5, r"accuracies have shape \(\)"),
        ([[0.5, 0.5]], r"accuracies have shape \(1, 2\)"),
        ([0.1, np.nan, 0.5], "accuracies must be finite numbers; 1 of 3 are not, such as nan"),
        ([0.1, np.inf], "accuracies must be finite numbers; 1 of 2 are not, such as inf"),
        ([97.0, 98.0], r"accuracies range from 97 to 98; .*Divide percentages by 100"),
        ([-0.1, 0.5], r"accuracies range from -0.1 to 0.5"),
        ([0.5j, 0.5], "accuracies must be real numbers, not complex128"),
        ([True, False], "accuracies must be real numbers, not bool"),
        (["a"], "accuracies must be real numbers, not <U1"),
    ],
)
def test_latency_refuses_accuracies(accuracies, message):
    with pytest.raises(ValueError, match=message):
        metrics.latency(accuracies)


@pytest.mark.parametrize("name", ["dt", "within"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -0.001])
def test_latency_refuses_dt_and_within(name, value):
    with pytest.raises(ValueError, match=f"{name}={value:g}; it must be"):
        metrics.latency([0.5, 0.6], **{name: value})


@pytest.mark.parametrize(("name", "value"), [("dt", 0.0), ("within", 30.0)])
def test_latency_refuses_no_time_and_percentages(name, value):
    with pytest.raises(ValueError, match=f"{name}={value:g}; it must be"):
        metrics.latency([0.5, 0.6], **{name: value})


def test_latency_cannot_be_traced():
    with pytest.raises(ValueError, match="accuracies must be known, not traced"):
        jax.jit(metrics.latency)(jnp.array([0.5, 0.6]))


# -- Operations ------------------------------------------------------------------------------------


@pytest.fixture
def network():
    weights = jnp.array([[1.0, 0.0, 1.0], [1.0, 2.0, 0.0]]), jnp.ones((3, 1))

    def model(x):
        for kernel in weights:
            x = jax.nn.relu(x @ kernel)
        return x

    return jaxsnn.read_network(model, jnp.zeros((1, 2)))


def test_operations_are_spikes_times_fan_out(network):
    counts, hidden, output = np.array([[3.0, 5.0]]), np.array([[1, 2, 4]]), np.array([[9]])
    found = metrics.synaptic_operations(network, counts, [hidden, output])
    assert found.tolist() == [2 * 3 + 2 * 5 + 1 + 2 + 4]
    traced = jax.jit(lambda c: metrics.synaptic_operations(network, c, [hidden, output]))(counts)
    assert traced.tolist() == found.tolist()
    assert metrics.dense_operations(network) == 4 + 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input_spike_counts": np.ones((1, 5))}, r"input_spike_counts and .*\(1, 5\).*\(2,\)"),
        ({"input_spike_counts": np.ones(2)}, r"shapes \[\(2,\)"),
        ({"input_spike_counts": np.ones((3, 2))}, "one B"),
        ({"input_spike_counts": -np.ones((1, 2))}, "input_spike_counts must be numbers of spikes"),
        ({"input_spike_counts": np.full((1, 2), np.nan)}, "input_spike_counts must be numbers of"),
        ({"input_spike_counts": np.ones((1, 2)) * 1j}, "input_spike_counts must be numbers of"),
        ({"spike_counts": []}, r"this network needs"),
        ({"spike_counts": [np.ones((1, 3))]}, r"this network needs"),
        ({"spike_counts": [-np.ones((1, 3)), np.ones((1, 1))]}, "^spike_counts must be numbers"),
        ({"spike_counts": [np.ones((1, 3)), np.full((1, 1), np.inf)]}, "^spike_counts must be"),
    ],
)
def test_synaptic_operations_refuse(network, change, message):
    counts = {
        "input_spike_counts": np.ones((1, 2)),
        "spike_counts": [np.ones((1, 3)), np.ones((1, 1))],
    }
    with pytest.raises(ValueError, match=message):
        metrics.synaptic_operations(network, **(counts | change))


@pytest.mark.parametrize(
    ("synapses", "sent"),
    [
        ([], []),
        ([np.ones(2)], []),
        ([np.ones(2)], [np.ones((1, 2))] * 2),
        ([np.ones(2)], [np.ones((1, 3))]),
        ([1.0], [np.ones((1, 3))]),
    ],
)
def test_operations_refuse(synapses, sent):
    with pytest.raises(ValueError, match=r"synapses are of shapes .* and sent of"):
        metrics.operations(synapses, sent)


def test_the_dense_operations_of_a_traced_network_are_unknown(network):
    with pytest.raises(ValueError, match="the network must be known, not traced"):
        jax.jit(metrics.dense_operations)(network)


def test_additions_that_do_not_depend_on_spikes():
    weights = jnp.asarray(np.random.default_rng(0).normal(size=(4, 4)), jnp.float32)

    def model(x):
        stream = x @ weights + jnp.array([[1.0, 0.0, 2.0, 0.0]])
        for _ in range(2):
            stream = stream + jax.nn.relu(2 * stream + 1) @ weights
        return jax.nn.relu(stream @ weights[:, :3])

    network = jaxsnn.read_network(model, jnp.zeros((1, 4)))
    found = jaxsnn.metrics.additions(network)
    sums = [index for index, layer in enumerate(network.layers) if not layer.spiking]
    expected = 0
    for layer in network.layers:
        for connection in layer.all_connections:
            if connection.source in sums and connection.weighted:
                weights_of = [np.asarray(w) for w in jax.tree.leaves(connection)]
                expected += sum(4 if w.ndim < 2 else np.count_nonzero(w) for w in weights_of)
    assert found.sums == expected > 0
    biases = [
        np.count_nonzero(np.broadcast_to(layer.bias, shape))
        for layer, shape in zip(network.layers, network.shapes)
        if layer.bias is not None
    ]
    assert found.biases == sum(biases) > 0


def test_a_chain_of_relus_has_no_other_additions():
    network = jaxsnn.read_network(lambda x: jax.nn.relu(x @ jnp.ones((2, 3))), jnp.zeros((1, 2)))
    assert jaxsnn.metrics.additions(network) == (0, 0)
