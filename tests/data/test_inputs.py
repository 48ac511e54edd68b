"""Conversion of a user's arrays, and errors that name the array and the place."""

import numpy as np
import pytest

from fastnn import Network
from fastnn.data.conversion import as_data, as_features, as_labels, as_values, as_weights
from fastnn.data.splitting import split
from fastnn.errors import DataError
from fastnn.model.losses import LOSSES

VALUES = [[0, 1, 2], [3, 250, 255]]


def unaligned(array: np.ndarray) -> np.ndarray:
    """Return a copy that begins one byte after an aligned address."""
    raw = np.zeros(array.nbytes + 1, np.uint8)
    raw[1:] = np.frombuffer(array.tobytes(), np.uint8)
    copy = raw[1:].view(array.dtype).reshape(array.shape)
    assert not copy.flags.aligned
    return copy


def read_only(array: np.ndarray) -> np.ndarray:
    array = array.copy()
    array.setflags(write=False)
    return array


LAYOUTS = {
    "C order": np.ascontiguousarray,
    "Fortran order": np.asfortranarray,
    "every second row": lambda a: np.repeat(a, 2, axis=0)[::2],
    "every second column": lambda a: np.repeat(a, 2, axis=1)[:, ::2],
    "backwards": lambda a: a[::-1, ::-1].copy()[::-1, ::-1],
    "read-only": read_only,
    "read-only Fortran order": lambda a: read_only(np.asfortranarray(a)),
    "list": lambda a: a.tolist(),
}


def assert_ready(features, expected, dtype):
    """Check the values, and the form that kernels rely on."""
    assert type(features) is np.ndarray
    assert features.dtype == dtype and features.dtype.isnative
    assert features.flags.c_contiguous and features.flags.aligned
    np.testing.assert_array_equal(features, np.asarray(expected).astype(dtype), strict=True)


# ---- features -------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize(
    "dtype", ["?", "i1", "<i2", ">i2", "u2", "<i4", "i8", ">u8", "f2", "<f4", ">f4", "<f8", ">f8"]
)
def test_features_of_any_real_dtype_and_layout_become_float32(layout, dtype):
    array = np.array(VALUES).astype(dtype)
    assert_ready(as_features(layout(array), 3), array, np.float32)


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "list"])
def test_uint8_features_stay_uint8_in_any_layout(layout):
    array = np.array(VALUES, np.uint8)
    assert_ready(as_features(LAYOUTS[layout](array), 3), array, np.uint8)


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", "<i8"])
def test_unaligned_features_become_aligned(dtype):
    array = np.array(VALUES, dtype)
    assert_ready(as_features(unaligned(array), 3), array, np.float32)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("make", [np.array, read_only], ids=["writable", "read-only"])
def test_features_of_the_right_form_are_not_copied(dtype, make):
    array = make(np.array(VALUES, dtype))
    assert as_features(array, 3) is array


def test_the_features_of_the_user_are_not_changed():
    array = np.asfortranarray(np.array(VALUES, np.float64))
    before = array.copy()
    as_features(array, 3)[...] = -1
    np.testing.assert_array_equal(array, before)


def test_float64_is_rounded_to_float32():
    assert as_features([[0.1, 1 + 2**-30]], 2).tolist() == [[float(np.float32(0.1)), 1.0]]


def test_accepts_the_limits_of_float32():
    limits = np.finfo(np.float32)
    values = [[limits.max, limits.min, limits.smallest_subnormal, -0.0]]
    assert as_features(np.array(values, np.float64), 4).tolist() == values


@pytest.mark.parametrize(
    ("x", "got"),
    [
        ([1.0, 2.0, 3.0], (3,)),
        (5.0, ()),
        (np.zeros((2, 3, 1)), (2, 3, 1)),
        (np.zeros((2, 4)), (2, 4)),
        (np.zeros((3, 2)), (3, 2)),
        ([[]], (1, 0)),
    ],
    ids=str,
)
def test_rejects_features_of_another_shape(x, got):
    with pytest.raises(DataError) as caught:
        as_features(x, 3, "validation x")
    assert str(caught.value) == f"validation x must have shape (rows, 3), got {got}"


def test_rejects_features_without_rows():
    with pytest.raises(DataError, match="^x has no rows$"):
        as_features(np.zeros((0, 3)), 3)


