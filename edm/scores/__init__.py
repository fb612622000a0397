"""Descriptors of images, and what is measured with them: RP, GL and MAE scores."""
