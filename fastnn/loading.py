"""Back from a file: a network, or an estimator."""

from typing import TYPE_CHECKING, Union

from fastnn.network import Network
from fastnn.storage.model_file import read_model
from fastnn.storage.strict_json import prefix_errors
from fastnn.system.files import FilePath
from fastnn.training.state import Position

if TYPE_CHECKING:
    from fastnn.estimators import MLPClassifier, MLPRegressor


def load(path: FilePath) -> Union[Network, "MLPClassifier", "MLPRegressor"]:
    """Load what `save` has written: a `Network`, an `MLPClassifier` or an `MLPRegressor`.

    It predicts the same, to the bit. Further training goes on with the next shuffle, but the
    optimizer, early stopping and an adaptive learning rate begin anew. A file may come from
    anywhere: no code in it is ever run.

    Parameters
    ----------
    path : str or PathLike

    Raises
    ------
    ModelFileError
        If it is no model file, is damaged, or is a later version's.
    OSError
        If it cannot be read.

    Examples
    --------
    >>> import fastnn, tempfile
    >>> net = fastnn.Network([2, 3, 1], loss="squared_error")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     net.save(f"{folder}/net.safetensors")
    ...     same = fastnn.load(f"{folder}/net.safetensors")
    >>> bool((same.parameters[0][0] == net.parameters[0][0]).all())
    True
    """
    model = read_model(path)
    network = Network(
        [model.layers[0].inputs, *(layer.outputs for layer in model.layers)],
        activation=[layer.activation for layer in model.layers[:-1]],
        dropout=[layer.dropout for layer in model.layers],
        loss=model.loss.name,
        input_scale=model.input_scale,
        seed=model.seed,
    )
    network.parameters = model.parameters
    network._position = Position(model.epochs, model.samples)
    if model.estimator is None:
        return network
    from fastnn.estimators import MLPClassifier, MLPRegressor
    from fastnn.estimators.saving import restore

    with prefix_errors(path):
        return restore((MLPClassifier, MLPRegressor), model.estimator, network)
