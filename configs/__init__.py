"""Hydra configuration groups; no logic."""
