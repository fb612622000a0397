"""Files that appear whole or not at all, and local copies of what lies at a URL."""

import contextlib
import hashlib
import json
import os
import re
import tempfile
from pathlib import Path
from urllib.parse import urlparse

from torch_utils.errors import UserError


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike, mode: str = 'wb'):
    """Open a file beside `path` for writing; it takes `path`'s place once all of it is on the disk.

    Text is UTF-8. If the body raises, nothing remains and an older `path` stays as it was.
    """
    path = Path(path)
    temp = path.with_name(f'.{path.name}.{os.getpid()}.tmp')
    try:
        with open(temp, mode, encoding=None if 'b' in mode else 'utf-8') as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temp, path)
    finally:
        temp.unlink(missing_ok=True)


def write_json(path: str | os.PathLike, value) -> None:
    """Write `value` as indented JSON, whole or not at all."""
    with atomic_write(path, 'w') as file:
        json.dump(value, file, indent=2)
        file.write('\n')


def sha256_file(path: str | os.PathLike) -> str:
    """SHA-256 of a file's contents, in hexadecimal."""
    with open(path, 'rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()


def make_output_dir(path: str | os.PathLike, option: str = '--outdir') -> Path:
    """Create a folder for results and make sure, before any work, that it takes files.

    Raises UserError naming `option` if it can't be made or written to; then no folder is left behind.
    """
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as err:
        raise UserError(f'{option} {path}: can\'t write there ({err.strerror})') from err
    return path


def is_url(path: str) -> bool:
    """True for http and https addresses."""
    return re.match(r'https?://', str(path), re.IGNORECASE) is not None


def download_dir() -> Path:
    """Where downloads are kept: $DNNLIB_CACHE_DIR/downloads, else ~/.cache/dnnlib/downloads."""
    root = os.environ.get('DNNLIB_CACHE_DIR')
    return (Path(root) if root else Path.home() / '.cache' / 'dnnlib') / 'downloads'


def local_path(path_or_url: str, option: str) -> Path:
    """A file on this machine: the path itself, or the cached download of a URL.

    Raises UserError naming `option` if there is no such file or the download fails.
    """
    if is_url(path_or_url):
        return _download(path_or_url, option)
    path = Path(path_or_url)
    if not path.is_file():
        raise UserError(f'{option} {path_or_url}: no such file')
    return path


def _download(url: str, option: str) -> Path:
    import requests  # only here: most runs never need it
    from tqdm import tqdm

    name = re.sub(r'[^\w.-]', '_', Path(urlparse(url).path).name) or 'download'
    cached = download_dir() / f'{hashlib.sha256(url.encode()).hexdigest()[:16]}-{name}'
    if cached.is_file():
        return cached
    cached.parent.mkdir(parents=True, exist_ok=True)
    try:
        with requests.get(url, stream=True, timeout=(10, 60)) as answer:
            if answer.status_code != 200:
                raise UserError(f'{option} {url}: the server answers {answer.status_code} {answer.reason}')
            expected = int(answer.headers.get('Content-Length', 0)) or None
            progress = tqdm(total=expected, unit='B', unit_scale=True, desc=name)
            with progress as bar, atomic_write(cached) as file:
                for block in answer.iter_content(1 << 20):
                    file.write(block)
                    bar.update(len(block))
                received = answer.raw.tell()
                if expected and received < expected:
                    raise UserError(f'{option} {url}: broke off after {received} of {expected} bytes')
    except requests.RequestException as err:
        raise UserError(f'{option} {url}: can\'t be downloaded ({type(err).__name__})') from err
    return cached
