"""Prepare a fit: check and convert its data, set aside validation rows, weight the rows."""

from typing import Any

from fastnn.data.conversion import as_data, with_class_weights
from fastnn.data.splitting import split
from fastnn.model.schedules import Schedule
from fastnn.training.plan import Plan, check_monitor
from fastnn.training.scale import warn_of_offset
from fastnn.training.state import Prepared


def prepare(
    network: Any,
    plan: Plan,
    x: Any,
    y: Any,
    sample_weight: Any = None,
    *,
    class_weight: Any = None,
    validation_data: tuple[Any, ...] | None = None,
    validation_fraction: float = 0.0,
    scored: bool = False,
    warn: bool = True,
) -> Prepared:
    """Check all data and settings of a fit; `fastnn.Network.fit` explains the parameters.

    All fits are prepared here: those of networks, of estimators and of the command line.

    Parameters
    ----------
    network : Network
        Its layers and its loss determine which data are accepted.
    scored : bool
        Whether a scorer of the estimator is evaluated after each epoch.
    warn : bool
        Whether to warn of targets whose differences float32 cannot represent.

    Raises
    ------
    ValueError
        If a setting is out of range or contradicts another.
    DataError
        If the data do not fit the network or are not finite.
    """
    layers, loss = network.layers, network.loss
    inputs, outputs = layers[0].inputs, layers[-1].outputs
    if plan.optimizer.rule == "lbfgs":
        dropout = any(layer.dropout for layer in layers)
        if dropout or plan.clip_norm or plan.schedule != Schedule():
            raise ValueError("lbfgs supports neither dropout nor clip_norm nor a schedule")
    data = as_data(x, y, inputs, outputs, loss, sample_weight)
    training, validation = data, None
    if validation_data is not None:
        if not 2 <= len(validation_data) <= 3:
            raise ValueError("validation_data must be (x, y) or (x, y, sample_weight)")
        if validation_fraction:
            raise ValueError("validation_data and validation_fraction cannot be used together")
        val_x, val_y, val_weight = (*validation_data, None)[:3]
        validation = as_data(val_x, val_y, inputs, outputs, loss, val_weight, "validation ")
    elif validation_fraction:
        training, validation = split(data, validation_fraction, loss, plan.seed)
    if class_weight is not None:
        training = with_class_weights(training, class_weight, loss, outputs)
    check_monitor(plan.early_stopping, loss, validated=validation is not None, scored=scored)
    warned = warn and warn_of_offset(y, data, loss)
    return Prepared(layers, loss, training, validation, plan, warned)
