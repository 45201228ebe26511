"""Scripted experts that produce demonstrations."""
