"""The command for a few steps, with short trainings."""

import json

import numpy as np
import pandas as pd
import pytest

import jaxsnn
from jaxsnn.__main__ import main
from jaxsnn.paper import few_steps

pytestmark = pytest.mark.promotes


@pytest.fixture
def small_data(short_commands, monkeypatch):
    train, test = jaxsnn.load_dataset("mnist")
    few = jaxsnn.Dataset(train.images[:6300], train.labels[:6300])
    monkeypatch.setattr(few_steps, "load_dataset", lambda *_, **__: (few, test))
    monkeypatch.setattr(few_steps, "_HELD_OUT", 300)


@pytest.mark.slow
def test_every_method_and_number_of_steps(small_data, short_recipes, tmp_path, capsys):
    arguments = ["few-steps", "--networks", "fc", "--steps", "2", "--images", "200"]
    main([*arguments, "--output", str(tmp_path / "a"), "--cache", str(tmp_path / "cache")])
    results = json.loads((tmp_path / "a" / "results.json").read_text())
    rows = pd.DataFrame(results["rows"])
    assert results["settings"] == {"steps": 2, "seeds": [0], "images": 200, "dt": 1e-3}
    assert results["machine"]["jax"]
    for name, method in few_steps.METHODS.items():
        assert tuple(rows[rows["method"] == name]["steps"]) == method.shown
    # After the shortest training, none of them is as bad as the paper's setting in eight steps.
    paper = rows[rows["method"] == "the paper's"]
    last = rows[(rows["steps"] == 8) & (rows["method"] != "the paper's")]
    assert (last["accuracy"] > 0.7).all()
    assert (last["accuracy"] > paper["accuracy"].iloc[0]).all()
    assert (np.diff(paper["operations"]) > 0).all()
    table = pd.read_csv(tmp_path / "a" / "table.csv")
    np.testing.assert_allclose(table["accuracy"], rows["accuracy"])
    assert (tmp_path / "a" / "accuracy-per-operation.png").read_bytes().startswith(b"\x89PNG")
    assert "| FullyConnected | calibrated" in capsys.readouterr().out
    assert len(list((tmp_path / "cache" / "few-steps").rglob("fc-*-seed0"))) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", "0"], "steps=0; there must be at least 1"),
        (["--seeds"], "no seed chosen"),
        (["--networks"], "no network chosen"),
        (["--seeds", "0", "-1"], "seed=-1"),
        (["--images", "0"], "images=0"),
    ],
)
def test_bad_arguments(arguments, message, tmp_path):
    with pytest.raises(SystemExit, match=message):
        main(["few-steps", *arguments, "--output", str(tmp_path)])
