"""Every engine on every problem, against the oracle; and what a new engine or operation needs."""

import functools
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsnn
from jaxsnn import engines
from jaxsnn.engines.scan.lowering import as_it_is, compiled_operation
from jaxsnn.network import Dense, Layer, Network, Operation

import models
import reference
from numpy_engine import NumpyEngine, matrices_of
from problems import PROBLEMS

if "numpy" not in engines.names():
    engines.register(NumpyEngine())
ENGINES = engines.names()
OTHERS = [name for name in ENGINES if name != "scan"]


class PointByPoint(engines.Engine):
    """The scan without its mapping over points."""

    name = "point by point"

    def simulate(self, run, advance):
        return engines.Scan().simulate(run, advance)


each_problem = pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.name)
each_engine = pytest.mark.parametrize("engine", ENGINES)


def simulated(problem, snn, engine):
    """The run, unless the engine says itself that it does not support it."""
    if engine != "scan":  # which supports everything
        try:
            return problem.simulate(snn, engine)
        except ValueError as error:
            if f'engine="{engine}" does not support this run' not in str(error):
                raise
            pytest.skip(str(error))
    return problem.simulate(snn, engine)


def check(run, inputs, spikes):
    """Counts, predictions and first spikes are those of the spikes [T, B, ...]."""
    np.testing.assert_array_equal(run.input_spike_counts, (inputs != 0).sum(0))
    for counts, fired in zip(run.spike_counts, spikes, strict=True):
        np.testing.assert_array_equal(counts, fired.sum(0).reshape(counts.shape))
    output = spikes[-1]
    steps = output.any(-1)
    np.testing.assert_array_equal(run.first_spike_prediction >= 0, steps.any(0))
    first = np.where(steps.any(0), (steps.argmax(0) + 1) * 1e-3, np.nan)
    np.testing.assert_allclose(run.first_spike_time, first, rtol=1e-6)


@each_engine
@each_problem
@pytest.mark.thinned(4)
def test_floating_point(problem, engine):
    inputs, spikes, scores = problem.answer()
    run = simulated(problem, problem.spiking_network(), engine)
    check(run, inputs, spikes)
    np.testing.assert_array_equal(run.scores, scores)
    if not problem.spiking:
        np.testing.assert_array_equal(run.predictions, scores.argmax(-1))
    elif "read" not in problem.options:
        expected = np.stack([reference.predictions(one) for one in spikes[-1].swapaxes(0, 1)], 1)
        np.testing.assert_array_equal(run.predictions, expected)


@each_engine
@each_problem
@pytest.mark.thinned(4)
def test_fixed_point(problem, engine):
    fixed = jaxsnn.quantize(problem.spiking_network(), bits=16 if "balanced" in problem.name else 8)
    run = simulated(problem, fixed, engine)
    rate = problem.options.get("max_rate", 1000.0)
    inputs = problem.inputs(fixed.probabilities(problem.images(), rate, 1e-3))
    if problem.options.get("encode") is not jaxsnn.constant:
        inputs = inputs.astype(int)
    layers = fixed.network.layers
    thresholds = [
        np.broadcast_to(theta, shape).ravel() if layer.spiking else None
        for layer, theta, shape in zip(layers, fixed.thresholds, fixed.network.shapes, strict=True)
    ]
    biases = [
        0 if layer.bias is None else np.rint(layer.bias * np.float32(rate * 1e-3)).astype(int)
        for layer in layers
    ]
    starts = [np.asarray(start).ravel() for start in fixed.start()]
    spikes, potentials = reference.simulate_integers(
        matrices_of(fixed),
        inputs.reshape(*inputs.shape[:2], -1),
        thresholds,
        reset=problem.reset,
        refractory_steps=problem.refractory_steps,
        potentials=starts,
        biases=biases,
    )
    check(run, inputs, spikes)
    for layer, potential in zip(run.state.neurons, potentials, strict=True):
        np.testing.assert_array_equal(np.reshape(layer.potential, potential.shape), potential)


