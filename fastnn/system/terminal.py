"""Print lines on a terminal, with control characters of text from files escaped."""

import sys
import unicodedata

_JOINERS = "\u200c\u200d"  # used within words of some scripts and within emoji
_CONTROL = {"Cc", "Cf", "Cs", "Zl", "Zp"}  # categories of Unicode


def printable(text: str) -> str:
    r"""Return text with control characters escaped, so that a terminal does not obey them.

    Tabs, line ends and marks that change the direction of writing are escaped as well, as in
    Python's literals: ``\n``, ``\x1b``, ``\u202e``.

    Examples
    --------
    >>> print(printable("naïve.npz\x1b[2J\n"))
    naïve.npz\x1b[2J\n
    """
    if text.isprintable():
        return text
    return "".join(_escape(character) for character in text)


def _escape(character: str) -> str:
    if unicodedata.category(character) not in _CONTROL or character in _JOINERS:
        return character
    return character.encode("unicode_escape").decode()


def print_line(text: str = "", *, error: bool = False) -> None:
    """Print text as one line on standard output or standard error, and flush it."""
    stream = sys.stderr if error else sys.stdout
    if stream is not None:
        print(printable(text), file=stream, flush=True)
