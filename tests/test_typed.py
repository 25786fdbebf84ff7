"""Wrong types of arguments: one mechanism names function, argument, value and expected type."""

import inspect
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.figure import Figure

import jaxsnn
from jaxsnn import neurons, readout, stopping
from jaxsnn.support import typed

import models


@pytest.fixture(scope="module")
def network():
    return models.dense_network(np.random.default_rng(0))[0]


@pytest.fixture(scope="module")
def snn(network):
    return jaxsnn.balance_thresholds(network, 1.0)


def simulate(snn, **changes):
    arguments = {"images": np.zeros((1, 12), np.float32), "key": 0, "duration": 0.002, **changes}
    return jaxsnn.simulate(snn, arguments.pop("images"), **arguments)


@pytest.mark.parametrize(
    ("name", "value", "found", "expected"),
    [
        ("images", [[0.0] * 12] * 5000, "a list of 5000", "an array of NumPy or JAX"),
        ("images", None, "None", "an array"),
        ("images", "zeros", "'zeros'", "an array"),
        ("images", np.zeros((1, 12), object), "dtype object", "an array"),
        ("images", np.zeros((1, 12), ">f4"), "dtype >f4", "Change its byte order"),
        ("images", np.ma.zeros((1, 12)), "a masked array", "Its mask would be ignored"),
        ("key", 1.5, "1.5", "an integer seed"),
        ("key", True, "True", "an integer seed"),
        ("dt", None, "None", "one real number"),
        ("duration", "0.5", "'0.5'", "one real number"),
        ("duration", True, "True", "one real number"),
        ("duration", [0.1], "a list of 1", "one real number"),
        ("duration", 1j, "1j", "one real number"),
        ("dt", np.zeros(2), "shape (2,)", "one real number"),
        ("max_rate", [1000.0], "a list of 1", "one real number"),
        ("refractory_period", {}, "a dict of 0", "one real number"),
        ("batch_size", 1.5, "1.5", "an integer"),
        ("chunk", True, "True", "an integer"),
        ("state", 3, "3", "a State (from the run before: run.state)"),
        ("arithmetic", jaxsnn.FixedPoint, "the class FixedPoint", "jaxsnn.FixedPoint(bits=8)"),
        ("arithmetic", 8, "8", "a FixedPoint"),
        ("engine", 3, "3", "the name of an engine or an engine, such as jaxsnn.engines.Scan("),
        ("reset", "subtract", "'subtract'", "not its name: jaxsnn.reset_by_subtraction."),
        ("reset", ["subtraction"], "a list of 1", "not its name: jaxsnn.reset_by_subtraction."),
        ("reset", "zero", "'zero'", "not its name: jaxsnn.reset_to_zero."),
        ("encode", "poisson", "'poisson'", "not its name: jaxsnn.poisson."),
        ("read", "spike_count", "'spike_count'", "not its name: jaxsnn.readout.spike_count."),
        ("stop", "first_spike", "'first_spike'", "not its name: jaxsnn.stopping.first_spike."),
        ("record", 7, "7", "a function"),
        ("progress", "yes", "'yes'", "True or False or None"),
    ],
)
def test_simulate_names_argument_value_and_type(snn, name, value, found, expected):
    with pytest.raises(TypeError) as caught:
        simulate(snn, **{name: value})
    message = str(caught.value)
    assert message.startswith(f"simulate(): {name} is {found}") or found in message
    assert name in message
    assert expected in message
    assert len(message) < 500


def test_an_engine_that_does_not_exist(snn):
    with pytest.raises(ValueError, match="engine='gpu'; there are auto, scan, events"):
        simulate(snn, engine="gpu")


@pytest.mark.parametrize("name", ["duration", "dt", "refractory_period", "batch_size", "chunk"])
def test_traced_settings_that_must_be_known(snn, name):
    with pytest.raises(TypeError, match=rf"{name} is a traced array.*keep it out of the argum"):
        jax.jit(lambda value: simulate(snn, **{name: value}))(1)


@pytest.mark.parametrize(
    ("value", "name"),
    [("Network", "network"), (None, "network"), (jaxsnn.Network, "network")],
    ids=["a string", "None", "a class"],
)
def test_another_stage_is_named(value, name):
    with pytest.raises(
        TypeError, match=rf"{name} is .*from jaxsnn.convert\(model, images\) or jaxsnn"
    ):
        simulate(value)


