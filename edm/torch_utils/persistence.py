"""Classes whose objects can be pickled in the form of EDM snapshots.

The pinned names `persistent_class` and `_reconstruct_persistent_obj` stand in every snapshot file. An object
is pickled as a call of the latter with a dict: `type`, `version`, `module_src` (the text of the defining
module, which other software executes to read the file), `class_name` and `state`. Here the text is only
written and compared, never executed. Files from strangers are read by `torch_utils.safe_pickle`.
"""

import functools
import hashlib
import importlib
import pickle
import sys
from pathlib import Path

VERSION = 6

_classes = {}  # name -> class, filled by @persistent_class
_sources = {}  # name of a module with such classes -> its text


def persistent_class(cls: type) -> type:
    """Class decorator: record the constructor's arguments and pickle objects in the snapshot form.

    Objects get `_init_args` and `_init_kwargs`, the arguments as given to the outermost constructor.
    """
    module = sys.modules[cls.__module__]
    # One string for all classes of a module, so that a pickle holds the text once.
    if module.__name__ not in _sources:
        _sources[module.__name__] = Path(module.__file__).read_text(encoding='utf-8')
    source = _sources[module.__name__]
    init = cls.__init__

    @functools.wraps(init)
    def __init__(self, *args, **kwargs):
        init(self, *args, **kwargs)
        self._init_args = args
        self._init_kwargs = kwargs

    def __reduce__(self):
        if type(self) is not cls:
            raise TypeError(f'{type(self).__name__} can\'t be pickled: it lacks @persistent_class')
        # torch.compile leaves a function in the module that no file can hold and no copy needs.
        state = {key: value for key, value in self.__dict__.items() if key != '_compiled_call_impl'}
        meta = {'type': 'class', 'version': VERSION, 'module_src': source, 'class_name': cls.__name__,
                'state': state}
        return _reconstruct_persistent_obj, (meta,)

    cls.__init__ = __init__
    cls.__reduce__ = __reduce__
    _classes[cls.__name__] = cls
    return cls


def is_persistent(cls: type) -> bool:
    """True for a class that @persistent_class made, not for one derived from it."""
    return _classes.get(cls.__name__) is cls


def known_source_hashes() -> set[str]:
    """SHA-256 of the texts that our own objects carry."""
    return {source_hash(text) for text in _sources.values()}


@functools.lru_cache(maxsize=4096)  # objects by the hundred share one text
def source_hash(text: str) -> str:
    """SHA-256 of a module's text, in hexadecimal."""
    return hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()


def _reconstruct_persistent_obj(meta: dict):
    """An object of our class `meta['class_name']` with attributes `meta['state']`; runs no recorded text.

    What copy.deepcopy and plain pickle.load call. The latter is for one's own files: it imports and calls
    whatever else a file names.
    """
    name = meta['class_name']
    if name not in _classes:
        # pickle.load has imported this module alone. The pinned homes of the classes are named here, against
        # the usual direction of imports, because the pickle names none.
        for home in ('training.networks', 'training.low_rank', 'training.loss', 'training.augment'):
            importlib.import_module(home)
    if name not in _classes:
        raise pickle.UnpicklingError(f'it holds an object of the unknown class {name!r}')
    obj = _classes[name].__new__(_classes[name])
    if hasattr(obj, '__setstate__'):
        obj.__setstate__(meta['state'])
    else:
        obj.__dict__.update(meta['state'])
    return obj
