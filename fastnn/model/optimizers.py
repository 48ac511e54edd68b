"""Optimizers as frozen records: names and hyper-parameters, no arithmetic.

The equations, for a weight or bias w and the gradient g of the batch's loss at update t = 1, 2, …;
η is the learning rate that the update gets::

    SGD        w ← w - η g
    momentum   u ← μ u - η g        w ← w + u                 (nesterov: w ← w + μ u - η g)
    Adam       m ← β₁ m + (1 - β₁) g     v ← β₂ v + (1 - β₂) g²
               w ← w - η √(1 - β₂ᵗ) / (1 - β₁ᵗ) · m / (√v + ε)

All state begins at zero. Weight decay is decoupled (Loshchilov & Hutter, 2019): before that, a
weight, but no bias, is multiplied by 1 - η λ. L2 regularisation adds ``l2 · w`` to the gradient
of a weight, and ``l2 / 2 · Σ w²`` to the loss.

Sources: Polyak 1964; Sutskever et al. 2013 (Nesterov's momentum in this form); Kingma & Ba 2015,
Adam with ε as in the text's "more efficient" order, which is scikit-learn's too. PyTorch and the
paper's algorithm box add ε after the bias correction: their ε is ours times √(1 - β₂ᵗ).

"lbfgs" is L-BFGS (Liu & Nocedal 1989) as SciPy has it: every epoch is an iteration over all rows,
with a line search in place of a learning rate.
"""

from dataclasses import dataclass, fields, replace
from typing import Any

from fastnn.model.settings import check_setting


@dataclass(frozen=True)
class Optimizer:
    """How weights follow their gradients.

    Attributes
    ----------
    rule : {"sgd", "momentum", "adam", "lbfgs"}
    learning_rate : float
        η, above 0.
    momentum : float
        μ, from 0 to below 1.
    nesterov : bool
        Look ahead: Nesterov's momentum.
    beta1, beta2 : float
        β₁ and β₂, from 0 to below 1.
    eps : float
        ε, above 0.
    weight_decay : float
        λ, at least 0.
    """

    rule: str
    learning_rate: float
    momentum: float = 0.9
    nesterov: bool = False
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0

    @property
    def slots(self) -> int:
        """How many numbers of state a parameter has."""
        return {"momentum": 1, "adam": 2}.get(self.rule, 0)


OPTIMIZERS = {
    "sgd": Optimizer("sgd", 0.1),
    "momentum": Optimizer("momentum", 0.01),
    "nesterov": Optimizer("momentum", 0.01, nesterov=True),
    "adam": Optimizer("adam", 0.001),
    "adamw": Optimizer("adam", 0.001, weight_decay=0.01),
    "lbfgs": Optimizer("lbfgs", 1.0),
}

_RULES = ("sgd", "momentum", "adam", "lbfgs")
_STEPPING = ("sgd", "momentum", "adam")
# Which rules a setting means something to; it is an error to give it to another.
_RULES_WITH = {
    "learning_rate": _STEPPING,
    "weight_decay": _STEPPING,
    "momentum": ("momentum",),
    "beta1": ("adam",),
    "beta2": ("adam",),
    "eps": ("adam",),
}


def get_optimizer(optimizer: str | Optimizer, **settings: Any) -> Optimizer:
    """Return an optimizer by its name, with some of its settings replaced; None keeps a default.

    Examples
    --------
    >>> get_optimizer("nesterov", learning_rate=0.05, momentum=None)
    ... # doctest: +NORMALIZE_WHITESPACE
    Optimizer(rule='momentum', learning_rate=0.05, momentum=0.9, nesterov=True, beta1=0.9,
              beta2=0.999, eps=1e-08, weight_decay=0.0)

    Raises
    ------
    ValueError
        If there is no such optimizer, or a setting is out of range.
    """
    if not isinstance(optimizer, Optimizer):
        if not isinstance(optimizer, str) or optimizer not in OPTIMIZERS:
            names = ", ".join(OPTIMIZERS)
            raise ValueError(f"optimizer must be one of {names}, got {optimizer!r}")
        optimizer = OPTIMIZERS[optimizer]
    if optimizer.rule not in _RULES:
        raise ValueError(f"an optimizer's rule is one of {', '.join(_RULES)}: {optimizer!r}")
    given = {name: value for name, value in settings.items() if value is not None}
    for name in given:
        if optimizer.rule not in _RULES_WITH.get(name, _RULES):
            takers = [key for key, each in OPTIMIZERS.items() if each.rule in _RULES_WITH[name]]
            raise ValueError(f"{name} is for {', '.join(takers)}, and not for this optimizer")
    chosen = replace(optimizer, **given)
    for field in fields(chosen):
        if field.name not in ("rule", "nesterov"):
            check_setting(field.name, getattr(chosen, field.name))
    return chosen
