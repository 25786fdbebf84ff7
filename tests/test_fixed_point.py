"""Fixed point: the oracle's spikes on both engines, bounds that hold, errors that are told."""

import functools
import itertools
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st
from jax import lax

import jaxsnn
from jaxsnn.engines import Scan
from jaxsnn.engines.scan.integers import FORMATS, planes

import models
import reference

pytestmark = pytest.mark.promotes

RESETS = {"zero": jaxsnn.reset_to_zero, "subtraction": jaxsnn.reset_by_subtraction}
BOUND = 1 << 30  # of potentials and thresholds
SEED, STEPS, BATCH = 11, 20, 3


# -- Operations: for JAX, and as matrices for the oracle -------------------------------------------


class Operation(NamedTuple):
    """A linear map: for a batch, and as the matrix of one sample, both with given weights."""

    apply: Any
    matrix: Any = None
    weights: Any = None
    divisors: Any = 1  # of each output, where the matrix is a sum and the operation a mean


def normal(*shape):
    return np.random.default_rng(np.prod(shape)).normal(0.1, 1, shape).astype(np.float32)


def dense(*shape):
    """Of the last axis: [..., inputs, outputs]."""
    *many, inputs, outputs = shape
    copies = np.eye(np.prod(many, dtype=int), dtype=int)
    return Operation(lambda x, w: x @ w, lambda w: np.kron(copies, w.T), normal(inputs, outputs))


def flatten():
    return Operation(lambda x, _: x.reshape(len(x), -1))


def multiply(*shape, by=None):
    """By a factor for each of the inputs, or by some that broadcast to them."""
    factors = np.abs(normal(*(by or shape)))
    return Operation(
        lambda x, w: x * w, lambda w: np.diag(np.broadcast_to(w, shape).ravel()), factors
    )


