"""The spikes of version 0.4.0, before its structure was changed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import golden


def test_the_spikes_are_those_of_before():
    expected = json.loads(Path(golden.__file__).with_suffix(".json").read_text())
    as_users_compile = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    as_users_compile |= {"JAX_NUMPY_DTYPE_PROMOTION": "strict", "JAX_NUMPY_RANK_PROMOTION": "raise"}
    command = [sys.executable, golden.__file__]
    run = subprocess.run(command, env=as_users_compile, capture_output=True, text=True, check=True)
    assert json.loads(run.stdout) == expected
    assert len(expected) == 27
