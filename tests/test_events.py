"""Engines: scan and events, whatever the batches, chunks, formats and devices, bit for bit."""

import logging
import warnings
from importlib import import_module
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

import jaxsnn
from jaxsnn import engines, readout, stopping
from jaxsnn.engines import Events, Scan
from jaxsnn.engines.events import kernels
from jaxsnn.engines.events import run as events_run
from jaxsnn.engines.scan.integers import FORMATS
from jaxsnn.engines.scan.patches import Patches
from jaxsnn.network import Convolution, Dense

import models
from processes import call_with_8_devices, integers_of

compiled = import_module("jaxsnn.engines.scan.lowering")  # the package has a function so called

STEPS = 20
DENSE_BITS, CONVOLUTION_BITS = [8, 16, 8], [16, 8, 16, 8]


def dense_network():
    rng = np.random.default_rng(1)
    network, _ = models.dense_network(rng)
    return jaxsnn.balance_thresholds(network, [1.5, 2.0, 1.0])


def window(x, size):
    shape = (1, size, size, 1)
    return lax.reduce_window(x, 0.0, lax.add, shape, shape, "VALID") / size**2


def convolution_network():
    """The scan computes the first convolution as a product of patches, the second one as it is."""
    rng = np.random.default_rng(2)
    shapes = (3, 3, 1, 6), (3, 3, 6, 5), (20, 4)
    first, second, last = (rng.normal(0.05, 1, shape).astype(np.float32) for shape in shapes)

    def convolve(x, kernel):
        numbers = "NHWC", "HWIO", "NHWC"
        return lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=numbers)

    def model(x):
        x = jax.nn.relu(window(jax.nn.relu(convolve(x, first)), 2))
        x = jax.nn.relu(convolve(x, second))
        return jax.nn.relu(x.reshape(len(x), -1) @ last)

    network = jaxsnn.read_network(model, np.zeros((1, 10, 10, 1), np.float32))
    return jaxsnn.balance_thresholds(network, [1.0, 0.75, 2.0, 1.0])


def images_of(batch, network):
    shape = batch, *network.network.input_shape
    return np.random.default_rng(3).random(shape, np.float32).round(3)


DENSE = jaxsnn.quantize(dense_network(), bits=DENSE_BITS)
CONVOLUTION = jaxsnn.quantize(convolution_network(), bits=CONVOLUTION_BITS)


ENGINES = {"scan": Scan(chunk=5), "events": Events()}


def run(network, images, **options):
    return jaxsnn.simulate(network, images, **{"key": 5, "duration": STEPS * 1e-3, **options})


def assert_equal_runs(one, two):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def assert_lively(found):
    """All layers spike, some neurons more than others, and the predictions differ."""
    assert all(len(np.unique(counts)) > 3 for counts in found.spike_counts)
    assert len(np.unique(found.predictions)) > 2


# -- One run, however it is computed ---------------------------------------------------------------


@pytest.fixture(scope="module")
def dense_run():
    """70 samples by the events, read by membrane potentials: numbers of floating point."""
    found = run(DENSE, images_of(70, DENSE), engine="events", read=readout.membrane_potential)
    assert_lively(found)
    return found


@pytest.mark.parametrize(("batch_size", "chunk"), [(1, 20), (7, 5), (64, 1), (1000, 3)])
@pytest.mark.thinned(3)
def test_batches_and_chunks_do_not_matter(dense_run, batch_size, chunk):
    found = run(
        DENSE,
        images_of(70, DENSE),
        engine=Scan(batch_size=batch_size, chunk=chunk),
        read=readout.membrane_potential,
    )
    assert_equal_runs(found, dense_run)


