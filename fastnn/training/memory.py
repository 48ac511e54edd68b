"""Check that there is enough memory for a fit, before the fit changes anything."""

from collections.abc import Sequence

from fastnn.engine import weight_bytes
from fastnn.model.layers import Dense
from fastnn.system.memory import check_memory
from fastnn.training.plan import Plan

INDEX_BYTES = 8
# SciPy's L-BFGS keeps ten steps, ten changes of the gradient and about ten more vectors in float64:
# as much memory as this many float32 values per weight.
_LBFGS_SLOTS = 60
_UPDATE_BYTES = 60  # bytes per update for its learning rate and its intermediate results


def check_fit_memory(layers: Sequence[Dense], rows: int, plan: Plan, *, checkpoints: bool) -> None:
    """Raise a MemoryError if a fit needs more memory, besides its engine, than is available.

    After each epoch the weights are copied, in case the next epoch diverges, while the previous
    copy still exists. The best weights and the order of the rows take memory, too. A checkpoint
    exists three times: as arrays, as bytes and in the buffer of the file.
    """
    size = weight_bytes(layers)
    slots = _LBFGS_SLOTS if plan.optimizer.rule == "lbfgs" else plan.optimizer.slots
    best = size if plan.early_stopping is not None and plan.early_stopping.restore_best else 0
    updates = 1 if plan.batch_size == "full" else -(-rows // plan.batch_size)
    needs = {
        "weights": 2 * size + best,
        "gradients": size,
        "the optimizer's state": slots * size,
        "a checkpoint": 3 * (1 + slots) * size + 3 * best if checkpoints else 0,
        "the order of the rows": 2 * rows * INDEX_BYTES + updates * _UPDATE_BYTES,
    }
    advice = "narrower layers need less"
    check_memory("training", needs, advice + (", and so does the optimizer 'sgd'" if slots else ""))