def convolution(shape, window, maps, strides=None, padding=None, channels_first=False, **options):
    """Over inputs [space, channels], or [channels, space]."""
    strides = strides or (1,) * len(window)
    padding = padding or ((0, 0),) * len(window)
    kernel = normal(*window, shape[-1] // options.get("groups", 1), maps)
    letters = "HW"[: len(window)]
    names = f"N{letters}C", f"{letters}IO", f"N{letters}C"
    if channels_first:
        names = f"NC{letters}", f"OI{letters}", f"NC{letters}"
        kernel = np.moveaxis(kernel, (-1, -2), (0, 1))

    def apply(x, w):
        return lax.conv_general_dilated(
            x,
            w,
            strides,
            padding,
            options.get("input_dilation"),
            options.get("kernel_dilation"),
            names,
            options.get("groups", 1),
        )

    def matrix(w):
        w = np.moveaxis(w, (0, 1), (-1, -2)) if channels_first else w
        found = reference.convolution_matrix(w, shape, strides, padding, **options)
        if channels_first:
            found = found.reshape(-1, maps, *shape).swapaxes(0, 1)
            found = np.moveaxis(found, -1, 2).reshape(-1, np.prod(shape))
        return found

    return Operation(apply, matrix, kernel)


def pooling(shape, window, strides=None, padding=None, count_padding=True):
    strides, padding = strides or window, padding or ((0, 0),) * len(window)
    sums = reference.window_matrix(shape, window, strides, padding)
    return Operation(
        lambda x, _: nnx.avg_pool(x, window, strides, padding, count_include_pad=count_padding),
        lambda _: sums,
        divisors=np.prod(window) if count_padding else sums.sum(1),
    )


def relu_network(input_shape, layers):
    def model(x):
        for layer in layers:
            for operation in layer:
                x = operation.apply(x, operation.weights)
            x = jax.nn.relu(x)
        return x

    return jaxsnn.read_network(model, np.zeros((1, *input_shape), np.float32))


# -- Networks --------------------------------------------------------------------------------------


@dataclass
class Case:
    """A network, and how it is simulated."""

    input_shape: tuple
    layers: list
    bits: Any = 8
    per: str = "channel"
    reset: str = "zero"
    refractory_steps: int = 0
    initial_potential: Any = 0.0
    scales: Any = None
    events: bool = True  # whether they support it

    @functools.cached_property
    def snn(self):
        scales = self.scales or [0.5 + 0.25 * i for i in range(len(self.layers))]
        return jaxsnn.balance_thresholds(relu_network(self.input_shape, self.layers), scales)

    @functools.cached_property
    def fixed(self):
        return jaxsnn.quantize(self.snn, bits=self.bits, per=self.per)

    def real_matrices(self):
        """For each layer what the ReLU network multiplies with."""
        matrices = []
        for layer in self.layers:
            parts = [
                o.matrix(np.float64(0) if o.weights is None else o.weights.astype(np.float64))
                / np.reshape(o.divisors, (-1, 1))
                for o in layer
                if o.matrix is not None
            ]
            matrices.append(functools.reduce(lambda before, after: after @ before, parts))
        return matrices

    def integer_matrices(self):
        """For each layer what the spikes are multiplied with, from the weights of `quantize`."""
        matrices = []
        for layer, integers, (gain,) in zip(
            self.layers, self.fixed.network.layers, self.fixed.amplitudes, strict=True
        ):
            weights = [np.asarray(w, np.int64) for w in integers.weights] or [None]
            parts = [o.matrix(weights[0]) for o in layer if o.matrix is not None]
            matrices.append(gain * functools.reduce(lambda before, after: after @ before, parts))
        return matrices

    def flat(self, values):
        """Values of the neurons of each layer."""
        shapes = self.fixed.network.shapes
        pairs = zip(values, shapes, strict=True)
        return [np.broadcast_to(np.asarray(value), shape).ravel() for value, shape in pairs]


IMAGE, MAPS = (6, 7, 2), (5, 6, 4)
DENSE = [[dense(13, 11)], [dense(11, 7)], [dense(7, 3)]]
CONVOLUTION, POOLING = convolution(IMAGE, (3, 2), 4), pooling((4, 6, 4), (2, 2))
OVERLAPPING = dict(window=(3, 2), strides=(2, 1), padding=((1, 1), (1, 0)))
CASES = {
    "dense": Case((13,), DENSE),
    "dense, mixed bits, per layer": Case(
        (13,),
        DENSE,
        bits=[8, 16, 8],
        per="layer",
        reset="subtraction",
        refractory_steps=3,
        initial_potential=[0.25, np.linspace(-0.5, 1.0, 7, dtype=np.float32), 2.0],
    ),
    "convolution and pooling": Case(
        IMAGE,
        [[CONVOLUTION], [POOLING], [flatten(), dense(24, 3)]],
        reset="subtraction",
        scales=[8.0, 2.0, 4.0],  # windows may receive 4 thresholds at once, for steps to come
    ),
    "convolution and pooling, refractory": Case(
        IMAGE,
        [[CONVOLUTION], [POOLING], [flatten(), dense(24, 3)]],
        bits=16,
        refractory_steps=2,
        initial_potential=0.75,
    ),
    "convolution with strides, padding, dilation and groups": Case(
        IMAGE,
        [
            [convolution(IMAGE, (2, 3), 4, (2, 1), ((1, 2), (0, 1)), kernel_dilation=(1, 2))],
            [convolution((4, 4, 4), (3, 2), 6, padding=((0, 1), (1, 0)), groups=2)],
            [flatten(), dense(72, 3)],
        ],
        bits=[8, 8, 16],
        per="layer",
    ),
    "convolution with the channels first": Case(
        (2, 6, 7),
        [
            [convolution(IMAGE, (3, 2), 4, channels_first=True)],
            [convolution((4, 6, 4), (2, 2), 3, (1, 2), channels_first=True)],
            [flatten(), dense(27, 4)],
        ],
        reset="subtraction",
        scales=[1.0, 2.0, 2.0],
    ),
    "outputs of a convolution with the channels first": Case(
        (2, 6, 7),
        [
            [convolution(IMAGE, (3, 2), 4, channels_first=True)],
            [convolution((4, 6, 4), (3, 3), 2, (1, 2), channels_first=True), flatten()],
        ],
        bits=[8, 16],
    ),
    "transposed convolution and dense over leading axes": Case(
        (5, 2),
        [
            [convolution((5, 2), (3,), 3, padding=((2, 2),), input_dilation=(2,))],
            [dense(11, 3, 4)],
            [flatten(), dense(44, 3)],
        ],
        bits=[8, 16, 8],
        refractory_steps=1,
        scales=[0.5, 1.0, 2.0],
    ),
    "pooling first": Case(
        IMAGE, [[pooling(IMAGE, (2, 3))], [flatten(), dense(12, 3)]], refractory_steps=2
    ),
    "windows that overlap, padding counted and not": Case(
        MAPS,
        [
            [multiply(*MAPS, by=(1, 1, 4))],
            [pooling(MAPS, **OVERLAPPING)],
            [multiply(3, 6, 4)],
            [pooling((3, 6, 4), **OVERLAPPING, count_padding=False)],
            [flatten(), dense(48, 3)],
        ],
        bits=[8, 8, 16, 16, 8],
        reset="subtraction",
        scales=[0.5, 0.5, 0.5, 0.5, 1.0],
    ),
    "a scale factor for each channel": Case(
        IMAGE,
        [
            [CONVOLUTION],
            [POOLING],
            [convolution((2, 3, 4), (2, 2), 3)],
            [flatten(), dense(6, 3)],
        ],
        bits=[8, 8, 16, 8],
        scales=[np.float32([0.5, 0.75, 1, 2])] * 2 + [np.float32([1, 0.25, 0.5]), 0.5],
    ),
    "convolution and pooling before one ReLU": Case(
        IMAGE, [[CONVOLUTION, POOLING], [flatten(), dense(24, 3)]], bits=16, events=False
    ),
    "pooling and dense before one ReLU": Case(
        (7, 7, 1),
        [
            [convolution((7, 7, 1), (3, 2), 3, padding=((-1, 0), (0, -1)))],
            [pooling((4, 5, 3), (4, 5)), flatten(), dense(3, 3)],
        ],
        per="layer",
        reset="subtraction",
        events=False,
    ),
}


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


def simulated(case, images, **options):
    return jaxsnn.simulate(
        case.fixed,
        images,
        key=SEED,
        duration=STEPS * 1e-3,
        reset=RESETS[case.reset],
        refractory_period=case.refractory_steps * 1e-3,
        initial_potential=case.initial_potential,
        **options,
    )


def by_the_oracle(case, images):
    """Spikes of the inputs and of every layer [T, B, n], and the last potentials [B, n]."""
    starts = case.initial_potential
    starts = starts if isinstance(starts, list) else [starts] * len(case.layers)
    starts = [
        np.rint(np.asarray(start, np.float64) / np.asarray(step_size, np.float64)).astype(np.int64)
        for start, step_size in zip(starts, case.fixed.step_sizes, strict=True)
    ]
    inputs = reference.poisson_spikes(SEED, range(BATCH), STEPS, images.reshape(BATCH, -1))
    spikes, potentials = reference.simulate_integers(
        case.integer_matrices(),
        inputs,
        case.flat(case.fixed.thresholds),
        reset=case.reset,
        refractory_steps=case.refractory_steps,
        potentials=case.flat(starts),
    )
    return [inputs, *spikes], potentials


def assert_equal_to_the_oracle(run, spikes, potentials):
    for found, theirs in zip([run.input_spike_counts, *run.spike_counts], spikes, strict=True):
        np.testing.assert_array_equal(found.reshape(BATCH, -1), theirs.sum(0))
    for layer, theirs in zip(run.state.neurons, potentials, strict=True):
        np.testing.assert_array_equal(layer.potential.reshape(BATCH, -1), theirs)
    expected = [reference.predictions(spikes[-1][:, sample]) for sample in range(BATCH)]
    np.testing.assert_array_equal(run.predictions, np.stack(expected, 1))


def assert_equal_runs(one, two):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


@pytest.mark.thinned(3)
def test_both_engines_equal_the_oracle_spike_for_spike(case):
    images = np.random.default_rng(0).random((BATCH, *case.input_shape), np.float32)
    spikes, potentials = by_the_oracle(case, images)
    assert all(layer.any() and not layer.all() for layer in spikes)
    run = simulated(
        case, images, engine=Scan(chunk=1), record=lambda step: [step.inputs, *step.spikes]
    )
    for found, theirs in zip(run.records, spikes, strict=True):
        np.testing.assert_array_equal(found.reshape(theirs.shape), theirs)
    assert_equal_to_the_oracle(run, spikes, potentials)
    if case.events:
        assert_equal_runs(simulated(case, images, engine="events"), replace(run, records=None))


RULES = dict(
    seed=st.integers(0, 2**31 - 1),
    per=st.sampled_from(["channel", "layer"]),
    reset=st.sampled_from(sorted(RESETS)),
    refractory_steps=st.sampled_from([0, 1, 2, 5]),
)


def assert_events_equal_the_oracle(case, rng):
    images = rng.random((BATCH, *case.input_shape)) * rng.choice([0, 1, 1.5])
    images = images.clip(0, 1).astype(np.float32)
    assert_equal_to_the_oracle(
        simulated(case, images, engine="events"), *by_the_oracle(case, images)
    )


@settings(max_examples=20, deadline=None)
@given(bits=st.tuples(*[st.sampled_from([8, 16])] * 3), each=st.booleans(), **RULES)
def test_random_dense_networks_equal_the_oracle(bits, each, seed, **rules):
    rng = np.random.default_rng(seed)
    sizes = 13, 11, 7, 3
    layers = []
    for inputs, outputs in itertools.pairwise(sizes):  # columns large and tiny, with zeros
        kernel = rng.normal(0.2, 1, (inputs, outputs)) * 2.0 ** rng.integers(-3, 3, outputs)
        kernel *= rng.random(kernel.shape) < 0.8
        layers.append([dense(inputs, outputs)._replace(weights=kernel.astype(np.float32))])
    scales = [rng.uniform(0.5, 4, size if each else ()).astype(np.float32) for size in sizes[1:]]
    starts = [rng.uniform(-1, 2, size).astype(np.float32) for size in sizes[1:]]
    case = Case((13,), layers, bits, scales=scales, initial_potential=starts, **rules)
    assert_events_equal_the_oracle(case, rng)


# Every example compiles a few small programs, so that the smallest one is not worth looking for.
@settings(max_examples=4, deadline=None, phases=set(Phase) - {Phase.shrink, Phase.explain})
@example(  # no tap of the kernel meets an input
    strides=(2, 1),
    padding=((1, 0), (0, 0)),
    dilation=(2, 1),
    groups=1,
    window=(1, 2),
    seed=0,
    per="channel",
    reset="zero",
    refractory_steps=0,
)
@given(
    strides=st.tuples(st.integers(1, 3), st.integers(1, 2)),
    padding=st.tuples(*[st.tuples(st.integers(-1, 2), st.integers(-1, 2))] * 2),
    dilation=st.sampled_from([(1, 1), (2, 1), (1, 3)]),
    groups=st.sampled_from([1, 2]),
    window=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    **RULES,
)
def test_random_convolutions_equal_the_oracle(
    strides, padding, dilation, groups, window, seed, **rules
):
    first = convolution(IMAGE, window, 4, strides, padding, input_dilation=dilation, groups=groups)
    shape = jax.eval_shape(first.apply, np.zeros((1, *IMAGE), np.float32), first.weights).shape[1:]
    second = pooling(shape, (2, 2), (1, 2), ((0, 1), (1, 1)))
    layers = [[first], [second], [flatten(), dense(len(second.matrix(0)), 3)]]
    assert_events_equal_the_oracle(Case(IMAGE, layers, **rules), np.random.default_rng(seed))


def test_weights_on_the_grid_lose_nothing(rng):
    """Integers over 128, the largest 127: then fixed point is float32, in other steps."""
    weights = [rng.integers(-127, 128, pair) for pair in [(12, 20), (20, 16), (16, 4)]]
    for kernel in weights:
        kernel[rng.integers(0, len(kernel), kernel.shape[1]), np.arange(kernel.shape[1])] = 127
    function = models.dense_function([(w / 128).astype(np.float32) for w in weights])
    images = models.dyadic_images(rng, 4, 12)
    snn = jaxsnn.balance_thresholds(jaxsnn.read_network(function, images), [0.5, 2.0, 1.0])
    fixed = jaxsnn.quantize(snn)
    assert fixed.weight_errors == fixed.threshold_errors == (0, 0, 0)
    for layer, kernel in zip(fixed.network.layers, weights, strict=True):
        np.testing.assert_array_equal(layer.weights[0], kernel)
    options = dict(key=3, duration=0.03, reset=RESETS["subtraction"], refractory_period=2e-3)
    one, two = (jaxsnn.simulate(network, images, **options) for network in (snn, fixed))
    assert all(counts.sum() > 0 for counts in one.spike_counts)
    for name in ("predictions", "first_spike_time", "spike_counts", "synaptic_operations"):
        pairs = zip(*map(jax.tree.leaves, (getattr(one, name), getattr(two, name))), strict=True)
        for a, b in pairs:
            np.testing.assert_array_equal(a, b)
    for layer, integers, step_size in zip(
        one.state.neurons, two.state.neurons, fixed.step_sizes, strict=True
    ):
        np.testing.assert_array_equal(layer.potential, integers.potential * step_size)


# -- Rounding --------------------------------------------------------------------------------------


def test_the_integers_stand_for_the_network_as_exactly_as_told(case):
    """Weights and thresholds in the original units, and their errors, recomputed by NumPy."""
    thresholds, step_sizes, integers = map(
        case.flat, (case.snn.thresholds, case.fixed.step_sizes, case.fixed.thresholds)
    )
    received, shapes = case.snn.amplitudes, case.fixed.network.shapes
    assert received[0] == [None]  # the input weighs 1
    rows = zip(case.real_matrices(), case.integer_matrices(), case.layers, strict=True)
    before: Any = 1.0
    for index, (real, rounded, layer) in enumerate(rows):
        step_size = step_sizes[index]
        if index:
            (amplitude,) = received[index]
            before = np.broadcast_to(np.asarray(amplitude), shapes[index - 1]).ravel()
        theta, told = thresholds[index], case.fixed.weight_errors[index]
        found = np.abs(rounded * step_size[:, None] - real * before).max(1) / theta
        if sum(o.matrix is not None for o in layer) == 1:
            assert found.max() == pytest.approx(told, rel=0.01, abs=1e-6)
        else:  # an entry of the matrix is a sum of weights over a divisor
            assert found.max() <= told + 1e-6
        told = case.fixed.threshold_errors[index]
        found = np.abs(integers[index] * step_size / theta - 1).max()
        assert found == pytest.approx(told, rel=0.01, abs=1e-6)
        assert np.all(np.abs(integers[index] * step_size - theta) <= 0.501 * step_size)


def test_channels_with_grids_of_their_own_are_closer():
    operation = dense(40, 6)
    operation.weights[:] *= 2.0 ** -np.arange(6)
    channel, layer = (Case((40,), [[operation]], per=per) for per in ("channel", "layer"))
    sizes = [np.broadcast_to(case.fixed.step_sizes[0], 6) for case in (channel, layer)]
    assert np.all(sizes[0] <= sizes[1])
    assert np.all(sizes[0][1:] < sizes[1][1:])
    errors = [
        np.abs(np.asarray(case.fixed.network.layers[0].weights[0]) * size - operation.weights)
        for case, size in zip((channel, layer), sizes, strict=True)
    ]
    assert np.all(errors[0].max(0)[1:] < errors[1].max(0)[1:])
    assert channel.fixed.weight_errors[0] <= layer.fixed.weight_errors[0]
    finer = Case((40,), [[operation]], bits=16).fixed
    assert 0 < finer.weight_errors[0] < channel.fixed.weight_errors[0] / 100


def test_a_layer_of_zeros_never_spikes():
    found = jaxsnn.simulate(
        jaxsnn.quantize(one_layer(weight=0.0)), np.ones((1, 3), np.float32), key=0, duration=0.01
    )
    assert found.spike_counts[0].tolist() == [[0, 0]]


# -- Bounds ----------------------------------------------------------------------------------------


def test_no_sum_of_a_step_is_beyond_its_bound(case):
    """16 bits for the currents of the events, 24 for products in float32, 31 for potentials."""
    for matrix, bits in zip(case.integer_matrices(), case.fixed.bits, strict=True):
        assert_within_bounds(matrix, bits, case.fixed.steps)


def assert_within_bounds(matrix, bits, steps):
    bound = min({8: 32767, 16: (1 << 24) - 1}[bits], BOUND // steps)
    assert np.abs(matrix).max() > 0
    assert np.maximum(matrix, 0).sum(1).max() <= bound
    assert np.maximum(-matrix, 0).sum(1).max() <= bound


@settings(max_examples=40, deadline=None)
@given(
    inputs=st.sampled_from([1, 2, 257, 259, 1023, 4000]),
    bits=st.sampled_from([8, 16]),
    per=st.sampled_from(["channel", "layer"]),
    steps=st.sampled_from([1, 64, 1000, 1 << 18]),
    spread=st.sampled_from([0, 1e-3, 1.0]),
)
def test_weights_that_could_overflow_are_rounded_more_coarsely(inputs, bits, per, steps, spread):
    """All weights of one sign, nearly as large as the largest: the rounding may go up."""
    rng = np.random.default_rng(inputs)
    signs = np.array([1, -1, 1], np.float32) * np.float32([1, 1, 1e-3])
    kernel = (1 - spread * rng.random((inputs, 3), np.float32)) * signs
    network = jaxsnn.read_network(lambda x: jax.nn.relu(x @ kernel), np.zeros((1, inputs)))
    snn = jaxsnn.balance_thresholds(network, 10.0)
    fixed = jaxsnn.quantize(snn, bits=bits, per=per, steps=steps)
    integers = np.asarray(fixed.network.layers[0].weights[0], np.int64)
    assert_within_bounds(integers.T, bits, steps)
    assert np.abs(integers).max() <= {8: 127, 16: 32767}[bits]


def run_all_inputs(network, scale, steps, bits, engine, **options):
    """A run with a spike of every input in every step: final potentials, and integer weights."""
    snn = jaxsnn.balance_thresholds(network, scale)
    fixed = jaxsnn.quantize(snn, bits=bits, steps=steps)
    images = np.ones((1, *network.input_shape), np.float32)
    run = jaxsnn.simulate(fixed, images, key=0, duration=steps * 1e-3, engine=engine, **options)
    weights = np.asarray(fixed.network.layers[0].weights[0], np.int64)
    return run, fixed, weights


@pytest.mark.parametrize(
    ("bits", "engine"), [(8, "events"), (16, "events"), (16, Scan(chunk=20))], ids=str
)
def test_potentials_stay_in_range_through_the_longest_run(engine, bits):
    """A neuron that goes down from the lowest start, and one that goes up and always spikes."""
    steps, kernel = 100, np.tile(np.float32([-1, 1]), (700, 1))
    network = jaxsnn.read_network(lambda x: jax.nn.relu(x @ kernel), np.zeros((1, 700)))
    options = dict(reset=jaxsnn.reset_by_subtraction)
    _, fixed, _ = run_all_inputs(network, 0.03, 1, bits, "events")
    step_size = float(fixed.step_sizes[0].min())
    assert fixed.units is fixed.step_sizes  # by its old name
    start = np.float32([-0.9 * BOUND * step_size, 0])
    run, fixed, weights = run_all_inputs(
        network, 0.03, steps, bits, engine, initial_potential=[start], **options
    )
    down, up = weights.sum(0).tolist()
    assert max(-down, up) * steps <= BOUND
    if bits == 16:
        assert max(-down, up) * steps > 0.99 * BOUND
    low, high = run.state.neurons[0].potential[0].tolist()
    begin = np.rint(start.astype(np.float64) / np.asarray(fixed.step_sizes[0], np.float64))
    assert low == int(begin.min()) + down * steps >= -(1 << 31)
    threshold = int(np.max(fixed.thresholds[0]))
    assert high == (up - threshold) * steps > 0
    assert run.spike_counts[0].tolist() == [[0, steps]]


def test_sums_over_windows_after_the_weights_do_not_overflow():
    """64 channels, then a window of 16, before one ReLU; 2^30 is for all of it."""
    steps, kernel = 100, np.full((1, 1, 64, 1), -1, np.float32)

    def model(x):
        numbers = "NHWC", "HWIO", "NHWC"
        x = lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=numbers)
        return jax.nn.relu(nnx.avg_pool(x, (4, 4)).reshape(len(x), -1))

    network = jaxsnn.read_network(model, np.zeros((1, 4, 4, 64)))
    run, _, weights = run_all_inputs(network, 1.0, steps, 16, Scan(chunk=20))
    expected = 16 * weights.sum() * steps
    assert -BOUND <= expected < 0
    assert run.state.neurons[0].potential.tolist() == [[expected]]
    assert run.spike_counts[0].tolist() == [[0]]


def test_a_window_whose_sum_could_overflow_is_refused():
    network = jaxsnn.read_network(
        lambda x: jax.nn.relu(nnx.avg_pool(x, (40_000,))[..., 0]), np.zeros((1, 40_000, 1))
    )
    snn = jaxsnn.balance_thresholds(network, 1.0)
    with pytest.raises(ValueError, match=r"layer 1 of 1.*steps"):
        jaxsnn.quantize(snn)
    assert jaxsnn.quantize(snn, bits=16).amplitudes == ((16,),)


@pytest.mark.parametrize("number_format", FORMATS.values(), ids=FORMATS)
def test_planes_hold_every_weight_of_16_bits(number_format):
    kernel = dense(2, 2)._replace(weights=np.float32([[1, -1], [0, 0]]))
    fixed = Case((2,), [[kernel]], bits=16).fixed
    largest = np.abs(np.asarray(fixed.network.layers[0].weights[0], np.int32)).max()
    weights = np.arange(-largest, largest + 1)
    found = planes(jnp.asarray(weights, jnp.int16), number_format)
    total = sum(np.asarray(plane, np.int64) << 8 * place for place, plane in enumerate(found))
    np.testing.assert_array_equal(total, weights)


# -- Under jit -------------------------------------------------------------------------------------


@pytest.mark.parametrize("traced", [("images", "key", "max_rate"), ("network",)])
def test_jit_gives_the_same_spikes(traced):
    images = np.random.default_rng(1).random((2, 13), np.float32)
    values = dict(network=CASES["dense"].fixed, images=images, key=7, max_rate=700.0)
    values["state"] = jaxsnn.simulate(**values, duration=0.01).state

    def run(chosen):
        return jaxsnn.simulate(**{**values, **chosen}, duration=0.01).spike_counts

    chosen = {name: values[name] for name in traced}
    eager = run(chosen)
    assert all(counts.sum() > 0 for counts in eager)
    assert_equal_runs(jax.jit(run)(chosen), eager)


def test_rounding_and_starts_under_jit_are_those_outside():
    images = np.random.default_rng(1).random((2, *IMAGE), np.float32)
    snn = CASES["a scale factor for each channel"].snn

    def run(images):
        return jaxsnn.simulate(
            snn,
            images,
            key=0,
            duration=0.005,
            initial_potential=0.25,
            arithmetic=jaxsnn.FixedPoint(bits=16),
        ).spike_counts

    assert_equal_runs(jax.jit(run)(images), run(images))


def test_vmap_over_rates_is_a_loop_over_them():
    images = np.random.default_rng(1).random((2, 13), np.float32)

    def run(rate):
        return jaxsnn.simulate(
            CASES["dense"].fixed, images, key=0, duration=0.005, max_rate=rate
        ).spike_counts

    rates = np.float32([1000, 333.3, 0.7])
    mapped = jax.vmap(run)(rates)
    for index, rate in enumerate(rates):
        assert_equal_runs(jax.tree.map(lambda leaf, i=index: leaf[i], mapped), run(float(rate)))


# -- Errors ----------------------------------------------------------------------------------------


def one_layer(scale=1.0, weight=0.5):
    kernel = np.full((3, 2), weight, np.float32)
    network = jaxsnn.read_network(lambda x: jax.nn.relu(x @ kernel), np.zeros((1, 3)))
    return jaxsnn.balance_thresholds(network, scale)


def two_operations():
    first, second, third = map(jaxsnn.network.Dense, (jnp.eye(3), jnp.eye(3), jnp.ones((3, 2))))
    layers = jaxsnn.network.Layer((first,)), jaxsnn.network.Layer((second, third))
    network = jaxsnn.network.Network(layers, (3,))
    return jaxsnn.balance_thresholds(network, 1.0)


def scaled(layers, scale, input_shape=MAPS):
    scales = [np.asarray(scale, np.float32), *[1.0] * (len(layers) - 1)]
    return jaxsnn.balance_thresholds(relu_network(input_shape, layers), scales)


def windows_of_several():
    scale = np.ones(MAPS)
    scale[0, 0, 0] = 2
    return scaled([[multiply(*MAPS)], [pooling(MAPS, (5, 6)), flatten()]], scale)


def channels_of_several():
    scale = np.ones(MAPS)
    scale[0, 0, 0] = 2
    after = [convolution(MAPS, (5, 6), 3), flatten()]
    return scaled([[multiply(*MAPS)], after], scale)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bits": 7}, "bits=7.*8 or 16"),
        ({"bits": [8, 4]}, r"bits=\[8, 4\].*8 or 16"),
        ({"steps": 0}, "steps=0"),
        ({"steps": 1 << 21}, "from 1 to 1048576"),
        ({"bits": [8, 8]}, "2 numbers for 1 layers"),
    ],
)
def test_bad_settings(options, message):
    with pytest.raises(ValueError, match=message):
        jaxsnn.quantize(one_layer(), **options)


