"""Errors whose message is all that a user of the command line sees."""


class InputError(Exception):
    """Bad configuration or bad input: the message is all that a user of the command line sees (exit 2)."""


class DataError(InputError):
    """The data break a check or a contract: the message names it and shows the offending rows (exit 3)."""


class ColumnError(InputError):
    """A configured column is not there, or of a type that its role does not take."""


class BusyError(InputError):
    """Another process is at the same work (exit 5)."""
