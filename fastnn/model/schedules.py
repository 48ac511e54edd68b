"""Learning-rate schedules."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastnn.model.settings import check_normal, check_number

if TYPE_CHECKING:
    import numpy as np  # not at run time: `--help` of the commands starts without NumPy

SCHEDULES = ("constant", "invscaling", "adaptive", "cosine", "one_cycle")
EPOCH_SCHEDULES = ("cosine", "one_cycle")  # their rates depend on the number of epochs

# "one_cycle": the first and last rate divided by η, and the fraction of updates before the peak.
_ONE_CYCLE_START, _ONE_CYCLE_END, _ONE_CYCLE_PEAK = 1 / 25, 1 / 250_000, 0.3
ADAPTIVE_FACTOR = 5.0  # divisor of an adaptive rate
ADAPTIVE_END = 1e-6  # an adaptive rate above this is divided again; otherwise the fit ends


@dataclass(frozen=True)
class Schedule:
    """A learning-rate schedule.

    For the base learning rate η and update t = 0, 1, … of T updates in a fit, the rates are::

        constant      η
        invscaling    η / (s + 1)ᵖ    s: samples seen before the epoch, p: power_t
        adaptive      η, divided by 5 each time training stops improving; the fit ends when
                      training stops improving at a rate of 1e-6 or less
        cosine        η (1 + cos(π t / T)) / 2
        one_cycle     from η / 25 to η in the first 30 % of the updates, then to η / 250,000,
                      both along half a cosine

    With a warm-up of W updates, the first W rates are also multiplied by (t + 1) / W.

    Parameters
    ----------
    name : {"constant", "invscaling", "adaptive", "cosine", "one_cycle"}, default "constant"
    warmup_epochs : float, default 0.0
        Length of the linear warm-up in epochs, at least 0.
    power_t : float, default 0.5
        Exponent of "invscaling", at least 0.

    Raises
    ------
    ValueError
        If there is no such schedule, or a setting is out of range.

    Notes
    -----
    The first three schedules are scikit-learn's. "cosine" is SGDR without restarts [1]_;
    "one_cycle" has PyTorch's constants [2]_; the warm-up is that of Goyal et al. [3]_.

    References
    ----------
    .. [1] I. Loshchilov and F. Hutter, "SGDR: stochastic gradient descent with warm restarts",
       ICLR 2017.
    .. [2] L. Smith and N. Topin, "Super-convergence: very fast training of neural networks using
       large learning rates", 2018.
    .. [3] P. Goyal et al., "Accurate, large minibatch SGD: training ImageNet in 1 hour", 2017.

    Examples
    --------
    >>> from fastnn import Network, Schedule
    >>> network = Network([1, 4, 2])
    >>> history = network.fit(
    ...     [[0], [1], [2], [3]], [0, 0, 1, 1], epochs=3, learning_rate=0.2,
    ...     schedule=Schedule("cosine", warmup_epochs=1), engine="numpy",
    ... )
    >>> [round(rate, 3) for rate in history["learning_rate"]]
    [0.2, 0.15, 0.05]
    """

    name: str = "constant"
    warmup_epochs: float = 0.0
    power_t: float = 0.5

    def __post_init__(self) -> None:
        if self.name not in SCHEDULES:
            names = ", ".join(SCHEDULES)
            raise ValueError(f"schedule must be one of {names}, got {self.name!r}")
        for name in ("warmup_epochs", "power_t"):
            check_number(name, getattr(self, name), limit=math.inf)
            check_normal(name, getattr(self, name))

    def rates(
        self, learning_rate: float, *, epoch: int, epochs: int, updates: int, samples_seen: int
    ) -> "np.ndarray":
        """Return the learning rate of each update of an epoch, (updates,) float64.

        Parameters
        ----------
        learning_rate : float
            η; for "adaptive", already divided.
        epoch, epochs : int
            Number of the epoch, from 0, and number of epochs in the fit.
        updates : int
            Number of updates in an epoch.
        samples_seen : int
            Number of rows in all previous epochs, of all fits.

        Examples
        --------
        >>> Schedule("cosine").rates(0.1, epoch=1, epochs=2, updates=2, samples_seen=0).round(4)
        array([0.05  , 0.0146])
        """
        import numpy as np

        t = np.arange(epoch * updates, (epoch + 1) * updates, dtype=np.float64)
        rates = learning_rate * np.ones(updates)
        total = epochs * updates
        if self.name == "invscaling":
            rates /= (samples_seen + 1) ** self.power_t
        elif self.name == "cosine":
            rates *= _half_cosine(1.0, 0.0, t / total)
        elif self.name == "one_cycle":
            peak = max(1.0, _ONE_CYCLE_PEAK * total)
            up = _half_cosine(_ONE_CYCLE_START, 1.0, t / peak)
            down = _half_cosine(1.0, _ONE_CYCLE_END, (t - peak) / max(1.0, total - 1 - peak))
            rates *= np.where(t < peak, up, down)
        warmup = self.warmup_epochs * updates
        if warmup > 0:
            rates *= np.minimum(t + 1, warmup) / warmup
        return rates


def _half_cosine(start: float, end: float, done: "np.ndarray") -> "np.ndarray":
    """Interpolate from start to end along half a cosine; `done` is clipped to 0 … 1."""
    import numpy as np

    return end + (start - end) * (1 + np.cos(np.pi * np.clip(done, 0, 1))) / 2
