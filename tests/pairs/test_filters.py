"""Score columns, conditions on columns, near-duplicates, and tiny random models in the released formats."""

from __future__ import annotations

import math
from typing import Any

import pytest

from scramble.pairs.captions.similarity import load_similarity
from scramble.pairs.contamination import check, coco_id, count_contamination, find_benchmark_images
from scramble.pairs.filters import (
    FilterError,
    add_columns,
    drop_near_duplicates,
    keep,
    lemma_identity,
    load_grammar,
    load_likelihood,
    load_plausibility,
    score_images,
    score_pairs,
    text_columns,
)
from scramble.records import ImageFile, ImageRecord, PreferencePair
from scramble.storage.files import StoreError

WORDS = ["a", "cat", "dog", "on", "the", "mat", "red", "two", "sits"]


def pair(number: int, chosen: str, rejected: str) -> PreferencePair:
    return PreferencePair(str(number), ("1",), "", chosen, rejected, "k")


def save_tokenizer(folder, **special):
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: i for i, word in enumerate([*special.values(), *WORDS])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token=special["unk_token"]))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=backend, **special).save_pretrained(folder)
    return vocabulary


def test_columns_then_predicates():
    pairs = [pair(0, "A cat on a mat.", "A mat on a cat."), pair(1, "A cat.", "A very very long dog indeed.")]
    scored = list(score_pairs(pairs, {"words": lambda texts: [len(t.split()) for t in texts]}, batch=1))
    assert scored[0].scores == {"words.chosen": 5.0, "words.rejected": 5.0}
    dropped = []
    remaining = list(
        keep(scored, {"words.rejected": (None, 5)}, on_drop=lambda p, column: dropped.append((p.pair_id, column)))
    )
    assert [p.pair_id for p in remaining] == ["0"]
    assert dropped == [("1", "words.rejected")]
    with pytest.raises(FilterError, match="pair 0 has no column 'grammar"):
        list(keep(pairs, {"grammar.rejected": (0.5, None)}))


def test_image_check_is_a_column():
    yes = {("1", "A cat."): 0.9, ("1", "A dog."): 0.2}
    (scored,) = score_images([pair(0, "A cat.", "A dog.")], lambda queries: [yes[a] for a in queries])
    assert scored.scores == {"image_yes.chosen": 0.9, "image_yes.rejected": 0.2}


def test_text_columns():
    (scored,) = add_columns([pair(0, "A cat on a mat.", "A cat on a big red mat.")], text_columns)
    assert scored.scores["length_ratio"] == pytest.approx(7 / 5)
    assert scored.scores["common_words"] == pytest.approx(4 / 6)
    assert text_columns(pair(0, "A cat.", "a CAT"))["same_words"] == 1


def test_lemma_identity(shared):
    import spacy

    nlp = spacy.load(shared / "models" / "en_core_standin")
    column = lemma_identity(nlp)
    assert column(pair(0, "A cat sits.", "a cat sits"))["same_lemmas"] == 1
    assert column(pair(0, "A cat sits.", "A dog sits."))["same_lemmas"] == 0


def test_near_duplicates():
    pairs = [
        pair(0, "A cat on a mat.", "A mat on a cat."),
        pair(1, "the cat on the mat", "A mat on a cat"),
        pair(2, "A cat on a mat.", "A dog."),
    ]
    assert [p.pair_id for p in drop_near_duplicates(pairs)] == ["0", "2"]


def test_grammar_reads_class_one_of_a_classifier(tmp_path):
    import torch
    from transformers import DistilBertConfig, DistilBertForSequenceClassification

    torch.manual_seed(0)
    words = save_tokenizer(tmp_path, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]")
    config = DistilBertConfig(vocab_size=len(words), dim=16, n_heads=2, n_layers=1, hidden_dim=32, num_labels=2)  # type: ignore[call-arg]
    model = DistilBertForSequenceClassification(config).eval()
    model.save_pretrained(tmp_path)
    scores = load_grammar(tmp_path, batch=2)(["a cat on the mat", "the dog", "two red cat sits"])
    ids = torch.tensor([[words[w] for w in ["the", "dog"]]])
    assert scores[1] == pytest.approx(model(ids).logits.softmax(-1)[0, 1].item(), abs=1e-5)  # padding has no effect


