"""The phase transition of MoLRG: trials trained together, their file, their figure, what is refused."""

import json
import math
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.optim.optimizer import register_optimizer_step_pre_hook

import plot
import reproduce
from data.molrg_data import make_molrg
from experiments.phase_transition import Transition, measure, train_together
from figures.phase_transition_figure import draw_transition
from helpers import refuse, run
from scores.recovery import Point, load_points, recovery_errors, save_points
from training.loss import EDMLoss
from training.low_rank import LowRankDenoiser

CPU = torch.device('cpu')
JOB = Transition(img_res=2, dims=(2,), ratios=(0.5, 6), trials=2, restarts=3, steps=300, batch=32)


def test_classes_are_found_from_enough_samples_only():
    few, many = (measure(JOB, shape, CPU) for shape in JOB.shapes())
    assert (few.samples, many.samples) == (1, 12)
    assert few.errors.shape == many.errors.shape == (2, 2)
    assert few.found.tolist() == [False] * 2
    # With one sample in two dimensions, half of the subspace is known.
    assert abs(np.sqrt((few.errors**2).mean()) - np.sqrt(0.5)) < 0.15
    assert many.found.tolist() == [True] * 2
    # The closed form is exact from N = d on, and its loss is that of the truth.
    assert many.closed_form.max() < 1e-5 < 0.5 < few.closed_form.min()
    assert (abs(many.excess) < 0.1).all()


def test_training_can_start_from_the_closed_form():
    job = replace(JOB, start='closed-form', restarts=1, steps=1, lr=1e-6)
    point = measure(job, job.shapes()[1], CPU)
    assert point.errors.max() < 1e-4  # it is there already
    assert measure(replace(job, start='samples'), job.shapes()[1], CPU).errors.min() > 0.1
    with pytest.raises(KeyError):
        measure(replace(job, start='nowhere'), job.shapes()[1], CPU)



def test_a_point_depends_on_the_seed_and_its_size_alone():
    quick = Transition(img_res=2, dims=(2,), ratios=(2,), trials=2, restarts=1, steps=2)
    (shape,) = quick.shapes()
    first = measure(quick, shape, CPU)
    torch.manual_seed(5)
    assert np.array_equal(measure(quick, shape, CPU).errors, first.errors)
    other = Transition(img_res=2, dims=(2,), ratios=(2,), trials=2, restarts=1, steps=2, seed=1)
    assert not np.array_equal(measure(other, shape, CPU).errors, first.errors)


def test_training_together_is_adam_on_each_trial():
    """One step from zero moments moves every number by the learning rate, down its own slope."""
    job = Transition(img_res=2, dims=(2,), ratios=(6,), trials=2, restarts=1, steps=1, batch=20000)
    (shape,) = job.shapes()
    samples = torch.stack([make_molrg(shape, seed)['data'].flatten(1) for seed in (0, 1)])
    torch.manual_seed(0)
    moved = train_together(job, shape, samples)
    torch.manual_seed(0)
    for own, after in zip(samples, moved, strict=True):
        net = LowRankDenoiser(1, 12, class_num=2, per_class_dim=2)
        net.start_from(own)
        step = after - net.bases.detach()
        torch.testing.assert_close(step.abs(), torch.full_like(step, job.lr), rtol=0.01, atol=0)
        images = own.repeat(1000, 1)[:, :, None, None]
        with torch.random.fork_rng():
            EDMLoss()(net, images).sum().backward()
        slope = net.bases.grad
        steep = slope.abs() > slope.abs().quantile(0.5)
        assert (step.sign() == -slope.sign())[steep].float().mean() > 0.9


def test_the_learning_rate_falls_along_half_a_cosine_over_all_steps():
    job = Transition(img_res=2, dims=(2,), ratios=(6,), trials=1, restarts=1, steps=4, lr=0.02)
    (shape,) = job.shapes()
    rates = []
    hook = register_optimizer_step_pre_hook(
        lambda optimizer, *_: rates.append(optimizer.param_groups[0]['lr']))
    try:
        train_together(job, shape, make_molrg(shape, 0)['data'].flatten(1)[None])
    finally:
        hook.remove()
    assert rates == pytest.approx([0.01 * (1 + math.cos(math.pi * step / 4)) for step in range(4)])


def test_sizes_are_whole_and_different():
    job = Transition(dims=(3, 6), ratios=(0.1, 0.3, 1, 1.1, 2), trials=1, restarts=1, steps=1)
    assert [(shape.per_class_dim, shape.sample_per_class) for shape in job.shapes()] == [
        (3, 1), (3, 3), (3, 6), (6, 1), (6, 2), (6, 6), (6, 7), (6, 12)]


def points():
    errors = {(2, 1): [[0.7, 0.7], [0.6, 0.8]], (2, 2): [[0.05, 0.01], [0.2, 0.01]], (2, 4): [[0.0, 0.0]] * 2,
              (4, 4): [[0.1, 0.1], [0.3, 0.3]]}
    return [Point(per_class_dim=d, samples=n, errors=np.array(e)) for (d, n), e in errors.items()]


def control():
    return {'closed_form': np.array([[0.0, 0.0], [1e-7, 0.0]]), 'excess': np.array([-0.01, 3.0])}


