"""The experiment `theory`: it takes the students of `regimes`; every stage is a call that a script takes."""

import json
from dataclasses import asdict, replace

import pytest

import reproduce
from experiments import regimes, theory
from experiments.script_options import options
from helpers import ROOT, refuse
from torch_utils.errors import UserError

STUDENTS = replace(regimes.QUICKSTART, data=str(ROOT / 'datasets' / 'digits-8x8.zip'))
JOB = theory.Theory(students=STUDENTS, sizes=(64, 896))


def plan(job=JOB):
    return {stage.name: stage for stage in theory.plan(job)}


def test_students_are_trained_as_in_regimes_and_their_records_are_shared():
    stages, own = plan(), {stage.name: stage for stage in regimes.plan(STUDENTS)}
    shared = [name for name in stages if name.startswith(('data-', 'train-'))]
    assert {f'train-n00064-{kind}' for kind in ('w16', 'w8', 'disjoint')} < {*shared}
    assert all(stages[name] == own[name] for name in shared)
    assert not any('n00256' in name for name in stages)
    assert str(JOB.records) == 'evaluation/quickstart/stages'


def test_every_stage_is_a_call_that_its_script_takes_and_comes_after_its_needs():
    stages, seen, tried = plan(), set(), set()
    for name, stage in stages.items():
        assert seen >= {*stage.needs}, name
        seen.add(name)
        kind = stage.command[:2]
        if kind not in tried and stage.command[0] not in ('train.py', 'dataset_tool.py'):
            tried.add(kind)
            if stage.command[0] == 'generate.py':
                assert options(stage)['network'].startswith('training/quickstart/n00064')
    words = stages['theory-distance-n00896'].command
    assert 'training/quickstart/n00896-disjoint=disjoint' in words
    assert 'optimal:datasets/quickstart/n00896.zip' in words
    assert words[words.index('--size') + 1] == '896'
    assert words[words.index('--patch') + 1:][:2] == ('auto', '--heldout')
    assert 'theory-heldout' in stages['theory-generate-n00896-patch'].needs
    assert 'theory-heldout' not in stages['theory-generate-n00896-optimal'].needs
    assert '--trajectory' in words
    assert sum(stage.command[0] == 'plot.py' for stage in stages.values()) == 4


def test_all_denoisers_are_sampled_from_the_same_noises_each_by_its_own_network():
    stages = plan()
    for name, network in {'network': 'w16', 'second': 'w8', 'disjoint': 'disjoint', 'patch': 'w16'}.items():
        found = options(stages[f'theory-generate-n00896-{name}'])
        assert found['network'].startswith(f'training/quickstart/n00896-{network}')
        assert found['seeds'] == [*range(100000, 100256)]  # a teacher's images use those from 0


def test_held_out_images_come_after_those_of_all_students():
    few = replace(STUDENTS, sizes=(8, 64))
    words = plan(replace(JOB, students=few, sizes=(8,)))['theory-heldout'].command
    assert words[words.index('--skip-images') + 1] == '128'  # 2 N
    words = plan()['theory-heldout'].command  # 2 N leaves 5 of 1,797
    assert words[words.index('--skip-images') + 1] == '1541'


def test_settings_are_those_of_the_last_run_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert theory.load_students('quickstart').kimg == regimes.QUICKSTART.kimg
    folder = tmp_path / 'figures' / 'mine'
    folder.mkdir(parents=True)
    mine = replace(STUDENTS, name='mine', kimg=3)
    (folder / 'regimes.json').write_text(json.dumps({'settings': asdict(mine)}))
    assert theory.load_students('mine') == mine
    (folder / 'regimes.json').write_text('{"settings": {"words": 3}}')
    with pytest.raises(UserError, match=r'--students mine: .*regimes\.json'):
        theory.load_students('mine')
    with pytest.raises(UserError, match=r'--students other: .*quickstart'):
        theory.load_students('other')
    with pytest.raises(UserError, match=r'--students mnist: run .*--data'):
        theory.load_students('mnist')


def test_sizes_without_students_are_refused():
    with pytest.raises(UserError, match=r'--sizes 65: .*64'):
        theory.plan(replace(JOB, sizes=(64, 65)))


def test_names_of_experiments_of_students_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match='--name quickstart'):
        theory.plan(replace(JOB, name='quickstart'))
    (tmp_path / 'figures' / 'mine').mkdir(parents=True)
    (tmp_path / 'figures' / 'mine' / 'regimes.json').write_text('{}')
    with pytest.raises(UserError, match='--name mine'):
        theory.plan(replace(JOB, name='mine'))


def test_sizes_without_a_disjoint_set_are_told(capsys):
    few = replace(JOB, students=replace(STUDENTS, sizes=(64, 900)), sizes=(64, 900))
    assert not any('disjoint' in name for name in plan(few))
    assert '--sizes 900: no disjoint set' in capsys.readouterr().err
    plan()
    assert not capsys.readouterr().err


def test_students_of_one_width_have_no_second_network():
    stages = plan(replace(JOB, students=replace(STUDENTS, widths=(16,))))
    assert not any('second' in name for name in stages)
    assert 'theory-generate-n00064-disjoint' in stages
    alone = plan(replace(JOB, students=replace(STUDENTS, widths=(16,), disjoint=False)))
    words = alone['theory-distance-n00064'].command
    assert words[2:4] == ('training/quickstart/n00064-w16=network', 'optimal:datasets/quickstart/n00064.zip')


def test_captions_say_how_many_held_out_images_the_disjoint_network_has_seen():
    words = plan()['figure-theory-png'].command
    note = words[words.index('--note') + 1]
    assert note.startswith('Networks: UNet-16 and, second, UNet-8, trained on images of digits-8x8 for 20 ')
    assert note.endswith('At N = 896, 251 of the 256 held-out images are training images of the network on '
                         'disjoint data.')  # numbers 1,541 to 1,791 of 896 to 1,791
    assert 'N = 64' not in note
    assert '--note' in plan()['figure-theory-samples-pdf'].command


def test_scores_of_other_students_are_not_kept_in_the_table(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    regimes.write_settings(JOB)
    JOB.table.write_text('scores')
    regimes.write_settings(JOB)
    assert JOB.table.read_text() == 'scores'
    regimes.write_settings(replace(JOB, students=replace(STUDENTS, kimg=3)))
    assert not JOB.table.exists()


@pytest.mark.parametrize('window', ['4', '9'])
def test_windows_that_not_all_closed_forms_take_are_refused_at_once(window, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refuse(reproduce.main, 'theory', f'--patch={window}', status=1, says=(f'--patch {window}', 'odd', '8'))
    assert not list(tmp_path.iterdir())
