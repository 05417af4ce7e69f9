"""The one error a user is meant to read."""


class OasisVQError(ValueError):
    """Bad input or a missing file: the message is one line that names the thing and the fix."""