def test_a_network_in_the_place_of_a_spiking_one(network, snn):
    with pytest.raises(TypeError, match="network is a Network, but must be a SpikingNetwork"):
        simulate(network)
    with pytest.raises(
        TypeError, match=r"network is a SpikingNetwork, .* jaxsnn.read_network.*snn\.network"
    ):
        jaxsnn.balance_thresholds(snn, 1.0)


def test_a_data_set_in_the_place_of_its_images(network):
    data = jaxsnn.Dataset(np.zeros((2, 12), np.float32), np.zeros(2, int))
    with pytest.raises(TypeError, match=r"images is a Dataset, .*Give its images: dataset\.images"):
        jaxsnn.data_based_scales(network, data)


CLASSES = """
import jax, jaxsnn, numpy as np
images = np.zeros((1, 12), np.float32)
network = jaxsnn.read_network(lambda x: jax.nn.relu(2 * x), images)
for call in (
    lambda: jaxsnn.simulate(jaxsnn.SpikingNetwork(None, [1.0], [1.0]), images, key=0),
    lambda: jaxsnn.simulate(jaxsnn.SpikingNetwork(network, "high", [1.0]), images, key=0),
    lambda: jaxsnn.FixedPoint(bits="8"),
    lambda: jaxsnn.FixedPoint(steps=None),
    lambda: jaxsnn.FixedPoint(per="pixel"),
    lambda: jaxsnn.quantize("network"),
    lambda: jaxsnn.fast_sigmoid("steep"),
    lambda: jaxsnn.step_function(3),
    lambda: jaxsnn.engines.Scan(batch_size=1.5),
    lambda: jaxsnn.engines.Scan(chunk=True),
):
    try:
        call()
    except TypeError as error:
        print(error)
"""


def test_classes_without_the_checks_of_the_tests():
    """In a process of its own: here, array types are checked before anything else."""
    done = subprocess.run(
        [sys.executable, "-c", CLASSES], capture_output=True, text=True, check=True
    )
    assert [line.split(",")[0] for line in done.stdout.splitlines()] == [
        "SpikingNetwork(): network is None",
        "SpikingNetwork(): thresholds is 'high'",
        "FixedPoint(): bits is '8'",
        "FixedPoint(): steps is None",
        "FixedPoint(): per is 'pixel'",
        "quantize(): network is 'network'",
        "fast_sigmoid(): slope is 'steep'",
        "step_function(): surrogate is 3",
        "Scan(): batch_size is 1.5",
        "Scan(): chunk is True",
    ]


@pytest.mark.parametrize(
    "call",
    [
        lambda: jaxsnn.quantize(None),
        lambda: jaxsnn.reset_to_zero(None, 1.0, 1.0),
        lambda: jaxsnn.poisson(jax.random.key(0), [0.5]),
        lambda: jaxsnn.fast_sigmoid("steep"),
        lambda: jaxsnn.step_function(3),
        lambda: readout.spike_count(np.zeros((1, 2))),
        lambda: stopping.margin("3"),
        lambda: neurons.integrate_and_fire(
            1.0, 1.0, 1.0, reset=jaxsnn.reset_to_zero, spike=neurons.heaviside
        ),
    ],
)
def test_the_other_functions_check_their_types_too(call):
    with pytest.raises(TypeError, match=r"\w+\(\): \w+ is .*, but must be "):
        call()


def test_what_is_allowed(snn):
    for step in (0.001, np.float32(0.001), np.float64(0.001), jnp.array(0.001), np.array(0.001)):
        assert len(simulate(snn, duration=step, dt=step).times) == 1
    scan = jaxsnn.engines.Scan(chunk=np.int32(1))
    assert simulate(snn, key=np.int64(3), max_rate=np.float32(500), engine=scan) is not None
    assert simulate(snn, duration=1, dt=1, max_rate=1, refractory_period=0) is not None


def test_classes_of_modules_that_are_imported_late():
    @typed.typed
    def draw(figure: "Figure | None" = None):
        return figure

    figure = Figure()
    assert draw(figure) is figure
    with pytest.raises(TypeError, match=r"draw.*figure is 3, but must be a"):
        draw(3)


def test_signatures_stay(snn):
    parameters = inspect.signature(jaxsnn.simulate).parameters
    assert list(parameters)[:3] == ["network", "images", "key"]
    assert parameters["dt"].default == 1e-3
    with pytest.raises(TypeError, match="unexpected keyword argument 'num_steps'"):
        simulate(snn, num_steps=3)


def test_beartype_is_imported_at_the_first_call():
    code = (
        "import sys, jaxsnn; print('beartype' in sys.modules); "
        "jaxsnn.stopping.margin(3); print('beartype' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]
