"""A run in another process: with several devices, and numbers of 64 bits."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np


def integers_of(run):
    """All integers of a run, which are the same in any process."""
    leaves = jax.tree.leaves((run.predictions, run.spike_counts, run.state))
    leaves = [np.asarray(leaf) for leaf in leaves]
    return {str(i): leaf for i, leaf in enumerate(leaves) if leaf.dtype.kind == "i"}


def call_with_8_devices(call, *, timeout):
    """Run Python beside the tests, in a process with 8 devices and numbers of 64 bits."""
    done = subprocess.run(
        [sys.executable, "-c", call],
        cwd=Path(__file__).parent,
        env={
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "JAX_ENABLE_X64": "1",
            "XLA_FLAGS": os.environ["XLA_FLAGS"] + " --xla_force_host_platform_device_count=8",
            "PYTHONPATH": os.pathsep.join(sys.path),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stdout