def test_plausibility_reads_veras_head_from_spare_rows(tmp_path):
    import torch
    from transformers import T5Config, T5EncoderModel

    torch.manual_seed(0)
    words = save_tokenizer(tmp_path, unk_token="<unk>", pad_token="<pad>", eos_token="</s>")
    config = T5Config(vocab_size=32128, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    model = T5EncoderModel(config).eval()
    with torch.no_grad():
        model.shared.weight[32098, 0], model.shared.weight[32097, 0] = 0.25, 2.0
    model.save_pretrained(tmp_path)
    scores = load_plausibility(tmp_path, batch=2)(["a cat on the mat", "the dog"])
    hidden = model(torch.tensor([[words["the"], words["dog"]]])).last_hidden_state[0, -1]
    logit = (hidden @ model.shared.weight[32099] + 0.25) / 2.0
    assert scores[1] == pytest.approx(torch.sigmoid(logit).item(), abs=1e-5)


def test_a_model_that_is_not_vera_is_refused(tmp_path):
    from transformers import T5Config, T5EncoderModel

    save_tokenizer(tmp_path, unk_token="<unk>", pad_token="<pad>", eos_token="</s>")
    T5EncoderModel(T5Config(vocab_size=64, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2)).save_pretrained(
        tmp_path
    )
    with pytest.raises(ValueError, match="not Vera"):
        load_plausibility(tmp_path)


def test_likelihood_of_a_uniform_model(tmp_path):
    """With all weights 0 each token has probability 1/V, so a text of n tokens has -n log V nats."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    words = save_tokenizer(tmp_path, unk_token="<unk>", eos_token="<eos>")
    model = GPT2LMHeadModel(GPT2Config(vocab_size=len(words), n_embd=16, n_layer=1, n_head=2, n_positions=32))
    with torch.no_grad():
        model.transformer.wte.weight.zero_()
    model.save_pretrained(tmp_path)
    scores = load_likelihood(tmp_path)(["a cat on the mat", "the dog"])
    assert scores == pytest.approx([-5 * math.log(len(words)), -2 * math.log(len(words))], rel=1e-5)


def test_similarity_with_a_tiny_clip(tmp_path):
    import numpy as np
    import torch
    from PIL import Image
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

    (tmp_path / "vocab.json").write_text(
        '{"a</w>": 0, "cat</w>": 1, "dog</w>": 2, "<|startoftext|>": 3, "<|endoftext|>": 4, "c": 5, "a": 6, "t": 7}'
    )
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    torch.manual_seed(0)
    tokenizer = CLIPTokenizer(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt"))
    text = {
        "vocab_size": 49408,
        "hidden_size": 16,
        "num_attention_heads": 2,
        "num_hidden_layers": 1,
        "intermediate_size": 32,
    }
    vision = {
        "hidden_size": 16,
        "num_attention_heads": 2,
        "num_hidden_layers": 1,
        "intermediate_size": 32,
        "image_size": 30,
        "patch_size": 15,
    }
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).save_pretrained(tmp_path)
    sizes: dict[str, Any] = {"size": {"shortest_edge": 30}, "crop_size": {"height": 30, "width": 30}}
    CLIPProcessor(CLIPImageProcessor(**sizes), tokenizer).save_pretrained(tmp_path)
    file = tmp_path / "1.png"
    Image.fromarray(np.full((40, 50, 3), 90, dtype=np.uint8)).save(file)
    scores = load_similarity(tmp_path)(ImageRecord("1", ImageFile(path=str(file))), ["a cat", "a dog", "a cat"])
    assert scores[0] == pytest.approx(scores[2])
    assert all(-1 <= score <= 1 for score in scores)


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("COCO_val2014_000000000139.jpg", 139),
        ("000000000139", 139),
        ("139", 139),
        ("folder/000000397133.jpg", 397133),
        ("cat.jpg", None),
        ("", None),
        ("0054c91397f2fe05", None),
        ("1234567890123456", None),
        ("1000092795.jpg", None),
        ("photo_139.jpg", None),
        ("139.jpg", None),
        ("000001234567", None),
        ("0", None),
    ],
)
def test_coco_ids(name, number):
    assert coco_id(name) == number


def test_contamination_by_id_and_by_hash(tmp_path, shared):
    from PIL import Image

    folder = tmp_path / "bench"
    folder.mkdir()
    Image.new("RGB", (8, 8), "red").save(folder / "odd.png")
    copy = tmp_path / "renamed.png"
    copy.write_bytes((folder / "odd.png").read_bytes())
    benchmark_images = find_benchmark_images(
        {"sugarcrepe": shared / "data" / "sugarcrepe_sample" / "add_att.json", "mine": folder}
    )
    images = [
        ImageRecord("000000562121", ImageFile(bytes=b"x")),  # the first entry of add_att.json
        ImageRecord("copy", ImageFile(path=str(copy))),
        ImageRecord("clean", ImageFile(bytes=b"y")),
    ]
    assert count_contamination(images, benchmark_images) == {"sugarcrepe": 1, "mine": 1}
    assert [image.image_id for image in check(images, benchmark_images, drop=True)] == ["clean"]
    assert len(list(check(images, benchmark_images))) == 3
    with pytest.raises(StoreError, match="nothing"):
        find_benchmark_images({"nothing": tmp_path / "absent.json"})
