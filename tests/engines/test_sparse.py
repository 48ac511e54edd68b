"""Sparse features: conversion, checks, and the same bits as for dense features."""

import subprocess
import sys

import numpy as np
import pytest
from scipy import sparse

from fastnn import DataError, MLPClassifier, MLPRegressor, Network
from fastnn.data.conversion import as_features
from fastnn.data.rows import Data
from fastnn.data.sparse import SparseRows
from fastnn.engine import get_engine, usable_threads
from fastnn.epoch import CHUNK_ROWS
from fastnn.kernels import engine as numba_engine
from fastnn.kernels.jit.simd import NR
from fastnn.kernels.layers.sparse import EntryBuffers
from fastnn.kernels.workspace import address

FORMS = [sparse.csr_array, sparse.csr_matrix, sparse.csc_array, sparse.coo_array, sparse.dok_array]


def random_sparse(rng, rows, columns, density=0.1):
    """Return an array with mostly zeros, including a row and a column of only zeros."""
    x = rng.standard_normal((rows, columns)).astype(np.float32)
    x[rng.random(x.shape) > density] = 0
    x[rng.integers(rows)] = 0
    x[:, rng.integers(columns)] = 0
    return x


# ---- SparseRows -----------------------------------------------------------------------------


@pytest.fixture
def pair(rng):
    x = random_sparse(rng, 40, 23, 0.2)
    return x, as_features(sparse.csr_array(x), 23)


def test_rows_equal_the_array(pair):
    x, rows = pair
    assert rows.shape == x.shape and len(rows) == 40 and rows.dtype == np.float32
    np.testing.assert_array_equal(rows.toarray(), x)
    assert rows.nbytes == 8 * np.count_nonzero(x)


@pytest.mark.parametrize("chosen", [np.array([3, 3, 0, 39]), np.array([7]), slice(5, 20), slice(0)])
def test_rows_can_be_selected(pair, chosen):
    x, rows = pair
    np.testing.assert_array_equal(rows[chosen].toarray(), x[chosen])


@pytest.mark.parametrize("count", [1, 2, 39, 40, 41])
def test_max_entries_is_that_of_the_longest_rows(pair, count):
    x, rows = pair
    assert rows.max_entries(count) == np.sort(np.count_nonzero(x, axis=1))[-count:].sum()


# ---- conversion -----------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int64, np.uint8, bool])
def test_all_formats_and_types_are_converted(rng, form, dtype):
    x = random_sparse(rng, 12, 9, 0.4).astype(dtype)
    rows = as_features(form(x), 9)
    assert isinstance(rows, SparseRows)
    assert (rows.starts.dtype, rows.columns.dtype, rows.values.dtype) == (
        np.int64, np.int32, np.float32,
    )  # fmt: skip
    np.testing.assert_array_equal(rows.toarray(), x.astype(np.float32))


def test_canonical_csr_is_not_copied(rng):
    csr = sparse.csr_array(random_sparse(rng, 12, 9, 0.4))
    rows = as_features(csr, 9)
    assert np.shares_memory(rows.values, csr.data) and np.shares_memory(rows.columns, csr.indices)


@pytest.mark.parametrize("canonical_flag", [True, False])
def test_duplicate_entries_are_summed(canonical_flag):
    columns, starts = np.array([4, 1, 4, 0, 2, 2]), np.array([0, 3, 3, 6])
    csr = sparse.csr_array((np.arange(1.0, 7), columns, starts), shape=(3, 5))
    expected = csr.toarray()
    csr.has_canonical_format = canonical_flag
    rows = as_features(csr, 5)
    np.testing.assert_array_equal(rows.columns, [1, 4, 0, 2])
    np.testing.assert_array_equal(rows.toarray(), expected)
    np.testing.assert_array_equal(csr.indices, columns)  # the user's array does not change


