"""Losses: their names, output activations and scores.

The arithmetic is in `fastnn.reference` (NumPy) and `fastnn.kernels` (compiled). Notation::

    z            outputs of the last layer before its activation
    p = link(z)  predictions; the link is the output activation (inverse link)
    y            targets; for cross_entropy the number of the class
    r = p - y    residuals; for cross_entropy y counts as 1 for its class and 0 for the others

The loss of a sample, where Σ is the sum over its outputs, is::

    cross_entropy    -log p[y]                             p = softmax(z)
    logistic         -Σ (y log p + (1 - y) log(1 - p))     p = 1 / (1 + e⁻ᶻ)
    squared_error    Σ r² / 2                              p = z
    poisson          Σ (p - y log p + y log y - y)         p = eᶻ
    absolute_error   Σ |r|                                 p = z
    huber            Σ (r² / 2 if |r| < 1, else |r| - 1/2)    p = z

The loss of a batch is the weighted mean of its samples' losses. The gradient with respect to z
depends only on the residual: it is r for the first four losses, sign(r) for the absolute error,
and r clipped to ±1 for the Huber loss (Huber 1964). The Poisson loss is half the deviance, as in
scikit-learn.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Loss:
    """A loss function.

    Attributes
    ----------
    name : str
    link : {"softmax", "logistic", "identity", "exp"}
        Output activation (inverse link): maps the last layer's z to predictions.
    score : {"accuracy", "r2"}
        Metric of the predictions. The accuracy is the fraction of rows whose outputs are all
        correct.
    """

    name: str
    link: str
    score: str

    @property
    def takes_labels(self) -> bool:
        """Return whether targets are class numbers (n,) int32, and not values (n, O) float32."""
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
