"""fastnn's public exceptions. Other errors are Python's and NumPy's."""


class FastnnError(Exception):
    """Base class of fastnn's exceptions."""


class DataError(FastnnError, ValueError):
    """Data cannot be used: they are missing, damaged, of a wrong shape or not finite.

    The message is one line. It names the array or the file, what is wrong, and what is expected.

    Examples
    --------
    >>> import fastnn
    >>> net = fastnn.Network([2, 3, 2])
    >>> net.predict([[0.0, 1.0, 2.0]])
    Traceback (most recent call last):
        ...
    fastnn.errors.DataError: x must have shape (rows, 2), got (1, 3)
    """


class ModelFileError(FastnnError, ValueError):
    """A file is not a model file or is damaged, or a model cannot be stored.

    The message is one line. It names the file and what is wrong.

    Examples
    --------
    >>> import fastnn, os, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "net.safetensors")
    ...     with open(path, "w") as file:
    ...         _ = file.write("something else")
    ...     try:
    ...         fastnn.load(path)
    ...     except fastnn.ModelFileError as error:
    ...         print(str(error).removeprefix(path))
    : is not a model file, or is truncated
    """


class CheckpointError(FastnnError, ValueError):
    """A checkpoint directory cannot be used.

    A fit cannot be resumed, because there is no checkpoint or the checkpoint belongs to a different
    fit. Or a new fit cannot begin, because the directory already contains checkpoints or another
    fit is using it. The message is one line. It names the directory, and each setting that differs
    with both values.

    Examples
    --------
    >>> import fastnn, tempfile
    >>> x, y = [[0.0], [1.0]], [0, 1]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     net = fastnn.Network([1, 2, 2])
    ...     history = net.fit(x, y, epochs=1, callbacks=[fastnn.Checkpoint(folder)])
    ...     try:  # with another learning rate
    ...         resume = fastnn.Checkpoint(folder, resume=True)
    ...         net.fit(x, y, epochs=2, learning_rate=0.5, callbacks=[resume])
    ...     except fastnn.CheckpointError:
    ...         print("cannot resume")
    cannot resume
    """


class DivergenceError(FastnnError, ArithmeticError):
    """The training loss or a weight is no longer finite.

    The network keeps its last finite weights. If the loss became infinite or NaN, these are the
    current weights, which gave this loss. If a weight did, they are the weights from the start of
    the epoch.

    Attributes
    ----------
    epoch : int
        Epoch in which the loss or a weight stopped being finite, counted from 1.
    step : int
        Update of this epoch at which it was detected, counted from 1. Weights are checked at the
        end of an epoch.

    Examples
    --------
    >>> import fastnn
    >>> net = fastnn.Network([1, 1], loss="squared_error")
    >>> try:
    ...     net.fit([[1e3], [2e3]], [1.0, 2.0], epochs=50, learning_rate=1.0)
    ... except fastnn.DivergenceError as error:
    ...     print("diverged in epoch", error.epoch)
    diverged in epoch 4
    """

    def __init__(self, message: str, *, epoch: int, step: int) -> None:
        super().__init__(message)
        self.epoch = epoch
        self.step = step
