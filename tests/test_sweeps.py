"""Sweeps: the spikes of `simulate` and of the oracle, one compilation, bounded memory, errors."""

import dataclasses
import itertools
import logging
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxsnn
from jaxsnn.engines import Scan
from jaxsnn.engines.events import run as events
from jaxsnn.support.progress import progress_bar
from jaxsnn.sweeps import plan, points, run

import models
import reference

RESETS = {"zero": jaxsnn.reset_to_zero, "subtraction": jaxsnn.reset_by_subtraction}
STEPS = 20
DURATION = STEPS * 1e-3


def problem(rng, build=models.dense_network, batch=11):
    """A network with exact sums, its oracle, images and labels."""
    network, layers = build(rng)
    images = models.dyadic_images(rng, batch, *network.input_shape)
    return network, layers, images, rng.integers(0, network.shapes[-1][0], batch)


def spiking(network, scales, multiplier):
    """What a point of a sweep stands for."""
    snn = jaxsnn.balance_thresholds(network, scales)
    rows = np.broadcast_to(np.float32(multiplier), len(snn.thresholds))
    thresholds = [m * threshold for m, threshold in zip(rows, snn.thresholds, strict=True)]
    return jaxsnn.SpikingNetwork(network, thresholds, snn.amplitudes)


def inputs_and_spikes(step):
    """One function for all calls, for which one program serves."""
    return step.inputs, step.spikes


def simulated(network, images, point, scales, **options):
    """Inputs and spikes of a point by `simulate`."""
    run = jaxsnn.simulate(
        spiking(network, scales, options.pop("multiplier", point.threshold.item())),
        images,
        key=point.seed.item(),
        duration=options.pop("duration", DURATION),
        max_rate=point.max_rate.item(),
        refractory_period=point.refractory_period.item(),
        dt=point.dt.item(),
        reset=RESETS.get(point.reset.item(), jaxsnn.reset_to_zero),
        record=inputs_and_spikes,
        **options,
    )
    return jax.tree.map(np.asarray, run.records)


def assert_is(point, inputs, spikes, labels, network, dt=1e-3):
    """That the variables of a point are what NumPy makes of its spikes [T, B, ...]."""
    images, senders = len(labels), [inputs, *spikes]
    predictions = np.stack([reference.predictions(s) for s in spikes[-1].swapaxes(0, 1)], 1)
    counts = [(s != 0).reshape(len(s), -1).sum(1).cumsum() for s in senders]
    operations = [
        ((s != 0) * np.asarray(f, float)).reshape(len(s), -1).sum(1).cumsum()
        for s, f in zip(senders, jaxsnn.metrics.fan_out(network), strict=False)
    ]
    spiked = spikes[-1].any(2)
    step = np.where(spiked.any(0), spiked.argmax(0) + 1.0, np.inf)
    first = [
        spikes[-1][int(when) - 1, image].argmax() if when < np.inf else -1
        for image, when in enumerate(step)
    ]
    expected = {
        "accuracy": (predictions == labels).sum(1) / images,
        "undecided": (predictions == -1).sum(1) / images,
        "spikes": np.stack(counts[1:], 1) / images,
        "input_spikes": counts[0] / images,
        "synaptic_operations": np.sum(operations, 0) / images,
        "first_spike_accuracy": (np.asarray(first) == labels).sum() / images,
    }
    for name, values in expected.items():
        np.testing.assert_array_equal(point[name], values, err_msg=name)
    latency = np.median(step) * dt
    np.testing.assert_allclose(
        point.first_spike_latency, latency if latency < np.inf else np.nan, rtol=1e-9
    )


def scattered(data, number):
    """Some points of a sweep."""
    dims = data.accuracy.dims[:-1]
    sizes = [data.sizes[dim] for dim in dims]
    chosen = np.random.default_rng(1).permutation(np.prod(sizes))[:number]
    for place in zip(*np.unravel_index(chosen, sizes), strict=True):
        yield data.isel(dict(zip(dims, map(int, place), strict=True)))


# -- The same spikes -------------------------------------------------------------------------------


