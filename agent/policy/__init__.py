"""Policy optimisers (algorithms 4.3, part O)."""
