"""Files from the web: whole or not at all, resumable, checked, downloaded once however many processes ask."""

import datetime
import hashlib
import json
import os
import re
import shutil
import sys
import time
from pathlib import Path
from urllib.parse import urldefrag, urljoin, urlparse

import click

from torch_utils.errors import UserError
from torch_utils.files import locked, sha256_file, write_json

ATTEMPTS = 5          # in a row without a new byte
FIRST_WAIT = 0.5      # seconds before the second attempt; doubled before each further one
LONGEST_WAIT = 60     # seconds, even if the server asks for more
TIMEOUT = (10, 60)    # seconds to connect, and between two packets
BLOCK = 1 << 16       # bytes written at a time; a broken connection loses less than that
MAX_REDIRECTS = 20
MAX_UNSAID = 1 << 30   # bytes of a response without Content-Length or a known hash
MAX_PACKING = 20       # a compressed response may unpack to so many times its size; weights hardly compress
BUSY = (408, 429, 500, 502, 503, 504)  # HTTP statuses worth another attempt

WEB_PAGE = ('the server sends a web page instead of a file, maybe one to log in or one that reports an '
            'error')


class Missing(UserError):
    """There is no such file on the server."""


def download_dir() -> Path:
    """The folder of downloads: $DNNLIB_CACHE_DIR/downloads, else ~/.cache/dnnlib/downloads."""
    root = os.environ.get('DNNLIB_CACHE_DIR')
    return (Path(root) if root else Path.home() / '.cache' / 'dnnlib') / 'downloads'


def is_url(path: str) -> bool:
    """True for http and https addresses."""
    return re.match(r'https?://', str(path), re.IGNORECASE) is not None


def is_remote(path: str) -> bool:
    """True for addresses of any kind, such as https://... and hf://..."""
    return '://' in str(path)


def local_path(path_or_url: str, option: str) -> Path:
    """A file on this machine: the path itself, or the cached download of a URL.

    Raises UserError naming `option` if there is no such file or the download fails.
    """
    if is_url(path_or_url):
        return fetch(path_or_url, cached_path(path_or_url, option), option)
    if re.match(r'[a-z][a-z0-9+.-]*://', str(path_or_url), re.IGNORECASE):
        raise UserError(f'{option} {path_or_url}: expected a path, or an address that begins with https:// '
                        'or http://')
    path = Path(path_or_url)
    if not path.is_file():
        raise UserError(f'{option} {path_or_url}: no such file')
    return path


def cached_path(url: str, option: str) -> Path:
    """Where `local_path` keeps the download of `url`."""
    plain, _ = _expected(url, option)
    name = re.sub(r'[^\w.-]', '_', Path(urlparse(plain).path).name, flags=re.ASCII)[-100:] or 'download'
    return download_dir() / f'{hashlib.sha256(plain.encode()).hexdigest()[:16]}-{name}'


def is_kept(url: str, option: str) -> bool:
    """Whether `local_path` has the download of `url` already, whole and unchanged."""
    return _is_whole(cached_path(url, option), *_expected(url, option))


def forget(url: str, option: str) -> None:
    """Delete the download that `local_path` keeps, of a file that turned out to be useless; no error."""
    path = cached_path(url, option)
    for each in _record_path(path), path:
        each.unlink(missing_ok=True)


def fetch(url: str, path: str | os.PathLike, option: str) -> Path:
    """Make sure that `path` is a whole download of `url`; returns it.

    url: http or https; certificates are verified. It may end with #sha256= and the expected hash.
    path: `{path}.json` beside it records URL, size, SHA-256 and time of a finished download. While both
        agree, nothing is requested. An interrupted download leaves `.{name}.part`, which the next one,
        in this process or another, resumes. Of several processes one downloads.
    Raises UserError naming `option` in one line if the file can't be had, is not the expected one, or is a
    web page.
    """
    url, expected = _expected(url, option)
    path = Path(path)
    if _is_whole(path, url, expected):
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path, doing='downloading'):
            if not _is_whole(path, url, expected):  # another process may have been faster
                _Download(url, path, f'{option} {url}', expected).run()
    except OSError as err:
        raise UserError(f'{option} {url}: can\'t be kept as {path} ({err.strerror or err})') from err
    return path


