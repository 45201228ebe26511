"""Exact benchmark commands: seconds per training step, frames per second, learning curves."""
