"""Scores of samples: RP, GL, MAE and more, with their controls."""
