"""The simulator: hand-computed spike trains, the NumPy oracle, and the invariants of the design."""

import logging
import subprocess
import sys
import warnings
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxsnn
from jaxsnn import readout
from jaxsnn.engines import Scan, scan
from jaxsnn.engines.scan import integers, lowering
from jaxsnn.engines.scan.patches import Patches
from jaxsnn.network import Dense

import models
import reference

RESETS = {"zero": jaxsnn.reset_to_zero, "subtraction": jaxsnn.reset_by_subtraction}


def everything(step):
    return step.inputs, step.spikes


def first_spikes(step):
    return step.spikes[0]


def neuron(weight=1.0, threshold=1.0):
    """One input, one neuron."""
    kernel = np.full((1, 1), weight, np.float32)
    network = jaxsnn.read_network(lambda x: jax.nn.relu(x @ kernel), np.zeros((1, 1), np.float32))
    return jaxsnn.balance_thresholds(network, threshold)


def spike_train(snn, pixel, steps, **options):
    """Spikes of a single neuron under a constant input, as a list of 0 and 1."""
    run = jaxsnn.simulate(
        snn,
        np.full((1, 1), pixel, np.float32),
        key=0,
        duration=steps * 1e-3,
        encode=jaxsnn.constant,
        record=first_spikes,
        **options,
    )
    return np.asarray(run.records).ravel().astype(int).tolist()


def assert_equal_runs(one, two):
    """The same in all but the rounding of times."""
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_array_equal(a, b)


# -- By hand ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        # V: .375 .75 1.125* 0 ...
        ({}, [0, 0, 1, 0, 0, 1, 0, 0, 1]),
        # V: .375 .75 1.125* -> .125 .5 .875 1.25* -> .25 .625 1.0* -> 0
        ({"reset": jaxsnn.reset_by_subtraction}, [0, 0, 1, 0, 0, 1, 0, 1, 0]),
        # V: .875 1.25* 0 .375 .75 1.125*
        ({"initial_potential": 0.5}, [0, 1, 0, 0, 1, 0, 0, 1, 0]),
        # After a spike in step t the inputs of t+1 and t+2 are ignored.
        ({"refractory_period": 3e-3}, [0, 0, 1, 0, 0, 0, 0, 1, 0]),
        # A period of one step ignores nothing: two spikes are one step apart anyhow.
        ({"refractory_period": 1e-3}, [0, 0, 1, 0, 0, 1, 0, 0, 1]),
        # V: 3.375* 2.75* 2.125* 1.5* .875 1.25* .625 1.0* .375
        (
            {"initial_potential": 3.0, "reset": jaxsnn.reset_by_subtraction},
            [1, 1, 1, 1, 0, 1, 0, 1, 0],
        ),
    ],
)
def test_spike_trains_by_hand(options, expected):
    assert spike_train(neuron(), 0.375, 9, **options) == expected


def test_refractory_neurons_do_not_spike_even_far_above_threshold():
    trains = spike_train(
        neuron(),
        0.5,
        6,
        initial_potential=10.0,
        reset=jaxsnn.reset_by_subtraction,
        refractory_period=2e-3,
    )
    assert trains == [1, 0, 1, 0, 1, 0]


def test_threshold_is_reached_by_equality():
    assert spike_train(neuron(), 0.5, 4) == [0, 1, 0, 1]


def test_a_spike_reaches_all_layers_within_its_step():
    identity = jnp.eye(2)
    network = jaxsnn.read_network(
        lambda x: jax.nn.relu(jax.nn.relu(jax.nn.relu(x @ identity) @ identity) @ identity),
        jnp.zeros((1, 2)),
    )
    run = jaxsnn.simulate(
        jaxsnn.balance_thresholds(network, 1.0), jnp.array([[1.0, 0.0]]), key=0, duration=1e-3
    )
    assert run.predictions.tolist() == [[0]]
    assert run.first_spike_time.tolist() == pytest.approx([1e-3])
    assert [counts.tolist() for counts in run.spike_counts] == [[[1.0, 0.0]]] * 3


def test_potential_has_no_lower_bound():
    kernel = jnp.array([[-1.0, 0.5]]).T
    network = jaxsnn.read_network(lambda x: jax.nn.relu(x @ kernel), jnp.zeros((1, 2)))
    run = jaxsnn.simulate(
        jaxsnn.balance_thresholds(network, 1.0),
        jnp.ones((1, 2)),
        key=0,
        duration=8e-3,
        record=lambda step: step.potentials[0],
    )
    assert run.records.ravel().tolist() == [-0.5 * n for n in range(1, 9)]


