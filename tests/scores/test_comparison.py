"""RP scores of all pairs against the angles between vectors; features that can't be compared are named."""

import numpy as np
import pytest

from scores.comparison import rp_shares
from scores.features import Features
from scores.pairing import pair_features
from torch_utils.errors import UserError


def test_scores_of_all_pairs_are_those_of_each_pair():
    angles = np.radians([[0, 0, 0, 0], [10, 20, 40, 80], [90, 0, 30, 0]])
    features = [Features(values=np.float32([np.cos(a), np.sin(a)]).T) for a in angles]
    shares = rp_shares(features, np.cos(np.radians(30.1)))
    assert [share.value for share in shares.values()] == [1, 0.5, 0.75, 1, 0.5, 1]


def test_models_that_can_not_be_compared_are_named():
    one = Features(values=np.ones((3, 2), np.float32), where='one.npz')
    longer = Features(values=np.ones((4, 2), np.float32), where='two.npz')
    with pytest.raises(UserError, match=r'one.npz and two.npz: 3 and 4 rows'):
        pair_features(one, longer, force=False)
    kinds = [Features(values=np.ones((3, 2), np.float32), where=name, descriptor=kind)
             for name, kind in (('a', None), ('b', 'sscd'), ('c', 'pixel'))]
    with pytest.raises(UserError, match='b and c: the descriptors differ'):
        rp_shares(kinds, 0.5)
