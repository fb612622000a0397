"""Files that try to do harm are refused in one line: they run nothing, write nothing, take no gigabyte."""

import gc
import io
import os
import pickle
import resource
import signal
import sys

import pytest

from adapters.diffusers_network import read_weights
from foreign_snapshots import golden_bytes
from hostile_files import (
    BOMBS,
    CALLS,
    SAFETENSORS,
    STATES,
    TRICKS,
    archive,
    call_of,
    old_archive,
    repeated,
    under,
)
from torch_utils import bounded, safe_pickle
from torch_utils.errors import UserError
from training import checkpoint, snapshot

SLOW = 'deep', 'thousands', 'many', 'collide'  # take long to build and read
LARGE = {kind for kind in TRICKS if any(word in kind for word in SLOW)}
PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)
WATCHED = {
    'os.system', 'os.exec', 'os.fork', 'os.posix_spawn', 'os.remove', 'os.putenv', 'subprocess.Popen',
    'pty.spawn', 'exec', 'compile', 'socket.__new__', 'socket.connect', 'ctypes.dlopen', 'shutil.rmtree',
    'tempfile.mkdtemp', 'marshal.loads', 'builtins.input', 'builtins.breakpoint', 'webbrowser.open',
    'urllib.Request', 'code.__new__', 'function.__new__', 'signal.pthread_kill'}
seen = None  # what was watched, while a list


def watch(event, arguments):
    writes = event == 'open' and arguments[2] & (os.O_WRONLY | os.O_RDWR)
    if seen is not None and (event in WATCHED or writes):
        seen.append((event, str(arguments)[:200]))


sys.addaudithook(watch)


@pytest.fixture(scope='module', autouse=True)
def _everything_imported(tmp_path_factory):
    """Load good files once, so that later no import is due."""
    path = tmp_path_factory.mktemp('good') / 'net.pkl'
    path.write_bytes(golden_bytes())
    snapshot.load_snapshot(str(path))
    path.write_bytes(archive(pickle.dumps({'net': {}}, protocol=2)))
    with pytest.raises(UserError):
        checkpoint.load_state(path)
    gc.freeze()  # so that collecting garbage after each trick takes no time
    yield
    gc.unfreeze()


def harmless(read, *words) -> str:
    """`read` raises one line with each of `words`, and nothing else happens; returns it."""
    global seen

    def too_long(*_):
        raise TimeoutError('20 s')

    modules, memory = set(sys.modules), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    signal.signal(signal.SIGALRM, too_long)
    signal.alarm(20)
    seen = []
    try:
        with pytest.raises((UserError, pickle.UnpicklingError)) as caught:
            read()
    finally:
        events, seen = seen, None
        signal.alarm(0)
    message = str(caught.value)
    assert message.isprintable()
    for word in words:
        assert word in message
    assert events == []
    assert set(sys.modules) == modules
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 1 << 20  # KiB, so 1 GiB
    return message


def harmless_snapshot(data: bytes, tmp_path):
    path = tmp_path / 'net.pkl'
    path.write_bytes(data)
    said = harmless(lambda: snapshot.load_snapshot(str(path)), '--network', 'net.pkl is no snapshot')
    assert len(said) < len(str(path)) + 400
    harmless(lambda: snapshot.load_network(str(path), 'cpu'))
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_watched_would_be_seen(tmp_path):
    for harm in (tmp_path / 'x').touch, lambda: os.system('true'), lambda: exec('1'):
        def run(harm=harm):
            harm()
            raise UserError('x')
        with pytest.raises(AssertionError):
            harmless(run)


@pytest.mark.parametrize('target', CALLS)
def test_no_function_is_called(target, tmp_path):
    for protocol in PROTOCOLS:
        data = call_of(target, tmp_path / 'mark', protocol)
        harmless_snapshot(data, tmp_path)
        harmless(lambda: safe_pickle.safe_load(io.BytesIO(data)))  # noqa: B023, called at once


@pytest.mark.parametrize('kind', TRICKS)
def test_no_trick_works(kind, tmp_path):
    tables = dict(safe_pickle._GLOBALS)
    data = TRICKS[kind](tmp_path / 'mark')
    for protocol in PROTOCOLS[4:5] if kind in LARGE else PROTOCOLS:
        harmless_snapshot(under(data, protocol), tmp_path)
    assert tables == safe_pickle._GLOBALS
    gc.collect()


@pytest.mark.parametrize('kind', BOMBS)
def test_what_is_asked_for_without_end_is_refused_early(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(bounded, 'MAX_OPCODES', 50_000)  # a tenth, to be fast
    monkeypatch.setattr(bounded, 'MAX_CALLS', 5_000)
    data = repeated(*BOMBS[kind], count=60_000)
    for path, read, form in ((tmp_path / 'net.pkl', lambda path: snapshot.load_snapshot(str(path)), bytes),
                             (tmp_path / 'training-state-000001.pt', checkpoint.load_state, archive)):
        path.write_bytes(form(data))
        harmless(lambda: read(path), 'than any snapshot needs')  # noqa: B023, called at once
    if kind != 'lists in lists':
        few = safe_pickle.safe_load(io.BytesIO(repeated(*BOMBS[kind], count=2)))
        assert len(few['ema']) == 2 - 2 * (kind == 'nothing')


@pytest.mark.parametrize('form', [archive, old_archive, bytes])
def test_no_call_or_trick_works_in_a_state_file(form, tmp_path):
    path = tmp_path / 'training-state-000001.pt'
    corpus = [call_of(target, tmp_path / 'mark', 2) for target in CALLS]
    for data in corpus + [build(tmp_path / 'mark') for kind, build in TRICKS.items() if kind not in LARGE]:
        path.write_bytes(form(data))
        harmless(lambda: checkpoint.load_state(path), '--resume', path.name)
        assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize('kind', STATES)
def test_no_form_of_a_state_file_does_harm(kind, tmp_path):
    path = tmp_path / 'training-state-000001.pt'
    path.write_bytes(STATES[kind]())
    harmless(lambda: checkpoint.load_state(path), '--resume', path.name)
    harmless(lambda: snapshot.load_snapshot(str(path)))
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize('kind', SAFETENSORS)
def test_no_safetensors_file_does_harm(kind, tmp_path):
    data, says = SAFETENSORS[kind]
    path = tmp_path / 'net.safetensors'
    path.write_bytes(data)
    harmless(lambda: read_weights(str(path), f'--network {path}', '--network'), '--network', says)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize('kind', [kind for kind in TRICKS if kind not in LARGE])
def test_no_trick_works_in_weights_of_torch_save(kind, tmp_path):
    path = tmp_path / 'net.bin'
    path.write_bytes(archive(TRICKS[kind](tmp_path / 'mark')))
    harmless(lambda: read_weights(str(path), f'--network {path}', '--network'), '--network')
    assert list(tmp_path.iterdir()) == [path]
