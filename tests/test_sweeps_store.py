"""The files of a sweep: it may be stopped at any moment, and takes no file for another's."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
from jax import lax

import jaxsnn
from jaxsnn import readout
from jaxsnn.digests import digest, fingerprint
from jaxsnn.sweeps import files, program, store

import models

STEPS = 12
GRID = {"scales": {"one": 1.0, "two": 2.0}, "threshold": 0.5, "duration": STEPS * 1e-3}
SMALL = 10_000  # bytes: one point, two images
PIECES = 6


def arguments(count=6, changed=None, **settings):
    """Network, images, labels and grid: the same in all processes, but for what is changed."""
    rng = np.random.default_rng(20150712)
    weights = models.dense_weights(rng)
    images, labels = models.dyadic_images(rng, count, 12), rng.integers(0, 4, count)
    parts = {"network": (weights[1], 1), "images": (images, 1), "labels": (labels, 3)}
    if changed:
        array, top = parts[changed]
        array.flat[5] = top - array.flat[5]
    network = jaxsnn.read_network(models.dense_function(weights), images)
    return network, images, labels, jaxsnn.Grid(**{**GRID, **settings})


def swept(path=None, memory=SMALL, functions=None, **changes):
    return jaxsnn.sweep(*arguments(**changes), path=path, memory=memory, **(functions or {}))


@pytest.fixture
def calls(monkeypatch):
    """A list that gets an entry whenever a piece is simulated."""
    made, run_piece = [], program._run_piece

    def counted(*arguments, **options):
        made.append(1)
        return run_piece(*arguments, **options)

    monkeypatch.setattr(program, "_run_piece", counted)
    return made


@pytest.fixture(scope="module")
def whole():
    """The result of a sweep that is never stopped and keeps no files."""
    data = swept()
    assert float(data.spikes.isel(layer=-1).max()) > 0
    assert len(np.unique(data.spikes)) > STEPS
    return data


def stop_at(patch, moment, number):
    """Stop at the write of this number; unless an error, as if killed: nothing is cleaned up."""
    where, name = {
        "before": (store, "uuid4"),
        "torn": (os, "fsync"),
        "error": (os, "fsync"),
        "complete": (os, "replace"),
        "after": (os, "replace"),
    }[moment]
    write, writes = getattr(where, name), []

    def stopping(*arguments, **options):
        writes.append(1)
        if len(writes) != number:
            return write(*arguments, **options)
        if moment in ("torn", "error"):
            os.ftruncate(arguments[0], os.fstat(arguments[0]).st_size // 2)
        if moment == "after":
            write(*arguments)
        raise KeyboardInterrupt

    patch.setattr(where, name, stopping)
    if moment != "error":
        patch.setattr(Path, "unlink", lambda *arguments, **options: None)


def begun(path, pieces=3, **options):
    """A sweep that was stopped after so many pieces."""
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, "after", 1 + pieces)
        with pytest.raises(KeyboardInterrupt):
            swept(path, **options)
    return Path(f"{path}.partial")


def by_h5py(path):
    """All numbers of a file, without netCDF."""
    with h5py.File(path) as file:
        return {name: file[name][()] for name in ("accuracy", "spikes")}


def everything_in(folder):
    """The content of all files, and when they were written."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


# -- Stopped ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("moment", ["before", "torn", "error", "complete", "after"])
def test_stopped_at_any_write_it_goes_on(tmp_path, calls, whole, moment):
    for number in range(1, PIECES + 3):  # the plan, the pieces, the result
        folder = tmp_path / str(number)
        folder.mkdir()
        path = folder / "result.nc"
        with pytest.MonkeyPatch.context() as patch:
            stop_at(patch, moment, number)
            with pytest.raises(KeyboardInterrupt):
                swept(path)
        left = list(folder.rglob("*.unfinished"))
        assert len(left) == (moment in ("torn", "complete"))
        kept = min(number - (moment != "after"), PIECES + 1) - 1  # the first write was the plan
        calls.clear()
        xr.testing.assert_equal(swept(path), whole)
        done = moment == "after" and number == PIECES + 2
        assert len(calls) == (0 if done else PIECES - max(kept, 0))
        assert list(folder.iterdir()) == [path]


