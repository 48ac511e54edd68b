"""Sparse features: the door, the rows, and the same bits as the same data given dense."""

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
from fastnn.kernels import engine as step
from fastnn.kernels.jit.simd import NR
from fastnn.kernels.layers.sparse import EntryBuffers
from fastnn.kernels.workspace import address

FORMS = [sparse.csr_array, sparse.csr_matrix, sparse.csc_array, sparse.coo_array, sparse.dok_array]


def few(rng, rows, columns, density=0.1):
    """Return an array of small numbers, of which most are 0; some rows and columns have none."""
    x = rng.standard_normal((rows, columns)).astype(np.float32)
    x[rng.random(x.shape) > density] = 0
    x[rng.integers(rows)] = 0
    x[:, rng.integers(columns)] = 0
    return x


# ---- rows -----------------------------------------------------------------------------------


@pytest.fixture
def pair(rng):
    x = few(rng, 40, 23, 0.2)
    return x, as_features(sparse.csr_array(x), 23)


def test_rows_are_what_they_were(pair):
    x, rows = pair
    assert rows.shape == x.shape and len(rows) == 40 and rows.dtype == np.float32
    np.testing.assert_array_equal(rows.toarray(), x)
    assert rows.nbytes == 8 * np.count_nonzero(x)


@pytest.mark.parametrize("chosen", [np.array([3, 3, 0, 39]), np.array([7]), slice(5, 20), slice(0)])
def test_some_rows_are_taken_in_order(pair, chosen):
    x, rows = pair
    np.testing.assert_array_equal(rows[chosen].toarray(), x[chosen])


@pytest.mark.parametrize("count", [1, 2, 39, 40, 41])
def test_the_most_entries_of_so_many_rows(pair, count):
    x, rows = pair
    assert rows.max_entries(count) == np.sort(np.count_nonzero(x, axis=1))[-count:].sum()


# ---- the door -------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int64, np.uint8, bool])
def test_every_form_and_type_becomes_rows(rng, form, dtype):
    x = few(rng, 12, 9, 0.4).astype(dtype)
    rows = as_features(form(x), 9)
    assert isinstance(rows, SparseRows)
    assert (rows.starts.dtype, rows.columns.dtype, rows.values.dtype) == (
        np.int64, np.int32, np.float32,
    )  # fmt: skip
    np.testing.assert_array_equal(rows.toarray(), x.astype(np.float32))


def test_rows_that_are_right_already_are_not_copied(rng):
    csr = sparse.csr_array(few(rng, 12, 9, 0.4))
    rows = as_features(csr, 9)
    assert np.shares_memory(rows.values, csr.data) and np.shares_memory(rows.columns, csr.indices)


@pytest.mark.parametrize("says_it_is_canonical", [True, False])
def test_entries_in_any_order_and_twice_are_added_up(says_it_is_canonical):
    columns, starts = np.array([4, 1, 4, 0, 2, 2]), np.array([0, 3, 3, 6])
    csr = sparse.csr_array((np.arange(1.0, 7), columns, starts), shape=(3, 5))
    expected = csr.toarray()
    csr.has_canonical_format = says_it_is_canonical
    rows = as_features(csr, 5)
    np.testing.assert_array_equal(rows.columns, [1, 4, 0, 2])
    np.testing.assert_array_equal(rows.toarray(), expected)
    np.testing.assert_array_equal(csr.indices, columns)  # the user's is as it was


def test_an_explicit_zero_and_wide_indices_are_fine():
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
def test_a_damaged_array_is_refused(name, value):
    csr = sparse.csr_array(np.array([[1.0, 0, 0], [0, 0, 2]]))
    setattr(csr, name, np.array(value, getattr(csr, name).dtype))
    with pytest.raises(DataError, match="^x is a damaged sparse array: "):
        as_features(csr, 3)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e39])
def test_what_is_not_finite_is_named(engine, value):
    x = np.zeros((5, 4))
    x[1, 2], x[3, 1], x[4, 0] = 1, value, 5
    net, csr = Network([4, 2]), sparse.csr_array(x)
    net.use_engine(engine)
    for act in (net.predict, lambda x: net.fit(x, [0, 1, 0, 1, 0], engine=engine)):
        with pytest.raises(
            DataError, match="^x must be finite in float32, found .* row 3, col.* 1$"
        ):
            act(csr)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (sparse.csr_array((3, 5)), r"x must have shape \(rows, 4\), got \(3, 5\)"),
        (sparse.csr_array((0, 4)), "x has no rows"),
        (sparse.csr_array(np.eye(4) * 1j), "x must hold real numbers, got dtype complex128"),
        (sparse.coo_array(np.ones(4)), r"x must have shape .*, got \(4,\)"),
    ],
)
def test_other_shapes_and_types_are_refused(x, message):
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
    """Return all that a fit gives, as bytes."""
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
def test_sparse_and_dense_give_the_same_bits(rng, engine, problem):
    rows, columns = problem.get("rows", 1300), problem.get("columns", 75)
    x = few(rng, rows, columns, problem.get("density", 0.1))
    y = rng.integers(0, 3, rows)
    if "loss" in problem:
        y = rng.random((rows, 2))
    dense = outcome(x, y, None, engine, problem)
    for threads in (1, 2) if engine == "numba" else (None,):
        assert outcome(sparse.csr_array(x), y, threads, engine, problem) == dense


