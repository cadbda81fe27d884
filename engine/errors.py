"""The one exception that is meant for the person at the terminal."""


class UserError(Exception):
    """A mistake the user can mend. The message names the file and the remedy; scripts print it without a traceback."""
