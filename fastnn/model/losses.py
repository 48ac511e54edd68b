"""Losses as frozen records: names, and what they take; no arithmetic.

The loss of a sample, for the last layer's outputs z, the predictions p = link(z) and the targets
y; sums go over the outputs, and r = p - y::

    cross_entropy    -log p[y]                             p = softmax(z)
    logistic         -Σ (y log p + (1 - y) log(1 - p))     p = 1 / (1 + e⁻ᶻ)
    squared_error    Σ r² / 2                              p = z
    poisson          Σ (p - y log p + y log y - y)         p = eᶻ
    absolute_error   Σ |r|                                 p = z
    huber            Σ (r² / 2 where |r| < 1, else |r| - 1/2)    p = z

A batch's loss is the mean of its samples', weighted where samples have weights. For all of them
the gradient with respect to z is a function of the residual alone: r itself for the first four,
its sign for the absolute error, and r cut off at ±1 for Huber's (1964). The Poisson loss is half
the deviance, as scikit-learn has it.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Loss:
    """What a network is trained for.

    Attributes
    ----------
    name : str
    link : {"softmax", "logistic", "identity", "exp"}
        How predictions come from the last layer's z.
    score : {"accuracy", "r2"}
        What tells how good predictions are: a classifier's is the share of rows that are right
        in all outputs.
    """

    name: str
    link: str
    score: str

    @property
    def takes_labels(self) -> bool:
        """Whether targets are class numbers (n,) int32; else they are (n, O) float32."""
        return self.link == "softmax"


LOSSES = {
    loss.name: loss
    for loss in (
        Loss("cross_entropy", "softmax", "accuracy"),
        Loss("logistic", "logistic", "accuracy"),
        Loss("squared_error", "identity", "r2"),
        Loss("poisson", "exp", "r2"),
        Loss("absolute_error", "identity", "r2"),
        Loss("huber", "identity", "r2"),
    )
}


def get_loss(name: str) -> Loss:
    """Return a loss by its name.

    Raises
    ------
    ValueError
        If there is no such loss.
    """
    if not isinstance(name, str) or name not in LOSSES:
        raise ValueError(f"loss must be one of {', '.join(LOSSES)}, got {name!r}")
    return LOSSES[name]