def test_undecided_ties_and_first_spikes():
    kernel = jnp.array([[0.0, 0.5, 0.5, 0.75]])
    network = jaxsnn.read_network(lambda x: jax.nn.relu(x @ kernel), jnp.zeros((1, 1)))
    snn = jaxsnn.balance_thresholds(network, 1.0)
    run = jaxsnn.simulate(snn, jnp.ones((2, 1)) * jnp.array([[1.0], [0.0]]), key=0, duration=6e-3)
    # Neurons 1, 2 and 3 spike in every second step: a tie, for the lowest.
    assert run.predictions[:, 0].tolist() == [-1, 1, 1, 1, 1, 1]
    assert run.predictions[:, 1].tolist() == [-1] * 6
    assert run.first_spike_prediction.tolist() == [1, -1]
    np.testing.assert_allclose(run.first_spike_time, [2e-3, np.nan], rtol=1e-6)
    assert run.accuracy([1, 0]).tolist() == [0.0, 0.5, 0.5, 0.5, 0.5, 0.5]
    assert float(run.first_spike_accuracy([1, 0])) == 0.5
    np.testing.assert_allclose(run.times, np.arange(1, 7) * 1e-3, rtol=1e-6)


@pytest.mark.parametrize(
    ("read", "expected"),
    [
        (readout.spike_count, [-1, 1, 1, 1]),
        (readout.first_spike, [-1, 1, 1, 1]),
        # V + θ·count: .25 .5 .75 against .5 1. 1.5 against .5625 and so on: what was received.
        (readout.membrane_potential, [2, 2, 2, 2]),
    ],
)
def test_readouts(read, expected):
    kernel = jnp.array([[0.25, 0.5, 0.5625]])
    network = jaxsnn.read_network(lambda x: jax.nn.relu(x @ kernel), jnp.zeros((1, 1)))
    run = jaxsnn.simulate(
        jaxsnn.balance_thresholds(network, 1.0),
        jnp.ones((1, 1)),
        key=0,
        duration=4e-3,
        read=read,
        reset=jaxsnn.reset_by_subtraction,
    )
    assert run.predictions[:, 0].tolist() == expected


@given(threshold=st.integers(64, 256))
@settings(max_examples=20, deadline=None)
def test_constant_drive_gives_as_many_spikes_as_thresholds_fit(threshold):
    """After every step, exact in binary fractions, whatever the drive up to the threshold."""
    drives, steps = np.arange(65), np.arange(1, 61)
    run = jaxsnn.simulate(
        neuron(threshold=threshold / 64),
        (drives[:, None] / 64).astype(np.float32),
        key=0,
        duration=0.06,
        encode=jaxsnn.constant,
        reset=jaxsnn.reset_by_subtraction,
        record=first_spikes,
    )
    spikes = np.asarray(run.records)[..., 0].cumsum(0)
    np.testing.assert_array_equal(spikes, steps[:, None] * drives // threshold)


# -- The oracle ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "reset", "refractory_steps"),  # every two settings together
    [
        (models.dense_network, "zero", 0),
        (models.dense_network, "subtraction", 3),
        (models.convolution_network, "zero", 3),
        (models.convolution_network, "subtraction", 0),
    ],
)
@pytest.mark.thinned(2)
def test_equal_to_the_oracle_spike_for_spike(rng, build, reset, refractory_steps):
    network, layers = build(rng)
    images = models.dyadic_images(rng, 3, *network.input_shape)
    scales = [2.0 ** float(rng.integers(-1, 3)) for _ in network.layers]
    snn = jaxsnn.balance_thresholds(network, scales)
    thresholds = [float(threshold) for threshold in snn.thresholds]
    amplitudes = [float(received) for (received,) in snn.amplitudes[1:]] + [1.0]
    run = jaxsnn.simulate(
        snn,
        images,
        key=7,
        duration=0.03,
        reset=RESETS[reset],
        refractory_period=refractory_steps * 1e-3,
        initial_potential=0.25,
        record=everything,
    )
    inputs, spikes = jax.tree.map(np.asarray, run.records)
    assert all(layer.sum() > 0 for layer in spikes)
    run = jax.tree.map(np.asarray, run)
    for sample in range(3):
        expected = reference.simulate(
            layers,
            inputs[:, sample],
            thresholds,
            amplitudes,
            reset=reset,
            refractory_steps=refractory_steps,
            initial_potential=0.25,
        )
        for mine, theirs in zip(spikes, expected, strict=True):
            np.testing.assert_array_equal(mine[:, sample], theirs)
        np.testing.assert_array_equal(
            run.predictions[:, sample], reference.predictions(expected[-1])
        )
        for counts, theirs in zip(run.spike_counts, expected, strict=True):
            np.testing.assert_array_equal(counts[sample], theirs.sum(0))
    np.testing.assert_array_equal(run.input_spike_counts, inputs.sum(0))


