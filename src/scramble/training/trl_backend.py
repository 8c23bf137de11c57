"""Trains with TRL's ``DPOTrainer`` and ``SFTTrainer``, on the same pairs and in the same order as with token tries.

TRL provides loss, reference and metrics. :class:`RunTrainer` overrides methods that TRL's trainers inherit from
transformers' ``Trainer``. It orders the batches and writes log rows and checkpoints in the same way as with tries. Each
answer is one row with its own copy of the prompt and of the images. Token ids and pixels come from the family's encoder
and are the same as in a trie.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from types import SimpleNamespace
from typing import Any

import torch
from datasets import Dataset, Features, Value
from datasets import List as ListOf
from torch import Tensor
from transformers import TrainingArguments
from transformers.trainer_callback import PrinterCallback, TrainerCallback
from trl import DPOTrainer, SFTConfig, SFTTrainer

from scramble.models import VLM
from scramble.models.generation import padding_id
from scramble.models.rows import collate, extend
from scramble.records import Turn
from scramble.training.config import PreferenceConfig
from scramble.training.data import Example
from scramble.training.dataset import PairDataset
from scramble.training.encoder import Encoder
from scramble.training.losses import needs_pairs
from scramble.training.run_trainer import RunTrainer
from scramble.training.trainable import lora_config, select_trained_weights

IGNORED = -100  # label of a token without loss


def trl_trainer(
    vlm: VLM,
    args: PreferenceConfig,
    train_set: PairDataset,
    eval_set: PairDataset | None,
    settings: Mapping[str, Any],
    callbacks: list[TrainerCallback],
) -> RunTrainer:
    """Return TRL's trainer for the objective: ``SFTTrainer`` for ``sft`` alone, and ``DPOTrainer`` for all other
    objectives.

    Args:
        vlm: the model to start from. TRL adds the adapter of ``args.peft``, and computes the reference with the
            adapter disabled, or before the first step.
        args: settings; ``max_steps`` is positive.
        train_set, eval_set: examples; ``eval_set`` is None without held-out pairs.
        settings: settings that a checkpoint must match so that the run can resume from it.
        callbacks: transformers' callbacks.

    Raises:
        ModelError: a key of ``args.peft`` is not a field of ``LoraConfig``, or the adapter's targets do not match the
            model.
    """
    if args.peft is None:
        select_trained_weights(vlm, args)
    cls = DPOBackend if needs_pairs(args.losses) else SFTBackend
    return cls(vlm, args, train_set, eval_set, settings, callbacks)


def example_table(examples: Sequence[Example], split: str) -> Dataset:
    """Return the examples as a data set for TRL's trainers.

    The data set contains the ids of the images. The collator uses these ids to read the images from the split's table.
    """
    text = Value("string")
    names = ("example_id", "prompt", "chosen", "rejected", "history")
    columns = {name: [getattr(example, name) for example in examples] for name in names[:-1]}
    columns["history"] = [json.dumps([astuple(turn) for turn in example.history]) for example in examples]
    columns |= {"image_ids": [list(example.image_ids) for example in examples], "split": [split] * len(examples)}
    features = Features({**dict.fromkeys((*names, "split"), text), "image_ids": ListOf(text)})
    return Dataset.from_dict(columns, features=features)


def _example(row: Mapping[str, Any]) -> Example:
    history = tuple(Turn(*turn) for turn in json.loads(row["history"]))
    return Example(row["example_id"], tuple(row["image_ids"]), row["prompt"], row["chosen"], row["rejected"], history)


# ------------------------------------------------------------------------------------------------------------- batches


@dataclass(frozen=True)
class RowCollator:
    """Collates examples into the batches of TRL's trainers: all chosen answers, then all rejected answers.

    The keys are those of TRL's ``DataCollatorForPreference`` (with ``completion_mask``) or
    ``DataCollatorForLanguageModeling`` (with ``labels``), plus the family's image inputs.

    Attributes:
        encoders: the encoder of each split, because each split has its own images.
        model: ``config``, ``dtype`` and ``device`` of the model, but not its weights: the collator must be picklable.
        with_rejected: whether to include rejected answers.
        pad_to_multiple_of: pad the rows to a multiple of this length.
    """

    encoders: Mapping[str, Encoder]
    model: Any
    with_rejected: bool
    pad_to_multiple_of: int | None = None

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Collate N rows of :func:`example_table` into tensors (2N, tokens), or (N, tokens) without rejected
        answers.
        """
        examples = [_example(row) for row in rows]
        encoder = self.encoders[rows[0]["split"]]
        prompts = [encoder.prompt(example) for example in examples]
        scored = [encoder.scored(example, prompt) for example, prompt in zip(examples, prompts, strict=True)]
        answers = [example.chosen for example in examples]
        if self.with_rejected:
            answers += [example.rejected or "" for example in examples]
            prompts += prompts
            scored += scored
        completions = [encoder.completion(answer) for answer in answers]
        parts = list(zip(prompts, completions, strict=True))
        inputs = [encoder.family.generation_inputs(extend(encoder.family, *part), self.model) for part in parts]
        batch = collate(inputs, padding_id(encoder.processor.tokenizer), self.pad_to_multiple_of or 1)
        completion_mask = torch.zeros_like(batch["input_ids"])
        for mask, in_prompt, (_, completion) in zip(completion_mask, scored, parts, strict=True):
            marks = in_prompt + [True] * len(completion)
            mask[: len(marks)] = torch.tensor(marks)
        if self.with_rejected:
            batch["completion_mask"] = completion_mask
        else:
            batch["labels"] = batch["input_ids"].masked_fill(completion_mask == 0, IGNORED)
        for name in ("ref_chosen_logps", "ref_rejected_logps"):
            if name in rows[0]:
                batch[name] = torch.tensor([row[name] for row in rows])
        return batch


