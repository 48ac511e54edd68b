"""The errors that fastnn raises of its own; everything else is Python's or NumPy's."""


class FastnnError(Exception):
    """Base of every error that fastnn raises of its own."""


class DataError(FastnnError, ValueError):
    """The data cannot be used: it is missing, damaged, of the wrong shape or not finite.

    The message names the array or the file, what was wrong with it, and what would be right.
    """


class DivergenceError(FastnnError, ArithmeticError):
    """The training loss is no longer finite.

    Raised before the offending update is applied, so the network keeps its last finite weights.

    Attributes
    ----------
    epoch : int
        The epoch, counted from 1, in which the loss stopped being finite.
    step : int
        The update of that epoch, counted from 1, that was not applied.
    """

    def __init__(self, message: str, *, epoch: int, step: int) -> None:
        super().__init__(message)
        self.epoch = epoch
        self.step = step
