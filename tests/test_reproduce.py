"""The command line, with short trainings."""

import errno
import json
import os

import numpy as np
import pandas as pd
import pytest

from jaxsnn.__main__ import main

pytestmark = pytest.mark.promotes


@pytest.fixture(scope="module")
def reproduction(tmp_path_factory, short_commands):
    folder = tmp_path_factory.mktemp("reproduction")
    arguments = ["reproduce", "--images", "200", "--networks", "fc"]
    arguments += ["--output", str(folder / "results"), "--cache", str(folder / "cache")]
    main(arguments)
    return folder / "results", arguments


def test_table(reproduction):
    results, _ = reproduction
    table = pd.read_csv(results / "table.csv")
    assert table["conversion"].tolist() == ["unnormalised", "model-based", "data-based", "convert"]
    assert {"6 ms", "10 ms", "20 ms", "40 ms", "100 ms"} <= set(table.columns)
    assert "500 ms" not in table.columns
    data_based = table.iloc[2]
    assert data_based["ReLU"] > 0.9
    assert data_based["100 ms"] > 0.9
    assert 0 < data_based["first spike"] <= 1
    assert 1 <= data_based["median latency (ms)"] <= 100
    assert table.iloc[3]["6 ms"] > 0.9  # the settings of today are early


def test_results_say_where_they_come_from(reproduction):
    results, _ = reproduction
    content = json.loads((results / "results.json").read_text())
    assert content["settings"]["images"] == 200
    assert content["machine"]["jax"]
    curve = content["accuracy"]["FullyConnected"]["data-based"]
    assert len(curve) == len(content["times"]) == 100
    table = pd.read_csv(results / "table.csv")
    assert curve[39] == pytest.approx(table.iloc[2]["40 ms"])


def test_pictures(reproduction):
    results, _ = reproduction
    names = ("accuracy", "raster-FullyConnected", "rates-FullyConnected")
    for name in names:
        assert (results / f"{name}.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_second_run_takes_the_network_from_the_cache(reproduction, capsys):
    results, arguments = reproduction
    cached = {path: path.stat().st_mtime_ns for path in results.parent.glob("cache/**/*")}
    before = json.loads((results / "results.json").read_text())["table"]
    main(arguments)
    printed = capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in cached} == cached
    assert len(list(results.parent.glob("cache/**/*"))) == len(cached)
    assert "| FullyConnected | data-based" in printed
    after = json.loads((results / "results.json").read_text())["table"]
    np.testing.assert_equal(after, before)


@pytest.mark.slow
def test_fixed_point(reproduction, tmp_path):
    results, arguments = reproduction
    main([*arguments, "--bits", "8", "--output", str(tmp_path)])
    content = json.loads((tmp_path / "results.json").read_text())
    assert "bits=8" in content["settings"]["arithmetic"]
    fixed, floats = (pd.read_csv(folder / "table.csv") for folder in (tmp_path, results))
    assert not fixed.equals(floats)
    np.testing.assert_allclose(fixed["100 ms"], floats["100 ms"], atol=0.02)


def test_a_full_disk(reproduction, tmp_path, capsys, monkeypatch):
    """What was written is whole, and what was simulated is printed."""
    _, arguments = reproduction
    fsync, written = os.fsync, []

    def full(descriptor):
        written.append(1)
        if len(written) > 4:  # the three files of the first conversion, and a table
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SystemExit, match=r"results\.json cannot be written: No space left"):
        main([*arguments, "--output", str(tmp_path)])
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "accuracy.png", "results.json", "table.csv",
    ]  # fmt: skip
    assert len(json.loads((tmp_path / "results.json").read_text())["table"]) == 1
    assert "| FullyConnected | model-based" in capsys.readouterr().out


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit, match=r"file cannot be written: .*; choose another path"):
        main(["reproduce", "--output", str(tmp_path / "file")])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--images", "0"], "images=0"),
        (["--images", "10001"], "images=10001"),
        (["--seed", "-1"], r"seed=-1; a seed is at least 0 and below 2\*\*32"),
        (["--seed", str(1 << 32)], "seed=4294967296"),
        (["--networks"], "no network"),
        (["--archives", "no/such/folder"], "no/such/folder"),
    ],
)
def test_bad_arguments(arguments, message, tmp_path):
    with pytest.raises(SystemExit, match=message):
        main(["reproduce", *arguments, "--output", str(tmp_path)])
