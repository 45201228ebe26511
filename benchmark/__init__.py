"""Exact commands, speed and learning benchmarks; `results/` holds what they measured."""

import agent  # noqa: F401  sets how idle threads wait, before torch is loaded
