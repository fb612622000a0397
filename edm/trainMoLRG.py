"""Train a diffusion model on a mixture of low-rank Gaussians (MoLRG)."""

from pathlib import Path

import click

from torch_utils import cli
from torch_utils.errors import UserError
from torch_utils.run_dir import find_states, newest_run_with_state
from training import options
from training.config import ARCHITECTURES, AUTO, OPTIMIZERS, TrainingConfig, network_kwargs

# Options of the network that an --arch has no use for.
NOT_FOR = {
    'adm': ('embed_channels',),
    'mlp': ('cres', 'attn_resolutions'),
    'param-mlp': ('embed_channels', 'cbase', 'cres', 'num_blocks', 'attn_resolutions', 'dropout', 'augment',
                  'cond', 'fp16'),
}


class Resume(click.ParamType):
    """A boolean, auto, or the path of a state or of a run's folder."""

    name = 'bool, auto or path'

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None):
        """False, True, 'auto', or the path of something that exists."""
        if value == AUTO:
            return value
        if isinstance(value, str) and Path(value).exists() and value not in ('0', '1'):
            return value
        try:
            return click.BOOL.convert(value, param, ctx)
        except click.BadParameter:
            self.fail(f'{value!r} is neither a boolean nor an existing state or folder', param, ctx)


@cli.command()
@cli.options(
    'Data',
    click.option('--path', metavar='DIR', required=True,
                 help='Folder of the data file, which is made there if it does not exist.'),
    click.option('--img_res', metavar='INT', type=click.IntRange(min=1), default=32,
                 help='Height and width r of the images; a sample has n = 3 r^2 dimensions.'),
    click.option('--class_num', metavar='INT', type=click.IntRange(min=1), default=10,
                 help='Number K of classes.'),
    click.option('--per_class_dim', metavar='INT', type=click.IntRange(min=1), default=100,
                 help='Dimension d of each class; K d may not exceed n.'),
    click.option('--sample_per_class', metavar='INT', type=click.IntRange(min=1), default=5000,
                 help='Samples of each class.'),
    click.option('--data_seed', metavar='INT', type=click.IntRange(min=0, max=2**63 - 1),
                 help='Random seed of a new data file; an existing one must have it.  '
                      '[default: 0, or the existing file\'s]'))
@cli.options(
    'Main options',
    click.option('--outdir', metavar='DIR', default='training',
                 help='Where to save the results, in a folder named by the data.'),
    click.option('--cond', metavar='BOOL', type=bool, default=False, help='Give the network the classes.'),
    click.option('--arch', type=click.Choice(list(ARCHITECTURES)), default='ddpmpp',
                 help='Network; param-mlp is the low-rank model, whose parameters are the subspaces.'))
@options.main_options(duration=6)
@cli.options('Network', click.option(
    '--embed_channels', metavar='INT', type=click.IntRange(min=1), default=1024,
    help='Width of ddpmpp, ncsnpp and mlp.'))
@options.network_options
@options.hyperparameters(lr=None, lr_rampup=None, lr_decay=None, augment=0, notes={
    'lr': '  [default: 0.001; param-mlp: 0.01]',
    'lr_rampup': '  [default: a tenth of --duration; param-mlp: 0]',
    'lr_decay': '  [default: none; param-mlp: cosine]',
    'augment': ' Flips, rotations and scalings lead out of the subspaces: only for those who want that.'})
@cli.options('Hyperparameters', click.option(
    '--optimizer', type=click.Choice(list(OPTIMIZERS)), default='adam', help='sgd is without momentum.'))
@options.performance_options
@cli.options('Performance', click.option(
    '--workers', metavar='INT', type=click.IntRange(min=1), default=1,
    help='Without effect, as the data lies in memory; recorded for command lines of old.'))
@options.result_options(snap=10)
@cli.options(
    'Output',
    click.option('--resume', metavar='BOOL|PT|DIR|auto', type=Resume(), default=False,
                 help='Continue the newest run on this data in --outdir that has saved a state; or a state, '
                      'or the newest one in a folder. auto: from the newest in its folder, with --nosubdir, '
                      f'{options.AUTO_HELP}'),
    click.option('--resumedir', metavar='DIR',
                 help='Continue the newest state in this run\'s folder, and write there.'))