@pytest.mark.parametrize("build", [models.dense_network, models.convolution_network])
@pytest.mark.thinned(2)
def test_every_point_is_a_call_of_simulate(rng, build):
    network, _, images, labels = problem(rng, build, 5)
    scales = {"one": 1.0, "rising": [2.0**n for n in range(len(network.layers))]}
    grid = jaxsnn.Grid(
        scales={**scales, "rule": lambda network: [4.0] * len(network.layers)},
        threshold=[0.25, 2.0],
        max_rate=[1000.0, 250.0],
        refractory_period=[0.0, 3e-3],
        reset=RESETS,
        seed=[0, 5],
        duration=DURATION,
    )
    scales["rule"] = 4.0
    data = jaxsnn.sweep(network, images, labels, grid)
    dims = ("scales", "threshold", "max_rate", "refractory_period", "reset", "seed", "time")
    assert data.accuracy.dims == dims
    assert data.accuracy.shape == (3, 2, 2, 2, 2, 2, STEPS)
    assert float(data.spikes.min("layer").max()) > 0
    for point in scattered(data, 12):
        found = simulated(network, images, point, scales[point.scales.item()])
        assert_is(point, *found, labels, network)


@pytest.mark.parametrize("build", [models.dense_network, models.convolution_network])
@pytest.mark.thinned(2)
def test_every_point_in_fixed_point_is_a_call_of_simulate(rng, monkeypatch, build):
    monkeypatch.setattr(events, "_STEPS_AT_ONCE", 7)
    network, _, images, labels = problem(rng, build, 5)
    scales = {"one": 1.0, "rising": [1.5**n for n in range(len(network.layers))]}
    arithmetic = jaxsnn.FixedPoint(bits=8)
    grid = jaxsnn.Grid(
        scales=scales,
        threshold=[0.25, 1.1],
        max_rate=[1000.0, 250.0],
        refractory_period=[0.0, 3e-3],
        reset=RESETS,
        seed=[0, 5],
        duration=DURATION,
    )
    data, by_events = (
        jaxsnn.sweep(network, images, labels, grid, arithmetic=arithmetic, engine=engine)
        for engine in ("scan", "events")
    )
    xr.testing.assert_equal(data, by_events)
    assert float(data.spikes.min("layer").max()) > 0
    for point in scattered(data, 12):
        scale = scales[point.scales.item()]
        found = simulated(network, images, point, scale, arithmetic=arithmetic)
        assert_is(point, *found, labels, network)


@pytest.mark.parametrize("reset", RESETS)
def test_equal_to_the_oracle(rng, reset):
    network, layers, images, labels = problem(rng, batch=5)
    grid = jaxsnn.Grid(
        scales=[2.0, 1.0, 4.0],
        threshold=[0.5, 2.0],
        refractory_period=[0.0, 2e-3],
        reset=RESETS[reset],
        seed=7,
        duration=DURATION,
    )
    data = jaxsnn.sweep(network, images, labels, grid)
    for point in scattered(data, len(grid)):
        inputs, _ = simulated(network, images, point, [2.0, 1.0, 4.0])
        thresholds = [λ * point.threshold.item() for λ in (2.0, 1.0, 4.0)]
        trains = [
            reference.simulate(
                layers,
                inputs[:, image],
                thresholds,
                [2.0, 1.0, 4.0],
                reset=reset,
                refractory_steps=round(point.refractory_period.item() / 1e-3),
            )
            for image in range(len(images))
        ]
        spikes = [np.stack(layer, 1) for layer in zip(*trains, strict=True)]
        assert_is(point, inputs, spikes, labels, network)


def test_poolings_meet_their_thresholds_exactly(rng):
    """A mean of spikes is a fraction of λ; a multiple of λ is met in both forms, or in neither."""
    network, _, images, labels = problem(rng, models.convolution_network)
    scales = [1.7, 1.7, 1.7, 1.7, 0.7]  # three times 1.7 is rounded in float32
    grid = jaxsnn.Grid(scales=scales, threshold=[[0.25, 1.5, 1.0, 1.0, 1.0]], duration=DURATION)
    data = jaxsnn.sweep(network, images, labels, grid).squeeze("threshold")
    weights = jaxsnn.normalize_weights(network, scales)
    thresholds = [jnp.float32(m) for m in grid.values("threshold")[0]]
    weights = jaxsnn.SpikingNetwork(weights.network, thresholds, weights.amplitudes)
    run = jaxsnn.simulate(weights, images, key=0, duration=DURATION)
    spikes = [float(counts.sum()) / len(images) for counts in run.spike_counts[:2]]
    assert min(spikes) > 1
    assert data.spikes[-1, :2].values.tolist() == spikes


