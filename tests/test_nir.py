"""Graphs of NIR: the oracle computes the spikes of the network, and both come back."""

import builtins
import io
import itertools
import re

import jax
import jax.numpy as jnp
import nir
import numpy as np
import pytest
from jax import lax

import jaxsnn
from jaxsnn.network import INPUT, Connection, Dense, Layer, Network, linear

import models
import nir_executor
import problems
import random_graphs


def channels_first(values):
    """Values [..., height, width, channels], after two axes of steps and samples."""
    return np.moveaxis(values, -1, 2)


def from_file(graph):
    """The graph after it was written and read."""
    file = io.BytesIO()
    nir.write(file, graph)
    return nir.read(file, type_check=False)


def computed(graph, inputs, **options):
    """What the oracle finds for inputs [T, B, ...]: {name: [T, B, ...]}."""
    samples = [
        nir_executor.run(graph, channels_first(inputs)[:, sample], **options)
        for sample in range(inputs.shape[1])
    ]
    return {name: np.stack([sent[name] for sent in samples], 1) for name in samples[0]}


def neurons_of(graph, sent):
    """What the neurons of each layer send, channels last, in the order of the layers."""
    names = [name for name, node in graph.nodes.items() if isinstance(node, nir.IF)]
    return [np.moveaxis(sent[name], 2, -1) for name in names]


# -- The same spikes -------------------------------------------------------------------------------

TO_ZERO = [
    problem
    for problem in problems.PROBLEMS
    if problem.reset == "zero" and problem.refractory_steps == 0
]


@pytest.mark.parametrize("problem", TO_ZERO, ids=lambda problem: problem.name)
@pytest.mark.parametrize("pooling", ["average", "sum"])
def test_the_spikes_of_problems(problem, pooling):
    snn, (inputs, spikes, scores) = problem.spiking_network(), problem.answer()
    graph = from_file(jaxsnn.to_nir(snn, pooling=pooling))
    for image in (graph, jaxsnn.to_nir(jaxsnn.from_nir(graph), pooling=pooling)):
        sent = computed(image, inputs)
        found = neurons_of(image, sent)
        assert len(found) == len(spikes) - (not problem.spiking)
        for layer, expected in zip(found, spikes):
            np.testing.assert_array_equal(layer, expected)
        if not problem.spiking:
            np.testing.assert_array_equal(sent["output"].cumsum(0), scores)


def random_network(seed):
    """A network of dyadic weights, biases and scale factors, for each channel or layer."""
    example = np.zeros((1, *random_graphs.IMAGE_SHAPE), np.float32)
    network = jaxsnn.read_network(random_graphs.random_model(seed), example)
    assert not any(layer.pools_maxima for layer in network.layers)
    rng = np.random.default_rng(seed)
    network = jax.tree.map(lambda w: np.round(np.asarray(w) * 16) / np.float32(16), network)
    scales = [
        min(layer.ceiling, 1) * np.exp2(rng.integers(-2, 1, shape[-1:] if seed % 2 else ()))
        for layer, shape in zip(network.layers, network.shapes)
    ]
    return jaxsnn.balance_thresholds(network, scales)


SEEDS = (0, 2, 6, 8, 9, 12, 18, 20)  # those of the first without max pooling
SIMULATED = SEEDS[:2]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.promotes
@pytest.mark.thinned(3)
def test_random_graphs(seed):
    snn = random_network(seed)
    pooling = ("average", "sum")[seed % 3 % 2]
    graph = from_file(jaxsnn.to_nir(snn, pooling=pooling))
    images = models.dyadic_images(np.random.default_rng(seed), 2, *random_graphs.IMAGE_SHAPE)
    inputs = np.broadcast_to(images, (8, *images.shape))
    sent = computed(graph, inputs)
    assert sum(layer.sum() for layer in neurons_of(graph, sent)) > 0
    back = jaxsnn.from_nir(graph)
    again = computed(jaxsnn.to_nir(back, pooling=pooling), inputs)
    np.testing.assert_array_equal(again["output"], sent["output"])
    if seed not in SIMULATED:
        return
    options = {"encode": jaxsnn.constant, "engine": "scan", "key": 0, "duration": 0.008}
    run = jaxsnn.simulate(snn, images, **options)
    counts = [c for c, layer in zip(run.spike_counts, snn.network.layers) if layer.spiking]
    for found, expected in zip(neurons_of(graph, sent), counts, strict=True):
        np.testing.assert_array_equal(found.sum(0), np.asarray(expected).reshape(found.shape[1:]))
    np.testing.assert_array_equal(sent["output"].cumsum(0), run.scores)


