"""One side of benchmarks/preference_step.py, in a process of its own: this project's trainer, or TRL's DPOTrainer.

The process loads the model, says so, and then takes one optimizer step for each line it reads, reporting its seconds.
A step is everything from reading the images to the updated weights. Started by preference_step.py.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from shapes import make_pairs, noise_jpeg, read_captions
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

PROMPT = "Describe the image in one sentence."
MARK = "@@"  # lines of the protocol; anything else on stdout is chatter


def say(**values: Any) -> None:
    print(MARK + json.dumps(values), flush=True)


def resident_bytes() -> int:
    """Resident memory of this process now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def peak_bytes() -> int:
    """Largest resident memory since :func:`reset_peak`."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))


def reset_peak() -> None:
    """Start the peaks of host and device anew."""
    Path("/proc/self/clear_refs").write_text("5")
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def memory() -> dict[str, int]:
    """Peaks since the model was loaded, in bytes."""
    device = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"peak": peak_bytes(), "peak_with_loading": highest, "device_peak": device}


def clocks() -> tuple[float, float]:
    """Seconds by the wall clock, and of all this process's threads at work (steadier on a busy machine)."""
    return time.perf_counter(), time.process_time()


class StepClock(TrainerCallback):
    """Waits for a line before each step, and reports the seconds from that line to the end of the step."""

    start = (0.0, 0.0)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        say(ready=True)
        self._wait(control)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = clocks()
        say(seconds=now[0] - self.start[0], cpu_seconds=now[1] - self.start[1])
        self._wait(control)

    def _wait(self, control: TrainerControl) -> None:
        line = sys.stdin.readline().strip()
        if line != "step":
            say(**memory())
            os._exit(0)  # the trainer's own ending would only cost time
        self.start = clocks()


def training_arguments(cls: type, args: argparse.Namespace, **more: Any) -> Any:
    """The same optimizer and precision for both sides."""
    return cls(
        output_dir=args.work,
        per_device_train_batch_size=args.images * args.captions,
        max_steps=1_000_000,
        learning_rate=1e-5,
        lr_scheduler_type="constant",
        logging_steps=1_000_000,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=args.device == "cpu",
        bf16=args.device == "cuda",
        **more,
    )


def rows(args: argparse.Namespace) -> list[dict[str, Any]]:
    captions = read_captions(args.data, args.distinct_images, args.captions)
    return list(make_pairs(captions))


def load(args: argparse.Namespace) -> Any:
    from scramble import models

    dtype = "bfloat16" if args.device == "cuda" else "float32"
    loaded = models.load(args.model, dtype=dtype, device=args.device)
    say(loaded=resident_bytes())
    reset_peak()
    return loaded


# ---------------------------------------------------------------------------------------------------------------- TRL


def run_trl(args: argparse.Namespace, gradient_checkpointing: bool) -> None:
    """TRL's DPOTrainer at its best: no length limit, fused head (always on), LoRA on the language model alone."""
    from datasets import Dataset, Features, Image, Value
    from peft import LoraConfig
    from trl import DPOConfig, DPOTrainer

    loaded = load(args)
    pairs = rows(args)
    images = [noise_jpeg(n, args.pixels) for n in range(args.distinct_images)]
    turn = [{"role": Value("string"), "content": Value("string")}]
    features = Features({"prompt": turn, "chosen": turn, "rejected": turn, "image": Image()})
    dataset = Dataset.from_dict(
        {
            "prompt": [[{"role": "user", "content": PROMPT}] for _ in pairs],
            "chosen": [[{"role": "assistant", "content": pair["chosen"]}] for pair in pairs],
            "rejected": [[{"role": "assistant", "content": pair["rejected"]}] for pair in pairs],
            "image": [{"bytes": images[pair["image"]], "path": None} for pair in pairs],
        },
        features=features,
    )
    config = training_arguments(
        DPOConfig, args, gradient_checkpointing=gradient_checkpointing, max_length=None, beta=0.1, loss_type=["sigmoid"]
    )
    trainer = DPOTrainer(
        model=loaded.model,
        args=config,
        train_dataset=dataset,
        processing_class=loaded.processor,
        peft_config=LoraConfig(r=16, lora_alpha=32, target_modules=loaded.family.lora_targets),
        callbacks=[StepClock()],
    )
    trainer.train()


