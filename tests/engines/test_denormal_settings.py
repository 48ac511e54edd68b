"""Settings that are denormal in float32, for which the engines would differ."""

import argparse
import re

import numpy as np
import pytest

from fastnn import MLPClassifier, MLPRegressor, Network, Schedule
from fastnn.commands.options import number
from fastnn.commands.train_options import parse
from fastnn.model.optimizers import Optimizer
from fastnn.model.settings import LARGEST_FLOAT, SMALLEST_NORMAL, check_setting

DENORMAL = float(np.nextafter(SMALLEST_NORMAL, 0))
X, Y = np.arange(12.0).reshape(6, 2), np.array([0, 1, 0, 1, 0, 1])
RANGE = r"must be (0 or )?at least 1\.18e-38 "

# All settings that the engines compute with: whether 0 is allowed, and the other settings needed.
OF_FIT = {
    "learning_rate": (False, {}),
    "momentum": (True, {"optimizer": "momentum"}),
    "weight_decay": (True, {}),
    "l2": (True, {}),
    "clip_norm": (True, {}),
}
OF_OPTIMIZER = {
    "learning_rate": (False, "sgd"),
    "momentum": (True, "momentum"),
    "beta1": (True, "adam"),
    "beta2": (True, "adam"),
    "eps": (False, "adam"),
    "weight_decay": (True, "adam"),
}
OF_NETWORK = {"dropout": True, "input_scale": False}
OF_SCHEDULE = {"warmup_epochs": True, "power_t": True}
OF_ESTIMATORS = {
    "alpha": (True, {"solver": "lbfgs"}),
    "learning_rate_init": (False, {}),
    "power_t": (True, {"solver": "sgd", "learning_rate": "invscaling"}),
    "momentum": (True, {"solver": "sgd"}),
    "beta_1": (True, {}),
    "beta_2": (True, {}),
    "epsilon": (False, {}),
    "weight_decay": (True, {}),
    "dropout": (True, {}),
}
OPTIONS = {
    "learning-rate": (False, []),
    "momentum": (True, ["--optimizer", "momentum"]),
    "weight-decay": (True, []),
    "l2": (True, []),
    "clip-norm": (True, []),
    "dropout": (True, []),
    "warmup-epochs": (True, []),
}
VALUES = (1e-40, 5e-324, DENORMAL)


def refusal(name, or_zero, value):
    """Return a pattern of the whole message."""
    zero, got = "0 or " if or_zero else "", re.escape(repr(value))
    return rf"^{name} must be {zero}at least 1\.18e-38 \(float32's smallest normal\), got {got}$"


@pytest.mark.parametrize("value", VALUES)
def test_rejects_denormal_settings_by_name(engine, value):
    for name, (or_zero, others) in OF_FIT.items():
        network = Network([2, 2])
        with pytest.raises(ValueError, match=refusal(name, or_zero, value)):
            network.fit(X, Y, **{name: value}, **others, engine=engine)
        assert network.epochs_trained == 0
    for name, (or_zero, rule) in OF_OPTIMIZER.items():
        with pytest.raises(ValueError, match=refusal(name, or_zero, value)):
            Optimizer(rule, **{name: value})
    for name, or_zero in OF_NETWORK.items():
        with pytest.raises(ValueError, match=refusal(name, or_zero, value)):
            Network([2, 2, 2], **{name: value})
    for name, or_zero in OF_SCHEDULE.items():
        with pytest.raises(ValueError, match=refusal(name, or_zero, value)):
            Schedule("invscaling", **{name: value})
    for kind in (MLPClassifier, MLPRegressor):
        for name, (or_zero, others) in OF_ESTIMATORS.items():
            with pytest.raises(ValueError, match=refusal(name, or_zero, value)):
                kind(**{name: value}, **others, engine=engine).fit(X, Y)


@pytest.mark.parametrize("value", VALUES)
def test_command_line_rejects_denormal_settings(value):
    for option, (or_zero, others) in OPTIONS.items():
        with pytest.raises(Exception, match="float32") as caught:
            parse([f"--{option}", repr(value), *others])
        zero = "0 or " if or_zero else ""
        assert f"argument --{option}: must be {zero}at least 1.18e-38" in str(caught.value)
    for name in ("l2", "momentum", "learning_rate"):
        with pytest.raises(argparse.ArgumentTypeError, match=RANGE):
            number(name)(repr(value))


def test_accepts_0_and_the_smallest_normal_number():
    for name in ("l2", "clip_norm", "weight_decay", "momentum", "beta1", "beta2"):
        for value in (0, SMALLEST_NORMAL):
            check_setting(name, value)
    for name in ("learning_rate", "eps", "input_scale"):
        check_setting(name, SMALLEST_NORMAL)
        check_setting(name, LARGEST_FLOAT)
        with pytest.raises(ValueError, match=f"^{name} must be a positive number, got 0$"):
            check_setting(name, 0)
    Schedule(warmup_epochs=0, power_t=0)
    Network([2, 2, 2], dropout=0, input_scale=SMALLEST_NORMAL)
    MLPClassifier(4, max_iter=1, tol=0, alpha=0, beta_1=0, momentum=0, dropout=0, engine="numpy")
    assert number("l2")("0") == number("momentum")("0") == 0


def test_tables_contain_all_settings_of_the_engines():
    """Float settings outside the tables are not used by the engines."""
    floats = {
        name for name, value in MLPClassifier().get_params().items() if isinstance(value, float)
    }
    assert floats - set(OF_ESTIMATORS) == {"tol", "validation_fraction"}
    assert set(OF_SCHEDULE) == {
        name for name, kind in Schedule.__annotations__.items() if kind is float
    }
    assert set(OF_OPTIMIZER) == {
        name for name, kind in Optimizer.__annotations__.items() if kind is float
    }