@pytest.mark.parametrize("batch_size", [1, 7, 64, 1000])
def test_the_events_do_not_depend_on_the_batch(dense_run, batch_size):
    images, options = images_of(70, DENSE), dict(read=readout.membrane_potential, engine="events")
    with pytest.warns(DeprecationWarning, match=f"Scan.batch_size={batch_size}"):  # nothing to them
        assert_equal_runs(run(DENSE, images, batch_size=batch_size, **options), dense_run)
    some = np.arange(70)[:batch_size][::-1].copy()
    part = run(DENSE, images[some], samples=some, **options)
    np.testing.assert_array_equal(part.predictions, dense_run.predictions[:, some])
    for counts, whole in zip(part.spike_counts, dense_run.spike_counts, strict=True):
        np.testing.assert_array_equal(counts, whole[some])


@pytest.mark.parametrize("name", ["_STEPS_AT_ONCE", "_BYTES_OF_RESULTS"])
def test_what_the_events_write_down_at_a_time_does_not_matter(dense_run, monkeypatch, name):
    """A bound on the memory for results makes segments, here of one step."""
    segments, run_kernels = [], events_run._run_kernels
    monkeypatch.setattr(events_run, name, 1)

    def watched(layout, settings, *given):
        segments.append(settings.steps)
        return run_kernels(layout, settings, *given)

    monkeypatch.setattr(events_run, "_run_kernels", watched)
    found = run(DENSE, images_of(70, DENSE), engine="events", read=readout.membrane_potential)
    assert segments == [1] * STEPS
    assert_equal_runs(found, dense_run)


@given(st.lists(st.integers(0, 63), max_size=64, unique=True))
def test_flags_are_found_in_order(places):
    flags = np.zeros(64, np.uint8)
    flags[places] = 1
    some, found = np.empty(9, np.int64), np.empty(66, np.int64)
    count = kernels.flagged(flags.view(np.uint64), some, found)
    assert found[:count].tolist() == sorted(places)


@pytest.fixture(scope="module")
def convolution_run():
    found = run(CONVOLUTION, images_of(9, CONVOLUTION), engine="events")
    assert_lively(found)
    return found


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.thinned(2)
def test_every_format_gives_the_same_spikes(convolution_run, monkeypatch, name):
    used, product = [], compiled.integer_product

    def watched(operation, weights, x, *, number_format):
        used.append((type(operation), number_format))
        return product(operation, weights, x, number_format=number_format)

    monkeypatch.setattr(compiled, "fastest_format", lambda kind, backend: FORMATS[name])
    monkeypatch.setattr(compiled, "integer_product", watched)
    engine = Scan(batch_size=5, chunk=4)
    found = run(CONVOLUTION, images_of(9, CONVOLUTION), engine=engine)
    assert_equal_runs(found, convolution_run)
    assert set(used) == {(kind, FORMATS[name]) for kind in (Patches, Convolution, Dense)}


@pytest.mark.parametrize("name", ["bfloat16", "int8"])
def test_every_format_holds_the_sums_of_large_windows(monkeypatch, name):
    """A mean over 17x17 spikes goes into products as a sum, up to 289: more than 8 bits."""
    monkeypatch.setattr(compiled, "fastest_format", lambda kind, backend: FORMATS[name])
    kernel = np.float32([[1, 0.3], [-0.5, 1]])
    network = jaxsnn.read_network(
        lambda x: jax.nn.relu(window(x, 17).reshape(len(x), -1) @ kernel), np.zeros((1, 17, 17, 2))
    )
    fixed = jaxsnn.quantize(jaxsnn.balance_thresholds(network, 100.0), bits=16)
    found = run(fixed, np.ones((1, 17, 17, 2), np.float32), duration=3e-3)
    weights = np.asarray(fixed.network.layers[0].weights[0], np.int64)
    assert found.state.neurons[0].potential.tolist() == [(3 * 289 * weights.sum(0)).tolist()]


def sharded(images, devices, kind=AxisType.Auto):
    mesh = Mesh(np.asarray(jax.devices()[:devices]), ("images",), axis_types=(kind,))
    return jax.device_put(images, NamedSharding(mesh, PartitionSpec("images")))


