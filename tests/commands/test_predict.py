"""`python -m fastnn.predict`: its output, its errors and its exit codes."""

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import PATIENCE, posix, small_arrays
from PIL import Image

from fastnn import Checkpoint, MLPClassifier, MLPRegressor, Network, load
from fastnn.commands import predict
from fastnn.data.files import samples
from fastnn.engine import ENGINES

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

X = small_arrays()["x_test"]  # (20, 4) float32
Y = small_arrays()["y_test"]
MODEL = "../model.safetensors"


@pytest.fixture
def saved(folder: Path) -> Path:
    """Save a network and `X` in the parent of the current directory."""
    trained().save(MODEL)
    np.save("../x.npy", X)
    return folder


def trained() -> Network:
    arrays = small_arrays()
    net = Network([4, 8, 3], input_scale=0.5, seed=0)
    net.fit(arrays["x_train"], arrays["y_train"], epochs=5, engine="numpy")
    return net


def command(*argv: str) -> list[str]:
    return [sys.executable, "-m", "fastnn.predict", *argv]


def written(capsys: Any, *argv: str) -> bytes:
    """Return the standard output of a command that succeeds."""
    code = predict.main(["--engine", "numpy", *argv])
    captured = capsys.readouterr()
    assert (code, captured.err) == (0, b"")
    return captured.out


def error_of(capsys: Any, *argv: str, code: int = 1) -> str:
    """Return the error message of a command that fails."""
    assert predict.main(["--engine", "numpy", *argv]) == code
    captured = capsys.readouterr()
    assert captured.out == b"" and captured.err.count(b"\n") == 1
    line = captured.err.decode()
    assert line.startswith("fastnn.predict: error: ")
    return line.removeprefix("fastnn.predict: error: ").rstrip("\n")


def table(text: bytes) -> list[dict[str, str]]:
    assert b"\r" not in text and text.endswith(b"\n")
    return list(csv.DictReader(io.StringIO(text.decode())))


def columns(rows: list[dict[str, str]], start: str) -> np.ndarray:
    """Return the columns whose names begin with `start`, as float32."""
    names = [name for name in rows[0] if name.startswith(start)]
    return np.array([[row[name] for name in names] for row in rows], np.float32)


# Output


def test_warns_of_features_that_seem_scaled(folder, capsysbinary):
    Network([4, 3], input_scale=1 / 255).save("scaled")
    np.save("x.npy", np.eye(4))
    assert predict.main(["scaled", "x.npy"]) == 0
    warnings = capsysbinary.readouterr().err.split(b"warning: ")[1:]  # kernels may be compiled
    assert len(warnings) == 1 and warnings[0].count(b"\n") == 1
    assert b"between 0 and 1, but the model expects values up to 255" in warnings[0]
    for x in (255 * np.eye(4), np.eye(4, dtype=np.uint8)):
        np.save("x.npy", x)
        assert predict.main(["scaled", "x.npy"]) == 0
        assert not capsysbinary.readouterr().err


def test_checkpoint_is_not_a_model(folder, capsysbinary):
    settings = {"epochs": 1, "engine": "numpy", "callbacks": [Checkpoint("fit")]}
    Network([4, 3]).fit(np.eye(4), [0, 1, 2, 0], **settings)
    (_, path) = sorted(Path("fit").iterdir())
    np.save("x.npy", np.eye(4))
    output = error_of(capsysbinary, str(path), "x.npy")
    assert output == f"{path}: is not a model file but a checkpoint"


@pytest.mark.parametrize("name", ENGINES)
def test_predictions_of_a_classifying_network(name, saved, capsysbinary):
    net = load(MODEL)
    net.use_engine(name)
    rows = table(written(capsysbinary, MODEL, "../x.npy", "--engine", name))
    assert list(rows[0]) == ["row", "label", "p_0", "p_1", "p_2"]
    assert [int(row["row"]) for row in rows] == list(range(20))
    assert [int(row["label"]) for row in rows] == net.predict(X).tolist()
    np.testing.assert_array_equal(columns(rows, "p_"), net.predict_proba(X))  # every bit


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_output_does_not_depend_on_the_block_size(form, saved, capsysbinary, monkeypatch):
    expected = written(capsysbinary, MODEL, "../x.npy", "--format", form)
    monkeypatch.setattr(samples, "BLOCK_ROWS", 3)
    assert written(capsysbinary, MODEL, "../x.npy", "--format", form) == expected
    assert expected.count(b"\n") == 20 + (form == "csv")


