"""Networks in files: the same network comes back, or an error; never another network."""

import json
import os
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx
from test_fixed_point_graphs import Branches, Stream

import jaxsnn
from jaxsnn import network as parts
from jaxsnn.interchange import files
from jaxsnn.network import Layer, Network
from jaxsnn.support.arrays import static_field

import models
import random_graphs

pytestmark = pytest.mark.promotes
AHEAD = {"initial_potential": 0.5, "reset": jaxsnn.reset_by_subtraction}


def bits_of(leaf):
    array = np.asarray(leaf)
    return isinstance(leaf, jax.Array), type(leaf), array.dtype, array.shape, array.tobytes()


def assert_same(found, network):
    """The same structure, functions and names, and the same bits in arrays of the same kind."""
    assert type(found) is type(network)
    assert jax.tree.structure(found) == jax.tree.structure(network)
    assert list(map(bits_of, jax.tree.leaves(found))) == list(
        map(bits_of, jax.tree.leaves(network))
    )
    relus = [getattr(one, "network", one) for one in (found, network)]
    assert len({tuple(layer.name.encode() for layer in relu.layers) for relu in relus}) == 1


def round_trip(path, network, **options):
    jaxsnn.save(path, network, **options)
    found = jaxsnn.load(path, **options)
    assert_same(found, network)
    return found


@pytest.fixture
def path(tmp_path):
    return tmp_path / "network.safetensors"


# -- Round trips -----------------------------------------------------------------------------------


@pytest.mark.parametrize("seeds", np.arange(12).reshape(2, 6), ids=lambda s: f"{s[0]}-{s[-1]}")
@pytest.mark.thinned(2)
def test_random_graphs_come_back(path, seeds):
    for seed in seeds:
        example = np.zeros((1, *random_graphs.IMAGE_SHAPE), np.float32)
        network = jaxsnn.read_network(random_graphs.random_model(seed), example)
        round_trip(path, jaxsnn.balance_thresholds(network, 0.5, **AHEAD))


def of_model(model, shape):
    if isinstance(model, nnx.Module):
        model.eval()
    return jaxsnn.read_network(model, np.zeros((1, *shape), np.float32))


def clip_floors(x):
    x = jaxsnn.neurons.clip_floor(x @ np.eye(6, dtype=np.float32)[::-1], 0.75, 4)
    return x @ np.ones((6, 3), np.float32)


