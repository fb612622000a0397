"""Denoisers in closed form, which a sampler can't tell from networks. Imports no torch."""

DENOISERS = {  # --denoiser: those that follow from a data set, each a `data_denoiser.DataDenoiser`
    'optimal': 'denoisers.optimal_denoiser:OptimalDenoiser',
    'gaussian': 'denoisers.gaussian_denoiser:GaussianDenoiser',
}