def test_json_lines_equal_csv(saved, capsysbinary):
    rows = table(written(capsysbinary, MODEL, "../x.npy"))
    lines = written(capsysbinary, MODEL, "../x.npy", "--format", "jsonl").splitlines()
    for row, line in zip(rows, map(json.loads, lines), strict=True):
        assert list(line) == ["row", "label", "probabilities"]
        assert (line["row"], line["label"]) == (int(row["row"]), int(row["label"]))
        assert line["probabilities"] == {name: float(row[f"p_{name}"]) for name in "012"}


@pytest.mark.parametrize(
    ("loss", "outputs", "header"),
    [
        ("logistic", 1, ["label", "p_1"]),
        ("logistic", 2, ["label_0", "label_1", "p_0", "p_1"]),
        ("squared_error", 1, ["value"]),
        ("poisson", 2, ["value_0", "value_1"]),
    ],
)
def test_predictions_of_networks_with_other_losses(loss, outputs, header, folder, capsysbinary):
    net = Network([4, 5, outputs], loss=loss, seed=1)
    net.use_engine("numpy")
    net.save(MODEL)
    np.save("x.npy", X)
    rows = table(written(capsysbinary, MODEL, "x.npy"))
    assert list(rows[0]) == ["row", *header]
    output = net.predict(X).reshape(20, -1)
    np.testing.assert_array_equal(columns(rows, header[0].partition("_")[0]), output)
    line = json.loads(written(capsysbinary, MODEL, "x.npy", "--format", "jsonl").splitlines()[3])
    expected = {"row": 3, header[0].partition("_")[0]: net.predict(X)[3].tolist()}
    if loss == "logistic":
        p = net.predict_proba(X)
        np.testing.assert_array_equal(columns(rows, "p_"), p)
        names = ["1"] if outputs == 1 else ["0", "1"]
        expected["probabilities"] = dict(zip(names, p[3].tolist(), strict=True))
    assert line.keys() == expected.keys()
    np.testing.assert_array_equal(
        np.float32(line.get("value", 0)), np.float32(expected.get("value", 0))
    )
    assert line.get("label") == expected.get("label")
    assert list(line.get("probabilities", [])) == list(expected.get("probabilities", []))


@pytest.mark.parametrize(
    ("names", "kind"), [(["a,b", 'c "d"', "é"], str), ([True, False], bool), ([-1, 2.0, 3], float)]
)
def test_classifiers_use_their_class_names(names, kind, folder, capsysbinary):
    labels = np.array(names)[Y % len(names)]
    model = MLPClassifier(8, max_iter=300, engine="numpy", random_state=0).fit(X, labels)
    model.save(MODEL)
    np.save("x.npy", X)
    rows = table(written(capsysbinary, MODEL, "x.npy"))
    assert list(rows[0]) == ["row", "label", *(f"p_{name}" for name in model.classes_)]
    assert [row["label"] for row in rows] == [str(label) for label in model.predict(X)]
    np.testing.assert_array_equal(columns(rows, "p_"), np.float32(model.predict_proba(X)))
    line = json.loads(written(capsysbinary, MODEL, "x.npy", "--format", "jsonl").splitlines()[0])
    assert line["label"] == model.predict(X)[0] and type(line["label"]) is kind
    assert list(line["probabilities"]) == [str(name) for name in model.classes_]


HOSTILE = {  # labels, and their fields in a CSV file
    "=1+1": '"\'=1+1"',
    '@SUM(A1,"x")': '"\'@SUM(A1,""x"")"',
    "+x": '"\'+x"',
    "-inf": '"\'-inf"',
    "\t=1": '"\'\\t=1"',
    "\x1b[2J": r"\x1b[2J",
    "a\nb": r"a\nb",
    "\u202eabc": r"\u202eabc",
    "-1": "-1",
    "+3.5e2": "+3.5e2",
    "x=1": "x=1",
}


