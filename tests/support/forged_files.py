"""Tensor files that are changed on purpose, with a correct checksum."""

import hashlib
import json
import re
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from fastnn import ModelFileError, load

MEMORY = 64 << 20


def parts(contents: bytes) -> tuple[dict[str, Any], bytes]:
    """Return the header and the data."""
    stop = 8 + int.from_bytes(contents[:8], "little")
    return json.loads(contents[8:stop]), contents[stop:]


def joined(header: dict[str, Any] | bytes, data: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def signed(description: dict[str, Any], header: dict[str, Any], data: bytes) -> dict[str, Any]:
    """Return a description with the SHA-256 of the file, if it can be computed."""
    description.pop("sha256", None)
    digest = hashlib.sha256(json.dumps(description, separators=(",", ":")).encode())
    for name in sorted(header):
        with suppress(KeyError, TypeError):  # such a file is rejected without it
            entry = header[name]
            digest.update(f"\n{name} {entry['dtype']} {tuple(entry['shape'])}\n".encode())
            digest.update(data[slice(*entry["data_offsets"])])
    return description | {"sha256": digest.hexdigest()}


Change = Callable[[dict[str, Any], dict[str, Any]], bytes | None]


def forged(contents: bytes, change: Change, key: str = "fastnn") -> bytes:
    """Return a file whose description or entries are changed.

    Bytes that `change` returns are appended to the data.
    """
    header, data = parts(contents)
    description = json.loads(header.pop("__metadata__")[key])
    data += change(description, header) or b""
    text = json.dumps(signed(description, header, data))
    return joined({"__metadata__": {key: text}} | header, data)


def changed(contents: bytes) -> Iterator[bytes]:
    """Yield files with one byte changed: to all values in the header, to a few in the data."""
    start = 8 + int.from_bytes(contents[:8], "little")
    damaged = bytearray(contents)
    for index, byte in enumerate(contents):
        for flip in range(1, 256) if index < start else (1, 0x10, 0x80, 0xFF):
            damaged[index] = byte ^ flip
            yield bytes(damaged)
        damaged[index] = byte


def assert_refused_in_little_memory(
    path: Path, message: str, read: Callable[[Path], Any] = load
) -> None:
    """Check that reading a file raises an error, and does not allocate much memory."""
    tracemalloc.start()
    try:
        with pytest.raises(ModelFileError, match=f"^{re.escape(str(path))}: {message}") as raised:
            read(path)
        assert tracemalloc.get_traced_memory()[1] < MEMORY
    finally:
        tracemalloc.stop()
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 500


def to(name: str, **values: Any) -> Change:
    """Return a change that sets values in the header's entry of a tensor."""
    return lambda description, tensors: tensors[name].update(values)


def says(**values: Any) -> Change:
    """Return a change that sets values in the description."""
    return lambda description, tensors: description.update(values)


def without(*names: str) -> Change:
    def drop(description: dict[str, Any], tensors: dict[str, Any]) -> None:
        for name in names:
            del (description if name in description else tensors)[name]

    return drop
