"""Training: the loop over epochs, its plan and state, callbacks, checkpoints."""