def test_rows_of_multipliers_and_factors_for_each_channel(rng):
    network, _, images, labels = problem(rng, models.convolution_network)
    rows = {"even": [1.0] * 5, "late": [0.5, 0.5, 1.0, 1.0, 2.0]}
    channels = [np.array([1.0, 2.0, 0.5, 1.0]), 1.0, 2.0, 2.0, 1.0]
    grid = jaxsnn.Grid(scales={"channels": channels, "one": 1.0}, threshold=rows, duration=DURATION)
    data = jaxsnn.sweep(network, images, labels, grid)
    assert data.threshold.values.tolist() == ["even", "late"]
    np.testing.assert_array_equal(data.multipliers, list(rows.values()))
    assert "scale_factor" not in data  # λ is not one number for each layer
    for label, scales in (("channels", channels), ("one", 1.0)):
        for name, row in rows.items():
            point = data.sel(scales=label, threshold=name)
            found = simulated(network, images, point, scales, multiplier=row)
            assert_is(point, *found, labels, network)


@pytest.mark.slow
def test_steps_of_several_lengths_share_one_axis_of_time(rng):
    network, _, images, labels = problem(rng)
    grid = jaxsnn.Grid(
        scales=2.0, dt=[1e-3, 4e-4, 2e-3], refractory_period=[0.0, 2e-3], max_rate=400.0,
        duration=0.012,
    )  # fmt: skip
    data = jaxsnn.sweep(network, images, labels, grid)
    steps = {dt: round(0.012 / dt) for dt in (1e-3, 4e-4, 2e-3)}
    ends = sorted({round(dt * n, 12) for dt, last in steps.items() for n in range(1, last + 1)})
    assert data.time.values.tolist() == ends
    for dt, last in steps.items():
        # After the last whole step of each time; before the first there is nothing.
        read = np.array([np.floor(end / dt + 1e-6) for end in ends], int)
        for point in scattered(data.sel(dt=dt), 2):
            found = simulated(network, images, point, 2.0, duration=0.012)
            whole = point.isel(time=[ends.index(round(dt * n, 12)) for n in range(1, last + 1)])
            assert_is(whole, *found, labels, network, dt)
            filled = np.append(0.0, whole.accuracy)[read]
            np.testing.assert_array_equal(point.accuracy, filled)
            assert (point.undecided[read == 0] == 1).all()


def test_durations_are_read_off_one_run(rng):
    network, _, images, labels = problem(rng)
    whole = jaxsnn.sweep(network, images, labels, jaxsnn.Grid(scales=2.0, duration=DURATION))
    some = jaxsnn.sweep(
        network, images, labels, jaxsnn.Grid(scales=2.0, duration=[DURATION, 0.004, 0.01])
    )
    xr.testing.assert_equal(some, whole.sel(time=[0.004, 0.01, DURATION]))


def test_single_precision_says_the_same_as_double(rng):
    """0.06 s is 60 steps, and 0.1 is 0.1, also where they come from an array of JAX."""
    network, _, images, labels = problem(rng, batch=3)
    axes = {"threshold": [0.5, 0.7], "max_rate": [1000.0, 0.1], "duration": [0.02, 0.06]}
    wide = jaxsnn.Grid(scales=2.0, refractory_period=0.003, **axes)
    narrow = {name: jnp.asarray(values) for name, values in axes.items()}
    narrow = jaxsnn.Grid(
        scales=jnp.float32(2), refractory_period=jnp.float32(0.003), dt=jnp.float32(1e-3), **narrow
    )
    xr.testing.assert_equal(
        jaxsnn.sweep(network, images, labels, wide), jaxsnn.sweep(network, images, labels, narrow)
    )


def test_numbers_and_rows_of_multipliers_have_labels_of_one_kind():
    axis = jaxsnn.Grid(scales=1.0, threshold=[1.0, [0.5, 1.0, 2.0]]).axes["threshold"]
    assert axis.labels == ["1", "0.5/1/2"]
    assert jaxsnn.Grid(scales=1.0, threshold=[[1.0, 2.0], [2.0, 1.0]]).axes["threshold"].labels == [
        0,
        1,
    ]


