"""Errors of which a user of the command line sees only the message."""


class InputError(Exception):
    """Bad configuration or bad input (exit 2)."""


class DataError(InputError):
    """The data break a check or a contract, which the message names with the offending rows (exit 3)."""


class ColumnError(InputError):
    """A configured column is missing, or its type does not suit its role."""


class BusyError(InputError):
    """Another process is doing the same work (exit 5)."""
