"""Download files from mirrors: each file whole and verified, or not at all.

There is a time limit for each piece of a file and for the whole file, and a limit on its size.
Bytes are stored as they are received: a ``Content-Encoding`` is not decoded.
"""

import hashlib
import queue
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from fastnn.errors import DataError
from fastnn.system.files import write_atomically

if TYPE_CHECKING:
    from rich.progress import Progress

STALL_LIMIT = 10.0  # seconds to wait for the next PIECE bytes
TOTAL_LIMIT = 1800.0  # seconds for a file
REACH_LIMIT = 4.0  # seconds for any mirror to answer; with the imports, 5 in all
PIECE = 1 << 13  # bytes
_AHEAD = 64  # pieces that are received and not yet written, at most

_Pieces = queue.Queue[bytes | Exception]  # of a file, in order; b"" marks its end


class Remote(NamedTuple):
    """A file on a mirror: its size in bytes and its SHA-256 (hex)."""

    size: int
    sha256: str


class DownloadError(DataError):
    """No mirror could deliver the files; the message names each mirror and what went wrong."""


def download(
    files: Mapping[str, Remote],
    mirrors: Sequence[str],
    directory: Path,
    *,
    patient: bool = True,
    progress: bool = False,
) -> str:
    """Download files into a directory, each from the first mirror that has it unharmed.

    Parameters
    ----------
    files : mapping of str to Remote
        Size and hash of each file, by its name.
    mirrors : sequence of str
        URLs that a name is appended to, in the order in which they are tried.
    directory : Path
        Made if it is missing. A file appears in it complete and verified, or not at all.
    patient : bool
        Whether to try every mirror. Otherwise all are asked at once, and only those that answer
        within `REACH_LIMIT` seconds are tried.
    progress : bool
        Whether to show a progress bar, if stderr is a terminal.

    Returns
    -------
    str
        The mirror that the last file came from.

    Raises
    ------
    DownloadError
        If no mirror could deliver the files.
    """
    missing = dict(files)
    failures: dict[str, str] = {}
    candidates = mirrors if patient else _answering(mirrors, next(iter(missing)), failures)
    with _display(progress) as display:
        for mirror in candidates:
            try:
                while missing:
                    name = next(iter(missing))
                    directory.mkdir(parents=True, exist_ok=True)
                    pieces = _verified(_pieces(mirror + name), missing[name])
                    write_atomically(
                        directory / name, _shown(pieces, display, name, missing[name].size)
                    )
                    del missing[name]
                return mirror
            except (OSError, ValueError) as error:
                failures[mirror] = _reason(error)
    raise DownloadError(", ".join(f"{mirror} ({why})" for mirror, why in failures.items()))


def _verified(pieces: Iterator[bytes], remote: Remote) -> Iterator[bytes]:
    """Yield the pieces of a file; raise a ValueError if their size or their hash is wrong."""
    digest, size = hashlib.sha256(), 0
    for piece in pieces:
        size += len(piece)
        if size > remote.size:
            raise ValueError(f"sent more than the file's {remote.size:,} bytes")
        digest.update(piece)
        yield piece
    if size < remote.size:
        raise ValueError(f"sent {size:,} of the file's {remote.size:,} bytes")
    if digest.hexdigest() != remote.sha256:
        raise ValueError(f"sent a different file: its SHA-256 is not {remote.sha256}")


def _pieces(url: str) -> Iterator[bytes]:
    """Yield the content of a URL in pieces; raise a ValueError if it arrives too slowly.

    A thread downloads it. When time is up the thread is abandoned, because the system calls that
    look up a name or read headers cannot be interrupted.
    """
    pieces: _Pieces = queue.Queue(_AHEAD)
    threading.Thread(target=_fetch, args=(url, pieces), daemon=True).start()
    end = time.monotonic() + TOTAL_LIMIT
    due, missing = time.monotonic() + STALL_LIMIT, PIECE
    while piece := _next(pieces, min(due, end)):
        if isinstance(piece, Exception):
            raise ValueError(_reason(piece))
        yield piece
        missing -= len(piece)
        if missing <= 0:
            due, missing = time.monotonic() + STALL_LIMIT, PIECE
    if piece is None:
        if time.monotonic() >= end:
            raise ValueError(f"took more than {TOTAL_LIMIT:g} s")
        raise ValueError(f"sent less than {PIECE:,} bytes within {STALL_LIMIT:g} s")


def _next(pieces: _Pieces, due: float) -> bytes | Exception | None:
    """Return the next piece, or None if it does not arrive in time."""
    left = due - time.monotonic()
    try:
        return pieces.get(timeout=left) if left > 0 else None
    except queue.Empty:
        return None


def _fetch(url: str, pieces: _Pieces) -> None:
    """Put the content of a URL, or an error, into a queue; stop if nobody reads the queue."""
    import requests

    as_it_is, timeout = {"Accept-Encoding": "identity"}, 2 * STALL_LIMIT  # the reader waits less
    try:
        try:
            with requests.get(url, headers=as_it_is, stream=True, timeout=timeout) as response:
                response.raise_for_status()
                for piece in response.raw.stream(PIECE, decode_content=False):
                    pieces.put(piece, timeout=STALL_LIMIT)
            pieces.put(b"", timeout=STALL_LIMIT)
        except queue.Full:
            raise
        except Exception as error:  # urllib3 raises its own types
            pieces.put(error, timeout=STALL_LIMIT)
    except queue.Full:
        pass


def _shown(pieces: Iterator[bytes], display: "Progress", name: str, size: int) -> Iterator[bytes]:
    """Yield the pieces, and advance the file's progress bar."""
    task = display.add_task(name, total=size)
    for piece in pieces:
        display.advance(task, len(piece))
        yield piece


def _answering(mirrors: Sequence[str], name: str, failures: dict[str, str]) -> Iterator[str]:
    """Yield the mirrors that have a file, as they answer, and note the failures of the others.

    A name look-up cannot be interrupted, and the timeouts of several addresses would add up;
    so every mirror is asked in a thread of its own, which is left behind when time is up.
    """
    answers: queue.SimpleQueue[tuple[str, str | None]] = queue.SimpleQueue()
    for mirror in mirrors:
        threading.Thread(target=_knock, args=(mirror, name, answers), daemon=True).start()
    failures.update(dict.fromkeys(mirrors, f"no answer within {REACH_LIMIT:g} s"))
    deadline = time.monotonic() + REACH_LIMIT
    for _ in mirrors:
        try:
            mirror, failure = answers.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            return
        if failure is None:
            yield mirror
        else:
            failures[mirror] = failure


def _knock(mirror: str, name: str, answers: "queue.SimpleQueue[tuple[str, str | None]]") -> None:
    """Ask a mirror for a file's headers; put the mirror and what went wrong, or None."""
    import requests

    try:  # the time limit is longer than the caller waits
        found = requests.head(mirror + name, timeout=STALL_LIMIT, allow_redirects=True)
        answers.put((mirror, None if found.status_code == 200 else f"does not have {name}"))
    except (OSError, ValueError) as error:
        answers.put((mirror, _reason(error)))


def _reason(error: BaseException) -> str:
    """Say in one line what went wrong: the innermost error says it without the wrapping."""
    while error.__context__ is not None:
        error = error.__context__
    return " ".join(str(error).split()) or type(error).__name__


def _display(progress: bool) -> "Progress":
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=not (progress and sys.stderr.isatty()),
    )
