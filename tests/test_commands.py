"""`python -m jaxsnn sweep` and `plot`, with a short training."""

import errno
import os

import numpy as np
import pytest
import xarray as xr

import jaxsnn
from jaxsnn.__main__ import main
from jaxsnn.paper import reproduce
from jaxsnn.paper import sweep_command as commands
from jaxsnn.paper.pretrained import trained_network
from jaxsnn.support import errors
from jaxsnn.support.warn import warn

pytestmark = [pytest.mark.promotes, pytest.mark.slow]


@pytest.fixture(scope="module")
def swept(tmp_path_factory, short_commands):
    """Folder, arguments and file of a sweep that was done."""
    folder = tmp_path_factory.mktemp("sweep")
    arguments = ["sweep", "--network", "fc", "--images", "20", "--duration", "0.012"]
    arguments += ["--threshold", "0.25", "0.5", "--max-rate", "1000", "500", "--percentile", "99"]
    arguments += ["--reset", "zero", "subtraction"]
    arguments += ["--output", str(folder / "result.nc"), "--cache", str(folder / "cache")]
    main(arguments)
    return folder, arguments


def test_sweep(swept, capsys):
    folder, arguments = swept
    data = jaxsnn.load_sweep(folder / "result.nc")
    sizes = {"scales": 2, "threshold": 2, "max_rate": 2, "reset": 2, "time": 12, "seed": 1}
    assert {name: data.sizes[name] for name in sizes} == sizes
    assert data.scales.values.tolist() == ["data-based", "percentile 99.0"]
    assert float(data.accuracy.max()) > 0.8
    written = (folder / "result.nc").stat().st_mtime_ns
    main(arguments)  # it is done, and read from the file
    assert (folder / "result.nc").stat().st_mtime_ns == written
    printed = capsys.readouterr().out
    assert "Sweeping over 16 points and 20 images" in printed
    rows = [line.split("|")[1].strip() for line in printed.splitlines() if line.startswith("|")]
    assert rows[2:] == ["6", "10", "12"]
    best = jaxsnn.best(data, time=0.01)
    assert f"{100 * best.accuracy.item():.5g}" in printed


def test_sweep_in_fixed_point(swept):
    """The events from the command line, and the scan from Python."""
    folder, _ = swept
    arguments = ["sweep", "--network", "fc", "--images", "20", "--duration", "0.012", "--bits", "8"]
    arguments += ["--threshold", "0.25", "--max-rate", "1000", "--cache", str(folder / "cache")]
    main([*arguments, "--output", str(folder / "fixed.nc")])
    found = jaxsnn.load_sweep(folder / "fixed.nc").squeeze()
    train, test = commands.load_dataset("mnist", data_dir=None, archives=None)
    network = trained_network("fc-modern", train, cache=folder / "cache")
    grid = jaxsnn.Grid(scales=found.scale_factor.values, threshold=0.25, duration=0.012)
    options = dict(arithmetic=jaxsnn.FixedPoint(8), engine="scan")
    scan = jaxsnn.sweep(network, test.images[:20], test.labels[:20], grid, **options).squeeze()
    for name in ("accuracy", "spikes", "input_spikes", "synaptic_operations", "undecided"):
        np.testing.assert_array_equal(found[name], scan[name])
    assert found.accuracy[-1] > 0.8


def test_fixed_point_for_more_steps_than_usual(swept):
    """The potentials' bound follows the duration; there is no argument for it."""
    folder, _ = swept
    arguments = ["sweep", "--network", "fc", "--images", "2", "--duration", "1.1", "--bits", "8"]
    arguments += ["--threshold", "0.25", "--max-rate", "1000", "--cache", str(folder / "cache")]
    main([*arguments, "--output", str(folder / "long.nc")])
    data = jaxsnn.load_sweep(folder / "long.nc")
    assert data.sizes["time"] == 1100
    assert "steps=1100" in data.arithmetic


def full_after(monkeypatch, writes):
    """A disk that is full after so many writes."""
    fsync, written = os.fsync, []

    def full(descriptor):
        written.append(1)
        if len(written) > writes:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)


@pytest.mark.slow
def test_sweep_on_a_full_disk(swept, tmp_path, monkeypatch):
    _, arguments = swept
    arguments = [*arguments, "--output", str(tmp_path / "full.nc")]
    with monkeypatch.context() as patch:
        full_after(patch, 2)
        with pytest.raises(SystemExit, match=r"full\.nc cannot be written: No space left .* kept"):
            main(arguments)
    assert len(list((tmp_path / "full.nc.partial").glob("block-*.npz"))) == 1
    main(arguments)
    xr.testing.assert_equal(
        jaxsnn.load_sweep(tmp_path / "full.nc"), jaxsnn.load_sweep(swept[0] / "result.nc")
    )


def test_plot_on_a_full_disk(swept, tmp_path, monkeypatch):
    (tmp_path / "result-curves.png").write_text("an earlier figure")
    full_after(monkeypatch, 1)
    with pytest.raises(SystemExit, match=r"result-curves\.png cannot be written: No space left"):
        main(["plot", str(swept[0] / "result.nc"), "--output", str(tmp_path)])
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["result-curves.png", "result-map.png"]
    assert (tmp_path / "result-curves.png").read_text() == "an earlier figure"


