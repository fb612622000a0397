"""Training of diffusion models: networks, losses, augmentation, data sets, the loop."""
