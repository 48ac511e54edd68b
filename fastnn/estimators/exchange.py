"""How a fitted estimator leaves this process, and how it comes back."""

from collections.abc import Callable
from typing import Any

from sklearn.base import BaseEstimator

from fastnn.network import Network


class ExchangeMixin(BaseEstimator):
    """What `BaseMLP` has for pickles."""

    _network: Network
    _take_weights: Callable[[], None]
    _show_weights: Callable[[], None]

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what shows the network's weights: they would be there twice."""
        state = dict(super().__getstate__())
        if "_network" in state:
            self._take_weights()
            for name in ("coefs_", "intercepts_", "_exposed"):
                del state[name]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Show the weights again."""
        super().__setstate__(state)
        if "_network" in state:
            self._show_weights()
