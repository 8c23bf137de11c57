"""Scores all sequences with the same images in one forward pass over a token trie.

The package operates on token ids and tensors and does not depend on prompts, files or tasks.
"""

from scramble.trie.backbone import Backbone, DeepFeatures, ImageInputs, TokenRules
from scramble.trie.build import TokenTrie, TrieError, build_trie
from scramble.trie.engine import (
    LogProbs,
    NonFiniteError,
    enable_gradient_checkpointing,
    encode_images,
    logprobs,
    vision_is_trained,
)
from scramble.trie.pack import TrieBatch, TrieItem, build_item, pack
from scramble.trie.score import SequenceScore, iter_scores, score

__all__ = [
    "Backbone",
    "DeepFeatures",
    "ImageInputs",
    "LogProbs",
    "NonFiniteError",
    "SequenceScore",
    "TokenRules",
    "TokenTrie",
    "TrieBatch",
    "TrieError",
    "TrieItem",
    "build_item",
    "build_trie",
    "enable_gradient_checkpointing",
    "encode_images",
    "iter_scores",
    "logprobs",
    "pack",
    "score",
    "vision_is_trained",
]
