"""Convert networks of other software into snapshots."""

import os
import re
from functools import partial
from pathlib import Path

import click

from torch_utils import cli
from torch_utils.errors import UserError

# Options of published models, from their makers' instructions: guided-diffusion's by resolution, with and
# without classes and LSUN's; improved-diffusion's without classes.
_ADM = {'attention_resolutions': (32, 16, 8), 'num_channels': 256, 'num_res_blocks': 2,
        'num_head_channels': 64, 'noise_schedule': 'linear'}
_IDDPM = {'attention_resolutions': (16, 8), 'num_channels': 128, 'num_res_blocks': 3, 'num_heads': 4,
          'noise_schedule': 'cosine', 'diffusion_steps': 4000, 'rescale_timesteps': True}
PRESETS = {
    '64': _ADM | {'image_size': 64, 'channel_mult': (1, 2, 3, 4), 'num_channels': 192, 'num_res_blocks': 3,
                  'noise_schedule': 'cosine', 'use_new_attention_order': True, 'dropout': 0.1},
    '128': _ADM | {'image_size': 128, 'channel_mult': (1, 1, 2, 3, 4), 'num_heads': 4,
                   'num_head_channels': -1},
    '256': _ADM | {'image_size': 256, 'channel_mult': (1, 1, 2, 2, 4, 4)},
    '512': _ADM | {'image_size': 512, 'channel_mult': (0.5, 1, 1, 2, 2, 4, 4)},
    'improved-32': _IDDPM | {'image_size': 32, 'channel_mult': (1, 2, 2, 2), 'dropout': 0.3},
    'improved-64': _IDDPM | {'image_size': 64, 'channel_mult': (1, 2, 3, 4)},
}


class Numbers(click.ParamType):
    """Positive numbers, comma separated, as a tuple; whole ones are integers."""

    name = 'list'

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> tuple:
        if isinstance(value, tuple):
            return value
        if not re.fullmatch(r'\d{1,6}(\.\d{1,6})?(,\d{1,6}(\.\d{1,6})?)*', value):
            self.fail(f'{value!r} is no list of numbers such as 1,2,3,4', param, ctx)
        numbers = map(float, value.split(','))
        return tuple(int(number) if number.is_integer() else number for number in numbers)


count = partial(click.option, metavar='INT', type=click.IntRange(1, 100_000))
switch = partial(click.option, metavar='BOOL', type=bool)


@click.group(cls=cli.Group)
def main() -> None:
    """Convert networks of other software into snapshots, which --network takes.

    \b
    Example:
      python edm/convert.py adm --preset=64 --source=64x64_diffusion.pt --dest=adm-64.pkl
    """


@main.command()
@cli.options('Main options',
    click.option('--source', metavar='PATH|URL', required=True, help='Checkpoint: a .pt file of tensors.'),
    click.option('--dest', metavar='PKL', required=True, help='Snapshot to write.'),
    click.option('--preset', type=click.Choice(list(PRESETS)),
                 help='Options of a published model, by its resolution; options beside it override it.'))
@cli.options('What the file does not tell',
    count('--image_size', help='Resolution.  [required without --preset]'),
    click.option('--noise_schedule', type=click.Choice(['linear', 'cosine']),
                 help='Noise levels of training.  [required without --preset]'),
    click.option('--num_head_channels', metavar='INT', type=click.IntRange(-1, 100_000),
                 help='Channels per attention head; -1: by --num_heads.  [required without --num_heads or '
                      '--preset]'),
    count('--num_heads', help='Attention heads of each block, unless --num_head_channels is given.'),
    switch('--use_new_attention_order',
           help='Whether queries, keys and values are split before heads are.  [default: False]'),
    count('--diffusion_steps', help='Noise levels of training.  [default: 1000]'),
    switch('--rescale_timesteps',
           help='Whether the network knows its steps as parts of 1000; in improved-diffusion, but not in '
                'guided-diffusion, this was the default.  [default: False]'),
    click.option('--dropout', metavar='FLOAT', type=cli.FiniteRange(0, 1),
                 help='Dropout of further training.  [default: 0]'),
    switch('--use_fp16', help='Whether to compute in float16 on GPUs.  [default: False]'))
@cli.options('What the file tells, to compare with it',
    count('--num_channels', help='Width that --channel_mult multiplies.'),
    click.option('--channel_mult', metavar='LIST', type=Numbers(), help='Factor on the width of each level.'),
    count('--num_res_blocks', help='Residual blocks of each level.'),
    click.option('--attention_resolutions', metavar='LIST', type=Numbers(),
                 help='Side lengths of the feature maps with attention.'),
    switch('--class_cond', help='Whether the network is class-conditional.'),
    click.option('--num_classes', metavar='INT', type=click.IntRange(0, 100_000),
                 help='Number of classes, 0 without.'),
    switch('--learn_sigma', help='Whether the network also predicts a variance.'),
    switch('--resblock_updown', help='Whether residual blocks, not convolutions or pooling, resample.'),
    switch('--use_scale_shift_norm', help='Whether the embedding scales and shifts features.'))
@cli.writes(['source'], dest='snapshot')
def adm(source: str, dest: str, preset: str | None, **options) -> None:
    """Convert a checkpoint of guided-diffusion (ADM) or improved-diffusion (iDDPM) that predicts noise.

    The options are those programs' own, so that the flags of a model can be given as they are. Most follow
    from the file itself; those that contradict it are refused.

    \b
    Examples:
      python edm/convert.py adm --preset=64 --source=64x64_diffusion.pt --dest=adm-64.pkl
      python edm/convert.py adm --image_size=32 --noise_schedule=cosine --diffusion_steps=4000 \\
          --num_heads=4 --rescale_timesteps=True --source=ema_0.9999_050000.pt --dest=iddpm.pkl
    """
    if not dest.lower().endswith('.pkl') or os.path.isdir(dest):
        raise click.UsageError(f'--dest {dest}: expected a file name in .pkl')
    given = {name: value for name, value in options.items() if value is not None}
    if 'num_heads' in given:
        given.setdefault('num_head_channels', -1)
    options = PRESETS.get(preset, {}) | given
    if options.get('num_head_channels', -1) < 1:
        options['num_head_channels'] = None
    for names in (['image_size'], ['noise_schedule'], ['num_head_channels', 'num_heads']):
        if not any(options.get(name) for name in names):
            raise click.UsageError(f'--{" or --".join(names)} is missing; only --preset does without')

    from adapters.adm_checkpoint import convert, read_checkpoint
    from torch_utils import provenance
    from torch_utils.files import make_output_dir
    from training.snapshot import save_snapshot

    try:
        net = convert(read_checkpoint(source), options, where=f'--source {source}')
    except UserError as err:
        raise UserError(f'{err} (with --preset {preset})' if preset else str(err)) from err
    labels = {'labels': 'classes'} if net.label_dim else {}
    make_output_dir(Path(dest).parent, '--dest')
    save_snapshot(dest, ema=net, made_by=provenance.record(inputs=[source]) | labels)
    print(f'{sum(parameter.numel() for parameter in net.parameters()):,} parameters, '
          f'{net.img_channels}x{net.img_resolution}x{net.img_resolution}, {net.label_dim} classes, '
          f'{net.M} noise levels from {net.sigma_min:g} to {net.sigma_max:g}: {dest}')


if __name__ == '__main__':
    main()
