"""From noise to images: the denoiser protocol, noise schedules, solvers, images from seeds."""
