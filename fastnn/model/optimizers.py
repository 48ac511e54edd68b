"""Optimizers: their rules and hyperparameters.

The arithmetic is in `fastnn.reference` (NumPy) and `fastnn.kernels` (compiled).
"""

from dataclasses import dataclass, fields, replace
from typing import Any

from fastnn.model.settings import check_setting

# The settings of each rule, with their defaults.
_SETTINGS: dict[str, dict[str, float]] = {
    "sgd": {"learning_rate": 0.1, "weight_decay": 0.0},
    "momentum": {"learning_rate": 0.01, "momentum": 0.9, "nesterov": False, "weight_decay": 0.0},
    "adam": {
        "learning_rate": 0.001, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.0
    },
    "lbfgs": {},
}  # fmt: skip
# The values that a rule's record has for settings of other rules, if not 0.
_UNUSED = {"learning_rate": 1.0, "nesterov": False}


@dataclass(frozen=True)
class Optimizer:
    """An update rule with its hyperparameters.

    For a weight or bias w, the gradient g of the batch's loss, the learning rate η and the update
    t = 1, 2, …, the rules are::

        sgd        w ← w - η g
        momentum   u ← μ u - η g        w ← w + u                 (nesterov: w ← w + μ u - η g)
        adam       m ← β₁ m + (1 - β₁) g     v ← β₂ v + (1 - β₂) g²
                   w ← w - η √(1 - β₂ᵗ) / (1 - β₁ᵗ) · m / (√v + ε)

    The state u, m and v starts at zero. Weight decay is decoupled [4]_: before the update, the
    weights, but not the biases, are multiplied by 1 - η λ. The rule "lbfgs" is SciPy's L-BFGS
    [5]_: each epoch is one iteration over all rows, with a line search instead of a learning rate.

    Parameters
    ----------
    rule : {"sgd", "momentum", "adam", "lbfgs"}
    learning_rate : float, optional
        η, above 0; by default 0.1 for "sgd", 0.01 for "momentum" and 0.001 for "adam".
    momentum : float, optional
        μ of "momentum", at least 0 and less than 1; by default 0.9.
    nesterov : bool, optional
        Use Nesterov's form of "momentum"; by default False.
    beta1, beta2 : float, optional
        β₁ and β₂ of "adam", at least 0 and less than 1; by default 0.9 and 0.999.
    eps : float, optional
        ε of "adam", above 0; by default 1e-8.
    weight_decay : float, optional
        λ, at least 0; by default 0. Not for "lbfgs".

    Raises
    ------
    ValueError
        If there is no such rule, a setting is out of range in float32, or the rule does not have
        the setting.

    Notes
    -----
    Momentum: Polyak [1]_, and Sutskever et al. [2]_ for Nesterov's form. Adam: Kingma and Ba [3]_,
    with ε as in the more efficient order of their section 2, like scikit-learn. PyTorch adds ε
    after the bias correction: its ε is this one divided by √(1 - β₂ᵗ).

    `fastnn.Network.fit` also takes the names "nesterov", for ``Optimizer("momentum",
    nesterov=True)``, and "adamw" [4]_, for ``Optimizer("adam", weight_decay=0.01)``.

    References
    ----------
    .. [1] B. Polyak, "Some methods of speeding up the convergence of iteration methods", 1964.
    .. [2] I. Sutskever, J. Martens, G. Dahl and G. Hinton, "On the importance of initialization
       and momentum in deep learning", ICML 2013.
    .. [3] D. Kingma and J. Ba, "Adam: a method for stochastic optimization", ICLR 2015.
    .. [4] I. Loshchilov and F. Hutter, "Decoupled weight decay regularization", ICLR 2019.
    .. [5] D. Liu and J. Nocedal, "On the limited memory BFGS method", 1989.

    Examples
    --------
    >>> from fastnn import Network, Optimizer
    >>> network = Network([2, 8, 2])
    >>> x, y = [[0, 0], [0, 1], [1, 0], [1, 1]], [0, 1, 1, 0]
    >>> optimizer = Optimizer("adam", learning_rate=0.05, beta1=0.8)
    >>> history = network.fit(x, y, epochs=200, optimizer=optimizer, engine="numpy")
    >>> network.predict(x)
    array([0, 1, 1, 0])
    """

    rule: str
    learning_rate: float = None  # type: ignore[assignment]  # None: the rule's default
    momentum: float = None  # type: ignore[assignment]
    nesterov: bool = None  # type: ignore[assignment]
    beta1: float = None  # type: ignore[assignment]
    beta2: float = None  # type: ignore[assignment]
    eps: float = None  # type: ignore[assignment]
    weight_decay: float = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if not isinstance(self.rule, str) or self.rule not in _SETTINGS:
            hint = f"; pass optimizer={self.rule!r} to fit" if self.rule in [*OPTIMIZERS] else ""
            names = ", ".join(_SETTINGS)
            raise ValueError(f"rule must be one of {names}, got {self.rule!r}{hint}")
        for name in (field.name for field in fields(self)[1:]):
            value, unused = getattr(self, name), _UNUSED.get(name, 0.0)
            if name not in _SETTINGS[self.rule]:
                if value is not None and value != unused:
                    _reject(self.rule, name)
                value = unused
            elif value is None:
                value = _SETTINGS[self.rule][name]
            elif name == "nesterov":
                value = bool(value)
            elif name != "momentum" or value != 1:  # scikit-learn's estimators allow 1
                check_setting(name, value)
            object.__setattr__(self, name, value)

    @property
    def slots(self) -> int:
        """Return the number of state arrays per parameter: u, or m and v."""
        return {"momentum": 1, "adam": 2}.get(self.rule, 0)


OPTIMIZERS = {
    "sgd": Optimizer("sgd"),
    "momentum": Optimizer("momentum"),
    "nesterov": Optimizer("momentum", nesterov=True),
    "adam": Optimizer("adam"),
    "adamw": Optimizer("adam", weight_decay=0.01),
    "lbfgs": Optimizer("lbfgs"),
}


def get_optimizer(optimizer: str | Optimizer, **settings: Any) -> Optimizer:
    """Return an optimizer by its name, with the settings that are not None replaced.

    Raises
    ------
    ValueError
        If there is no such optimizer, it does not have a setting, or a setting is out of range.

    Examples
    --------
    >>> optimizer = get_optimizer("nesterov", learning_rate=0.05, weight_decay=None)
    >>> optimizer.rule, optimizer.learning_rate, optimizer.momentum, optimizer.nesterov
    ('momentum', 0.05, 0.9, True)
    """
    if not isinstance(optimizer, Optimizer):
        if not isinstance(optimizer, str) or optimizer not in OPTIMIZERS:
            names = ", ".join(OPTIMIZERS)
            raise ValueError(f"optimizer must be one of {names}, got {optimizer!r}")
        optimizer = OPTIMIZERS[optimizer]
    given = {name: value for name, value in settings.items() if value is not None}
    for name in given.keys() - _SETTINGS[optimizer.rule].keys():
        _reject(optimizer.rule, name)
    chosen = replace(optimizer, **given)
    check_setting("momentum", chosen.momentum)
    return chosen


def _reject(rule: str, name: str) -> None:
    """Raise a ValueError for a setting that a rule does not have."""
    owners = [key for key, each in OPTIMIZERS.items() if name in _SETTINGS[each.rule]]
    raise ValueError(f"optimizer {rule!r} has no setting {name!r}; {', '.join(owners)} have it")