@pytest.mark.promotes
def test_factors_alone():
    """A positive one is in the threshold, a negative one has a node."""
    model = {2.0: lambda x: jax.nn.relu(2 * x), -2.0: lambda x: jax.nn.relu(-2 * x)}
    for factor, function in model.items():
        network = jaxsnn.read_network(function, np.zeros((1, 2)))
        graph = jaxsnn.to_nir(jaxsnn.balance_thresholds(network, 1.0))
        sent = nir_executor.run(graph, np.array([[-0.5, 0.5]]))
        np.testing.assert_array_equal(sent["output"], [[factor < 0, factor > 0]])
        assert ("layer1_scale" in graph.nodes) == (factor < 0)


@pytest.mark.parametrize("name", ["dense, by subtraction", "biases, by subtraction"])
def test_what_is_left_to_the_metadata_comes_back(name):
    (problem,) = (one for one in problems.PROBLEMS if one.name == name)
    snn, (_, spikes, _) = problem.spiking_network(), problem.answer()
    graph = from_file(jaxsnn.to_nir(snn, allow_lossy=True))
    assert graph.metadata["reset"] == "subtraction"
    back = jaxsnn.from_nir(graph)
    assert back.reset is jaxsnn.reset_by_subtraction
    for layer, expected in zip(problem.simulate(back, "events").spike_counts, spikes):
        np.testing.assert_array_equal(layer, expected.sum(0))


@pytest.mark.parametrize("name", ["dense, balanced", "biases", "convolutions"])
@pytest.mark.parametrize("pooling", ["average", "sum"])
def test_integers_spike_above_half_a_step_and_from_it_on(name, pooling):
    (problem,) = (one for one in problems.PROBLEMS if one.name == name)
    fixed = jaxsnn.quantize(problem.spiking_network())
    graph = from_file(jaxsnn.to_nir(fixed, pooling=pooling))
    inputs = problem.answer()[0]
    run = problem.simulate(fixed, "events")
    for at_threshold in (False, True):
        found = neurons_of(graph, computed(graph, inputs, at_threshold=at_threshold))
        for layer, counts in zip(found, run.spike_counts):
            np.testing.assert_array_equal(layer.sum(0), counts)


# -- Layouts ---------------------------------------------------------------------------------------

DENSE = models.dyadic(np.random.default_rng(0), 300, 3)
KERNEL = models.dyadic(np.random.default_rng(1), 3, 2, 3, 4)


def convolution(x, kernel=KERNEL, numbers=("NHWC", "HWIO", "NHWC"), strides=(1, 1), **options):
    options = {"padding": "VALID", "dimension_numbers": numbers, **options}
    return lax.conv_general_dilated(x, jnp.asarray(kernel), strides, **options)


def average(x, window=(1, 2, 2, 1), strides=(1, 2, 2, 1), padding="VALID"):
    return lax.reduce_window(x, 0.0, lax.add, window, strides, padding) / np.float32(4)


