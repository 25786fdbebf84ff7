"""Trained networks in the cache: what is noticed before hours of training."""

from types import SimpleNamespace

import numpy as np
import pytest

from jaxsnn.paper import training
from jaxsnn.paper.pretrained import kept_in, trained_network

TRAIN = SimpleNamespace(images=np.zeros((8, 28, 28, 1), np.float32), labels=np.arange(8))


@pytest.fixture(autouse=True)
def untrained(monkeypatch):
    """No training begins."""

    def fit(*arguments, **options):
        raise AssertionError("trained before the arguments were checked")

    monkeypatch.setattr(training, "fit", fit)


def test_a_cache_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(NotADirectoryError) as caught:
        trained_network("fc-modern", TRAIN, cache=tmp_path / "file")
    for expected in [str(kept_in("fc-modern", cache=tmp_path / "file")), "cannot be", "cache="]:
        assert expected in str(caught.value)


@pytest.mark.parametrize("seed", [-1, 1 << 32, 1 << 40])
def test_a_seed_out_of_range_is_named(tmp_path, seed):
    with pytest.raises(ValueError, match=f"seed={seed}"):
        trained_network("fc-modern", TRAIN, seed=seed, cache=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_a_cache_from_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert kept_in("fc-modern", cache="~/nets").is_relative_to(tmp_path / "nets")
