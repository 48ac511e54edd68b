"""Arrays that change after they were checked, in memory or in a file."""

import gc
import sys
from pathlib import Path
from weakref import ref

import numpy as np
import pytest
import scipy.sparse as sp
from numpy.testing import assert_array_equal

import fastnn
from fastnn import Callback, DataError, Network
from fastnn.data.conversion import as_data
from fastnn.kernels import engine as numba_engine

ROWS, INPUTS, CLASSES = 300, 40, 3
unix = pytest.mark.skipif(sys.platform == "win32", reason="Windows does not truncate mapped files")


class Change(Callback):
    """Calls a function at the end of the first epoch."""

    def __init__(self, change):
        self.change = change

    def on_epoch_end(self, epoch, metrics):
        if epoch == 1:
            self.change()


@pytest.fixture
def x(rng) -> np.ndarray:
    return rng.random((ROWS, INPUTS), dtype=np.float32)


@pytest.fixture
def y(rng) -> np.ndarray:
    return rng.integers(0, CLASSES, ROWS, dtype=np.int32)


@pytest.fixture
def csr(rng) -> sp.csr_array:
    rows = sp.csr_array(rng.random((ROWS, INPUTS)) < 0.2, dtype=np.float32)
    assert rows.indices.dtype == np.int32, "it would be copied"
    return rows


def network() -> Network:
    return Network([INPUTS, 8, CLASSES], seed=0)


def fit(net: Network, x, y, engine: str, change=None, **settings):
    callbacks = [Change(change)] if change else []
    return net.fit(x, y, epochs=3, batch_size=64, engine=engine, callbacks=callbacks, **settings)


def same_weights(one: Network, other: Network) -> bool:
    pairs = zip(one.parameters, other.parameters, strict=True)
    return all((v == w).all() for a, b in pairs for v, w in zip(a, b, strict=True))


# ---- labels and row starts are copied -------------------------------------------------------


def test_changing_labels_during_a_fit_has_no_effect(x, y, engine):
    unchanged, net, changing = network(), network(), y.copy()
    fit(unchanged, x, y, engine)
    fit(net, x, changing, engine, lambda: changing.fill(2**30))
    assert same_weights(net, unchanged)


def test_changing_validation_labels_during_a_fit_has_no_effect(x, y, engine):
    wanted = fit(network(), x, y, engine, validation_data=(x, y))["val_loss"]
    changing = y.copy()
    history = fit(
        network(), x, y, engine, lambda: changing.fill(2**30), validation_data=(x, changing)
    )
    assert history["val_loss"] == wanted


def test_changing_row_starts_during_a_fit_has_no_effect(csr, y, engine):
    unchanged, net = network(), network()
    fit(unchanged, csr, y, engine)
    csr.indptr = csr.indptr.astype(np.int64)
    starts = csr.indptr

    def change():
        starts[1:] += 10**8

    fit(net, csr, y, engine, change)
    assert same_weights(net, unchanged)


@pytest.mark.parametrize("column", [2**30, -1, INPUTS, 0])
def test_changing_columns_during_a_fit_is_an_error(csr, y, engine, column):
    net, before = network(), []

    def change():
        csr.indices[csr.indptr[7] : csr.indptr[8]] = column  # 0 is valid, but several times
        before.extend(net.parameters)

    with pytest.raises(DataError, match="x was changed"):
        fit(net, csr, y, engine, change, shuffle=False)
    assert_array_equal(
        net.parameters[0][0], before[0][0], strict=True
    )  # row 7 is in the first batch


@pytest.mark.parametrize("call", ["predict", "evaluate"])
def test_changing_columns_after_the_check_is_an_error(csr, y, engine, call, monkeypatch):
    net = network()
    running = net.use_engine(engine)
    data = as_data(csr, y, INPUTS, CLASSES, net.loss)
    csr.indices[:] = 2**30
    with pytest.raises(DataError, match="x was changed"):
        running.predict(data.x) if call == "predict" else running.evaluate(data)


# ---- resized arrays and truncated files -----------------------------------------------------


def test_resizing_features_during_a_fit_is_an_error(x, y, engine):
    net = network()
    with pytest.raises((DataError, ValueError), match="resize"):
        fit(net, x, y, engine, lambda: x.resize((1, INPUTS), refcheck=False))


@pytest.mark.parametrize("what", ["x", "y"])
def test_resizing_validation_rows_during_a_fit_is_an_error(rng, what, engine):
    x, y = (rng.random((ROWS, 4), dtype=np.float32) for _ in "xy")
    own = {"x": x.copy(), "y": y.copy()}
    net = Network([4, 3, 4], loss="squared_error", seed=0)

    def change():
        own[what].resize((1, 4), refcheck=False)

    with pytest.raises(DataError, match="resized"):
        fit(net, x, y, engine, change, validation_data=(own["x"], own["y"]))