def _expected(url: str, option: str) -> tuple[str, str | None]:
    """The address without its fragment, and the SHA-256 that this names, if any."""
    try:
        plain, fragment = urldefrag(url)
        host, _ = urlparse(plain).hostname, urlparse(plain).port
    except ValueError as err:  # brackets that don't match, a port that is none
        raise UserError(f'{option} {url}: no valid address ({err})') from err
    if not host or not is_url(plain):
        raise UserError(f'{option} {url}: expected an address that begins with https:// or http:// and names '
                        'a host')
    if not fragment:
        return plain, None
    match = re.fullmatch(r'sha256=([0-9a-fA-F]{64})', fragment)
    if match is None:
        raise UserError(f'{option} {url}: after # expected sha256= and 64 hexadecimal digits')
    return plain, match[1].lower()


def _is_whole(path: Path, url: str, expected: str | None) -> bool:
    """Whether `path` holds a finished download of `url`, unchanged since."""
    record = _read_json(_record_path(path))
    try:
        return (record.get('url') == url and path.stat().st_size == record.get('size')
                and expected in (None, record.get('sha256')) and sha256_file(path) == record.get('sha256'))
    except OSError:
        return False


def _record_path(path: Path) -> Path:
    return path.with_name(f'{path.name}.json')


def _read_json(path: Path) -> dict:
    try:
        value = json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


class _Again(Exception):
    """An attempt failed, and another one may succeed. wait: seconds that the server asks for."""

    def __init__(self, reason: str, wait: float = 0):
        super().__init__(reason)
        self.wait = wait


