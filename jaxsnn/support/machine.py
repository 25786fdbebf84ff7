"""Versions and machine: what an issue has to say, and what stands beside every figure."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax

_PACKAGES = ("jax", "jaxlib", "flax", "numba", "numpy")


def versions() -> dict[str, Any]:
    """Versions of the packages, and the machine: paste it into an issue.

    Returns:
        processor, number of cores, devices that JAX sees, operating system, and the versions of
        Python, this library and the packages that it computes with.

    Example:
        >>> import jaxsnn
        >>> list(jaxsnn.versions())[:5]
        ['processor', 'cores', 'devices', 'system', 'python']
    """
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "devices": [str(device.device_kind) for device in jax.devices()],
        "system": platform.platform(),
        "python": platform.python_version(),
        "jaxsnn": version("jaxsnn-conversion"),
        **{package: version(package) for package in _PACKAGES},
    }


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
