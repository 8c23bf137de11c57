"""Run one implementation ("side") for benchmarks/preference_step.py, which starts this script in a separate process.

``scramble`` is this project's trainer, ``trl`` is TRL's DPOTrainer, ``trl-answers`` is TRL's DPOTrainer with an output
head that runs only at answer positions, and ``rows`` is a plain loop with one sequence per row, which can also
train the families that TRL cannot train. The process reports when the model is loaded. For each line that it reads, it
takes one optimizer step and reports the seconds. A step includes everything from reading the images to the updated
weights.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
from shapes import noise_jpeg, step_pairs
from step_clock import BETA, LEARNING_RATE, LORA, PROMPT, Clock, StepClock, receive, reset_peak, resident_bytes, send

PEERS = ("trl", "trl-answers", "rows")
SIDES = ("scramble", *PEERS, *(f"{peer}-checkpointing" for peer in PEERS))


def rows(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the pairs of all images."""
    return step_pairs(args.data, args.distinct_images, args.captions, args.pairs)


def examples_and_images(args: argparse.Namespace) -> tuple[list[Any], dict[str, Any]]:
    """Return the pairs and images in the data types of this project's trainer."""
    from scramble.records import ImageFile
    from scramble.training.data import Example

    files = {str(n): ImageFile(noise_jpeg(n, args.pixels, args.height)) for n in range(args.distinct_images)}
    pairs = [
        Example(str(n), (str(row["image"]),), PROMPT, row["chosen"], row["rejected"])
        for n, row in enumerate(rows(args))
    ]
    return pairs, files


def load(args: argparse.Namespace) -> Any:
    """Load the model onto its device and start the measurement of memory."""
    from scramble.models import load_vlm

    vlm = load_vlm(args.model, dtype=args.dtype, device=args.device)
    send(loaded=resident_bytes())
    reset_peak()
    return vlm


# ---------------------------------------------------------------------------------------------------------------- TRL


def run_trl(args: argparse.Namespace, gradient_checkpointing: bool) -> None:
    """Run TRL's DPOTrainer with its fastest settings: no length limit, fused head (always on), LoRA on the language
    model."""
    from datasets import Dataset, Features, Image, Value
    from peft import LoraConfig
    from trl import DPOConfig, DPOTrainer
    from trl_answers import AnswersDPOTrainer

    vlm = load(args)
    pairs = rows(args)
    images = [noise_jpeg(n, args.pixels, args.height) for n in range(args.distinct_images)]
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
        per_device_train_batch_size=args.pairs,
        max_steps=args.steps,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        logging_steps=1,
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
    trainer_class = AnswersDPOTrainer if args.side.startswith("trl-answers") else DPOTrainer
    trainer = trainer_class(
        model=vlm.model,
        args=config,
        train_dataset=dataset,
        processing_class=vlm.processor,
        peft_config=LoraConfig(**LORA, target_modules=vlm.family.lora_targets),
        callbacks=[StepClock(args.steps)],
    )
    trainer.train()


# --------------------------------------------------------------------------------------------------------------- rows


def run_rows(args: argparse.Namespace, gradient_checkpointing: bool) -> None:
    """Run a plain loop in which each answer has a separate row with its own image, and the reference repeats the whole
    computation.
    """
    from scramble.training.encoder import Encoder
    from scramble.training.policy import Policy
    from scramble.training.trainable import add_lora

    vlm = load(args)
    model = add_lora(vlm, LORA)
    policy = Policy(replace(vlm, model=model), vlm.backbone).train()
    if gradient_checkpointing:
        policy.activation_checkpointing_enable()
    pairs, files = examples_and_images(args)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=LEARNING_RATE)
    clock, batches, losses = Clock(args.steps), cycle(pairs), []
    autocast = torch.autocast(args.device, torch.bfloat16, enabled=args.dtype == "bfloat16")
    clock.begin(model)
    for _ in range(args.steps):
        encoder = Encoder(vlm, files, cache_bytes=0)
        tries = row_tries(encoder, policy.backbone, list(islice(batches, args.pairs)))
        with autocast:
            with torch.no_grad(), model.disable_adapter():
                reference_Q = policy(tries).sums_Q
            sums_Q = policy(tries).sums_Q
        chosen, rejected = (sums_Q - reference_Q).unflatten(0, (-1, 2)).unbind(1)
        loss = -torch.nn.functional.logsigmoid(BETA * (chosen - rejected)).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss))
        clock.end_step()
    send(losses=losses)


