"""Run generate.py several times in the processes of one torchrun; each argument is a file of arguments."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / 'edm'))

import generate
from torch_utils import distributed

shutdown, distributed.shutdown = distributed.shutdown, lambda: None
for path in sys.argv[1:]:
    generate.main(Path(path).read_text().splitlines(), standalone_mode=False)
shutdown()
