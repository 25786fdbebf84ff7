"""The spikes of version 0.4.0, before its structure was changed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import golden


@pytest.mark.parametrize("as_users", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_spikes_are_those_of_before(as_users):
    """Also where XLA optimises, as it does for users."""
    expected = json.loads(Path(golden.__file__).with_suffix(".json").read_text())
    environment = os.environ | {"JAX_NUMPY_DTYPE_PROMOTION": "strict"}
    environment["JAX_NUMPY_RANK_PROMOTION"] = "raise"
    if as_users:
        del environment["XLA_FLAGS"]
    command = [sys.executable, golden.__file__]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert json.loads(run.stdout) == expected
    assert len(expected) == 27
