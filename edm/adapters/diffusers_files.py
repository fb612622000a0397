"""Where the files of a diffusers network lie: in a folder, beside each other on a server, or on the hub.

`save_pretrained` of a network writes config.json and the weights, that of a scheduler scheduler_config.json;
a pipeline has them in the folders unet and scheduler, beside model_index.json, which names its parts.
"""

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from torch_utils import downloads
from torch_utils.errors import UserError, shown

CONFIG, SCHEDULER, INDEX = 'config.json', 'scheduler_config.json', 'model_index.json'
WEIGHTS = ('diffusion_pytorch_model.safetensors', 'diffusion_pytorch_model.bin',
           'diffusion_pytorch_model.fp16.safetensors')
INDICES = tuple(f'{name}.index.json' for name in WEIGHTS[:2])  # of weights in several files
OWN_PARTS = ('unet', 'scheduler', 'mel')  # of pipelines that are read; mel makes sound of the images
MAX_JSON = 1_000_000  # bytes
SHARD = re.compile(r'-\d+-of-\d+\.(safetensors|bin)$|\.(safetensors|bin)\.index\.([\w-]+\.)?json$')
HUB = 'hf://'


class NetworkFiles(NamedTuple):
    """Paths or URLs of a network's configuration, its weights, and its scheduler's configuration."""

    config: str
    weights: str
    scheduler: str


def is_diffusers(path: str) -> bool:
    """Whether a path, URL or hf:// address is one of a diffusers network, by what it looks like."""
    if os.path.isdir(path):
        return any(os.path.isfile(os.path.join(path, name)) for name in (CONFIG, f'unet/{CONFIG}', INDEX))
    name = path.partition('#')[0].lower()
    return path.startswith(HUB) or name.endswith(('.safetensors', '.bin')) or bool(SHARD.search(name))


def find_files(path: str, option: str, scheduler: str | None = None) -> NetworkFiles:
    """The files of the network at `path`; those on a server are downloaded, once.

    path: a folder with config.json or unet/config.json, a file of weights beside config.json, the URL of
        such a file, or hf://OWNER/NAME[/FOLDER][@REVISION][#sha256=HASH OF THE WEIGHTS].
    scheduler: path or URL of the scheduler's configuration; by default it is found beside the network's.
    Raises UserError naming `option` for what is missing, and for a pipeline of more than a network and a
    scheduler, such as latent diffusion or one conditioned on text.
    """
    where, whole, fragment = f'{option} {path}', path, ''
    if path.startswith(HUB):
        whole, fragment = _hub_url(path, option)
    if path.startswith(HUB) or os.path.isdir(path):
        bases, names = [_join(whole, 'unet'), whole.rstrip('/')], [name + fragment for name in WEIGHTS]
    else:
        base, _, name = whole.rpartition('/')
        _check_shards([name], where)
        if downloads.is_remote(whole) and not downloads.is_url(whole):
            raise UserError(f'{where}: expected a path, or an address that begins with https:// or hf://')
        if not downloads.is_url(whole) and not os.path.isfile(whole):
            raise UserError(f'{where}: no such file')
        bases, names = [base if base or whole.startswith('/') else '.'], [name]
    roots = list(dict.fromkeys(_parent(base) for base in bases)) + bases[-1:]
    configs = [_join(base, CONFIG) for base in bases]
    if not downloads.is_url(path):
        # Kept configurations tell that the index was asked for when they were downloaded.
        known = any(_is_kept(each, option) for each in configs)
        for index in dict.fromkeys(_join(root, INDEX) for root in roots):
            if _is_kept(index, option) or (not known and _is_there(index, option)):
                _check_pipeline(read_json(index, where, option), where)
    config = _first(configs, where, option)
    base = config.rpartition('/')[0]
    try:
        weights = _first([_join(base, name) for name in names], where, option)
    except downloads.Missing:
        there = os.listdir(base) if os.path.isdir(base) else [
            name for name in INDICES if _is_there(_join(base, name), option)]
        _check_shards(there, where)
        raise
    if scheduler is None:
        nearby = [_join(root, f'scheduler/{SCHEDULER}') for root in (_parent(base), base)]
        scheduler = _first([*dict.fromkeys(nearby), _join(base, SCHEDULER)], where, option,
                           advice='; --scheduler FILE names one')
    return NetworkFiles(config, weights, scheduler)


