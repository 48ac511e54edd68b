"""Arrays that change after they were checked: by a callback, in a file, or in memory used again."""

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
from fastnn.kernels import engine as numba_engine

ROWS, INPUTS, CLASSES = 300, 40, 3
unix = pytest.mark.skipif(sys.platform == "win32", reason="Windows keeps a mapped file as it is")


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
    assert rows.indices.dtype == np.int32, "so that it would be taken without a copy"
    return rows


def network() -> Network:
    return Network([INPUTS, 8, CLASSES], seed=0)


def fit(net: Network, x, y, engine: str, change=None, **settings):
    callbacks = [Change(change)] if change else []
    return net.fit(x, y, epochs=3, batch_size=64, engine=engine, callbacks=callbacks, **settings)


def same_weights(one: Network, other: Network) -> bool:
    pairs = zip(one.parameters, other.parameters, strict=True)
    return all((v == w).all() for a, b in pairs for v, w in zip(a, b, strict=True))


# ---- what is used as an index is copied -----------------------------------------------------


def test_labels_that_change_during_a_fit_do_not_count(x, y, engine):
    undisturbed, net, changing = network(), network(), y.copy()
    fit(undisturbed, x, y, engine)
    fit(net, x, changing, engine, lambda: changing.fill(2**30))
    assert same_weights(net, undisturbed)


def test_validation_labels_that_change_during_a_fit_do_not_count(x, y, engine):
    wanted = fit(network(), x, y, engine, validation_data=(x, y))["val_loss"]
    changing = y.copy()
    history = fit(
        network(), x, y, engine, lambda: changing.fill(2**30), validation_data=(x, changing)
    )
    assert history["val_loss"] == wanted


def test_the_starts_of_sparse_rows_may_change_during_a_fit(csr, y, engine):
    undisturbed, net = network(), network()
    fit(undisturbed, csr, y, engine)
    csr.indptr = csr.indptr.astype(np.int64)
    starts = csr.indptr

    def change():
        starts[1:] += 10**8

    fit(net, csr, y, engine, change)
    assert same_weights(net, undisturbed)


@pytest.mark.parametrize("column", [2**30, -1, INPUTS, 0])
def test_columns_of_sparse_rows_that_change_during_a_fit_end_it(csr, y, engine, column):
    net, kept = network(), []

    def change():
        csr.indices[csr.indptr[7] : csr.indptr[8]] = column  # 0 is a column, but several times
        kept.extend(net.parameters)

    with pytest.raises(DataError, match="x was changed"):
        fit(net, csr, y, engine, change, shuffle=False)
    assert_array_equal(net.parameters[0][0], kept[0][0], strict=True)  # row 7 is in the first batch


@pytest.mark.parametrize("call", ["predict", "evaluate"])
def test_columns_that_change_between_check_and_use_are_noticed(csr, y, engine, call, monkeypatch):
    net = network()
    running = net.use_engine(engine)
    data = net._checked(csr, y)
    csr.indices[:] = 2**30
    with pytest.raises(DataError, match="x was changed"):
        running.predict(data.x) if call == "predict" else running.evaluate(data)


# ---- what is resized or cut short -----------------------------------------------------------


def test_features_that_are_resized_during_a_fit_end_it(x, y, engine):
    net = network()
    with pytest.raises((DataError, ValueError), match="resize"):
        fit(net, x, y, engine, lambda: x.resize((1, INPUTS), refcheck=False))


@pytest.mark.parametrize("what", ["x", "y"])
def test_validation_rows_that_are_resized_during_a_fit_end_it(rng, what, engine):
    x, y = (rng.random((ROWS, 4), dtype=np.float32) for _ in "xy")
    own = {"x": x.copy(), "y": y.copy()}
    net = Network([4, 3, 4], loss="squared_error", seed=0)

    def change():
        own[what].resize((1, 4), refcheck=False)

    with pytest.raises(DataError, match="resized"):
        fit(net, x, y, engine, change, validation_data=(own["x"], own["y"]))


def test_selected_rows_of_what_was_resized_are_refused(x, y, engine):
    net = network()
    data, _ = fastnn.data.splitting.split(net._checked(x, y), 0.1, net.loss, 0)
    x.resize((10, INPUTS), refcheck=False)
    with pytest.raises(DataError, match="resized"):
        net.use_engine(engine).evaluate(data)