def test_the_file_gives_back_the_points(tmp_path):
    ours = [replace(point, **control()) if point.samples == 2 else point for point in points()]
    save_points(tmp_path / 'a.json', asdict(JOB), ours[:3])
    save_points(tmp_path / 'b.json', asdict(JOB), ours[3:])
    loaded, settings = load_points([tmp_path / 'a.json', tmp_path / 'b.json'])
    for own, theirs in zip(ours, loaded, strict=True):
        assert (own.per_class_dim, own.samples) == (theirs.per_class_dim, theirs.samples)
        for name in 'errors', 'closed_form', 'excess':
            np.testing.assert_array_equal(getattr(own, name), getattr(theirs, name))
    assert settings['start'] == 'samples'
    assert settings['steps'] == 300
    assert json.loads((tmp_path / 'a.json').read_text())['made_by']['torch'] == torch.__version__


def test_the_figure_shows_medians_and_success_rates():
    figure, caption = draw_transition(points(), {'img_res': 2, 'restarts': 3, 'steps': 300, 'batch': 32})
    errors, successes = figure.axes
    bound, two, four = errors.lines[:3]
    assert bound.get_ydata()[[0, -1]].tolist() == [1, 0]
    assert two.get_label() == 'd = 2'
    assert two.get_xdata().tolist() == [0.5, 1, 2]
    rms = [np.sqrt((0.05**2 + 0.01**2) / 2), np.sqrt((0.2**2 + 0.01**2) / 2)]
    assert two.get_ydata()[1] == pytest.approx(np.mean(rms))
    assert successes.lines[0].get_ydata().tolist() == [0, 0.5, 1]
    assert four.get_xdata().tolist() == [1]
    assert successes.lines[1].get_ydata().tolist() == [0.5]
    assert '2 trials per point' in caption
    assert 'of 3 starts' in caption
    assert 'closed form' not in caption


def test_the_figure_shows_the_closed_form_and_what_training_misses():
    known = [replace(point, **control()) if point.samples == 2 else point for point in points()]
    figure, caption = draw_transition(known, {'img_res': 2, 'restarts': 3, 'steps': 300, 'batch': 32})
    errors, successes = figure.axes
    (median,), (rate,) = ([line for line in axes.lines
                           if line.get_linestyle() == '--' and len(line.get_xdata())]
                          for axes in (errors, successes))
    assert (median.get_xdata().tolist(), rate.get_ydata().tolist()) == ([1], [1])
    assert median.get_ydata()[0] < 1e-6
    assert 'Of the 1 trials with N >= d in which training fails, it ends at a higher training loss' in caption
    assert caption.endswith('has in 1.')


def test_the_commands_measure_and_draw(tmp_path):
    out = tmp_path / 'new' / 'transition.json'
    printed = run(reproduce.main, 'phase-transition', '--img_res=2', '--dims=1,2', '--ratios=1,3',
                  '--trials=2', '--restarts=1', '--steps=3', '--device=cpu', f'--out={out}').stdout
    assert printed.count('found in') == 4
    run(plot.main, 'phase-transition', f'--results={out}', f'--out={tmp_path / "a.png"}')
    with Image.open(tmp_path / 'a.png') as image:
        assert image.width == 2025
        assert 'N samples' in image.info['Description']


def test_impossible_sizes_and_other_files_are_refused(tmp_path):
    refuse(reproduce.main, 'phase-transition', '--dims=25', f'--out={tmp_path / "a.json"}', status=1,
           says=('--per_class_dim 25', '48'))
    refuse(reproduce.main, 'phase-transition', '--ratios=0', f'--out={tmp_path / "a.json"}', status=2,
           says=('--ratios', '0'))
    assert not list(tmp_path.iterdir())

    def no(change, says):
        save_points(tmp_path / 'a.json', asdict(JOB), points()[:3])
        content = json.loads((tmp_path / 'a.json').read_text())
        change(content)
        (tmp_path / 'b.json').write_text(json.dumps(content))
        refuse(plot.main, 'phase-transition', '--results', tmp_path / 'a.json', tmp_path / 'b.json',
               f'--out={tmp_path / "x.png"}', status=1, says=('--results', 'b.json', *says))
        assert not (tmp_path / 'x.png').exists()

    no(lambda content: content.pop('points'), ('points',))
    no(lambda content: content['points'][0]['errors'][1].pop(), ('errors', 'equal length'))
    no(lambda content: content['points'][2].update(errors=[[0.5, 1.5]]), ('errors', '1.5'))
    no(lambda content: content['points'][2].update(samples=10**400), ('found 1000',))
    no(lambda content: content['points'][0].update(closed_form=[[0, 0]], excess=[0]), ('closed_form',))
    no(lambda content: content['settings'].update(start='closed-form'), ('settings', 'closed-form'))
    no(lambda content: content['settings'].update(steps=7), ('settings', "'steps': 300", 'a.json'))


def test_the_best_of_restarts_is_the_one_of_smallest_loss():
    """The truth among random bases is picked for every trial."""
    from experiments import phase_transition

    job = Transition(img_res=2, dims=(2,), ratios=(6,), trials=3, restarts=4, steps=1)
    (shape,) = job.shapes()
    contents = [make_molrg(shape, seed) for seed in range(3)]
    bases = torch.randn(3, 4, 2, 12, 2)
    for trial, content in enumerate(contents):
        bases[trial, trial + 1] = content['basis']
    samples = torch.stack([content['data'].flatten(1) for content in contents])
    losses = phase_transition._losses(shape, bases, samples)
    best = bases[torch.arange(3), losses.argmin(dim=1)]
    for found, content in zip(best, contents, strict=True):
        assert recovery_errors(found, content['basis']).max() < 1e-5
