"""Optimizer objects: defaults, and checks of every setting."""

from dataclasses import replace

import pytest

from fastnn import Network, Optimizer
from fastnn.model.optimizers import OPTIMIZERS, get_optimizer

WRONG = [
    ("adagrad", {}, "rule must be one of sgd, momentum, adam, lbfgs, got 'adagrad'"),
    (
        "adamw",
        {},
        "rule must be .*, got 'adamw'; pass optimizer='adamw' to fit",
    ),
    (None, {}, "rule must be one of sgd, momentum, adam, lbfgs, got None"),
    ("sgd", {"learning_rate": 0}, "learning_rate must be a positive number, got 0"),
    ("sgd", {"learning_rate": "0.1"}, "learning_rate must be a positive number, got '0.1'"),
    (
        "momentum",
        {"momentum": 1.5},
        "momentum must be .* at least 0 and less than 1, got 1.5",
    ),
    ("adam", {"beta1": 1}, "beta1 must be a number of at least 0 and less than 1, got 1"),
    ("adam", {"beta2": -0.1}, "beta2 must be a number of at least 0 and less than 1, got -0.1"),
    ("adam", {"eps": 0}, "eps must be a positive number, got 0"),
    ("adam", {"weight_decay": -1}, "weight_decay must be a number of at least 0, got -1"),
    (
        "sgd",
        {"momentum": 0.9},
        "optimizer 'sgd' has no setting 'momentum'; momentum, .* have it",
    ),
    (
        "adam",
        {"nesterov": True},
        "optimizer 'adam' has no setting 'nesterov'; momentum, .* have it",
    ),
    (
        "momentum",
        {"beta1": 0.9},
        "optimizer 'momentum' has no setting 'beta1'; adam, .* have it",
    ),
    (
        "lbfgs",
        {"learning_rate": 0.1},
        "optimizer 'lbfgs' has no setting 'learning_rate'; sgd, momentum, .*, adamw have it",
    ),
]


@pytest.mark.parametrize(("rule", "settings", "message"), WRONG)
def test_rejects_wrong_settings_by_name(rule, settings, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        Optimizer(rule, **settings)


def test_settings_default_to_those_of_the_named_optimizers():
    assert Optimizer("sgd") == OPTIMIZERS["sgd"]
    assert Optimizer("momentum", nesterov=True) == OPTIMIZERS["nesterov"]
    assert Optimizer("adam", 0.001, beta1=0.9, beta2=0.999, eps=1e-8) == OPTIMIZERS["adam"]
    assert Optimizer("adam", weight_decay=0.01) == OPTIMIZERS["adamw"]


def test_every_named_optimizer_can_be_copied_with_another_weight_decay():
    for name, optimizer in OPTIMIZERS.items():
        if name != "lbfgs":
            assert replace(optimizer, weight_decay=0.5).weight_decay == 0.5


def test_network_fit_rejects_momentum_of_1():
    """The constructor allows it, because scikit-learn's estimators do."""
    optimizer = Optimizer("momentum", momentum=1)
    with pytest.raises(ValueError, match="^momentum must be .* and less than 1, got 1$"):
        Network([1, 2]).fit([[0], [1]], [0, 1], optimizer=optimizer)


def test_fit_settings_replace_those_of_the_object():
    chosen = get_optimizer(Optimizer("adam", beta1=0.5), learning_rate=0.25)
    assert (chosen.learning_rate, chosen.beta1) == (0.25, 0.5)
