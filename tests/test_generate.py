"""generate.py: images by seed, the same however they are computed; options, files and errors."""

import gzip
import http.server
import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image

import generate
from helpers import DATA, golden, processes, refuse, run, torchrun
from image_sets import write
from sampling import generation
from sampling.sampler import edm_sampler
from torch_utils.errors import UserError
from torch_utils.images import to_uint8
from torch_utils.seeding import SampleGenerators
from training.networks import EDMPrecond
from training.snapshot import save_snapshot

TINY = {'model_type': 'SongUNet', 'model_channels': 4, 'channel_mult': [1], 'num_blocks': 1,
        'attn_resolutions': [], 'dropout': 0}


def unpack(name, folder):
    path = folder / f'{name}.pkl'
    path.write_bytes(gzip.decompress((DATA / f'snapshot-{name}.pkl.gz').read_bytes()))
    return path


@pytest.fixture(scope='module')
def snapshots(tmp_path_factory):
    """Files of the released form: ddpmpp (no classes), adm (seven classes)."""
    folder = tmp_path_factory.mktemp('snapshots')
    return {'ddpmpp': unpack('edm-ddpmpp', folder), 'adm': unpack('edm-adm-cond', folder),
            'vp': unpack('vp-ddpmpp', folder)}


@pytest.fixture(scope='module')
def grey(tmp_path_factory):
    """A snapshot whose images are grey, 8x8."""
    path = tmp_path_factory.mktemp('grey') / 'network-snapshot-000000.pkl'
    torch.manual_seed(0)
    save_snapshot(path, ema=EDMPrecond(8, 1, **TINY).eval())
    return path


def sample(snapshot, outdir, *args):
    result = run(generate.main, f'--network={snapshot}', f'--outdir={outdir}', '--device=cpu', *args)
    return images(outdir), result.stderr


def images(folder):
    return {path.relative_to(folder).as_posix(): np.asarray(Image.open(path))
            for path in sorted(folder.rglob('*.png'))}


def test_images_are_the_references_states_rounded(snapshots, tmp_path):
    made, _ = sample(snapshots['ddpmpp'], tmp_path, '--seeds=0,1,7,100000')
    assert list(made) == ['000000.png', '000001.png', '000007.png', '100000.png']
    states = golden('samplers')['heun18/edm-ddpmpp'].transpose(0, 2, 3, 1)
    expected = np.clip(states * 127.5 + 128, 0, 255)
    for image, state in zip(made.values(), expected, strict=True):
        assert np.abs(image - np.floor(state)).max() <= 1  # where rounding errors meet a whole number
        assert (image == np.floor(state)).mean() > 0.99


def test_churn_and_options_reach_the_sampler(snapshots, tmp_path):
    made, _ = sample(snapshots['ddpmpp'], tmp_path, '--seeds=0,1,7,100000', '--steps=10', '--S_churn=40',
                     '--S_min=0.05', '--S_max=50', '--S_noise=1.003')
    expected = np.clip(golden('samplers')['churn40/edm-ddpmpp'].transpose(0, 2, 3, 1) * 127.5 + 128, 0, 255)
    assert all(np.abs(a - np.floor(b)).max() <= 1 for a, b in zip(made.values(), expected, strict=True))


@pytest.mark.parametrize('key', ['ablate-heun-ve-ve', 'ablate-euler-vp-vp-vp', 'ablate-euler-iddpm-linear'])
def test_ablation_options_reach_the_sampler(key, snapshots, tmp_path):
    options = zip(('solver', 'disc', 'schedule', 'scaling'), key.split('-')[1:], strict=False)
    made, _ = sample(snapshots['ddpmpp'], tmp_path, '--seeds=0,1,7,100000', '--steps=8',
                     *(f'--{name}={value}' for name, value in options))
    expected = np.clip(golden('samplers')[f'{key}/edm-ddpmpp'].transpose(0, 2, 3, 1) * 127.5 + 128, 0, 255)
    assert all(np.abs(a - np.floor(b)).max() <= 1 for a, b in zip(made.values(), expected, strict=True))