@pytest.mark.parametrize(
    "x",
    [
        [["1", "2"]],
        np.array([[1, 2]], object),
        [[1, None]],
        [[1j, 2]],
        [[10**40, 1]],  # an array of objects
        np.zeros((1, 2), "M8[D]"),
        np.zeros((1, 2), "m8[s]"),
        np.zeros((1, 2), [("field", "f4")]),
    ],
    ids=lambda x: str(np.asarray(x).dtype),
)
def test_rejects_features_that_are_not_real_numbers(x):
    with pytest.raises(DataError) as caught:
        as_features(x, 2)
    assert str(caught.value) == f"x must hold real numbers, got dtype {np.asarray(x).dtype}"


def test_rejects_rows_of_different_lengths():
    with pytest.raises(DataError, match="^x "):
        as_features([[1, 2], [3]], 2)


@pytest.mark.parametrize(
    ("bad", "shown"),
    [(np.nan, "nan"), (np.inf, "inf"), (-np.inf, "-inf"), (1e39, "inf"), (-1e300, "-inf")],
)
@pytest.mark.parametrize("row", [0, 1, 4095, 4096, 9999])
def test_error_names_the_first_number_not_finite_in_float32(bad, shown, row):
    x = np.zeros((10_000, 3))
    x[row, 2] = bad
    x[row + 1 :, 0] = np.nan
    with pytest.raises(DataError) as caught:
        as_features(x, 3)
    assert str(caught.value) == (
        f"x must be finite in float32, found {shown} in row {row}, column 2"
    )


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "g"])
def test_rejects_nan_in_every_float_dtype(dtype):
    with pytest.raises(DataError, match="found nan in row 1, column 0$"):
        as_features(np.array([[1, 2], [np.nan, 3]], dtype), 2)


def test_rejects_a_signalling_nan():
    signalling = np.array([[0x7FF0000000000001]], np.uint64).view(np.float64)
    with pytest.raises(DataError, match="found nan in row 0, column 0$"):
        as_features(signalling, 1)


# ---- labels ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "dtype", ["i1", "u1", "<i2", ">i2", "<i4", ">i4", "<i8", ">u8", "f2", "<f4", ">f8"]
)
def test_labels_of_any_dtype_become_int32(dtype):
    labels = [0, 3, 1, 2]
    for array in (
        np.array(labels, dtype),
        np.repeat(np.array(labels, dtype), 3)[::3],
        read_only(np.array(labels, dtype)),
    ):
        assert_ready(as_labels(array, 4, 4), labels, np.int32)


def test_accepts_lists_and_bools_as_labels():
    assert_ready(as_labels([1, 0, 1], 3, 2), [1, 0, 1], np.int32)
    assert_ready(as_labels([True, False], 2, 2), [1, 0], np.int32)


def test_labels_are_always_copied():
    labels = np.array([0, 1, 2], np.int32)
    checked = as_labels(labels, 3, 3)
    labels[:] = 7
    assert_ready(checked, np.array([0, 1, 2]), np.int32)


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_unaligned_labels_become_aligned(dtype):
    labels = np.array([0, 3, 1, 2], dtype)
    assert_ready(as_labels(unaligned(labels), 4, 4), labels, np.int32)


@pytest.mark.parametrize(("labels", "rows"), [([], 1), ([0, 1], 3), ([0, 1, 0], 2)], ids=str)
def test_rejects_a_wrong_number_of_labels(labels, rows):
    with pytest.raises(DataError) as caught:
        as_labels(labels, rows, 2, "validation y")
    assert str(caught.value) == f"validation y has {len(labels)} labels for {rows} rows"


@pytest.mark.parametrize("labels", [1, [[0], [1]], [[0, 1]], np.eye(2)], ids=str)
def test_rejects_labels_that_are_not_one_dimensional(labels):
    with pytest.raises(DataError) as caught:
        as_labels(labels, 2, 2)
    assert str(caught.value) == f"y must be one-dimensional, got shape {np.shape(labels)}"


@pytest.mark.parametrize(
    "labels", [["0", "1"], [b"0", b"1"], np.array([0, 1], object), [0j, 1], [0, None]], ids=str
)
def test_rejects_labels_that_are_not_numbers(labels):
    with pytest.raises(DataError) as caught:
        as_labels(labels, 2, 2)
    assert str(caught.value) == f"y must hold class numbers, got dtype {np.asarray(labels).dtype}"


