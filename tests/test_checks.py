"""What `simulate` and its networks refuse, warn of, and give back: values, states, functions."""

import gc
import re
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxsnn
from jaxsnn import readout, stopping
from jaxsnn.engines import scan

import models

STEPS = 8


@pytest.fixture(scope="module")
def network():
    return models.dense_network(np.random.default_rng(0))[0]


@pytest.fixture(scope="module")
def snn(network):
    return jaxsnn.balance_thresholds(network, [1.0, 2.0, 0.5])


@pytest.fixture(scope="module")
def images():
    return models.dyadic_images(np.random.default_rng(1), 4, 12)


def simulate(snn, images, **changes):
    return jaxsnn.simulate(snn, images, **{"key": 0, "duration": STEPS * 1e-3, **changes})


# -- Seeds and samples -----------------------------------------------------------------------------


@pytest.mark.parametrize("key", [1 << 32, (1 << 40) + 5, -1, np.int64(1 << 33), np.int32(-3)])
def test_seeds_that_jax_would_wrap_around(snn, images, key):
    with pytest.raises(ValueError, match=rf"key={int(key)}; an integer seed must be from 0"):
        simulate(snn, images, key=key)


@pytest.mark.parametrize("samples", [[0, 1, 2, 1 << 40], [0, 1, 2, -1], [0, 1, 2, 1 << 31]])
def test_samples_that_would_wrap_around(snn, images, samples):
    with pytest.raises(ValueError, match=rf"samples has the number {samples[-1]}; .* from 0 to"):
        simulate(snn, images, samples=samples)


@pytest.mark.parametrize("samples", [-1, [0, 1], [0.0, 1.0, 2.0, 3.0], [True] * 4])
def test_samples_must_be_one_integer_for_each_image(snn, images, samples):
    with pytest.raises(ValueError, match=r"samples has shape .* one integer for each of the 4"):
        simulate(snn, images, samples=samples)


def test_integers_of_all_kinds_are_the_same_seed(snn, images):
    expected = simulate(snn, images, key=7).state.neurons[0].potential
    for key in (np.int64(7), np.uint32(7), jnp.array(7), np.array(7), jax.random.key(7)):
        found = simulate(snn, images, key=key).state.neurons[0].potential
        np.testing.assert_array_equal(found, expected)


# -- States ----------------------------------------------------------------------------------------

OTHERS = {
    "images": ("images", lambda snn, images: (snn, images[::-1].copy(), {})),
    "key": ("key or samples", lambda snn, images: (snn, images, {"key": 1})),
    "max_rate": ("max_rate", lambda snn, images: (snn, images, {"max_rate": 999.0})),
    "reset": (
        "encode or reset",
        lambda snn, images: (snn, images, {"reset": jaxsnn.reset_by_subtraction}),
    ),
    "encode": ("encode or reset", lambda snn, images: (snn, images, {"encode": jaxsnn.constant})),
    "weights": (
        "weights",
        lambda snn, images: (
            jaxsnn.SpikingNetwork(
                jax.tree.map(lambda w: w / 2, snn.network), snn.thresholds, snn.amplitudes
            ),
            images,
            {},
        ),
    ),
    "thresholds": (
        "thresholds or amplitudes",
        lambda snn, images: (jaxsnn.balance_thresholds(snn.network, [1.0, 2.0, 1.0]), images, {}),
    ),
}


@pytest.mark.parametrize("batch_size", [None, 3])
@pytest.mark.parametrize("change", OTHERS)
def test_a_state_of_another_run(snn, images, change, batch_size):
    what, others = OTHERS[change]
    engine = jaxsnn.engines.Scan(batch_size=batch_size)
    run = simulate(snn, images, engine=engine)
    assert simulate(snn, images, state=run.state, engine=engine) is not None
    network, pixels, options = others(snn, images)
    with pytest.raises(ValueError, match=f"comes from a run with other {what}; resume with the sa"):
        simulate(network, pixels, state=run.state, **options)
    assert simulate(network, pixels, state=run.state.detached(), **options) is not None