# --------------------------------------------------------------------------------------------------------------- ours


def run_scramble(args: argparse.Namespace) -> None:
    """This project's trainer with cached reference log-probabilities; the time to fill the cache is reported."""
    from scramble.models import Loaded
    from scramble.preference.batches import Encoder, collate
    from scramble.preference.examples import Example, group_by_image
    from scramble.preference.order import MicroBatches
    from scramble.preference.policy import Policy, add_lora, make_policy
    from scramble.preference.reference import reference_logps
    from scramble.preference.shift import RewardShift
    from scramble.preference.trainer import PreferenceTrainer
    from scramble.records import ImageFile
    from scramble.trie import CachedBackbone, features_bytes

    loaded = load(args)
    if args.device == "cuda":
        loaded.backbone.decoder.set_attn_implementation("flex_attention")
    files = {str(n): ImageFile(noise_jpeg(n, args.pixels)) for n in range(args.distinct_images)}
    examples = [
        Example(str(n), (str(row["image"]),), PROMPT, row["chosen"], row["rejected"])
        for n, row in enumerate(rows(args))
    ]
    model = add_lora(loaded, r=16, alpha=32.0)
    loaded = Loaded(model, loaded.processor, loaded.family, loaded.path)
    policy = make_policy(loaded, gradient_checkpointing=args.gradient_checkpointing)
    encoder = Encoder(loaded, files, cache_bytes=0)  # every step decodes its images, as in a run over a large data set
    if args.feature_cache:
        first = encoder.prompt(examples[0])
        tokens = sum(token in policy.backbone.feature_tokens for token in first.input_ids) * len(files)
        size = features_bytes(tokens, policy.backbone.head.weight.shape[1], policy.backbone.head.weight.dtype)
        say(feature_cache_bytes=size)
        policy = Policy(model, CachedBackbone(policy.backbone, args.work))
        start = time.perf_counter()
        for group in group_by_image(examples):
            with torch.no_grad():
                policy.backbone.encode_images([encoder.prompt(examples[group[0]]).images])
        say(feature_fill_seconds=time.perf_counter() - start)

    start = time.perf_counter()
    some = [examples[n] for group in group_by_image(examples)[: args.fill_images] for n in group]
    tokens = 1024 if args.device == "cpu" else 8192
    with torch.no_grad(), model.disable_adapter():
        reference_logps(
            Path(args.work) / "reference", {"run": "benchmark"}, some, encoder, policy.backbone, batch_tokens=tokens
        )
    say(fill_seconds_per_pair=(time.perf_counter() - start) / len(some))
    reference = {example.example_id: (-50.0, -50.0) for example in examples}  # any two numbers cost the same

    def make_batch(numbers: Any) -> Any:
        chosen = [examples[n] for n in numbers]
        return collate(encoder, policy.backbone, chosen, with_rejected=True, reference=reference)

    groups = group_by_image(examples)
    size = args.images * args.captions
    trainer = PreferenceTrainer(
        policy,
        training_arguments(TrainingArguments, args, gradient_checkpointing=False),
        make_batch=make_batch,
        order=MicroBatches(groups, size, 1_000_000),
        weights={"sigmoid": 1.0},
        options={"beta": 0.1},
        shift=RewardShift("none"),
        in_step_reference=args.reference_in_step,
        save_weights=lambda folder: None,
        load_weights=lambda folder: None,
        settings={},
        keep=1,
        batches_per_epoch=len(examples) / size,
        callbacks=[StepClock()],
    )
    trainer.train()


def main() -> None:
    """Parse the command line and run a side."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("side", choices=("scramble", "trl", "trl-checkpointing"))
    parser.add_argument("--model", required=True)
    parser.add_argument("--data")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--captions", type=int, default=1)
    parser.add_argument("--distinct-images", type=int, default=64)
    parser.add_argument("--pixels", type=int, default=640)
    parser.add_argument("--fill-images", type=int, default=16)
    parser.add_argument("--gradient-checkpointing", action="store_true")
    parser.add_argument("--feature-cache", action="store_true")
    parser.add_argument("--reference-in-step", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        args.work = work
        if args.side == "scramble":
            run_scramble(args)
        else:
            run_trl(args, gradient_checkpointing=args.side == "trl-checkpointing")


if __name__ == "__main__":
    main()
