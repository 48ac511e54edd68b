"""What a network is: layers, losses, optimizers, schedules, random numbers; no arithmetic."""
