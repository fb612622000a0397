"""Downloads against a server on this machine that breaks off, lies, redirects and reports errors."""

import contextlib
import gzip
import hashlib
import http.server
import json
import os
import shutil
import ssl
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import ROOT
from torch_utils import downloads
from torch_utils.errors import UserError
from training.snapshot import load_network

DATA = bytes(range(256)) * 4096  # 1 MiB
BLOCK = downloads.BLOCK
HASH = hashlib.sha256(DATA).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Serves DATA at every path, in the way that the entries of `plan` say, one entry a request.

    An entry is a dict: status; headers; body; cut: bytes after which the connection breaks; no_ranges; omit:
    headers that are not sent. Without entries left, all is well. requests: the headers that came, in order.
    """

    daemon_threads = True

    def __init__(self, tls: ssl.SSLContext | None = None):
        super().__init__(('127.0.0.1', 0), _Handler)
        self.plan, self.requests, self.tag = [], [], '"v1"'
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_side=True)
        self.url = f'http{"s" if tls else ""}://127.0.0.1:{self.server_port}'

    def handle_error(self, request, client_address):
        pass  # clients that go away are part of the tests


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'

    def do_GET(self):
        self.server.requests.append(dict(self.headers))
        plan = self.server.plan.pop(0) if self.server.plan else {}
        body, status = plan.get('body', DATA), plan.get('status', 200)
        headers = {'ETag': self.server.tag, 'Content-Type': 'application/octet-stream', 'Connection': 'close'}
        start = self._start(plan)
        if start is not None:
            status, headers['Content-Range'] = 206, f'bytes {start}-{len(body) - 1}/{len(body)}'
            body = body[start:]
        headers |= {'Content-Length': str(len(body))} | plan.get('headers', {})
        self.send_response(status)
        for name, value in headers.items():
            if name not in plan.get('omit', ()):
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[:plan.get('cut')])
        self.close_connection = True

    def _start(self, plan) -> int | None:
        if 'Range' not in self.headers or plan.get('no_ranges') or plan.get('status', 200) != 200:
            return None
        if self.headers.get('If-Range', self.server.tag) != self.server.tag:
            return None
        return int(self.headers['Range'].removeprefix('bytes=').removesuffix('-'))

    def log_message(self, *args):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv('DNNLIB_CACHE_DIR', str(tmp_path / 'cache'))
    monkeypatch.setattr(downloads, 'FIRST_WAIT', 0.001)
    with Server() as running:
        yield from serve(running)


def serve(running):
    thread = threading.Thread(target=running.serve_forever, kwargs={'poll_interval': 0.01})
    thread.start()
    yield running
    running.shutdown()
    thread.join()


def get(server, path='/net.pkl'):
    return downloads.local_path(server.url + path, '--network')


def refuse(server, *words, path='/net.pkl'):
    """The download fails in one line with `words`, and leaves nothing that counts as cached."""
    with pytest.raises(UserError) as caught:
        get(server, path)
    for word in ('--network', server.url, *words):
        assert word in str(caught.value)
    assert '\n' not in str(caught.value)
    assert not list(downloads.download_dir().glob(f'[!.]*-{Path(path).name}'))


def test_a_file_is_downloaded_once_and_then_needs_no_network(server, capsys):
    path = get(server)
    assert path.read_bytes() == DATA
    assert path.name.endswith('-net.pkl')
    assert 'net.pkl' in capsys.readouterr().err  # the progress
    server.shutdown()
    assert get(server) == path
    assert len(server.requests) == 1
    assert capsys.readouterr().err == ''


def test_size_and_hash_are_recorded_beside_it(server):
    path = get(server)
    record = json.loads(path.with_name(f'{path.name}.json').read_text())
    assert record.pop('time_utc')
    assert record == {'url': f'{server.url}/net.pkl', 'size': len(DATA), 'sha256': HASH}


@pytest.mark.parametrize('damage', ['shorter', 'flipped', 'no record', 'empty record'])
def test_a_damaged_or_unknown_copy_does_not_count_as_cached(server, damage):
    path = get(server)
    record = path.with_name(f'{path.name}.json')
    if damage == 'shorter':
        os.truncate(path, 1000)
    elif damage == 'flipped':
        path.write_bytes(b'x' + DATA[1:])
    elif damage == 'no record':
        record.unlink()
    else:
        record.write_bytes(b'')
    assert get(server).read_bytes() == DATA
    assert len(server.requests) == 2


def test_a_broken_connection_is_resumed_where_it_broke(server, capsys):
    server.plan += [{'cut': 4 * BLOCK}, {'cut': 2 * BLOCK}]
    assert get(server).read_bytes() == DATA
    ranges = [request.get('Range') for request in server.requests]
    assert ranges == [None, f'bytes={4 * BLOCK}-', f'bytes={6 * BLOCK}-']
    assert {request.get('If-Range') for request in server.requests[1:]} == {'"v1"'}
    assert capsys.readouterr().err.count('trying again in') == 2


def test_what_an_earlier_run_has_brought_is_kept_but_never_counts(server):
    server.plan += [{'cut': 5 * BLOCK}, *[{'status': 503}] * downloads.ATTEMPTS]
    refuse(server, '503', '5 times in a row', f'the {5 * BLOCK} bytes that came are kept')
    assert get(server).read_bytes() == DATA
    assert server.requests[-1]['Range'] == f'bytes={5 * BLOCK}-'
    assert sorted(path.suffix for path in downloads.download_dir().iterdir()) == ['.json', '.lock', '.pkl']


def test_attempts_that_bring_something_do_not_count_against_it(server):
    server.plan += [{'cut': BLOCK}] * 15
    assert get(server).read_bytes() == DATA
    assert len(server.requests) == 16


def test_a_file_that_changes_meanwhile_is_downloaded_from_scratch(server):
    server.plan += [{'cut': 4 * BLOCK, 'body': b'old' * 200_000, 'headers': {'ETag': '"v0"'}}]
    assert get(server).read_bytes() == DATA
    assert server.requests[1]['If-Range'] == '"v0"'


@pytest.mark.parametrize('second', [{'no_ranges': True}, {'status': 416},
                                    {'status': 206, 'headers': {'Content-Range': 'bytes 7-9/10'}}])
def test_a_server_that_cannot_resume_sends_all_of_it_again(server, second):
    server.plan += [{'cut': 4 * BLOCK}, second]
    assert get(server).read_bytes() == DATA


def test_without_a_version_nothing_is_spliced_together(server):
    server.plan += [{'cut': 4 * BLOCK, 'omit': ['ETag']}]
    assert get(server).read_bytes() == DATA
    assert 'Range' not in server.requests[1]


@pytest.mark.parametrize('status', [429, 500, 502, 503, 504])
def test_a_busy_server_is_asked_again_and_again_more_slowly(server, status, monkeypatch):
    waits = []
    monkeypatch.setattr(downloads.time, 'sleep', waits.append)
    monkeypatch.setattr(downloads, 'FIRST_WAIT', 0.5)
    server.plan += [{'status': status}] * 3 + [{'status': status, 'headers': {'Retry-After': '30'}}]
    assert get(server).read_bytes() == DATA
    assert waits == [0.5, 1, 2, 30]


def test_errors_that_stay_are_not_tried_again(server):
    server.plan += [{'status': 404}]
    refuse(server, '404 Not Found')
    assert len(server.requests) == 1


@pytest.mark.parametrize('plan', [
    {'headers': {'Content-Type': 'text/html; charset=utf-8'}},
    {'body': b'\n <!DOCTYPE html><html><title>Sign in</title></html>'},
    {'body': b'<html>quota exceeded</html>'},
])
def test_web_pages_are_recognised(server, plan):
    server.plan += [plan]
    refuse(server, 'a web page instead of a file')
    assert get(server).read_bytes() == DATA  # nothing of the page is left in the way


def test_redirects_are_followed_over_http_only(server):
    server.plan += [{'status': 302, 'headers': {'Location': '/elsewhere/x.pkl'}}]
    assert get(server).read_bytes() == DATA
    for target in 'file:///etc/passwd', 'ftp://127.0.0.1/x', 'data:,x':
        server.plan += [{'status': 302, 'headers': {'Location': target}}]
        refuse(server, f'redirects to {target}', path='/other.pkl')
    server.plan += [{'status': 302, 'headers': {'Location': '/again'}}] * 40
    refuse(server, 'more than 20 redirects', path='/other.pkl')


def test_https_does_not_fall_back_to_http(server):
    class Answer:
        url, headers = 'https://127.0.0.1/a', {'location': 'http://127.0.0.1/b'}

    download = downloads._Download('https://127.0.0.1/a', downloads.download_dir() / 'a', '--network', None)
    with pytest.raises(UserError, match='only https addresses are followed'):
        download._redirected(Answer())


@pytest.mark.parametrize('address', [
    'http://[', 'http://[::1', 'http://:80/x', 'http://127.0.0.1:99999/x', 'http://127.0.0.1:x/',
    'http://127.0.0.1:-1/', 'http://' + 'a' * 300 + '.invalid/', 'http://a b/'])
def test_a_malformed_address_is_refused_and_not_followed(server, address):
    with pytest.raises(UserError, match='--network http'):
        downloads.local_path(address, '--network')
    server.plan += [{'status': 302, 'headers': {'Location': address}}] * downloads.ATTEMPTS
    refuse(server)
    assert all(path.name.endswith('.lock') for path in downloads.download_dir().iterdir())


@settings(max_examples=100, derandomize=True, deadline=None, database=None)
@given(st.sampled_from(['http://', 'https://', 'HTTP:', 'http://[', 'http://h:', '']), st.text(max_size=30))
def test_any_text_is_an_address_or_is_refused(start, text):
    with contextlib.suppress(UserError):
        path = downloads.cached_path(start + text, '--network')
        assert path.parent == downloads.download_dir()
        assert len(os.fsencode(path.name)) < 200


def packed(body: bytes) -> dict:
    return {'body': gzip.compress(body), 'headers': {'Content-Encoding': 'gzip'}}


def test_an_answer_may_come_packed_but_not_as_a_bomb(server):
    server.plan += [packed(DATA)]
    assert get(server).read_bytes() == DATA
    server.plan += [packed(bytes(64 << 20))]
    refuse(server, 'sends more than', path='/bomb.pkl')
    server.plan += [{'headers': {'Content-Encoding': kind}} for kind in ('br', 'gzip, gzip')]
    for kind in 'br', 'gzip, gzip':
        refuse(server, f'packs the file by {kind}', path='/other.pkl')
    server.plan += [packed(DATA) | {'body': b'not packed'}]
    refuse(server, 'ContentDecodingError', path='/other.pkl')
    assert not list(downloads.download_dir().glob('.*.part*'))


def test_a_file_that_the_disk_has_no_room_for_is_not_begun(server):
    server.plan += [{'headers': {'Content-Length': '9' * 20}}]
    refuse(server, '99,999,999,999,999,999,999 bytes, too many for', str(downloads.download_dir()))
    assert not list(downloads.download_dir().glob('.*.part*'))


@pytest.mark.parametrize('pack', [dict, lambda headers: headers | {'Content-Encoding': 'gzip'}])
def test_an_answer_without_end_is_refused(server, monkeypatch, pack):
    monkeypatch.setattr(downloads, 'MAX_UNSAID', 10 * BLOCK)
    body = DATA if pack is dict else gzip.compress(bytes(1 << 24))
    chunks = b''.join(b'%x\r\n%s\r\n' % (len(body[i:i + 1000]), body[i:i + 1000])
                      for i in range(0, len(body), 1000))
    endless = {'body': chunks, 'headers': pack({'Transfer-Encoding': 'chunked'}), 'omit': ['Content-Length']}
    server.plan += [endless]
    refuse(server, f'more than {10 * BLOCK:,} bytes', '#sha256=')
    assert not list(downloads.download_dir().glob('.*part*'))


HEADERS = st.dictionaries(
    st.sampled_from(['Content-Length', 'Content-Range', 'ETag', 'Last-Modified', 'Location', 'Retry-After',
                     'Content-Encoding', 'Transfer-Encoding']),
    st.sampled_from(['-5', '9' * 5000, '1e3', '\x1b[31m', '"' + 'x' * 9000 + '"', 'bytes 0-5/6', 'gzip', '']))


def test_odd_headers_end_in_the_file_or_in_one_line(server, monkeypatch):
    monkeypatch.setattr(downloads, 'LONGEST_WAIT', 0.001)

    @settings(max_examples=60, derandomize=True, deadline=None, database=None)
    @given(HEADERS, st.sampled_from([200, 206, 302, 416, 503]), st.booleans())
    def check(headers, status, breaks_off):
        shutil.rmtree(downloads.download_dir(), ignore_errors=True)
        cut = BLOCK if breaks_off else None
        server.plan[:] = [{'status': status, 'headers': headers, 'cut': cut}] * (9 if breaks_off else 1)
        try:
            data = get(server).read_bytes()
        except UserError:
            data = b''
        assert data in (DATA, DATA[:6], b'')
        assert data or not list(downloads.download_dir().glob('[!.]*'))

    check()


def test_what_turns_out_to_be_no_snapshot_is_not_kept(server):
    for _ in range(2):
        with pytest.raises(UserError, match='is no snapshot'):
            load_network(f'{server.url}/net.pkl', 'cpu')
        assert not list(downloads.download_dir().glob('[!.]*'))
    assert len(server.requests) == 2


@pytest.mark.parametrize('address', ['file:///etc/hostname', 'ftp://127.0.0.1/x.pkl', 's3://bucket/x.pkl'])
def test_other_schemes_are_refused(address):
    with pytest.raises(UserError, match=rf'--network {address}: expected .*https://'):
        downloads.local_path(address, '--network')
    with pytest.raises(UserError, match='https://'):
        downloads.fetch(address, 'x', '--network')


@pytest.mark.skipif(shutil.which('openssl') is None, reason='needs openssl to make a certificate')
def test_certificates_are_verified(tmp_path, server):
    make = ('openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=127.0.0.1 '
            '-addext subjectAltName=IP:127.0.0.1 -keyout key.pem -out cert.pem')
    subprocess.run(make.split(), cwd=tmp_path, check=True, capture_output=True)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(tmp_path / 'cert.pem', tmp_path / 'key.pem')
    with Server(tls) as secure:
        for running in serve(secure):
            refuse(running, 'certificate can\'t be verified')
            os.environ['REQUESTS_CA_BUNDLE'] = str(tmp_path / 'cert.pem')
            try:
                assert get(running).read_bytes() == DATA
            finally:
                del os.environ['REQUESTS_CA_BUNDLE']


def test_an_expected_hash_is_checked(server):
    assert get(server, f'/net.pkl#sha256={HASH.upper()}').read_bytes() == DATA
    refuse_hash = HASH.replace(HASH[0], '0' if HASH[0] != '0' else '1')
    with pytest.raises(UserError, match=f'{len(DATA)} bytes of SHA-256 {HASH}, expected {refuse_hash}'):
        get(server, f'/net.pkl#sha256={refuse_hash}')
    assert get(server).read_bytes() == DATA  # the good copy stays
    assert len(server.requests) == 2
    with pytest.raises(UserError, match='expected sha256= and 64'):
        get(server, '/net.pkl#md5=1')


def test_a_server_that_hides_the_length_is_refused_for_the_end_could_be_missing(server):
    server.plan += [{'omit': ['Content-Length']}] * 2
    refuse(server, 'doesn\'t say how long the file is', '#sha256=')
    assert get(server, f'/net.pkl#sha256={HASH}').read_bytes() == DATA


def test_an_empty_file_is_refused(server):
    server.plan += [{'body': b''}]
    refuse(server, 'is empty')


def test_no_server_is_said_in_one_line(server):
    server.shutdown()
    server.socket.close()
    refuse(server, 'no connection', '5 times in a row')


def test_a_folder_that_takes_no_files_is_named(server, tmp_path):
    (tmp_path / 'cache').write_bytes(b'')
    refuse(server, 'can\'t be kept as', str(tmp_path / 'cache'))


def test_a_full_disk_is_said_in_one_line_and_the_part_is_no_file(server, monkeypatch):
    def full(descriptor):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(downloads.os, 'fsync', full)
    refuse(server, 'No space left on device')


def test_fetch_puts_the_file_where_it_is_told(server, tmp_path):
    path = downloads.fetch(f'{server.url}/weights.pt', tmp_path / 'deep' / 'own.pt', '--descriptor')
    assert path == tmp_path / 'deep' / 'own.pt'
    assert path.read_bytes() == DATA


def start_process(server):
    code = ("import sys; from torch_utils import downloads; "
            "print(downloads.local_path(sys.argv[1], '--network'))")
    return subprocess.Popen(
        [sys.executable, '-c', code, f'{server.url}/net.pkl'], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, env=os.environ | {'PYTHONPATH': str(ROOT / 'edm')})


def test_processes_that_ask_at_once_download_once(server):
    processes = [start_process(server) for _ in range(3)]
    printed = {process.communicate(timeout=60)[0] for process in processes}
    assert len(printed) == len(server.requests) == 1
    assert Path(printed.pop().strip()).read_bytes() == DATA


def test_a_killed_download_is_neither_cached_nor_lost(server):
    server.plan += [{'cut': 9 * BLOCK}, {'status': 503, 'headers': {'Retry-After': '60'}}]
    with start_process(server) as process:
        for line in process.stderr:
            if 'trying again in 60 s' in line:
                break
        process.kill()
    assert not list(downloads.download_dir().glob('[!.]*.pkl'))
    assert get(server).read_bytes() == DATA
    assert server.requests[-1]['Range'] == f'bytes={9 * BLOCK}-'
