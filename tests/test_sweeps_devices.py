"""Sweeps on several devices and from several processes: the same result, to the last bit."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import xarray as xr

import jaxsnn
from jaxsnn.engines import Scan
from jaxsnn.sweeps import run

import models

STEPS = 12
MANY_POINTS = {"scales": {"one": 1.0, "two": 2.0}, "threshold": [0.5, 1.0, 2.0]}
MANY_POINTS["refractory_period"] = [0.0, 3e-3]  # 12 points for one seed and rate
THREE_POINTS = {"scales": 1.0, "threshold": [0.5, 1.0, 2.0], "max_rate": 500.0, "seed": 3}


def arguments(build, batch, settings):
    """Network, images, labels and grid; the same in all processes."""
    rng = np.random.default_rng(20150712)
    network, _ = build(rng)
    images = models.dyadic_images(rng, batch, *network.input_shape)
    labels = rng.integers(0, network.shapes[-1][0], batch)
    axes = {"max_rate": [1000.0, 500.0], "seed": [0, 7], **settings}
    return network, images, labels, jaxsnn.Grid(**axes, duration=STEPS * 1e-3)


DENSE = models.dense_network, 11, MANY_POINTS
CONVOLUTIONS = models.convolution_network, 5, {**MANY_POINTS, "seed": 0}
FEW = models.dense_network, 2, THREE_POINTS  # fewer points and images than devices


def start(call, devices):
    """Another process, which has so many devices and calls a function of this file."""
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    return subprocess.Popen(
        [sys.executable, "-c", f"import test_sweeps_devices as here; here.{call}"],
        cwd=Path(__file__).parent,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait(*processes, timeout):
    """Until they end well."""
    try:
        for process in processes:
            shown, _ = process.communicate(timeout=timeout)
            assert process.returncode == 0, shown
    finally:
        for process in processes:
            process.kill()
            process.wait()


# -- One process -----------------------------------------------------------------------------------


def assert_mesh_does_not_matter(case, shapes, memory):
    network, images, labels, grid = arguments(*case)
    devices = np.asarray(jax.devices())
    assert len(devices) == 8

    def swept(points, along):
        used = devices[: points * along].reshape(points, along)
        mesh = jax.sharding.Mesh(used, ("points", "images"))
        return jaxsnn.sweep(network, images, labels, grid, memory=memory, mesh=mesh)

    one = swept(1, 1)
    assert float(one.spikes.isel(layer=-1).max()) > 0
    assert len(np.unique(one.spikes)) > STEPS
    for shape in shapes:
        xr.testing.assert_equal(swept(*shape), one)
    assert run._default_mesh(len(images)).devices.size == 8
    xr.testing.assert_equal(jaxsnn.sweep(network, images, labels, grid), one)


def check_meshes():
    """In a process with 8 devices."""
    shapes = [(2, 1), (1, 2), (2, 4), (8, 1), (1, 8)]
    assert_mesh_does_not_matter(DENSE, shapes, memory=150_000)
    assert_mesh_does_not_matter(CONVOLUTIONS, [(2, 4)], memory=None)
    assert_mesh_does_not_matter(FEW, [(8, 1), (2, 4)], memory=None)


@pytest.mark.slow
def test_the_mesh_does_not_matter():
    wait(start("check_meshes()", 8), timeout=300)


# -- Two processes ---------------------------------------------------------------------------------

STOPPED_AFTER = 3  # pieces


def count_calls(patch, stop_after=None):
    """Keep a list of the calls of the program, and stop after so many."""
    calls, simulate_points = [], Scan.simulate_points

    def counted(*arguments, **options):
        if len(calls) == stop_after:
            raise KeyboardInterrupt
        calls.append(1)
        return simulate_points(*arguments, **options)

    patch.setattr(Scan, "simulate_points", staticmethod(counted))
    return calls


def sweep_as_one_of_two(process, port, folder):
    """In each of two processes with 2 devices; only the first is told where the files are."""
    jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=process)
    assert len(jax.devices()) == 4 > len(jax.local_devices())
    seen = Path(folder) if process == 0 else Path(folder) / "no folder"
    results = Path(folder) / f"process-{process}"

    def swept(name, case=DENSE, **options):
        with pytest.MonkeyPatch.context() as patch:
            calls = count_calls(patch)
            data = jaxsnn.sweep(*arguments(*case), path=seen / name, **options)
            data.attrs["calls"] = len(calls)
            return data

    # The same program in all of these, which compiles once.
    for name in ("fresh", "begun"):
        swept(f"{name}.nc").to_netcdf(results / f"{name}.nc", engine="h5netcdf")
    swept("fresh.nc").to_netcdf(results / "again.nc", engine="h5netcdf")
    for name in ("another.nc", "broken.nc", "begun-broken.nc"):
        with pytest.raises(ValueError, match="delete it") as caught:
            swept(name)
        (results / f"{name}.txt").write_text(str(caught.value))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", full if process == 0 else None)
        with pytest.raises(OSError, match="no space left"):
            swept("full.nc")
    swept("full.nc").to_netcdf(results / "full.nc", engine="h5netcdf")
    assert not (Path(folder) / "no folder").exists()


def full(*_):
    """In place of os.replace."""
    raise OSError("no space left")


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """The folder in which two processes have swept, and the result of one process."""
    folder = tmp_path_factory.mktemp("two")
    (folder / "process-0").mkdir()
    (folder / "process-1").mkdir()
    options = dict(memory=60_000, engine="scan")
    with pytest.MonkeyPatch.context() as patch:
        calls = count_calls(patch)
        one = jaxsnn.sweep(*arguments(*DENSE), **options)
        assert len(calls) > 2 * STOPPED_AFTER
        one.attrs["calls"] = len(calls)
    for name in ("begun.nc", "begun-broken.nc"):
        with pytest.MonkeyPatch.context() as patch:
            count_calls(patch, STOPPED_AFTER)
            with pytest.raises(KeyboardInterrupt):
                jaxsnn.sweep(*arguments(*DENSE), path=folder / name, **options)
    block = next((folder / "begun-broken.nc.partial").glob("block-*"))
    block.write_bytes(block.read_bytes()[:-100])
    jaxsnn.sweep(*arguments(*FEW), path=folder / "another.nc")
    (folder / "broken.nc").write_bytes(b"no netCDF")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    calls = [f"sweep_as_one_of_two({process}, {port}, {str(folder)!r})" for process in range(2)]
    wait(*(start(call, 2) for call in calls), timeout=300)
    return folder, one


def results(folder, name):
    """What the two processes got."""
    return [xr.load_dataset(folder / f"process-{process}" / name) for process in range(2)]


@pytest.mark.slow
def test_two_processes_get_what_one_gets(two):
    folder, one = two
    first, second = results(folder, "fresh.nc")
    xr.testing.assert_equal(first, one)
    xr.testing.assert_identical(second, first)
    xr.testing.assert_equal(jaxsnn.load_sweep(folder / "fresh.nc"), one)
    assert first.devices.startswith("4 x")


@pytest.mark.slow
def test_two_processes_go_on_where_one_was(two):
    folder, one = two
    for data in results(folder, "begun.nc"):
        xr.testing.assert_equal(data, one)
        assert data.calls == one.calls - STOPPED_AFTER
    assert not (folder / "begun.nc.partial").exists()


@pytest.mark.slow
def test_two_processes_read_a_finished_file(two):
    folder, one = two
    for data in results(folder, "again.nc"):
        xr.testing.assert_equal(data, one)
        assert data.calls == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["another.nc", "broken.nc", "begun-broken.nc"])
def test_errors_of_the_first_process_are_raised_in_both(two, name):
    folder, _ = two
    first, second = (
        (folder / f"process-{process}" / f"{name}.txt").read_text() for process in range(2)
    )
    assert first == second
    assert str(folder / name) in first


@pytest.mark.slow
def test_a_full_disk_stops_both_processes_and_both_go_on(two):
    folder, one = two
    for data in results(folder, "full.nc"):
        xr.testing.assert_equal(data, one)