def test_what_is_not_of_a_sweep_is_not_touched(tmp_path):
    path = tmp_path / "result.nc"
    (tmp_path / "result.nc.partial").mkdir()
    thesis = tmp_path / "result.nc.partial" / "thesis.txt"
    thesis.write_text("all of it")
    with pytest.raises(ValueError, match=r"thesis.txt is of no sweep; move it"):
        swept(path)
    assert thesis.read_text() == "all of it"


def test_a_rule_is_not_run_for_a_path_that_cannot_be():
    def rule(network):
        raise AssertionError("ran")

    with pytest.raises(ValueError, match="no/such/folder is no folder"):
        swept("no/such/folder/result.nc", scales=rule)


def test_stopped_while_it_removes_the_pieces(tmp_path, calls, whole, monkeypatch):
    path = tmp_path / "result.nc"

    unlink, removed = Path.unlink, []

    def half(file, **options):
        if path.exists():
            if removed:
                raise KeyboardInterrupt
            removed.append(file)
        unlink(file, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", half)
        with pytest.raises(KeyboardInterrupt):
            swept(path)
    assert len(list(Path(f"{path}.partial").iterdir())) > 0
    calls.clear()
    xr.testing.assert_equal(swept(path), whole)
    assert calls == []
    assert list(tmp_path.iterdir()) == [path]


MANY = {"count": 64, "seed": [0, 1, 2, 3], "threshold": [0.5, 1.0]}  # 512 pieces


def sweep_many(path=None, memory=SMALL):
    """For a process that is killed."""
    return swept(path, memory, **MANY)


def test_killed_again_and_again_it_ends_as_if_nothing_had_happened(tmp_path, calls):
    path, rng = tmp_path / "result.nc", np.random.default_rng(1)
    folder = Path(f"{path}.partial")
    cache = {
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    code = "import sys, test_sweeps_store as here; here.sweep_many(sys.argv[1])"

    def blocks():
        return {block.name: block.stat().st_mtime_ns for block in folder.glob("block-*.npz")}

    kills = 0
    for delay in rng.uniform(0, 0.1, 5):
        process = subprocess.Popen(
            [sys.executable, "-c", code, path],
            cwd=Path(__file__).parent,
            env={**os.environ, **cache},
        )
        try:
            before, deadline = blocks(), time.monotonic() + 60
            while blocks() == before:
                assert process.poll() is None, "the sweep ended before it could be killed"
                assert time.monotonic() < deadline
                time.sleep(0.001)
            time.sleep(delay)
        finally:
            process.send_signal(signal.SIGKILL)
            ended = process.wait()
        if path.exists():
            break
        assert ended == -signal.SIGKILL
        kills += 1
    assert kills >= 3
    done = sum(int(np.load(block)["done"]) for block in folder.glob("block-*.npz"))
    assert path.exists() or kills < done < 512
    result = sweep_many(path)
    assert len(calls) in (0, 512 - done)
    assert sorted(tmp_path.iterdir()) == [tmp_path / "cache", path]
    xr.testing.assert_equal(result, sweep_many(memory=None))


# -- Found again -----------------------------------------------------------------------------------


def test_a_finished_sweep_is_only_read(tmp_path, calls, whole):
    path = tmp_path / "result.nc"
    swept(path)
    before = everything_in(tmp_path)
    calls.clear()
    xr.testing.assert_equal(swept(path), whole)
    assert calls == []
    assert everything_in(tmp_path) == before


def test_a_path_from_the_home_folder(tmp_path, calls, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    one = swept("~/result.nc")
    assert [path.name for path in tmp_path.iterdir()] == ["result.nc"]
    calls.clear()
    xr.testing.assert_equal(swept("~/result.nc"), one)
    assert calls == []


def test_the_file_is_as_readable_as_others(tmp_path):
    swept(tmp_path / "result.nc")
    (tmp_path / "other").touch()
    assert (tmp_path / "result.nc").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_what_others_are_writing_is_left_alone(tmp_path):
    for name in ("result.nc-2.abcdefgh.unfinished", "result.nc-notes.unfinished"):
        (tmp_path / name).touch()
    swept(tmp_path / "result.nc")
    assert len(list(tmp_path.iterdir())) == 3


def test_saved_and_loaded(tmp_path):
    grid = {
        "scales": {"λ": 1.0, "model": jaxsnn.model_based_scales},
        "threshold": {"low": 0.5, "rising": [0.5, 1.0, 2.0], "never": 1e6},
        "reset": [jaxsnn.reset_to_zero, jaxsnn.reset_by_subtraction],
        "seed": [3],
        "duration": [0.002, 0.012],
    }
    made = swept(tmp_path / "result.nc", memory=None, **grid)
    assert np.isnan(made.first_spike_latency).any()
    loaded = jaxsnn.load_sweep(tmp_path / "result.nc")
    assert set(loaded.attrs) - set(made.attrs) == {"identity"}
    xr.testing.assert_identical(loaded.drop_attrs(deep=False), made.drop_attrs(deep=False))
    assert {name: loaded.attrs[name] for name in made.attrs} == made.attrs
    store.save_sweep(made, tmp_path / "by-hand.nc")
    xr.testing.assert_identical(jaxsnn.load_sweep(tmp_path / "by-hand.nc"), made)


def test_a_file_without_a_checksum(tmp_path, whole):
    path = tmp_path / "by-hand.nc"
    whole.to_netcdf(path, engine="h5netcdf")
    with pytest.raises(ValueError, match=r"no checksum at its end; .* choose verify=False"):
        jaxsnn.load_sweep(path)
    xr.testing.assert_identical(jaxsnn.load_sweep(path, verify=False), whole)


@pytest.mark.parametrize("read", [xr.load_dataset, by_h5py], ids=["xarray", "h5py"])
def test_others_read_a_file_with_its_checksum(tmp_path, whole, read):
    store.save_sweep(whole, tmp_path / "result.nc")
    assert b"sha256 of all bytes before" in (tmp_path / "result.nc").read_bytes()[-105:]
    found = read(tmp_path / "result.nc")
    np.testing.assert_array_equal(found["accuracy"], whole["accuracy"])
    np.testing.assert_array_equal(found["spikes"], whole["spikes"])


# -- Another memory --------------------------------------------------------------------------------


@pytest.mark.parametrize("memory", [None, 11_000, 1_000_000])
def test_another_memory_does_not_change_the_plan(tmp_path, calls, whole, memory):
    path = tmp_path / "result.nc"
    begun(path)
    calls.clear()
    xr.testing.assert_equal(swept(path, memory), whole)
    assert len(calls) == PIECES - 3


def test_too_little_memory_for_the_plan(tmp_path, whole):
    path = tmp_path / "result.nc"
    begun(path, memory=SMALL)
    before = everything_in(tmp_path)
    with pytest.raises(ValueError, match=r"memory=9000 bytes, but .* begun in pieces of \d+"):
        swept(path, memory=9_000)  # enough for one image
    assert everything_in(tmp_path) == before
    xr.testing.assert_equal(swept(path), whole)


# -- Of another sweep ------------------------------------------------------------------------------

OTHERS = {
    "network": {"changed": "network"},
    "images": {"changed": "images"},
    "labels": {"changed": "labels"},
    "scales": {"scales": {"one": 1.0, "two": 4.0}},
    "threshold": {"threshold": 1.0},
    "max_rate": {"max_rate": 500.0},
    "seed": {"seed": 1},
    "dt, duration": {"dt": 5e-4},
    "duration": {"duration": 0.011},
    "refractory_period": {"refractory_period": 3e-3},
    "reset": {"reset": jaxsnn.reset_by_subtraction},
    "encoding": {"functions": {"encode": jaxsnn.constant}},
    "readout": {"functions": {"read": readout.membrane_potential}},
    # The same under other names.
    "scales ": {"scales": {"one": 1.0, "three": 2.0}},
    "threshold ": {"threshold": {"half": 0.5}},
    "reset ": {"reset": {"zero": jaxsnn.reset_to_zero}},
}


@pytest.fixture(scope="module")
def finished_and_begun(tmp_path_factory):
    folder = tmp_path_factory.mktemp("earlier")
    swept(folder / "finished.nc")
    begun(folder / "begun.nc")
    return folder


@pytest.mark.parametrize("differing", OTHERS)
def test_the_files_of_another_sweep_are_refused(finished_and_begun, differing, calls):
    before = everything_in(finished_and_begun)
    for name, what in (("finished.nc", "finished.nc"), ("begun.nc", "begun.nc.partial")):
        with pytest.raises(ValueError, match="another path, or delete it") as caught:
            swept(finished_and_begun / name, **OTHERS[differing])
        message = str(caught.value)
        assert message.startswith(str(finished_and_begun / what) + " belongs to")
        assert f"with other {differing.strip()};" in message
    assert calls == []
    assert everything_in(finished_and_begun) == before


@pytest.mark.parametrize("name", jaxsnn.Grid(scales=1.0).axes)
def test_one_value_is_not_a_sequence_of_one(tmp_path, name):
    """The results have other dimensions."""
    value = {"scales": jaxsnn.model_based_scales, "reset": jaxsnn.reset_to_zero, "seed": 0}
    value = value.get(name, 1e-3)
    one = swept(tmp_path / "result.nc", **{name: value})
    assert name not in one.dims
    with pytest.raises(ValueError, match=f"other {name};"):
        swept(tmp_path / "result.nc", **{name: [value]})


def convolution(padding=(1, 1), dilation=1):
    """The output has the shape of the input."""
    kernel = np.arange(9, dtype=np.float32).reshape(3, 3, 1, 1) / 8
    return lambda x: lax.conv_general_dilated(
        x, kernel, (1, 1), (padding, padding), rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )  # fmt: skip


def pooling(padding):
    def pool(x):
        return lax.reduce_window(x, 0.0, lax.add, (1, 2, 2, 1), (1, 1, 1, 1), padding) / 4

    return pool


def multiplication(*shape):
    factor = np.arange(1, 5, dtype=np.float32).reshape(shape) / 4
    return lambda x: x * factor


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (convolution((1, 1)), convolution((2, 0))),
        (convolution((1, 1)), convolution((2, 2), dilation=2)),
        (pooling([(0, 0), (1, 0), (1, 0), (0, 0)]), pooling([(0, 0), (0, 1), (0, 1), (0, 0)])),
        (multiplication(4, 1, 1), multiplication(1, 4, 1)),
    ],
    ids=["padding", "dilation", "pooling", "factors"],
)
def test_networks_of_the_same_weights_and_shapes_are_told_apart(tmp_path, one, other):
    images, grid = np.full((2, 4, 4, 1), 0.5, np.float32), jaxsnn.Grid(scales=1.0, duration=1e-3)

    def sweep_with(operation):
        def model(x):
            return jax.nn.relu(operation(x).reshape(len(x), -1))

        network = jaxsnn.read_network(model, images)
        return jaxsnn.sweep(network, images, [0, 1], grid, path=tmp_path / "result.nc")

    sweep_with(one)
    with pytest.raises(ValueError, match="other network;"):
        sweep_with(other)


def test_scale_factors_of_channels_are_told_apart(tmp_path):
    kernel, images = np.ones((2, 2), np.float32), np.ones((2, 2), np.float32)
    network = jaxsnn.read_network(
        lambda x: jax.nn.relu(jax.nn.relu(x @ kernel) @ kernel), np.zeros((1, 2), np.float32)
    )
    path = tmp_path / "result.nc"

    def sweep_with(scales):
        grid = jaxsnn.Grid(scales={"mine": scales}, duration=1e-3)
        return jaxsnn.sweep(network, images, [0, 1], grid, path=path)

    sweep_with([np.array([1.0, 2.0]), 4.0])
    with pytest.raises(ValueError, match="other scales;"):
        sweep_with([1.0, np.array([2.0, 4.0])])


def test_scale_factors_of_channels_need_no_name():
    scales = [np.full(20, 2.0), 1.0, 4.0]
    xr.testing.assert_equal(
        swept(memory=None, scales=scales),
        swept(memory=None, scales={"given": scales}).isel(scales=0),
    )


# -- Damaged ---------------------------------------------------------------------------------------


def assert_refused(path, damaged):
    """An error that names the damaged file and what to do, and everything left as it was."""
    before = everything_in(path.parent)
    with pytest.raises(ValueError, match=r"delete|choose another") as caught:
        swept(path)
    assert str(damaged) in str(caught.value)
    assert everything_in(path.parent) == before


def curve(**attrs):
    """What the functions for sweeps need, and no more."""
    variables = {name: ("time", [1.0]) for name in ("accuracy", "synaptic_operations")}
    return xr.Dataset(variables, {"time": [0.001]}, attrs)


def test_a_damaged_result(tmp_path, whole):
    path = tmp_path / "result.nc"
    swept(path)
    good = path.read_bytes()
    for content in (b"", b"no netCDF", *(good[:length] for length in (1, 100, len(good) // 2, -1))):
        path.write_bytes(content)
        assert_refused(path, path)
    path.unlink()
    xr.testing.assert_equal(swept(path), whole)


@pytest.mark.parametrize(
    "data",
    [
        xr.Dataset({"a": 1}),
        xr.Dataset({"accuracy": ("time", [1.0])}),
        curve(),
        curve(identity="{"),
        curve(identity="[]"),
        curve(identity="[" * 100_000),
        curve(identity=1),
    ],
    ids=["no sweep", "half", "no identity", "half an identity", "a list", "lists", "a number"],
)
def test_a_result_of_others(tmp_path, data):
    store.save_sweep(data, tmp_path / "result.nc")
    assert_refused(tmp_path / "result.nc", tmp_path / "result.nc")


def test_a_folder_in_the_place_of_the_result(tmp_path):
    (tmp_path / "result.nc").mkdir()
    assert_refused(tmp_path / "result.nc", tmp_path / "result.nc")


def test_a_path_in_no_folder(tmp_path):
    with pytest.raises(ValueError, match="is no folder; make it, or choose another path"):
        swept(tmp_path / "none" / "result.nc")
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_piece(tmp_path, whole):
    path = tmp_path / "result.nc"
    block = begun(path) / "block-00000.npz"
    good = block.read_bytes()
    for content in (b"", b"no zip", *(good[:length] for length in (1, 100, len(good) // 2, -1))):
        block.write_bytes(content)
        assert_refused(path, block)
    with block.open("wb") as file:
        np.savez(file, np.zeros(3))
    assert_refused(path, block)
    for save in (np.savez_compressed, np.savez):  # with a right checksum, as of an attacker
        content = io.BytesIO()
        save(content, np.zeros(3))
        kept = store.Store(path, json.loads((block.parent / "sweep.json").read_text())["identity"])
        with block.open("wb") as file:
            files.write_with_checksum(file, content.getvalue(), kept._place(0))
        assert_refused(path, block)
    block.unlink()
    xr.testing.assert_equal(swept(path), whole)


def test_no_damaged_byte_of_a_piece_goes_unseen(tmp_path):
    path = tmp_path / "result.nc"
    folder = begun(path)
    block, identity = folder / "block-00000.npz", json.loads((folder / "sweep.json").read_text())
    kept = store.Store(path, identity["identity"])
    (done, arrays), good, errors = kept.load(0), block.read_bytes(), 0
    for place in range(0, len(good), 7):
        block.write_bytes(good[:place] + bytes([good[place] ^ 0x5A]) + good[place + 1 :])
        try:
            found = kept.load(0)
        except ValueError as error:
            found = str(error)
        if isinstance(found, str):
            assert str(block) in found
            errors += 1
        else:  # a byte that means nothing, such as of the time of day
            assert found[0] == done
            for one, other in zip(arrays, found[1], strict=True):
                np.testing.assert_array_equal(one, other)
    assert errors > len(good) / 14


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "null", "{}", '{"identity": {}}', '{"identity": [], "plan": {}}', "plan"],
)
def test_a_damaged_plan(tmp_path, content):
    path = tmp_path / "result.nc"
    plan = begun(path) / "sweep.json"
    if content == "plan":
        content = json.dumps({**json.loads(plan.read_text()), "plan": {"seeds": 1}})
    plan.write_text(content)
    assert_refused(path, plan.parent)


def test_pieces_without_a_plan_are_not_taken_for_those_of_another(tmp_path, whole):
    """As when a damaged plan has been deleted, and the next sweep is another or cut otherwise."""
    for number, changes in enumerate(({"threshold": 1.0}, {"memory": 11_000})):
        path = tmp_path / f"{number}.nc"
        (begun(path, **changes) / "sweep.json").unlink()
        xr.testing.assert_equal(swept(path), whole)


# -- Digests ---------------------------------------------------------------------------------------


def test_digests_tell_arrays_apart():
    a, b, c = np.arange(6.0), np.arange(3.0), np.arange(3.0, 6.0)
    parts = [(a,), (b, c), (c, b), (a.reshape(2, 3),), (a.astype(np.float32),), (a[::-1],), ()]
    parts += [("ab", "c"), ("a", "bc"), ("abc",)]
    assert len({digest(*part) for part in parts}) == len(parts)
    assert digest(a, "b") == digest(a.copy(), "b") == digest(np.repeat(a, 2)[::2], "b")
    types = [jnp.bfloat16, jnp.float16, jnp.float32, jnp.int8]
    assert len({digest(jnp.ones(4, dtype)) for dtype in types}) == len(types)


def of_jax(wrap):
    """Functions that do something with their constant inside another function of JAX."""

    def make(constant):
        return lambda x: wrap(lambda y: y + jnp.sum(constant), x)

    return make


def with_custom_derivative(function, x):
    function = jax.custom_jvp(function)
    function.defjvps(lambda tangent, answer, x: tangent)
    return function(x)


CLOSURES = {
    "plain": of_jax(lambda function, x: function(x)),
    "jit": of_jax(lambda function, x: jax.jit(function)(x)),
    "custom_jvp": of_jax(with_custom_derivative),
    "scan": of_jax(lambda function, x: lax.scan(lambda c, _: (function(c), None), x, None, 2)[0]),
    "cond": of_jax(lambda function, x: lax.cond(x[0] > 0, function, jnp.negative, x)),
    "checkpoint": of_jax(lambda function, x: jax.checkpoint(function)(x)),
    "within two": of_jax(lambda function, x: jax.jit(lambda y: jax.jit(function)(y))(x)),
}
CONSTANTS = {
    "float": (1.0, 1.0000001192092896),
    "numpy": (np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0, 4.0])),
    "jax": (jnp.array([1.0, 2.0, 3.0]), jnp.array([1.0, 2.0, 4.0])),
    "large": (np.zeros(3000), np.eye(1, 3000, 1500)[0]),
    "bfloat16": (jnp.ones(3, jnp.bfloat16), jnp.zeros(3, jnp.bfloat16)),
}


@pytest.mark.parametrize("constants", CONSTANTS)
@pytest.mark.parametrize("closure", CLOSURES)
def test_functions_with_other_constants_have_other_fingerprints(closure, constants):
    make, (one, other), x = CLOSURES[closure], CONSTANTS[constants], jnp.zeros(3)
    assert fingerprint(make(one), x) == fingerprint(make(one), x)
    assert fingerprint(make(one), x) != fingerprint(make(other), x)


def test_functions_with_keys_have_fingerprints():
    def noise(seed):
        key = jax.random.key(seed)
        return lambda x: x + jax.random.uniform(key, x.shape)

    assert fingerprint(noise(0), jnp.zeros(3)) == fingerprint(noise(0), jnp.zeros(3))
    assert fingerprint(noise(0), jnp.zeros(3)) != fingerprint(noise(1), jnp.zeros(3))


def fingerprints():
    """Of functions of all kinds, one of which is printed with its address."""
    x, output = jnp.zeros((1, 3)), readout.Output(*jnp.zeros((2, 1, 3)), jnp.ones(()), jnp.zeros(1))
    callback = of_jax(lambda function, x: jax.pure_callback(np.negative, x, x))
    found = [
        *(
            fingerprint(encode, jax.random.key(0), x)
            for encode in (jaxsnn.poisson, jaxsnn.constant)
        ),
        *(fingerprint(r, x, x, x) for r in (jaxsnn.reset_to_zero, jaxsnn.reset_by_subtraction)),
        *(fingerprint(r, output) for r in (readout.spike_count, readout.membrane_potential)),
        *(fingerprint(make(CONSTANTS["numpy"][0]), x[0]) for make in CLOSURES.values()),
        fingerprint(callback(1.0), x),
        fingerprint(jax.nn.relu, x),
    ]
    assert len(set(found)) == len(found)
    return found


def test_fingerprints_agree_between_processes():
    code = "import test_sweeps_store as here; print(*here.fingerprints())"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=Path(__file__).parent,
            env={**os.environ, "PYTHONHASHSEED": seed},
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in "12"
    ]
    printed = [process.communicate(timeout=120)[0].split() for process in processes]
    assert printed == [fingerprints()] * 2