def described(vlm: VLM) -> SimpleNamespace:
    """Return the attributes of a model that :meth:`Family.generation_inputs` reads.

    The device is the CPU, because batches are built on the CPU.
    """
    model = vlm.backbone.model
    return SimpleNamespace(config=model.config, dtype=vlm.backbone.head.weight.dtype, device=torch.device("cpu"))


# ------------------------------------------------------------------------------------------------------------ trainers


class TRLBackend(RunTrainer):
    """Base class of trainers that combine TRL's loss with this project's data, checkpoints and logs; see
    :func:`trl_trainer`.

    A subclass derives from this class, from TRL's trainer and from :class:`RunTrainer`, in this order, so that TRL's
    methods call the methods of ``RunTrainer`` instead of the methods of transformers' ``Trainer``.

    Attributes:
        with_rejected: whether TRL's trainer compares chosen and rejected answers.
    """

    with_rejected: bool

    def __init__(
        self,
        vlm: VLM,
        args: PreferenceConfig,
        train_set: PairDataset,
        eval_set: PairDataset | None,
        settings: Mapping[str, Any],
        callbacks: list[TrainerCallback],
    ) -> None:
        self.init_run(train_set, args, settings)
        # Pinned memory is useful only for copies to a GPU.
        args.dataloader_pin_memory = args.dataloader_pin_memory and args.device.type == "cuda"
        encoders = {"train": train_set.encoder} | ({} if eval_set is None else {"eval": eval_set.encoder})
        multiple = None if args.pad_to_multiple_of is None else int(args.pad_to_multiple_of)
        vision = args.train_vision == "lora"
        options: dict[str, Any] = {
            "model": vlm.model,
            "args": self.trl_args(args),
            "data_collator": RowCollator(encoders, described(vlm), self.with_rejected, multiple),
            "train_dataset": example_table(train_set, "train"),
            # Empty and not None, because transformers refuses to evaluate without a data set, but callbacks score
            # benchmarks.
            "eval_dataset": example_table(() if eval_set is None else eval_set, "eval"),
            "processing_class": vlm.processor,
            "callbacks": callbacks,
            "peft_config": None if args.peft is None else lora_config(vlm, args.peft, vision=vision),
        }
        super().__init__(**options)
        self.remove_callback(PrinterCallback)
        model: Any = self.model
        model.vlm = replace(vlm, model=model)  # TRL has added the adapter

    def trl_args(self, args: PreferenceConfig) -> TrainingArguments:
        """Return the settings as an instance of the class that TRL's trainer expects."""
        return args

    def prepare_batch(self, batch: dict[str, Tensor]) -> dict[str, Any]:
        """Return the batch unchanged, because its keys are already the keys that TRL expects."""
        return batch

    def evaluate_pairs(self) -> dict[str, float]:
        """Return the loss of the held-out pairs; ``log`` adds TRL's metrics to the log row."""
        output = self.evaluation_loop(self.get_eval_dataloader(), "Evaluation", prediction_loss_only=True)
        return dict(output.metrics or {})

    def log_state(self) -> dict[str, Any]:
        """Return TRL's metrics of the unfinished log row."""
        trainer: Any = self
        metrics = {name: list(values) for name, values in trainer._metrics["train"].items()}
        return super().log_state() | {"metrics": metrics, "num_tokens": trainer._total_train_tokens}

    def load_log_state(self, state: Mapping[str, Any]) -> None:
        """Restore the state that :meth:`log_state` returned."""
        super().load_log_state(state)
        trainer: Any = self
        trainer._metrics["train"].update(state["metrics"])
        trainer._total_train_tokens = state["num_tokens"]

    def _prepare_dataset(self, dataset: Dataset, *args: Any) -> Dataset:
        """Return the data set unchanged, because the collator encodes the examples."""
        return dataset

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing, because scripts/share.py writes the card of a shared adapter."""


class DPOBackend(TRLBackend, DPOTrainer, RunTrainer):
    """TRL's ``DPOTrainer``."""

    with_rejected = True

    def __init__(self, vlm: VLM, *args: Any) -> None:
        super().__init__(vlm, *args)
        if vlm.has_adapter:  # TRL's copy of the adapter is not needed, because the reference is precomputed
            model: Any = self.model
            model.delete_adapter("ref")

    def _precompute_ref_logps(self, dataset: Dataset, *args: Any) -> Dataset:
        if not len(dataset):
            return dataset
        start = time.perf_counter()
        dataset = super()._precompute_ref_logps(dataset, *args)
        self.cache_seconds["reference"] += time.perf_counter() - start
        return dataset


class SFTBackend(TRLBackend, SFTTrainer, RunTrainer):
    """TRL's ``SFTTrainer``."""

    with_rejected = False

    def trl_args(self, args: PreferenceConfig) -> SFTConfig:
        """Return an ``SFTConfig`` with the run's settings."""
        names = {field.name for field in dataclasses.fields(TrainingArguments) if field.init}
        names |= {"activation_offloading", "pad_to_multiple_of", "router_aux_loss_coef"}
        config = SFTConfig(**{name: getattr(args, name) for name in names}, max_length=None)
        config._n_gpu = min(config.n_gpu, 1)  # as in PreferenceConfig
        return config
