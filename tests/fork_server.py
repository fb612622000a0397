"""Runs scripts in processes that are forked off from here, which spares each the import of PyTorch.

Each line on stdin is JSON: script, args, environs (of each process), log; the answer is their exit statuses.
"""

import importlib
import json
import os
import runpy
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / 'edm'), str(Path(__file__).parent)]

for module in 'torch._dynamo', 'training.launch', 'sampling.generation':  # the first, every optimizer would
    importlib.import_module(module)


def start(job: dict, environ: dict) -> int:
    """Fork a process that runs the script; returns its id."""
    pid = os.fork()
    if pid:
        return pid
    status = 70
    try:
        with open(job['log'], 'a') as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        os.environ |= environ
        sys.argv = [job['script'], *job['args']]
        runpy.run_path(job['script'], run_name='__main__')
        status = 0
    except SystemExit as end:
        status = end.code or 0
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
    finally:
        sys.stdout.flush()
        os._exit(status)


for line in sys.stdin:
    job = json.loads(line)
    pids = [start(job, environ) for environ in job['environs']]
    statuses = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    sys.stdout.write(json.dumps(statuses) + '\n')
    sys.stdout.flush()
