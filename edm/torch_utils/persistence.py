"""Classes whose objects can be pickled in the form of EDM snapshots.

The pinned names `persistent_class` and `_reconstruct_persistent_obj` stand in every snapshot file. An object
is pickled as a call of the latter with a dict: `type`, `version`, `module_src` (the text of the defining
module, which NVlabs/edm executes to read the file), `class_name` and `state`. Here the text is only written,
never executed: reading looks the class up by its name among our own.
"""

import functools
import sys
from pathlib import Path

_VERSION = 6
_classes = {}  # name -> class, filled by @persistent_class


def persistent_class(cls):
    """Class decorator: record the constructor's arguments and pickle objects in the snapshot form.

    Objects get `_init_args` and `_init_kwargs`, the arguments as given to the outermost constructor.
    """
    init = cls.__init__
    source = Path(sys.modules[cls.__module__].__file__).read_text(encoding='utf-8')

    @functools.wraps(init)
    def __init__(self, *args, **kwargs):
        init(self, *args, **kwargs)
        self._init_args = args
        self._init_kwargs = kwargs

    def __reduce__(self):
        meta = {'type': 'class', 'version': _VERSION, 'module_src': source, 'class_name': cls.__name__,
                'state': self.__dict__}
        return _reconstruct_persistent_obj, (meta,)

    cls.__init__ = __init__
    cls.__reduce__ = __reduce__
    _classes[cls.__name__] = cls
    return cls


def _reconstruct_persistent_obj(meta: dict):
    """An object of our class `meta['class_name']` with attributes `meta['state']`; runs no recorded text."""
    cls = _classes[meta['class_name']]
    obj = cls.__new__(cls)
    if hasattr(obj, '__setstate__'):
        obj.__setstate__(meta['state'])
    else:
        obj.__dict__.update(meta['state'])
    return obj