def test_a_network_too_large_for_the_usual_memory_is_swept(rng, monkeypatch):
    network, _, images, labels = problem(rng)
    grid = jaxsnn.Grid(scales=2.0, threshold=[0.5, 1.0], duration=0.005)
    whole = jaxsnn.sweep(network, images, labels, grid)
    monkeypatch.setattr(plan, "_MEMORY", {"cpu": 10})
    xr.testing.assert_equal(jaxsnn.sweep(network, images, labels, grid), whole)


def test_one_value_is_no_dimension(rng):
    network, _, images, labels = problem(rng)
    data = jaxsnn.sweep(network, images, labels, jaxsnn.Grid(scales=1.0, duration=DURATION))
    assert dict(data.sizes) == {"time": STEPS, "layer": 3}
    assert (data.threshold, data.max_rate, data.seed, data.reset) == (1, 1000, 0, "reset_to_zero")
    assert data.operation.values.tolist() == ["Dense 12 → 20", "Dense 20 → 16", "Dense 16 → 4"]
    assert float(data.relu_accuracy) == np.mean(np.asarray(network(images)).argmax(1) == labels)


PIECES = jaxsnn.Grid(
    scales=2.0, threshold=[0.25, 1.0, 2.0], max_rate=[500, 750, 1000], seed=range(3), duration=0.01
)


@pytest.fixture(scope="module")
def in_one_piece():
    network, _, images, labels = problem(np.random.default_rng(0))
    whole = jaxsnn.sweep(network, images, labels, PIECES, memory=1 << 28)
    return (network, images, labels), whole


@settings(max_examples=4, deadline=None)
@given(memory=st.integers(30_000, 2_000_000))
def test_the_pieces_do_not_matter(in_one_piece, memory):
    swept, whole = in_one_piece
    xr.testing.assert_equal(whole, jaxsnn.sweep(*swept, PIECES, memory=memory))


def test_functions_of_the_user(rng):
    network, _, images, labels = problem(rng)

    def half(potential, spikes, threshold):
        return jnp.where(spikes > 0, potential / 2, potential)

    grid = jaxsnn.Grid(scales=2.0, reset={"half": half}, duration=DURATION)
    read = jaxsnn.readout.membrane_potential
    data = jaxsnn.sweep(network, images, labels, grid, encode=jaxsnn.constant, read=read)
    run = jaxsnn.simulate(
        jaxsnn.balance_thresholds(network, 2.0),
        images,
        key=0,
        duration=DURATION,
        encode=jaxsnn.constant,
        reset=half,
        read=read,
    )
    right = (np.asarray(run.predictions) == labels).sum(1) / len(labels)
    np.testing.assert_array_equal(data.accuracy.sel(reset="half"), right)


# -- Costs -----------------------------------------------------------------------------------------


def compilations(caplog):
    return [
        r.getMessage() for r in caplog.records if "Compiling jit(simulate_points)" in r.getMessage()
    ]


def test_a_grid_is_compiled_once(rng, caplog):
    """Whatever the thresholds, rates, seeds, periods and durations, and in how many pieces."""
    network, _ = models.dense_network(rng, (12, 23, 16, 4))
    images = models.dyadic_images(rng, 13, *network.input_shape)
    labels = rng.integers(0, 4, 13)

    def sweep(**axes):
        axes = {"threshold": [0.5, 1.0, 2.0], "max_rate": [1000.0, 300.0], "seed": [0, 1]} | axes
        grid = jaxsnn.Grid(**{"scales": 1.0, "duration": 0.05} | axes)
        return jaxsnn.sweep(network, images, labels, grid, memory=100_000, engine="scan")

    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        sweep()
        assert len(compilations(caplog)) == 1
        sweep(threshold=[3.0, 7.0, 1.0], max_rate=[10.0, 20.0], seed=[7, 8])
        sweep(scales={"a": 2.0}, dt=5e-4, duration=[0.01, 0.03])
        assert len(compilations(caplog)) == 1
        sweep(dt=[1e-3, 5e-4])
        assert len(compilations(caplog)) == 1
        sweep(refractory_period=[0.0, 2e-3])  # counters are another program
        assert len(compilations(caplog)) == 2


