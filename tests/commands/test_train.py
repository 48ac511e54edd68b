"""`fastnn.train`: its output, log, plots and trained networks.

Tests of pipes, signals and encodings start a process; the others call the command. They use the
reference engine, which does not compile.
"""

import errno
import os
import sys
import warnings
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from command_line import (
    ROWS,
    TEST_ROWS,
    arguments,
    assert_one_line,
    events,
    run,
    small_arrays,
    start,
)
from matplotlib.figure import Figure

import fastnn
from fastnn import EarlyStopping, Network, engine
from fastnn.commands import train
from fastnn.data import sets as datasets
from fastnn.model.optimizers import OPTIMIZERS
from fastnn.plots import curves

# Standard output


@pytest.mark.process
def test_output_to_a_pipe_is_plain_ascii(folder: Path) -> None:
    done = run(*arguments())
    lines = done.stdout.splitlines()
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout and done.stdout.isascii()
    assert lines[0] == "network   4-128-64-3, relu, 9,091 parameters"
    assert lines[1] == "data      small: 60 training, 20 test rows"
    assert lines[2].endswith("../small.npz")
    assert "batches   all 60 rows (fewer than 128), 1 update per epoch" in lines
    header = next(i for i, line in enumerate(lines) if line.startswith("epoch"))
    rows = [line.split() for line in lines[header + 1 : header + 4]]
    assert [row[0] for row in rows] == ["1", "2", "3"]
    assert {len(line) for line in lines[header : header + 4]} == {len(lines[header])}
    assert lines[-1] == f"test accuracy {rows[-1][4]}, test loss {rows[-1][3]}, after 3 epochs"


@pytest.mark.process
def test_table_rows_are_flushed(folder: Path) -> None:
    process = start(*arguments(epochs=1_000_000))
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("    3"):
            break
    process.kill()
    process.communicate()
    assert line.startswith("    3")


@pytest.mark.process
def test_quiet_prints_only_the_last_line(folder: Path) -> None:
    loud, quiet = run(*arguments()), run(*arguments("--quiet"))
    assert quiet.stdout.splitlines() == loud.stdout.splitlines()[-1:]
    assert quiet.stderr == ""


