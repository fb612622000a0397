"""What judges a diffusion model: samplers, the optimal denoiser, descriptors, scores, figures."""
