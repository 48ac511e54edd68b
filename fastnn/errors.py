"""The errors that fastnn raises of its own; everything else is Python's or NumPy's."""


class FastnnError(Exception):
    """Base of every error that fastnn raises of its own."""


class DataError(FastnnError, ValueError):
    """The data cannot be used: it is missing, damaged, of the wrong shape or not finite.

    The message names the array or the file, what was wrong with it, and what would be right.
    """


class ModelFileError(FastnnError, ValueError):
    """A model file is damaged, is none, or cannot hold what it is to hold.

    The message is one line: the file, what was wrong with it, and where that helps, what would be
    right.
    """


class CheckpointError(FastnnError, ValueError):
    """A fit cannot go on from a checkpoint: there is none, or it is not of this fit.

    The message is one line: the directory, and what differs, as it was and as it is.
    """


class DivergenceError(FastnnError, ArithmeticError):
    """The training loss, or a weight, is no longer finite.

    The network keeps its last finite weights: those that gave the loss, or where the last update
    has spoilt them, those that the epoch began with.

    Attributes
    ----------
    epoch : int
        The epoch, counted from 1, in which the loss stopped being finite.
    step : int
        The update of that epoch, counted from 1, at which it was seen.
    """

    def __init__(self, message: str, *, epoch: int, step: int) -> None:
        super().__init__(message)
        self.epoch = epoch
        self.step = step
