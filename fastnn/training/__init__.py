"""Training: plan, preparation, the loop over epochs, callbacks and checkpoints."""