def test_accepts_explicit_zeros_and_int64_indices():
    csr = sparse.csr_array((np.array([0.0, 2.0]), np.array([1, 2]), np.array([0, 1, 2])), (2, 3))
    csr.indices, csr.indptr = csr.indices.astype(np.int64), csr.indptr.astype(np.int64)
    np.testing.assert_array_equal(as_features(csr, 3).toarray(), [[0, 0, 0], [0, 0, 2]])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("indices", [0, 3]),
        ("indices", [-1, 2]),
        ("indices", [0]),
        ("indptr", [0, 2, 1]),
        ("indptr", [1, 1, 2]),
        ("indptr", [0, 1, 9]),
        ("indptr", [0, 1, -1]),
        ("indptr", [0, 2]),
        ("data", [1.0]),
    ],
)
def test_rejects_damaged_arrays(name, value):
    csr = sparse.csr_array(np.array([[1.0, 0, 0], [0, 0, 2]]))
    setattr(csr, name, np.array(value, getattr(csr, name).dtype))
    with pytest.raises(DataError, match="^x is a damaged sparse array: "):
        as_features(csr, 3)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e39])
def test_error_names_the_element_that_is_not_finite(engine, value):
    x = np.zeros((5, 4))
    x[1, 2], x[3, 1], x[4, 0] = 1, value, 5
    net, csr = Network([4, 2]), sparse.csr_array(x)
    net.use_engine(engine)
    for call in (net.predict, lambda x: net.fit(x, [0, 1, 0, 1, 0], engine=engine)):
        with pytest.raises(
            DataError, match="^x must be finite in float32, found .* row 3, col.* 1$"
        ):
            call(csr)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (sparse.csr_array((3, 5)), r"x must have shape \(rows, 4\), got \(3, 5\)"),
        (sparse.csr_array((0, 4)), "x has no rows"),
        (sparse.csr_array(np.eye(4) * 1j), "x must hold real numbers, got dtype complex128"),
        (sparse.coo_array(np.ones(4)), r"x must have shape .*, got \(4,\)"),
    ],
)
def test_rejects_wrong_shapes_and_types(x, message):
    with pytest.raises(DataError, match=f"^{message}$"):
        Network([4, 2]).predict(x)


# ---- the same bits --------------------------------------------------------------------------

PROBLEMS = [
    {},
    {"batch_size": 1, "rows": 40},
    {"batch_size": "full", "learning_rate": 0.5},
    {"batch_size": CHUNK_ROWS + 100, "optimizer": "momentum"},
    {"optimizer": "adam", "clip_norm": 0.1},
    {"optimizer": "adamw", "sample_weight": True, "dropout": [0.3, 0.2, 0.1]},
    {"l2": 0.01, "dropout": [0.5, 0.0, 0.2]},
    {"optimizer": "lbfgs", "batch_size": "full", "epochs": 5, "rows": 200},
    {"widths": [3], "input_scale": 0.25},
    {"widths": [], "columns": 2 * NR},
    {"widths": [9 * NR + 1, 5], "columns": 5 * NR - 1, "class_weight": "balanced"},
    {"density": 0.9, "loss": "poisson"},
    {"density": 0.003, "loss": "huber"},
]


def outcome(x, y, threads, engine, problem):
    """Fit; return the history, the evaluation, and the parameters and predictions as bytes."""
    how = {k: v for k, v in problem.items() if k not in ("rows", "columns", "widths", "density")}
    of_network = {k: how.pop(k) for k in ("dropout", "input_scale", "loss") if k in how}
    if how.pop("sample_weight", False):
        how["sample_weight"] = np.linspace(0, 2, len(y))
    outputs = 3 if y.ndim == 1 else 2
    net = Network([x.shape[1], *problem.get("widths", [21, 18]), outputs], seed=3, **of_network)
    how = {"epochs": 2, "batch_size": 100} | how
    history = net.fit(x, y, engine=engine, threads=threads, validation_data=(x, y), **how)
    del history["seconds"]
    figures = repr((history, net.evaluate(x, y)))
    arrays = [a for pair in net.parameters for a in pair] + [net.predict(x), net.predict(x[7:8])]
    return figures, [array.tobytes() for array in arrays]


