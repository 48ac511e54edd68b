"""Invented training runs for the tests of the convergence reports."""

from typing import Any

from fastnn.commands.report_runs import BATCH_SIZES, Contest, Plan, Run


def run(name: str, accuracies: list[float], *, batch_size: int = 1_000, **settings: Any) -> Run:
    """Return a run on 1,000 rows with these test accuracies, by default with 1 s per epoch."""
    seconds = settings.pop("seconds", 1.0)
    rate, optimizer = settings.pop("learning_rate", None), settings.pop("optimizer", "sgd")
    plan = Plan(name, batch_size, rate, len(accuracies), optimizer)
    history = {
        "loss": settings.pop("loss", [1 / (i + 1) for i in range(len(accuracies))]),
        "accuracy": [0.5] * len(accuracies),
        "seconds": [seconds] * len(accuracies),
        "val_loss": [0.7] * len(accuracies),
        "val_accuracy": accuracies,
    }
    return Run(plan, 1_000, history if accuracies else {}, **settings)


SLOW = run("slow", [0.5, 0.7, 0.85, 0.91])
FAST = run("fast", [0.92, 0.96], batch_size=100, seconds=2.0)


def runs_of(contest: Contest, outcomes: dict[str, Any]) -> list[Run]:
    """Return runs of a contest's plans.

    `outcomes` maps names of plans to the final loss (default 0.5), or to None for divergence.
    """
    runs = []
    for plan in contest.plans:
        loss = outcomes.get(plan.name, 0.5)
        history = run("", [0.5] if loss else [], loss=[loss]).history
        runs.append(Run(plan, 1_000, history, None if loss else 1))
    return runs


RATES = runs_of(
    BATCH_SIZES,
    {"batch GD at rate 0.1": 0.3, "batch GD at rate 0.3": 0.2, "batch GD at rate 1": None},
)
