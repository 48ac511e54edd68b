"""Download files from mirrors: each file completely and verified, or not at all.

Size and time are limited. Bytes are stored as they are received: a ``Content-Encoding`` is not
decoded.
"""

import hashlib
import queue
import sys
import threading
import time
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from fastnn.errors import DataError
from fastnn.system.files import write_atomically

if TYPE_CHECKING:
    from rich.progress import Progress

STALL_LIMIT = 10.0  # seconds to wait for the next PIECE bytes
TOTAL_LIMIT = 1800.0  # seconds for a file
REACH_LIMIT = 4.0  # seconds for all mirrors together to answer, unless the caller is patient
PIECE = 1 << 13  # bytes
_UNPACKED_LIMIT = 1 << 26  # bytes; more than any file of a data set


class Remote(NamedTuple):
    """A gzipped file on a mirror: its size in bytes, and the SHA-256 (hex) of its content."""

    size: int
    sha256: str


class DownloadError(DataError):
    """No mirror delivered the files; the message names each mirror and its error."""


def download(
    files: Mapping[str, Remote],
    mirrors: Sequence[str],
    directory: Path,
    *,
    patient: bool = True,
    progress: bool = False,
) -> str:
    """Download gzipped files into a directory, each from the first mirror that delivers it.

    Parameters
    ----------
    files : mapping of str to Remote
        The files by name.
    mirrors : sequence of str
        URLs to put before a name, in the order in which they are tried.
    directory : Path
        Created if it is missing. A file appears in it complete and verified, or not at all.
    patient : bool, default True
        Whether to wait `STALL_LIMIT` seconds for the first bytes of each mirror. Otherwise all
        mirrors together have `REACH_LIMIT` seconds.
    progress : bool, default False
        Whether to show a progress bar if stderr is a terminal.

    Returns
    -------
    str
        The mirror that the last file came from.

    Raises
    ------
    DownloadError
        If no mirror delivers the files.
    """
    missing = dict(files)
    failures = []
    with _progress_bar(progress) as bar:
        for mirror in mirrors:
            patience = STALL_LIMIT if patient else REACH_LIMIT / len(mirrors)
            try:
                for name, remote in list(missing.items()):
                    content = _fetch(mirror + name, remote, patience, bar)
                    directory.mkdir(parents=True, exist_ok=True)
                    write_atomically(directory / name, [content])
                    del missing[name]
                    patience = STALL_LIMIT  # the mirror has answered
                return mirror
            except (OSError, ValueError, zlib.error) as error:
                failures.append(f"{mirror} ({_reason(error)})")
    raise DownloadError(", ".join(failures))


def _fetch(url: str, remote: Remote, patience: float, bar: "Progress") -> bytes:
    """Return the verified bytes of a file; raise a ValueError if they are wrong or arrive slowly.

    A thread receives them. It is abandoned if the time is up, because looking up a host and
    reading headers cannot be interrupted.
    """
    pieces: queue.SimpleQueue[bytes | Exception] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(url, remote.size, pieces), daemon=True).start()
    task = bar.add_task(url.rpartition("/")[2], total=remote.size)
    content, end = bytearray(), time.monotonic() + TOTAL_LIMIT
    due, wanted = time.monotonic() + patience, PIECE
    while piece := _next(pieces, min(due, end)):
        if isinstance(piece, Exception):
            raise ValueError(_reason(piece))
        content += piece
        bar.advance(task, len(piece))
        if len(content) >= wanted:
            patience = STALL_LIMIT
            due, wanted = time.monotonic() + patience, len(content) + PIECE
    if piece is None:
        if time.monotonic() >= end:
            raise ValueError(f"took more than {TOTAL_LIMIT:g} s")
        raise ValueError(f"sent less than {PIECE:,} bytes within {patience:g} s")
    if len(content) != remote.size:
        sent = "more than" if len(content) > remote.size else f"{len(content):,} of"
        raise ValueError(f"sent {sent} the file's {remote.size:,} bytes")
    unpacked = zlib.decompressobj(wbits=31).decompress(content, _UNPACKED_LIMIT)
    if hashlib.sha256(unpacked).hexdigest() != remote.sha256:
        raise ValueError(
            f"sent a different file: the SHA-256 of its content is not {remote.sha256}"
        )
    return bytes(content)


def _next(pieces: "queue.SimpleQueue[bytes | Exception]", due: float) -> bytes | Exception | None:
    """Return the next piece, or None if it does not arrive in time."""
    left = due - time.monotonic()
    try:
        return pieces.get(timeout=left) if left > 0 else None
    except queue.Empty:
        return None


def _receive(url: str, size: int, pieces: "queue.SimpleQueue[bytes | Exception]") -> None:
    """Put the pieces of a URL's content into a queue, then b"" or an error.

    Stop after more than `size` bytes.
    """
    import requests

    headers, timeout = {"Accept-Encoding": "identity"}, 2 * STALL_LIMIT  # the reader waits less
    try:
        with requests.get(url, headers=headers, stream=True, timeout=timeout) as response:
            response.raise_for_status()
            for piece in response.raw.stream(PIECE, decode_content=False):
                pieces.put(piece)
                size -= len(piece)
                if size < 0:
                    break
        pieces.put(b"")
    except Exception as error:  # urllib3 raises its own types
        pieces.put(error)


def _reason(error: BaseException) -> str:
    """Return the message of the innermost error, in one line."""
    while error.__context__ is not None:
        error = error.__context__
    return " ".join(str(error).split()) or type(error).__name__


def _progress_bar(progress: bool) -> "Progress":
    from rich.console import Console
    from rich.progress import Progress

    hidden = not (progress and sys.stderr.isatty())
    return Progress(console=Console(stderr=True), transient=True, disable=hidden)
