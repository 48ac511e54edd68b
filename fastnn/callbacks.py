"""What may watch a fit."""


class Callback:
    """Base class: override what you want to see. Every method does nothing here.

    Callbacks run in Python between calls of the engine. They may raise to end the fit; the
    network keeps the weights that it has then.
    """

    def on_chunk_end(self, epoch: int, rows: int) -> None:
        """See how many rows of an epoch, counted from 1, are done; called many times a second."""

    def on_epoch_end(self, epoch: int, metrics: dict[str, float]) -> None:
        """See the figures of an epoch, counted from 1, that is over.

        `metrics` holds what `fastnn.Network.fit` adds to the history for it: ``loss``,
        ``accuracy``, ``seconds`` and, with validation data, ``val_loss`` and ``val_accuracy``.
        """
