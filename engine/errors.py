"""The exception whose message is for the user."""


class UserError(Exception):
    """A mistake that the user can fix. The message names file and remedy; scripts print it without a traceback."""
