"""The files of MNIST and Fashion-MNIST: search path, mirrors and SHA-256.

All mirrors use https. The original address of Fashion-MNIST does not, so its files come from
Keras's storage or, if that fails, from the authors' repository.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

from fastnn.data.files.idx import read_idx_and_sha256
from fastnn.data.sets.download import DownloadError, Remote, download
from fastnn.errors import DataError
from fastnn.system.files import user_cache_directory

# Images and labels to train with, images and labels to test with.
FILE_NAMES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


@dataclass(frozen=True)
class IdxSet:
    """A data set of four IDX files, named as in `FILE_NAMES`.

    Attributes
    ----------
    title : str
        The name in messages.
    sha256 : tuple of str
        SHA-256 (hex) of each file's uncompressed bytes.
    gzip_bytes : tuple of int
        Size of each file as the mirrors compress it.
    subdirectories : tuple of str
        Subdirectories to search in each directory. Those named after the set come first, because
        the files of two sets may have the same names.
    mirrors : tuple of str
        URLs to put before the names, which end in .gz there.
    system_dirs : tuple of str
        Directories where packages of the operating system install the set.
    """

    title: str
    sha256: tuple[str, ...]
    gzip_bytes: tuple[int, ...]
    subdirectories: tuple[str, ...]
    mirrors: tuple[str, ...]
    system_dirs: tuple[str, ...] = ()


SETS = {
    "mnist": IdxSet(
        title="MNIST",
        sha256=(
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ),
        gzip_bytes=(9_912_422, 28_881, 1_648_877, 4_542),
        subdirectories=("mnist", "MNIST/raw", ""),
        mirrors=(
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
        ),
    ),
    "fashion-mnist": IdxSet(
        title="Fashion-MNIST",
        sha256=(
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        ),
        gzip_bytes=(26_421_880, 29_515, 4_422_102, 5_148),
        subdirectories=("fashion-mnist", "FashionMNIST/raw", ""),
        mirrors=(
            "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
            "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
        ),
        system_dirs=("/usr/share/datasets/fashion-mnist",),  # Debian's dataset-fashion-mnist
    ),
}


def load_idx_set(
    name: str, data_dir: Path | None, *, patient: bool, progress: bool
) -> tuple[list[np.ndarray], str]:
    """Find one of `SETS`, or download it into the user's cache directory, and verify it.

    Parameters
    ----------
    name : str
        A key of `SETS`.
    data_dir : Path or None
        The only directory to search. If None, search `$FASTNN_DATA`, the user's cache directory
        and the system's directories, then try the mirrors.
    patient, progress : bool
        Arguments of `download`.

    Returns
    -------
    arrays : list of ndarray
        The uint8 contents of the four files, in the order of `FILE_NAMES`.
    source : str
        The directory in which they were found, or the host that they were downloaded from.

    Raises
    ------
    DataError
        If a file has a wrong SHA-256 or is damaged, or `data_dir` lacks one, or `$FASTNN_DATA` is
        not a directory.
    DownloadError
        If the set is not found, and no mirror delivers it.
    """
    idx_set = SETS[name]
    cache_root = user_cache_directory()
    cache = None if cache_root is None else cache_root / name
    roots = [data_dir] if data_dir is not None else _search_path(idx_set, cache)
    for root in roots:
        candidates = ((root / each, _files_in(root / each)) for each in idx_set.subdirectories)
        directory, found = max(candidates, key=lambda candidate: len(candidate[1]))
        if len(found) == len(FILE_NAMES):
            return _read_verified(idx_set, found), str(directory)
        if data_dir is not None:
            raise DataError(_missing_files(idx_set, data_dir, found))
    where = ", ".join(map(str, roots)) or "any directory"
    not_found = f"{idx_set.title} was not found in {where} and"
    if cache is None:
        raise DownloadError(
            f"{not_found} is not downloaded, because this user has no home directory to store it in"
        )
    found = _files_in(cache)
    wanted = {
        f"{name}.gz": Remote(size, sha256)
        for name, size, sha256 in zip(FILE_NAMES, idx_set.gzip_bytes, idx_set.sha256, strict=True)
        if name not in found
    }
    try:
        mirror = download(wanted, idx_set.mirrors, cache, patient=patient, progress=progress)
    except DownloadError as error:
        raise DownloadError(f"{not_found} could not be downloaded from {error}") from error
    return _read_verified(idx_set, _files_in(cache)), urlsplit(mirror).hostname or mirror


def _search_path(idx_set: IdxSet, cache: Path | None) -> list[Path]:
    """Return the directories to search if the user named none."""
    given = os.environ.get("FASTNN_DATA")
    if given and not os.path.isdir(given):
        raise DataError(f"FASTNN_DATA={given}: is not a directory")
    own = [Path(given)] if given else []
    return [*own, *([cache] if cache else []), *map(Path, idx_set.system_dirs)]


def _files_in(directory: Path) -> dict[str, Path]:
    """Return the files of a set in a directory, by their names in `FILE_NAMES`."""
    found = {}
    for name in FILE_NAMES:
        if path := next(filter(Path.is_file, _possible_paths(directory, name)), None):
            found[name] = path
    return found


def _possible_paths(directory: Path, name: str) -> Iterator[Path]:
    """Yield the paths that a file may have in a directory, uncompressed files first.

    Some archives write the names with a dot, as in ``train-images.idx3-ubyte``. Kaggle's archive
    unpacks each file into a directory of the same name.
    """
    spellings = (name, name.replace("-idx", ".idx"))
    for suffix in ("", ".gz"):
        for parent in (directory, *(directory / each for each in spellings)):
            for each in spellings:
                yield parent / f"{each}{suffix}"


def _missing_files(idx_set: IdxSet, directory: Path, found: dict[str, Path]) -> str:
    missing = ", ".join(name for name in FILE_NAMES if name not in found)
    nested = ", ".join(f"{each}/" for each in idx_set.subdirectories if each)
    return (
        f"no {idx_set.title} in '{directory}': missing {missing} (raw or .gz, with a dash or a dot "
        f"before idx, in this directory or in {nested})"
    )


def _read_verified(idx_set: IdxSet, found: dict[str, Path]) -> list[np.ndarray]:
    """Read the four files; raise a DataError if the SHA-256 of one is wrong."""
    arrays = []
    for name, expected in zip(FILE_NAMES, idx_set.sha256, strict=True):
        path = found[name]
        array, sha256 = read_idx_and_sha256(path)
        if sha256 != expected:
            found_in = [each.title for each in SETS.values() if sha256 in each.sha256]
            kind = f"is a file of {found_in[0]}, not of" if found_in else "is not a file of"
            raise DataError(
                f"{path}: {kind} {idx_set.title}: expected SHA-256 {expected} of the uncompressed "
                f"bytes, found {sha256}"
            )
        arrays.append(array)
    return arrays