def test_planes_of_bfloat16_are_the_weights(rng):
    """Of numbers of all sizes, and with all bits of a float32."""
    weights = rng.normal(size=1000) * 2.0 ** rng.integers(-80, 80, 1000)
    weights = np.concatenate([weights, [0, 1, -1, 2**24 - 1, 1 + 2**-23]]).astype(np.float32)
    planes = integers.float_planes(weights)
    np.testing.assert_array_equal(sum(np.asarray(plane, np.float64) for plane in planes), weights)


def residual_network(rng):
    """With an identity, and a product of another product."""
    first, second, third, last = (models.dyadic(rng, *pair) for pair in ((12, 16), *[(16, 16)] * 3))

    def model(images):
        x = jax.nn.relu(images @ first)
        x = jax.nn.relu(x + x @ second)
        return jax.nn.relu(x @ third @ last / 16)

    return jaxsnn.read_network(model, np.zeros((1, 12), np.float32)), None


@pytest.mark.parametrize(
    ("build", "kinds"),
    [
        (models.dense_network, {Dense}),
        (models.convolution_network, {Dense, Patches}),
        (residual_network, {Dense}),
    ],
)
@pytest.mark.parametrize("encode", [jaxsnn.poisson, jaxsnn.constant])
@pytest.mark.thinned(3)
def test_products_for_matrix_units_give_the_same_spikes(rng, monkeypatch, build, kinds, encode):
    """The products of accelerators, on a CPU; a constant current is no spike, and is not cut."""
    network, _ = build(rng)
    snn = jaxsnn.balance_thresholds(network, 2.0)
    images = models.dyadic_images(rng, 5, *network.input_shape)
    used, product = [], lowering.spike_product

    def watched(operation, weights, spikes):
        used.append(type(operation))
        return product(operation, weights, spikes)

    def run():
        scan.program.cache_clear()
        options = {"key": 3, "duration": 0.03, "encode": encode, "record": everything}
        return jaxsnn.simulate(snn, images, engine=Scan(chunk=7), **options)

    plain = run()
    formats = tuple((kind, integers.BFLOAT16) for kind in (Dense, Patches))
    monkeypatch.setattr(lowering, "spike_product", watched)
    monkeypatch.setattr(scan, "fastest_formats", lambda network, *, binary: formats * binary)
    assert_equal_runs(run(), plain)
    assert set(used) == kinds
    assert len(used) == 2 * (3 - (encode is jaxsnn.constant))  # of both lengths of chunks


# -- Invariants ------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 2, 64])
@pytest.mark.thinned(3)
def test_the_batch_size_does_not_matter(rng, batch_size):
    network, _ = models.convolution_network(rng)
    snn = jaxsnn.balance_thresholds(network, 2.0)
    images = models.dyadic_images(rng, 3, *network.input_shape)
    options = dict(key=3, duration=0.03, record=everything)
    whole = jaxsnn.simulate(snn, images, **options)
    assert float(whole.spike_counts[-1].sum()) > 0
    assert_equal_runs(
        whole, jaxsnn.simulate(snn, images, engine=Scan(batch_size=batch_size), **options)
    )


@pytest.mark.parametrize("sizes", [{"batch_size": 1}, {"chunk": 2}, {"batch_size": 1, "chunk": 2}])
def test_sizes_in_their_old_form(sizes):
    snn, images = neuron(), np.ones((2, 1), np.float32)
    options = dict(key=3, duration=0.009, record=everything)
    new = ", ".join(f"{name}={size}" for name, size in sizes.items())
    expected = rf"use engine=jaxsnn.engines.Scan\({new}\)"
    with pytest.warns(DeprecationWarning, match=expected) as caught:
        found = jaxsnn.simulate(snn, images, **sizes, **options)
    assert [warning.filename for warning in caught] == [__file__]
    assert_equal_runs(found, jaxsnn.simulate(snn, images, engine=Scan(**sizes), **options))


@pytest.mark.parametrize("sizes", [{"batch_size": 0}, {"batch_size": -3}, {"chunk": 0}])
def test_sizes_below_1(sizes):
    ((name, size),) = sizes.items()
    with pytest.raises(ValueError, match=f"{name}={size}; it must be at least 1"):
        Scan(**sizes)


def test_a_number_of_steps_is_a_duration(rng):
    network, _ = models.dense_network(rng)
    snn = jaxsnn.balance_thresholds(network, 2.0)
    images = models.dyadic_images(rng, 2, *network.input_shape)
    for steps, dt in ((7, 1e-3), (3, 0.1), (1000, 3e-5)):
        options = {"key": 0, "dt": dt, "max_rate": 1.0}
        by_steps = jaxsnn.simulate(snn, images, steps=steps, **options)
        assert_equal_runs(by_steps, jaxsnn.simulate(snn, images, duration=steps * dt, **options))
        assert len(by_steps.predictions) == steps


