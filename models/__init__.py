"""Torch modules and pure functions: latents, networks, distributions, world models, actor-critic, returns."""
