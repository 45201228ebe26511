"""Tests of the networks, distributions and world models."""
