"""Closed-form denoisers, with the interface of networks. Imports no torch."""

DENOISERS = {  # --denoiser: those of a data set, each a `data_denoiser.DataDenoiser`
    'optimal': 'denoisers.optimal_denoiser:OptimalDenoiser',
    'gaussian': 'denoisers.gaussian_denoiser:GaussianDenoiser',
}
