"""Whether there is memory for a fit, asked before anything is changed."""

from collections.abc import Sequence

from fastnn.engine import weight_bytes
from fastnn.model.layers import Dense
from fastnn.system.memory import check_memory
from fastnn.training.plan import Plan

INDEX_BYTES = 8
# For each weight SciPy's L-BFGS has ten steps, ten changes of the gradient and about ten more
# vectors, in float64: so many float32.
_LBFGS = 60
_UPDATE = 60  # bytes: an update's learning rate on its way


def check_fit(layers: Sequence[Dense], rows: int, plan: Plan, *, checkpoints: bool) -> None:
    """Raise a MemoryError if there is no room for a fit, beside the engine.

    Weights are copied after every epoch, for when the loss diverges, while the copy before is
    there; the best are kept. So is the order of the rows. What is copied at the end takes the
    copies' place. A checkpoint is copied from the engine, as bytes, and into the file's.
    """
    size = weight_bytes(layers)
    slots = _LBFGS if plan.optimizer.rule == "lbfgs" else plan.optimizer.slots
    kept = size if plan.early_stopping is not None and plan.early_stopping.restore_best else 0
    updates = 1 if plan.batch_size == "full" else -(-rows // plan.batch_size)
    needs = {
        "weights": 2 * size + kept,
        "gradients": size,
        "the optimizer's state": slots * size,
        "a checkpoint": 3 * (1 + slots) * size + 2 * kept if checkpoints else 0,
        "the order of the rows": 2 * rows * INDEX_BYTES + updates * _UPDATE,
    }
    advice = "narrower layers need less"
    check_memory("training", needs, advice + (", and so does the optimizer 'sgd'" if slots else ""))
