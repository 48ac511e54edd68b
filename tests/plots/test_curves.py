"""`fastnn.plots.curves`: the files and the content of the figures."""

import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import imread

from fastnn.plots import curves as plots
from fastnn.training.state import History

WIDTH = 1800
SECONDS = pytest.mark.process  # tests that take seconds


def history_of(epochs: int, *, seconds: float = 0.1) -> History:
    """Return the history of an invented run that improves each epoch."""
    error = 0.9 / np.arange(1.0, epochs + 1)
    return {
        "loss": list(2 * error),
        "accuracy": list(1 - error),
        "seconds": [seconds] * epochs,
        "val_loss": list(2.1 * error),
        "val_accuracy": list(1 - error),
    }


def lines(axes: Axes) -> dict[str, tuple[list[float], list[float]]]:
    return {
        str(line.get_label()): (
            np.asarray(line.get_xdata()).tolist(),
            np.asarray(line.get_ydata()).tolist(),
        )
        for line in axes.get_lines()
    }


@pytest.mark.parametrize("epochs", [0, 250])
def test_loss_accuracy_writes_a_png(tmp_path: Path, epochs: int) -> None:
    plots.loss_accuracy(history_of(epochs), tmp_path / "a.png", title="A run")
    assert imread(tmp_path / "a.png").shape[:2] == (720, WIDTH)


@pytest.mark.parametrize("epochs", [0, 250])
def test_comparison_writes_a_png(tmp_path: Path, epochs: int) -> None:
    histories = {"one": history_of(epochs), "other": history_of(30), "none": {}}
    plots.comparison(histories, tmp_path / "a.png")
    assert imread(tmp_path / "a.png").shape[:2] == (1280, WIDTH)


@SECONDS
def test_more_runs_than_line_styles_can_be_compared(tmp_path: Path, figures: list[Figure]) -> None:
    plots.comparison({f"run {i}": history_of(3) for i in range(9)}, tmp_path / "a.png")
    assert all(len(axes.get_lines()) == 9 for axes in figures[0].axes)


@SECONDS
def test_comparison_without_epochs_writes_a_png(tmp_path: Path) -> None:
    plots.comparison({"none": {}}, tmp_path / "a.png")
    assert imread(tmp_path / "a.png").shape[:2] == (1280, WIDTH)


def test_loss_accuracy_draws_and_returns_training_and_test(
    tmp_path: Path, figures: list[Figure]
) -> None:
    history = history_of(3)
    figure = plots.loss_accuracy(history, tmp_path / "a.png", title="A run")
    assert figures == [figure]
    loss, accuracy = map(lines, figures[0].axes)
    assert loss == {
        "training": ([1, 2, 3], history["loss"]),
        "test": ([1, 2, 3], history["val_loss"]),
    }
    assert accuracy["test"] == ([1, 2, 3], [100 * value for value in history["val_accuracy"]])


def test_validation_data_have_the_given_name(tmp_path: Path, figures: list[Figure]) -> None:
    plots.loss_accuracy(history_of(3), tmp_path / "a.png", title="A run", validation="validation")
    for axes in figures[0].axes:
        assert list(lines(axes)) == ["training", "validation"]


@pytest.mark.parametrize(("smallest", "most"), [(1e-2, 9), (1e-6, 7)])
@SECONDS
def test_loss_axis_has_a_readable_number_of_labels(
    smallest: float, most: int, tmp_path: Path, figures: list[Figure]
) -> None:
    history = {**history_of(9), "loss": list(np.geomspace(2, smallest, 9))}
    plots.comparison({"run": history}, tmp_path / "a.png")
    axes = figures[0].axes[2]
    low, high = axes.get_ylim()
    shown = [tick for tick in axes.get_yticks() if low <= tick <= high]
    assert 4 <= len(shown) <= most


@SECONDS
def test_history_without_validation_data_has_one_line(
    tmp_path: Path, figures: list[Figure]
) -> None:
    history = {name: history_of(2)[name] for name in ("loss", "accuracy", "seconds")}
    plots.loss_accuracy(history, tmp_path / "a.png", title="A run")
    for axes in figures[0].axes:
        assert list(lines(axes)) == ["training"]
        legend = axes.get_legend()
        assert legend is not None
        assert [text.get_text() for text in legend.get_texts()] == ["training"]


@SECONDS
def test_comparison_draws_against_epochs_and_total_seconds(
    tmp_path: Path, figures: list[Figure]
) -> None:
    plots.comparison({"run": history_of(3, seconds=0.5)}, tmp_path / "a.png")
    x = [lines(axes)["run"][0] for axes in figures[0].axes]
    assert x == [[1, 2, 3], [0.5, 1.0, 1.5]] * 2
    assert "epochs" in figures[0].axes[2].get_xlabel()
    assert "(s)" in figures[0].axes[3].get_xlabel()


