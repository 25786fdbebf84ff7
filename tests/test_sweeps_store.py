"""The files of a sweep: it may be stopped at any moment, and takes no file for another's."""

import errno
import io
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import zlib
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
from jaxsnn.engines import Scan
from jaxsnn.support import errors
from jaxsnn.support import files as whole_files
from jaxsnn.support.digests import digest, fingerprint
from jaxsnn.sweeps import files, store

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
    """A sweep in the scan, whose pieces have several points."""
    options = {"path": path, "memory": memory, "engine": "scan", **(functions or {})}
    return jaxsnn.sweep(*arguments(**changes), **options)


@pytest.fixture
def calls(monkeypatch):
    """A list that gets an entry whenever a piece is simulated."""
    made, simulate_points = [], Scan.simulate_points

    def counted(*arguments, **options):
        made.append(1)
        return simulate_points(*arguments, **options)

    monkeypatch.setattr(Scan, "simulate_points", staticmethod(counted))
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
        "before": (whole_files, "uuid4"),
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
    """The content of all files, and when they were written; locks hold nothing."""
    found = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "lock"]
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in found}


# -- Stopped ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("moment", ["before", "torn", "error", "complete", "after"])
@pytest.mark.thinned(3)
def test_stopped_at_any_write_it_goes_on(tmp_path, calls, whole, moment):
    # The plan, the first piece, the last one of a block, the first one of another, the result.
    for number in (1, 2, 1 + PIECES // 2, 2 + PIECES // 2, PIECES + 2):
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


MANY = {"count": 64, "seed": [0, 1], "threshold": [0.5, 1.0]}  # 256 pieces


def sweep_many(path=None, memory=SMALL):
    """For a process that is killed."""
    return swept(path, memory, **MANY)


@pytest.mark.slow
def test_killed_again_and_again_it_ends_as_if_nothing_had_happened(tmp_path, calls):
    path, rng = tmp_path / "result.nc", np.random.default_rng(1)
    folder = Path(f"{path}.partial")
    code = "import sys, test_sweeps_store as here; here.sweep_many(sys.argv[1])"

    def blocks():
        return {block.name: block.stat().st_mtime_ns for block in folder.glob("block-*.npz")}

    kills = 0
    for delay in rng.uniform(0, 0.1, 3):
        process = subprocess.Popen(
            [sys.executable, "-c", code, path],
            cwd=Path(__file__).parent,
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
    assert kills >= 2
    done = sum(int(np.load(block)["done"]) for block in folder.glob("block-*.npz"))
    assert path.exists() or kills < done < 256
    result = sweep_many(path)
    assert len(calls) in (0, 256 - done)
    assert sorted(tmp_path.iterdir()) == [path]
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
@pytest.mark.thinned(3)
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
@pytest.mark.thinned(3)
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


@pytest.mark.promotes
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
@pytest.mark.thinned(3)
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


# -- Two at once -----------------------------------------------------------------------------------

REFUSED = r"another sweep is writing to .*result\.nc: wait for its end"


@pytest.mark.slow
def test_a_second_sweep_to_a_path_is_refused_while_the_first_runs(tmp_path, whole, monkeypatch):
    """In the same thread, another thread and another process; the result is the first one's."""
    path, simulate_points = tmp_path / "result.nc", Scan.simulate_points
    code = "import sys, test_sweeps_store as here; here.swept(sys.argv[1], 11_000)"
    outcomes = []

    def attempt():
        try:
            outcomes.append(swept(path, 11_000))
        except ValueError as error:
            outcomes.append(str(error))

    def meanwhile(*arguments, **options):
        monkeypatch.setattr(Scan, "simulate_points", staticmethod(simulate_points))
        attempt()
        thread = threading.Thread(target=attempt)
        thread.start()
        thread.join()
        process = subprocess.run(
            [sys.executable, "-c", code, path],
            cwd=Path(__file__).parent,
            stderr=subprocess.PIPE,
            text=True,
        )
        outcomes.append(process.stderr.splitlines()[-1])
        return simulate_points(*arguments, **options)

    monkeypatch.setattr(Scan, "simulate_points", staticmethod(meanwhile))
    xr.testing.assert_equal(swept(path), whole)
    assert len(outcomes) == 3
    for outcome in outcomes:
        assert re.search(REFUSED, outcome)
    assert list(tmp_path.iterdir()) == [path]
    xr.testing.assert_equal(swept(path, 11_000), whole)


def test_opened_by_both_before_either_begins(tmp_path, whole):
    """The second neither mixes its blocks in nor loses what the first has written."""
    path = tmp_path / "result.nc"
    one, other = store.Store(path, {"network": "a"}), store.Store(path, {"network": "a"})
    with one:
        one.begin({"seeds": 1, "rates": 1, "points": 1, "images": 1})
        with pytest.raises(ValueError, match=REFUSED):
            other.__enter__()
        one.save(0, 1, [np.ones(3)])
        one.finish(whole)
        with other:  # which is late: there is the result
            xr.testing.assert_equal(other.result, whole)
    assert list(tmp_path.iterdir()) == [path]


def test_a_plan_that_was_made_in_the_meantime(tmp_path, calls, whole, monkeypatch):
    """Another sweep begins, and is killed, between the first look of this one and its lock."""
    path, enter = tmp_path / "result.nc", store.Store.__enter__

    def late(self):
        monkeypatch.setattr(store.Store, "__enter__", enter)
        begun(path, memory=11_000)
        calls.clear()
        return enter(self)

    monkeypatch.setattr(store.Store, "__enter__", late)
    xr.testing.assert_equal(swept(path, memory=None), whole)
    assert 0 < len(calls) < PIECES  # in the pieces of the other, and those that it kept


def test_a_failed_sweep_leaves_no_lock(tmp_path, whole, monkeypatch):
    path = tmp_path / "result.nc"

    def failing(*_, **__):
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(Scan, "simulate_points", staticmethod(failing))
        with pytest.raises(RuntimeError) as caught:
            swept(path)
    assert caught.tb is not None  # which keeps all frames alive, and the store in them
    xr.testing.assert_equal(swept(path), whole)


# -- Disks -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [1, 3, PIECES + 2], ids=["plan", "piece", "result"])
def test_a_full_disk(tmp_path, calls, whole, number):
    path, written, fsync = tmp_path / "result.nc", [], os.fsync

    def full(descriptor):
        written.append(1)
        if len(written) >= number:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match=r"free some space.*kept: call the sweep again") as caught:
            swept(path)
    assert caught.value.errno == errno.ENOSPC
    assert str(path) in str(caught.value)
    calls.clear()
    xr.testing.assert_equal(swept(path), whole)
    assert len(calls) == PIECES - max(0, number - 2)
    assert list(tmp_path.iterdir()) == [path]


@pytest.fixture
def read_only(monkeypatch):
    """No file can be made, as in a folder that may not be written to, whoever runs the tests."""

    def refused(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(errors, "TemporaryFile", refused)
    monkeypatch.setattr(Path, "mkdir", refused)
    monkeypatch.setattr(Path, "unlink", refused)


def test_a_folder_that_cannot_be_written_to_is_found_out_first(tmp_path, read_only):
    def rule(network):
        raise AssertionError("ran")

    with pytest.raises(OSError, match=r"cannot be written: Read-only.*choose another path"):
        swept(tmp_path / "result.nc", scales=rule)


def test_a_finished_sweep_is_read_in_a_folder_that_cannot_be_written_to(tmp_path, whole, request):
    path = tmp_path / "result.nc"
    swept(path)
    (tmp_path / "result.nc.partial").mkdir()
    (tmp_path / "result.nc.partial" / "lock").touch()  # of one killed while it removed its folder
    request.getfixturevalue("read_only")
    xr.testing.assert_equal(swept(path), whole)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="folders have no such permissions")
def test_a_folder_of_others():
    """The same without any patch, as a user to whom permissions apply."""
    code = "import os, sys; from jaxsnn.sweeps.store import check_path\n"
    code += "os.geteuid() or os.setuid(65534); check_path(sys.argv[1])"
    folder = Path(tempfile.mkdtemp())  # all parents of which others may enter
    folder.chmod(0o555)
    path = folder / "result.nc"
    command = [sys.executable, "-c", code, path]
    process = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    folder.rmdir()
    message = process.stderr.splitlines()[-1]
    assert f"{folder} cannot be written: Permission denied; change its permissions" in message


# -- Any damage ------------------------------------------------------------------------------------


def mutations(good, rng, count):
    """Flipped bits, runs of zeros, missing ends and repeated parts; never the same bytes."""
    for number in range(count):
        content, place = bytearray(good), int(rng.integers(len(good)))
        kind = number % 4
        if kind == 0:
            content[place] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            content[place : place + 64] = bytes(len(content[place : place + 64]))
        elif kind == 2:
            del content[place:]
        else:
            content[place:place] = content[place // 2 : place // 2 + 512]
        if content != good:
            yield bytes(content)


def test_no_mutation_of_a_result_is_read(tmp_path, whole):
    path = tmp_path / "result.nc"
    store.save_sweep(whole, path)
    good, tried = path.read_bytes(), 0
    for content in mutations(good, np.random.default_rng(3), 400):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"result\.nc cannot be read: it"):
            jaxsnn.load_sweep(path)
        tried += 1
    assert tried > 300


@pytest.fixture(scope="module")
def half(tmp_path_factory):
    """A sweep of two blocks and more that was stopped, its path and what its blocks hold."""
    path = tmp_path_factory.mktemp("half") / "result.nc"
    folder = begun(path, pieces=5)
    kept = store.Store(path, json.loads((folder / "sweep.json").read_text())["identity"])
    blocks = [kept.load(number) for number in range(len(list(folder.glob("block-*"))))]
    assert len(blocks) == 2
    return path, kept, blocks


def same(one, other):
    return one[0] == other[0] and all(map(np.array_equal, one[1], other[1]))


def test_no_mutation_of_a_piece_is_read(half):
    path, kept, _ = half
    block = Path(f"{path}.partial") / "block-00000.npz"
    good = block.read_bytes()
    try:
        for content in mutations(good, np.random.default_rng(4), 200):
            block.write_bytes(content)
            with pytest.raises(ValueError, match=r"block-00000\.npz is damaged .*; delete it"):
                kept.load(0)
    finally:
        block.write_bytes(good)


def test_no_block_counts_in_the_place_of_another(half, tmp_path):
    path, kept, blocks = half
    one, other = (Path(f"{path}.partial") / f"block-{number:05}.npz" for number in range(2))
    good = one.read_bytes(), other.read_bytes()
    another = begun(tmp_path / "another.nc", memory=11_000) / "block-00000.npz"  # another plan
    others = begun(tmp_path / "others.nc", threshold=1.0) / "block-00000.npz"
    try:
        for first, second in (good[1:] * 2, good[:1] * 2, good[::-1]):
            one.write_bytes(first)
            other.write_bytes(second)
            for number, right in enumerate((first == good[0], second == good[1])):
                if right:
                    assert same(kept.load(number), blocks[number])
                    continue
                with pytest.raises(ValueError, match=r"is damaged .its checksum is wrong"):
                    kept.load(number)
        for wrong in (another, others):
            one.write_bytes(wrong.read_bytes())
            with pytest.raises(ValueError, match=r"is damaged .its checksum is wrong"):
                kept.load(0)
    finally:
        one.write_bytes(good[0])
        other.write_bytes(good[1])


def test_no_mutation_of_a_plan_is_followed(half):
    path, kept, _ = half
    plan = Path(f"{path}.partial") / "sweep.json"
    good = plan.read_bytes()
    edited = []
    for name, value in kept.plan.items():
        for new in (value + 2, 0, -1, 10**12, 1e300, None, "1", [1], True, float("nan")):
            content = json.loads(good)
            content["plan"][name] = new
            edited.append(json.dumps(content).encode())
    edited += [b"[" * 100_000, b"9" * 10_000, b"\xff\xfe", b"null"]
    read = 0
    try:
        for content in (*edited, *mutations(good, np.random.default_rng(5), 200)):
            plan.write_bytes(content)
            try:
                found = store.Store(path, kept.identity)
            except ValueError as error:
                assert "delete it" in str(error)  # noqa: PT017
            else:  # spaces, or a digit that was doubled into the same
                assert found.plan == kept.plan
                read += 1
    finally:
        plan.write_bytes(good)
    assert read < 20


def test_a_plan_with_a_right_digest_that_makes_no_sense(half):
    """As someone could write it who knows how."""
    path, kept, _ = half
    plan = Path(f"{path}.partial") / "sweep.json"
    good = plan.read_bytes()
    try:
        for name, value in (("seeds", 0), ("points", -1), ("images", 1.5), ("rates", True)):
            content = json.loads(good)
            content["plan"][name] = value
            content["digest"] = store._digest_of(content["identity"], content["plan"])
            plan.write_text(json.dumps(content))
            with pytest.raises(ValueError, match=r"sweep\.json is damaged .its plan is"):
                store.Store(path, kept.identity)
    finally:
        plan.write_bytes(good)


# -- Of attackers ----------------------------------------------------------------------------------


def chunk(file, name, shape, inflated):
    """A chunk whose compressed bytes are not of its own size."""
    options = dict(chunks=shape, compression="gzip", dtype="f8")
    file.create_dataset(name, shape, **options).id.write_direct_chunk(
        (0,) * len(shape), zlib.compress(bytes(inflated))
    )


def repeated_text(file, count, size):
    """Small files can be large texts: one text that is named many times."""
    file.create_dataset("long", (count,), h5py.string_dtype(), fillvalue=b"a" * size)


BOMBS = {
    "declared": (
        lambda file: file.create_dataset("a", (1 << 32,), "f8", chunks=(1 << 20,)),
        "take 34,3.* bytes or more, but a file of .* may hold",
    ),
    "compressed": (
        lambda file: file.create_dataset(
            "a", data=np.zeros((1 << 20, 16)), chunks=(1 << 16, 16), compression="gzip"
        ),
        "take 1.* bytes or more, but a file of .* may hold",
    ),
    "in a chunk": (
        lambda file: file.create_dataset("a", (1,), "f8", maxshape=(None,), chunks=(1 << 26,)),
        "take 53.* bytes or more, but a file of .* may hold",
    ),
    "inflated": (lambda file: chunk(file, "a", (8,), 1 << 24), "inflates to more than its size"),
    "texts": (lambda file: repeated_text(file, 1 << 12, 1 << 15), "bytes or more"),
    "many texts": (lambda file: repeated_text(file, 1 << 20, 1), "1,048,576 texts"),
    "attribute": (
        lambda file: file.attrs.create("a", ["x" * 9] * 999, dtype=h5py.string_dtype()),
        "attribute 'a' is no number",
    ),
    "external": (
        lambda file: file.create_dataset("a", (8,), "u1", external=[(b"/etc/passwd", 0, 8)]),
        "values of 'a' lie in other files",
    ),
    "virtual": (lambda file: file.create_virtual_dataset("a", layout()), "lie in other files"),
    "link out": (
        lambda file: file.__setitem__("a", h5py.ExternalLink("other.nc", "/a")),
        "'a' is no variable but a ExternalLink",
    ),
    "soft link": (lambda file: file.__setitem__("a", h5py.SoftLink("/b")), "a SoftLink"),
    "group": (lambda file: file.create_group("a"), "a Group"),
    "filter": (
        lambda file: file.create_dataset("a", (8,), "f8", chunks=(8,), compression="lzf"),
        "compressed in a way that sweeps are not",
    ),
    "type": (lambda file: file.create_dataset("a", (8,), h5py.vlen_dtype("f8")), "nor texts"),
}


def layout():
    found = h5py.VirtualLayout((8,), "u1")
    found[:] = h5py.VirtualSource("other.h5", "a", (8,))
    return found


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("name", BOMBS)
def test_files_that_reach_beyond_themselves(tmp_path, whole, name, verify, monkeypatch):
    """With a right checksum, which says nothing about who wrote it."""
    make, message = BOMBS[name]
    path = tmp_path / "result.nc"
    whole.to_netcdf(path, engine="h5netcdf")
    with h5py.File(path, "a") as file:
        make(file)
    content = path.read_bytes()
    assert len(content) < 1 << 20
    with path.open("wb") as file:
        files.write_with_checksum(file, content)
    monkeypatch.setattr(xr, "load_dataset", None)  # nothing is read
    with pytest.raises(ValueError, match=message):
        jaxsnn.load_sweep(path, verify=verify)


def test_compressed_sweeps_are_read(tmp_path, whole):
    data = whole.copy(deep=True)
    for name in data.data_vars:
        data[name].encoding = {"zlib": True, "shuffle": True, "fletcher32": True}
    store.save_sweep(data, tmp_path / "result.nc")
    xr.testing.assert_equal(jaxsnn.load_sweep(tmp_path / "result.nc"), whole)


def test_what_is_no_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "result.nc")
    with pytest.raises(ValueError, match="is no file"):
        jaxsnn.load_sweep(tmp_path / "result.nc")