def test_input_spikes_are_drawn_once_for_all_thresholds(rng):
    network, _, images, labels = problem(rng, batch=3)
    calls = []

    def counted(key, probability):
        def note(p, step_key):  # the key keeps the call in the loop
            calls.append(step_key)
            return p

        arguments = probability, jax.random.key_data(key)
        noted = jax.pure_callback(note, probability, *arguments, vmap_method="sequential")
        return jaxsnn.poisson(key, noted)

    grid = jaxsnn.Grid(
        scales={"a": 1.0, "b": 2.0}, threshold=[0.5, 1.0, 2.0], max_rate=[1000.0, 500.0],
        duration=0.005,
    )  # fmt: skip
    data = jaxsnn.sweep(network, images, labels, grid, encode=counted)
    rates, steps = 2, 5
    assert len(calls) == 1 + len(images) * rates * steps  # and a trial of the function
    assert data.input_spikes.std(["scales", "threshold"]).max() == 0
    plain = jaxsnn.sweep(network, images, labels, grid)
    xr.testing.assert_equal(data, plain)


@pytest.mark.parametrize(
    ("build", "periods", "memory"),  # every two settings together
    [
        (models.dense_network, 0.0, 200_000),
        (models.dense_network, [0.0, 3e-3], 3_000_000),
        (models.convolution_network, 0.0, 3_000_000),
        (models.convolution_network, [0.0, 3e-3], 200_000),
    ],
)
@pytest.mark.thinned(3)
def test_a_piece_fits_in_the_memory_given(rng, monkeypatch, build, periods, memory):
    """By XLA's own account; the weights come on top."""
    network, _, images, labels = problem(rng, build, 200)
    needed, compiled = {}, Scan.simulate_points

    def measured(*arguments, **options):
        shapes = tuple(leaf.shape for leaf in jax.tree.leaves(arguments))
        if shapes not in needed:
            analysis = compiled.lower(*arguments, **options).compile().memory_analysis()
            weights = sum(leaf.nbytes for leaf in jax.tree.leaves(arguments[0]))
            total = analysis.temp_size_in_bytes + analysis.argument_size_in_bytes
            needed[shapes] = total - weights
        return compiled(*arguments, **options)

    monkeypatch.setattr(Scan, "simulate_points", staticmethod(measured))
    grid = jaxsnn.Grid(
        scales=1.0, threshold=[0.5, 1.0, 2.0, 3.0], max_rate=[1e3, 500.0, 250.0],
        refractory_period=periods, duration=0.001,
    )  # fmt: skip
    jaxsnn.sweep(network, images, labels, grid, memory=memory, engine="scan")
    assert max(needed.values()) <= memory
    assert max(needed.values()) > memory / 20  # and it is made use of


def test_how_many_pieces_is_said(rng, caplog, capsys, monkeypatch):
    network, _, images, labels = problem(rng)
    grid = jaxsnn.Grid(scales=1.0, threshold=[0.5, 1.0], duration=0.005)
    with caplog.at_level(logging.INFO, "jaxsnn"):
        jaxsnn.sweep(network, images, labels, grid, memory=25_000, engine="scan")
    assert capsys.readouterr().err == ""  # no terminal, no bar
    (message,) = [record.getMessage() for record in caplog.records if record.name == "jaxsnn"]
    pieces = int(message.split()[2])
    assert pieces > 1
    monkeypatch.setattr(run, "progress_bar", partial(progress_bar, mininterval=0))
    jaxsnn.sweep(network, images, labels, grid, memory=25_000, progress=True, engine="scan")
    bar = capsys.readouterr().err
    assert f"sweeping in {pieces} pieces" in bar
    assert "1/2 points" in bar
    assert "image-step/s" in bar


# -- Choosing --------------------------------------------------------------------------------------


def found(**variables):
    """A sweep of 2 thresholds and 3 times."""
    dims = ("threshold", "time")
    return xr.Dataset(
        {name: (dims, values) for name, values in variables.items()},
        coords={"threshold": [0.5, 1.0], "time": [0.01, 0.02, 0.03]},
    )