def test_many_steps_are_not_taken_for_seconds(rng):
    """Only a duration that is said in seconds may have been meant as a number of steps."""
    network, _ = models.dense_network(rng)
    snn = jaxsnn.balance_thresholds(network, 2.0)
    images = models.dyadic_images(rng, 1, *network.input_shape)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        jaxsnn.simulate(snn, images, key=0, steps=10_001)


@pytest.mark.parametrize("statistics", [{"bytes_limit": 1 << 32}, None])
def test_a_batch_fits_the_memory_of_an_accelerator(rng, monkeypatch, statistics):
    """Currents, spikes and potentials of each step of a chunk, 4 bytes each, in half of it."""
    network, _ = models.dense_network(rng)
    device = SimpleNamespace(memory_stats=lambda: statistics)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "local_devices", lambda: [device])
    run = SimpleNamespace(network=SimpleNamespace(network=network), images=(), steps=100)
    neurons = sum(np.prod(shape) for shape in (network.input_shape, *network.shapes))
    for engine, chunk in ((Scan(), 10), (Scan(chunk=3), 3)):
        samples = engine.samples_at_once(run)
        limit = (1 << 32 if statistics else 1 << 33) // 2
        assert samples * neurons * 4 * 3 * (chunk + 1) <= limit
        assert (samples + 1) * neurons * 4 * 3 * (chunk + 1) > limit
    assert Scan(batch_size=7).samples_at_once(run) == 7


@pytest.mark.parametrize(("steps", "chunk"), [(100, 10), (7, 7), (32, 8), (101, 10), (250, 10)])
def test_chunks_of_accelerators_leave_no_steps_over_if_they_can(monkeypatch, steps, chunk):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert scan._fitting_chunk(SimpleNamespace(images=(), steps=steps)) == chunk


def test_a_sample_does_not_depend_on_the_others(rng):
    network, _ = models.dense_network(rng)
    snn = jaxsnn.balance_thresholds(network, 2.0)
    images = models.dyadic_images(rng, 9, *network.input_shape)
    whole = jaxsnn.simulate(snn, images, key=3, duration=0.02)
    some = np.array([7, 2, 5])
    part = jaxsnn.simulate(snn, images[some], key=3, duration=0.02, samples=some)
    np.testing.assert_array_equal(part.predictions, whole.predictions[:, some])
    np.testing.assert_array_equal(part.spike_counts[0], whole.spike_counts[0][some])
    other = jaxsnn.simulate(snn, images, key=4, duration=0.02)
    assert not np.array_equal(other.input_spike_counts, whole.input_spike_counts)
    assert not np.array_equal(
        *jaxsnn.simulate(snn, images[[0, 0]], key=3, duration=0.02).input_spike_counts
    )


@pytest.mark.parametrize(("split", "refractory_period"), [(1, 3e-3), (29, 3e-3), (11, 0.0)])
@pytest.mark.thinned(3)
def test_a_run_in_two_parts_is_the_whole_run(rng, split, refractory_period):
    network, _ = models.dense_network(rng)
    snn = jaxsnn.balance_thresholds(network, 2.0)
    images = models.dyadic_images(rng, 5, *network.input_shape)
    options = dict(key=3, record=everything, refractory_period=refractory_period)
    whole = jaxsnn.simulate(snn, images, duration=0.03, **options)
    first = jaxsnn.simulate(snn, images, duration=split * 1e-3, **options)
    second = jaxsnn.simulate(
        snn,
        images,
        duration=(30 - split) * 1e-3,
        state=first.state,
        engine=Scan(batch_size=2),
        **options,
    )
    assert_equal_runs(whole.state, second.state)
    assert_equal_runs(whole.spike_counts, second.spike_counts)
    for name in ("predictions", "records", "times"):
        joined = jax.tree.map(
            lambda a, b: np.concatenate([a, b]), getattr(first, name), getattr(second, name)
        )
        assert_equal_runs(joined, getattr(whole, name))
    np.testing.assert_array_equal(second.first_spike_time, whole.first_spike_time)
    np.testing.assert_array_equal(second.synaptic_operations, whole.synaptic_operations)