def test_rejects_ragged_labels():
    with pytest.raises(DataError, match="^y "):
        as_labels([[0, 1], [1]], 2, 2)


@pytest.mark.parametrize(
    ("bad", "dtype", "shown"),
    [
        (-1, "i8", "-1"),
        (4, "u1", "4"),
        (2**32, "i8", "4294967296"),  # 0 in 32 bits
        (2**64 - 1, "u8", "18446744073709551615"),  # -1 in 64 bits
        (0.5, "f4", "0.5"),
        (-0.5, "f8", "-0.5"),
        (3.5, "f8", "3.5"),
        (np.nan, "f8", "nan"),
        (np.inf, "f4", "inf"),
        (-np.inf, "f8", "-inf"),
    ],
)
def test_error_names_the_first_invalid_label(bad, dtype, shown):
    labels = np.array([0, 3, bad, 1, bad], dtype)
    with pytest.raises(DataError) as caught:
        as_labels(labels, 5, 4)
    assert str(caught.value) == (f"y must hold whole numbers from 0 to 3, found {shown} in row 2")


# ---- values ---------------------------------------------------------------------------------

SQUARED = LOSSES["squared_error"]


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("dtype", ["?", "i1", "u1", ">i2", "i8", "f2", "<f4", ">f8"])
def test_values_of_any_dtype_and_layout_become_float32(layout, dtype):
    array = np.array(VALUES).astype(dtype)
    assert_ready(as_values(layout(array), 2, 3, SQUARED), array, np.float32)


def test_values_of_the_right_form_are_not_copied():
    values = read_only(np.array(VALUES, np.float32))
    assert as_values(values, 2, 3, SQUARED) is values


def test_one_output_accepts_one_or_two_dimensions():
    for values in ([1, 2, 3], [[1], [2], [3]], np.array([1, 9, 2, 9, 3, 9])[::2]):
        assert_ready(as_values(values, 3, 1, SQUARED), [[1], [2], [3]], np.float32)


@pytest.mark.parametrize(
    ("y", "outputs", "got"),
    [
        ([1.0, 2.0], 2, (2,)),
        (np.zeros((2, 3)), 2, (2, 3)),
        (np.zeros((2, 1, 1)), 1, (2, 1, 1)),
        (np.zeros((2, 2)), 1, (2, 2)),
        (5.0, 1, ()),
    ],
    ids=str,
)
def test_rejects_values_of_another_shape(y, outputs, got):
    with pytest.raises(DataError) as caught:
        as_values(y, 2, outputs, SQUARED, "validation y")
    assert str(caught.value) == f"validation y must have shape (rows, {outputs}), got {got}"


@pytest.mark.parametrize("y", [[1.0], [1.0, 2.0, 3.0]], ids=str)
def test_rejects_a_wrong_number_of_values(y):
    with pytest.raises(DataError) as caught:
        as_values(y, 2, 1, SQUARED)
    assert str(caught.value) == f"y has {len(y)} rows for 2 rows of features"
    with pytest.raises(DataError, match="^y has no rows$"):
        as_values(np.zeros((0, 1)), 2, 1, SQUARED)


@pytest.mark.parametrize("y", [["1", "2"], [1, None], [1j, 2], np.array([1, 2], object)], ids=str)
def test_rejects_values_that_are_not_real_numbers(y):
    with pytest.raises(DataError, match="^y must hold real numbers"):
        as_values(y, 2, 1, SQUARED)


@pytest.mark.parametrize(("bad", "shown"), [(np.nan, "nan"), (-np.inf, "-inf"), (1e39, "inf")])
def test_error_names_the_first_value_that_is_not_finite(bad, shown):
    with pytest.raises(DataError, match=f"^y must be finite .* {shown} in row 1, column 1$"):
        as_values([[1, 2], [3, bad]], 2, 2, SQUARED)