@pytest.mark.parametrize('churn', [0, 20])
def test_an_image_does_not_depend_on_its_batch(churn, snapshots, tmp_path):
    args = ('--seeds=3-7', '--steps=4', f'--S_churn={churn}')
    together, _ = sample(snapshots['adm'], tmp_path / 'a', *args)
    alone, _ = sample(snapshots['adm'], tmp_path / 'b', *args, '--batch=1')
    assert together.keys() == alone.keys()
    for name in together:
        assert np.abs(together[name].astype(int) - alone[name]).max() <= 1


def test_an_image_does_not_depend_on_the_number_of_processes(snapshots, tmp_path):
    args = ('--seeds=0-4', '--steps=3', '--batch=2')
    one, _ = sample(snapshots['adm'], tmp_path / '1', *args)
    for launch, number in ((torchrun, 2), (processes, 3)):
        outdir, trajectory = tmp_path / str(number), tmp_path / f'{number}.npz'
        launch(number, 'generate.py', f'--network={snapshots["adm"]}', f'--outdir={outdir}', *args,
               '--device=cpu', f'--trajectory={trajectory}')
        many = images(outdir)
        assert many.keys() == one.keys()
        assert all(np.abs(many[name].astype(int) - one[name]).max() <= 1 for name in one)
        with np.load(trajectory) as arrays:
            assert arrays['seeds'].tolist() == [0, 1, 2, 3, 4]
            assert np.array_equal(arrays['images'][3].transpose(1, 2, 0), many['000003.png'])


def test_two_machines_that_share_a_folder_share_the_seeds(grey, tmp_path):
    one, _ = sample(grey, tmp_path / 'one', '--seeds=0-4', '--steps=2')
    processes(2, 'generate.py', f'--network={grey}', f'--outdir={tmp_path / "two"}', '--seeds=0-4',
              '--steps=2', '--device=cpu', machines=2)
    two = images(tmp_path / 'two')
    assert two.keys() == one.keys()
    assert all(np.abs(two[name].astype(int) - one[name]).max() <= 1 for name in one)


def test_an_image_does_not_depend_on_the_number_of_threads(snapshots, tmp_path):
    made = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            made.append(sample(snapshots['adm'], tmp_path / str(threads), '--seeds=0-6', '--steps=3')[0])
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    one, many = made
    assert list(many) == list(one)
    assert all(np.abs(many[name].astype(int) - one[name]).max() <= 1 for name in one)


def test_half_precision_changes_images_slightly_and_stands_in_the_record(snapshots, tmp_path):
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        refuse(generate.main, f'--network={snapshots["ddpmpp"]}', f'--outdir={tmp_path}', '--device=cpu',
               '--precision=bf16', status=1, says=('--precision bf16', 'cpu'))
        return
    args = ('--seeds=0-3', '--steps=4')
    full, _ = sample(snapshots['ddpmpp'], tmp_path / 'a', *args)
    half, _ = sample(snapshots['ddpmpp'], tmp_path / 'b', *args, '--precision=bf16')
    difference = np.concatenate([np.abs(full[name].astype(int) - half[name]).ravel() for name in full])
    assert 0 < difference.mean() < 3  # bf16 rounds features to 1 in 256
    record = json.loads((tmp_path / 'b' / 'generation.json').read_text())
    assert record['settings']['precision'] == 'bf16'


def test_a_precision_that_the_device_has_not_is_refused(snapshots, tmp_path):
    refuse(generate.main, f'--network={snapshots["ddpmpp"]}', f'--outdir={tmp_path / "out"}', '--device=cpu',
           '--precision=fp16', status=1, says=('--precision fp16', 'cpu', 'fp32'))
    assert not (tmp_path / 'out').exists()