@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_sparse_and_dense_features_give_the_same_bits(rng, engine, problem):
    rows, columns = problem.get("rows", 1300), problem.get("columns", 75)
    x = random_sparse(rng, rows, columns, problem.get("density", 0.1))
    y = rng.integers(0, 3, rows)
    if "loss" in problem:
        y = rng.random((rows, 2))
    dense = outcome(x, y, None, engine, problem)
    for threads in (1, 2) if engine == "numba" else (None,):
        assert outcome(sparse.csr_array(x), y, threads, engine, problem) == dense


def test_distribution_of_columns_does_not_change_bits(rng):
    """Tasks share columns by the number of their entries, even if few columns have all of them."""
    for columns in ([0], [NR - 1, NR], [70, 74], list(range(0, 75, 7))):
        x = np.zeros((300, 75), np.float32)
        x[:, columns] = rng.standard_normal((300, len(columns)))
        y = rng.integers(0, 3, 300)
        dense = outcome(x, y, 1, "numba", {})
        for threads in (1, 2, None):
            assert outcome(sparse.csr_array(x), y, threads, "numba", {}) == dense


def test_sparse_and_dense_gradients_have_the_same_bits(rng, engine):
    x, y = (
        random_sparse(rng, CHUNK_ROWS + 50, 30),
        rng.integers(0, 3, CHUNK_ROWS + 50).astype(np.int32),
    )
    net = Network([30, 20, 3])
    running = get_engine(engine, net.layers, input_scale=1.0)
    running.set_parameters(net.parameters)
    loss, gradient = running.loss_and_grad(Data(x, y), l2=0.1)
    rows = as_features(sparse.csr_array(x), 30)
    again, sparse_gradient = running.loss_and_grad(Data(rows, y), l2=0.1)
    assert loss == again
    for dense_pair, sparse_pair in zip(gradient, sparse_gradient, strict=True):
        for one, other in zip(dense_pair, sparse_pair, strict=True):
            np.testing.assert_array_equal(one, other)


def test_old_entries_do_not_change_results(rng):
    x, y = random_sparse(rng, 700, 30), rng.integers(0, 3, 700)
    rows = sparse.csr_array(x)
    clean, filled = Network([30, 20, 3]), Network([30, 20, 3])
    filled.predict(sparse.csr_array(np.ones((CHUNK_ROWS, 30))))  # rows longer than those of x
    for array in filled.use_engine("numba")._entries._arrays:
        array.view(np.uint8)[:] = 0xFF
    for net in clean, filled:
        net.fit(rows, y, epochs=2, threads=None)
    np.testing.assert_array_equal(clean.predict_proba(rows), filled.predict_proba(rows))


def test_alternating_dense_and_sparse_features(rng):
    """Calls with one kind do not affect calls with the other."""
    x, y = random_sparse(rng, 300, 40), rng.integers(0, 3, 300)
    mixed, dense = Network([40, 20, 3]), Network([40, 20, 3])
    for given in (x, sparse.csr_array(x), (x * 8).astype(np.uint8), sparse.csr_array(x[:9])):
        labels = y[: given.shape[0]]
        mixed.fit(given, labels, epochs=1)
        dense.fit(given.toarray() if sparse.issparse(given) else given, labels, epochs=1)
    np.testing.assert_array_equal(mixed.predict_proba(x), dense.predict_proba(x))


# ---- estimators -----------------------------------------------------------------------------


def results(model, x):
    weights = [array.tobytes() for array in (*model.coefs_, *model.intercepts_)]
    return weights, model.predict(x).tolist(), model.loss_curve_


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("form", FORMS[:4])
@pytest.mark.parametrize(
    "how", [{}, {"early_stopping": True}, {"solver": "sgd", "dropout": 0.2}, {"solver": "lbfgs"}]
)
def test_estimators_accept_sparse_features(rng, form, how):
    x = random_sparse(rng, 300, 40).astype(np.float64)
    labels, values = (
        np.array(["one", "two", "three"])[rng.integers(0, 3, 300)],
        rng.random((300, 2)),
    )
    for kind, y in ((MLPClassifier, labels), (MLPRegressor, values)):
        dense, given = (
            kind(hidden_layer_sizes=20, max_iter=4, random_state=0, **how) for _ in range(2)
        )
        dense.fit(x, y)
        given.fit(form(x), y)
        assert results(given, form(x)) == results(dense, x)


