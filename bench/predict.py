"""Microseconds of a prediction from Python: ``python bench/predict.py [--quick] [--out DIR]``.

All peers have the same network, 784-128-64-10 in float32, and separate processes. They predict 1,
32 and 1,024 rows of MNIST and of dense random numbers. A peer counts only if its probabilities
agree with the reference engine's. Exit codes are those of compare.py.
"""

import argparse
import datetime
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import joblib
import numpy as np
from compare import cpu_name, run_and_print, run_python
from compare_report import grid
from mnist_like import find_or_imitate

from fastnn import MLPClassifier, Network
from fastnn.commands.options import positive_int
from fastnn.model.initializers import he_normal
from fastnn.model.layers import Parameters, dense_layers
from fastnn.system.files import write_atomically

SIZES = (784, 128, 64, 10)
ROWS = (1, 32, 1024)
TOLERANCE = 1e-5  # of a probability, for libraries with different orders of sums
BATCH_SECONDS = 0.05  # calls timed together: one is shorter than the timer's noise

Predict = Callable[[np.ndarray], np.ndarray]


def fastnn_network(parameters: Parameters, threads: int) -> Predict:
    """`Network.predict_proba`, including its checks of the features."""
    network = Network(SIZES)
    network.parameters = parameters
    return network.predict_proba


def fastnn_estimator(parameters: Parameters, threads: int) -> Predict:
    """`MLPClassifier.predict_proba` of fastnn."""
    return MLPClassifier.from_sklearn(fitted_classifier(parameters)).predict_proba


def scikit_learn(parameters: Parameters, threads: int) -> Predict:
    """`MLPClassifier.predict_proba` of scikit-learn."""
    return fitted_classifier(parameters).predict_proba


def fitted_classifier(parameters: Parameters) -> Any:
    """Return scikit-learn's classifier with these weights, fitted to dummy data."""
    model = MLPClassifier(hidden_layer_sizes=SIZES[1:-1])
    model.partial_fit(np.zeros((10, SIZES[0]), np.float32), range(10), classes=range(10))
    model.coefs_, model.intercepts_ = map(list, zip(*parameters, strict=True))
    return model.to_sklearn()


def numpy_products(parameters: Parameters, threads: int) -> Predict:
    """Products, `maximum` and a softmax, in place where possible."""

    def predict(x: np.ndarray) -> np.ndarray:
        for w, b in parameters[:-1]:
            x = x @ w
            x += b
            np.maximum(x, 0, out=x)
        w, b = parameters[-1]
        z = x @ w
        z += b
        z -= z.max(axis=1, keepdims=True)
        np.exp(z, out=z)
        z /= z.sum(axis=1, keepdims=True)
        return z

    return predict


