"""One side of benchmarks/preference_step.py, in a process of its own. Started by preference_step.py.

``scramble``: this project's trainer. ``trl``: TRL's DPOTrainer. ``rows``: a plain loop with a sequence a row, for
families that TRL cannot train. The process loads the model, says so, and takes one optimizer step for each line it
reads, reporting its seconds. A step is everything from reading the images to the updated weights.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain, cycle, islice
from pathlib import Path
from typing import Any

import torch
from shapes import make_pairs, noise_jpeg, read_captions
from transformers import TrainerCallback

PROMPT = "Describe the image in one sentence."
MARK = "@@"  # lines of the protocol; anything else on stdout is chatter
LORA = {"r": 16, "alpha": 32.0}
LEARNING_RATE, BETA = 1e-5, 0.1


def say(**values: Any) -> None:
    """One line to preference_step.py."""
    print(MARK + json.dumps(values), flush=True)


def hear() -> str:
    """One line from preference_step.py."""
    return sys.stdin.readline().strip()


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


class Clock:
    """Waits for a line before each step, and reports the seconds from that line to the end of the step, by the wall
    clock and of all this process's threads at work (steadier on a busy machine), and the peaks of memory (bytes)."""

    def __init__(self, steps: int) -> None:
        self.left = steps
        self.start = (0.0, 0.0)
        self.device_peak = 0  # of all times between two looks: trainers reset CUDA's counter when they log

    def begin(self) -> None:
        self._look()
        say(ready=True)
        self._wait()

    def end_step(self) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        wall, cpu = time.perf_counter() - self.start[0], time.process_time() - self.start[1]
        self._look()
        self.left -= 1
        say(seconds=wall, cpu_seconds=cpu, peak=peak_bytes(), device_peak=self.device_peak)
        if self.left:
            self._wait()

    def _look(self) -> None:
        if torch.cuda.is_available():
            self.device_peak = max(self.device_peak, torch.cuda.max_memory_allocated())

    def _wait(self) -> None:
        if not hear():
            raise SystemExit("nobody is listening")
        self.start = time.perf_counter(), time.process_time()


def rows(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Pairs of all images."""
    return list(make_pairs(read_captions(args.data, args.distinct_images, args.captions)))


def examples_and_images(args: argparse.Namespace) -> tuple[list[Any], dict[str, Any]]:
    """The same as this project's trainer takes them."""
    from scramble.records import ImageFile
    from scramble.training.data import Example

    files = {str(n): ImageFile(noise_jpeg(n, args.pixels)) for n in range(args.distinct_images)}
    pairs = [
        Example(str(n), (str(row["image"]),), PROMPT, row["chosen"], row["rejected"])
        for n, row in enumerate(rows(args))
    ]
    return pairs, files


def load(args: argparse.Namespace) -> Any:
    """The model on its device; from here on memory counts."""
    from scramble import models

    vlm = models.load(args.model, dtype=args.dtype, device=args.device)
    say(vlm=resident_bytes())
    reset_peak()
    return vlm


# ---------------------------------------------------------------------------------------------------------------- TRL


class TrlClock(TrainerCallback):
    """The clock as a callback of transformers' trainer."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self.clock.begin()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.clock.end_step()


def run_trl(args: argparse.Namespace, gradient_checkpointing: bool) -> None:
    """TRL's DPOTrainer at its best: no length limit, fused head (always on), LoRA on the language model alone."""
    from datasets import Dataset, Features, Image, Value
    from peft import LoraConfig
    from trl import DPOConfig, DPOTrainer

    vlm = load(args)
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
    config = DPOConfig(
        output_dir=args.work,
        per_device_train_batch_size=args.images * args.captions,
        max_steps=args.steps,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        logging_steps=1_000_000,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=args.device == "cpu",
        bf16=args.dtype == "bfloat16",
        gradient_checkpointing=gradient_checkpointing,
        max_length=None,
        beta=BETA,
        loss_type=["sigmoid"],
    )
    trainer = DPOTrainer(
        model=vlm.model,
        args=config,
        train_dataset=dataset,
        processing_class=vlm.processor,
        peft_config=LoraConfig(r=LORA["r"], lora_alpha=LORA["alpha"], target_modules=vlm.family.lora_targets),
        callbacks=[TrlClock(Clock(args.steps))],
    )
    trainer.train()


# --------------------------------------------------------------------------------------------------------------- rows


def run_rows(args: argparse.Namespace, gradient_checkpointing: bool) -> None:
    """A plain loop: each answer a row of its own with its own image, and all of it again for the reference."""
    from scramble.training.collator import Encoder
    from scramble.training.policy import add_lora, make_policy

    vlm = load(args)
    model = add_lora(vlm, **LORA)
    policy = make_policy(replace(vlm, model=model), gradient_checkpointing=gradient_checkpointing).train()
    pairs, files = examples_and_images(args)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=LEARNING_RATE)
    clock, batches = Clock(args.steps), cycle(pairs)
    autocast = torch.autocast(args.device, torch.bfloat16, enabled=args.dtype == "bfloat16")
    clock.begin()
    for _ in range(args.steps):
        encoder = Encoder(vlm, files, cache_bytes=0)
        tries = row_tries(encoder, policy.backbone, list(islice(batches, args.images * args.captions)))
        with autocast:
            with torch.no_grad(), model.disable_adapter():
                reference_Q, _, _ = policy(tries)
            sums_Q, _, _ = policy(tries)
        chosen, rejected = (sums_Q - reference_Q).unflatten(0, (-1, 2)).unbind(1)
        loss = -torch.nn.functional.logsigmoid(BETA * (chosen - rejected)).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        float(loss)
        clock.end_step()