@unix
@pytest.mark.parametrize("what", ["x", "y"])
def test_a_file_that_is_cut_short_during_a_fit_ends_it(rng, tmp_path, engine, what):
    arrays = {name: rng.random((6000, 4), dtype=np.float32) for name in "xy"}
    file = tmp_path / "rows.npy"
    np.save(file, arrays[what])
    arrays[what] = np.load(file, mmap_mode="r")
    net = Network([4, 3, 4], loss="squared_error", seed=0)
    with pytest.raises(DataError, match=f"{what} lies in a file that was cut short"):
        fit(net, arrays["x"], arrays["y"], engine, lambda: cut(file))
    with pytest.raises(DataError, match="cut short"):
        net.evaluate(arrays["x"], arrays["y"])
    assert np.isfinite(net.parameters[0][0]).all()


@unix
@pytest.mark.parametrize("view", [lambda x: x, lambda x: x[100:200], np.asarray])
def test_rows_of_a_file_that_was_cut_short_are_not_predicted(rng, tmp_path, view, engine):
    file = tmp_path / "rows.npy"
    np.save(file, rng.random((6000, INPUTS), dtype=np.float32))
    rows = view(np.load(file, mmap_mode="r"))
    net = network()
    net.use_engine(engine)
    net.predict(rows)
    cut(file)
    with pytest.raises(DataError, match="cut short"):
        net.predict(rows)


def cut(file: Path) -> None:
    with file.open("r+b") as opened:
        opened.truncate(4096)


# ---- memory that is used again --------------------------------------------------------------


def test_a_buffer_that_is_used_again_is_not_taken_for_what_it_held(rng, csr, y):
    csr = sp.csr_array(np.where(np.arange(INPUTS) % 2, csr.toarray() + 1, 0))  # half of them
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


def test_the_engine_neither_keeps_features_nor_knows_others_for_them(rng, y):
    net = network()
    engine = net.use_engine("numba")
    x = rng.random((ROWS, INPUTS), dtype=np.float32) + 1
    fit(net, x, y, "numba")
    assert engine._work is None, "nothing to skip"
    gone = ref(x)
    del x
    gc.collect()
    assert gone() is None
    fit(net, np.zeros((ROWS, INPUTS), np.float32), y, "numba")
    assert engine._work is not None


@pytest.mark.parametrize("wrong", [[0, 1], [1, 3], [0, 2, 1, 3], [0, 4]])
def test_inputs_that_are_dealt_out_wrongly_are_not_trained(csr, y, monkeypatch, wrong):
    net = network()
    before = net.parameters
    net.use_engine("numba", threads=1)
    monkeypatch.setattr(numba_engine, "balanced", lambda work, tasks: np.array(wrong))
    with pytest.raises(RuntimeError, match="3 groups of inputs"):
        net.fit(csr, y, epochs=1, threads=1)
    assert_array_equal(net.parameters[0][0], before[0][0])


# ---- parameters that are given --------------------------------------------------------------


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e39])
@pytest.mark.parametrize("place", ["weights", "biases"])
def test_parameters_that_float32_cannot_hold_are_refused(bad, place, engine):
    net = network()
    net.use_engine(engine)
    before, given = net.parameters, [(w.astype(float), b.astype(float)) for w, b in net.parameters]
    given[1][place == "biases"].flat[-1] = bad
    with pytest.raises(ValueError, match=f"layer 1 has {place} that are not finite in float32"):
        net.parameters = given
    for got, wanted in zip(net.parameters, before, strict=True):
        assert_array_equal(got[0], wanted[0], strict=True)
        assert_array_equal(got[1], wanted[1], strict=True)


def test_estimators_refuse_coefs_that_are_not_finite(x, y):
    model = fastnn.MLPClassifier(8, max_iter=2, random_state=0, engine="numpy")
    model.partial_fit(x, y, classes=[0, 1, 2])
    model.coefs_[0] = np.full_like(model.coefs_[0], np.nan)
    for call in (lambda: model.predict(x), lambda: model.partial_fit(x, y)):
        with pytest.raises(ValueError, match="layer 0 has weights that are not finite"):
            call()