def compare_with_another_process(path):
    """In a process with 8 devices and numbers of 64 bits, and without a type checker."""
    assert len(jax.devices()) == 8
    assert jnp.zeros(()).dtype == np.float64
    expected = np.load(path)
    images = images_of(16, DENSE)
    for engine in ENGINES.values():
        for devices, kind in product((1, 2, 8), (AxisType.Auto, AxisType.Explicit)):
            found = run(DENSE, sharded(images, devices, kind), engine=engine)
            for name, values in integers_of(found).items():
                np.testing.assert_array_equal(values, expected[name])
    with pytest.raises(ValueError, match="engine='neurons'; there are auto, scan, events"):
        run(DENSE, images, engine="neurons")
    with pytest.raises(TypeError, match="engine is 5, but must be the name of an engine or an eng"):
        run(DENSE, images, engine=5)


@pytest.mark.slow
def test_devices_and_numbers_of_64_bits_do_not_matter(tmp_path):
    found = run(DENSE, images_of(16, DENSE), engine=Scan(chunk=5))
    assert len(integers_of(found)) >= 13
    np.savez(tmp_path / "run.npz", **integers_of(found))
    call = f"here.compare_with_another_process({str(tmp_path / 'run.npz')!r})"
    call_with_8_devices(f"import test_events as here; {call}", timeout=300)


@pytest.mark.promotes
@pytest.mark.parametrize("names", [["scan", "events", "scan"], ["events", "scan", "events"]])
def test_a_run_goes_on_in_another_engine(names):
    """With neurons that are refractory, or far above their threshold, when it is handed over."""
    images = images_of(3, CONVOLUTION)
    options = dict(refractory_period=3e-3, reset=jaxsnn.reset_by_subtraction, initial_potential=4.0)
    whole = run(CONVOLUTION, images, duration=0.03, engine="events", **options)
    parts, state = [], None
    for name in names:
        if state is not None:
            options.pop("initial_potential", None)
            assert any(np.any(np.asarray(layer.refractory)) for layer in state.neurons)
            assert any(
                np.any(layer.potential > threshold)
                for layer, threshold in zip(state.neurons, CONVOLUTION.thresholds, strict=True)
            )
        engine = ENGINES[name]
        parts.append(run(CONVOLUTION, images, duration=0.01, engine=engine, state=state, **options))
        state = parts[-1].state
    assert_equal_runs(parts[-1].state, whole.state)
    predictions = np.concatenate([part.predictions for part in parts])
    np.testing.assert_array_equal(predictions, whole.predictions)
    for name in ("first_spike_time", "spike_counts", "synaptic_operations", "exit_time"):
        assert_equal_runs(getattr(parts[-1], name), getattr(whole, name))


# -- Chunks in floating point ----------------------------------------------------------------------


def test_chunks_do_not_matter_to_dyadic_floats(rng):
    network, _ = models.dense_network(rng)
    snn = jaxsnn.balance_thresholds(network, 2.0)
    images = models.dyadic_images(rng, 4, *network.input_shape)
    options = dict(
        record=lambda step: (step.inputs, step.spikes, step.potentials, step.prediction),
        refractory_period=2e-3,
    )
    one, *others = (run(snn, images, engine=Scan(chunk=chunk), **options) for chunk in (1, 5, 20))
    assert_lively(one)
    for other in others:
        assert_equal_runs(other, one)


