"""Environments behind one interface: gymnasium in, pixels or state out; numpy and mujoco only, never torch."""
