"""The .npz reader: data sets and samples, and archives that it refuses."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastnn.data.files import npz, samples
from fastnn.data.files.npz import load_npz, read_npz
from fastnn.data.sets import load_dataset
from fastnn.errors import DataError


def refusal(path: Path) -> str:
    """Return the error message for an archive, without its path; assert that it is one line."""
    with pytest.raises(DataError) as caught:
        load_npz(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "\n" not in message
    return message.removeprefix(f"{path}: ")


def good_arrays() -> dict[str, np.ndarray]:
    return {
        "x_train": np.arange(24, dtype=np.uint8).reshape(4, 2, 3),
        "y_train": np.array([0, 1, 2, 1]),
        "x_test": np.arange(12, dtype=np.uint8).reshape(2, 2, 3),
        "y_test": np.array([[2], [0]], np.uint8),
    }


def save(path: Path, **changes) -> Path:
    np.savez(path, **good_arrays() | changes)
    return path


@pytest.mark.parametrize("save_arrays", [np.savez, np.savez_compressed])
def test_uint8_features_stay_uint8(tmp_path, save_arrays):
    save_arrays(tmp_path / "toys.npz", **good_arrays())
    data = load_dataset(str(tmp_path / "toys.npz"))
    assert (data.name, data.source) == ("toys", str(tmp_path / "toys.npz"))
    np.testing.assert_array_equal(data.x_train, np.arange(24).reshape(4, 6))
    assert data.x_train.dtype == np.uint8 and data.scale == 1 / 255
    assert data.y_test.tolist() == [2, 0] and data.y_test.dtype == np.int32
    assert (data.n_classes, data.image_shape) == (3, (2, 3))


@pytest.mark.parametrize("dtype", ["f2", "<f4", ">f4", "f8", "i8", "u2", "?"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_other_dtypes_become_float32(tmp_path, dtype, order):
    x_train = np.arange(24).reshape(4, 6).astype(dtype)
    x_test = np.array(x_train[:2], order=order)
    path = save(tmp_path / "a.npz", x_train=np.array(x_train, order=order), x_test=x_test)
    data = load_npz(path)
    np.testing.assert_array_equal(data.x_train, x_train)
    assert data.x_train.dtype == np.float32 and data.x_train.dtype.isnative
    assert data.x_train.flags.c_contiguous and data.x_train.flags.aligned
    assert data.scale == 1.0 and data.image_shape is None


@pytest.mark.parametrize(
    ("shape", "image_shape"),
    [((4, 2, 3), (2, 3)), ((4, 2, 3, 1), (2, 3)), ((4, 2, 1, 3), None), ((4, 784), None)],
)
def test_image_shape_follows_from_the_dimensions(tmp_path, shape, image_shape):
    x = np.zeros(shape)
    assert load_npz(save(tmp_path / "a.npz", x_train=x, x_test=x[:2])).image_shape == image_shape


def pixels(*shape: int) -> np.ndarray:
    x = np.random.default_rng(0).integers(0, 256, (4, *shape))
    x[:, 0] = 0  # constant columns
    return x


@pytest.mark.parametrize("dtype", ["f2", "<f4", ">f8", "i8", "u2"])
@pytest.mark.parametrize("shape", [(4, 4), (2, 3, 1), (16,), (4, 2, 3)])
def test_pictures_of_another_dtype_become_uint8(tmp_path, dtype, shape):
    x = pixels(*shape).astype(dtype)
    data = load_npz(save(tmp_path / "a.npz", x_train=x, x_test=x[:2] // 4))
    np.testing.assert_array_equal(data.x_train, x.reshape(4, -1))
    np.testing.assert_array_equal(data.x_test, x[:2].reshape(2, -1) // 4)
    assert data.x_train.dtype == data.x_test.dtype == np.uint8 and data.scale == 1 / 255
    assert data.note is not None and "scale" in data.note and "\n" not in data.note


RATINGS = np.random.default_rng(1).integers(0, 6, (4, 16))
ONE_HOT = np.concatenate([RATINGS[:, :12] > 2, pixels(4)], axis=1)


@pytest.mark.parametrize(
    "x",
    [
        pixels(16) / 255,  # scaled already
        pixels(4, 4) / 255,
        pixels(16) / 2,  # not whole
        pixels(16) - 1,
        pixels(16) * 2,
        pixels(15),  # too few columns for a picture
        pixels(16) % 100,  # ages
        pixels(4, 4) % 17,  # shades as in scikit-learn's digits
        RATINGS,
        ONE_HOT,  # mostly 0 and 1
        pixels(16) > 127,
        np.full((4, 16), 200),  # nothing varies
    ],
)
def test_other_whole_numbers_become_float32(tmp_path, x):
    x = x.astype(np.float32)
    with np.errstate(all="raise"):
        data = load_npz(save(tmp_path / "a.npz", x_train=x, x_test=x[:2]))
    np.testing.assert_array_equal(data.x_train, x.reshape(4, -1))
    assert (data.x_train.dtype, data.scale, data.note) == (np.float32, 1.0, None)


def test_pictures_in_one_part_only_become_float32(tmp_path):
    x = pixels(4, 4)
    data = load_npz(save(tmp_path / "a.npz", x_train=x, x_test=x[:2] + 0.5))
    assert (data.x_train.dtype, data.scale, data.note) == (np.float32, 1.0, None)


def test_accepts_whole_floating_point_labels(tmp_path):
    y_train = np.array([0.0, 1.0, 2.0, 0.0], np.float16)
    data = load_npz(save(tmp_path / "a.npz", y_train=y_train))
    assert data.y_train.tolist() == [0, 1, 2, 0] and data.y_train.dtype == np.int32


@pytest.mark.parametrize(
    ("key", "array", "expected"),
    [
        (
            "x_train",
            np.array([["a"]]),
            "x_train: has the dtype <U1, expected integers",
        ),
        ("x_train", np.zeros((4, 2, 3), complex), "x_train: has the dtype complex128"),
        ("x_train", np.array([{}] * 4), "x_train: has Python objects, which are never unpickled"),
        ("x_train", np.zeros(4), "x_train: has the shape (4,), expected (n, features)"),
        ("x_test", np.zeros((0, 2, 3)), "x_test: is empty: its shape is (0, 2, 3)"),
        ("x_test", np.zeros((2, 5), np.uint8), "x_test must have shape (rows, 6), got (2, 5)"),
        ("x_test", np.zeros((2, 6)), "has one uint8 array among x_train and x_test"),
        ("x_train", np.zeros((3, 6), np.uint8), "y_train has 4 labels for 3 rows"),
        (
            "x_train",
            np.array([[0.0], [1e39], [0], [0]]),
            "x_train must be finite in float32, found inf in row 1",
        ),
        (
            "x_train",
            np.array([[0.0], [0], [np.nan], [0]]),
            "x_train must be finite in float32, found nan in row 2",
        ),
        ("y_train", np.eye(4, dtype=int), "y_train must be one-dimensional, got shape (4, 4)"),
        ("y_train", np.int64(3), "y_train must be one-dimensional, got shape ()"),
        (
            "y_train",
            np.array([0, 1, -2, 1]),
            "y_train must hold whole numbers from 0 to 3, found -2 in row 2",
        ),
        (
            "y_train",
            np.array([0, 1, 2, 2**31]),
            "y_train must hold whole numbers from 0 to 3, found 2147483648",
        ),
        (
            "y_train",
            np.array([0, 9, 2, 1]),
            "y_train must hold whole numbers from 0 to 3, found 9 in row 1",
        ),
        (
            "y_train",
            np.array([0, 1.5, 2, 1]),
            "y_train must hold whole numbers from 0 to 3, found 1.5",
        ),
        (
            "y_train",
            np.array([np.nan, 0, 0, 0]),
            "y_train must hold whole numbers from 0 to 3, found nan",
        ),
        ("y_train", np.array(["a"] * 4), "y_train: has the dtype <U1"),
        ("y_test", np.array([0]), "y_test has 1 labels for 2 rows"),
        (
            "y_test",
            np.array([0, 3]),
            "y_test must hold whole numbers from 0 to 2, found 3 in row 1",
        ),
    ],
)
def test_rejects_arrays(tmp_path, key, array, expected):
    path = save(tmp_path / "a.npz", **{key: array})
    assert refusal(path).startswith(expected)


def test_error_names_missing_arrays(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, x_train=np.zeros((1, 1)), y_train=np.zeros(1))
    assert refusal(path) == "has no x_test, y_test, but ['x_train', 'y_train']"


def test_rejects_other_and_damaged_files(tmp_path):
    path = tmp_path / "a.npz"
    assert refusal(path).startswith("cannot be read: ")
    save(path)
    whole = path.read_bytes()
    for content in (
        b"",
        b"text",
        whole[: len(whole) // 2],
        whole.replace(bytes(range(24)), b"x" * 24),
    ):
        path.write_bytes(content)
        assert "not an intact" in refusal(path)


@pytest.mark.parametrize(
    ("member", "expected"),
    [
        (b"no header", "x_train: is not a plain array in NumPy's .npy format"),
        (b"\x93NUMPY\x01\x00\xff\xff{'descr'", "x_train: is not a"),
        (b"", "x_train: is not a"),
        ((1 << 40, 6), "x_train: its header promises 6,597,069,766,784 bytes, but it has 152"),
        ((3, 8, 2), "x_train: its header promises 176"),
        ((-4, -6), "x_train: is empty: its shape is (-4, -6)"),
    ],
)
def test_rejects_wrong_headers(tmp_path, member, expected):
    path = tmp_path / "a.npz"
    if isinstance(member, tuple):
        header = {"descr": "|u1", "fortran_order": False, "shape": member}
        stream = io.BytesIO()
        np.lib.format.write_array_header_1_0(stream, header)
        member = stream.getvalue() + bytes(24)
    np.savez(path, **{key: a for key, a in good_arrays().items() if key != "x_train"})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("x_train.npy", member)
    assert refusal(path).startswith(expected)


# ---- samples to predict -----------------------------------------------------------------------


X = np.arange(28).reshape(7, 4)


def refused_samples(path: Path, inputs: int = 4) -> str:
    """Return the error message for samples, without the path; assert that it is one line."""
    with pytest.raises(DataError) as caught:
        list(read_npz(path, inputs))
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "\n" not in message
    return message.removeprefix(f"{path}: ")


@pytest.mark.parametrize("save_arrays", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("dtype", ["u1", "<f4", ">f8", "i8", "?"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_yields_samples_in_blocks(tmp_path, monkeypatch, save_arrays, dtype, order):
    monkeypatch.setattr(samples, "BLOCK_ROWS", 3)
    x = np.array(X % 3, dtype, order=order)
    save_arrays(tmp_path / "a.npz", x=x)
    blocks = list(read_npz(tmp_path / "a.npz", 4))
    assert [block.shape for block in blocks] == [(3, 4), (3, 4), (1, 4)]
    assert {block.dtype for block in blocks} == {np.dtype("u1" if dtype == "u1" else "f4")}
    np.testing.assert_array_equal(np.concatenate(blocks), x)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": X, "y": X}, []),
        ({"x": X, "x_test": X + 1, "x_train": X + 1}, []),
        ({"anything": X}, []),
        ({"data": X, "labels": X[:, 0], "names": np.array([["a"]])}, []),
        ({"images": X.reshape(7, 2, 2), "labels": X[:, 0]}, []),
        ({"x_test": X}, []),
        ({"x_test": X, "x_train": X + 1}, ["{path} has 2 arrays; predictions are made for x_test"]),
    ],
)
def test_finds_the_array_of_samples(tmp_path, arrays, message):
    path = tmp_path / "a.npz"
    np.savez(path, **arrays)
    said = []
    np.testing.assert_array_equal(np.concatenate(list(read_npz(path, 4, said.append))), X)
    assert said == [line.format(path=path) for line in message]


@pytest.mark.parametrize(
    ("arrays", "expected"),
    [
        ({"a": X, "b": X}, "has no array x or x_test"),
        ({"a": X[0], "b": X[0]}, "has no array x or x_test"),
        (
            {},
            "has no array x or x_test, nor a single array of two or more dimensions, but []",
        ),
        ({f"a{i}": X[0] for i in range(70)} | {"b": X}, "has no array x or x_test"),
        ({"a": X[0]}, "a: has the shape (4,), expected (n, 4)"),
        ({"x": X[:, :3]}, "x: has 3 features per row, but the model takes 4"),
        ({"x": X.astype(str)}, "x: has the dtype <U21"),
        ({"x": X.astype(object)}, "x: has Python objects"),
        ({"x": X * [[np.nan]]}, "x: row 0 has NaN"),
        ({"x": np.where(X == 26, 1e39, X)}, "x: row 6 has NaN, infinity or a number beyond"),
    ],
)
def test_rejects_samples(tmp_path, monkeypatch, arrays, expected):
    monkeypatch.setattr(samples, "BLOCK_ROWS", 3)
    np.savez(tmp_path / "a.npz", **arrays)
    assert refused_samples(tmp_path / "a.npz").startswith(expected)


def test_rejects_large_arrays_in_fortran_order(tmp_path, monkeypatch):
    monkeypatch.setattr(npz, "_FORTRAN_BYTES", 100)
    np.savez(tmp_path / "a.npz", x=np.asfortranarray(X))
    assert refused_samples(tmp_path / "a.npz").startswith("x: is in Fortran order and has ")
    np.savez(tmp_path / "a.npz", x=X)
    assert len(list(read_npz(tmp_path / "a.npz", 4))) == 1


def test_rejects_archives(tmp_path):
    path = tmp_path / "a.npz"
    assert refused_samples(path) == "cannot be read: No such file or directory"
    np.savez(path, x=X)
    whole = path.read_bytes()
    path.write_bytes(whole.replace(X.tobytes(), X[::-1].tobytes()))
    assert refused_samples(path).startswith("is not an intact .npz archive: Bad CRC-32")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("x.npy", b"")
    assert refused_samples(path).startswith("x: is not stored or compressed as np.savez")
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(9_000):
            archive.writestr(f"{number:080}", b"")
    assert refused_samples(path) == "its directory has more than 1,048,576 bytes"


@settings(max_examples=200, deadline=None)
@given(
    at=st.integers(0, 1700),
    patch=st.binary(min_size=1, max_size=8),
    compressed=st.booleans(),
)
def test_any_bytes_are_loaded_or_raise_a_data_error(scratch, at, patch, compressed):
    path = scratch / "a.npz"
    (np.savez_compressed if compressed else np.savez)(path, **good_arrays())
    whole = path.read_bytes()
    path.write_bytes(whole[:at] + patch + whole[at + len(patch) :])
    try:
        data = load_npz(path)
    except DataError as error:
        assert "\n" not in str(error)
    else:
        assert len(data.x_train) == len(data.y_train)
    try:
        assert np.concatenate(list(read_npz(path, 6))).shape[1] == 6
    except DataError as error:
        assert "\n" not in str(error)
