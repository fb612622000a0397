"""Jacobians: rows in batches against a loop over rows, and the randomized rank against the exact one.

Row-by-row loop: one forward pass, then one backward pass per output, as torch.autograd.functional.jacobian
does. Forward pass per row: that of a batch of 64 images without gradients, in the faster memory format. The
networks are small DDPM++ ones with random weights, 0.19 million parameters at width 16. Batch and memory
format are those that a measurement chooses; four images are studied at once, of large ones the first rows.
For the randomized rank a network stands between projections onto a subspace, so that its Jacobian costs what
a network's costs and has a low rank; the times of both methods include the singular values.
"""

import torch
from measure import Row, side_by_side

from jacobians.products import choose_layout, jacobian_rows, set_memory_format
from jacobians.study import Method, find_ranks
from torch_utils.distributed import pick_device
from training.networks import EDMPrecond

SIGMA = 1.0
pick_device('cpu')  # as jacobian.py does: the process keeps freed memory


def rows():
    """Rows of the table."""
    for resolution, channels, at_least in ((8, 16, 5), (32, 16, 2)):
        yield from _per_row(resolution, channels, at_least)
    yield from _randomized(_network(32, 16), rank=64)
    yield from _randomized(_network(32, 16), rank=150)
    yield from _randomized(_network(16, 32), rank=30)


def _network(resolution: int, channels: int) -> torch.nn.Module:
    torch.manual_seed(0)
    net = EDMPrecond(resolution, 3, model_type='SongUNet', model_channels=channels, channel_mult=[1, 2],
                     num_blocks=1, attn_resolutions=[resolution // 2], dropout=0).eval().requires_grad_(False)
    for parameter in net.parameters():
        parameter.add_(0.05 * torch.randn_like(parameter))
    return net


def _per_row(resolution: int, channels: int, at_least: float):
    net, dim = _network(resolution, channels), 3 * resolution**2
    x = torch.randn(4, 3, resolution, resolution)
    layout = choose_layout(net, x[:1], SIGMA)
    count = min(len(x) * dim, 1024)

    def one_by_one():
        set_memory_format(net, torch.contiguous_format)
        leaf = x[:1].clone().requires_grad_()
        out = net(leaf, SIGMA).flatten()
        for i in range(64):
            torch.autograd.grad(out[i], leaf, retain_graph=True)

    def batched():
        set_memory_format(net, layout.memory_format)
        done = 0
        for _, _, block in jacobian_rows(net, x, SIGMA, layout=layout):
            done += block.shape[0] * block.shape[1]
            if done >= count:
                break

    def forward(memory_format):
        def run():
            set_memory_format(net, memory_format)
            with torch.no_grad():
                net(x[:1].expand(64, -1, -1, -1).contiguous(memory_format=memory_format), SIGMA)
        return run

    loop, ours, *passes = side_by_side(
        [one_by_one, batched, forward(torch.contiguous_format), forward(torch.channels_last)], repeats=7)
    loop, ours, forward_pass = loop / 64, ours / count, min(passes) / 64
    note = f'batch {layout.batch}, {str(layout.memory_format).removeprefix("torch.")}'
    yield Row(what=f'row of a {resolution}x{resolution}x3 Jacobian, beside a row-by-row loop',
              ours=1000 * ours, baseline=1000 * loop, unit='ms', ratio=loop / ours,
              must=f'>= {at_least}', reached=loop / ours >= at_least, note=note)
    yield Row(what=f'row of a {resolution}x{resolution}x3 Jacobian, beside a batched forward pass',
              ours=1000 * ours, baseline=1000 * forward_pass, unit='ms', ratio=ours / forward_pass,
              must='<= 1.2', reached=ours <= 1.2 * forward_pass, note=note)


class _Projected:
    """A network whose inputs and outputs are projected onto a random subspace."""

    def __init__(self, net, rank: int):
        dim = net.img_channels * net.img_resolution**2
        self.net, self.basis = net, torch.linalg.qr(torch.randn(dim, rank)).Q

    def __call__(self, x, sigma, class_labels=None):
        def project(images):
            projected = (images.flatten(1) @ self.basis) @ self.basis.T
            return projected.reshape(images.shape)

        return project(self.net(project(x), sigma))


def _randomized(net, rank: int):
    resolution, dim = net.img_resolution, 3 * net.img_resolution**2
    x = torch.randn(4, 3, resolution, resolution)
    layout = choose_layout(net, x[:1], SIGMA, batch=64)
    set_memory_format(net, layout.memory_format)
    denoiser, results = _Projected(net, rank), {}

    def find(method, count):
        def run():
            results[method] = find_ranks(denoiser, x[:count], SIGMA, seeds=range(count), layout=layout,
                                         method=Method(name=method))
        return run

    randomized, exact = side_by_side([find('randomized', 4), find('exact', 1)], repeats=1, warmup=0)
    randomized /= 4
    found, truth = results['randomized'][0], results['exact'][0]
    yield Row(what=f'rank {truth.rank} of a {resolution}x{resolution}x3 Jacobian ({truth.rank / dim:.1%}), '
                   'randomized beside exact',
              ours=randomized, baseline=exact, unit='s', ratio=exact / randomized, must='>= 5',
              reached=exact / randomized >= 5,
              note=f'found {found.rank}, between {found.low} and {found.high}; four images at once')