LAYOUTS = {
    "channels first": (
        lambda x: convolution(x, KERNEL.transpose(3, 2, 0, 1), ("NCHW", "OIHW", "NCHW")),
        (3, 6, 5),
        ["Conv2d"],
    ),
    "more padding behind": (
        lambda x: convolution(x, strides=(2, 2), padding="SAME"),
        (6, 6, 3),
        ["Conv2d"],
    ),
    "dilation and padding on one side": (
        lambda x: convolution(x, rhs_dilation=(2, 3), padding=[(0, 3), (-1, 2)]),
        (7, 6, 3),
        ["Conv2d"],
    ),
    "groups": (
        lambda x: convolution(x, KERNEL[:, :, :1, :3], feature_group_count=3),
        (5, 4, 3),
        ["Conv2d"],
    ),
    "one axis": (
        lambda x: convolution(x, KERNEL[0], ("NHC", "HIO", "NHC"), (1,)),
        (9, 3),
        ["Conv1d"],
    ),
    "dense along the channels": (lambda x: x @ KERNEL[0, 0], (4, 5, 3), ["Conv2d"]),
    "an average of the input": (average, (6, 4, 3), ["AvgPool2d"]),
    "averages that count the padding": (
        lambda x: average(x, strides=(1, 1, 1, 1), padding="SAME"),
        (4, 4, 3),
        ["Conv2d"],
    ),
    "a transpose": (
        lambda x: convolution(x.transpose(0, 2, 1, 3)),
        (4, 6, 3),
        ["Flatten", "Affine"],
    ),
    "a choice of channels": (lambda x: x[..., np.array([2, 0, 0])], (3, 4, 3), ["Conv2d"]),
    "a crop": (lambda x: x[:, 1:, :2], (4, 3, 2), ["Flatten", "Affine"]),
    "a factor of each pixel": (lambda x: x * DENSE[:8].reshape(2, 4, 3), (2, 4, 3), ["Scale"]),
}


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.promotes
@pytest.mark.thinned(3)
def test_layouts(name):
    """The first step of a layer, and the dense one behind it, whose rows are permuted."""
    function, shape, kinds = LAYOUTS[name]

    def model(x):
        x = jax.nn.relu(function(x))
        return x.reshape(len(x), -1) @ jnp.asarray(DENSE[: x[0].size])

    network = jaxsnn.read_network(model, np.zeros((1, *shape), np.float32))
    snn = jaxsnn.balance_thresholds(network, 0.25)
    graph = jaxsnn.to_nir(snn)
    found = [type(node).__name__ for node in graph.nodes.values()]
    assert found[: len(kinds) + 2] == ["Input", *kinds, "IF"]
    images = models.dyadic_images(np.random.default_rng(2), 2, *shape)
    activations, _ = network.activations(images)
    spikes = (np.asarray(activations) >= 0.25).astype(np.float32)
    last = network.layers[-1].connection
    first = images if name == "channels first" else np.moveaxis(images, -1, 1)
    for sample, expected in enumerate(np.asarray(last(jnp.asarray(spikes / 4)))):
        sent = nir_executor.run(graph, first[sample][None])
        assert 0 < sent["layer1"].sum() == spikes[sample].sum()
        np.testing.assert_array_equal(sent["output"][0], expected)


def test_sums_that_several_layers_read_and_the_same_twice():
    rng = np.random.default_rng(5)

    def dense(*shape, source):
        return Connection((Dense(jnp.asarray(models.dyadic(rng, *shape))),), source)

    layers = (
        Layer((dense(4, 6, source=INPUT),)),
        Layer((dense(6, 6, source=0), Connection((), 0)), activation=linear),
        Layer((Connection((), 1), Connection((), 0))),
        Layer((dense(6, 3, source=2), dense(6, 3, source=1)), activation=linear),
    )
    snn = jaxsnn.balance_thresholds(Network(layers, (4,)), [1.0, 1.0, 2.0, 1.0])
    graph = jaxsnn.to_nir(snn)
    assert len(set(graph.edges)) == len(graph.edges)
    images = models.dyadic_images(rng, 3, 4)
    options = {"key": 0, "duration": 0.008, "encode": jaxsnn.constant}
    expected = computed(graph, np.broadcast_to(images, (8, 3, 4)))
    for network in (snn, jaxsnn.from_nir(graph)):
        scores = jaxsnn.simulate(network, images, engine="scan", **options).scores
        np.testing.assert_array_equal(expected["output"].cumsum(0), scores)


# -- What is refused -------------------------------------------------------------------------------


