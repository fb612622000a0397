"""Jacobians of denoisers and their numerical ranks. Imports no torch."""

METHODS = ('exact', 'randomized', 'auto')  # see `study.find_ranks`
CLOSED_JACOBIANS = ('optimal', 'gaussian')  # denoisers with a method `jacobian`