class _Download:
    """One download, under the lock. where: begins each message.

    Beside the part file lies what is known of its contents: url; version, a strong ETag or the time of the
    last change, so that only the same contents are resumed; total, their length in the end, or None.
    """

    def __init__(self, url: str, path: Path, where: str, expected: str | None):
        self._url, self._path, self._where, self._expected = url, path, where, expected
        self._part = path.with_name(f'.{path.name}.part')
        self._begun_path = path.with_name(f'.{path.name}.part.json')

    def run(self) -> None:
        failures, furthest = 0, self._size()
        while True:
            try:
                self._receive()
                break
            except _Again as err:
                failures = failures + 1 if self._size() <= furthest else 1
                furthest = max(furthest, self._size())
                if failures == ATTEMPTS:
                    kept = f'; the {furthest} bytes that came are kept' if furthest else ''
                    raise UserError(f'{self._where}: {err}, {ATTEMPTS} times in a row{kept}') from err
                wait = min(max(err.wait, FIRST_WAIT * 2 ** (failures - 1)), LONGEST_WAIT)
                click.echo(f'{self._where}: {err}; trying again in {wait:g} s', err=True)
                time.sleep(wait)
        self._keep()

    def _size(self) -> int:
        return self._part.stat().st_size if self._part.exists() else 0

    def _receive(self) -> None:
        """Complete the part file by one request. Raises _Again or UserError if it fails."""
        import requests  # only here: most runs never need it

        start, begun = self._resumable()
        if start and start == begun.get('total'):
            return
        headers = {'Accept-Encoding': 'identity'}  # the length announced is that of the file itself
        if start:
            headers |= {'Range': f'bytes={start}-'}
            headers |= {'If-Range': begun['version']} if begun['version'] else {}
        try:
            with requests.Session() as session:  # which keeps cookies from one redirect to the next
                url = self._url
                for _ in range(MAX_REDIRECTS):
                    with session.get(url, headers=headers, stream=True, timeout=TIMEOUT,
                                     allow_redirects=False) as answer:
                        if not answer.is_redirect:
                            return self._store(answer, start)
                        url = self._redirected(answer)
            raise UserError(f'{self._where}: more than {MAX_REDIRECTS} redirects')
        except UserError:
            raise
        except requests.exceptions.SSLError as err:
            raise UserError(f'{self._where}: the server\'s certificate can\'t be verified') from err
        except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as err:
            raise _Again(f'no connection, or a broken one ({type(err).__name__})') from err
        except (requests.RequestException, ValueError, OverflowError) as err:  # addresses and headers, too
            self._refuse(f'can\'t be downloaded ({type(err).__name__})')

    def _resumable(self) -> tuple[int, dict]:
        """Bytes of the part file to resume after, and its record; 0 to download from scratch."""
        size, begun = self._size(), {'version': '', 'total': None} | _read_json(self._begun_path)
        same = begun.get('url') == self._url and (begun['version'] or self._expected)
        fits = begun['total'] is None or (type(begun['total']) is int and size <= begun['total'])
        return (size, begun) if same and fits else (0, {})

    def _redirected(self, answer) -> str:
        """The address that a response redirects to. Its body is not read: it could be endless."""
        target = urljoin(answer.url, answer.headers['location'])
        schemes = ('https',) if urlparse(answer.url).scheme == 'https' else ('https', 'http')
        if urlparse(target).scheme not in schemes:
            raise UserError(f'{self._where}: the server redirects to {target[:200]}, and only '
                            f'{" and ".join(schemes)} addresses are followed')
        return target

    def _store(self, answer, start: int) -> None:
        """Write the body of a response to the part file, after `start` bytes if the server resumes there."""
        self._check_status(answer)
        length = answer.headers.get('Content-Length', '')
        packing = answer.headers.get('Content-Encoding', 'identity')  # else the length is not the file's
        if packing not in ('identity', 'gzip'):
            self._refuse(f'the server packs the file by {packing[:100]}, which wasn\'t asked for')
        total = int(length) if length.isdecimal() and packing == 'identity' else None
        if answer.status_code == 206:
            match = re.fullmatch(rf'bytes {start}-\d+/(\d+)', answer.headers.get('Content-Range', ''))
            if not start or match is None:
                self._part.unlink(missing_ok=True)
                raise _Again('the server sends another part than asked for')
            total = int(match[1])
        else:
            start = 0
        chunked = 'chunked' in answer.headers.get('Transfer-Encoding', '')
        if not (length.isdecimal() or chunked or self._expected):
            raise UserError(f'{self._where}: the server doesn\'t say how long the file is, so that nothing '
                            'tells a part from the whole; add #sha256= and its hash to the address')
        if (total or 0) - start > shutil.disk_usage(self._path.parent).free:
            raise UserError(f'{self._where}: the file has {total:,} bytes, too many for {self._path.parent}')
        if not start:
            self._part.unlink(missing_ok=True)
            write_json(self._begun_path, {'url': self._url, 'version': _version(answer), 'total': total})
        limit = sys.maxsize if total or self._expected else MAX_UNSAID
        if packing != 'identity' and length.isdecimal():
            limit = MAX_PACKING * int(length) + (1 << 20)
        self._write(answer, start, total, limit)
        if self._size() != (total or self._size()):
            raise _Again(f'broke off after {self._size()} of {total} bytes')

    def _check_status(self, answer) -> None:
        if answer.status_code in BUSY:
            wait = answer.headers.get('Retry-After', '')
            raise _Again(f'the server answers {answer.status_code} {answer.reason}',
                         wait=int(wait) if wait.isdecimal() else 0)
        if answer.status_code == 416:  # the part file is longer than the file
            self._part.unlink(missing_ok=True)
            raise _Again('the file on the server has changed')
        if answer.status_code not in (200, 206):
            error = Missing if answer.status_code in (404, 410) else UserError
            raise error(f'{self._where}: the server answers {answer.status_code} {answer.reason}')
        if answer.headers.get('Content-Type', '').startswith(('text/html', 'application/xhtml')):
            self._refuse(WEB_PAGE)

    def _refuse(self, why: str) -> None:
        """Raise UserError because of what the server sends, and keep nothing of it."""
        self._part.unlink(missing_ok=True)
        self._begun_path.unlink(missing_ok=True)
        raise UserError(f'{self._where}: {why}')

    def _write(self, answer, start: int, total: int | None, limit: int) -> None:
        from tqdm import tqdm

        progress = tqdm(total=total, initial=start, unit='B', unit_scale=True, desc=self._path.name)
        with open(self._part, 'ab') as file, progress as bar:
            for block in answer.iter_content(BLOCK):
                if file.tell() == 0 and re.match(rb'\s*<(!doctype )?html', block, re.IGNORECASE):
                    self._refuse(WEB_PAGE)
                file.write(block)
                if file.tell() > limit:
                    self._refuse(f'the server sends more than {limit:,} bytes and doesn\'t say how many; if '
                                 'that is right, add #sha256= and the file\'s hash to the address')
                bar.update(len(block))
            file.flush()
            os.fsync(file.fileno())

    def _keep(self) -> None:
        """Check the whole part file and rename it. The record goes first: alone it has no effect."""
        found, size = sha256_file(self._part), self._size()
        if size == 0:
            self._refuse('the file on the server is empty')
        if self._expected not in (None, found):
            self._refuse(f'{size} bytes of SHA-256 {found}, expected {self._expected}')
        write_json(_record_path(self._path), {
            'url': self._url, 'size': size, 'sha256': found,
            'time_utc': datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds')})
        os.replace(self._part, self._path)
        self._begun_path.unlink(missing_ok=True)


def _version(answer) -> str:
    tag = answer.headers.get('ETag', '')
    return tag if tag.startswith('"') else answer.headers.get('Last-Modified', '')
