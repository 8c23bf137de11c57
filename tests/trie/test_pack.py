from __future__ import annotations

import pytest
import torch

from scramble.trie import TokenRules, TrieError, TrieItem, pack
from scramble.trie.mask import FLEX_BLOCK, attention_masks, block_mask, dense_mask
from scramble.trie.pack import assign_rows


def make_item(length: int, branches: int = 2, name: str = "item") -> TrieItem:
    """Return an item of ``branches`` sequences that share all but their last ten tokens."""
    sequences = [[5] * (length - 10) + [10 + n] * 10 for n in range(branches)]
    return TrieItem(sequences, [[False] * (length - 10) + [True] * 10] * branches, None, name)


def test_rows_are_filled_first_fit_decreasing() -> None:
    rows = assign_rows([3, 9, 4, 6, 1], 10)
    assert rows == [[1, 4], [3, 2], [0]]


@pytest.mark.parametrize("row_tokens", [None, 120, 1000])
def test_batch_keeps_every_token_and_reports_padding(row_tokens: int | None) -> None:
    items = [make_item(length) for length in (40, 100, 60, 30)]
    batch = pack(items, row_tokens=row_tokens)
    lengths = [length - 10 + 2 * 9 for length in (40, 100, 60, 30)]  # the last token of a branch is not an input
    assert batch.num_tokens == sum(lengths)
    assert int((batch.input_ids_BL > 0).sum()) == sum(lengths)
    assert batch.padding_fraction == pytest.approx(1 - sum(lengths) / batch.input_ids_BL.numel())
    assert batch.num_sequences == (2, 2, 2, 2)
    assert batch.input_ids_BL.shape[0] == {None: 3, 120: 3, 1000: 1}[row_tokens]


def test_mask_by_hand() -> None:
    """The row contains a trie of two branches, a trie of one branch, and one token of padding."""
    end = torch.tensor([[3, 2, 3, 5, 5, 6]])
    expected = [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 0, 1, 0, 0, 0],
        [0, 0, 0, 1, 0, 0],
        [0, 0, 0, 1, 1, 0],
        [0, 0, 0, 0, 0, 1],
    ]
    assert dense_mask(end)[0, 0].int().tolist() == expected
    block = torch.tensor([[-1, -1, -1, 7, 7, -1]])
    expected[3][4] = 1
    assert dense_mask(end, block)[0, 0].int().tolist() == expected


def with_block(batch_end: torch.Tensor) -> torch.Tensor:
    block = torch.full_like(batch_end, -1)
    block[:, 2 * FLEX_BLOCK - 20 : 3 * FLEX_BLOCK - 7] = 3
    return block


def test_a_window_counts_tokens_of_the_path() -> None:
    """Token 4 follows token 0 directly: the branch of tokens 1 to 3 between them does not count."""
    batch = pack([TrieItem([[1, 2, 3, 4, 5], [1, 6, 7, 8]], [[False] * 4 + [True], [False] * 3 + [True]])])
    expected = [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [0, 1, 1, 0, 0, 0],
        [0, 0, 1, 1, 0, 0],
        [1, 0, 0, 0, 1, 0],
        [0, 0, 0, 0, 1, 1],
    ]
    masks = attention_masks(batch, {"full_attention": None, "sliding_attention": 2})
    assert masks["sliding_attention"][0, 0].int().tolist() == expected  # type: ignore[index]
    assert torch.equal(masks["full_attention"], dense_mask(batch.end_BL))  # type: ignore[arg-type]
    masks = attention_masks(batch, {"full_attention": None, "sliding_attention": 4})
    assert masks["sliding_attention"] is masks["full_attention"]  # no path is longer than the window


