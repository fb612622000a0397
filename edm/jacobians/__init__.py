"""Jacobians of denoisers and their numerical ranks. Imports no torch."""

METHODS = ('exact', 'randomized', 'auto')  # see `study.find_ranks`
