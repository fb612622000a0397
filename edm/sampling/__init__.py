"""From noise to images: the denoiser protocol, noise schedules, solvers, images by seed. Imports no torch."""

PRECISIONS = {'fp32': 'float32', 'fp16': 'float16', 'bf16': 'bfloat16'}  # of a network's features -> torch's
