"""What is computed element by element: activations, losses, dropout, updates."""