@pytest.mark.parametrize("engine", ["scan", "events"])
def test_a_state_of_another_run_in_fixed_point(snn, images, engine):
    fixed = jaxsnn.quantize(snn)
    run = simulate(fixed, images, engine=engine)
    with pytest.raises(ValueError, match="comes from a run with other images; resume"):
        simulate(fixed, 1 - images, state=run.state, engine=engine)
    with pytest.raises(ValueError, match="other key or samples; resume"):
        simulate(fixed, images, state=run.state, key=5, engine="scan")
    assert simulate(fixed, jnp.asarray(images), state=run.state) is not None


def test_equal_functions_are_the_same_run(snn, images):
    run = simulate(snn, images, reset=lambda v, s, theta: v - s * theta)
    simulate(snn, images, state=run.state, reset=lambda v, s, theta: v - s * theta)
    simulate(snn, images, state=run.state, reset=jaxsnn.reset_by_subtraction)
    with pytest.raises(ValueError, match="other encode or reset"):
        simulate(snn, images, state=run.state, reset=lambda v, s, theta: v * (1 - s))


def test_a_detached_state_resumes_with_what_is_new(snn, images):
    """The dark after the light, as an oracle would do it: no input, so that nothing changes."""
    run = simulate(snn, images)
    dark = simulate(snn, np.zeros_like(images), state=run.state.detached())
    for before, after in zip(run.spike_counts, dark.spike_counts, strict=True):
        np.testing.assert_array_equal(before, after)
    assert simulate(snn, np.zeros_like(images), state=dark.state).state.step == 3 * STEPS


def test_integers_cannot_overflow_under_jit():
    """2,000 inhibiting inputs: after 6,000 steps the potential would wrap around and spike."""
    weights = np.full((2000, 1), -1.0, np.float32)
    ones = np.ones((1, 2000), np.float32)
    network = jaxsnn.read_network(lambda x: jax.nn.relu(x @ weights), ones)
    fixed = jaxsnn.quantize(jaxsnn.balance_thresholds(network, 1e4), bits=16, steps=2000)
    state = jaxsnn.simulate(fixed, ones, key=0, duration=2.0, engine="scan").state

    def resume(state):
        return jaxsnn.simulate(fixed, ones, key=0, duration=2.0, state=state).state

    with pytest.raises(ValueError, match="the state is traced, so that it is not known how many"):
        jax.jit(resume)(state)
    with pytest.raises(ValueError, match="a run of 4000 steps, but"):
        resume(state)


def test_a_traced_state_in_floating_point(snn, images):
    run = simulate(snn, images)
    resumed = simulate(snn, images, state=run.state)
    traced = jax.jit(lambda state: simulate(snn, images, state=state))(run.state)
    np.testing.assert_array_equal(resumed.predictions, traced.predictions)


# -- What tracing hides ----------------------------------------------------------------------------


def spoiled(run):
    counts = [run.input_spike_counts, *run.spike_counts, run.synaptic_operations]
    assert all(np.isnan(np.asarray(values)).all() for values in counts)
    assert (np.asarray(run.predictions) == -1).all()


