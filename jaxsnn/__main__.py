"""The command line: `python -m jaxsnn convert`, `reproduce`, `few-steps`, `sweep`, `plot`."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence

import tyro
from tqdm import tqdm

from jaxsnn.convert_command import convert_model
from jaxsnn.datasets import DatasetError
from jaxsnn.paper.few_steps import few_steps
from jaxsnn.paper.reproduce import reproduce
from jaxsnn.paper.sweep_command import plot_sweep, sweep_network
from jaxsnn.support.errors import UsageError


def main(arguments: Sequence[str] | None = None, *, prog: str = "python -m jaxsnn") -> None:
    """Run a command; errors of arguments, data and files are printed without a traceback."""
    commands = {
        "convert": convert_model,
        "reproduce": reproduce,
        "few-steps": few_steps,
        "sweep": sweep_network,
        "plot": plot_sweep,
    }
    with warnings.catch_warnings():
        warnings.showwarning = _without_line
        try:
            tyro.extras.subcommand_cli_from_dict(
                commands, prog=prog, args=arguments, description=__doc__
            )
        except (DatasetError, UsageError, OSError) as error:
            sys.exit(f"jaxsnn: {error}")


def _without_line(message: Warning | str, *_: object, **__: object) -> None:
    """Print a warning as a command does; where it arose in the code is of no use there."""
    tqdm.write(f"jaxsnn: {message}", file=sys.stderr)


def script() -> None:
    """What the installed script `jaxsnn-convert` calls."""
    main(prog="jaxsnn-convert")


if __name__ == "__main__":
    main()