def test_chunks_of_time_are_one_run(rng, monkeypatch):
    network, _ = models.dense_network(rng)
    snn = jaxsnn.balance_thresholds(network, 2.0)
    images = models.dyadic_images(rng, 5, *network.input_shape)
    whole = jaxsnn.simulate(snn, images, key=3, duration=0.06, record=everything)
    monkeypatch.setattr(scan, "_STEPS_PER_SEGMENT", 5)
    assert_equal_runs(whole, jaxsnn.simulate(snn, images, key=3, duration=0.06, record=everything))


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 2**31), exponent=st.integers(-4, 4), layer=st.integers(0, 2))
def test_a_power_of_two_on_weights_and_threshold_changes_nothing(seed, exponent, layer):
    rng = np.random.default_rng(seed)
    weights = models.dense_weights(rng)
    images = models.dyadic_images(rng, 2, 12)
    factor = 2.0**exponent

    def spikes(factor):
        scaled = [w * (factor if i == layer else 1) for i, w in enumerate(weights)]
        network = jaxsnn.read_network(models.dense_function(scaled), images)
        snn = jaxsnn.balance_thresholds(network, 1.0)
        thresholds = [t * (factor if i == layer else 1) for i, t in enumerate(snn.thresholds)]
        snn = jaxsnn.SpikingNetwork(network, thresholds, snn.amplitudes)
        return jaxsnn.simulate(snn, images, key=seed, duration=0.01).spike_counts

    assert_equal_runs(spikes(1.0), spikes(factor))


@pytest.mark.slow
def test_vmap_over_thresholds_is_a_loop_over_them(rng):
    network, _ = models.dense_network(rng)
    images = models.dyadic_images(rng, 5, *network.input_shape)

    def run(scale, rate):
        snn = jaxsnn.balance_thresholds(network, scale)
        return jaxsnn.simulate(snn, images, key=3, duration=0.02, max_rate=rate)

    scales, rates = jnp.array([0.5, 1.0, 2.0, 4.0]), jnp.array([1000.0, 500.0, 250.0, 125.0])
    mapped = jax.tree.map(np.asarray, jax.vmap(run)(scales, rates))
    for index in range(4):
        one = run(float(scales[index]), float(rates[index]))
        assert_equal_runs(jax.tree.map(lambda leaf, index=index: leaf[index], mapped), one)


def compilations(caplog):
    return [r.getMessage() for r in caplog.records if "Compiling jit(advance)" in r.getMessage()]


def test_nothing_compiles_twice(rng, caplog):
    network, _ = models.dense_network(rng, (12, 21, 16, 4))
    images = models.dyadic_images(rng, 13, *network.input_shape)

    def run(scale=1.0, **options):
        snn = jaxsnn.balance_thresholds(network, scale)
        return jaxsnn.simulate(
            snn, images, **{"key": 0, "duration": 0.1, "engine": "scan", **options}
        )

    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        run()
        assert len(compilations(caplog)) == 1
        run()
        run(2.0, max_rate=300.0, key=5, dt=5e-4, duration=0.05)
        run(spike=jaxsnn.step_function(jaxsnn.boxcar()))
        run(duration=0.5)  # five times the chunk of 0.1 s
        assert len(compilations(caplog)) == 1
        run(engine=Scan(batch_size=5))
        assert len(compilations(caplog)) == 2
        run(engine=Scan(batch_size=5), max_rate=10.0)
        assert len(compilations(caplog)) == 2
        for layer in (0, 0, 1):  # the second lambda is the first one, made anew
            run(record=lambda step, layer=layer: step.spikes[layer].sum(-1))
        assert len(compilations(caplog)) == 4
        run(engine="events")
        with jax.log_compiles():
            before = len(caplog.records)
            run(engine="events", duration=0.037)  # the number of steps is an argument of the kernel
            assert len(caplog.records) == before


def test_memory_does_not_grow_with_the_duration(rng, monkeypatch):
    """XLA's own account of the compiled scan; only predictions and scores are longer."""
    network, _ = models.dense_network(rng)
    snn = jaxsnn.balance_thresholds(network, 1.0)
    images = models.dyadic_images(rng, 8, *network.input_shape)
    program, programs = scan.program, []

    def compiled(behaviour):
        def advance(*arguments, **options):
            lowered = program(behaviour).lower(*arguments, **options)
            programs.append(lowered.compile().memory_analysis())
            return program(behaviour)(*arguments, **options)

        return advance

    monkeypatch.setattr(scan, "program", compiled)
    for steps in (10, 100):
        run = jaxsnn.simulate(snn, images, key=0, duration=steps * 1e-3, engine=Scan(chunk=5))
        assert run.records is None
        assert run.predictions.shape == (steps, 8)
    short, long = programs
    assert long.temp_size_in_bytes == short.temp_size_in_bytes
    kept = run.predictions[:90].nbytes + run.scores[:90].nbytes
    assert long.output_size_in_bytes - short.output_size_in_bytes == kept


def test_a_lambda_sees_what_it_refers_to_now(rng):
    """The same code with another variable, or with an array, is another function."""
    network, _ = models.dense_network(rng)
    snn = jaxsnn.balance_thresholds(network, 1.0)
    images = models.dyadic_images(rng, 3, *network.input_shape)

    def recorded(seen):
        record = lambda step: step.spikes[0].sum(-1) * seen  # noqa: E731
        return jaxsnn.simulate(snn, images, key=0, duration=0.004, record=record).records

    one, two, three = recorded(1.0), recorded(2.0), recorded(np.float32(3.0))
    np.testing.assert_array_equal(two, 2 * one)
    np.testing.assert_array_equal(three, 3 * one)
    np.testing.assert_array_equal(recorded(np.float32(4.0)), 4 * one)