@each_engine
@pytest.mark.parametrize("problem", PROBLEMS[3:6], ids=lambda problem: problem.name)
@pytest.mark.thinned(4)
def test_a_run_split_in_two_is_the_whole(problem, engine):
    fixed = jaxsnn.quantize(problem.spiking_network())
    whole = simulated(problem, fixed, engine)
    half = replace(problem, steps=problem.steps // 2)
    first = simulated(half, fixed, engine)
    rest = replace(half, options={**half.options, "state": first.state})
    second = simulated(rest, fixed, engine)
    for one, both in zip(second.spike_counts, whole.spike_counts, strict=True):
        np.testing.assert_array_equal(one, both)
    np.testing.assert_array_equal(
        np.concatenate([first.predictions, second.predictions]), whole.predictions
    )


@pytest.mark.parametrize("engine", ["events", engines.Scan(chunk=5)], ids=["events", "scan"])
@pytest.mark.parametrize("steps", [(12,), (2, 3, 7)], ids=["whole", "in three parts"])
@pytest.mark.parametrize("problem", [PROBLEMS[0], PROBLEMS[9]], ids=lambda problem: problem.name)
@pytest.mark.thinned(3)
def test_a_delayed_readout_counts_from_its_step_on(problem, steps, engine):
    _, _, scores = problem.answer()
    late = np.concatenate([np.zeros_like(scores[:3]), scores[3:] - scores[2]])
    predictions = np.where((late != 0).any(-1), late.argmax(-1), -1)
    snn, state, found = problem.spiking_network(), None, []
    for count in steps:
        options = {**problem.options, "read": jaxsnn.readout.delayed(3), "state": state}
        run = replace(problem, steps=count, options=options).simulate(snn, engine)
        state = run.state
        found.append((run.scores, run.predictions))
    for of_parts, expected in zip(zip(*found, strict=True), (late, predictions), strict=True):
        np.testing.assert_array_equal(np.concatenate(of_parts), expected)


@functools.cache
def swept(build, arithmetic, engine):
    """A sweep over settings of all kinds."""
    rng = np.random.default_rng(20150712)
    network, _ = build(rng)
    images = models.dyadic_images(rng, 4, *network.input_shape)
    labels = rng.integers(0, network.shapes[-1][0], 4)
    grid = jaxsnn.Grid(
        scales={"one": 1.0, "rising": [2.0**n for n in range(len(network.layers))]},
        max_rate=[1000, 500],
        refractory_period=[0.0, 0.002],
        dt=[1e-3, 5e-4],
        duration=0.003,
    )

    return jaxsnn.sweep(network, images, labels, grid, arithmetic=arithmetic, engine=engine)


@pytest.mark.parametrize("engine", [*OTHERS, PointByPoint()], ids=[*OTHERS, "point by point"])
@pytest.mark.parametrize("build", [models.dense_network, models.convolution_network])
@pytest.mark.parametrize("arithmetic", [None, jaxsnn.FixedPoint(8)], ids=["float", "8 bits"])
@pytest.mark.thinned(12)
def test_a_sweep_on_any_engine(build, arithmetic, engine):
    """The counts of the scan, which maps over points, also where it goes point by point."""
    found, expected = swept(build, arithmetic, engine), swept(build, arithmetic, "scan")
    for name in expected.data_vars:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


# -- A new operation -------------------------------------------------------------------------------


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Neighbours(Operation):
    """y[i] = x[i] · weights[i] + x[i + 1]: linear, and of none of the library's kinds."""

    weights: jax.Array
    weighted = True

    def __call__(self, x):
        return self.product(x, self.weights)

    def product(self, x, weights, **how):
        return x * weights + jnp.roll(x, -1, axis=-1)

    def sum_inputs(self, weights):
        return weights + 1


def with_neighbours(rng):
    weights, kernel = models.dyadic(rng, 6), models.dyadic(rng, 6, 3)
    network = Network(
        (Layer((Neighbours(jnp.asarray(weights)),)), Layer((Dense(jnp.asarray(kernel)),))), (6,)
    )
    layers = [[lambda x: x * weights + np.roll(x, -1)], [reference.dense(kernel)]]
    return network, layers


@pytest.mark.promotes
def test_an_operation_is_a_class_and_a_registration(rng):
    network, layers = with_neighbours(rng)
    snn = jaxsnn.balance_thresholds(network, 1.0)
    images = models.dyadic_images(rng, 3, 6)
    with pytest.raises(ValueError, match=r"it does not compute Neighbours, in layer 1 of 2"):
        jaxsnn.simulate(snn, images, key=0, duration=0.01)
    compiled_operation.register(Neighbours, as_it_is)
    run = jaxsnn.simulate(snn, images, key=0, duration=0.01, record=lambda step: step.inputs)
    for sample, inputs in enumerate(np.asarray(run.records).swapaxes(0, 1)):
        spikes = reference.simulate(layers, inputs, [1.0, 1.0], [1.0, 1.0])
        for counts, fired in zip(run.spike_counts, spikes, strict=True):
            np.testing.assert_array_equal(counts[sample], fired.sum(0))
    with pytest.raises(ValueError, match="it does not compute Neighbours, in layer 1 of 2"):
        jaxsnn.simulate(jaxsnn.quantize(snn), images, key=0, duration=0.01, engine="events")


# -- The choice ------------------------------------------------------------------------------------


def test_an_engine_says_what_it_does_not_support(rng):
    network, _ = models.dense_network(rng)
    snn = jaxsnn.balance_thresholds(network, 1.0)
    images = models.dyadic_images(rng, 2, 12)
    with pytest.raises(
        ValueError, match='engine="numpy" does not support this run: it has no stop'
    ):
        jaxsnn.simulate(snn, images, key=0, engine="numpy", stop=jaxsnn.stopping.first_spike)
    with pytest.raises(ValueError, match="engine='none'; there are auto, scan, events, numpy"):
        jaxsnn.simulate(snn, images, key=0, engine="none")


def test_an_engine_need_not_be_registered(rng):
    network, _ = models.dense_network(rng)
    snn = jaxsnn.balance_thresholds(network, 1.0)
    images = models.dyadic_images(rng, 5, 12)
    options = {"key": 0, "duration": 0.01}
    plain = jaxsnn.simulate(snn, images, **options)
    for engine in (engines.Scan(batch_size=2, chunk=3), NumpyEngine()):
        run = jaxsnn.simulate(snn, images, engine=engine, **options)
        for one, other in zip(run.spike_counts, plain.spike_counts, strict=True):
            np.testing.assert_array_equal(one, other)


def test_a_name_is_taken_once():
    with pytest.raises(ValueError, match="there is an engine of the name 'numpy'"):
        engines.register(NumpyEngine())