@pytest.mark.parametrize("encode", [jaxsnn.poisson, jaxsnn.constant])
@pytest.mark.parametrize("rate", [1001.0, -1.0, np.nan])
def test_a_traced_rate_out_of_range_gives_nan(snn, images, rate, encode):
    traced = jax.jit(lambda rate: simulate(snn, images, max_rate=rate, encode=encode))
    spoiled(traced(rate))
    right = traced(500.0)
    expected = simulate(snn, images, max_rate=500.0, encode=encode)
    for one, other in zip(right.spike_counts, expected.spike_counts, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("factor", [-1.0, 0.0, np.nan])
def test_traced_thresholds_out_of_range_give_nan(snn, images, factor):
    def run(factor):
        thresholds = [factor * theta for theta in snn.thresholds]
        return simulate(jaxsnn.SpikingNetwork(snn.network, thresholds, snn.amplitudes), images)

    spoiled(jax.jit(run)(factor))
    assert not np.isnan(jax.jit(run)(1.0).spike_counts[0]).any()


def test_a_traced_rate_out_of_range_gives_no_input_to_integers(snn, images):
    fixed = jaxsnn.quantize(snn)
    traced = jax.jit(lambda rate: simulate(fixed, images, max_rate=rate))
    assert int(traced(2000.0).input_spike_counts.sum()) == 0
    expected = simulate(fixed, images, max_rate=1000.0).input_spike_counts
    np.testing.assert_array_equal(traced(1000.0).input_spike_counts, expected)


# -- Values ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0, -1.0])
@pytest.mark.parametrize("field", ["thresholds", "amplitudes"])
def test_spiking_networks_made_by_hand(network, images, field, value):
    fields = {"thresholds": [1.0] * 3, "amplitudes": [1.0] * 3}
    fields[field] = [1.0, jnp.array(value), 1.0]
    broken = jaxsnn.SpikingNetwork(network, **fields)
    with pytest.raises(ValueError, match=rf"layer 2 of 3 .*its {field} must be pos"):
        simulate(broken, images)
    with pytest.raises(ValueError, match=rf"layer 2 of 3 .*its {field} must be pos"):
        jaxsnn.quantize(broken)


@pytest.mark.parametrize("value", [np.nan, np.inf, [0.0, -np.inf, 0.0]])
def test_initial_potentials_must_be_finite(snn, images, value):
    for network in (snn, jaxsnn.quantize(snn)):
        with pytest.raises(ValueError, match=r"initial_potential: layer \d of 3 .*must be finite"):
            simulate(network, images, initial_potential=value)


@pytest.mark.parametrize(
    "value", [1j, True, "high", None, np.ma.masked_array([1.0, 2.0, 3.0], [0, 1, 0]), [1.0, "x", 1]]
)
@pytest.mark.parametrize("make", [jaxsnn.balance_thresholds, jaxsnn.normalize_weights])
def test_scale_factors_must_be_real_numbers(network, make, value):
    with pytest.raises((TypeError, ValueError), match="scale"):
        make(network, value)
    with pytest.raises(ValueError, match="scale factors"):
        make(network, [1.0, value, 1.0])


@pytest.mark.parametrize("value", [1j, True, [True, 1.0, 1.0], [[1.0], 1.0, 1.0]])
def test_initial_potentials_must_be_real_numbers(snn, images, value):
    with pytest.raises((TypeError, ValueError), match="initial_potential"):
        simulate(snn, images, initial_potential=value)


@pytest.mark.parametrize(
    ("duration", "dt"), [(1e9, 1e-3), (1e300, 1e-3), (1.0, 1e-300), (0.0, 1e-3), (np.nan, 1e-3)]
)
def test_absurd_durations(snn, images, duration, dt):
    with pytest.raises(ValueError, match="duration="):
        simulate(snn, images, duration=duration, dt=dt, max_rate=0.0)
    with pytest.raises(ValueError, match="refractory_period"):
        simulate(snn, images, refractory_period=1e10)


def test_constant_currents_like_bytes_are_warned_of(rng):
    model = lambda x: jax.nn.relu(x @ np.ones((4, 2), np.float32))  # noqa: E731
    pixels = rng.integers(0, 256, (3, 4)).astype(np.float32)
    pixels[0, 0] = 255
    words = "whole numbers up to 255, as those of 8 bits: divide them by 255"
    with pytest.warns(UserWarning, match=words) as caught:
        jaxsnn.convert(model, pixels)
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        snn = jaxsnn.convert(model, pixels / 255)
        standardised = (pixels - 128) / 2
        for images in (pixels / 255, standardised, jnp.asarray(standardised)):
            jaxsnn.simulate(snn, images, key=0, duration=0.002)
        jax.jit(lambda images: jaxsnn.simulate(snn, images, key=0, duration=0.002).scores)(pixels)
    for images in (pixels, jnp.asarray(pixels)):
        with pytest.warns(UserWarning, match=words):
            jaxsnn.simulate(snn, images, key=0, duration=0.002)


def test_a_duration_in_milliseconds_is_warned_of():
    network = jaxsnn.read_network(lambda x: jax.nn.relu(x * 0.5), np.ones((1, 1), np.float32))
    snn = jaxsnn.balance_thresholds(network, 1.0)
    with pytest.warns(UserWarning, match=r"duration=20 is in seconds: 20,000 steps") as caught:
        run = jaxsnn.simulate(snn, np.ones((1, 1), np.float32), key=0, duration=20)
    assert caught[0].filename == __file__
    assert run.spike_counts[0].item() == 10_000
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        jaxsnn.simulate(snn, np.ones((1, 1), np.float32), key=0, duration=10)


def test_labels_are_checked(snn, images):
    run = simulate(snn, images)
    assert run.accuracy([0, 1, 2, 3]).shape == (STEPS,)
    for labels in (
        [0.5, 1.0, 2.0, 3.0],
        [-1, 0, 1, 2],
        [0.0, np.nan, 1.0, 2.0],
        [True, False, True, False],
        [0, 1, 2, 4],
        np.eye(4, dtype=int),
        ["0", "1", "2", "3"],
        np.ma.masked_array([0, 1, 2, 3], [0, 1, 0, 0]),
    ):
        with pytest.raises((TypeError, ValueError), match="label"):
            run.accuracy(labels)
        with pytest.raises((TypeError, ValueError), match="label"):
            run.first_spike_accuracy(labels)


def test_a_silent_network_is_warned_of(network, images):
    run = simulate(jaxsnn.balance_thresholds(network, 1e6), images)
    with pytest.warns(UserWarning, match=r"no output neuron has spiked.*reset_by_subtraction"):
        assert float(run.accuracy([0, 0, 0, 0])[-1]) == 0


# -- Images ----------------------------------------------------------------------------------------


def grey(shape=(28, 28, 1)):
    weights = jnp.ones((28 * 28 * shape[-1], 2)) / 100
    return jaxsnn.read_network(
        lambda x: jax.nn.relu(x.reshape(len(x), -1) @ weights), np.zeros((1, *shape), np.float32)
    )


@pytest.mark.parametrize(
    ("shape", "advice"),
    [
        ((28, 28, 1), "A single image needs a batch axis: images[None]"),
        ((5, 28, 28), "The axis of the channel is missing: images[..., None]"),
        ((28, 28), "A single image needs a batch axis and a channel: images[None, ..., None]"),
        ((5, 1, 28, 28), "The channels come first here: np.moveaxis(images, 1, -1)"),
        ((5, 28, 28, 3), "axis 3 has 3 entries, not 1: convert colour images to grey"),
        ((5, 32, 32, 1), "axis 1 has 32 entries, not 28, axis 2 has 32 entries, not 28: resize"),
        ((5, 784), "They have as many pixels: images.reshape(-1, 28, 28, 1)"),
        ((5, 10), "They have 2 axes, not 4"),
    ],
)
def test_images_of_another_shape(shape, advice):
    with pytest.raises(ValueError, match=re.escape(advice)) as caught:
        grey()(np.zeros(shape, np.float32))
    assert f"images have shape {shape}" in str(caught.value)


def test_grey_images_for_a_network_of_colours():
    with pytest.raises(ValueError, match=r"axis 3 has 1 entries, not 3: the network takes 3 ch"):
        grey((28, 28, 3))(np.zeros((5, 28, 28, 1), np.float32))


@pytest.mark.parametrize(
    ("pixel", "advice"),
    [
        (1.00001, r"range from 0 to 1\.00001001;"),
        (255.0, r"Divide them by 255; a model that divides its input itself must not"),
        (-0.5, r"Do not subtract a mean"),
        (np.nan, r"some pixels are nan"),
    ],
)
def test_pixels_out_of_range(snn, images, pixel, advice):
    wrong = images.copy()
    wrong[0, 0], wrong[1, 1] = pixel, 0
    with pytest.raises(ValueError, match=advice):
        simulate(snn, wrong)


def test_pixels_rounded_up_in_float32(snn, images):
    rounded = np.where(images == 1, np.float32(1.0000002), images)
    assert rounded.max() > 1
    one, other = simulate(snn, rounded), simulate(snn, images)
    for counts, expected in zip(one.spike_counts, other.spike_counts, strict=True):
        np.testing.assert_array_equal(counts, expected)


@pytest.mark.parametrize(("dtype", "advice"), [(bool, "astype"), (np.uint8, "divide 8-bit")])
def test_pixels_of_other_types(snn, images, dtype, advice):
    with pytest.raises(ValueError, match=f"images have dtype .*{advice}"):
        simulate(snn, images.astype(dtype))


@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("padding", [((-1, 1), (0, 0)), ((0, -1), (2, -1)), ((-1, -1), (-1, 0))])
def test_convolutions_with_negative_padding(padding, dilation):
    """XLA on CPUs gets them wrong; here they crop, as NumPy does."""
    rng = np.random.default_rng(3)
    kernel, images = models.dyadic(rng, 2, 2, 1, 3), models.dyadic_images(rng, 2, 5, 5, 1)

    def model(x):
        x = lax.conv_general_dilated(
            x, kernel, (1, 1), padding, lhs_dilation=(dilation, dilation),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )  # fmt: skip
        return jax.nn.relu(x.reshape(x.shape[0], -1))

    size = 4 * dilation + 1
    spread = np.zeros((2, size, size))
    spread[:, ::dilation, ::dilation] = images[..., 0]
    for axis, (low, high) in enumerate(padding, 1):
        pads = [(0, 0)] * 3
        pads[axis] = (max(low, 0), max(high, 0))
        spread = np.pad(spread, pads)
        spread = spread.take(range(max(-low, 0), spread.shape[axis] - max(-high, 0)), axis)
    rows, columns = spread.shape[1] - 1, spread.shape[2] - 1
    expected = sum(
        spread[:, i : i + rows, j : j + columns, None] * kernel[i, j, 0]
        for i in range(2)
        for j in range(2)
    )
    network = jaxsnn.read_network(model, images)
    np.testing.assert_array_equal(network(images), np.maximum(expected, 0).reshape(2, -1))
    snn = jaxsnn.balance_thresholds(network, 1.0)
    run = simulate(snn, images, encode=jaxsnn.constant, reset=jaxsnn.reset_by_subtraction)
    drive = expected.reshape(2, -1) * STEPS  # at most a spike a step
    exact = (np.abs(expected.reshape(2, -1)) <= 1) & (drive >= 0)
    np.testing.assert_array_equal(run.spike_counts[0][exact], np.floor(drive[exact]))


# -- Functions -------------------------------------------------------------------------------------


@pytest.mark.promotes
@pytest.mark.parametrize(
    ("name", "function", "message"),
    [
        ("read", lambda output: output.spike_counts, "returned an array of shape (2, 4)"),
        (
            "read",
            lambda output: 3,
            "returned 3 in a trial with arguments of shape (2, 4)",
        ),
        ("read", lambda output: jnp.zeros(2), "dtype float32 in a trial"),
        ("read", lambda output: jnp.full(2, 99), "returned class 99, but there are the classes 0"),
        ("read", lambda: 0, "cannot be called as read(output)"),
        ("reset", lambda v: v, "cannot be called as reset(V, S, θ)"),
        ("reset", lambda v, s, theta: None, "returned None"),
        ("reset", lambda v, s, theta: v.sum(), "returned an array of shape ()"),
        ("encode", lambda p: p, "cannot be called as encode(key, probabilities)"),
        ("encode", lambda key, p: p.sum(), "returned an array of shape () "),
        ("spike", lambda v: v, "cannot be called as spike(V, θ)"),
        ("stop", stopping.margin, "cannot be called as stop(output, steps)"),
        ("stop", lambda output, steps: output.potential, "an array of shape (2,) of bools"),
        ("read", lambda output: jnp.zeros(1, jnp.int32), "must return an array of shape (2,)"),
        ("reset", lambda v, s, theta: v * 1j, "of real numbers"),
        ("stop", stopping.Margin(np.nan), "Margin: spikes=nan"),
        ("record", lambda: 0, "cannot be called as record(step)"),
        ("record", lambda step: step.voltages, "cannot be called as record(step)"),
        ("record", lambda step: step.spikes[0].sum(), "its first axis must be the samples"),
        ("record", type("Record", (), {"__call__": id, "__hash__": None})(), "has no hash"),
    ],
)
def test_functions_that_do_not_fit(snn, images, name, function, message):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        simulate(snn, images, **{name: function})
    assert str(caught.value).startswith((f"{name}=", "Margin"))


@pytest.mark.parametrize(
    ("settings", "changes", "message"),
    [
        ({}, {"read": lambda output: jnp.full(2, 4)}, r"read=.*returned class 4"),
        ({}, {"encode": lambda p: p}, r"encode=.*cannot be called"),
        ({"reset": lambda v: v}, {}, r"reset=.*cannot be called"),
    ],
)
def test_functions_of_sweeps_are_tried_too(network, images, settings, changes, message):
    grid = jaxsnn.Grid(scales=1.0, duration=0.002, **settings)
    with pytest.raises(ValueError, match=message):
        jaxsnn.sweep(network, images, [0, 1, 2, 3], grid, **changes)


def test_programs_of_new_functions_do_not_pile_up(snn, images):
    def programs():
        gc.collect()
        return len(jax.devices()[0].client.live_executables())

    for _ in range(17):  # one more than are kept
        simulate(snn, images[:1], duration=0.001, record=lambda step: step.spikes[0])
    before = programs()
    for _ in range(5):
        simulate(snn, images[:1], duration=0.001, record=lambda step: step.spikes[0])
    assert programs() <= before + 2
    assert scan.program.cache_info().currsize <= 16


# -- Given back ------------------------------------------------------------------------------------


def test_activations_approach_those_of_the_relu_network(network, images):
    """By invariant 10: constant input, reset by subtraction, no activation above its λ."""
    activations = network.activations(images)
    scales = [float(values.max()) for values in activations]
    snn = jaxsnn.balance_thresholds(network, scales)
    options = {"encode": jaxsnn.constant, "reset": jaxsnn.reset_by_subtraction}
    errors = []
    for steps in (100, 1000):
        run = simulate(snn, images, duration=steps * 1e-3, **options)
        found = run.activations()
        errors.append(max(np.abs(a - b).max() for a, b in zip(activations, found, strict=True)))
    assert errors[1] < errors[0] / 5
    assert errors[1] < 0.02 * max(scales)
    half = simulate(snn, images, duration=1.0, max_rate=500.0, **options).activations()
    for a, b in zip(activations, half, strict=True):
        np.testing.assert_allclose(a, b, atol=0.04 * max(scales))


@pytest.mark.parametrize("arithmetic", [None, jaxsnn.FixedPoint(16, steps=2000)])
@pytest.mark.parametrize("form", [jaxsnn.balance_thresholds, jaxsnn.normalize_weights])
@pytest.mark.thinned(3)
def test_activations_in_front_of_poolings_and_in_fixed_point(form, arithmetic):
    """The amplitude before a pooling is 1, but a spike in every step stands for λ."""
    rng = np.random.default_rng(5)
    network, _ = models.convolution_network(rng)
    images = models.dyadic_images(rng, 2, *models.IMAGE_SHAPE)
    snn = form(network, jaxsnn.largest_activations(network, images))
    run = simulate(
        snn, images, duration=2.0, reset=jaxsnn.reset_by_subtraction, arithmetic=arithmetic
    )
    for index, values in enumerate(snn.network.activations(images)):
        found, largest = np.asarray(run.activations()[index]), float(values.max())
        np.testing.assert_allclose(run.scale_factors[index], largest, rtol=1e-5)
        assert np.corrcoef(values.ravel(), found.ravel())[0, 1] > 0.98
        assert np.abs(found - values).mean() < 0.05 * largest


def test_activations_with_channels_and_other_thresholds(network, images):
    scales = [np.linspace(1, 2, 20), 1.5, np.array([1.0, 2.0, 3.0, 4.0])]
    run = simulate(jaxsnn.balance_thresholds(network, scales), images)
    for found, scale in zip(run.scale_factors, scales, strict=True):
        np.testing.assert_allclose(np.broadcast_to(found, np.shape(scale)), scale, rtol=1e-6)
    by_hand = jaxsnn.SpikingNetwork(network, [1.0, 1.0, 1.0], [np.linspace(1, 2, 20), 1.0, 1.0])
    run = simulate(by_hand, images)
    # Thresholds that are no multiple of what spikes weigh: the next layer receives these.
    np.testing.assert_allclose(run.scale_factors[0], np.linspace(1, 2, 20), rtol=1e-6)
    expected = np.asarray(run.spike_counts[0]) / len(run.times) * np.linspace(1, 2, 20)
    np.testing.assert_allclose(run.activations()[0], expected, rtol=1e-6)


def test_spikes_of_sources_that_do_not_compare_stand_for_no_activation(images):
    def model(x):
        x = jax.nn.relu(2 * x)
        return jax.nn.relu(x + jax.nn.relu(x[:, ::-1]))

    network = jaxsnn.read_network(model, images)
    snn = jaxsnn.SpikingNetwork(network, [1.0] * len(network.layers), [1.0, 3.0, 1.0])
    assert np.isnan(simulate(snn, images).activations()[-1]).all()


def test_activations_of_samples_that_ended_early(snn, images):
    options = dict(duration=0.1, stop=stopping.margin(1), encode=jaxsnn.constant)
    early = simulate(snn, images, **options)
    steps = np.rint(np.asarray(early.exit_time) / 1e-3)
    assert len(set(steps)) > 1
    parts = simulate(snn, images, engine=jaxsnn.engines.Scan(batch_size=2), **options)
    np.testing.assert_array_equal(parts.state.origin.images, early.state.origin.images)
    expected = np.asarray(early.spike_counts[0]) / steps[:, None]
    np.testing.assert_allclose(early.activations()[0], expected, rtol=1e-6)


def test_descriptions_are_short(network, snn, images):
    run = simulate(snn, images)
    text = repr(run)
    assert re.fullmatch(
        r"Simulation\(8 steps, 4 samples, [\d.]+% decided, [\d,]+ spikes, [\d,]+ operations per "
        r"sample\)",
        text,
    )
    labels = np.maximum(np.asarray(run.predictions[-1]), 0)
    accuracy = float(run.accuracy(labels)[-1])
    assert f"accuracy {accuracy:.2%}" in repr(run)
    assert repr(run.state) == "State(4 samples after 8 steps)"
    fixed = jaxsnn.quantize(snn)
    for thing in (network, snn, fixed):
        assert repr(thing) == str(thing)
        assert len(repr(thing)) < 400
    seen = []
    jax.jit(lambda r: seen.append(repr(r)) or r.predictions)(run)
    jax.jit(lambda s: seen.append(repr(s)) or s.thresholds)(snn)
    assert "traced" in seen[0]
    assert "traced" in seen[1]


# -- Fixed point -----------------------------------------------------------------------------------


def test_quantize_blames_a_pooling_that_does_not_count_its_padding():
    def model(x):
        ones = jnp.ones_like(x[:1])
        window = (1, 2, 2, 1), (1, 2, 2, 1), ((0, 0), (1, 0), (1, 0), (0, 0))
        sums = lax.reduce_window(x, 0.0, lax.add, *window)
        x = sums / lax.reduce_window(np.ones(ones.shape, np.float32), 0.0, lax.add, *window)
        x = lax.conv_general_dilated(
            x, np.ones((2, 2, 1, 2), np.float32), (1, 1), "VALID",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )  # fmt: skip
        return jax.nn.relu(x.reshape(x.shape[0], -1))

    network = jaxsnn.read_network(model, np.zeros((1, 5, 5, 1), np.float32))
    with pytest.raises(ValueError, match="average pooling does not count the padding"):
        jaxsnn.quantize(jaxsnn.balance_thresholds(network, 1.0))


def test_readouts_see_all_classes(snn, images):
    """A readout of one's own that is right passes."""
    run = simulate(snn, images, read=lambda output: output.potential.argmax(-1).astype(jnp.int32))
    assert run.predictions.shape == (STEPS, 4)
    assert simulate(snn, images, read=readout.first_spike).predictions.dtype == np.int32
