"""Operations element by element: activations, losses, dropout, updates."""