def test_class_overrides_the_drawn_one_and_moves_no_noise(snapshots, tmp_path):
    draws = SampleGenerators([0], torch.device('cpu'))
    draws.randn((3, 8, 8))
    drawn = draws.randint(7).item()
    free, _ = sample(snapshots['adm'], tmp_path / 'a', '--seeds=0', '--steps=3', '--S_churn=20')
    same, _ = sample(snapshots['adm'], tmp_path / 'b', '--seeds=0', '--steps=3', '--S_churn=20',
                     f'--class={drawn}')
    other, _ = sample(snapshots['adm'], tmp_path / 'c', '--seeds=0', '--steps=3', '--S_churn=20',
                      f'--class={(drawn + 1) % 7}')
    assert np.array_equal(free['000000.png'], same['000000.png'])
    assert not np.array_equal(free['000000.png'], other['000000.png'])


def test_grey_images_are_mode_l_and_fit_on_a_sheet(grey, tmp_path):
    made, _ = sample(grey, tmp_path / 'a', '--seeds=0-2', '--steps=2', f'--grid={tmp_path / "grid.png"}')
    assert {image.shape for image in made.values()} == {(8, 8)}
    with Image.open(tmp_path / 'grid.png') as sheet:
        assert (sheet.mode, sheet.size) == ('L', (16, 16))
        assert np.array_equal(np.asarray(sheet)[8:, :8], made['000002.png'])


def test_subdirs_are_named_by_thousands(grey, tmp_path):
    made, _ = sample(grey, tmp_path, '--seeds=999,1000,12345', '--steps=2', '--subdirs')
    assert list(made) == ['000000/000999.png', '001000/001000.png', '012000/012345.png']


def test_the_trajectory_holds_every_state_and_denoised_image(snapshots, tmp_path):
    path = tmp_path / 'steps.npz'
    made, _ = sample(snapshots['ddpmpp'], tmp_path / 'a', '--seeds=0,1', '--steps=6',
                     f'--trajectory={path}')
    with np.load(path) as arrays:
        assert arrays['x'].shape == arrays['denoised'].shape == (2, 6, 3, 8, 8)
        assert arrays['sigma'][[0, -1]] == pytest.approx([80, 0.002])
        latents = golden('samplers')['latents'][:2].astype(np.float64)
        assert np.allclose(arrays['x'][:, 0], latents * 80)
        # The last step is Euler's, from sigma to 0: it ends on the denoised image.
        last = np.clip(arrays['denoised'][:, -1] * 127.5 + 128, 0, 255).astype(np.uint8)
        assert np.array_equal(last.transpose(0, 2, 3, 1), np.stack(list(made.values())))


def test_the_folder_says_what_made_the_images(grey, tmp_path):
    sample(grey, tmp_path, '--seeds=5,1-3', '--steps=2')
    record = json.loads((tmp_path / 'generation.json').read_text())
    assert record['settings']['num_steps'] == 2
    assert len(record['settings']['network_sha256']) == 64
    assert record['runs'][0]['seeds'] == '5,1-3'
    assert record['runs'][0]['torch'] == torch.__version__


def test_resume_makes_what_is_missing_and_nothing_else(grey, tmp_path):
    whole, _ = sample(grey, tmp_path / 'a', '--seeds=0-5', '--steps=2')
    sample(grey, tmp_path / 'b', '--seeds=0-3', '--steps=2')
    (tmp_path / 'b' / '000002.png').unlink()
    for name, size in (('000000.png', 0), ('000003.png', 60)):  # what a power cut may leave
        os.truncate(tmp_path / 'b' / name, size)
    kept = (tmp_path / 'b' / '000001.png').stat().st_mtime_ns
    again, _ = sample(grey, tmp_path / 'b', '--seeds=0-5', '--steps=2', '--resume', '--batch=2')
    assert again.keys() == whole.keys()
    assert all(np.array_equal(again[name], whole[name]) for name in whole)
    assert (tmp_path / 'b' / '000001.png').stat().st_mtime_ns == kept