@pytest.mark.parametrize("window", [None, 60, 250])
@pytest.mark.parametrize("two_way", [False, True])
def test_block_mask_equals_the_dense_mask(two_way: bool, window: int | None) -> None:
    """The BlockMask, computed from the ends alone, equals the dense mask and skips empty blocks."""
    items = [make_item(length, branches) for length, branches in ((700, 3), (300, 40), (40, 2), (130, 2))]
    batch = pack(items, row_tokens=1300)
    block = with_block(batch.end_BL) if two_way else None
    dense = dense_mask(batch.end_BL, block, batch.depth_BL, window)
    mask = block_mask(batch.end_BL, block, batch.depth_BL, window)
    rows, _, length, _ = dense.shape
    padded = -(-length // FLEX_BLOCK) * FLEX_BLOCK
    wanted = torch.zeros(rows, 1, padded, padded, dtype=torch.bool)
    wanted[:, :, :length, :length] = dense
    tiles = wanted.unflatten(2, (-1, FLEX_BLOCK)).unflatten(4, (-1, FLEX_BLOCK))  # (B, 1, n, 128, n, 128)
    some = tiles.any(5).any(3)

    visited = torch.zeros_like(some)
    for counts, indices in (
        (mask.kv_num_blocks, mask.kv_indices),
        (mask.full_kv_num_blocks, mask.full_kv_indices),
    ):
        for b in range(rows):
            for q in range(counts.shape[2]):
                for k in indices[b, 0, q, : counts[b, 0, q]].tolist():
                    assert not visited[b, 0, q, k]
                    visited[b, 0, q, k] = True
                    if counts is mask.full_kv_num_blocks:  # the kernel does not evaluate the rule in full blocks
                        inside = dense[
                            b, 0, q * FLEX_BLOCK : (q + 1) * FLEX_BLOCK, k * FLEX_BLOCK : (k + 1) * FLEX_BLOCK
                        ]
                        assert inside.all()
    assert not (some & ~visited).any()
    assert window == 60 or int(mask.full_kv_num_blocks.sum()) > 0
    assert int((~visited).sum()) > 0.3 * visited.numel()
    grid = torch.meshgrid(torch.arange(rows), torch.arange(length), torch.arange(length), indexing="ij")
    assert torch.equal(mask.mask_mod(grid[0], torch.tensor(0), *grid[1:]), dense[:, 0])


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("two_way", [False, True])
def test_flex_attention_equals_sdpa(two_way: bool) -> None:
    from torch.nn.attention.flex_attention import flex_attention

    batch = pack([make_item(200, 3), make_item(90, 2), make_item(150, 4)], row_tokens=300)
    block = with_block(batch.end_BL) if two_way else None
    rows, length = batch.end_BL.shape
    query, key, value = torch.randn(3, rows, 2, length, 16, generator=torch.Generator().manual_seed(0)).unbind()
    expected = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=dense_mask(batch.end_BL, block)
    )
    actual = flex_attention(query, key, value, block_mask=block_mask(batch.end_BL, block))
    torch.testing.assert_close(actual, expected, atol=2e-6, rtol=0)


def test_bad_input_names_the_item() -> None:
    with pytest.raises(TrieError, match=r"item 'long': a trie of \d+ tokens does not fit into a row of 50"):
        pack([make_item(40), make_item(90, name="long")], row_tokens=50)
    with pytest.raises(TrieError, match="item 'b': token id 11 is scored, but the output head has 11 rows"):
        pack([make_item(40, 1, "a"), make_item(40, 2, "b")], vocab_size=11)
    with pytest.raises(TrieError, match="item 'c': the prompt contains image tokens, but the item has no images"):
        pack([TrieItem([[5, 6]], [[False, True]], None, "c")], TokenRules(frozenset({5})))
    with pytest.raises(TrieError, match="no items"):
        pack([])


def test_a_batch_survives_pickling() -> None:
    """After pickling, as between worker processes, the tensors are equal and images that items share are still one
    object.
    """
    import pickle
    from dataclasses import fields

    images = {
        "pixel_values": torch.rand(3, 400, 400),
        "grid": torch.tensor([[1, 2, 3]]),
        "half": torch.ones(2).bfloat16(),
    }
    items = [TrieItem([[8, 1, 2]], [[False, True, True]], images, name) for name in ("a", "b")]
    batch = pack(items, TokenRules(frozenset({8}), block=frozenset({8}), recurrent=True))
    other = pickle.loads(pickle.dumps(batch))
    for field in fields(batch):
        before, after = getattr(batch, field.name), getattr(other, field.name)
        if isinstance(before, torch.Tensor):
            assert torch.equal(before, after) and before.dtype == after.dtype
        elif field.name not in ("images", "paths"):
            assert before == after
    assert other.images[0] is other.images[1]
    assert all(torch.equal(images[name], value) for name, value in other.images[0].items())
    assert batch.paths is not None and torch.equal(batch.paths.tokens_PN, other.paths.tokens_PN)