def test_columns_of_any_frequency_are_shared_out(rng):
    """Tasks take columns by their entries: all in one place, at the front, at the end."""
    for columns in ([0], [NR - 1, NR], [70, 74], list(range(0, 75, 7))):
        x = np.zeros((300, 75), np.float32)
        x[:, columns] = rng.standard_normal((300, len(columns)))
        y = rng.integers(0, 3, 300)
        dense = outcome(x, y, 1, "numba", {})
        for threads in (1, 2, None):
            assert outcome(sparse.csr_array(x), y, threads, "numba", {}) == dense


def test_gradients_are_those_of_dense_rows(rng, engine):
    x, y = few(rng, CHUNK_ROWS + 50, 30), rng.integers(0, 3, CHUNK_ROWS + 50).astype(np.int32)
    net = Network([30, 20, 3])
    room = get_engine(engine, net.layers, input_scale=1.0)
    room.set_parameters(net.parameters)
    loss, gradient = room.loss_and_grad(Data(x, y), l2=0.1)
    rows = as_features(sparse.csr_array(x), 30)
    again, sparse_gradient = room.loss_and_grad(Data(rows, y), l2=0.1)
    assert loss == again
    for dense_pair, sparse_pair in zip(gradient, sparse_gradient, strict=True):
        for one, other in zip(dense_pair, sparse_pair, strict=True):
            np.testing.assert_array_equal(one, other)


def test_what_an_earlier_chunk_left_behind_does_not_count(rng):
    x, y = few(rng, 700, 30), rng.integers(0, 3, 700)
    rows = sparse.csr_array(x)
    clean, poisoned = Network([30, 20, 3]), Network([30, 20, 3])
    poisoned.predict(sparse.csr_array(np.ones((CHUNK_ROWS, 30))))  # longer rows than any of x
    for array in poisoned.use_engine("numba")._entries._arrays:
        array.view(np.uint8)[:] = 0xFF
    for net in clean, poisoned:
        net.fit(rows, y, epochs=2, threads=None)
    np.testing.assert_array_equal(clean.predict_proba(rows), poisoned.predict_proba(rows))


def test_dense_and_sparse_rows_take_turns(rng):
    """A network forgets nothing of what the one kind needs when it is given the other."""
    x, y = few(rng, 300, 40), rng.integers(0, 3, 300)
    turns, dense = Network([40, 20, 3]), Network([40, 20, 3])
    for given in (x, sparse.csr_array(x), (x * 8).astype(np.uint8), sparse.csr_array(x[:9])):
        labels = y[: given.shape[0]]
        turns.fit(given, labels, epochs=1)
        dense.fit(given.toarray() if sparse.issparse(given) else given, labels, epochs=1)
    np.testing.assert_array_equal(turns.predict_proba(x), dense.predict_proba(x))


# ---- estimators -----------------------------------------------------------------------------


def shown(model, x):
    weights = [array.tobytes() for array in (*model.coefs_, *model.intercepts_)]
    return weights, model.predict(x).tolist(), model.loss_curve_


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("form", FORMS[:4])
@pytest.mark.parametrize(
    "how", [{}, {"early_stopping": True}, {"solver": "sgd", "dropout": 0.2}, {"solver": "lbfgs"}]
)
def test_estimators_take_sparse_rows(rng, form, how):
    x = few(rng, 300, 40).astype(np.float64)
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
        assert shown(given, form(x)) == shown(dense, x)


def test_partial_fit_takes_sparse_and_dense_rows(rng):
    x, y = few(rng, 300, 40).astype(np.float64), rng.integers(0, 3, 300)
    dense, given = (MLPClassifier([20], random_state=0) for _ in range(2))
    for part in np.array_split(np.arange(300), 3):
        dense.partial_fit(x[part], y[part], classes=[0, 1, 2])
        given.partial_fit(sparse.csr_matrix(x[part]), y[part], classes=[0, 1, 2])
    assert shown(given, x) == shown(dense, sparse.csr_array(x))


@pytest.mark.parametrize("kind", [MLPClassifier, MLPRegressor])
def test_estimators_name_sparse_rows_that_are_not_finite(kind):
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
Network([5, 4, 2]).fit(np.eye(5), [0] * 5, epochs=1)  # the kernels are there
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
def test_memory_grows_with_the_weights_and_not_with_rows_times_columns(optimizer):
    """6.4 MB of weights: in the engine, the network and for divergence, gradients, state."""
    command = [sys.executable, "-c", PROGRAM, optimizer]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 15


def test_a_task_without_columns_writes_nothing_behind_the_starts(rng, monkeypatch):
    starts, tail = 4 + 1 + 2 * 2, 64  # of the columns, as `Entries` says; and what lies behind
    room = np.full(starts + tail, -1, np.int64)
    tell = EntryBuffers.tell

    def tell_of_more_room(buffers, job):
        tell(buffers, job)
        job.column_starts = address(room)

    monkeypatch.setattr(EntryBuffers, "tell", tell_of_more_room)
    monkeypatch.setattr(step, "balanced", lambda work, tasks: np.array([0] + [1] * tasks))
    x, y = sparse.csr_array(few(rng, 40, 4)), rng.integers(0, 2, 40)
    Network([4, 3, 2]).fit(x, y, epochs=1, threads=min(2, usable_threads()))
    assert room[0] == 0 and (room[starts:] == -1).all()


def test_there_is_room_for_the_entries_and_biases_of_fuller_rows(rng):
    net = Network([4, 3, 2])
    engine = net.use_engine("numba", threads=1)
    empty, full = sparse.csr_array((CHUNK_ROWS, 4)), few(rng, CHUNK_ROWS, 4, 0.2)
    for x in (empty, sparse.csr_array(full)):
        net.predict(x)
        assert engine._entries.size >= x.nnz + CHUNK_ROWS