def row_tries(encoder: Any, backbone: Any, pairs: list[Any]) -> Any:
    """Make a batch in which nothing is shared, because every answer has its own prompt and its own image."""
    from scramble.trie import TrieItem, pack

    items = []
    for pair in pairs:
        prompt = encoder.prompt(pair)
        for answer in (pair.chosen, pair.rejected):
            completion = encoder.completion(answer)
            scored = [False] * len(prompt.input_ids) + [True] * len(completion)
            items.append(TrieItem([prompt.input_ids + completion], [scored], dict(prompt.images), pair.example_id))
    return pack(items, backbone.token_rules)


# --------------------------------------------------------------------------------------------------------------- ours


def run_scramble(args: argparse.Namespace) -> None:
    """Run this project's trainer, and report how long it takes to build the caches."""
    from scramble.training import PreferenceConfig, train

    vlm = load(args)
    if args.device == "cuda":
        vlm.backbone.decoder.set_attn_implementation(args.attention)
    data = examples_and_images(args)
    work = Path(args.work)
    config = PreferenceConfig(
        max_steps=args.steps,
        global_batch_size=args.pairs,
        per_device_train_batch_size=args.pairs,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        warmup_ratio=0.0,
        beta=BETA,
        peft=LORA,
        use_cpu=args.device == "cpu",
        bf16=args.dtype == "bfloat16",
        gradient_checkpointing=args.gradient_checkpointing,
        precompute_ref_log_probs=not args.reference_in_step,
        reference_batch_tokens=args.batch_tokens,
        feature_cache_dir=str(work / "features") if args.feature_cache else None,
        image_cache_mb=0,  # every step decodes its images, as in a run over a large data set
        eval_strategy="no",
        eval_on_start=False,
        save_strategy="no",
        logging_steps=1,
    )
    summary = train(vlm, data, work / "run", config, callbacks=[StepClock(args.steps)])
    size = sum(path.stat().st_size for path in (work / "features").rglob("features-*.bin"))
    send(
        pairs=summary["examples"],
        reference_seconds=summary["reference_seconds"],
        features_seconds=summary["features_seconds"],
        features_bytes=size,
    )
    if receive() == "floor":
        send(**floor(args, vlm, data))


def floor(args: argparse.Namespace, vlm: Any, data: tuple[list[Any], dict[str, Any]]) -> dict[str, Any]:
    """Count the floating-point operations of a step, the image tokens per sequence, and the tokens of all sequences.

    On a CPU, the result also contains the seconds of the matrix products, each of which is timed alone. On a GPU, it
    contains the rate of a large bfloat16 product.
    """
    from floor import count_products, floor_seconds, matrix_rate

    from scramble.training.collator import TrieCollator
    from scramble.training.encoder import Encoder
    from scramble.training.flops import operations

    encoder = Encoder(vlm, data[1], cache_bytes=0)
    step = data[0][: args.pairs]
    items, _ = TrieCollator(encoder, with_rejected=True).items(step)
    parts = count_products(vlm.backbone, items)
    first = items[0].sequences[0]
    work: dict[str, Any] = {
        "image_tokens": sum(token in vlm.backbone.token_rules.features for token in first),
        "sequence_tokens_per_step": sum(len(ids) for item in items for ids in item.sequences),
        "flop": operations(parts.values()),
        "flop_without_tower": operations(products for name, products in parts.items() if name != "tower"),
    }
    if args.device == "cuda":
        return work | {"flop_per_second": matrix_rate()}
    return work | {"floor_seconds": floor_seconds(parts)}


def main() -> None:
    """Parse the command line and run a side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("side", choices=SIDES)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--captions", type=int, default=1)
    parser.add_argument("--pairs", type=int, required=True, help="pairs per step")
    parser.add_argument("--distinct-images", type=int, default=64)
    parser.add_argument("--pixels", type=int, default=640)
    parser.add_argument("--height", type=int, help="height of the images; three quarters of --pixels by default")
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