NETWORKS = {
    "fully connected": lambda: of_model(
        jaxsnn.networks.FullyConnected((36, 20, 4), dropout=0.0, rngs=nnx.Rngs(0)), (6, 6, 1)
    ),
    "convolutional": lambda: of_model(
        jaxsnn.networks.ConvNet((14, 14, 1), (2, 3), 3, 4, dropout=0.0, rngs=nnx.Rngs(0)),
        (14, 14, 1),
    ),
    "residual": lambda: of_model(
        jaxsnn.networks.ResNet((8, 8, 3), maps=(2, 4), blocks=1, classes=3, rngs=nnx.Rngs(0)),
        (8, 8, 3),
    ),
    "branches": lambda: of_model(Branches(nnx.Rngs(0)), (6, 6, 2)),  # max pooling, ReLU6
    "stream": lambda: of_model(Stream(nnx.Rngs(0)), (6, 6, 2)),  # sums that several layers read
    "clip-floor": lambda: of_model(clip_floors, (6,)),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.thinned(6)
def test_spikes_are_the_same(path, name):
    """In floating point and in fixed point, of 8 and of 16 bits; thresholds for each channel."""
    network = NETWORKS[name]()
    images = np.random.default_rng(5).random((3, *network.input_shape)).astype(np.float32)
    channels = jaxsnn.percentile_scales(network, images, per="channel")
    layers = jaxsnn.percentile_scales(network, images)
    snn = jaxsnn.balance_thresholds(network, channels, **AHEAD)
    poisson = jaxsnn.balance_thresholds(network, layers, **AHEAD)
    constant = jaxsnn.balance_thresholds(network, layers, encode=jaxsnn.constant)
    round_trip(path, network)
    for made in (snn, jaxsnn.quantize(poisson), jaxsnn.quantize(constant, bits=16, per="layer")):
        found = round_trip(path, made)
        run, again = (jaxsnn.simulate(n, images, key=1, duration=0.008) for n in (made, found))
        assert sum(int(np.sum(counts)) for counts in run.spike_counts) > 0
        for ours, theirs in zip(jax.tree.leaves(again), jax.tree.leaves(run), strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_every_kind_of_array_stays_what_it_is(path):
    weights = jnp.asarray([[0.5, 1.0], [0.25, 0.0]], jnp.bfloat16)
    shared = np.asfortranarray(np.arange(4, dtype=np.float64).reshape(2, 2))
    layers = [
        Layer((parts.Dense(weights),)),
        Layer((parts.Dense(shared),), np.float16(0.5)),
        Layer((parts.Dense(shared),), np.array([True, False])),
        Layer((parts.Gain(np.zeros((), np.uint8)),), name="größer"),
        Layer((parts.Multiply(np.float64(3)),), activation=parts.Capped(np.float64(6))),
        Layer((parts.Dense(np.zeros((2, 0), np.int64)),), activation=parts.linear),
    ]
    network = Network(tuple(layers), (2,))
    found = round_trip(path, network)
    kernels = [layer.operations[0].kernel for layer in found.layers[1:3]]
    assert kernels[0] is kernels[1]
    assert type(found.layers[4].activation.ceiling) is np.float64
    numbers = [1, 2.0, np.float32(3), np.array(4.0), jnp.ones(2), np.inf]
    amplitudes = [[None], [1], [2.0], [np.float32(3)], [np.ones(2)], [jnp.ones(())]]
    round_trip(path, jaxsnn.SpikingNetwork(replaced_last(network), numbers, amplitudes))


def replaced_last(network):
    last = Layer((parts.Dense(np.ones((2, 3), np.float32)),), activation=parts.linear)
    return Network((*network.layers[:-1], last), (2,))


def small():
    network, _ = models.dense_network(np.random.default_rng(0), (3, 4, 2))
    return network


def test_floats_of_64_bits_need_them(path):
    with jax.enable_x64(True):
        network = Network((Layer((parts.Dense(jnp.eye(2, dtype=jnp.float64)),)),), (2,))
        round_trip(path, network)
    with pytest.raises(ValueError, match="jax_enable_x64"):
        jaxsnn.load(path)


# -- What is of the user ---------------------------------------------------------------------------


def reset_to_half(potential, spikes, threshold):
    return jnp.where(spikes > 0, threshold / 2, potential)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Doubled(parts.Operation):
    times: int = static_field(default=2)

    def __call__(self, x):
        return x * self.times


def test_functions_and_operations_of_the_user(path):
    layer = Layer((*small().layers[0].operations, Doubled(4)))
    snn = jaxsnn.balance_thresholds(Network((layer,), (3,)), 1.0, reset=reset_to_half)
    with pytest.raises(ValueError, match=r"connections\.0\.operations\.1 is a Doubled.*custom"):
        jaxsnn.save(path, snn, custom={"half": reset_to_half})
    with pytest.raises(ValueError, match=r"^reset is the function reset_to_half.*custom"):
        jaxsnn.save(path, snn, custom={"Doubled": Doubled})
    assert not path.exists()
    custom = {"half": reset_to_half, "Doubled": Doubled}
    round_trip(path, snn, custom=custom)
    with pytest.raises(ValueError, match=r"'Doubled'.*custom=.'Doubled'"):
        jaxsnn.load(path, custom={"half": reset_to_half})


@pytest.mark.parametrize("custom", [{"relu": reset_to_half}, {"half": 0.5}, {"": None}])
def test_names_that_cannot_be_given(path, custom):
    with pytest.raises(ValueError, match="custom has"):
        jaxsnn.save(path, small(), custom=custom)


def test_a_traced_network_is_refused(path):
    with pytest.raises(ValueError, match="outside of jit"):
        jax.jit(lambda network: jaxsnn.save(path, network))(small())


@pytest.mark.parametrize("values", [np.ones((3, 2), complex), np.ones((3, 2), ">f4")])
def test_arrays_that_no_file_holds(path, values):
    with pytest.raises(ValueError, match=r"layers\.0.*kernel is an array of"):
        jaxsnn.save(path, Network((Layer((parts.Dense(values),)),), (3,)))


def test_an_unfit_network_is_refused_before_it_is_written(path):
    snn = jaxsnn.balance_thresholds(small(), 1.0)
    with pytest.raises(ValueError, match="must be positive"):
        jaxsnn.save(path, replace(snn, thresholds=[jnp.ones(()), -jnp.ones(())]))
    with pytest.raises(ValueError, match=r"quantize\(\.\.\.\)"):
        jaxsnn.save(path, replace(jaxsnn.quantize(snn), network=snn.network))
    with pytest.raises(ValueError, match="step_sizes have shapes"):
        jaxsnn.save(path, replace(jaxsnn.quantize(snn), step_sizes=[np.ones(5), np.ones(2)]))
    with pytest.raises(ValueError, match="1 amplitudes"):
        jaxsnn.save(path, replace(jaxsnn.quantize(snn), amplitudes=((1,),)))
    assert not path.exists()


# -- Damaged and foreign files ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def snn():
    network = of_model(lambda x: nnx.relu(nnx.relu6(x[:, ::-1] @ KERNEL + 0.5) @ KERNEL), (3,))
    return jaxsnn.balance_thresholds(network, [1.0, np.full(3, 2.0)], **AHEAD)


KERNEL = np.random.default_rng(0).random((3, 3)).astype(np.float32)


def mutated(content, rng):
    """A file with flipped bits, without its end, with other bytes, or with another header."""
    length = int.from_bytes(content[:8], "little")
    changed = bytearray(content)
    kind = rng.integers(6)
    if kind == 0:  # somewhere
        for place in rng.integers(len(content), size=rng.integers(1, 4)):
            changed[place] ^= 1 << rng.integers(8)
    elif kind == 1:  # among the tensors
        changed[rng.integers(8 + length, len(content))] ^= 1 << rng.integers(8)
    elif kind == 2:
        del changed[rng.integers(len(content)) :]
    elif kind == 3:
        changed += rng.bytes(rng.integers(1, 9))
    elif kind == 4:  # a part of the header in the place of another
        start, other = rng.integers(8, 8 + length - 16, size=2)
        size = rng.integers(1, 16)
        changed[start : start + size] = content[other : other + size]
    else:  # another number in the header
        digits = [p for p in range(8, 8 + length) if content[p : p + 1].isdigit()]
        changed[rng.choice(digits)] = ord("0") + rng.integers(10)
    return bytes(changed)


def test_300_mutations_give_an_error_or_the_same_network(path, snn):
    jaxsnn.save(path, snn)
    content, same = path.read_bytes(), 0
    for seed in range(300):
        path.write_bytes(mutated(content, np.random.default_rng(seed)))
        with suppress(ValueError):
            assert_same(jaxsnn.load(path), snn)
            same += 1
    assert same < 50  # such as spaces for spaces


def test_a_file_is_written_alike_each_time_and_stays_whole(path, snn, monkeypatch):
    jaxsnn.save(path, snn)
    content = path.read_bytes()
    jaxsnn.save(path, snn)
    assert path.read_bytes() == content

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="free some space"):
        jaxsnn.save(path, small())
    assert path.read_bytes() == content
    assert list(path.parent.iterdir()) == [path]


def rewritten(path, change):
    """Change a file as its author could, with a right digest."""
    content = path.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    about = json.loads(header["__metadata__"]["jaxsnn"])
    tensors = safetensors.numpy.load(content)
    change(about, tensors)
    about["sha256"] = files._digest(about, tensors)
    path.write_bytes(safetensors.numpy.save(tensors, {"jaxsnn": json.dumps(about)}))


def fields(about, *places):
    """The fields of a part of the network."""
    part = about["network"]
    for place in places:
        part = part["fields"][place] if isinstance(place, str) else part[place]
    return part["fields"]


FIRST = ("network", "layers", 0)
CONNECTION = (*FIRST, "connections", 0)
SELECT = (*CONNECTION, "operations", 0)
DEEP = json.loads("[" * 400 + "]" * 400)
CRAFTED = {
    "a class of Python": (FIRST, "activation", {"class": "os.system", "fields": {}}),
    "a function of Python": ((), "reset", {"function": "eval"}),
    "a function as a class": (FIRST, "activation", {"class": "relu", "fields": {"x": 1}}),
    "a class as a function": ((), "reset", {"function": "Dense"}),
    "a text as a reset": ((), "reset", "eval"),
    "a reset as an activation": (FIRST, "activation", {"function": "reset_to_zero"}),
    "a text as an operation": (CONNECTION, "operations", ["relu"]),
    "a text as a source": (CONNECTION, "source", "0"),
    "a source that is not there": (CONNECTION, "source", 7),
    "no connections": (FIRST, "connections", []),
    "another field": (FIRST, "code", "print()"),
    "places beyond the inputs": (SELECT, "shape", [2]),
    "a text as a shape": (SELECT, "shape", "abc"),
    "a huge input": (FIRST[:1], "input_shape", [1 << 60]),
    "a negative input": (FIRST[:1], "input_shape", [-3]),
    "too few thresholds": ((), "thresholds", {"list": [1.0]}),
    "texts as thresholds": ((), "thresholds", {"list": ["1", "2"]}),
    "a threshold of nan": ((), "thresholds", {"list": [{"float": "nan"}, 1.0]}),
    "no tensor": ((), "thresholds", {"list": [{"array": "code", "of": "jax"}] * 2}),
    "an unknown kind": ((), "thresholds", {"list": [{"array": "thresholds.0", "of": "a"}] * 2}),
    "a number by its name": ((), "thresholds", {"list": [{"float": "1e3"}, 1.0]}),
    "an unknown object": ((), "thresholds", {"import": "os"}),
    "deep nesting": ((), "thresholds", DEEP),
}


@pytest.mark.parametrize("name", CRAFTED)
def test_a_file_made_by_hand_is_no_network(path, snn, name):
    place, field, value = CRAFTED[name]
    jaxsnn.save(path, snn)
    rewritten(path, lambda about, tensors: None)
    assert_same(jaxsnn.load(path), snn)
    rewritten(path, lambda about, tensors: fields(about, *place).update({field: value}))
    with pytest.raises(ValueError, match="cannot be loaded: "):
        jaxsnn.load(path)


def test_other_files_say_what_they_are(path, tmp_path, snn):
    jaxsnn.save(path, snn)
    rewritten(path, lambda about, tensors: about.update(format=2))
    with pytest.raises(ValueError, match=r"format 2.*up to 1: install a newer jaxsnn"):
        jaxsnn.load(path)
    jaxsnn.save(path, snn)
    rewritten(path, lambda about, tensors: about.update(network=1))
    with pytest.raises(ValueError, match="has 1, and no network"):
        jaxsnn.load(path)
    safetensors.numpy.save_file({"a": np.ones(2)}, path)
    with pytest.raises(ValueError, match="not written"):
        jaxsnn.load(path)
    path.write_bytes((1 << 62).to_bytes(8, "little") + bytes(100))
    with pytest.raises(ValueError, match="108 bytes cannot have a header of 4,611"):
        jaxsnn.load(path)
    for other, error in ((tmp_path, ValueError), (tmp_path / "no", FileNotFoundError)):
        with pytest.raises(error, match=str(other)):
            jaxsnn.load(other)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="0 bytes"):
        jaxsnn.load(path)
    with pytest.raises(ValueError, match="no file"):
        jaxsnn.load(Path("/dev/zero"))