def read_json(path_or_url: str, where: str, option: str) -> dict:
    """The object in a JSON file. Raises UserError that begins with `where` if there is none."""
    path = downloads.local_path(path_or_url, option)
    try:
        if path.stat().st_size > MAX_JSON:
            raise ValueError(f'{path.stat().st_size:,} bytes are beyond any configuration')
        value = json.loads(path.read_text(encoding='utf-8'))
        if not isinstance(value, dict):
            raise ValueError('no object')
    except (ValueError, RecursionError) as err:
        raise UserError(f'{where}: {Path(path_or_url).name} is no JSON of diffusers ({shown(err)})') from err
    return value


def _hub_url(address: str, option: str) -> tuple[str, str]:
    """The folder's URL and the fragment of an hf:// address. $HF_ENDPOINT names another server."""
    part = r'[\w.-]+'
    match = re.fullmatch(rf'hf://({part}/{part})((?:/{part})*)(?:@([\w./-]+))?(#sha256=[\da-fA-F]{{64}})?',
                         address, re.ASCII)
    if match is None or '..' in address:
        raise UserError(f'{option} {address}: expected hf://OWNER/NAME, maybe followed by /FOLDER and '
                        '@REVISION, and by #sha256= and 64 hexadecimal digits')
    server = os.environ.get('HF_ENDPOINT', 'https://huggingface.co').rstrip('/')
    return f'{server}/{match[1]}/resolve/{quote(match[3] or "main", safe="")}{match[2]}', match[4] or ''


def _join(base: str, name: str) -> str:
    return f'{base.rstrip("/")}/{name}'


def _parent(base: str) -> str:
    """Where the other parts of a pipeline lie: beside the folder of a network that is called unet."""
    parent, _, name = base.rpartition('/')
    return (parent or '.') if name.startswith('unet') else base


def _is_kept(path_or_url: str, option: str) -> bool:
    return downloads.is_url(path_or_url) and downloads.is_kept(path_or_url, option)


def _is_there(path_or_url: str, option: str) -> bool:
    if not downloads.is_url(path_or_url):
        return os.path.isfile(path_or_url)
    try:
        downloads.local_path(path_or_url, option)
    except downloads.Missing:
        return False
    return True


def _first(candidates: Sequence[str], where: str, option: str, advice: str = '') -> str:
    """The first that was downloaded before or, without, that is there."""
    for each in candidates:
        if _is_kept(each, option):
            return each
    for each in candidates:
        if _is_there(each, option):
            return each
    names = ' or '.join(dict.fromkeys(each.partition('#')[0].rpartition('/')[2] for each in candidates))
    raise downloads.Missing(f'{where}: no {names} there{advice}')


def _check_shards(names: Sequence[str], where: str) -> None:
    """Refuse weights in several files, by the name of one."""
    if shards := sorted(name for name in names if SHARD.search(name.lower())):
        raise UserError(f'{where}: {shown(shards[0])} is of sharded weights, which are not read; diffusers\' '
                        'save_pretrained with max_shard_size=\'50GB\' writes them as one file')


def _check_pipeline(index: dict, where: str) -> None:
    """Refuse a pipeline of more than a network and a scheduler, by what else it has."""
    parts = {name: part[-1] for name, part in index.items()
             if isinstance(part, list) and name not in OWN_PARTS and part[-1:] not in ([], [None])}
    if parts:
        kind = ('latent diffusion' if parts.keys() & {'vae', 'vqvae', 'movq'} else
                'conditioned on text' if parts.keys() & {'text_encoder', 'tokenizer', 'bert'} else 'more')
        told = ', '.join(f'{name} ({part})' for name, part in parts.items())
        raise UserError(f'{where}: {shown(index.get("_class_name"))} is {kind}, with {shown(told)}; expected '
                        'a network of images and a scheduler alone')
