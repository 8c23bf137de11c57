"""Tests paths of a trie for recurrent layers, with expected indices derived by hand."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from scramble.trie import TrieItem, pack
from scramble.trie.backbone import TokenRules
from scramble.trie.recurrent import Paths, paths_to, run_along_paths, single_tokens

RECURRENT = TokenRules(recurrent=True)


def item(*sequences: list[int]) -> TrieItem:
    return TrieItem(sequences, [[False] * (len(ids) - 1) + [True] for ids in sequences])


def test_paths_to_leaves() -> None:
    """Sequences 1 2 3 | 1 2 4 5 | 1 2 have the nodes 1 2 (path 0: 1 2; path 1: 1 2 4): the last token is not a node.

    The second item has the single node 7, in a row of its own with two positions of padding.
    """
    batch = pack([item([1, 2, 3], [1, 2, 4, 5], [1, 2]), item([7, 8])], RECURRENT)
    assert batch.input_ids_BL.tolist() == [[1, 2, 4], [7, 0, 0]]
    assert batch.paths is not None
    assert batch.paths.mask_PN is None
    assert batch.paths.tokens_PN[0].tolist() == [0, 1, 2]  # 1 2 is a prefix and needs no path
    assert batch.paths.tokens_PN[1, 0] == 3
    assert len(batch.paths.tokens_PN) == 2
    assert batch.paths.places_BL.tolist() == [[0, 1, 2], [3, 0, 0]]


def test_branches_and_shared_rows() -> None:
    """Nodes of the first trie: 1 (2 (3), 4), of the second: 9; both in one row of five positions."""
    batch = pack([item([1, 2, 3, 0], [1, 4, 0]), item([9, 0])], RECURRENT, row_tokens=8)
    assert batch.input_ids_BL.tolist() == [[1, 2, 3, 4, 9]]
    assert batch.paths is not None
    tokens = batch.paths.tokens_PN.tolist()
    assert [tokens[0], tokens[1][:2], tokens[2][:1]] == [[0, 1, 2], [0, 3], [4]]
    assert batch.paths.places_BL[0, 1:].tolist() == [1, 2, 4, 6]
    assert batch.paths.places_BL[0, 0] in (0, 3)  # the shared token may be read from either path


def test_no_paths_without_recurrent_layers() -> None:
    assert pack([item([1, 2])], TokenRules()).paths is None


def test_paths_that_end_together() -> None:
    batch = pack([item([1, 2, 3, 0], [1, 4, 0])], RECURRENT)
    paths = paths_to(batch.end_BL, torch.tensor([2, 3, 0]), torch.zeros(3, dtype=torch.long), align_ends=True)
    assert paths.mask_PN is not None
    assert paths.mask_PN.tolist() == [[True, True, True], [False, True, True], [False, False, True]]
    assert paths.tokens_PN[paths.mask_PN].tolist() == [0, 1, 2, 0, 3, 0]


class CumulativeSum(nn.Module):
    """Like gated DeltaNet: a projection, a recurrence, a projection."""

    def __init__(self) -> None:
        super().__init__()
        self.in_proj_x = nn.Identity()
        self.out_proj = nn.Identity()

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        assert attention_mask is None
        return self.out_proj(self.in_proj_x(hidden_states).cumsum(1).view(hidden_states.shape))


def test_module_runs_along_paths() -> None:
    """Each output is the sum over the token and its ancestors: 1, 1 + 2, 1 + 2 + 3, 1 + 4, 9.

    The projections run on the five shared tokens.
    """
    batch = pack([item([1, 2, 3, 0], [1, 4, 0]), item([9, 0])], RECURRENT, row_tokens=8)
    module = CumulativeSum()
    for projection in (module.in_proj_x, module.out_proj):
        projection.register_forward_hook(lambda module, args, output: sizes.append(output.shape))
    sizes: list[torch.Size] = []
    for _ in range(2):  # a second call adds no hooks
        run_along_paths(module)
    hidden = batch.input_ids_BL[..., None].double().requires_grad_()
    output = module(hidden_states=hidden, attention_mask=batch.paths)
    assert output[..., 0].tolist() == [[1, 3, 6, 5, 9]]
    assert sizes == [(1, 5, 1), (1, 5, 1)]
    (gradient,) = torch.autograd.grad(output.sum(), hidden)
    assert gradient[..., 0].tolist() == [[4, 2, 1, 1, 1]]  # number of descendants, the token included
    ends = torch.tensor([2, 3, 4])
    aligned = paths_to(batch.end_BL, ends, torch.zeros(3, dtype=torch.long), align_ends=True)
    assert module(hidden_states=hidden, attention_mask=aligned)[..., 0].tolist() == [[1, 3, 6, 5, 9]]
    assert module(hidden_states=hidden)[0, -1].item() == 19  # no paths: not changed


def test_single_tokens() -> None:
    paths = single_tokens(torch.zeros(2, 3))
    values = torch.randn(2, 3, 4)
    assert isinstance(paths, Paths)
    assert paths.gather(values).shape == (6, 1, 4)
    assert torch.equal(paths.scatter(paths.gather(values)), values)