# -- Values ----------------------------------------------------------------------------------------


def test_best_within_a_time_that_the_sweep_does_not_have(whole):
    with pytest.raises(ValueError, match=r"time=10 s, but the sweep ends after 0\.012 s"):
        jaxsnn.best(whole, time=10)  # meant as milliseconds
    assert jaxsnn.best(whole, time=0.012).time.item() <= 0.012
    assert jaxsnn.best(whole, time=12 * 0.001).time.item() <= 0.012


@pytest.mark.parametrize("name", ["accuracy", "time", "synaptic_operations"])
def test_best_of_what_is_no_sweep(whole, name):
    with pytest.raises(ValueError, match=f"data is no sweep: .* but not {name}"):
        jaxsnn.best(whole.drop_vars(name))


@pytest.mark.parametrize("memory", [float("nan"), -1, 0])
def test_memory_that_is_none(memory):
    with pytest.raises((ValueError, TypeError), match="memory"):
        swept(memory=memory)


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


@pytest.mark.promotes
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


@pytest.mark.slow
def test_fingerprints_agree_between_processes():
    done = subprocess.run(
        [sys.executable, "-c", "import test_sweeps_store as here; print(*here.fingerprints())"],
        cwd=Path(__file__).parent,
        env={**os.environ, "PYTHONHASHSEED": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == fingerprints()
