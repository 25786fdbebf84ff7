"""From a model to a spiking network in one call."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

import jaxsnn

pytestmark = pytest.mark.promotes


class CNN(nnx.Module):
    """The network of Flax's tutorial on MNIST, in small."""

    def __init__(self, rngs):
        self.first = nnx.Conv(1, 8, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(8, rngs=rngs)
        self.second = nnx.Conv(8, 8, (3, 3), rngs=rngs)
        self.dense = nnx.Linear(32, 16, rngs=rngs)
        self.dropout = nnx.Dropout(0.3, rngs=rngs)
        self.last = nnx.Linear(16, 10, rngs=rngs)

    def __call__(self, x):
        x = nnx.avg_pool(nnx.relu(self.norm(self.dropout(self.first(x)))), (2, 2), (2, 2))
        x = nnx.avg_pool(nnx.relu(self.second(x)), (2, 2), (2, 2))
        x = nnx.relu(self.dropout(self.dense(x.reshape(x.shape[0], -1))))
        return self.last(x)


@pytest.fixture
def images(rng):
    return rng.random((60, 8, 8, 1)).astype(np.float32)


@pytest.fixture
def model():
    return CNN(nnx.Rngs(0))


def test_its_settings_are_those_of_the_network(model, images):
    snn = jaxsnn.convert(model, images)
    assert snn.reset is jaxsnn.reset_by_subtraction
    assert snn.encode is jaxsnn.constant
    for start, theta in zip(snn.initial_potentials[:-1], snn.thresholds[:-1], strict=True):
        np.testing.assert_array_equal(start, 0.5 * theta)
    assert [np.shape(theta) for theta in snn.thresholds] == [(1, 1, 8), (1, 1, 8), (16,), ()]
    assert np.isinf(snn.thresholds[-1])
    by_hand = jaxsnn.balance_thresholds(
        snn.network, jaxsnn.percentile_scales(snn.network, images, percentile=99.9, per="channel")
    )
    options = {"encode": jaxsnn.constant, "reset": jaxsnn.reset_by_subtraction}
    starts = [0.5 * theta for theta in by_hand.thresholds[:-1]]
    run, other = (
        jaxsnn.simulate(snn, images[:5], key=0, duration=0.02),
        jaxsnn.simulate(
            by_hand,
            images[:5],
            key=0,
            duration=0.02,
            initial_potential=[*starts, 0.0],
            **options,
        ),
    )
    np.testing.assert_array_equal(run.scores, other.scores)
    assert (
        jaxsnn.simulate(snn, images[:5], key=0, duration=0.02, encode=jaxsnn.poisson)
        .scores[-1]
        .tolist()
        != run.scores[-1].tolist()
    )


def test_its_scores_approach_the_logits(model, images):
    snn = jaxsnn.convert(model, images, percentile=100)
    model.eval()
    logits = model(images)
    np.testing.assert_allclose(snn.network(images), logits, atol=1e-5)
    errors = []
    for steps in (16, 64, 256):
        run = jaxsnn.simulate(snn, images, key=0, duration=steps * 1e-3)
        errors.append(float(np.linalg.norm(run.scores[-1] / steps - logits)))
    assert errors[1] < errors[0] / 3
    assert errors[2] < errors[1] / 3
    assert float(run.accuracy(np.asarray(logits.argmax(1)))[-1]) > 0.97


def test_images_that_were_standardised(model, images):
    standardised = (images - 0.5) / 0.3
    snn = jaxsnn.convert(model, standardised, percentile=100)
    run = jaxsnn.simulate(snn, standardised, key=0, duration=0.256)
    model.eval()
    labels = np.asarray(model(standardised).argmax(1))
    assert float(run.accuracy(labels)[-1]) > 0.9
    with pytest.raises(ValueError, match=r"pixels range from -1.*\[0, 1\]"):
        jaxsnn.simulate(snn, standardised, key=0, duration=0.01, encode=jaxsnn.poisson)
    with pytest.raises(ValueError, match="nan or infinite"):
        jaxsnn.simulate(snn, standardised * np.inf, key=0, duration=0.01)


def test_linen_models_and_functions(images):
    class Dense(linen.Module):
        @linen.compact
        def __call__(self, x):
            x = linen.relu(linen.Dense(12)(x.reshape(x.shape[0], -1)))
            return linen.Dense(3)(x)

    bound = Dense()
    bound = bound.bind(bound.init(jax.random.key(0), images[:1]))
    first = jaxsnn.convert(bound, images)
    second = jaxsnn.convert(lambda x: bound(x), images, per="layer", encode=jaxsnn.poisson)
    assert first.thresholds[0].shape == (12,)
    assert second.thresholds[0].shape == ()
    assert second.encode is jaxsnn.poisson


@pytest.mark.thinned(2)
def test_gradients_reach_the_scores(model, images):
    snn = jaxsnn.convert(model, images)

    def loss(scale):
        thresholds = [scale * snn.thresholds[0], *snn.thresholds[1:]]
        changed = jaxsnn.SpikingNetwork(
            snn.network, thresholds, snn.amplitudes, snn.initial_potentials, snn.reset, snn.encode
        )
        return jaxsnn.simulate(changed, images[:3], key=0, duration=0.008).scores[-1].sum()

    gradient = jax.grad(loss)(jnp.ones(()))
    assert np.isfinite(gradient)
    assert gradient != 0


def test_fixed_point_is_as_accurate(model, images):
    snn = jaxsnn.convert(model, images)
    exact = jaxsnn.simulate(snn, images, key=0, duration=0.064)
    run = jaxsnn.simulate(snn, images, key=0, duration=0.064, arithmetic=jaxsnn.FixedPoint(16))
    scale = np.abs(exact.scores[-1]).max()
    np.testing.assert_allclose(run.scores[-1] / scale, exact.scores[-1] / scale, atol=0.01)


def test_an_error_names_the_part_that_cannot_be_read(images):
    with pytest.raises(jaxsnn.ReadingError, match="tanh"):
        jaxsnn.convert(lambda x: jax.nn.relu(jnp.tanh(x.reshape(len(x), -1))), images)
