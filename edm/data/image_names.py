"""Which files in a folder or a zip are images by their names, and the note about those that are skipped."""

import functools
import os
from collections.abc import Sequence

from PIL import Image, ImageFile

from data.image_files import Folder, Zip
from torch_utils.errors import UserError, note

# Pictures for which PIL has no decoder of its own, or not everywhere.
_UNREADABLE = set('''.heic .heif .hif .jxl .jxr .wdp .hdp .avif .webp .jp2 .j2k .jpx .jph .bpg .flif .exr .hdr
    .dng .cr2 .cr3 .crw .nef .nrw .arw .srf .sr2 .raf .orf .rw2 .rwl .pef .srw .raw .3fr .fff .erf .kdc .dcr
    .mrw .x3f .iiq .mef .mos .gpr .dcm .xcf .kra .psb .ai .svg .svgz .eps .ps .wmf .emf .djvu .dpx .cin .pict
    .pct .mng .jng .palm'''.split())
_SHOWN = 10  # names in a message


def image_names(files: Folder | Zip, where: str) -> list[str]:
    """Those of `files.names` that are images by their extensions, in the same order.

    Notes, in one line led by `where`, how many files were skipped that users may take for images.
    """
    kinds = {name: _kind(name) for name in files.names}
    hidden = [name for name in files.hidden if name.endswith('/') or _kind(name) != 'other']
    passed_over = [
        (hidden, 'hidden or system'),
        (files.linked, 'linked twice'),
        ([name for name, kind in kinds.items() if kind == 'foreign'], 'of no image format'),
        ([name for name, kind in kinds.items() if kind == 'unreadable'],
         'of image formats that can\'t be read here')]
    said = [f'{len(names):,} {what} ({listed(names)})' for names, what in passed_over if names]
    if said:
        note(f'{where}: skipped files: {"; ".join(said)}')
    return [name for name, kind in kinds.items() if kind == 'image']


def listed(names: Sequence, separator: str = ', ') -> str:
    """The first ten names, and how many more there are."""
    more = [f'{len(names) - _SHOWN:,} more'] if len(names) > _SHOWN else []
    return separator.join([*map(str, names[:_SHOWN]), *more])


def refuse_images(faults: Sequence[str], total: int, where: str, hint: str = '') -> None:
    """Raise UserError if there are faults, each an image's name and what is wrong, of `total` images."""
    if faults:
        count = f'{len(faults):,} of {total:,} images can\'t be used: ' if len(faults) > 1 else ''
        raise UserError(f'{where}: {count}{listed(faults, "; ")}{hint}')


def _kind(name: str) -> str:
    extension = os.path.splitext(name)[1].lower()
    if extension in _decodable():
        return 'image'
    if extension in _UNREADABLE:
        return 'unreadable'
    return 'foreign' if extension in Image.registered_extensions() else 'other'


@functools.cache
def _decodable() -> set[str]:
    """Extensions of the formats whose pixels PIL gives by itself: some it only identifies, or only writes."""
    def decodes(kind: str) -> bool:
        reader = Image.OPEN.get(kind, (None,))[0]
        stub = isinstance(reader, type) and issubclass(reader, ImageFile.StubImageFile)
        return kind == 'MPO' or (reader is not None and not stub and kind not in ('EPS', 'MPEG'))
    return {extension for extension, kind in Image.registered_extensions().items() if decodes(kind)}