def test_labels_are_escaped_for_terminals_and_spreadsheets(folder, capsysbinary):
    x, labels = np.eye(len(HOSTILE)), np.array(list(HOSTILE))
    model = MLPClassifier((), solver="lbfgs", engine="numpy", random_state=0)
    model.fit(x, labels).save(MODEL)
    assert model.predict(x).tolist() == labels.tolist()
    np.save("x.npy", x)
    header, *lines = written(capsysbinary, MODEL, "x.npy").decode().split("\n")
    for label, line in zip(HOSTILE, lines, strict=False):
        assert line.partition(",")[2].startswith(HOSTILE[label] + ","), label
    assert "p_=1+1" in header and r"p_\x1b[2J" in header and len(lines) == len(HOSTILE) + 1
    lines = written(capsysbinary, MODEL, "x.npy", "--format", "jsonl").splitlines()
    assert [json.loads(line)["label"] for line in lines] == labels.tolist()


def test_predictions_of_multilabel_classifiers(folder, capsysbinary):
    model = MLPClassifier(8, max_iter=100, engine="numpy", random_state=0)
    model.fit(X, np.eye(3, dtype=int)[Y])
    model.save(MODEL)
    np.save("x.npy", X)
    rows = table(written(capsysbinary, MODEL, "x.npy"))
    assert list(rows[0]) == ["row", *"label_0 label_1 label_2 p_0 p_1 p_2".split()]
    np.testing.assert_array_equal(columns(rows, "label_"), model.predict(X))


@pytest.mark.parametrize("outputs", [1, 2])
def test_predictions_of_regressors(outputs, folder, capsysbinary):
    model = MLPRegressor(hidden_layer_sizes=8, max_iter=20, engine="numpy", random_state=0)
    model.fit(X, X[:, 0] if outputs == 1 else X[:, :2])
    model.save(MODEL)
    np.save("x.npy", X)
    rows = table(written(capsysbinary, MODEL, "x.npy"))
    values = np.float32(model.predict(X)).reshape(20, outputs)
    np.testing.assert_array_equal(columns(rows, "value"), values)


def test_feature_names_are_checked(folder, capsysbinary):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X, columns=["a", "b, c", "d", "e"])
    model = MLPClassifier(8, max_iter=5, engine="numpy").fit(frame, Y)
    model.save(MODEL)
    frame.to_csv("x.csv", index=False)
    labels = [int(row["label"]) for row in table(written(capsysbinary, MODEL, "x.csv"))]
    assert labels == model.predict(frame).tolist()
    np.save("x.npy", X)  # which has no names and causes no warning
    assert [int(row["label"]) for row in table(written(capsysbinary, MODEL, "x.npy"))] == labels
    frame.rename(columns={"d": "D"}).to_csv("x.csv", index=False)
    assert error_of(capsysbinary, MODEL, "x.csv") == (
        "x.csv: line 1: column 3: is named 'D', but the model takes 'd'"
    )


def test_predictions_of_image_files_and_a_picture(folder, images, capsysbinary):
    inputs = images.x_train.shape[1]
    net = Network([inputs, 16, 10], input_scale=images.scale, seed=0)
    rule = {"optimizer": "adam", "learning_rate": 0.02, "batch_size": 32}
    net.fit(images.x_train, images.y_train, epochs=5, engine="numpy", **rule)
    net.save(MODEL)
    x = images.x_test
    shape = struct_of(x.reshape(-1, *images.image_shape))
    Path("x-idx3-ubyte").write_bytes(shape + x.tobytes())
    rows = table(written(capsysbinary, MODEL, "x-idx3-ubyte"))
    assert [int(row["label"]) for row in rows] == net.predict(x).tolist()
    accuracy = np.mean(columns(rows, "label")[:, 0] == images.y_test)
    assert accuracy == net.evaluate(x, images.y_test)[1] > 0.9
    pixels = (x[0].reshape(images.image_shape) * (255 * images.scale)).round().astype(np.uint8)
    Image.fromarray(255 - pixels).save("digit.png")
    [row] = table(written(capsysbinary, MODEL, "digit.png"))
    assert row["label"] == rows[0]["label"]
    np.testing.assert_allclose(columns([row], "p_"), columns(rows[:1], "p_"), rtol=0.1, atol=0.01)