TRACEABLE = ("network", "images", "key", "max_rate", "initial_potential", "state")


@pytest.mark.parametrize("traced", [(), TRACEABLE[:-1], *((name,) for name in TRACEABLE)])
@pytest.mark.thinned(3)
def test_jit_whatever_is_traced_and_whatever_is_closed_over(rng, traced):
    network, _ = models.dense_network(rng)
    values = {
        "network": jaxsnn.balance_thresholds(network, 2.0),
        "images": jnp.asarray(models.dyadic_images(rng, 4, *network.input_shape)),
        "key": jax.random.key(0),
        "max_rate": jnp.asarray(500.0),
        "initial_potential": jnp.asarray(0.25),
    }
    if "state" in traced:
        earlier = jaxsnn.simulate(**values, duration=0.01)
        values["state"] = earlier.state
        del values["initial_potential"]

    def run(chosen):
        arguments = values | chosen
        snn, images = arguments.pop("network"), arguments.pop("images")
        return jaxsnn.simulate(snn, images, duration=0.02, **arguments)

    chosen = {name: values[name] for name in traced}
    assert_equal_runs(jax.jit(run)(chosen).spike_counts, run(chosen).spike_counts)


def test_functions_of_the_user_may_return_other_types(rng):
    network, _ = models.convolution_network(rng)
    snn = jaxsnn.balance_thresholds(network, 2.0)
    images = models.dyadic_images(rng, 4, *network.input_shape)
    run = jaxsnn.simulate(
        snn,
        images,
        key=0,
        duration=0.02,
        encode=jax.random.bernoulli,
        reset=lambda potential, spikes, threshold: jnp.where(spikes > 0, 0.5, potential),
        read=lambda output: output.potential.argmin(1),
        record=lambda step: {"output": step.spikes[-1], "nothing": None},
    )
    assert float(run.input_spike_counts.sum()) > 0
    assert run.records["output"].shape == (20, 4, 5)


# -- Input -----------------------------------------------------------------------------------------


def test_poisson_input_has_the_rate_asked_for():
    network = jaxsnn.read_network(lambda x: jax.nn.relu(x @ jnp.ones((4, 2))), jnp.zeros((1, 4)))
    pixels, steps, rate, batch = jnp.array([0.0, 0.25, 0.5, 1.0]), 500, 600.0, 40
    run = jaxsnn.simulate(
        jaxsnn.balance_thresholds(network, 1.0),
        jnp.tile(pixels, (batch, 1)),
        key=0,
        duration=steps * 1e-3,
        max_rate=rate,
    )
    probability = np.asarray(pixels) * rate * 1e-3
    mean = np.asarray(run.input_spike_counts).mean(0) / steps
    deviation = np.sqrt(probability * (1 - probability) / (steps * batch))
    assert np.all(np.abs(mean - probability) <= 5 * deviation)
    assert mean[0] == 0


def test_a_pixel_of_one_at_the_highest_rate_spikes_in_every_step():
    run = jaxsnn.simulate(neuron(), jnp.ones((3, 1)), key=0, duration=0.2)
    assert run.input_spike_counts.tolist() == [[200.0]] * 3


def test_constant_input_drives_as_much_as_poisson_input_on_average():
    run = jaxsnn.simulate(
        neuron(),
        jnp.full((1, 1), 0.5),
        key=0,
        duration=0.2,
        max_rate=500.0,
        encode=jaxsnn.constant,
        reset=jaxsnn.reset_by_subtraction,
    )
    assert run.spike_counts[0].tolist() == [[50.0]]


@pytest.mark.parametrize(
    "key",
    [
        0,
        np.int64(0),
        jnp.asarray(0),
        jax.random.key(0),
        jax.random.PRNGKey(0),
        np.array([0, 0], np.uint32),
    ],
)
def test_seeds_and_keys_are_one(rng, key):
    network, _ = models.dense_network(rng)
    snn = jaxsnn.balance_thresholds(network, 1.0)
    images = models.dyadic_images(rng, 3, *network.input_shape)
    assert_equal_runs(
        jaxsnn.simulate(snn, images, key=jax.random.key(0), duration=0.01),
        jaxsnn.simulate(snn, images, key=key, duration=0.01),
    )