TRADE = found(
    accuracy=[[0.5, 0.9, 0.9], [0.2, 0.95, 0.97]],
    synaptic_operations=[[1.0, 2.0, 3.0], [0.5, 4.0, 6.0]],
)


@pytest.mark.parametrize(
    ("budget", "threshold", "time"),
    [
        ({}, 1.0, 0.03),
        ({"time": 0.02}, 1.0, 0.02),
        ({"time": 0.01}, 0.5, 0.01),
        ({"time": 0.0299999999999}, 1.0, 0.03),  # the rounding of 30 · 0.001
        ({"time": 0.0299}, 1.0, 0.02),
        ({"operations": 3.0}, 0.5, 0.02),  # 0.9 twice: the earlier
        ({"operations": 0.9}, 1.0, 0.01),
        ({"accuracy": 0.9}, 1.0, 0.02),  # two at that time: the more accurate
        ({"accuracy": 0.9, "goal": "synaptic_operations"}, 0.5, 0.02),
        ({"accuracy": 0.5}, 0.5, 0.01),
        ({"accuracy": 0.9, "operations": 5.0, "goal": "accuracy"}, 1.0, 0.02),
        ({"goal": "time"}, 0.5, 0.01),
    ],
)
def test_best(budget, threshold, time):
    chosen = jaxsnn.best(TRADE, **budget)
    assert (chosen.threshold.item(), chosen.time.item()) == (threshold, time)
    assert chosen.accuracy.item() == TRADE.accuracy.sel(threshold=threshold, time=time).item()


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ({"accuracy": 0.98}, "accuracy >= 0.98 within the budget; the nearest has 0.97"),
        ({"time": 0.001}, "time <= 0.001 within the budget; the nearest has 0.01"),
        ({"operations": 0.1}, "synaptic_operations <= 0.1 within the budget; the nearest has 0.5"),
        ({"time": 0.01, "accuracy": 0.6}, "accuracy >= 0.6 within the budget; the nearest has 0.5"),
        ({"time": 0.0}, "time=0.0; a bound must be positive"),
        ({"accuracy": 90.0}, "divide percentages by 100"),
        ({"accuracy": float("nan")}, "accuracy=nan"),
    ],
)
def test_best_says_how_near_it_comes(budget, message):
    with pytest.raises(ValueError, match=message):
        jaxsnn.best(TRADE, **budget)


def test_best_looks_at_the_mean_over_seeds():
    lucky = xr.concat([TRADE, TRADE], "seed").assign_coords(seed=[0, 1]).copy(deep=True)
    lucky.accuracy[dict(seed=0, threshold=0, time=0)] = 1.0
    assert jaxsnn.best(lucky, time=0.01).accuracy.item() == 0.75
    assert jaxsnn.best(lucky).threshold.item() == 1.0


# -- Errors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({"threshold": []}, "threshold is empty"),
        ({"max_rate": []}, "max_rate is empty"),
        ({"scales": {}}, "scales is empty"),
        ({"reset": []}, "reset is empty"),
        ({"seed": np.array([], int)}, "seed is empty"),
        ({"duration": []}, "duration is empty"),
        ({"threshold": [1.0, 2.0, 1.0]}, "threshold has 1.0 twice"),
        ({"threshold": {"a": [1.0, 2.0], "b": [1.0, 2.0]}}, "twice"),
        ({"max_rate": [500.0, 500]}, "max_rate has 500.0 twice"),
        ({"seed": [3, 3]}, "seed has 3 twice"),
        (
            {"reset": [jaxsnn.reset_to_zero, jaxsnn.reset_to_zero]},
            "reset has 'reset_to_zero' twice",
        ),
        ({"max_rate": [1000.0, 1001.0]}, "max_rate=1001 Hz times dt=0.001"),
        ({"dt": [1e-3, 2e-3]}, "max_rate <= 500"),
        ({"max_rate": [-1.0]}, "max_rate=-1"),
        ({"max_rate": [np.nan]}, "max_rate=nan"),
        ({"max_rate": np.ones((1, 1))}, "one number or a sequence of numbers"),
        ({"dt": 0.0}, "dt=0.0"),
        ({"duration": 0.0105}, "10.5 steps"),
        ({"duration": [0.01, 0.0105]}, "10.5 steps"),
        ({"refractory_period": -1e-3}, "refractory_period=-0.001"),
        ({"threshold": 0.0}, "must be positive"),
        ({"threshold": [1.0, np.inf]}, "must be positive and finite"),
        ({"threshold": [[1.0, -1.0, 1.0]]}, "must be positive"),
        ({"seed": [0, 1 << 32]}, "seed=4294967296; a seed is at least 0"),
        ({"seed": -1}, "seed=-1"),
        ({"refractory_period": 1e7}, "too many steps"),
        ({"scales": "data-based"}, "scales='data-based'; give a rule"),
        ({"scales": []}, "scales is empty"),
        ({"scales": None}, "scales=None; give a rule"),
        ({"scales": [[1.0, 2.0], [3.0, 4.0]]}, r"several of them with names: \{name: rule"),
        ({"scales": [jaxsnn.model_based_scales, 1.0]}, "several of them with names"),
        ({"threshold": None}, "must be positive and finite"),
        ({"seed": np.array([0.5])}, "seed=.*sequence of integers"),
    ],
)
def test_bad_grids(axes, message):
    with pytest.raises(ValueError, match=message):
        jaxsnn.Grid(**{"scales": 1.0, **axes})