def test_pixels_of_any_dtype_have_the_same_predictions(folder, capsysbinary):
    net = Network([6, 5, 3], input_scale=1 / 255)
    net.use_engine("numpy")
    net.save(MODEL)
    x = np.random.default_rng(0).integers(0, 256, (9, 6))
    x[0, 1] = 255
    Path("x.idx").write_bytes(struct_of(x) + x.astype(np.uint8).tobytes())
    Path("x.csv").write_text("\n".join(",".join(map(str, row)) for row in x.tolist()))
    expected = written(capsysbinary, MODEL, "x.idx")
    assert written(capsysbinary, MODEL, "x.csv") == expected
    for dtype in ("u1", "f4", "f8", "i8"):
        np.save("x.npy", x.astype(dtype))
        assert written(capsysbinary, MODEL, "x.npy") == expected


def struct_of(x: np.ndarray) -> bytes:
    """Return the IDX header of an array of bytes."""
    return bytes([0, 0, 8, x.ndim]) + np.array(x.shape, ">u4").tobytes()


def test_output_file_replaces_the_old_one(saved, capsysbinary):
    expected = written(capsysbinary, MODEL, "../x.npy")
    Path("out.csv").write_text("before")
    assert written(capsysbinary, MODEL, "../x.npy", "--output", "out.csv") == b""
    assert Path("out.csv").read_bytes() == expected
    assert os.listdir() == ["out.csv"]


def test_names_the_array_of_an_npz_file_that_is_predicted(saved, capsysbinary):
    np.savez("x.npz", x_train=X[:2], x_test=X)
    assert predict.main([MODEL, "x.npz", "--engine", "numpy"]) == 0
    captured = capsysbinary.readouterr()
    assert captured.err == b"fastnn.predict: x.npz has 2 arrays; predictions are made for x_test\n"
    assert captured.out.count(b"\n") == 21


# Errors


@pytest.mark.parametrize(
    ("x", "expected"),
    [
        (X[:, :3], "x.npy: has 3 features per row, but the model takes 4"),
        (X[0], "x.npy: has the shape (4,), expected (n, 4)"),
        (np.where(np.arange(20)[:, None] == 11, np.nan, X), "x.npy: row 11 has NaN"),
        (X.astype(str), "x.npy: has the dtype <U"),
    ],
)
@pytest.mark.parametrize("to_file", [False, True])
def test_invalid_data_are_one_line_and_keep_the_old_file(x, expected, to_file, saved, capsysbinary):
    np.save("x.npy", x)
    output = ["--output", "out.csv"] if to_file else []
    Path("out.csv").write_text("before")
    assert error_of(capsysbinary, MODEL, "x.npy", *output).startswith(expected)
    assert Path("out.csv").read_text() == "before"
    assert sorted(os.listdir()) == ["out.csv", "x.npy"]


def test_error_in_a_later_block_leaves_no_file(saved, capsysbinary, monkeypatch):
    monkeypatch.setattr(samples, "BLOCK_ROWS", 3)
    np.save("x.npy", np.where(np.arange(20)[:, None] == 11, np.inf, X))
    message = error_of(capsysbinary, MODEL, "x.npy", "--output", "out.csv")
    assert message == "x.npy: row 11 has NaN, infinity or a number beyond float32"
    assert os.listdir() == ["x.npy"]
    assert predict.main([MODEL, "x.npy", "--engine", "numpy"]) == 1
    assert len(table(capsysbinary.readouterr().out)) == 9  # the rows before the error are written


def test_infinite_predictions_are_an_error(folder, capsysbinary):
    net = Network([1, 1], loss="poisson")
    net.parameters = [(np.array([[1.0]]), np.array([0.0]))]
    net.save(MODEL)
    Path("x.csv").write_text("1\n88\n1000\n")
    message = "row 2: the model's outputs are not finite; check the scale of the features"
    assert error_of(capsysbinary, MODEL, "x.csv") == message