def test_keys_of_generators_that_count_on_the_batch_are_safe(rng):
    """`rbg` draws for a whole batch at once under vmap; samples must not depend on it."""
    network, _ = models.dense_network(rng)
    snn = jaxsnn.balance_thresholds(network, 1.0)
    images = models.dyadic_images(rng, 6, *network.input_shape)
    key = jax.random.key(1, impl="rbg")
    assert_equal_runs(
        jaxsnn.simulate(snn, images, key=key, duration=0.01),
        jaxsnn.simulate(snn, images, key=key, duration=0.01, engine=Scan(batch_size=2)),
    )


# -- Costs -----------------------------------------------------------------------------------------


def test_synaptic_operations_by_numpy(rng):
    """Each spike counts the weights that are not zero and lead to a neuron that exists."""
    first, second, last = models.convolution_weights(rng)
    first[0, 0] = second[1, 1, 2] = last[3] = 0
    network = jaxsnn.read_network(
        models.convolution_function((first, second, last)), np.zeros((1, *models.IMAGE_SHAPE))
    )
    images = models.dyadic_images(rng, 2, *models.IMAGE_SHAPE)
    run = jaxsnn.simulate(
        jaxsnn.balance_thresholds(network, 1.0), images, key=0, duration=0.02, record=everything
    )
    inputs, spikes = jax.tree.map(np.asarray, run.records)
    for sample in range(2):
        expected = 0.0
        for step in range(20):
            # Binary inputs through binary weights: every output counts its operations.
            layers = (inputs[step, sample], spikes[1][step, sample], spikes[3][step, sample])
            expected += reference.convolution((first != 0) * 1.0)(layers[0]).sum()
            expected += reference.convolution((second != 0) * 1.0)(layers[1]).sum()
            expected += reference.dense((last != 0) * 1.0)(layers[2].reshape(-1)).sum()
        assert float(run.synaptic_operations[sample]) == expected


def test_synaptic_operations_of_numpy_are_exact():
    """Sums beyond 2^24, where float32 cannot hold all integers, are rounded once."""
    counts, synapses = np.full((1, 3000), 4001, np.int32), np.full(3000, 10.0, np.float32)
    synapses[0] = 1.0
    exact = (counts.astype(np.int64) * synapses.astype(np.int64)).sum()
    found = jaxsnn.metrics.operations([synapses], [counts])
    assert found.dtype == np.float32
    assert found.tolist() == [float(np.float32(exact))]


# -- Errors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 10}, "duration=0.01 and steps=10: give one"),
        ({"duration": None, "steps": 0}, "steps=0; there must be at least 1"),
        ({"duration": None, "steps": 3, "dt": 0.0}, "dt=0"),
        ({"dt": 0.0}, "dt=0"),
        ({"dt": -1e-3}, "dt=-0.001"),
        ({"dt": float("nan")}, "dt=nan"),
        ({"duration": 0.0}, "more than 0 seconds"),
        ({"duration": -0.1}, "more than 0 seconds"),
        ({"duration": 0.0105}, "10.5 steps"),
        ({"duration": float("inf")}, "more than 0 seconds"),
        ({"max_rate": -1.0}, "max_rate=-1"),
        ({"max_rate": float("nan")}, "max_rate=nan"),
        ({"max_rate": np.ones(2)}, "max_rate is .* must be one real number"),
        ({"record": lambda step: step.spikes[0].sum()}, "first axis must be the samples"),
        ({"key": 1.5}, "key is 1.5, but must be a JAX key"),
        ({"max_rate": 1001.0}, "at most once in a step"),
        ({"max_rate": 1000.0, "dt": 2e-3}, "max_rate <= 500"),
        ({"refractory_period": -1e-3}, "refractory_period"),
        ({"batch_size": 0}, "batch_size=0; it must be at least 1"),
        ({"chunk": 0}, "chunk=0; it must be at least 1"),
        ({"initial_potential": [0.0, 0.0]}, "2 values for 1 layers"),
        ({"initial_potential": [np.zeros(3)]}, "does not broadcast"),
        ({"samples": np.arange(4)}, "one integer for each of the 2 images"),
        ({"samples": np.zeros(2)}, "one integer"),
        ({"key": jax.random.split(jax.random.key(0))}, "give one key"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        jaxsnn.simulate(neuron(), jnp.ones((2, 1)), **({"key": 0, "duration": 0.01} | options))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.full((2, 1), 1.5), r"from 1.5 to 1.5.*\[0, 1\]"),
        (np.full((2, 1), -0.1), "numbers in"),
        (np.full((2, 1), np.nan), "numbers in"),
        (np.ones((2, 1), np.uint8), "divide 8-bit pixels by 255"),
        (np.ones((2, 3)), "batch of images of shape"),
        (np.ones(1), "batch axis"),
        (np.ones((0, 1)), "no images"),
    ],
)
def test_bad_images(images, message):
    with pytest.raises(ValueError, match=message):
        jaxsnn.simulate(neuron(), images, key=0, duration=0.01)


