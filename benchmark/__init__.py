"""Exact commands, speed and learning benchmarks; `results/` holds what they measured."""
