"""The reference engine in plain NumPy, made to be read. It needs nothing but NumPy."""
