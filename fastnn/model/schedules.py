"""Learning-rate schedules: pure functions of how far a fit has come.

With η the learning rate, t the update of this fit, counted from 0, of T in all::

    constant      η
    invscaling    η / (s + 1)ᵖ         s: samples seen when the epoch began; p: power_t
    adaptive      η, a fifth of it whenever training stops improving, until it is 1e-6
    cosine        η (1 + cos(π t / T)) / 2
    one_cycle     from η / 25 up to η in the first 3/10 of all updates, then down to η / 250,000,
                  both along half a cosine

Linear warm-up, of any schedule: the first W updates are multiplied by (t + 1) / W.

Sources: scikit-learn for the first three; Loshchilov & Hutter 2017 (SGDR, without restarts);
Smith & Topin 2018 with PyTorch's constants; Goyal et al. 2017 (warm-up).
"""

import math
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING

from fastnn.model.settings import check_normal

if TYPE_CHECKING:
    import numpy as np

SCHEDULES = ("constant", "invscaling", "adaptive", "cosine", "one_cycle")

# One cycle: where it begins and ends, as parts of η, and when it is at its height.
_BEGINNING, _END, _HEIGHT = 1 / 25, 1 / 250_000, 0.3
ADAPTIVE_FACTOR = 5.0  # what an adaptive rate is divided by,
ADAPTIVE_END = 1e-6  # until it is as small as this


@dataclass(frozen=True)
class Schedule:
    """How the learning rate changes as a fit goes on.

    Attributes
    ----------
    name : str
        One of `SCHEDULES`.
    warmup_epochs : float
        Length of the linear warm-up, at least 0.
    power_t : float
        The exponent of "invscaling".
    """

    name: str = "constant"
    warmup_epochs: float = 0.0
    power_t: float = 0.5

    def __post_init__(self) -> None:
        if self.name not in SCHEDULES:
            names = ", ".join(SCHEDULES)
            raise ValueError(f"schedule must be one of {names}, got {self.name!r}")
        for name in ("warmup_epochs", "power_t"):
            value = getattr(self, name)
            real = isinstance(value, Real) and not isinstance(value, bool)
            if not real or not 0 <= value < math.inf:
                raise ValueError(f"{name} must be a number of at least 0, got {value!r}")
            check_normal(name, value)

    def rates(
        self, learning_rate: float, *, epoch: int, epochs: int, updates: int, samples_seen: int
    ) -> "np.ndarray":
        """Return the learning rate of each update of an epoch, (updates,) float64.

        Parameters
        ----------
        learning_rate : float
            η; "adaptive" has it divided by who knows how training goes.
        epoch, epochs : int
            Which epoch of the fit, counted from 0, of how many.
        updates : int
            In an epoch.
        samples_seen : int
            Rows that all epochs before took.

        Examples
        --------
        >>> Schedule("cosine").rates(0.1, epoch=1, epochs=2, updates=2, samples_seen=0).round(4)
        array([0.05  , 0.0146])
        """
        import numpy as np  # not above: the command line asks for names alone

        t = np.arange(epoch * updates, (epoch + 1) * updates, dtype=np.float64)
        rates = learning_rate * np.ones(updates)
        total = epochs * updates
        if self.name == "invscaling":
            rates /= (samples_seen + 1) ** self.power_t
        elif self.name == "cosine":
            rates *= _half_cosine(1.0, 0.0, t / total)
        elif self.name == "one_cycle":
            height = max(1.0, _HEIGHT * total)
            up = _half_cosine(_BEGINNING, 1.0, t / height)
            down = _half_cosine(1.0, _END, (t - height) / max(1.0, total - 1 - height))
            rates *= np.where(t < height, up, down)
        warmup = self.warmup_epochs * updates
        if warmup > 0:
            rates *= np.minimum(t + 1, warmup) / warmup
        return rates


def _half_cosine(start: float, end: float, done: "np.ndarray") -> "np.ndarray":
    """Go from start to end along half a cosine; `done` is the share of the way, cut to 0 to 1."""
    import numpy as np

    return end + (start - end) * (1 + np.cos(np.pi * np.clip(done, 0, 1))) / 2