def main(**opts):
    """Train a diffusion model on a mixture of low-rank Gaussians (MoLRG).

    Example, the low-rank model, which finds both subspaces within a minute:

    python edm/trainMoLRG.py --path=datasets --img_res=4 --class_num=2 --per_class_dim=6
    --sample_per_class=350 --arch=param-mlp --duration=0.5 --batch=128
    """
    _check(opts)
    _fill_in_defaults(opts)
    shape, resume = _shape(opts), None
    outdir = str(Path(opts['outdir'], shape.name))
    if opts['resumedir']:
        resume = outdir = opts['resumedir']
        opts['nosubdir'] = True
        find_states(resume, option='--resumedir')
    elif opts['resume'] is True:
        resume = str(newest_run_with_state(outdir))
    elif opts['resume']:
        resume = opts['resume']

    from data.molrg_data import MoLRG
    from training.launch import is_first_process, start_run

    dataset = MoLRG(opts['path'], shape, seed=opts['data_seed'], use_labels=opts['cond'],
                    make=not opts['dry_run'])
    config = TrainingConfig(
        dataset_kwargs={
            'class_name': 'training.molrg.MoLRG', 'path': dataset.path, 'resolution': shape.resolution,
            'class_num': shape.class_num, 'per_class_dim': shape.per_class_dim,
            'sample_per_class': shape.sample_per_class, 'use_labels': opts['cond']},
        data_loader_kwargs={'pin_memory': True, 'num_workers': opts['workers'], 'prefetch_factor': 2},
        network_kwargs=_network_kwargs(opts),
        **options.shared_settings(opts, resume=resume))
    low_rank = opts['arch'] == 'param-mlp'
    last = start_run(
        config, dataset, opts, outdir=outdir,
        named=f'network options is no network for --img_res {opts["img_res"]}',
        prepare=(lambda net: net.start_from(dataset.samples())) if low_rank else None)
    if low_rank and last is not None and is_first_process():
        _print_recovery(last, dataset)


def _print_recovery(snapshot: Path, dataset) -> None:
    """How far the subspaces that the averaged network has found are from the true ones."""
    import torch

    from scores.recovery import describe_errors, recovery_errors
    from training.snapshot import load_network

    found = load_network(str(snapshot), torch.device('cpu')).orthonormal_bases()
    print(describe_errors(recovery_errors(found, dataset.bases())))


def _check(opts: dict) -> None:
    """Refuse options that don't go together."""
    options.check_options(opts, resumes=bool(opts['resume'] or opts['resumedir']))
    given = options.given_options()
    if opts['resumedir'] and opts['resume']:
        raise click.UsageError('--resume and --resumedir can\'t be given together: both continue a run')
    for name in NOT_FOR.get(opts['arch'], ()):
        if name in given and opts[name]:
            raise click.UsageError(f'--{name} {_shown(opts[name])}: --arch {opts["arch"]} has no use for it')
    if opts['arch'] == 'mlp' and {'embed_channels', 'cbase'} <= given:
        raise click.UsageError('--embed_channels and --cbase are both the width of --arch mlp; give one')


def _shown(value) -> str:
    return ','.join(map(str, value)) if isinstance(value, list) else f'{value}'


def _fill_in_defaults(opts: dict) -> None:
    """Set what the help calls a default that depends on --arch."""
    low_rank = opts['arch'] == 'param-mlp'
    defaults = {'lr': 0.01 if low_rank else 0.001, 'lr_rampup': 0 if low_rank else 100 * opts['duration'],
                'lr_decay': 'cosine' if low_rank else 'none'}
    opts |= {key: default for key, default in defaults.items() if opts[key] is None}


def _shape(opts: dict):
    from data.molrg_data import MoLRGShape

    try:
        return MoLRGShape(resolution=opts['img_res'], class_num=opts['class_num'],
                          per_class_dim=opts['per_class_dim'], sample_per_class=opts['sample_per_class'])
    except UserError as err:
        raise click.UsageError(str(err)) from err


def _network_kwargs(opts: dict) -> dict:
    if opts['arch'] == 'param-mlp':
        return network_kwargs(opts) | {key: opts[key] for key in ('class_num', 'per_class_dim')}
    return network_kwargs(opts | {'model_channels': opts['embed_channels']}, opts['img_res'])


if __name__ == '__main__':
    main()