def test_resume_refuses_images_of_other_settings(grey, snapshots, tmp_path):
    args = (f'--outdir={tmp_path}', '--seeds=0-1', '--device=cpu', '--resume')
    sample(grey, tmp_path, '--seeds=0', '--steps=2')
    refuse(generate.main, f'--network={grey}', *args, '--steps=3', status=1,
           says=('--resume', 'num_steps: 2 there, 3 now'))
    refuse(generate.main, f'--network={snapshots["ddpmpp"]}', *args, '--steps=2', status=1,
           says=('--resume', 'network_sha256'))
    Image.new('L', (8, 8)).save(tmp_path / '000001.png')
    refuse(generate.main, f'--network={grey}', *args, '--steps=2', status=1, says=('000001.png',))
    kept = (tmp_path / '000000.png').stat().st_mtime_ns
    sample(grey, tmp_path, '--seeds=0-1', '--steps=2', '--resume', '--overwrite')
    assert (tmp_path / '000000.png').stat().st_mtime_ns == kept
    wanted, _ = sample(grey, tmp_path / 'wanted', '--seeds=0-1', '--steps=3')
    made, _ = sample(grey, tmp_path, '--seeds=0-1', '--steps=3', '--resume', '--overwrite')
    assert all(np.array_equal(made[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize('runs', [[{'seeds': 'x'}], [{'seeds': 3}], [{}], ['0'], {}, 7, None])
def test_a_damaged_record_counts_as_none(runs, tmp_path):
    def begin(**options):
        with generation.sample_folder(tmp_path, {'num_steps': 2}, [0], subdirs=False, **options) as todo:
            return todo

    begin(resume=False)
    path = tmp_path / 'generation.json'
    damaged = json.dumps({**json.loads(path.read_text()), 'runs': runs})
    path.write_text(damaged)
    Image.new('L', (8, 8)).save(tmp_path / '000000.png')
    with pytest.raises(UserError, match=r'000000\.png is not in generation\.json'):
        begin(resume=True)
    assert begin(resume=True, overwrite=True) == [0]
    path.write_text(damaged)
    assert begin(resume=False) == [0]
    assert [run['seeds'] for run in json.loads(path.read_text())['runs']] == ['0']


def test_two_hundred_at_once_in_one_folder_are_all_recorded(tmp_path):
    def begin(seed):
        with generation.sample_folder(tmp_path, {'num_steps': 2}, [seed], subdirs=False,
                                      resume=False) as todo:
            return todo

    with ThreadPoolExecutor(50) as pool:
        assert list(pool.map(begin, range(200))) == [[seed] for seed in range(200)]
    record = json.loads((tmp_path / 'generation.json').read_text())
    assert sorted(int(run['seeds']) for run in record['runs']) == list(range(200))
    assert [path.name for path in tmp_path.iterdir()] == ['generation.json']


def test_images_that_are_replaced_are_mentioned(grey, tmp_path):
    sample(grey, tmp_path, '--seeds=0-2', '--steps=2')
    _, said = sample(grey, tmp_path, '--seeds=0-3', '--steps=3')
    assert '3 of 4 images' in said
    record = json.loads((tmp_path / 'generation.json').read_text())
    assert (len(record['runs']), record['settings']['num_steps']) == (1, 3)


def test_a_network_that_fails_stops_before_anything_is_written(grey, tmp_path):
    net = EDMPrecond(8, 1, **TINY)
    next(net.model.parameters()).data.fill_(float('nan'))
    save_snapshot(tmp_path / 'nan.pkl', ema=net.eval())
    refuse(generate.main, f'--network={tmp_path / "nan.pkl"}', f'--outdir={tmp_path / "out"}', '--seeds=0-3',
           f'--trajectory={tmp_path / "new" / "x.npz"}', '--device=cpu', status=1,
           says=('noise level 80', '64 of 64 values', 'NaN'))
    assert [path.name for path in tmp_path.iterdir()] == ['nan.pkl']


def test_a_sheet_inside_outdir_would_count_as_a_sample_and_is_refused(grey, tmp_path):
    (tmp_path / 'link').symlink_to(tmp_path / 'out')
    for sheet in ('out/grid.png', 'out/000000/grid.png', 'x/../out/grid.png', 'link/grid.png'):
        refuse(generate.main, f'--network={grey}', f'--outdir={tmp_path / "out"}', '--seeds=0',
               f'--grid={tmp_path / sheet}', status=2, says=('--grid', '--outdir', 'sample'))
    assert not (tmp_path / 'out').exists()


@pytest.fixture(scope='module')
def vectors(tmp_path_factory):
    """A snapshot of a network trained on label vectors, and its data set."""
    folder = tmp_path_factory.mktemp('vectors')
    labels = [[0.5, -1.0], [1.5, -1.0]]
    data = write(folder / 'set.zip', {
        '0.png': np.zeros((8, 8), np.uint8), '1.png': np.ones((8, 8), np.uint8),
        'dataset.json': {'labels': [['0.png', labels[0]], ['1.png', labels[1]]]}})
    torch.manual_seed(0)
    net = EDMPrecond(8, 1, label_dim=2, **TINY)
    for parameter in net.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    save_snapshot(folder / 'vec.pkl', ema=net.eval(), dataset_kwargs={'path': str(data)},
                  made_by={'labels': 'vectors'})
    return folder / 'vec.pkl', data, net, labels


def test_label_vectors_are_drawn_from_the_training_set(vectors, tmp_path):
    snapshot, _, net, labels = vectors
    made, _ = sample(snapshot, tmp_path / 'out', '--seeds=0-7', '--steps=3')
    draws = SampleGenerators(range(8), torch.device('cpu'))
    latents = draws.randn((1, 8, 8))
    chosen = torch.tensor(labels)[draws.randint(2)]
    assert len(chosen.unique(dim=0)) == 2
    expected = to_uint8(edm_sampler(net, latents, chosen, num_steps=3))[:, 0].numpy()
    assert np.abs(np.stack(list(made.values())).astype(int) - expected).max() <= 1
    one_hot = to_uint8(edm_sampler(net, latents, torch.eye(2)[draws.randint(2)], num_steps=3))[:, 0].numpy()
    assert not np.array_equal(one_hot, expected)


def test_no_class_and_no_sample_of_label_vectors_without_their_data_set(vectors, tmp_path):
    snapshot, data, *_ = vectors
    refuse(generate.main, f'--network={snapshot}', f'--outdir={tmp_path / "out"}', '--class=1', status=2,
           says=('--class 1', 'label vectors'))
    away = data.rename(data.with_name('moved.zip'))
    refuse(generate.main, f'--network={snapshot}', f'--outdir={tmp_path / "out"}', '--seeds=0', status=1,
           says=('--network', 'label vectors', 'set.zip'))
    away.rename(data)
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize('denoiser', ['optimal', 'gaussian'])
def test_a_denoiser_has_a_name_and_an_option_of_its_own(denoiser, vectors, tmp_path):
    made = []
    for option in (f'--denoiser={denoiser}', f'--{denoiser}_denoiser'):
        outdir = tmp_path / option
        run(generate.main, option, f'--dataset={vectors[1]}', f'--outdir={outdir}', '--seeds=0-1',
            '--steps=3', '--device=cpu')
        made.append(images(outdir))
    assert all(np.array_equal(made[0][name], made[1][name]) for name in made[0])
    refuse(generate.main, f'--denoiser={denoiser}', '--gaussian_denoiser', '--optimal_denoiser',
           f'--dataset={vectors[1]}', f'--outdir={tmp_path / "x"}', status=2, says=('together',))


def test_options_of_churn_without_churn_are_mentioned(grey, tmp_path):
    _, said = sample(grey, tmp_path, '--seeds=0', '--steps=2', '--S_noise=1.003', '--S_min=0.05')
    assert 'without --S_churn above 0, --S_min, --S_noise has no effect' in said


def test_clipped_noise_levels_are_mentioned(snapshots, tmp_path):
    _, said = sample(snapshots['vp'], tmp_path, '--seeds=0', '--steps=2', '--sigma_max=1000')
    assert '--sigma_max 1000 is beyond what the network supports; 152.167 is used' in said
    assert '--sigma_min' not in said


@pytest.mark.parametrize(('args', 'says'), [
    (('--steps=1',), ('--steps',)),
    (('--steps=1000000000',), ('--steps', '100000')),
    (('--seeds=1-',), ('--seeds', '1-')),
    (('--seeds=5-1',), ('--seeds', '5-1')),
    (('--seeds=a',), ('--seeds',)),
    (('--seeds=1,2,1',), ('--seeds', 'twice')),
    (('--class=0',), ('--class 0', 'no classes')),
    (('--class=-1',), ('--class',)),
    (('--batch=0',), ('--batch', 'auto')),
    (('--batch=most',), ('--batch', 'auto')),
    (('--precision=int8',), ('--precision', 'bf16')),
    (('--sigma_min=2', '--sigma_max=1'), ('--sigma_min', 'got 2 and 1')),
    (('--sigma_max=nan',), ('--sigma_max',)),
    (('--solver=rk4',), ('--solver', 'heun')),
    (('--disc=ve', '--rho=5'), ('--rho', 've')),
    (('--disc=vp', '--schedule=vp', '--sigma_min=1', '--sigma_max=2'), ('--sigma_min', 'VP schedule')),
    (('--grid=sheet.jpg',), ('--grid', '.png')),
    (('--trajectory=x.npz', '--resume'), ('--trajectory', '--resume')),
    (('--seeds=99999999999999999999',), ('--seeds', '64 bits')),
    (('--seeds=0-9223372036854775808',), ('--seeds', '64 bits')),
    ((f'--seeds={"9" * 5000}',), ('--seeds',)),
    ((f'--batch={"9" * 5000}',), ('--batch',)),
    (('--rho=1e-9',), ('--rho 1e-09',)),
    (('--rho=1e300',), ('--rho 1e+300',)),
    (('--S_min=5', '--S_max=1'), ('--S_min 5', '--S_max 1')),
    (('--S_max=nan',), ('--S_max', 'nan')),
    (('--sigma_max=1e200',), ('--sigma_min and sigma_max', '1e+200')),
    (('--S_churn=1', '--schedule=vp', '--sigma_min=.1', '--sigma_max=20', '--steps=4'), ('--S_churn 1', '25')
     ),
    (('--denoiser=best', '--dataset=x'), ('--denoiser', 'optimal', 'gaussian')),
    (('--device=tpu',), ('--device', 'tpu')),
])
def test_usage_errors_name_the_option(args, says, grey, tmp_path):
    refuse(generate.main, f'--network={grey}', f'--outdir={tmp_path / "out"}', *args, status=2, says=says)
    assert not (tmp_path / 'out').exists()


def test_a_class_that_the_network_has_not_is_refused(snapshots, tmp_path):
    refuse(generate.main, f'--network={snapshots["adm"]}', f'--outdir={tmp_path / "out"}', '--class=10',
           status=2, says=('--class 10', '0 to 6'))
    assert not (tmp_path / 'out').exists()


def test_an_outdir_that_takes_no_files_is_refused_before_sampling(grey, tmp_path):
    (tmp_path / 'file').touch()
    refuse(generate.main, f'--network={grey}', f'--outdir={tmp_path / "file"}', status=1,
           says=('--outdir', str(tmp_path / 'file')))


def test_files_that_are_no_snapshots_are_refused(tmp_path):
    (tmp_path / 'text.pkl').write_text('hello')
    for name, says in {'missing.pkl': 'no such file', 'text.pkl': 'no snapshot'}.items():
        refuse(generate.main, f'--network={tmp_path / name}', f'--outdir={tmp_path / "out"}', status=1,
               says=('--network', name, says))
    assert not (tmp_path / 'out').exists()


def test_a_url_that_answers_404_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv('DNNLIB_CACHE_DIR', str(tmp_path / 'cache'))

    class Silent(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Silent)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = f'http://127.0.0.1:{server.server_port}/nothing/network-snapshot-000000.pkl'
        refuse(generate.main, f'--network={url}', f'--outdir={tmp_path / "out"}', status=1,
               says=('--network', url, '404'))
    finally:
        server.shutdown()
        server.server_close()
    assert not (tmp_path / 'out').exists()