def row_tries(encoder: Any, backbone: Any, pairs: list[Any]) -> Any:
    """A batch in which nothing is shared: every answer has its own prompt and its own image."""
    from scramble.trie import TrieItem, block_tokens, pack

    items = []
    for pair in pairs:
        prompt = encoder.prompt(pair)
        for answer in (pair.chosen, pair.rejected):
            completion = encoder.completion(answer)
            scored = [False] * len(prompt.input_ids) + [True] * len(completion)
            items.append(TrieItem([prompt.input_ids + completion], [scored], dict(prompt.images), pair.example_id))
    return pack(items, feature_tokens=backbone.feature_tokens, block_tokens=block_tokens(backbone))


# --------------------------------------------------------------------------------------------------------------- ours


def run_scramble(args: argparse.Namespace) -> None:
    """This project's trainer; the time to fill its caches is reported."""
    from scramble.training import train

    vlm = load(args)
    if args.device == "cuda":
        vlm.backbone.decoder.set_attn_implementation(args.attention)
    data = examples_and_images(args)
    clock = Clock(args.steps)
    calls: Iterator[Any] = chain([clock.begin], cycle([clock.end_step]))

    def tick(_: Any) -> dict[str, float]:  # called before the first step and after every one
        next(calls)()
        return {}

    work = Path(args.work)
    summary = train(
        vlm,
        data,
        work / "run",
        objective="dpo",
        beta=BETA,
        lora=LORA,
        steps=args.steps,
        batch_size=args.images * args.captions,
        learning_rate=LEARNING_RATE,
        schedule="constant",
        warmup=0,
        gradient_checkpointing=args.gradient_checkpointing,
        autocast=args.dtype == "bfloat16",
        device=args.device,
        reference="step" if args.reference_in_step else "cache",
        reference_batch_tokens=args.batch_tokens,
        image_features=work / "features" if args.feature_cache else None,
        image_memory=0,  # every step decodes its images, as in a run over a large data set
        evaluate=tick,
        evaluate_every=1,
        log_every=1_000_000,
        save_every=1_000_000,
    )
    size = sum(path.stat().st_size for path in (work / "features").rglob("features-*.bin"))
    say(
        pairs=summary["examples"],
        reference_seconds=summary["reference_seconds"],
        features_seconds=summary["features_seconds"],
        features_bytes=size,
    )
    if hear() == "floor":
        say(**floor(args, vlm, data))


def floor(args: argparse.Namespace, vlm: Any, data: tuple[list[Any], dict[str, Any]]) -> dict[str, Any]:
    """What a step must do at least: operations, and their seconds on a CPU (each product timed alone) or the rate of a
    large bf16 product on a GPU; and the tokens of a step, each sequence counted whole."""
    from floor import count_products, floor_seconds, matrix_rate

    from scramble.training.collator import Encoder, TrieCollator
    from scramble.training.flops import operations

    encoder = Encoder(vlm, data[1], cache_bytes=0)
    some = data[0][: args.images * args.captions]
    items, _ = TrieCollator(encoder, with_rejected=True).items(some)
    parts = count_products(vlm.backbone, items)
    first = items[0].sequences[0]
    found: dict[str, Any] = {
        "image_tokens": sum(token in vlm.backbone.feature_tokens for token in first),
        "sequence_tokens_a_step": sum(len(ids) for item in items for ids in item.sequences),
        "flop": operations(parts.values()),
        "flop_without_tower": operations(products for name, products in parts.items() if name != "tower"),
    }
    if args.device == "cuda":
        return found | {"flop_a_second": matrix_rate()}
    return found | {"floor_seconds": floor_seconds(parts)}


def main() -> None:
    """Parse the command line and run a side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("side", choices=("scramble", "trl", "trl-checkpointing", "rows", "rows-checkpointing"))
    parser.add_argument("--model", required=True)
    parser.add_argument("--data")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--captions", type=int, default=1)
    parser.add_argument("--distinct-images", type=int, default=64)
    parser.add_argument("--pixels", type=int, default=640)
    parser.add_argument("--batch-tokens", type=int, default=1024)
    parser.add_argument("--gradient-checkpointing", action="store_true")
    parser.add_argument("--feature-cache", action="store_true")
    parser.add_argument("--reference-in-step", action="store_true")
    parser.add_argument("--attention", choices=("flex_attention", "sdpa"), default="flex_attention", help="on a GPU")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        args.work = work
        if args.side == "scramble":
            run_scramble(args)
        else:
            run = run_trl if args.side.startswith("trl") else run_rows
            run(args, gradient_checkpointing=args.side.endswith("checkpointing"))


if __name__ == "__main__":
    main()
