"""Thresholds and more, learned for a few steps."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsnn
from jaxsnn.calibration import moved, no_moves

import models

pytestmark = pytest.mark.promotes

STEPS = 4


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(1).uniform(0, 1, (300, 8)).astype(np.float32)


@pytest.fixture(scope="module")
def snn(images):
    """Logits of two layers with biases, with thresholds that are too high."""
    rng = np.random.default_rng(0)
    one, two = models.dyadic(rng, 8, 16), models.dyadic(rng, 16, 3)
    network = jaxsnn.read_network(lambda x: jax.nn.relu(x @ one + 0.25) @ two + 0.5, images)
    return jaxsnn.balance_thresholds(
        network,
        2 * jaxsnn.percentile_scales(network, images, percentile=100),
        initial_potential=0.5,
        reset=jaxsnn.reset_by_subtraction,
        encode=jaxsnn.constant,
    )


def calibrated(snn, images, labels=None, **how):
    rate = optax.adam(0.03)
    given = {"steps": STEPS, "batch_size": 40, "epochs": 30, "optimizer": rate, **how}
    return jaxsnn.calibrate(snn, images, labels, progress=False, **given)


def error(snn, network, images):
    """The root mean square of how far the scores are from a ReLU network's."""
    run = jaxsnn.simulate(snn, images, key=0, duration=STEPS * 1e-3, engine="scan")
    return float(jnp.sqrt(jnp.mean((run.scores[-1] / STEPS - network(images)) ** 2)))


@pytest.mark.parametrize(
    "parameters",
    [
        ("thresholds", "initial_potentials"),
        ("amplitudes",),
        ("weights", "biases"),
    ],
    ids=" and ".join,
)
@pytest.mark.thinned(3)
def test_the_scores_come_closer_to_the_model(snn, images, parameters):
    found = calibrated(snn, images[:240], parameters=parameters)
    assert error(found, snn.network, images) < 0.95 * error(snn, snn.network, images)
    changed = {
        "thresholds": not np.array_equal(found.thresholds[0], snn.thresholds[0]),
        "initial_potentials": not np.array_equal(
            found.initial_potentials[0] / found.thresholds[0], np.full((16,), 0.5, np.float32)
        ),
        "amplitudes": not np.array_equal(found.amplitudes[1][0], snn.amplitudes[1][0]),
        "weights": not np.array_equal(
            found.network.layers[0].weights[0], snn.network.layers[0].weights[0]
        ),
        "biases": not np.array_equal(found.network.layers[0].bias, snn.network.layers[0].bias),
    }
    assert {name for name, there in changed.items() if there} >= set(parameters)
    assert set(parameters) | {"initial_potentials"} >= {n for n, there in changed.items() if there}


@pytest.mark.slow
def test_labels_make_it_accurate(snn, images):
    labels = np.asarray(snn.network(images).argmax(-1))
    found = calibrated(snn, images[:240], labels[:240], parameters=("weights", "biases"))

    def accuracy(snn):
        run = jaxsnn.simulate(snn, images[240:], key=0, duration=STEPS * 1e-3)
        return float(run.accuracy(labels[240:])[-1])

    assert accuracy(found) > accuracy(snn)


def test_no_move_is_the_network_itself(snn, images):
    parameters = ("thresholds", "initial_potentials", "amplitudes", "weights", "biases")
    same = moved(snn, no_moves(snn, parameters, "channel"))
    one, two = (
        jaxsnn.simulate(each, images, key=0, duration=0.01, engine="scan") for each in (snn, same)
    )
    np.testing.assert_array_equal(one.spike_counts[0], two.spike_counts[0])
    np.testing.assert_array_equal(one.scores, two.scores)


def test_the_same_seed_gives_the_same_network(snn, images):
    one, two = (calibrated(snn, images, epochs=2, seed=3) for _ in range(2))
    other = calibrated(snn, images, epochs=2, seed=4)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(one.thresholds[0], other.thresholds[0])


def test_a_stopped_calibration_resumes_as_if_nothing_had_happened(snn, images, tmp_path):
    """The process is stopped after the second of four epochs."""
    from jaxsnn.support.checkpoints import Checkpoints

    whole = calibrated(snn, images, epochs=4)
    saved = Checkpoints.save

    def stops(self, state, history, identity):
        saved(self, state, history, identity)
        if len(history) == 2:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoints, "save", stops)
        with pytest.raises(KeyboardInterrupt):
            calibrated(snn, images, epochs=4, checkpoint=tmp_path)
    resumed = calibrated(snn, images, epochs=4, checkpoint=tmp_path)
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(resumed), strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(ValueError, match="checkpoint of another run"):
        calibrated(snn, images, epochs=4, checkpoint=tmp_path, seed=1)


def test_what_makes_it_worse_is_not_kept(snn, images):
    with pytest.warns(UserWarning, match="found nothing better"):
        found = calibrated(snn, images, epochs=2, optimizer=optax.sgd(-0.1))
    assert found is snn


def test_one_threshold_for_a_layer(snn, images):
    found = calibrated(snn, images, epochs=2, per="layer")
    assert found.thresholds[0].shape == ()


def test_the_report_knows_what_spikes_stand_for(snn, images):
    found = calibrated(snn, images, epochs=2)
    np.testing.assert_allclose(found.scale_factors[0], snn.scale_factors[0], rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps=0; it must be at least 1"),
        ({"parameters": ()}, "parameters is empty; choose among thresholds"),
        ({"held_out": 1.0}, r"held_out=1; it must be a share of the images, in \(0, 1\)"),
        ({"batch_size": 300}, "300 images, of which 60 are held out: there must be 300"),
        ({"labels": np.zeros(3, int)}, r"labels have shape \(3,\); there must be one for each"),
        (
            {"optimizer": optax.sgd(np.nan), "parameters": ("biases",)},
            "the loss is nan after epoch 1; try an optimizer with a smaller rate",
        ),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_bad_arguments(snn, images, change, message):
    with pytest.raises((ValueError, FloatingPointError), match=message):
        calibrated(snn, images, **change)


def test_a_parameter_that_does_not_exist(snn, images):
    with pytest.raises(TypeError, match="parameters"):
        calibrated(snn, images, parameters=("delays",))
