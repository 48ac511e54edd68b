"""The reference engine: forward, backward and updates in plain NumPy, written to be read."""