@pytest.mark.parametrize(("draws", "calls"), [(False, 1), (True, STEPS // 5)])
def test_an_input_that_is_the_same_in_all_steps_is_encoded_once(rng, draws, calls):
    network, _ = models.dense_network(rng, (12, 4))
    snn = jaxsnn.balance_thresholds(network, 2.0)
    images, called = models.dyadic_images(rng, 3, 12), []

    def seen(probability):
        called.append(probability.shape)
        return probability

    def encode(key, probability):
        given = jax.ShapeDtypeStruct(probability.shape, probability.dtype)
        known = probability + 0 * jax.random.uniform(key) if draws else probability
        return jax.pure_callback(seen, given, known, vmap_method="broadcast_all") / 2

    found = run(snn, images, encode=encode, engine=Scan(chunk=5))
    jax.block_until_ready(found.spike_counts)
    assert called[0] == (12,)  # the trial of the function, before anything is compiled
    assert len(called) == 1 + calls
    half = run(snn, images / 2, encode=jaxsnn.constant, engine=Scan(chunk=1))
    assert_equal_runs(found.spike_counts, half.spike_counts)
    np.testing.assert_array_equal(found.input_spike_counts, STEPS * (images != 0))


# -- Which engine ----------------------------------------------------------------------------------


@pytest.fixture
def served(monkeypatch):
    """A list that grows by one for each run of the events."""
    runs, simulate_events = [], Events.simulate

    def counted(*arguments):
        runs.append(1)
        return simulate_events(*arguments)

    monkeypatch.setattr(Events, "simulate", counted)
    return runs


def test_events_are_taken_where_nothing_is_recorded_or_traced(served):
    images = images_of(2, DENSE)
    for network, options, expected in [
        (DENSE, {}, 1),
        (dense_network(), {"arithmetic": jaxsnn.FixedPoint()}, 2),
        (dense_network(), {}, 3),
        (DENSE, {"record": lambda step: step.prediction}, 3),
        (dense_network(), {"record": lambda step: step.prediction}, 3),
        (dense_network(), {"encode": spikes_of_one}, 3),
        (dense_network(), {"spike": lambda v, theta: (v > theta).astype(v.dtype)}, 3),
        (DENSE, {"engine": "events", "stop": stopping.first_spike}, 4),
    ]:
        run(network, images, duration=2e-3, **options)
        assert len(served) == expected
    jax.jit(lambda x: run(DENSE, x, duration=2e-3).spike_counts)(images)
    assert len(served) == 4


def spikes_of_one(key, probability):
    return (probability > 0.5).astype(probability.dtype)


def reset_to_half(potential, spikes, threshold):
    return jnp.where(spikes > 0, threshold / 2, potential)


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (dense_network, {"reset": reset_to_half}, "reset_to_zero and reset_by_subtraction only"),
        (
            dense_network,
            {"spike": lambda v, theta: (v > theta).astype(v.dtype)},
            "spikes at the threshold only",
        ),
        (lambda: DENSE, {"record": lambda step: step.prediction}, "record=... needs the scan"),
        (lambda: DENSE, {"encode": spikes_of_one}, "encodings poisson and constant"),
        (lambda: DENSE, {"stop": lambda output, steps: output.first_spike_class >= 0}, "stop rule"),
    ],
)
def test_events_that_do_not_support_a_run_say_why(make, options, message):
    network = make()
    with pytest.raises(ValueError, match=f'engine="events" does not support this run: .*{message}'):
        run(network, images_of(2, network), engine="events", **options)


def test_events_cannot_be_traced():
    with pytest.raises(ValueError, match=r'engine="events" does not support this run: .*trace'):
        jax.jit(lambda x: run(DENSE, x, engine="events").spike_counts)(images_of(2, DENSE))


def test_where_a_run_needs_the_scan_one_line_says_so_once():
    network, images = dense_network(), images_of(2, DENSE)
    record = lambda step: step.prediction  # noqa: E731
    engines._warn_once.cache_clear()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for key in (5, 6):
            run(network, images, key=key, record=record)
    (warning,) = told
    assert "simulated by the scan, which is slower on CPUs" in str(warning.message)
    assert "record=... needs the scan" in str(warning.message)
    with warnings.catch_warnings(action="error"):
        engines._warn_once.cache_clear()
        run(network, images, engine="scan", record=record)


def compilations(caplog):
    return [
        record.getMessage()
        for record in caplog.records
        if record.getMessage().startswith("Compiling")
    ]


@pytest.mark.parametrize(
    ("engine", "programs"), [("scan", ["_fan_out", "_found", "advance"]), ("events", ["_fan_out"])]
)
def test_the_programs_of_a_new_shape(rng, caplog, engine, programs):
    """None for keys, for the state at the start, or for the trial of the library's functions."""

    def call(inputs, neurons):
        weights = rng.normal(size=(inputs, neurons)).astype(np.float32)
        network = jaxsnn.read_network(lambda x: jax.nn.relu(x @ weights), np.zeros((1, inputs)))
        snn = jaxsnn.balance_thresholds(network, 1.0)
        caplog.clear()
        run(snn, rng.random((3, inputs), np.float32), engine=engine, key=jax.random.key(5))

    call(15, 16)
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        call(17, 19) if engine == "scan" else call(18, 20)
        found = [text.split("(")[1].partition(")")[0] for text in compilations(caplog)]
    assert sorted(found) == programs


@pytest.mark.parametrize("fixed", [True, False], ids=["fixed point", "floating point"])
@pytest.mark.parametrize("read", readout.OF_THE_LIBRARY, ids=lambda read: read.__name__)
def test_readouts_of_all_steps_are_those_of_each_step(read, fixed):
    """NumPy reads all steps at once with the library's readouts; functions of others see a step."""
    seen = []

    def watched(output):
        seen.append(jax.tree.map(lambda leaf: (type(leaf), leaf.shape), output))
        return read(output)

    snn = CONVOLUTION if fixed else convolution_network()
    images = images_of(5, snn)
    first, second = (run(snn, images, engine="events", read=by) for by in (read, watched))
    for name in ("predictions", "scores", "first_spike_time", "times", "exit_time"):
        values = getattr(first, name)
        assert isinstance(values, np.ndarray)
        np.testing.assert_array_equal(values, getattr(second, name))
    classes = snn.network.shapes[-1]
    trial, traced = seen
    assert issubclass(trial.spike_counts[0], jax.Array)
    assert issubclass(traced.spike_counts[0], jax.core.Tracer)
    assert traced.spike_counts[1] == traced.potential[1] == traced.received[1] == (5, *classes)
    assert traced.first_spike_class[1] == (5,)
    assert traced.threshold[1] in ((), (1, *classes))


@pytest.mark.promotes
@pytest.mark.parametrize("engine", ["scan", "events"])
def test_nothing_compiles_twice(caplog, engine):
    """Nor for another key, rate, duration of a step, threshold or margin."""
    images = images_of(11, DENSE)

    def call(scale=1.5, **options):
        snn = jaxsnn.balance_thresholds(dense_network().network, [scale, 2.0, 1.0])
        fixed = jaxsnn.quantize(snn, bits=DENSE_BITS)
        caplog.clear()
        return run(fixed, images, engine=engine, **options)

    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        call()
        call()
        assert compilations(caplog) == []
        call(key=7, max_rate=300.0)
        assert compilations(caplog) == []
        call(dt=5e-4, duration=STEPS * 5e-4)
        assert compilations(caplog) == []
        call(scale=1.75)
        assert compilations(caplog) == []
        call(stop=stopping.margin(1000))
        call(stop=stopping.margin_over_time(np.int32(900), every=jnp.int32(7)))
        assert compilations(caplog) == []


@pytest.mark.parametrize("network", [dense_network(), DENSE], ids=["float32", "fixed point"])
def test_delayed_scores_do_not_depend_on_where_a_run_is_cut(network):
    """Outputs begin to add at the step of the readout; they take no difference, which rounds."""
    images, read = images_of(5, network), jaxsnn.readout.delayed(5)
    whole = run(network, images, engine="events", read=read)
    for steps in (2, 5, 7):
        first = run(network, images, engine="events", read=read, duration=steps * 1e-3)
        rest = run(
            network,
            images,
            engine="events",
            read=read,
            duration=(STEPS - steps) * 1e-3,
            state=first.state,
        )
        np.testing.assert_array_equal(np.concatenate([first.scores, rest.scores]), whole.scores)
    assert not whole.scores[:5].any()
    assert whole.scores[5:].any()
