"""Reward learners (algorithms 2.4, part R): higher = more expert-like, recomputed whenever a batch is used, never
stored.
"""
