"""Tests scorers of texts with tiny random models of the released architectures, and the store of their scores."""

from __future__ import annotations

import math

import pytest

from scramble.models.family import ModelError
from scramble.models.tiny.scorers import save_tiny_scorer
from scramble.pairs.scoring.image_similarity import load_similarity
from scramble.pairs.scoring.score_store import ScoreStore, StoredScorer
from scramble.pairs.scoring.text_scorers import load_grammar, load_likelihood, load_plausibility
from scramble.records import ImageFile

WORDS = ["a", "cat", "dog", "on", "the", "mat", "red", "two", "sits"]


def save_tokenizer(folder, **special):
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: i for i, word in enumerate([*special.values(), *WORDS])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token=special["unk_token"]))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=backend, **special).save_pretrained(folder)
    return vocabulary


def test_grammar_reads_class_one_of_a_classifier(tmp_path):
    import torch
    from transformers import DistilBertConfig, DistilBertForSequenceClassification

    torch.manual_seed(0)
    words = save_tokenizer(tmp_path, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]")
    config = DistilBertConfig(vocab_size=len(words), dim=16, n_heads=2, n_layers=1, hidden_dim=32, num_labels=2)  # type: ignore[call-arg]
    model = DistilBertForSequenceClassification(config).eval()
    model.save_pretrained(tmp_path)
    scores = load_grammar(tmp_path, batch_size=2)(["a cat on the mat", "the dog", "two red cat sits"])
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
    scores = load_plausibility(tmp_path, batch_size=2)(["a cat on the mat", "the dog"])
    hidden = model(torch.tensor([[words["the"], words["dog"]]])).last_hidden_state[0, -1]
    logit = (hidden @ model.shared.weight[32099] + 0.25) / 2.0
    assert scores[1] == pytest.approx(torch.sigmoid(logit).item(), abs=1e-5)


def test_a_model_that_is_not_vera_is_refused(tmp_path):
    from transformers import T5Config, T5EncoderModel

    save_tokenizer(tmp_path, unk_token="<unk>", pad_token="<pad>", eos_token="</s>")
    T5EncoderModel(T5Config(vocab_size=64, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2)).save_pretrained(
        tmp_path
    )
    with pytest.raises(ModelError, match="not Vera"):
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


def test_similarity_is_the_cosine_of_clips_features(tmp_path):
    import torch
    from PIL import Image
    from transformers import AutoProcessor, CLIPModel

    folder = save_tiny_scorer("similarity", tmp_path / "clip")
    files = []
    for number, colour in enumerate(("red", "navy")):
        Image.new("RGB", (50 + number, 40), colour).save(tmp_path / f"{number}.png")
        files.append(ImageFile(path=str(tmp_path / f"{number}.png")))
    items = [(files[0], "A red cat."), (files[0], "A dog."), (files[1], "A dog.")]
    scores = load_similarity(folder, device="cpu")(items)
    assert scores == pytest.approx(load_similarity(folder, device="cpu", batch_size=1)(items), abs=1e-6)
    inputs = AutoProcessor.from_pretrained(folder)(text=["A dog."], images=files[1].open(), return_tensors="pt")
    with torch.inference_mode():
        output = CLIPModel.from_pretrained(folder)(**inputs)
    assert scores[2] == pytest.approx(float((output.image_embeds * output.text_embeds).sum()), abs=1e-5)


def test_a_scorer_that_cannot_be_loaded_is_reported_in_one_line(tmp_path):
    from transformers import T5Config, T5EncoderModel

    T5EncoderModel(T5Config(vocab_size=64, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2)).save_pretrained(
        tmp_path
    )
    for load, path in ((load_grammar, tmp_path / "none"), (load_similarity, tmp_path)):
        with pytest.raises(ModelError) as error:
            load(path)
        assert "\n" not in str(error.value) and str(path) in str(error.value)
    with pytest.raises(ModelError, match="no tiny scorer 'size'"):
        save_tiny_scorer("size", tmp_path / "size")


def test_scores_are_stored_and_an_incomplete_batch_is_computed_again(tmp_path):
    calls: list[list[str]] = []

    def score(texts):
        calls.append(list(texts))
        return [len(text) / 7 for text in texts]

    with ScoreStore(tmp_path) as store:
        scorer = StoredScorer(store, ("length", "m"), lambda: score, str)
        first = scorer(["a", "bb"])
    line = (tmp_path / "scores.jsonl").read_text()
    (tmp_path / "scores.jsonl").write_text(line + line[:20])  # a killed run
    with ScoreStore(tmp_path) as store:
        again = StoredScorer(store, ("length", "m"), lambda: score, str)
        assert again(["bb", "a"]) == first[::-1] and again.computed == 0
        assert again(["a", "ccc"]) == [1 / 7, 3 / 7]
        other = StoredScorer(store, ("length", "another model"), lambda: score, str)
        assert other(["a"]) == [1 / 7]
    assert calls == [["a", "bb"], ["a", "ccc"], ["a"]]
    with ScoreStore(tmp_path, (1, 2)) as store:  # a shard reads all files and writes its own
        assert len(store) == 4
        StoredScorer(store, ("length", "m"), lambda: score, str)(["dddd"])
    assert (tmp_path / "scores-0001-of-0002.jsonl").read_text().count("\n") == 1
