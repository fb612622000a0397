"""What fits a diffusion model: networks, losses, augmentation, data sets, the loop."""
