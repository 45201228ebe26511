"""Everything that learns, loops or ships: the six parts' implementations, the trainer and the commands."""