def torch_modules(parameters: Parameters, threads: int) -> Predict:
    """`nn.Sequential` in `inference_mode`, without copies from and to NumPy."""
    import torch

    torch.set_num_threads(threads)
    model = torch.nn.Sequential()
    for w, b in parameters:
        linear = torch.nn.Linear(*w.shape)
        linear.weight.data = torch.from_numpy(w.T.copy())
        linear.bias.data = torch.from_numpy(b)
        model.extend([linear, torch.nn.ReLU()])
    model[-1] = torch.nn.Softmax(dim=1)

    def predict(x: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return model(torch.from_numpy(x)).numpy()

    return predict


def onnx_runtime(parameters: Parameters, threads: int) -> Predict:
    """A graph of `Gemm`, `Relu` and `Softmax` in ONNX Runtime."""
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    nodes, constants, value = [], [], "x"
    for i, (w, b) in enumerate(parameters):
        constants += [numpy_helper.from_array(w, f"w{i}"), numpy_helper.from_array(b, f"b{i}")]
        nodes.append(helper.make_node("Gemm", [value, f"w{i}", f"b{i}"], [f"z{i}"]))
        last = i == len(parameters) - 1
        nodes.append(helper.make_node("Softmax" if last else "Relu", [f"z{i}"], [f"a{i}"]))
        value = f"a{i}"
    of_width = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", width])
        for name, width in (("x", SIZES[0]), (value, SIZES[-1]))
    ]
    graph = helper.make_graph(nodes, "network", of_width[:1], of_width[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return lambda x: session.run(None, {"x": x})[0]


PEERS: dict[str, Callable[[Parameters, int], Predict]] = {
    "fastnn": fastnn_network,
    "fastnn's estimator": fastnn_estimator,
    "ONNX Runtime": onnx_runtime,
    "NumPy": numpy_products,
    "PyTorch": torch_modules,
    "scikit-learn": scikit_learn,
}


# ---- a process of one peer ------------------------------------------------------------------


def inputs() -> dict[str, np.ndarray]:
    """Return the features: MNIST's first test rows, and dense random numbers."""
    data = find_or_imitate()
    images = data.x_test[: max(ROWS)] * np.float32(data.scale)
    dense = np.random.default_rng(0).random(images.shape, np.float32)
    return {data.name: images, "dense": dense}


def time_peer(name: str, threads: int, rounds: int) -> dict[str, dict[str, list[float]]]:
    """Return microseconds per call by data and rows; raise a ValueError if results differ."""
    parameters = he_normal(dense_layers(SIZES), 0)
    predict = PEERS[name](parameters, threads)
    reference = Network(SIZES)
    reference.parameters = parameters
    engine = reference.use_engine("numpy")
    times: dict[str, dict[str, list[float]]] = {}
    for kind, x in inputs().items():
        expected = engine.predict(x)
        for rows in ROWS:
            part = np.ascontiguousarray(x[:rows])
            apart = float(np.abs(predict(part) - expected[:rows]).max())
            if not apart <= TOLERANCE:
                raise ValueError(f"its probabilities are {apart:.1e} from the reference engine's")
            time.sleep(0.3)  # the reference's BLAS threads spin for a while
            times.setdefault(kind, {})[str(rows)] = time_calls(predict, part, rounds)
    return times


def time_calls(predict: Predict, x: np.ndarray, rounds: int) -> list[float]:
    """Return the microseconds per call in each round of many calls."""
    start = time.perf_counter()
    for _ in range(20):
        predict(x)
    calls = max(5, int(20 * BATCH_SECONDS / (time.perf_counter() - start)))
    micros = []
    for _ in range(rounds):
        start = time.perf_counter()
        for _ in range(calls):
            predict(x)
        micros.append(1e6 * (time.perf_counter() - start) / calls)
    return micros


# ---- all peers ------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    """Run the comparison and return the exit code of the process."""
    cores = joblib.cpu_count()
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="does it still run?")
    parser.add_argument("--out", metavar="DIR", type=Path, default=Path("comparison"))
    parser.add_argument("--threads", metavar="N", type=positive_int, default=cores)
    parser.add_argument("--peer", choices=PEERS, help=argparse.SUPPRESS)  # a process of one
    options = parser.parse_args(argv)
    rounds = 3 if options.quick else 11
    if options.peer:
        print(json.dumps(time_peer(options.peer, options.threads, rounds)))
        return 0

    def produce() -> tuple[str, bool]:
        text, good = compare(options.threads, options.quick)
        write_atomically(options.out / "predict.md", [text.encode()])
        return text, good

    return run_and_print("predict.py", options.out, produce)


def compare(threads: int, quick: bool) -> tuple[str, bool]:
    """Run the processes in rounds; return the page, and whether fastnn succeeded."""
    times: dict[str, dict[str, dict[str, list[float]]]] = {}
    failures: dict[str, str] = {}
    for _ in range(1 if quick else 3):
        for name in PEERS:
            command = [__file__, "--peer", name, "--threads", str(threads)]
            command += ["--quick"] if quick else []
            try:
                said = json.loads(run_python(command, threads).splitlines()[-1])
            except (RuntimeError, subprocess.TimeoutExpired, ValueError, IndexError) as error:
                failures[name] = str(error)
                continue
            for kind, by_rows in said.items():
                for rows, micros in by_rows.items():
                    times.setdefault(kind, {}).setdefault(rows, {}).setdefault(name, [])
                    times[kind][rows][name] += micros
    lines = ["# Microseconds of a prediction", "", *table(times), ""]
    lines += [f"- {name}: {(build.__doc__ or '').splitlines()[0]}" for name, build in PEERS.items()]
    lines += [f"- left out: {name}, {failure}" for name, failure in failures.items()]
    lines += [
        f"- machine: {cpu_name()}; threads: {threads}, for all",
        f"- date: {datetime.date.today().isoformat()}",
    ]
    return "\n".join(lines) + "\n", "fastnn" not in failures


def table(times: dict[str, dict[str, dict[str, list[float]]]]) -> list[str]:
    """Return the lines of the table: medians, and the fastest other peer over fastnn."""
    lines = [["rows of", "rows", *PEERS, "best of the others"]]
    for kind, by_rows in times.items():
        for rows, by_peer in by_rows.items():
            medians = {name: median(micros) for name, micros in by_peer.items()}
            others = [value for name, value in medians.items() if not name.startswith("fastnn")]
            ratio = "-"
            if others and "fastnn" in medians:
                ratio = f"{min(others) / medians['fastnn']:.2f} ×"
            cells = [f"{medians[name]:.1f}" if name in medians else "-" for name in PEERS]
            lines.append([kind, f"{int(rows):,}", *cells, ratio])
    return grid(lines, 1)


if __name__ == "__main__":
    sys.exit(main())