def to_be_refused():
    weights = models.dyadic(np.random.default_rng(3), 4, 3)
    network = jaxsnn.read_network(lambda x: jax.nn.relu(x @ weights), np.zeros((1, 4)))
    ahead = {"initial_potential": 0.5}
    constant = jaxsnn.quantize(jaxsnn.balance_thresholds(network, 1.0, encode=jaxsnn.constant))

    def pools(x):
        x = jax.nn.relu(x)
        x = lax.reduce_window(x, -np.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
        return x.reshape(len(x), -1)

    maxima = jaxsnn.read_network(pools, np.zeros((1, 4, 4, 1), np.float32))
    rows = np.ones((1 << 14, 2), np.float32)
    wide = jaxsnn.read_network(lambda x: jax.nn.relu(x[:, ::-1])[:, ::2] @ rows[::2], rows.T[:1])
    by_subtraction = {"reset": jaxsnn.reset_by_subtraction}
    return {
        "subtraction": (jaxsnn.balance_thresholds(network, 1.0, **by_subtraction), "allow_lossy"),
        "a reset": (jaxsnn.balance_thresholds(network, 1.0, reset=lambda v, s, t: v), "to a value"),
        "ahead": (jaxsnn.balance_thresholds(network, 1.0, **ahead), "initial_potential=0"),
        "constant": (constant, "encode=poisson"),
        "max pooling": (jaxsnn.balance_thresholds(maxima, 1.0), "layer 2 of 3 .*no max pooling"),
        "a large matrix": (jaxsnn.balance_thresholds(wide, 1.0), "16384 x 16384"),
    }


@pytest.mark.promotes
def test_what_nir_cannot_express_is_refused_by_name():
    for name, (snn, message) in to_be_refused().items():
        with pytest.raises(ValueError, match=message):
            jaxsnn.to_nir(snn)
        if name == "ahead":
            graph = jaxsnn.to_nir(snn, allow_lossy=True)
            assert np.all(graph.nodes["layer1"].metadata["initial_potential"] == 0.5)
            assert np.all(np.asarray(jaxsnn.from_nir(graph).initial_potentials[0]) == 0.5)


def affine(inputs=4, outputs=3):
    return nir.Affine(np.ones((outputs, inputs)), np.zeros(outputs))


def fire(*shape, threshold=1.0, reset=0.0, resistance=1.0):
    filled = (np.full(shape, value) for value in (resistance, threshold, reset))
    return nir.IF(*filled)


def convolve(weight=(3, 2, 3, 3), **changes):
    settings = {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1), "groups": 1, **changes}
    return nir.Conv2d(None, np.ones(weight), bias=np.zeros(weight[0]), **settings)


def chain(*nodes, shape=(4,), edges=(), drop=(), metadata=None):
    """A graph of nodes called n0, n1, … between an input of a shape and the output."""
    names = {f"n{number}": node for number, node in enumerate(nodes)}
    names = {"input": nir.Input(np.array(shape)), **names, "output": nir.Output(np.array([3]))}
    order = list(names)
    links = [link for link in itertools.pairwise(order) if link not in drop]
    graph = nir.NIRGraph(names, [*links, *edges], type_check=False)
    graph.metadata = metadata or {}
    return graph


