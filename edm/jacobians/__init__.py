"""Jacobians of denoisers and their numerical ranks."""