def test_output_neurons_need_one_axis():
    network = jaxsnn.read_network(lambda x: jax.nn.relu(2 * x), jnp.zeros((1, 2, 2)))
    with pytest.raises(ValueError, match="flatten"):
        jaxsnn.simulate(
            jaxsnn.balance_thresholds(network, 1.0), jnp.zeros((1, 2, 2)), key=0, duration=0.01
        )


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda snn: (snn.network, [jnp.array(0.0)]), "thresholds must be positive"),
        (lambda snn: (snn.network, [jnp.array(jnp.nan)]), "thresholds must be positive"),
        (
            lambda snn: (jax.tree.map(lambda leaf: leaf * jnp.nan, snn.network), snn.thresholds),
            "not all finite",
        ),
    ],
)
def test_weights_and_thresholds_are_checked(break_it, message):
    broken = jaxsnn.SpikingNetwork(*break_it(neuron()), neuron().amplitudes)
    with pytest.raises(ValueError, match=message):
        jaxsnn.simulate(broken, jnp.ones((1, 1)), key=0, duration=0.01)


def test_a_state_of_another_run_is_refused():
    run = jaxsnn.simulate(neuron(), jnp.ones((2, 1)), key=0, duration=0.01)
    options = dict(key=0, duration=0.01, state=run.state)
    with pytest.raises(ValueError, match="images of the earlier run"):
        jaxsnn.simulate(neuron(), jnp.ones((3, 1)), **options)
    with pytest.raises(ValueError, match="refractory period of 0 steps, not 5"):
        jaxsnn.simulate(neuron(), jnp.ones((2, 1)), refractory_period=5e-3, **options)
    with pytest.raises(ValueError, match=r"dt=0.001, not 0.0005"):
        jaxsnn.simulate(neuron(), jnp.ones((2, 1)), dt=5e-4, **options)
    with pytest.raises(ValueError, match="belong to the state"):
        jaxsnn.simulate(neuron(), jnp.ones((2, 1)), initial_potential=0.5, **options)


def test_a_state_knows_the_numbers_of_its_samples(rng):
    network, _ = models.dense_network(rng)
    snn = jaxsnn.balance_thresholds(network, 2.0)
    images = models.dyadic_images(rng, 2, *network.input_shape)
    whole = jaxsnn.simulate(snn, images, key=3, duration=0.02, samples=[7, 5])
    first = jaxsnn.simulate(snn, images, key=3, duration=0.01, samples=[7, 5])
    second = jaxsnn.simulate(snn, images, key=3, duration=0.01, state=first.state)
    assert_equal_runs(whole.state, second.state)


def test_an_undecided_sample_is_never_right():
    run = jaxsnn.simulate(neuron(), jnp.zeros((2, 1)), key=0, duration=0.01)
    assert run.accuracy([0, 0]).tolist() == [0.0] * 10


def test_an_object_of_another_stage_is_named():
    """Without the type checker of the tests, which would speak first."""
    code = """
import jax, jax.numpy as jnp, jaxsnn
network = jaxsnn.read_network(lambda x: jax.nn.relu(2 * x), jnp.zeros((1, 1)))
for call in (
    lambda: jaxsnn.simulate(network, jnp.ones((1, 1)), key=0),
    lambda: jaxsnn.balance_thresholds(jax.nn.relu, 1.0),
    lambda: jaxsnn.model_based_scales(jax.nn.relu),
    lambda: jaxsnn.data_based_scales(jax.nn.relu, jnp.ones((1, 1))),
):
    try:
        call()
    except TypeError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, *others = done.stdout.splitlines()
    expected = (
        "network is a Network, but must be a SpikingNetwork (from jaxsnn.convert(model, images"
    )
    assert expected in first
    assert len(others) == 3
    expected = "network is the function relu, but must be a Network (from jaxsnn.read_network("
    assert all(expected in line for line in others)


@pytest.mark.parametrize("labels", [[1], [1, 0, 1], [[1, 0]], []])
def test_labels_of_another_length(labels):
    run = jaxsnn.simulate(neuron(), jnp.ones((2, 1)), key=0, duration=0.01)
    with pytest.raises(ValueError, match="one label for each sample"):
        run.accuracy(labels)


def test_progress_is_shown_where_asked_for(capsys):
    options = dict(key=0, duration=0.2, engine=Scan(batch_size=1))
    jaxsnn.simulate(neuron(), jnp.ones((2, 1)), progress=False, **options)
    jaxsnn.simulate(neuron(), jnp.ones((2, 1)), **options)
    assert capsys.readouterr().err == ""
    jaxsnn.simulate(neuron(), jnp.ones((2, 1)), progress=True, **options)
    assert "simulating" in capsys.readouterr().err
