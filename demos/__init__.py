"""Demonstrations: reading, checking, writing, looking at and making them."""
