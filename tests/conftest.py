"""One thread for all tests: the machines that run them are small and the networks tiny."""

import torch

torch.set_num_threads(1)
