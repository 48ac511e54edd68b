"""The files of MNIST and Fashion-MNIST: where they are found, their mirrors and their hashes.

All mirrors use https. Fashion-MNIST's original address (a website in Amazon's S3) does not, so the
same files come from Keras's storage or, if that fails, from the repository of the authors.
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


@dataclass(frozen=True)
class IdxFile:
    """A file: its name without .gz, and its SHA-256 uncompressed and as the mirrors compress it.

    `bytes_gz` is the compressed size in bytes.
    """

    name: str
    sha256: str
    sha256_gz: str
    bytes_gz: int


@dataclass(frozen=True)
class IdxSet:
    """A set of four IDX files: images and labels to train with, images and labels to test with.

    In every directory `folders` are looked into in turn, those that bear the set's name first:
    two sets with the same file names may lie side by side.
    """

    title: str
    files: tuple[IdxFile, ...]
    folders: tuple[str, ...]
    mirrors: tuple[str, ...]
    system_dirs: tuple[str, ...] = ()


SETS = {
    "mnist": IdxSet(
        title="MNIST",
        files=(
            IdxFile(
                "train-images-idx3-ubyte",
                "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
                "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
                9_912_422,
            ),
            IdxFile(
                "train-labels-idx1-ubyte",
                "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
                "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
                28_881,
            ),
            IdxFile(
                "t10k-images-idx3-ubyte",
                "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
                "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
                1_648_877,
            ),
            IdxFile(
                "t10k-labels-idx1-ubyte",
                "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
                "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
                4_542,
            ),
        ),
        folders=("mnist", "MNIST/raw", ""),
        mirrors=(
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
        ),
    ),
    "fashion-mnist": IdxSet(
        title="Fashion-MNIST",
        files=(
            IdxFile(
                "train-images-idx3-ubyte",
                "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
                "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
                26_421_880,
            ),
            IdxFile(
                "train-labels-idx1-ubyte",
                "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
                "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
                29_515,
            ),
            IdxFile(
                "t10k-images-idx3-ubyte",
                "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
                "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
                4_422_102,
            ),
            IdxFile(
                "t10k-labels-idx1-ubyte",
                "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
                "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
                5_148,
            ),
        ),
        folders=("fashion-mnist", "FashionMNIST/raw", ""),
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
    """Find one of `SETS`, or fetch it into the user's cache directory, and verify it.

    Parameters
    ----------
    name : str
        A key of `SETS`.
    data_dir : Path or None
        The only directory to look into; None looks into `$FASTNN_DATA`, the user's cache
        directory and the system's directories, then asks the mirrors.
    patient, progress : bool
        Handed to `download`.

    Returns
    -------
    arrays : list of np.ndarray
        The uint8 contents of the four files, in the order of `IdxSet.files`.
    source : str
        The directory that they lie in, or the host that they were fetched from.

    Raises
    ------
    DataError
        If a file is not what it should be, or `data_dir` lacks one, or `$FASTNN_DATA` is not a
        directory.
    DownloadError
        If the set is nowhere, and no mirror could deliver it.
    """
    idx_set = SETS[name]
    caches = user_cache_directory()
    cache = None if caches is None else caches / name
    roots = [data_dir] if data_dir is not None else _search_path(idx_set, cache)
    for root in roots:
        folder, found = _find(idx_set, root)
        if len(found) == len(idx_set.files):
            return _read_verified(idx_set, found), str(folder)
    if data_dir is not None:
        raise DataError(_what_is_missing(idx_set, data_dir))
    places = ", ".join(str(root) for root in roots) or "any directory"
    lost = f"{idx_set.title} was not found in {places} and"
    if cache is None:
        raise DownloadError(
            f"{lost} is not fetched, because this user has no home directory to keep it in"
        )
    have = _lying_in(cache, idx_set)
    wanted = {
        f"{file.name}.gz": Remote(file.bytes_gz, file.sha256_gz)
        for file in idx_set.files
        if file.name not in have
    }
    try:
        mirror = download(wanted, idx_set.mirrors, cache, patient=patient, progress=progress)
    except DownloadError as error:
        raise DownloadError(f"{lost} could not be fetched from {error}") from error
    return _read_verified(idx_set, _lying_in(cache, idx_set)), urlsplit(mirror).hostname or mirror


def _search_path(idx_set: IdxSet, cache: Path | None) -> list[Path]:
    """List the directories to look into when the user named none."""
    named = os.environ.get("FASTNN_DATA")
    if named and not os.path.isdir(named):
        raise DataError(f"FASTNN_DATA={named}: is not a directory")
    own = [Path(named)] if named else []
    return [*own, *([cache] if cache else []), *map(Path, idx_set.system_dirs)]


def _find(idx_set: IdxSet, root: Path) -> tuple[Path, dict[str, Path]]:
    """Return the folder under `root` that holds the most of the set's files, and these files."""
    folders = [root / folder for folder in idx_set.folders]
    return max(((each, _lying_in(each, idx_set)) for each in folders), key=lambda it: len(it[1]))


def _lying_in(directory: Path, idx_set: IdxSet) -> dict[str, Path]:
    """Return the set's files in a directory, by their names in the set's order."""
    found = {}
    for file in idx_set.files:
        if path := next(filter(Path.is_file, _places(directory, file.name)), None):
            found[file.name] = path
    return found


def _places(directory: Path, name: str) -> Iterator[Path]:
    """Yield the paths that a file may have in a directory, uncompressed files first.

    Some archives write the names with a dot, as in ``train-images.idx3-ubyte``. Kaggle's archive
    unpacks each file into a folder of the same name.
    """
    spellings = (name, name.replace("-idx", ".idx"))
    for suffix in ("", ".gz"):
        for folder in (directory, *(directory / each for each in spellings)):
            for each in spellings:
                yield folder / f"{each}{suffix}"


def _what_is_missing(idx_set: IdxSet, directory: Path) -> str:
    _, have = _find(idx_set, directory)
    missing = ", ".join(file.name for file in idx_set.files if file.name not in have)
    folders = ", ".join(f"{folder}/" for folder in idx_set.folders if folder)
    return (
        f"{directory}: lacks {idx_set.title}'s {missing} (raw or .gz, with a dash or a dot before "
        f"idx, here or in {folders})"
    )


def _read_verified(idx_set: IdxSet, found: dict[str, Path]) -> list[np.ndarray]:
    arrays = []
    for file in idx_set.files:
        path = found[file.name]
        array, sha256 = read_idx_and_sha256(path)
        if sha256 != file.sha256:
            raise DataError(
                f"{path}: is not {idx_set.title}'s file{_whose(sha256)}: the SHA-256 of its "
                f"uncompressed bytes should be {file.sha256}, found {sha256}"
            )
        arrays.append(array)
    return arrays


def _whose(sha256: str) -> str:
    """Recognise another file of these sets: they name their files alike."""
    for owner in SETS.values():
        for file in owner.files:
            if file.sha256 == sha256:
                return f" but {owner.title}'s {file.name}"
    return ""
