"""Denoisers in closed form, which a sampler can't tell from a network."""
