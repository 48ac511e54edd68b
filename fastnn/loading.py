"""`fastnn.load`: read a network or an estimator from a file."""

from typing import TYPE_CHECKING, Union

from fastnn.errors import ModelFileError
from fastnn.network import Network
from fastnn.storage.model_file import read_model
from fastnn.storage.strict_json import prefix_errors
from fastnn.system.files import FilePath
from fastnn.training.state import Position

if TYPE_CHECKING:
    from fastnn.estimators import MLPClassifier, MLPRegressor


def load(path: FilePath) -> Union[Network, "MLPClassifier", "MLPRegressor"]:
    """Load a `Network`, an `MLPClassifier` or an `MLPRegressor` that `save` has written.

    The loaded object gives bit-identical predictions. Further training continues with the next
    epoch's shuffle, but the optimizer, early stopping and an adaptive learning rate start from
    the beginning. A file may come from an untrusted source: `load` runs no code from it.

    Parameters
    ----------
    path : str or path-like
        The file.

    Returns
    -------
    Network, MLPClassifier or MLPRegressor
        An object of the class that was saved.

    Raises
    ------
    ModelFileError
        If the file is not a model file, is damaged, or was written by a later version of fastnn.
    OSError
        If the file cannot be read.

    Examples
    --------
    >>> import fastnn, os, tempfile
    >>> net = fastnn.Network([2, 3, 1], loss="squared_error")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "net.safetensors")
    ...     net.save(path)
    ...     loaded = fastnn.load(path)
    >>> bool((loaded.parameters[0][0] == net.parameters[0][0]).all())
    True
    """
    model = read_model(path)
    with prefix_errors(path):
        try:
            network = Network(**model.arguments)
        except ValueError as error:
            raise ModelFileError(str(error)[:200]) from error
        network.parameters = model.parameters
        network._position = Position(model.epochs, model.samples)
        if model.estimator is None:
            return network
        from fastnn.estimators import MLPClassifier, MLPRegressor
        from fastnn.estimators.saving import restore

        return restore((MLPClassifier, MLPRegressor), model.estimator, network)