def test_functions_of_one_name_need_names():
    resets = [lambda v, s, t: v, lambda v, s, t: v - s]
    with pytest.raises(ValueError, match=r"'<lambda>' twice.*\{name: function\}"):
        jaxsnn.Grid(scales=1.0, reset=resets)
    assert jaxsnn.Grid(scales=1.0, reset=dict(zip("ab", resets, strict=True))).sizes == {"reset": 2}


def test_labels_of_rules():
    rules = [jaxsnn.model_based_scales, partial(jaxsnn.percentile_scales, percentile=99.0)]
    labels = jaxsnn.Grid(scales=rules).axes["scales"].labels
    assert labels == ["model_based_scales", "percentile_scales(percentile=99.0)"]
    assert jaxsnn.Grid(scales=[1.0, 2.0]).axes["scales"].labels == ["given"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": [0, 1]}, "labels of shape .2,. for 3 images"),
        ({"labels": np.arange(3.0)}, "labels must be integers, not float64"),
        ({"labels": [0, 1, 4]}, "labels range from 0 to 4; they must be classes, from 0 to 3"),
        ({"labels": [0, -1, 2]}, "labels range from -1 to 2"),
        ({"images": np.zeros((3, 5), np.float32)}, "images of shape"),
        ({"images": np.full((3, 12), 2.0, np.float32)}, "Divide them by 255"),
        ({"images": np.zeros((0, 12), np.float32), "labels": []}, "no images"),
        ({"memory": 1000}, r"memory=1000 bytes, but one image at one point takes \d+"),
        ({"grid": {"scales": jaxsnn.data_based_scales}}, "calibration=train.images"),
        ({"grid": {"scales": {"a": 1.0, "b": lambda network: -1.0}}}, "scale factor -1"),
        ({"grid": {"scales": [1.0, 2.0]}}, "2 values for 3 layers"),
        ({"grid": {"threshold": [[1.0, 2.0]]}}, "threshold: 2 values for 3 layers"),
        ({"calibration": np.zeros((0, 12), np.float32)}, "no images"),
        (
            {"read": lambda output: output.spike_counts},
            r"read=.* an array of shape .2, 4.",
        ),
        ({"mesh": jax.make_mesh((1,), ("x",))}, "it needs 'points' and 'images'"),
    ],
)
def test_bad_arguments_before_anything_is_compiled(rng, caplog, change, message):
    network, _, images, labels = problem(rng, batch=3)
    arguments = {"images": images, "labels": labels} | change
    grid = jaxsnn.Grid(**{"scales": 1.0, "duration": 0.01, **arguments.pop("grid", {})})
    caplog.clear()
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        with pytest.raises(ValueError, match=message):
            jaxsnn.sweep(network, grid=grid, **arguments)
        assert not [r for r in caplog.records if "jit(simulate_points)" in r.getMessage()]
        assert not [r for r in caplog.records if "jit(_maxima)" in r.getMessage()]


def test_output_neurons_need_one_axis():
    network = jaxsnn.read_network(lambda x: jax.nn.relu(2 * x), jnp.zeros((1, 2, 2)))
    with pytest.raises(ValueError, match="flatten"):
        jaxsnn.sweep(network, jnp.zeros((1, 2, 2)), [3], jaxsnn.Grid(scales=1.0))


