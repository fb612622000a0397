"""All tests, in two halves side by side: `make test`. The second half's output follows the first's."""

import subprocess
import sys
import tempfile
from pathlib import Path

TESTS = Path(__file__).resolve().parent
FOLDERS = sorted(path.name for path in TESTS.iterdir() if path.is_dir() and path.name != 'benchmarks')
# about half of the time; the scripts' tests are the rest


def main() -> int:
    """Run both halves with the arguments given; 1 if one of them failed."""
    halves = [[str(TESTS / folder) for folder in FOLDERS],
              [str(path) for path in sorted(TESTS.glob('test_*.py'))]]
    command = [sys.executable, '-m', 'pytest', *sys.argv[1:]]
    with tempfile.TemporaryFile('w+') as output:
        second = subprocess.Popen([*command, '-p', 'no:cacheprovider', *halves[1]], cwd=TESTS.parent,
                                  stdout=output, stderr=subprocess.STDOUT)
        try:
            first = subprocess.run([*command, *halves[0]], check=False, cwd=TESTS.parent).returncode
            second.wait()
        except KeyboardInterrupt:
            second.terminate()
            return 130
        output.seek(0)
        print(output.read(), end='')
    return int(first != 0 or second.returncode != 0)


if __name__ == '__main__':
    sys.exit(main())
