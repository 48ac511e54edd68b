"""Download files from mirrors: each file whole and verified, or not at all."""

import contextlib
import logging
import queue
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fastnn.errors import DataError

if TYPE_CHECKING:
    from rich.progress import Progress

STALL_LIMIT = 10.0  # seconds that a connection may stay silent
REACH_LIMIT = 4.0  # seconds for any mirror to answer; with the imports, 5 in all
_CHUNK = 1 << 16


class DownloadError(DataError):
    """No mirror could deliver the files; the message names each mirror and what went wrong."""


def download(
    files: Mapping[str, str],
    mirrors: Sequence[str],
    directory: Path,
    *,
    patient: bool = True,
    progress: bool = False,
) -> str:
    """Download files into a directory, each from the first mirror that has it unharmed.

    Parameters
    ----------
    files : mapping of str to str
        The files' names and the SHA-256 (hex) of each.
    mirrors : sequence of str
        URLs that a name is appended to, in the order in which they are tried.
    directory : Path
        Made if it is missing. A file appears in it complete and verified, or not at all.
    patient : bool
        Whether to try every mirror, each until it has been silent for `STALL_LIMIT` seconds.
        Otherwise all are knocked at together, and only those that answer within `REACH_LIMIT`
        seconds are tried.
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
    with _quiet_pooch(), _display(progress) as display:
        for mirror in candidates:
            try:
                while missing:
                    name = next(iter(missing))
                    _retrieve(mirror + name, missing[name], directory / name, display)
                    del missing[name]
                return mirror
            except (OSError, ValueError) as error:
                failures[mirror] = _reason(error)
    raise DownloadError(", ".join(f"{mirror} ({why})" for mirror, why in failures.items()))


def _retrieve(url: str, sha256: str, path: Path, display: "Progress") -> None:
    import pooch

    downloader = pooch.HTTPDownloader(
        progressbar=_Bar(display, path.name), chunk_size=_CHUNK, timeout=STALL_LIMIT
    )
    pooch.retrieve(url, sha256, fname=path.name, path=path.parent, downloader=downloader)


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
    import pooch

    try:
        downloader = pooch.HTTPDownloader(timeout=STALL_LIMIT)  # longer than anybody waits
        found = downloader(mirror + name, None, None, check_only=True)
        answers.put((mirror, None if found else f"does not have {name}"))
    except (OSError, ValueError) as error:
        answers.put((mirror, _reason(error)))


def _reason(error: BaseException) -> str:
    """Say in one line what went wrong: the innermost error says it without the wrapping."""
    while error.__context__ is not None:
        error = error.__context__
    return " ".join(str(error).split()) or type(error).__name__


@contextlib.contextmanager
def _quiet_pooch() -> Iterator[None]:
    """Silence pooch's announcements of each download."""
    import pooch

    logger = pooch.get_logger()
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


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


class _Bar:
    """A line of the display, in the words that pooch speaks to a progress bar."""

    def __init__(self, display: "Progress", name: str) -> None:
        self._display = display
        self._task = display.add_task(name, total=None)

    @property
    def total(self) -> float | None:
        """The number of bytes to come, or None while it is unknown."""
        return self._display.tasks[self._task].total

    @total.setter
    def total(self, n_bytes: int) -> None:
        self._display.update(self._task, total=n_bytes)

    def update(self, n_bytes: int) -> None:
        """Count the bytes that have come."""
        self._display.advance(self._task, n_bytes)

    def reset(self) -> None:
        """Count from 0 again."""
        self._display.update(self._task, completed=0)

    def close(self) -> None:
        """Leave the line as it is; it goes with the display."""