def test_broken_weights_are_refused(rng):
    network, _, images, labels = problem(rng)
    broken = jax.tree.map(lambda leaf: leaf * jnp.nan, network)
    with pytest.raises(ValueError, match="not all finite"):
        jaxsnn.sweep(broken, images, labels, jaxsnn.Grid(scales=1.0))


def test_pieces_stay_below_what_integers_hold(rng):
    """So many images in a piece that no sum of their spikes or operations can overflow."""
    assert plan._MOST_IMAGES * 0xFFFF < 1 << 31
    network, _, images, labels = problem(rng)
    grid = jaxsnn.Grid(scales=1.0)
    job = points.SweepJob(network, images, labels, grid, jaxsnn.poisson, None, None)
    many = job._replace(images=np.broadcast_to(images[:1], (1 << 20, 12)))
    mesh = jax.make_mesh((1, 1), ("points", "images"))
    assert plan.planned(many, mesh, 1 << 40).images <= plan._MOST_IMAGES


# -- Starts and currents ---------------------------------------------------------------------------


@pytest.mark.parametrize("arithmetic", [None, jaxsnn.FixedPoint(16, largest_input=2.0)])
@pytest.mark.parametrize("engine", ["scan", "events"])
@pytest.mark.thinned(3)
def test_initial_potentials_channels_and_currents_of_any_range(rng, arithmetic, engine):
    """Each point is a call of `simulate`, from its fraction of the thresholds on."""
    network, _ = models.biased_network(rng)
    images = 3 * models.dyadic_images(rng, 6, 12) - 1
    labels = rng.integers(0, 4, 6)
    scales = [2.0 ** rng.integers(-1, 2, shape) for shape in network.shapes]
    options = {"reset": jaxsnn.reset_by_subtraction, "encode": jaxsnn.constant}
    grid = jaxsnn.Grid(
        scales={"channels": scales},
        threshold=[0.5, 1.0],
        initial_potential=[0.0, 0.5],
        reset=jaxsnn.reset_by_subtraction,
        duration=0.008,
    )
    found = jaxsnn.sweep(
        network, images, labels, grid,
        encode=jaxsnn.constant, arithmetic=arithmetic, engine=engine,
    )  # fmt: skip
    assert found.accuracy.dims == ("scales", "threshold", "initial_potential", "time")
    for threshold, start in itertools.product([0.5, 1.0], [0.0, 0.5]):
        snn = jaxsnn.balance_thresholds(network, scales, **options)
        thetas = [threshold * theta for theta in snn.thresholds]
        starts = [start * theta if np.isfinite(theta).all() else 0.0 for theta in thetas]
        snn = dataclasses.replace(snn, thresholds=thetas)
        run = jaxsnn.simulate(
            snn, images, key=0, duration=0.008,
            initial_potential=starts, arithmetic=arithmetic, engine="scan",
        )  # fmt: skip
        point = found.sel(threshold=threshold, initial_potential=start).squeeze()
        np.testing.assert_allclose(point.accuracy, run.accuracy(labels), atol=1e-6)
        spikes = [np.sum(counts) / 6 for counts in run.spike_counts]
        np.testing.assert_allclose(point.spikes[-1], spikes)
    assert len(np.unique(found.spikes[..., -1, :-1].sum("layer"))) == 4


def test_constant_currents_beyond_the_declared_range_are_refused_before_the_sweep(rng):
    network, _ = models.dense_network(rng)
    images = 3 * models.dyadic_images(rng, 2, 12) - 1
    grid = jaxsnn.Grid(scales=1.0, duration=0.002)
    options = {"encode": jaxsnn.constant, "arithmetic": jaxsnn.FixedPoint(8)}
    with pytest.raises(ValueError, match=r"pixels range from -.*largest_input=[12]"):
        jaxsnn.sweep(network, images, [0, 1], grid, **options)
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        jaxsnn.sweep(network, images, [0, 1], grid)
    with pytest.raises(ValueError, match=r"initial_potential=nan; .* such as 0\.5"):
        jaxsnn.Grid(scales=1.0, initial_potential=np.nan)
