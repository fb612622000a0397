"""Train a diffusion model on a mixture of low-rank Gaussians (MoLRG)."""

from pathlib import Path

import click

from torch_utils import cli
from torch_utils.errors import UserError
from torch_utils.run_dir import find_states, newest_run_with_state
from training import options
from training.config import ARCHITECTURES, AUTO, OPTIMIZERS, TrainingConfig, network_kwargs

# Options that have no effect for an --arch.
NOT_FOR = {
    'adm': ('embed_channels',),
    'mlp': ('cres', 'attn_resolutions'),
    'param-mlp': ('embed_channels', 'cbase', 'cres', 'num_blocks', 'attn_resolutions', 'dropout', 'augment',
                  'cond', 'fp16'),
}


class Resume(click.ParamType):
    """A boolean, auto, or the path of an existing state or run folder."""

    name = 'bool, auto or path'

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None):
        if isinstance(value, str) and value not in ('0', '1') and (value == AUTO or Path(value).exists()):
            return value
        try:
            return click.BOOL.convert(value, param, ctx)
        except click.BadParameter:
            self.fail(f'{value!r} is neither a boolean nor an existing state or folder', param, ctx)


@cli.command()
@cli.options(
    'Data',
    click.option('--path', metavar='DIR', required=True,
                 help='Folder of the data file, which is made if it does not exist.'),
    click.option('--img_res', metavar='INT', type=options.COUNT, default=32,
                 help='Resolution r of the images; samples have n = 3 r^2 dimensions.'),
    click.option('--class_num', metavar='INT', type=options.COUNT, default=10,
                 help='Number K of classes.'),
    click.option('--per_class_dim', metavar='INT', type=options.COUNT, default=100,
                 help='Dimension d of each subspace; K d may not exceed n.'),
    click.option('--sample_per_class', metavar='INT', type=options.COUNT, default=5000,
                 help='Samples per class.'),
    click.option('--data_seed', metavar='INT', type=click.IntRange(min=0, max=2**63 - 1),
                 help='Random seed of the data; an existing file must have it.  '
                      '[default: 0, or the existing file\'s]'))
@cli.options(
    'Main options',
    click.option('--outdir', metavar='DIR', default='training',
                 help='Where to make the run folder, in a folder named by the data.'),
    click.option('--cond', metavar='BOOL', type=bool, default=False,
                 help='Train a class-conditional model.'),
    click.option('--arch', type=click.Choice(list(ARCHITECTURES)), default='ddpmpp',
                 help='Network architecture; param-mlp is the low-rank model of the paper.'))
@options.main_options(duration=6)
@cli.options('Network', click.option(
    '--embed_channels', metavar='INT', type=options.COUNT, default=1024,
    help='Base width of ddpmpp, ncsnpp and mlp.'))
@options.network_options
@options.hyperparameters(lr=None, lr_rampup=None, lr_decay=None, augment=0, notes={
    'lr': '  [default: 0.001; param-mlp: 0.01]',
    'lr_rampup': '  [default: a tenth of --duration; param-mlp: 0]',
    'lr_decay': '  [default: none; param-mlp: cosine]',
    'augment': ' Augmented samples leave the subspaces.'})
@cli.options('Hyperparameters', click.option(
    '--optimizer', type=click.Choice(list(OPTIMIZERS)), default='adam', help='sgd: without momentum.'))
@options.performance_options
@cli.options('Performance', click.option(
    '--workers', metavar='INT', type=options.COUNT, default=1,
    help='No effect, as the data is in memory; kept for older command lines.'))
@options.result_options(snap=10)
@cli.options(
    'Output',
    click.option('--resume', metavar='BOOL|PT|DIR|auto', type=Resume(), default=False,
                 help='Resume the newest run on this data in --outdir; or from a state, or the newest in a '
                      'run folder. auto: from the newest in its folder, with --nosubdir, '
                      f'{options.AUTO_HELP}'),
    click.option('--resumedir', metavar='DIR',
                 help='Resume from the newest state in this run folder, and write there.'))
def main(**opts):
    """Train a diffusion model on a mixture of low-rank Gaussians (MoLRG).

    Example, the low-rank model, which finds both subspaces within a minute:

    python edm/trainMoLRG.py --path=datasets --img_res=4 --class_num=2 --per_class_dim=6
    --sample_per_class=350 --arch=param-mlp --duration=0.5 --batch=128
    """
    _check(opts)
    from data.molrg_data import MoLRG, MoLRGShape

    low_rank = opts['arch'] == 'param-mlp'
    defaults = {'lr': 0.01 if low_rank else 0.001, 'lr_rampup': 0 if low_rank else 100 * opts['duration'],
                'lr_decay': 'cosine' if low_rank else 'none'}
    opts |= {key: default for key, default in defaults.items() if opts[key] is None}
    resume = None
    try:
        shape = MoLRGShape(resolution=opts['img_res'], class_num=opts['class_num'],
                           per_class_dim=opts['per_class_dim'], sample_per_class=opts['sample_per_class'])
    except UserError as err:
        raise click.UsageError(str(err)) from err
    outdir = str(Path(opts['outdir'], shape.name))
    if opts['resumedir']:
        resume = outdir = opts['resumedir']
        opts['nosubdir'] = True
        find_states(resume, option='--resumedir')
    elif opts['resume'] is True:
        resume = str(newest_run_with_state(outdir))
    elif opts['resume']:
        resume = opts['resume']

    from training.launch import is_first_process, start_run

    dataset = MoLRG(opts['path'], shape, seed=opts['data_seed'], use_labels=opts['cond'],
                    make=not opts['dry_run'])
    config = TrainingConfig(
        dataset_kwargs={
            'class_name': 'training.molrg.MoLRG', 'path': dataset.path, 'resolution': shape.resolution,
            'class_num': shape.class_num, 'per_class_dim': shape.per_class_dim,
            'sample_per_class': shape.sample_per_class, 'use_labels': opts['cond']},
        network_kwargs=(network_kwargs(opts) | {key: opts[key] for key in ('class_num', 'per_class_dim')}
                        if low_rank else
                        network_kwargs(opts | {'model_channels': opts['embed_channels']}, opts['img_res'])),
        **options.shared_settings(opts, resume=resume))
    last = start_run(
        config, dataset, opts, outdir=outdir,
        named=f'network options is no network for --img_res {opts["img_res"]}',
        prepare=(lambda net: net.start_from(dataset.samples())) if low_rank else None)
    if low_rank and last is not None and is_first_process():
        from scores.recovery import describe_errors, recovery_errors
        from training.snapshot import load_snapshot

        found = load_snapshot(str(last))['ema'].orthonormal_bases()
        print(describe_errors(recovery_errors(found, dataset.bases())))


def _check(opts: dict) -> None:
    """Refuse options that don't go together."""
    options.check_options(opts, resumes=bool(opts['resume'] or opts['resumedir']))
    if opts['resumedir'] and opts['resume']:
        raise click.UsageError('--resume and --resumedir can\'t be given together')
    for name in NOT_FOR.get(opts['arch'], ()):
        if cli.given(name) and opts[name]:
            value = ','.join(map(str, opts[name])) if isinstance(opts[name], list) else opts[name]
            raise click.UsageError(f'--{name} {value}: no effect for --arch {opts["arch"]}')
    if opts['arch'] == 'mlp' and cli.given('embed_channels') and cli.given('cbase'):
        raise click.UsageError('--embed_channels and --cbase are both the width of --arch mlp; give one')


if __name__ == '__main__':
    main()
