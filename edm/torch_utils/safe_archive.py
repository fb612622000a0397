"""A reader of untrusted torch.save files, such as states; it runs no code in them."""

import io
import os
import pickle
import warnings
import zipfile
from typing import Any

from torch_utils.bounded import Bounded
from torch_utils.safe_pickle import StorageUnpickler, require, torch_storage


def safe_load_archive(path: str | os.PathLike) -> Any:
    """As `safe_pickle.safe_load`, for torch.save's present form: a zip of a pickle and the tensors' data.

    Raises pickle.UnpicklingError as there.
    """
    try:
        with zipfile.ZipFile(path) as archive, warnings.catch_warnings():
            warnings.simplefilter('ignore')
            return _ArchiveUnpickler(archive).load()
    except pickle.UnpicklingError:
        raise
    except Exception as err:
        raise pickle.UnpicklingError(f'it is damaged or not of torch.save ({type(err).__name__})') from err


class _ArchiveUnpickler(StorageUnpickler):
    """For the pickle in such a zip: a persistent id there names the file with a storage's data."""

    def __init__(self, archive: zipfile.ZipFile):
        (name,) = (name for name in archive.namelist() if name.endswith('/data.pkl'))
        self._archive, self._folder = archive, name.removesuffix('data.pkl')
        self._unread = archive.fp.seek(0, io.SEEK_END)  # entries that overlap could claim more than there is
        self._storages = {}  # tensors that share memory share it again
        super().__init__(Bounded(io.BytesIO(self._read(name, archive.getinfo(name).file_size))))
        if f'{self._folder}byteorder' in archive.namelist():
            order = self._read(f'{self._folder}byteorder', 6)
            require(order == b'little', 'tensors of a big-endian machine')

    def _read(self, name: str, size: int) -> bytes:
        info = self._archive.getinfo(name)
        self._unread -= size
        require(info.compress_type == zipfile.ZIP_STORED and info.file_size == size and self._unread >= 0,
                 'tensors of another size than it says')
        return self._archive.read(info)

    def persistent_load(self, pid):
        """The storage's data, a tensor [n]."""
        dtype, key, count = super().persistent_load(pid)
        if key not in self._storages:
            data = self._read(f'{self._folder}data/{key}', count * dtype.itemsize)
            self._storages[key] = torch_storage(data, dtype)
        return self._storages[key]