@pytest.mark.parametrize(
    ("loss", "low", "high", "allowed"),
    [
        ("logistic", 0, 1, "from 0 to 1"),
        ("poisson", 0, np.inf, "of at least 0"),
        ("squared_error", -np.inf, np.inf, ""),
        ("absolute_error", -np.inf, np.inf, ""),
        ("huber", -np.inf, np.inf, ""),
    ],
)
def test_rejects_values_out_of_range_for_the_loss(loss, low, high, allowed):
    for value in (-2.5, 0, 0.5, 1, 2.5, 3e38):
        given = [[0.25, 1], [value, 0.5]]
        if low <= value <= high:
            assert_ready(as_values(given, 2, 2, LOSSES[loss]), given, np.float32)
            continue
        with pytest.raises(DataError) as caught:
            as_values(given, 2, 2, LOSSES[loss])
        assert str(caught.value) == (
            f"y must hold numbers {allowed} for this loss, found {value:g}"
        )


# ---- data of a fit --------------------------------------------------------------------------


def test_the_loss_decides_between_labels_and_values():
    labels = as_data([[1, 2]], [1], 2, 3, LOSSES["cross_entropy"])
    assert labels.targets.dtype == np.int32 and labels.targets.shape == (1,)
    assert labels.weights is None and labels.total_weight == 1
    values = as_data([[1, 2]], [[1, 0, 1]], 2, 3, LOSSES["logistic"], sample_weight=[0.5])
    assert values.targets.dtype == np.float32 and values.targets.shape == (1, 3)
    assert values.weights.dtype == np.float32 and values.total_weight == 0.5


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"x": [[1]]}, "validation x must have shape"),
        ({"y": [3]}, "validation y must hold whole numbers"),
        ({"sample_weight": [1, 2]}, "validation sample_weight must have shape"),
    ],
)
def test_error_starts_with_the_given_name(given, message):
    given = {"x": [[1, 2]], "y": [0], **given}
    with pytest.raises(DataError, match=f"^{message}"):
        as_data(**given, inputs=2, outputs=3, loss=LOSSES["cross_entropy"], name="validation ")


@pytest.mark.parametrize("fraction", [0, 0.0, 1, 1.0, -0.1, float("nan"), "0.1", None])
def test_rejects_fractions_that_leave_a_part_empty(fraction):
    loss = LOSSES["cross_entropy"]
    data = as_data([[1, 2]] * 4, [0, 1, 0, 1], 2, 2, loss)
    with pytest.raises(ValueError, match="^validation_fraction must be between 0 and 1, got "):
        split(data, fraction, loss, seed=0)


# ---- masked arrays --------------------------------------------------------------------------


def masked(values, *places):
    array = np.ma.array(values, mask=False)
    for place in places:
        array[place] = np.ma.masked
    return array


def test_rejects_masked_elements_everywhere(engine):
    x, y, weights = np.arange(12.0).reshape(6, 2), np.arange(6) % 2, np.ones(6)
    bad = {
        "x": masked(x, (3, 1)),
        "y": masked(y, 2),
        "sample_weight": masked(weights, 0),
    }
    network = Network([2, 2])
    for name, values in bad.items():
        message = rf"^{name} has masked elements \(1 of {values.size}\): fill them, for example "
        given = {"x": x, "y": y, "sample_weight": weights, name: values}
        with pytest.raises(DataError, match=message):
            network.fit(**given, engine=engine)
        with pytest.raises(DataError, match=message):
            network.evaluate(**given)
        with pytest.raises(DataError, match="^validation " + message[1:]):
            network.fit(x, y, validation_data=tuple(given.values()), engine=engine)
    for predict in (network.predict, network.predict_proba):
        with pytest.raises(DataError, match="^x has masked elements"):
            predict(bad["x"])
    regression = Network([2, 1], loss="squared_error")
    with pytest.raises(DataError, match="^y has masked elements"):
        regression.fit(x, masked(y * 1.0, 2), engine=engine)
    assert network.epochs_trained == regression.epochs_trained == 0


def test_accepts_masked_arrays_without_masked_elements(engine):
    x, y, weights = np.arange(12.0).reshape(6, 2) / 12, np.arange(6) % 2, np.arange(6.0)
    plain, other = Network([2, 2]), Network([2, 2])
    plain.fit(x, y, sample_weight=weights, epochs=2, engine=engine)
    other.fit(masked(x), masked(y), sample_weight=masked(weights), epochs=2, engine=engine)
    assert (plain.predict_proba(x) == other.predict_proba(masked(x))).all()
    assert type(as_weights(masked(weights), 6)) is np.ndarray