def test_selected_rows_of_a_resized_array_are_an_error(x, y, engine):
    net = network()
    data = as_data(x, y, INPUTS, CLASSES, net.loss)
    data, _ = fastnn.data.splitting.split(data, 0.1, net.loss, 0)
    x.resize((10, INPUTS), refcheck=False)
    with pytest.raises(DataError, match="resized"):
        net.use_engine(engine).evaluate(data)


@unix
@pytest.mark.parametrize("what", ["x", "y"])
def test_truncating_a_file_during_a_fit_is_an_error(rng, tmp_path, engine, what):
    arrays = {name: rng.random((6000, 4), dtype=np.float32) for name in "xy"}
    file = tmp_path / "rows.npy"
    np.save(file, arrays[what])
    arrays[what] = np.load(file, mmap_mode="r")
    net = Network([4, 3, 4], loss="squared_error", seed=0)
    with pytest.raises(DataError, match=f"{what} is in a file that was truncated"):
        fit(net, arrays["x"], arrays["y"], engine, lambda: truncate(file))
    with pytest.raises(DataError, match="was truncated"):
        net.evaluate(arrays["x"], arrays["y"])
    assert np.isfinite(net.parameters[0][0]).all()


@unix
@pytest.mark.parametrize("view", [lambda x: x, lambda x: x[100:200], np.asarray])
def test_predicting_from_a_truncated_file_is_an_error(rng, tmp_path, view, engine):
    file = tmp_path / "rows.npy"
    np.save(file, rng.random((6000, INPUTS), dtype=np.float32))
    rows = view(np.load(file, mmap_mode="r"))
    net = network()
    net.use_engine(engine)
    net.predict(rows)
    truncate(file)
    with pytest.raises(DataError, match="was truncated"):
        net.predict(rows)


def truncate(file: Path) -> None:
    with file.open("r+b") as opened:
        opened.truncate(4096)


# ---- reused memory --------------------------------------------------------------------------


def test_new_features_at_an_old_address_are_recognised(rng, csr, y):
    csr = sp.csr_array(np.where(np.arange(INPUTS) % 2, csr.toarray() + 1, 0))  # half of the columns
    buffer = np.zeros(ROWS * INPUTS, np.float32)
    dense = buffer.reshape(ROWS, INPUTS)
    dense[:] = rng.random(dense.shape) + 0.5
    net, other = network(), network()
    fit(net, dense, y, "numba")
    fit(other, dense, y, "numba")
    buffer[: csr.nnz] = csr.data
    again = sp.csr_array((buffer[: csr.nnz], csr.indices, csr.indptr), csr.shape)
    before = net.parameters[0][0]
    fit(net, again, y, "numba")
    fit(other, csr.copy(), y, "numba")
    assert (net.parameters[0][0] != before).any()
    assert same_weights(net, other)


def test_engine_does_not_keep_features_alive(rng, y):
    net = network()
    engine = net.use_engine("numba")
    x = rng.random((ROWS, INPUTS), dtype=np.float32) + 1
    fit(net, x, y, "numba")
    assert engine._group_work is None, "nothing to skip"
    reference = ref(x)
    del x
    gc.collect()
    assert reference() is None
    fit(net, np.zeros((ROWS, INPUTS), np.float32), y, "numba")
    assert engine._group_work is not None


@pytest.mark.parametrize("wrong", [[0, 1], [1, 3], [0, 2, 1, 3], [0, 4]])
def test_wrong_assignment_of_groups_is_an_error(csr, y, monkeypatch, wrong):
    net = network()
    before = net.parameters
    net.use_engine("numba", threads=1)
    monkeypatch.setattr(numba_engine, "balance", lambda work, tasks: np.array(wrong))
    with pytest.raises(RuntimeError, match="3 groups of inputs"):
        net.fit(csr, y, epochs=1, threads=1)
    assert_array_equal(net.parameters[0][0], before[0][0])


# ---- parameters -----------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e39])
@pytest.mark.parametrize("place", ["weights", "biases"])
def test_rejects_parameters_that_are_not_finite_in_float32(bad, place, engine):
    net = network()
    net.use_engine(engine)
    before, given = net.parameters, [(w.astype(float), b.astype(float)) for w, b in net.parameters]
    given[1][place == "biases"].flat[-1] = bad
    with pytest.raises(ValueError, match=f"layer 1 has {place} that are not finite in float32"):
        net.parameters = given
    for got, wanted in zip(net.parameters, before, strict=True):
        assert_array_equal(got[0], wanted[0], strict=True)
        assert_array_equal(got[1], wanted[1], strict=True)


def test_estimators_reject_coefs_that_are_not_finite(x, y):
    model = fastnn.MLPClassifier(8, max_iter=2, random_state=0, engine="numpy")
    model.partial_fit(x, y, classes=[0, 1, 2])
    model.coefs_[0] = np.full_like(model.coefs_[0], np.nan)
    for call in (lambda: model.predict(x), lambda: model.partial_fit(x, y)):
        with pytest.raises(ValueError, match="layer 0 has weights that are not finite"):
            call()
