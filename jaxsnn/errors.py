"""Errors of the command line, which are shown without a traceback."""


class UsageError(ValueError):
    """An argument that cannot be served; the message names the remedy."""