def test_a_grid_for_each_neuron_is_refused():
    """Where no type checker speaks first, as it does in these tests."""
    with pytest.raises(ValueError, match="'channel' or 'layer'"):
        jaxsnn.FixedPoint.__post_init__(SimpleNamespace(bits=8, per="neuron", steps=1))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: one_layer(1e-4), "layer 1 of 1.*steps of the grid.*Use 16 bits"),
        (lambda: one_layer(1e8), r"layer 1 of 1.*steps of the grid(?!.*16 bits).*float32"),
        (lambda: one_layer(weight=np.nan), "layer 1 of 1.*finite"),
        (two_operations, "layer 2 of 2.*two operations with weights"),
        (windows_of_several, "layer 2 of 2.*weigh differently within a channel or window.*float32"),
        (channels_of_several, "layer 2 of 2.*differently within a channel.*float32"),
    ],
)
def test_networks_without_an_exact_form_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        jaxsnn.quantize(build())


@pytest.mark.parametrize(
    "traced",
    [
        lambda snn, x: replace(snn, network=jax.tree.map(lambda w: w * x, snn.network)),
        lambda snn, x: replace(snn, amplitudes=[[None], [x]]),
        lambda snn, x: replace(snn, thresholds=[x, x]),
    ],
    ids=["weights", "amplitudes", "thresholds"],
)
def test_what_is_traced_cannot_be_rounded(traced):
    def model(x):
        return jax.nn.relu(2 * jax.nn.relu(2 * x))

    snn = jaxsnn.balance_thresholds(jaxsnn.read_network(model, jnp.zeros((1, 3))), 1.0)
    with pytest.raises(ValueError, match=r"got tracers.*quantize\(...\) outside"):
        jax.jit(lambda x: jaxsnn.quantize(traced(snn, x)).thresholds)(1.0)