def test_plot_without_a_checksum(swept, tmp_path):
    path = tmp_path / "by-hand.nc"
    jaxsnn.load_sweep(swept[0] / "result.nc").to_netcdf(path, engine="h5netcdf")
    with pytest.raises(SystemExit, match=r"no checksum .*--no-verify"):
        main(["plot", str(path)])
    main(["plot", str(path), "--no-verify"])
    assert (tmp_path / "by-hand-map.png").exists()


@pytest.mark.parametrize("command", ["sweep", "plot", "reproduce"])
def test_no_file_can_be_made(swept, tmp_path, command, monkeypatch):
    """Known before data are loaded or a network is trained."""

    def refused(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    for module in (commands, reproduce):
        monkeypatch.setattr(module, "load_dataset", None)
    monkeypatch.setattr(errors, "TemporaryFile", refused)
    file = [str(swept[0] / "result.nc")] if command == "plot" else []
    with pytest.raises(SystemExit, match=r"cannot be written: Read-only .* choose another path"):
        main([command, *file, "--output", str(tmp_path / "result.nc")])


def test_plot(swept, tmp_path, capsys):
    folder, _ = swept
    main(["plot", str(folder / "result.nc"), "--output", str(tmp_path / "pictures")])
    names = sorted(path.name for path in (tmp_path / "pictures").iterdir())
    assert names == ["result-curves.png", "result-front.png", "result-map.png"]
    for path in (tmp_path / "pictures").iterdir():
        assert path.read_bytes().startswith(b"\x89PNG")
    best = jaxsnn.best(jaxsnn.load_sweep(folder / "result.nc")).reset.item()
    assert f"reset: only {best} drawn; choose with --select reset=..." in capsys.readouterr().out
    chosen = ["reset=subtraction", "max_rate=500", "max_rate=1000", "scales=data-based"]
    main(["plot", str(folder / "result.nc"), "--select", *chosen])
    assert "only" not in capsys.readouterr().out
    main(["plot", str(folder / "result.nc"), "--x", "color", "--output", str(tmp_path / "two")])
    assert "No map: 'color' is not a dimension" in capsys.readouterr().out
    assert len(list((tmp_path / "two").iterdir())) == 2
    assert (folder / "result-map.png").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sweep", "--images", "0"], "images=0"),
        (["sweep", "--max-rate", "2000"], "max_rate=2000 Hz"),
        (["sweep", "--threshold"], "threshold is empty"),
        (["sweep", "--seed", "1", "1"], "seed has 1 twice"),
        (["sweep", "--seed", "-1"], r"seed=-1; a seed is at least 0 and below 2\*\*32"),
        (["sweep", "--bits", "8", "--duration", "1100"], "1,100,000 steps .* a shorter duration"),
        (["sweep", "--percentile", "101"], "percentile=101"),
        (["sweep", "--percentile", "99", "99"], "percentile=.99.0, 99.0. has a value twice"),
        (["sweep", "--reset", "zero", "zero"], "reset=.* twice"),
        (["sweep", "--output", "no/such/folder/x.nc"], "no/such/folder is no folder"),
        (["sweep", "--memory", "10"], "memory=10 bytes"),
        (["sweep", "--archives", "no/such/folder"], "no/such/folder"),
        (["plot", "no/such/file.nc"], "no/such/file.nc does not exist"),
        (["plot", __file__], "cannot be read"),
        (["plot", "."], "is no file"),
    ],
)
def test_bad_arguments(arguments, message, tmp_path, monkeypatch, swept):
    folder, _ = swept
    monkeypatch.chdir(tmp_path)
    cache = ["--cache", str(folder / "cache")] if arguments[0] == "sweep" else []
    with pytest.raises(SystemExit, match=message):
        main([*arguments, *cache])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--x", "color", "--along", "color"], "no figure can be drawn; name its parameters"),
        (["--select", "color=red"], "the parameters are"),
        (["--select", "reset=none"], "reset has the values .'zero', 'subtraction'."),
    ],
)
def test_bad_pictures(options, message, swept):
    with pytest.raises(SystemExit, match=message):
        main(["plot", str(swept[0] / "result.nc"), *options])


def test_the_file_is_that_of_python(swept):
    """What the command line does is what a few lines do."""
    folder, _ = swept
    data = jaxsnn.load_sweep(folder / "result.nc")
    train, test = commands.load_dataset("mnist", data_dir=None, archives=None)
    network = trained_network("fc-modern", train, cache=folder / "cache")
    scales = jaxsnn.data_based_scales(network, train.images)
    grid = jaxsnn.Grid(scales=scales, threshold=0.5, max_rate=500.0, duration=0.012)
    one = jaxsnn.sweep(network, test.images[:20], test.labels[:20], grid)
    point = data.sel(scales="data-based", threshold=0.5, max_rate=500.0, reset="zero").squeeze()
    np.testing.assert_allclose(point.accuracy, one.accuracy, atol=0.051)  # an image of 20
    np.testing.assert_array_equal(point.input_spikes, one.input_spikes)


def test_warnings_are_printed_without_the_line_of_code(monkeypatch, capsys):
    def warning() -> None:
        """A command."""
        warn("no output neuron has spiked.")

    monkeypatch.setattr("jaxsnn.__main__.plot_sweep", warning)
    main(["plot"])
    assert capsys.readouterr().err == "jaxsnn: no output neuron has spiked.\n"
