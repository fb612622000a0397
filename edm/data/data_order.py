"""The endless order in which training visits the images."""

import numpy as np
import torch

from torch_utils.seeding import numpy_state, set_numpy_state


class InfiniteSampler:
    """Iterator over the indices that one of several processes trains on; it never ends.

    All processes walk through one shuffled list, over and over, and take turns: the one of `rank` gets every
    `num_replicas`-th entry. An entry that was visited is swapped with a random one fewer than window * n
    places behind it (in a circle), so that each pass has another order. The walk depends on n, seed and
    window alone.

    n: number of images, mirrored copies included. window: fraction of the list; below two places no swaps.
    After equally many calls of `next` all processes have the same state: one of them may save it for all, and
    another number of processes may resume from it.
    """

    def __init__(self, n: int, *, rank: int = 0, num_replicas: int = 1, seed: int = 0, window: float = 0.5):
        self.rank = rank
        self.num_replicas = num_replicas
        self._window = int(np.rint(n * window))
        self._rng = np.random.RandomState(seed)
        self._order = np.arange(n)
        self._rng.shuffle(self._order)
        self._visited = 0  # by all processes together

    def __iter__(self) -> 'InfiniteSampler':
        return self

    def __next__(self) -> int:
        turns = [self._visit() for _ in range(self.num_replicas)]
        return turns[self.rank]

    def _visit(self) -> int:
        order, n = self._order, len(self._order)
        i = self._visited % n
        index = int(order[i])
        if self._window >= 2:
            j = (i - self._rng.randint(self._window)) % n
            order[i], order[j] = order[j], order[i]
        self._visited += 1
        return index

    def state_dict(self) -> dict:
        """All that the walk depends on, as numbers and int64 tensors (copies), for an exact resume."""
        return {
            'visited': self._visited,
            'window': self._window,
            'order': torch.from_numpy(self._order.astype(np.int64)),
            **numpy_state(self._rng),
        }

    def load_state_dict(self, state: dict) -> None:
        """Resume from `state_dict()`, also one saved by another rank or with other `num_replicas`.

        Raises ValueError if it belongs to another number of images.
        """
        if len(state['order']) != len(self._order):
            raise ValueError(f'the saved order is of {len(state["order"])} images, the data set has '
                             f'{len(self._order)}')
        self._visited = int(state['visited'])
        self._window = int(state['window'])
        self._order = np.array(state['order'].tolist())
        set_numpy_state(self._rng, state)