def test_partial_fit_accepts_sparse_and_dense_features(rng):
    x, y = random_sparse(rng, 300, 40).astype(np.float64), rng.integers(0, 3, 300)
    dense, given = (MLPClassifier([20], random_state=0) for _ in range(2))
    for part in np.array_split(np.arange(300), 3):
        dense.partial_fit(x[part], y[part], classes=[0, 1, 2])
        given.partial_fit(sparse.csr_matrix(x[part]), y[part], classes=[0, 1, 2])
    assert results(given, x) == results(dense, sparse.csr_array(x))


@pytest.mark.parametrize("kind", [MLPClassifier, MLPRegressor])
def test_estimators_reject_sparse_features_that_are_not_finite(kind):
    x = sparse.csr_array(np.diag([1.0, np.nan, 3.0]))
    with pytest.raises(ValueError, match="^Input X contains NaN"):
        kind().fit(x, [0, 1, 0])
    with pytest.raises(ValueError, match="Input X contains infinity or a value too large"):
        kind().fit(sparse.csr_array(np.diag([1.0, 1e39, 3.0])), [0, 1, 0])


# ---- memory ---------------------------------------------------------------------------------

PROGRAM = """
import resource, sys
import numpy as np
from scipy import sparse
from fastnn import Network

unit = 1 if sys.platform == "darwin" else 1024
rng = np.random.default_rng(0)
rows, columns, entries = 2000, 100_000, 20  # 800 MB dense, 0.3 MB sparse
places = rng.integers(0, columns, (rows, entries))
x = sparse.csr_array((np.ones(rows * entries), places.ravel(), np.arange(0, rows + 1) * entries),
                     shape=(rows, columns))
y = rng.integers(0, 2, rows)
Network([5, 4, 2]).fit(np.eye(5), [0] * 5, epochs=1)  # compiles the kernels
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
net = Network([columns, 16, 2])
net.fit(x, y, epochs=1, optimizer=sys.argv[1])
net.fit(x, y, epochs=1, batch_size="full", optimizer=sys.argv[1])
net.predict(x), net.evaluate(x, y)
weights = sum(w.nbytes for w, _ in net.parameters)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit - before) / weights)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="has no resource module")
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.process
def test_memory_depends_on_the_weights_and_not_on_rows_times_columns(optimizer):
    """Copies of 6.4 MB of weights: engine, network, last finite epoch, gradients, state."""
    command = [sys.executable, "-c", PROGRAM, optimizer]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 15


def test_task_without_columns_writes_only_to_its_starts(rng, monkeypatch):
    size, guard = 4 + 1 + 2 * 2, 64  # column_starts of `Entries`, and elements behind it
    starts = np.full(size + guard, -1, np.int64)
    set_addresses = EntryBuffers.set_addresses

    def set_larger_buffer(buffers, job):
        set_addresses(buffers, job)
        job.column_starts = address(starts)

    monkeypatch.setattr(EntryBuffers, "set_addresses", set_larger_buffer)
    monkeypatch.setattr(numba_engine, "balance", lambda work, tasks: np.array([0] + [1] * tasks))
    x, y = sparse.csr_array(random_sparse(rng, 40, 4)), rng.integers(0, 2, 40)
    Network([4, 3, 2]).fit(x, y, epochs=1, threads=min(2, usable_threads()))
    assert starts[0] == 0 and (starts[size:] == -1).all()


def test_entry_buffers_grow_for_longer_rows(rng):
    net = Network([4, 3, 2])
    engine = net.use_engine("numba", threads=1)
    empty, full = sparse.csr_array((CHUNK_ROWS, 4)), random_sparse(rng, CHUNK_ROWS, 4, 0.2)
    for x in (empty, sparse.csr_array(full)):
        net.predict(x)
        assert engine._entries.size >= x.nnz + CHUNK_ROWS
