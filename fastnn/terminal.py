"""Lines on a terminal: text that came from files is shown, never obeyed."""

import sys
import unicodedata

_JOINERS = "\u200c\u200d"  # within the words of some scripts, and within emoji
_CONTROL = {"Cc", "Cf", "Cs", "Zl", "Zp"}  # categories of Unicode


def printable(text: str) -> str:
    r"""Return text with every character escaped that a terminal acts on instead of showing it.

    These are control characters, with tabs and line ends, and the marks that change the direction
    of writing. They are written as in Python: ``\n``, ``\x1b``, ``\u202e``.

    Examples
    --------
    >>> print(printable("naïve.npz\x1b[2J\n"))
    naïve.npz\x1b[2J\n
    """
    if text.isprintable():
        return text
    return "".join(_escaped(character) for character in text)


def _escaped(character: str) -> str:
    if unicodedata.category(character) not in _CONTROL or character in _JOINERS:
        return character
    return character.encode("unicode_escape").decode()


def print_line(text: str = "", *, error: bool = False) -> None:
    """Print one line, whatever is in the text, on standard output or error; send it at once."""
    stream = sys.stderr if error else sys.stdout
    if stream is not None:
        print(printable(text), file=stream, flush=True)