@SECONDS
def test_accuracy_of_1_is_inside_the_axes(tmp_path: Path, figures: list[Figure]) -> None:
    history = {**history_of(2), "val_accuracy": [0.5, 1.0]}
    plots.comparison({"run": history}, tmp_path / "a.png")
    axes = figures[0].axes[0]
    below, above = axes.get_ylim()
    assert below > 0.5 > lines(axes)["run"][1][1] > above > 0


def test_single_epoch_is_visible(tmp_path: Path, figures: list[Figure]) -> None:
    plots.loss_accuracy(history_of(1), tmp_path / "a.png", title="A run")
    line = figures[0].axes[0].get_lines()[0]
    assert line.get_marker() == "o" and line.get_markevery() == 1


@pytest.mark.parametrize("epochs", [1, 250])
@SECONDS
def test_comparison_marks_the_first_and_the_last_epoch(
    tmp_path: Path, figures: list[Figure], epochs: int
) -> None:
    plots.comparison({"run": history_of(epochs)}, tmp_path / "b.png")
    marked: Any = figures[0].axes[0].get_lines()[0].get_markevery()
    assert (marked[0], marked[-1]) == (0, epochs - 1)
    assert len(marked) == min(epochs, len(marked)) <= 8


@SECONDS
def test_long_title_is_wrapped(tmp_path: Path, figures: list[Figure]) -> None:
    plots.loss_accuracy(history_of(2), tmp_path / "a.png", title="$x_1$" + " a long title" * 20)
    title = figures[0].get_suptitle()
    assert title.startswith("$x_1$ a long title")
    assert len(title.split("\n")) == 4
    assert imread(tmp_path / "a.png").shape[:2] == (720 + 3 * 40, WIDTH)


@SECONDS
def test_users_style_is_neither_used_nor_changed(tmp_path: Path) -> None:
    import matplotlib

    plots.loss_accuracy(history_of(2), tmp_path / "plain.png", title="A run")
    with matplotlib.rc_context({"figure.facecolor": "black", "font.size": 30}):
        plots.loss_accuracy(history_of(2), tmp_path / "styled.png", title="A run")
        assert matplotlib.rcParams["font.size"] == 30
    assert (tmp_path / "plain.png").read_bytes() == (tmp_path / "styled.png").read_bytes()


def test_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "a.png"
    target.write_bytes(b"old")

    def fail(figure: Figure, file: io.BytesIO, **options: Any) -> None:
        file.write(b"half a pict")
        raise OSError("torn")

    monkeypatch.setattr(Figure, "savefig", fail)
    with pytest.raises(OSError, match="torn"):
        plots.loss_accuracy(history_of(2), target, title="A run")
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    assert target.read_bytes() == b"old"


def test_missing_directory_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        plots.loss_accuracy(history_of(2), tmp_path / "none" / "a.png", title="A run")


@pytest.mark.process
def test_matplotlib_is_imported_at_the_first_plot_and_pyplot_never(tmp_path: Path) -> None:
    program = f"""
import sys
import numpy as np
from fastnn.plots import images as image_plots, curves as plots
assert "matplotlib" not in sys.modules
history = {history_of(2)!r}
plots.loss_accuracy(history, {str(tmp_path / "a.png")!r}, title="A run")
plots.comparison({{"run": history}}, {str(tmp_path / "b.png")!r})
w = np.eye(4)
path = {str(tmp_path / "c.png")!r}
image_plots.confusion_matrix([0, 1], [0, 1], path, title="A run", classes=2)
image_plots.first_layer_weights(w, {str(tmp_path / "d.png")!r}, shape=(2, 2), title="A run")
image_plots.most_wrong(w, [3] * 4, w, {str(tmp_path / "e.png")!r}, shape=(2, 2), title="A run")
assert "matplotlib" in sys.modules
assert "matplotlib.pyplot" not in sys.modules
"""
    program = program.replace("np.float64", "float")
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True, timeout=60)


@pytest.mark.process
def test_missing_backend_in_the_environment_is_ignored(tmp_path: Path) -> None:
    """Notebooks name one in the environment of the commands that they start."""
    for named, shown in (("not_there", "not_there False"), ("svg", "svg True")):
        program = """
import os
from fastnn.plots import curves as plots
plots.loss_accuracy({"loss": [1], "accuracy": [0], "seconds": [1]}, "a.png", title="a")
import matplotlib
named = os.environ["MPLBACKEND"]
print(named, named == matplotlib.get_backend().lower())
"""
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True,
            env=os.environ | {"MPLBACKEND": named, "DISPLAY": ""},
        )  # fmt: skip
        assert done.stdout == f"{shown}\n", done.stderr
        assert (tmp_path / "a.png").stat().st_size
