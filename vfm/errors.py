"""The error that is meant for the user: its text says what was found, what was expected and what to do."""


class UserError(ValueError):
    """A mistake in a config, a file or a command line; printed as one line, without a traceback."""