ONE = np.ones(3)
BAD_GRAPHS = {
    "LIF": (chain(affine(), nir.LIF(ONE, ONE, 0 * ONE, ONE)), r"'n1' \(LIF\).*leaks.*use IF"),
    "CubaLIF": (
        chain(affine(), nir.CubaLIF(ONE, ONE, ONE, 0 * ONE, ONE)),
        r"'n1' \(CubaLIF\).*use IF",
    ),
    "LI": (chain(affine(), nir.LI(ONE, ONE, 0 * ONE)), r"'n1' \(LI\).*leaks"),
    "I": (chain(affine(), nir.I(ONE)), r"'n1' \(I\).*leave it out"),
    "Delay": (chain(affine(), nir.Delay(ONE)), r"'n1' \(Delay\)"),
    "Threshold": (chain(affine(), nir.Threshold(ONE)), r"'n1' \(Threshold\).*use IF"),
    "a graph": (chain(chain(affine())), r"'n0' \(NIRGraph\)"),
    "recurrent": (
        chain(affine(), fire(3), affine(3), edges=[("n2", "n1")]),
        r"recurrent: .*'n1' → 'n2' → 'n1'|recurrent: .*'n2' → 'n1' → 'n2'",
    ),
    "no such node": (chain(affine(), edges=[("n7", "output")]), "'n7', which is no node"),
    "twice": (chain(affine(), edges=[("n0", "output")]), "'n0' to 'output' is there twice"),
    "no source": (chain(affine(), fire(3), drop=[("input", "n0")]), r"'n0' \(Affine\) receives"),
    "no output": (chain(affine(), drop=[("n0", "output")]), r"'output' \(Output\) receives"),
    "two inputs": (chain(affine(), nir.Input(ONE)), "one Input"),
    "other inputs": (chain(affine(5)), r"'n0' \(Affine\).*\(3, 5\).*\(4,\)"),
    "not flat": (chain(affine(), shape=(4, 1, 1)), r"Flatten\(start_dim=0\)"),
    "a bias": (chain(nir.Affine(np.ones((3, 4)), np.zeros(2))), "bias has shape"),
    "nan": (chain(nir.Linear(np.full((3, 4), np.nan))), "finite real numbers"),
    "text": (chain(nir.Linear(np.full((3, 4), "a"))), "finite real numbers"),
    "neurons": (chain(affine(), fire(2)), r"'n1' \(IF\).*\(2,\).*\(3,\)"),
    "v_reset": (chain(affine(), fire(3, reset=0.5)), r"'n1' \(IF\).*v_reset"),
    "a threshold": (chain(affine(), fire(3, threshold=0.0)), "must be positive"),
    "a resistance": (chain(affine(), fire(3, resistance=-1.0)), "must be positive"),
    "channels": (chain(convolve(), shape=(5, 4, 4)), r"'n0' \(Conv2d\).*5 input channels"),
    "axes": (chain(convolve(), shape=(2, 4)), r"'n0' \(Conv2d\).*axes"),
    "groups": (chain(convolve(groups=2), shape=(4, 4, 4)), "in 2 groups"),
    "no stride": (chain(convolve(stride=(0, 0)), shape=(2, 4, 4)), "stride is .*at least 1"),
    "same": (chain(convolve(padding="same", stride=2), shape=(2, 4, 4)), "'same' at strides"),
    "too small": (chain(convolve(dilation=(9, 9)), shape=(2, 4, 4)), "check its sizes"),
    "too large": (chain(convolve(padding=(1 << 20, 1 << 20)), shape=(2, 4, 4)), "check its sizes"),
    "a pooling": (
        chain(nir.AvgPool2d(np.array([2, 2]), np.array([2, 2]), np.array([2, 2])), shape=(2, 4, 4)),
        r"'n0' \(AvgPool2d\).*at most half",
    ),
    "the batch": (chain(nir.Flatten(np.array([4]), 1), affine()), "the batch is no axis"),
    "no axis": (chain(affine(), shape=()), "give the shape of one image"),
    "output": (chain(convolve(), shape=(2, 4, 4)), r"'output' \(Output\).*classes need one axis"),
    "a scale": (chain(nir.Scale(np.ones(3))), r"'n0' \(Scale\)"),
    "a sum": (
        chain(affine(), affine(3, 2), affine(2, 3), edges=[("n0", "n2")]),
        r"'n2' \(Affine\).*different shapes",
    ),
    "another reset": (chain(affine(), metadata={"reset": "half"}), "'half'"),
}


@pytest.mark.parametrize("name", BAD_GRAPHS)
def test_graphs_of_strangers(name):
    graph, message = BAD_GRAPHS[name]
    with pytest.raises(ValueError, match=message):
        jaxsnn.from_nir(graph)


def test_the_shape_of_images():
    flat = nir.Flatten(np.array([1, 2, 2]), 0)
    graph = chain(flat, affine(), shape=(1, 2, 2))
    assert jaxsnn.from_nir(graph, [2, 2, 1]).network.input_shape == (2, 2, 1)
    with pytest.raises(ValueError, match=re.escape("images are (2, 2, 1), not (1, 2, 2)")):
        jaxsnn.from_nir(graph, (1, 2, 2))
    with pytest.raises(ValueError, match="dt=0"):
        jaxsnn.from_nir(graph, dt=0.0)


def test_a_step_of_another_duration():
    """V grows by r·dt·I, as with weights that are as much larger."""
    graph = chain(affine(), fire(3, resistance=512.0))
    (threshold,) = jaxsnn.from_nir(graph, dt=1 / 1024).thresholds
    assert threshold == np.nextafter(np.float32(2), np.float32(3))


def test_nodes_beside_the_way_to_the_output_are_left_out():
    graph = chain(affine(), fire(3), edges=[("n0", "unread")])
    graph.nodes["unread"] = nir.LIF(ONE, ONE, 0 * ONE, ONE)
    snn = jaxsnn.from_nir(graph)
    assert len(snn.network.layers) == 1
    assert str.__eq__(snn.network.layers[0].name, "n1")


def test_without_the_package(monkeypatch):
    real = builtins.__import__

    def no_nir(name, *args, **kwargs):
        if name == "nir":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    snn = problems.PROBLEMS[0].spiking_network()
    monkeypatch.setattr(builtins, "__import__", no_nir)
    with pytest.raises(ImportError, match=re.escape('pip install "jaxsnn-conversion[nir]"')):
        jaxsnn.to_nir(snn)
