"""The one error a user is meant to read."""


class OasisVQError(ValueError):
    """Bad input or a missing file: the message is one line that names the thing and the fix."""


_LONGEST = 160  # characters of somebody else's words in a message of ours


def one_line(said: object) -> str:
    """The first line of what an error or a stranger says, short and printable: pages and terminals show it."""
    first = (str(said).splitlines() or [type(said).__name__])[0]
    return "".join(letter if letter.isprintable() else "?" for letter in first[:_LONGEST])