def own_reset(potential, spikes, threshold):
    return potential - 2 * spikes * threshold


IMAGES = np.stack([np.zeros(3), np.ones(3), np.full(3, 0.5)]).astype(np.float32)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"duration": 0.101}, "run of 101 steps.*100 only.*steps=101"),
        ({"encode": lambda key, p: p / 2}, "takes spikes, or constant currents"),
        ({"encode": lambda key, p: jnp.floor(2 * p)}, "takes spikes, or"),  # 2 of white pixels
        ({"reset": own_reset}, "reset_to_zero and reset_by_subtraction"),
        ({"spike": lambda v, theta: (v > theta).astype(v.dtype)}, "spike function"),
        ({"spike": lambda v, theta: (v >= 0.9 * theta).astype(v.dtype)}, "spike function"),
        ({"initial_potential": 1e9}, "initial_potential: layer 1 of 1.*float32"),
    ],
)
def test_runs_without_an_exact_form_are_refused(options, message):
    fixed = jaxsnn.quantize(one_layer(), steps=100)
    with pytest.raises(ValueError, match=message):
        jaxsnn.simulate(fixed, IMAGES, **{"key": 0, "duration": 0.01, **options})


def test_steps_of_earlier_parts_count():
    fixed = jaxsnn.quantize(one_layer(), steps=100)
    options = dict(key=0, duration=0.06)
    state = jaxsnn.simulate(fixed, IMAGES, **options).state
    jaxsnn.simulate(fixed, IMAGES, **{**options, "duration": 0.04}, state=state)
    with pytest.raises(ValueError, match=r"run of 120 steps.*100 only.*steps=120"):
        jaxsnn.simulate(fixed, IMAGES, **options, state=state)