def test_seed_determines_the_result(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = []
    for seed in ("7", "7", "8"):
        assert train.main(arguments("--quiet", "--seed", seed)) == 0
        results.append(capsys.readouterr().out)
    assert results[0] == results[1] != results[2]


def test_batch_size_above_the_number_of_rows_is_full(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outputs = {}
    for size in ("full", "60", "5000", "59"):
        assert train.main(arguments("--batch-size", size)) == 0
        outputs[size] = capsys.readouterr().out.splitlines()
    assert outputs["5000"][-1] == outputs["60"][-1] == outputs["full"][-1] != outputs["59"][-1]
    assert "batches   all 60 rows (fewer than 5,000), 1 update per epoch" in (outputs["5000"])
    assert "batches   all 60 rows, 1 update per epoch" in outputs["full"]
    assert "batches   59 rows, 2 updates per epoch" in outputs["59"]


def test_network_without_hidden_layers(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main(arguments("--hidden", "")) == 0
    assert "network   4-3, 15 parameters" in capsys.readouterr().out


@pytest.mark.parametrize("quiet", [False, True])
def test_prints_the_note_of_the_data_set(
    quiet: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = datasets.Dataset(
        name="digits",
        **small_arrays(),
        scale=1.0,
        source="here",
        image_shape=None,
        n_classes=3,
        note="no MNIST",
    )
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **options: data)
    assert train.main(arguments("--quiet") if quiet else arguments()) == 0
    assert capsys.readouterr().err == "fastnn.train: no MNIST\n" * (1 if quiet else 2)


def test_announces_compilation(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(engine, "needs_compiling", lambda name: True)
    assert train.main(arguments()) == 0
    assert capsys.readouterr().out.startswith("compiling the kernels")


@pytest.mark.process
def test_file_names_are_escaped_in_ascii_output(folder: Path) -> None:
    dataset = str(Path("../données ☃.npz"))
    np.savez(folder / dataset, **small_arrays())
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}
    done = run(*arguments(dataset=dataset), env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\\u2603.npz" in done.stdout or "\\udce2\\udc98\\udc83.npz" in done.stdout


# The log and the plots


def test_log_contains_settings_epochs_and_result(folder: Path) -> None:
    log = folder / "run.jsonl"
    log.write_text("of an earlier run\n" * 100)
    assert train.main(arguments("--batch-size", "8", "--log-json", str(log), "--quiet")) == 0
    begin, *epochs, result = events(log)
    assert (begin.pop("event"), begin.pop("schema")) == ("start", 1)
    assert begin.pop("versions").keys() >= {"fastnn", "python", "numpy"}
    assert Path(begin.pop("data_source")).name == "small.npz"
    assert begin == {
        "engine": "numpy",
        "dataset": "small",
        "layers": [4, 128, 64, 3],
        "activations": ["relu", "relu"],
        "dropout": [0.0, 0.0, 0.0],
        "parameters": 9091,
        "train_rows": ROWS,
        "validation_rows": 0,
        "test_rows": TEST_ROWS,
        "batch_size": 8,
        "epochs": 3,
        "optimizer": "sgd",
        "learning_rate": 0.1,
        "momentum": None,
        "weight_decay": 0.0,
        "l2": 0.0,
        "clip_norm": 0.0,
        "schedule": "constant",
        "warmup_epochs": 0.0,
        "class_weight": None,
        "validation_fraction": None,
        "early_stopping": False,
        "monitor": None,
        "patience": None,
        "min_delta": None,
        "seed": 0,
        "threads": None,
        "threading_layer": None,
    }
    names = ["event", "epoch", "loss", "accuracy", "test_loss", "test_accuracy", "val_loss"]
    names += ["val_accuracy", "learning_rate", "seconds", "samples_per_second"]
    assert [list(event) for event in epochs] == [names] * 3
    assert epochs[1]["samples_per_second"] == ROWS / epochs[1]["seconds"]
    assert {event["learning_rate"] for event in epochs} == {0.1}
    assert {event["val_loss"] for event in epochs} == {None}
    assert result.pop("total_seconds") > result.pop("train_seconds") > 0
    assert len(result.pop("weights_sha256")) == 64
    assert result == {
        "event": "result",
        "epochs_run": 3,
        "best_epoch": None,
        "test_loss": epochs[-1]["test_loss"],
        "test_accuracy": epochs[-1]["test_accuracy"],
        "compile_seconds": 0.0,
    }


def test_trains_like_network_fit(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--batch-size", "8", "--hidden", "5,4", "--learning-rate", "0.03", "--seed", "3"]
    options += ["--activation", "tanh,gelu", "--dropout", "0.1,0.2,0", "--optimizer", "momentum"]
    options += ["--momentum", "0.8", "--weight-decay", "0.01", "--l2", "0.001", "--clip-norm", "1"]
    options += ["--schedule", "cosine", "--warmup-epochs", "1", "--class-weight", "balanced"]
    assert train.main(arguments(*options, "--log-json", "log")) == 0
    data = small_arrays()
    network = Network([4, 5, 4, 3], activation=("tanh", "gelu"), dropout=(0.1, 0.2, 0), seed=3)
    history = network.fit(
        data["x_train"],
        data["y_train"],
        epochs=3,
        batch_size=8,
        optimizer="momentum",
        learning_rate=0.03,
        momentum=0.8,
        weight_decay=0.01,
        l2=0.001,
        clip_norm=1.0,
        schedule=fastnn.Schedule("cosine", warmup_epochs=1.0),
        class_weight="balanced",
        engine="numpy",
        validation_data=(data["x_test"], data["y_test"]),
    )
    _, *epochs, result = events(folder / "log")
    assert result["weights_sha256"] == network.weights_sha256()
    assert f"weights SHA-256 {network.weights_sha256()}" in capsys.readouterr().out.splitlines()
    for name in ("loss", "accuracy", "learning_rate"):
        assert [event[name] for event in epochs] == history[name]
    for name in ("loss", "accuracy"):
        assert [event[f"test_{name}"] for event in epochs] == history[f"val_{name}"]


@pytest.mark.process
def test_log_of_the_numba_engine(folder: Path) -> None:
    done = run(*arguments("--engine", "numba", "--threads", "1", "--log-json", "log"))
    assert (done.returncode, done.stderr) == (0, "")
    begin, *_, result = events(folder / "log")
    assert (begin["engine"], begin["threads"]) == ("numba", 1)
    assert "numba" in begin["versions"]
    assert begin["threading_layer"] in ("tbb", "omp", "workqueue")
    assert f"engine    numba, 1 thread ({begin['threading_layer']}), kernels" in done.stdout
    assert result["compile_seconds"] > 0


def test_plots_show_the_run(
    folder: Path, figures: list[Figure], capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.main(arguments("--plots", "new/plots", "--validation-fraction", "0.2")) == 0
    names = ["loss_accuracy.png", "confusion_matrix.png"]
    assert sorted(os.listdir("new/plots")) == sorted(names)
    wrote = [f"wrote {Path('new', 'plots', name)}" for name in names]
    *_, first, second, _ = lines = capsys.readouterr().out.splitlines()
    assert [first, second] == wrote
    curves, matrix = figures
    assert [line.get_label() for line in curves.axes[0].get_lines()] == ["training", "validation"]
    accuracy = lines[-1].split(",")[0]
    assert matrix.get_suptitle() == f"small, 4-128-64-3: {accuracy}"
    right = sum(int(matrix.axes[0].texts[4 * label].get_text()) for label in range(3))
    assert f"test accuracy {right / TEST_ROWS:.2%}" == accuracy


@pytest.mark.process  # it takes seconds
def test_plots_of_images(folder: Path, figures: list[Figure]) -> None:
    arrays = small_arrays()
    for name in ("x_train", "x_test"):
        arrays[name] = arrays[name].reshape(-1, 2, 2)
    np.savez("../images.npz", **arrays)
    assert train.main(arguments("--plots", ".", "--hidden", "5", dataset="../images.npz")) == 0
    pictures = {"loss_accuracy", "confusion_matrix", "first_layer_weights", "most_wrong"}
    assert {Path(name).stem for name in os.listdir(".")} == pictures
    _, _, weights, wrong = figures
    assert len(weights.axes) == 5 + 1  # a unit each, and the scale
    network = Network([4, 5, 3])
    network.fit(arrays["x_train"].reshape(-1, 4), arrays["y_train"], epochs=3, engine="numpy")
    image = weights.axes[2].images[0].get_array()
    assert image is not None
    assert image.data.tolist() == network.parameters[0][0][:, 2].reshape(2, 2).tolist()
    rows = (network.predict(arrays["x_test"].reshape(-1, 4)) != arrays["y_test"]).sum()
    assert f"{rows} of {TEST_ROWS}" in "".join(wrong.get_supxlabel())


@pytest.mark.parametrize(("plots", "has_window"), [(True, False), (False, True)])
def test_show_opens_the_curves_at_the_end(
    plots: bool,
    has_window: bool,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shown: list[tuple[Figure, str, list[str]]] = []

    def show(figure: Figure) -> bool:
        shown.append((figure, capsys.readouterr().out, os.listdir(folder)))
        return has_window

    drawn = Mock(wraps=curves.loss_accuracy)
    monkeypatch.setattr(curves, "loss_accuracy", drawn)
    monkeypatch.setattr("fastnn.plots.window.show", show)
    assert train.main(arguments("--show", *(["--plots", "."] if plots else []))) == 0
    assert drawn.call_count == 1  # one figure for the file and the window
    ((figure, output, files),) = shown
    assert [axes.get_xlabel() for axes in figure.axes] == ["epoch", "epoch"]
    assert output.splitlines()[-1].startswith("test accuracy")
    assert sorted(files) == (["confusion_matrix.png", "loss_accuracy.png"] if plots else [])
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == (not has_window)
    assert has_window or err.startswith("fastnn.train: warning: --show needs a notebook or a ")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems always have a display")
@pytest.mark.process
def test_show_without_a_display_is_a_warning(folder: Path) -> None:
    names = ("DISPLAY", "WAYLAND_DISPLAY", "MPLBACKEND")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    done = run(*arguments("--show", "--quiet"), env=environment)
    assert done.returncode == 0 and done.stdout.startswith("test accuracy")
    assert_one_line(done.stderr, error=False)


def test_no_confusion_matrix_for_too_many_classes(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastnn.plots.images.MOST_CLASSES", 2)
    assert train.main(arguments("--plots", ".")) == 0
    assert os.listdir(".") == ["loss_accuracy.png"]


def test_result_is_printed_if_a_plot_cannot_be_written(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "loss_accuracy.png" / "in the way").mkdir(parents=True)
    assert train.main(arguments("--plots", ".", "--log-json", "log")) == 1
    captured = capsys.readouterr()
    assert captured.out.splitlines()[-1].startswith("test accuracy")
    assert_one_line(captured.err)
    assert events(folder / "log")[-1]["event"] == "result"


# Saving


@pytest.mark.parametrize("quiet", [(), ("--quiet",)])
def test_saves_the_network_that_the_test_metrics_describe(
    quiet: tuple[str, ...], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arrays = small_arrays()
    arrays["y_train"][::4] = 0  # wrong labels, so that the network overfits
    np.savez("../noisy.npz", **arrays)
    argv = (*STOPPING, *quiet, "--save", "net", "--log-json", "log")
    assert train.main(arguments(*argv, dataset="../noisy.npz", epochs=100)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert quiet or lines[-2] == "wrote net"
    result = events(folder / "log")[-1]
    assert result["best_epoch"] < result["epochs_run"] == len(events(folder / "log")) - 2
    network = fastnn.load("net")
    assert isinstance(network, Network) and network.epochs_trained == result["epochs_run"]
    network.use_engine("numpy")
    judged = network.evaluate(arrays["x_test"], arrays["y_test"])
    assert judged == (result["test_loss"], result["test_accuracy"])
    assert sorted(os.listdir(folder)) == ["log", "net"]


def test_saves_before_drawing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "loss_accuracy.png" / "in the way").mkdir(parents=True)
    assert train.main(arguments("--plots", ".", "--save", "net")) == 1
    assert "wrote net" in capsys.readouterr().out.splitlines()
    fastnn.load("net")


def test_result_is_printed_if_the_network_cannot_be_saved(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    Path("net").write_bytes(b"old")
    monkeypatch.setattr(os, "write", full)
    assert train.main(arguments("--save", "net")) == 1
    captured = capsys.readouterr()
    assert captured.out.splitlines()[-1].startswith("test accuracy")
    assert captured.err == "fastnn.train: error: net: No space left on device\n"
    assert os.listdir(folder) == ["net"] and Path("net").read_bytes() == b"old"


# Validation and early stopping

STOPPING = ("--early-stopping", "--patience", "2", "--learning-rate", "0.5", "--batch-size", "8")


def test_table_and_log_show_the_validation_rows(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--validation-fraction", "0.2", "--log-json", "log", "--class-weight", "balanced")
    assert train.main(arguments(*options)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "data      small: 48 training, 12 validation, 20 test rows" in lines
    assert "epoch    loss  accuracy   val loss   val accuracy  seconds   samples/s" in lines
    begin, *epochs, result = events(folder / "log")
    assert (begin["train_rows"], begin["validation_rows"], begin["test_rows"]) == (48, 12, 20)
    data, network = small_arrays(), Network([4, 128, 64, 3])
    history = network.fit(
        data["x_train"],
        data["y_train"],
        epochs=3,
        class_weight="balanced",
        validation_fraction=0.2,
        engine="numpy",
    )
    for name in ("loss", "val_loss", "val_accuracy"):
        assert [event[name] for event in epochs] == history[name]
    assert {event["test_loss"] for event in epochs} == {None}
    tested = network.evaluate(data["x_test"], data["y_test"])
    assert (result["test_loss"], result["test_accuracy"]) == tested
    assert lines[-1] == f"test accuracy {tested[1]:.2%}, test loss {tested[0]:.4f}, after 3 epochs"


@pytest.mark.parametrize("monitor", ["val_loss", "val_accuracy"])
def test_early_stopping_restores_the_best_weights(
    monitor: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, network = small_arrays(), Network([4, 128, 64, 3])
    data["y_train"][::4] = 0  # wrong labels, so that the network overfits
    np.savez("../noisy.npz", **data)
    argv = ("--monitor", monitor, "--log-json", "log")
    assert train.main(arguments(*STOPPING, *argv, dataset="../noisy.npz", epochs=100)) == 0
    lines = capsys.readouterr().out.splitlines()
    begin, *epochs, result = events(folder / "log")
    assert begin["validation_fraction"] == 0.1
    history = network.fit(
        data["x_train"],
        data["y_train"],
        epochs=100,
        batch_size=8,
        learning_rate=0.5,
        validation_fraction=0.1,
        early_stopping=EarlyStopping(monitor, patience=2),
        engine="numpy",
    )
    assert [event[monitor] for event in epochs] == history[monitor]
    best = history[monitor].index((min if monitor == "val_loss" else max)(history[monitor])) + 1
    ran = len(epochs)
    assert (result["epochs_run"], result["best_epoch"]) == (ran, best) and best < ran < 100
    assert result["test_loss"] == network.evaluate(data["x_test"], data["y_test"])[0]
    stopping = f"stopping  after more than 2 epochs in which {monitor} has not improved by 0.0001"
    assert stopping in lines
    assert f"stopped after {ran} of 100 epochs: {monitor} has stopped improving" in lines
    assert lines[-1].endswith(f"after {ran} epochs, with the weights of epoch {best}")


@pytest.mark.process
def test_early_stopping_does_not_use_the_test_rows(folder: Path) -> None:
    arrays = small_arrays()
    arrays["y_test"] = arrays["y_test"][::-1]  # now the network is wrong about them
    np.savez("../other.npz", **arrays)
    runs = {}
    for name in ("small", "other"):
        argv = arguments(*STOPPING, "--log-json", name, dataset=f"../{name}.npz", epochs=100)
        assert train.main(argv) == 0
        runs[name] = events(folder / name)
    small, other = ([event.get("val_loss") for event in run] for run in runs.values())
    assert small == other
    small, other = (run[-1] for run in runs.values())
    assert small["best_epoch"] == other["best_epoch"]
    assert small["test_accuracy"] > other["test_accuracy"]


def test_early_stopping_may_run_all_epochs(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.main(arguments("--early-stopping")) == 0
    out = capsys.readouterr().out
    assert "stopped after" not in out
    assert out.endswith("after 3 epochs\n")


# Optimizers and schedules


def test_lbfgs_trains_like_network_fit(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = arguments("--optimizer", "lbfgs", "--log-json", "log", epochs=1000)
    assert train.main(argv) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "batches   all 60 rows, 1 iteration per epoch" in lines
    assert "training  1,000 epochs of lbfgs, seed 0" in lines
    begin, *epochs, _ = events(folder / "log")
    assert (begin["learning_rate"], begin["batch_size"]) == (None, ROWS)
    data = small_arrays()
    history = Network([4, 128, 64, 3]).fit(
        data["x_train"], data["y_train"], epochs=1000, optimizer="lbfgs", engine="numpy"
    )
    assert [event["loss"] for event in epochs] == history["loss"]
    assert {event["learning_rate"] for event in epochs} == {None}
    assert f"stopped after {len(epochs)} of 1,000 epochs: lbfgs cannot improve the loss" in lines


def test_lbfgs_at_a_minimum_stops(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    x, y = np.zeros((8, 4), np.float32), np.arange(8) % 2  # the initial weights are optimal
    np.savez("../still.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    argv = arguments("--optimizer", "lbfgs", "--log-json", "log", dataset="../still.npz")
    assert train.main([*argv, "--plots", "plots"]) == 0
    out = capsys.readouterr().out
    assert "stopped after 1 of 3 epochs: lbfgs " in out
    assert "test accuracy 50.00%, test loss 0.6931, after 1 epoch\n" in out
    assert [event["event"] for event in events(folder / "log")] == ["start", "epoch", "result"]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_trains_like_network_fit(name: str, folder: Path) -> None:
    assert train.main(arguments("--optimizer", name, "--log-json", "log")) == 0
    data, size = small_arrays(), None if name == "lbfgs" else 128
    history = Network([4, 128, 64, 3]).fit(
        data["x_train"],
        data["y_train"],
        epochs=3,
        batch_size=size,
        optimizer=name,
        engine="numpy",
    )
    assert [event["loss"] for event in events(folder / "log")[1:-1]] == history["loss"]


def test_adaptive_schedule_stops_at_the_smallest_rate(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = arguments("--schedule", "adaptive", "--learning-rate", "5e-7", epochs=100)
    assert train.main(argv) == 0
    out = capsys.readouterr().out
    assert "of sgd, learning rate 5e-07, schedule adaptive, seed 0\n" in out
    assert "of 100 epochs: the training loss has stopped improving\n" in out


def test_prints_all_settings_that_are_not_off(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--activation", "tanh,gelu", "--dropout", "0.1,0.2,0", "--optimizer", "adamw"]
    argv += ["--l2", "1e-4", "--clip-norm", "2", "--warmup-epochs", "1", "--schedule", "cosine"]
    assert train.main(arguments(*argv, "--class-weight", "balanced")) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "network   4-128-64-3, tanh-gelu, 9,091 parameters, dropout 0.1-0.2-0.0"
    assert lines[5] == (
        "training  3 epochs of adamw, learning rate 0.001, weight decay 0.01, l2 0.0001, "
        "clip norm 2, warmup epochs 1, schedule cosine, class weight balanced, seed 0"
    )


def test_warns_in_one_line_if_the_network_has_not_learned(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arrays = small_arrays()
    for name in ("x_train", "x_test"):
        arrays[name] = 1000 * arrays[name] + 5000
    np.savez(folder / "far.npz", **arrays)
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        assert train.main(arguments("--quiet", dataset="far.npz")) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("fastnn.train: the network has not learned: its loss, ")
    assert "feature " in line and "scale the features to mean 0 and standard deviation 1" in line