@pytest.mark.parametrize(
    "content", [b"", b"no model", b"\xff" * 100], ids=["empty", "text", "bytes"]
)
def test_invalid_model_files_are_errors(content, folder, capsysbinary):
    np.save("x.npy", X)
    Path("model").write_bytes(content)
    assert error_of(capsysbinary, "model", "x.npy").startswith("model: ")


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["missing", "../x.npy"], "missing: No such file or directory"),
        ([MODEL, "missing"], "missing: cannot be read: No such file or directory"),
        ([MODEL, ".."], "..: cannot be read: "),
        ([MODEL, "a\nb\x1b[2J"], r"a\nb\x1b[2J: cannot be read: "),
        ([MODEL, "../x.npy", "--output", "missing/out"], "missing: No such file"),
        ([MODEL, "../x.npy", "--output", ".."], "..: "),
    ],
)
def test_unusable_paths_are_errors(argv, named, saved, capsysbinary):
    assert named in error_of(capsysbinary, *argv)
    assert os.listdir() == []


@posix
def test_device_is_not_replaced(saved, capsysbinary):
    message = "/dev/null: Not a regular file"
    assert error_of(capsysbinary, MODEL, "../x.npy", "--output", "/dev/null") == message


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.process
def test_full_disk_is_an_error(saved):
    with open("/dev/full", "wb") as output:
        argv = command(MODEL, "../x.npy", "--engine", "numpy")
        done = subprocess.run(argv, stdout=output, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (
        1,
        "fastnn.predict: error: No space left on device\n",
    )


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        ([], "the following arguments are required: MODEL, INPUT"),
        ([MODEL], "the following arguments are required: INPUT"),
        ([MODEL, "x", "y"], "unrecognized arguments: y"),
        ([MODEL, "x", "--format", "xml"], "argument --format: invalid choice: 'xml'"),
        ([MODEL, "x", "--threads", "0"], "argument --threads: must be a whole number"),
    ],
)
def test_rejects_invalid_usage(argv, expected, saved, capsysbinary):
    assert error_of(capsysbinary, *argv, code=2).startswith(expected)


def test_too_many_threads_are_a_usage_error(saved, capsysbinary):
    argv = [MODEL, "../x.npy", "--engine", "numba", "--threads", "100000"]
    assert error_of(capsysbinary, *argv, code=2).startswith("argument --threads: threads must be")


def test_closed_standard_output_is_a_usage_error(saved, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdout", None)
    assert predict.main([MODEL, "../x.npy"]) == 2
    message = "fastnn.predict: error: standard output is closed: use --output FILE\n"
    assert capsys.readouterr().err == message


@pytest.mark.parametrize("argv", [["--help"], ["--version"], [], ["model", "x", "--threads", "x"]])
@pytest.mark.process
def test_help_and_usage_errors_do_not_import_numpy(argv, folder):
    program = f"""
import sys
from fastnn.commands import predict
code = predict.main({argv})
heavy = {{"numpy", "numba", "sklearn", "PIL", "scipy"}} & sys.modules.keys()
print(code, heavy, file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    code = 0 if argv and len(argv) == 1 else 2
    assert done.stderr.splitlines()[-1] == f"{code} set()"


# Processes, and runs that end early


@pytest.mark.process
def test_reads_standard_input(saved, capsysbinary):
    text = "\n".join(",".join(map(repr, row)) for row in X.tolist()).encode()
    argv = command(MODEL, "-", "--engine", "numpy")
    done = subprocess.run(argv, input=text, capture_output=True, timeout=PATIENCE)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == written(capsysbinary, MODEL, "../x.npy")


@posix
@pytest.mark.process
def test_closed_pipe_ends_silently(saved):
    np.save("x.npy", np.tile(X, (5000, 1)))
    argv = command(MODEL, "x.npy", "--engine", "numpy")
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.readline() == b"row,label,p_0,p_1,p_2\n"
    process.stdout.close()
    assert (process.wait(timeout=PATIENCE), process.stderr.read()) == (141, b"")
    process.stderr.close()


@posix
@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.process
def test_interrupt_leaves_the_old_file(name, saved):
    Path("out.csv").write_text("before")
    argv = command(MODEL, "-", "--engine", name, "--output", "out.csv")
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdin is not None
    rows = b"1,2,3,4\n" * 4096
    deadline = time.monotonic() + PATIENCE
    process.stdin.write(rows * 2)
    process.stdin.flush()
    while not any(Path(name).stat().st_size for name in set(os.listdir()) - {"out.csv"}):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=PATIENCE)
    assert (process.returncode, error) == (130, b"fastnn.predict: interrupted\n")
    assert Path("out.csv").read_text() == "before"
    assert os.listdir() == ["out.csv"]
