"""Selected rows: they are not copied, and give the same bits as copies."""

import numpy as np
import pytest
from scipy import sparse

from fastnn import MLPClassifier, Network
from fastnn.data import splitting
from fastnn.data.conversion import as_features
from fastnn.data.features import SelectedRows, select_rows, to_dense
from fastnn.data.rows import Data
from fastnn.data.splitting import split
from fastnn.epoch import CHUNK_ROWS
from fastnn.model.losses import LOSSES
from fastnn.model.optimizers import OPTIMIZERS
from fastnn.training.plan import Plan
from fastnn.training.preparation import prepare

ROWS, COLUMNS = CHUNK_ROWS + 300, 37


@pytest.fixture(params=["float32", "uint8", "sparse"])
def x(request, rng):
    """Return features of each form that engines take."""
    array = rng.integers(0, 9, (ROWS, COLUMNS)) * (rng.random((ROWS, COLUMNS)) < 0.2)
    if request.param == "sparse":
        return as_features(sparse.csr_array(array), COLUMNS)
    return array.astype(request.param)


def test_a_selection_equals_a_copy(x, rng):
    rows = rng.permutation(ROWS)[:50]
    selection = select_rows(x, rows)
    assert selection.shape == (50, COLUMNS) and len(selection) == 50 and selection.dtype == x.dtype
    np.testing.assert_array_equal(to_dense(selection), to_dense(x)[rows])
    np.testing.assert_array_equal(to_dense(selection[10:20]), to_dense(x)[rows[10:20]])
    again = select_rows(selection, np.array([7, 3]))
    assert again.source is x
    np.testing.assert_array_equal(to_dense(again), to_dense(x)[rows[[7, 3]]])


@pytest.mark.parametrize("batch_size", [64, "full"])
def test_training_on_a_selection_gives_the_bits_of_a_copy(x, rng, engine, batch_size):
    y = rng.integers(0, 3, ROWS).astype(np.int32)
    rows = rng.permutation(ROWS)[: ROWS - 100]
    selection, nets = select_rows(x, rows), []
    copied, plan = to_dense(selection), Plan(2, batch_size, OPTIMIZERS["sgd"])
    for features in (selection, copied):
        net = Network([COLUMNS, 20, 3], dropout=0.1)
        net.use_engine(engine)
        part = Data(features, y[rows])
        prepared = prepare(net, plan, copied, y[rows])._replace(training=part, validation=part)
        history = net._train(prepared).history
        del history["seconds"]
        nets.append((net, history, net._current_engine().predict(features)))
    (one, history, predicted), (other, other_history, other_predicted) = nets
    assert history == other_history
    assert predicted.tobytes() == other_predicted.tobytes()
    for (w, b), (v, c) in zip(one.parameters, other.parameters, strict=True):
        assert (w == v).all() and (b == c).all()


def test_a_split_does_not_copy_features(x, rng):
    data = Data(x, rng.integers(0, 2, ROWS).astype(np.int32))
    for part in split(data, 0.25, LOSSES["cross_entropy"], 0):
        assert isinstance(part.x, SelectedRows) and part.x.source is x
        assert (part.targets == data.targets[part.x.rows]).all()


def test_a_split_of_large_data_keeps_the_order_of_rows(x, rng, monkeypatch):
    data = Data(x, rng.integers(0, 2, ROWS).astype(np.int32))
    unsorted = split(data, 0.25, LOSSES["cross_entropy"], 0)
    monkeypatch.setattr(splitting, "WHOLE_BYTES", x.nbytes - 1)
    for part, before in zip(split(data, 0.25, LOSSES["cross_entropy"], 0), unsorted, strict=True):
        assert (part.x.rows == np.sort(before.x.rows)).all()
        assert (part.targets == data.targets[part.x.rows]).all()


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_scorer_gets_plain_arrays(x, rng):
    y, seen = rng.integers(0, 3, ROWS), []

    def scorer(estimator, features, labels):
        seen.append(type(features))
        return estimator.score(features, labels)

    given = x if isinstance(x, np.ndarray) else sparse.csr_array(to_dense(x))
    model = MLPClassifier(
        hidden_layer_sizes=5, early_stopping=True, scoring=scorer, max_iter=2, random_state=0
    )
    model.fit(given, y)
    assert set(seen) == {type(given)}
    assert model.history_["val_score"] == model.validation_scores_