def test_a_state_of_another_arithmetic_is_refused():
    snn = one_layer()
    fixed, finer = jaxsnn.quantize(snn), jaxsnn.quantize(snn, bits=16)
    options = dict(key=0, duration=0.01)
    for one, other in ((snn, fixed), (fixed, snn), (fixed, finer), (finer, fixed)):
        state = jaxsnn.simulate(one, IMAGES, **options).state
        with pytest.raises(ValueError, match="another arithmetic"):
            jaxsnn.simulate(other, IMAGES, **options, state=state)
    state = jaxsnn.simulate(snn, IMAGES, **options).state
    with pytest.raises(ValueError, match="another arithmetic"):
        jax.jit(lambda state: jaxsnn.simulate(fixed, IMAGES, **options, state=state))(state)


def test_a_state_of_the_host_goes_on_under_jit():
    fixed, options = jaxsnn.quantize(one_layer()), dict(key=0, duration=0.005)
    whole = jaxsnn.simulate(fixed, IMAGES, key=0, duration=0.01)
    state = jax.device_get(jaxsnn.simulate(fixed, IMAGES, **options).state)
    rest = jax.jit(lambda x: jaxsnn.simulate(fixed, x, **options, state=state))(IMAGES)
    assert_equal_runs(rest.spike_counts, whole.spike_counts)
