"""`fastnn.plots.images`: the content of the figures, and their readability."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text

from fastnn.errors import DataError
from fastnn.plots.images import confusion_matrix, first_layer_weights, most_wrong

SECONDS = pytest.mark.process  # tests that take seconds


def is_inside(figure: Figure) -> bool:
    """Return whether nothing is cut off at the edges of a figure."""
    box = figure.get_tightbbox()
    width, height = figure.get_size_inches()
    return min(box.x0, box.y0) >= 0 and box.x1 <= width and box.y1 <= height


def stand_apart(texts: Sequence[Text]) -> bool:
    """Return whether no text overlaps the next one."""
    texts[0].figure.draw_without_rendering()  # the file was drawn with more pixels per inch
    boxes = [text.get_window_extent() for text in texts if text.get_text()]
    return not any(box.overlaps(other) for box, other in pairwise(boxes))


def texts(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def shown(axes: Axes) -> np.ndarray:
    """Return the image of axes."""
    (image,) = axes.get_images()
    return np.asarray(image.get_array())


def contrast(color: Any, other: Any) -> float:
    """Return the contrast of two colours as WCAG 2.2 defines it, from 1 to 21."""
    rgb = np.array([to_rgb(color), to_rgb(other)])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    dark, light = sorted(linear @ (0.2126, 0.7152, 0.0722) + 0.05)
    return light / dark


def test_confusion_matrix_has_counts_and_colours_of_shares(
    tmp_path: Path, figures: list[Figure]
) -> None:
    labels, predicted = np.repeat([0, 0, 1], [30, 10, 1200]), np.repeat([0, 2, 1], [30, 10, 1200])
    confusion_matrix(labels, predicted, tmp_path / "a.png", title="A run", classes=3)
    axes = figures[0].axes[0]
    assert texts(axes) == ["30", "0", "10", "0", "1,200", "0", "0", "0", "0"]
    assert shown(axes).tolist() == [[0.75, 0, 0.25], [0, 1, 0], [0, 0, 0]]
    assert axes.get_images()[0].get_clim() == (0, 1)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted class", "true class")
    assert [text.get_text() for text in axes.get_xticklabels()] == ["0", "1", "2"]
    assert figures[0].get_suptitle() == "A run"


@pytest.mark.parametrize(
    "classes", [1, 2, 21, *(pytest.param(many, marks=SECONDS) for many in (10, 20, 1000))]
)
def test_confusion_matrix_is_readable_for_any_number_of_classes(
    tmp_path: Path, figures: list[Figure], rng: np.random.Generator, classes: int
) -> None:
    labels = np.append(rng.integers(0, classes, 3000), classes - 1)
    predicted = np.where(rng.random(3001) < 0.8, labels, rng.integers(0, classes, 3001))
    confusion_matrix(labels, predicted, tmp_path / "a.png", title="A run", classes=classes)
    axes = figures[0].axes[0]
    image = axes.get_images()[0]
    assert shown(axes).shape == (classes, classes)
    assert len(axes.texts) == (classes**2 if classes <= 20 else 0)
    for text, share in zip(axes.texts, shown(axes).ravel(), strict=False):
        assert contrast(text.get_color(), image.to_rgba(np.array([share]))[0]) >= 4.5
    for numbers in (axes.get_xticklabels(), axes.get_yticklabels()):
        assert 0 < len(numbers) <= 20
        assert stand_apart(numbers)
    assert is_inside(figures[0])


def test_classes_need_not_all_occur(tmp_path: Path, figures: list[Figure]) -> None:
    confusion_matrix([0, 1], [0, 0], tmp_path / "a.png", title="A run", classes=3)
    assert shown(figures[0].axes[0]).shape == (3, 3)


@pytest.mark.parametrize(
    ("labels", "predicted", "classes", "message"),
    [
        ([], [], 2, "labels has no rows"),
        ([0, 1], [0], 2, "predicted has 1 labels for 2 rows"),
        ([0, -1], [0, 1], 2, "found -1 in row 1"),
        ([0, 1], [0, 0.5], 2, "predicted must hold whole numbers"),
        ([0, 2], [0, 1], 2, "labels must hold whole numbers from 0 to 1, found 2"),
        ([0, 1000], [0, 0], 1000, "from 0 to 999"),
        ([0, 1], [0, 0], 1001, "classes must be at most 1,000"),
    ],
)
def test_confusion_matrix_rejects_invalid_classes(
    tmp_path: Path, labels: Any, predicted: Any, classes: Any, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        confusion_matrix(labels, predicted, tmp_path / "a.png", title="A run", classes=classes)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "units", [1, 5, *(pytest.param(many, marks=SECONDS) for many in (64, 300))]
)
def test_first_layer_weights_draws_the_largest_with_one_scale(
    tmp_path: Path, figures: list[Figure], rng: np.random.Generator, units: int
) -> None:
    w = rng.normal(size=(12, units)).astype(np.float32)
    first_layer_weights(w, tmp_path / "a.png", shape=(3, 4), title="A run")
    smallest = np.sort(np.linalg.norm(w, axis=0))[-64:][0]
    expected = [unit for unit in range(units) if np.linalg.norm(w[:, unit]) >= smallest]
    *tiles, bar = figures[0].axes
    assert [axes.get_xlabel() for axes in tiles] == [str(unit) for unit in expected]
    for unit, axes in zip(expected, tiles, strict=True):
        assert (shown(axes) == w[:, unit].reshape(3, 4)).all()
    ((low, high),) = {axes.get_images()[0].get_clim() for axes in tiles}
    assert low == -high
    assert 0.99 <= np.mean(np.abs(w[:, expected]) <= high) < 1 or units < 17
    assert bar.get_ylabel() == "weight"
    note = figures[0].get_supxlabel()
    largest = "the 64 of 300 units with the largest weights"
    assert note == (largest if units == 300 else f"all {units} units with their numbers")
    assert is_inside(figures[0])


@pytest.mark.parametrize(
    ("shape", "units"),
    [
        ((1, 60), 1),
        ((60, 1), 1),
        ((20, 3), 1),
        pytest.param((1, 60), 64, marks=SECONDS),
        pytest.param((60, 1), 64, marks=SECONDS),
        pytest.param((20, 3), 64, marks=SECONDS),
    ],
)
def test_images_of_any_shape_are_readable(
    tmp_path: Path,
    figures: list[Figure],
    rng: np.random.Generator,
    shape: tuple[int, int],
    units: int,
) -> None:
    w = rng.normal(size=(60, units))
    first_layer_weights(w, tmp_path / "a.png", shape=shape, title="long " * 60)
    most_wrong(w.T, [1] * units, np.eye(2)[[0] * units], tmp_path / "b.png", shape=shape, title="A")
    for figure in figures:
        assert is_inside(figure)
        assert stand_apart([axes.xaxis.label for axes in figure.axes])


def test_weights_of_zero_have_a_colour_scale(tmp_path: Path, figures: list[Figure]) -> None:
    first_layer_weights(np.zeros((4, 2)), tmp_path / "a.png", shape=(2, 2), title="A run")
    assert figures[0].axes[0].get_images()[0].get_clim() == (-1, 1)


@pytest.mark.parametrize(
    "w", [np.ones(4), np.ones((5, 2)), np.ones((4, 0)), np.full((4, 1), np.nan)]
)
def test_first_layer_weights_rejects_other_shapes_and_nan(tmp_path: Path, w: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"w must (have shape \(4, units\), got|be finite)"):
        first_layer_weights(w, tmp_path / "a.png", shape=(2, 2), title="A run")


def test_most_wrong_draws_the_most_probable_mistakes_first(
    tmp_path: Path, figures: list[Figure]
) -> None:
    images = np.arange(20, dtype=np.uint8).reshape(5, 4)
    probabilities = np.array([[0.9, 0.1], [0.6, 0.4], [0.002, 0.998], [0.2, 0.8], [0.4, 0.6]])
    most_wrong(
        images, [0, 1, 0, 1, 0], probabilities, tmp_path / "a.png", shape=(2, 2), title="A run"
    )
    wrong = figures[0].axes
    assert [axes.get_xlabel() for axes in wrong] == [
        "0 → 1, 99.8%",
        "1 → 0, 60.0%",
        "0 → 1, 60.0%",
    ]
    assert [shown(axes).ravel().tolist() for axes in wrong] == images[[2, 1, 4]].tolist()
    assert {axes.get_images()[0].get_clim() for axes in wrong} == {(0, 19)}
    assert figures[0].get_supxlabel().endswith("; 3 of 5 rows are misclassified")


@SECONDS
def test_most_wrong_draws_at_most_24(tmp_path: Path, figures: list[Figure]) -> None:
    sure = np.linspace(0.6, 0.9, 30)
    probabilities = np.stack([1 - sure, sure], axis=1)
    most_wrong(
        np.eye(30, 4), [0] * 30, probabilities, tmp_path / "a.png", shape=(2, 2), title="A run"
    )
    assert [axes.get_xlabel() for axes in figures[0].axes] == [
        f"0 → 1, {percent:.1f}%" for percent in 100 * sure[:5:-1]
    ]
    assert "30 of 30 rows" in figures[0].get_supxlabel()
    assert is_inside(figures[0])


def test_most_wrong_without_mistakes_says_so(tmp_path: Path, figures: list[Figure]) -> None:
    most_wrong(np.eye(4), range(4), np.eye(4), tmp_path / "a.png", shape=(2, 2), title="A run")
    assert [text.get_text() for text in figures[0].texts] == [
        "A run",
        "all 4 rows are classified correctly",
    ]
    assert not figures[0].axes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shape": (2, 3)}, r"images must have shape \(rows, 6\), got \(4, 4\)"),
        ({"labels": [0, 1, 2]}, "labels has 3 labels for 4 rows"),
        ({"labels": [0, 1, 2, 4]}, "found 4 in row 3"),
        ({"probabilities": np.eye(3, 4)}, "3 rows of probabilities for 4 images"),
        ({"probabilities": np.full((4, 4), np.nan)}, "probabilities must be finite"),
    ],
)
def test_most_wrong_rejects_arrays_that_do_not_match(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    given = {"images": np.eye(4), "labels": [0] * 4, "probabilities": np.eye(4), "shape": (2, 2)}
    with pytest.raises(DataError, match=message):
        most_wrong(**{**given, **change}, path=tmp_path / "a.png", title="A run")
