r"""What does the compiler for TPUs make of the scan? Without a TPU: nothing is run.

Compiles the scan of the fully connected network for a TPU v5e ahead of time, and reads from the
optimised program how many kernels a step launches, and XLA's own estimate of its cycles. The
estimate is a cost model, not a measurement.

    python -m venv tpu && source tpu/bin/activate
    python -m pip install libtpu -e .
    TPU_SKIP_MDS_QUERY=1 TPU_WORKER_HOSTNAMES=localhost JAX_PLATFORMS=cpu \
        python benchmarks/accelerators.py
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import tyro
from flax import nnx
from jax.experimental import topologies

import jaxsnn
from jaxsnn import encoding, neurons, readout
from jaxsnn.engines import Run, scan
from jaxsnn.engines.base import Behaviour, initial_state
from jaxsnn.engines.scan.lowering import fastest_formats
from jaxsnn.paper.reproduce import machine

VARIANTS = [("float32", 1), ("float32", 8), ("8 bits", 1), ("8 bits", 8)]
KERNELS = "fusion|copy|add|broadcast|reshape|concatenate|custom-call|convolution|reduce"


def compiled(arithmetic: str, batch: int, chunk: int, steps: int) -> str:
    """The optimised program of the scan for one chip of a TPU v5e."""
    model = jaxsnn.networks.FullyConnected(rngs=nnx.Rngs(0))
    model.eval()
    network = jaxsnn.read_network(model, jnp.zeros((1, 28, 28, 1)))
    snn: Any = jaxsnn.balance_thresholds(network, 1.0)
    if arithmetic != "float32":
        snn = jaxsnn.quantize(snn, bits=8)
    behaviour = Behaviour(
        encoding.poisson, neurons.reset_to_zero, neurons.heaviside, readout.spike_count
    )
    pixels = jnp.zeros((batch, *network.input_shape))
    keys, samples = jnp.zeros((batch, 2), jnp.uint32), np.arange(batch)
    run = Run(snn, pixels, keys, samples, 1000.0, 1e-3, steps, 0, None, behaviour)
    topology = topologies.get_topology_desc(
        platform="tpu", topology_name="v5e:1x1x1", chips_per_host_bounds=(1, 1, 1)
    )
    sharding = jax.sharding.SingleDeviceSharding(topology.devices[0])

    def shape(x: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(np.shape(x), jnp.asarray(x).dtype, sharding=sharding)

    given = jax.tree.map(shape, (snn.bare(), run.probabilities, keys, initial_state(run)))
    options = {"steps": steps, "chunk": chunk, "formats": fastest_formats(snn)}
    return scan.program(behaviour).lower(*given, None, None, **options).compile().as_text()


def kernels(program: str) -> Iterator[tuple[str, int, int]]:
    """Each kernel of a program: its line, XLA's estimate of cycles, how often it is launched."""
    found: dict[str, list[str]] = {}
    name = None
    for line in program.splitlines():
        begins = re.match(r"^(?:ENTRY )?%([\w.\-]+) \(", line)
        if begins and line.rstrip().endswith("{"):
            name = begins.group(1)
            found[name] = []
        elif line.startswith("}"):
            name = None
        elif name:
            found[name].append(line)

    def walk(part: str, times: int) -> Iterator[tuple[str, int, int]]:
        for line in found[part]:
            if " while(" in line:
                body, condition = (
                    re.search(rf"{role}=%([\w.\-]+)", line).group(1)
                    for role in ("body", "condition")
                )
                inner = list(found[condition])
                for called in re.findall(r"calls=%([\w.\-]+)", "\n".join(inner)):
                    inner += found[called]
                trips = max(map(int, re.findall(r"constant\((\d+)\)", "\n".join(inner))))
                yield from walk(body, times * trips)
            elif re.match(rf"\s*(?:ROOT )?%[\w.\-]+ = .*? (?:{KERNELS})\(", line):
                cycles = re.search(r'estimated_cycles":"(\d+)', line)
                if cycles and int(cycles.group(1)):
                    yield line, int(cycles.group(1)), times

    entry = next(part for part in found if part.startswith("main"))
    yield from walk(entry, 1)


def main(
    batch: int = 256,
    steps: int = 104,
    output: Path = Path(__file__).parent / "results" / "accelerators.json",
) -> None:
    """Compile the variants, and count.

    Args:
        batch: the number of samples.
        steps: the number of steps, a multiple of 8.
        output: the file for the results.
    """
    jax.default_backend = lambda: "tpu"  # what the library asks to choose formats
    rows = []
    for arithmetic, chunk in VARIANTS:
        program = compiled(arithmetic, batch, chunk, steps)
        launched = list(kernels(program))
        rows.append(
            {
                "arithmetic": arithmetic,
                "chunk": chunk,
                "kernels per step": round(sum(t for _, _, t in launched) / steps, 1),
                "estimated cycles per step": round(sum(c * t for _, c, t in launched) / steps),
            }
        )
    versions = {name: version(name) for name in ("jaxlib", "libtpu")}
    results = {"machine": machine() | versions, "batch": batch, "steps": steps, "table": rows}
    output.write_text(json.dumps(results, indent=1) + "\n")
    print(pd.DataFrame(rows).to_markdown(index=False))


if __name__ == "__main__":
    tyro.cli(main)
