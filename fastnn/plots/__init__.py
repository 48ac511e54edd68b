"""Plots of learning curves and images."""
