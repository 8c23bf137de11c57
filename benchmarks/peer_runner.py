r"""Run the DPO trainer of ms-swift or LLaMA-Factory as a side of benchmarks/preference_step.py.

preference_step.py starts this script with the Python of the trainer's environment. Neither ms-swift 4.6.0 nor
LLaMA-Factory 0.9.5 can be installed together with the dependencies of this repository, so each needs a virtual
environment outside the repository (Python 3.11, CPU build of torch):

    python -m venv swift
    swift/bin/pip install torch==2.13.0+cpu ms-swift==4.6.0 av
    swift/bin/pip install --no-deps torchvision==0.28.0 timm==1.0.22 qwen-vl-utils==0.0.14
    python -m venv factory
    factory/bin/pip install torch==2.13.0+cpu transformers==5.6.0 trl==0.24.0 peft==0.18.1 accelerate==1.11.0 \
        datasets==4.0.0 'av<=16' einops fastapi fire matplotlib modelscope omegaconf pandas protobuf pydantic \
        sentencepiece scipy sse-starlette tiktoken 'tyro<0.9' uvicorn
    factory/bin/pip install --no-deps llamafactory==0.9.5 torchvision==0.28.0 torchdata==0.11.0

This script imports nothing from the package scramble. It reads a model folder in the hub's format and a data folder
with ``pairs.jsonl`` ("image", "prompt", "chosen", "rejected") and the image files, and prints seconds per step and
losses as JSON lines that start with "@@". The script takes one step per line of input. To run the script alone:

    yes step | swift/bin/python benchmarks/peer_runner.py swift --model MODEL --data DATA --family internvl --steps 2

The settings are the same as for the other sides: LoRA on all linear layers of the decoder, a frozen tower, a reference
computed with the adapter disabled, float32, and no gradient checkpointing. If a trainer can run the output head only at
answer positions, it does so.
"""

from __future__ import annotations

import argparse
import importlib.machinery
import json
import os
import sys
import tempfile
import types
from pathlib import Path
from typing import Any

import torch

# Chat template of each project for each family. Both projects render the same text, because the default system message
# and Qwen3.5's empty thinking block are disabled.
TEMPLATES = {
    "swift": {"internvl": "internvl_hf", "qwen2_5_vl": "qwen2_5_vl", "qwen3_5": "qwen3_5"},
    "llamafactory": {"internvl": "intern_vl", "qwen2_5_vl": "qwen2_vl", "qwen3_5": "qwen3_5_nothink"},
}


def stub_compiled_parts() -> None:
    """Replace the compiled parts of torchvision and torchaudio with stubs, so that their Python code can be imported.

    The builds of both libraries on PyPI do not match the CPU build of torch. The image transforms of torchvision are
    Python code that uses torch. Without the stubs, the import of torchvision would fail only at the registration of
    shape functions for two operators. LLaMA-Factory uses torchaudio only for audio data.
    """
    library = torch.library.Library("torchvision", "DEF")
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    audio = types.ModuleType("torchaudio")
    audio.__spec__ = importlib.machinery.ModuleSpec("torchaudio", None)
    audio.library = library  # type: ignore[attr-defined]  # the operators exist as long as this object
    sys.modules["torchaudio"] = audio


def read_pairs(data: Path) -> list[dict[str, str]]:
    """Return the pairs of a data folder, with absolute image paths."""
    with (data / "pairs.jsonl").open(encoding="utf-8") as lines:
        pairs = [json.loads(line) for line in lines]
    return [pair | {"image": str((data / pair["image"]).resolve())} for pair in pairs]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows as JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def clock(steps: int) -> Any:
    """Return a trainer callback that times the steps and starts to measure memory when training starts."""
    from step_clock import StepClock, reset_peak, resident_bytes, send

    class PeerClock(StepClock):
        def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
            send(loaded=resident_bytes())
            reset_peak()
            super().on_train_begin(*args, **kwargs)

    return PeerClock(steps)


def run_swift(args: argparse.Namespace, work: Path) -> None:
    """Run ms-swift's DPO trainer."""
    from step_clock import BETA, LEARNING_RATE, LORA
    from swift.pipelines.train.rlhf import SwiftRLHF
    from swift.template import TEMPLATE_MAPPING

    class TimedRLHF(SwiftRLHF):
        def train(self, trainer: Any) -> Any:
            trainer.add_callback(clock(args.steps))
            return super().train(trainer)

    rows = [
        {
            "messages": [
                {"role": "user", "content": "<image>" + pair["prompt"]},
                {"role": "assistant", "content": pair["chosen"]},
            ],
            "rejected_response": pair["rejected"],
            "images": [pair["image"]],
        }
        for pair in read_pairs(args.data)
    ]
    write_rows(work / "pairs.jsonl", rows)
    options: dict[str, Any] = {
        "rlhf_type": "dpo",
        "model": args.model,
        "model_type": args.family,
        "template": TEMPLATES["swift"][args.family],
        "system": "",
        "add_non_thinking_prefix": "false",
        "dataset": work / "pairs.jsonl",
        "dataset_shuffle": "false",
        "train_dataloader_shuffle": "false",
        "split_dataset_ratio": 0,
        "load_from_cache_file": "false",
        "dataset_num_proc": 1,
        "dataloader_num_workers": 0,
        "torch_dtype": "float32",
        "attn_impl": "sdpa",
        "tuner_type": "lora",
        "target_modules": "all-linear",
        "freeze_vit": "true",
        "freeze_aligner": "true",
        "lora_rank": LORA["r"],
        "lora_alpha": LORA["lora_alpha"],
        "lora_dropout": 0,
        "use_logits_to_keep": "true",
        "beta": BETA,
        "learning_rate": LEARNING_RATE,
        "lr_scheduler_type": "constant",
        "warmup_ratio": 0,
        "weight_decay": 0,
        "adam_beta2": 0.999,
        "gradient_checkpointing": "false",
        "gradient_accumulation_steps": 1,
        "per_device_train_batch_size": args.batch_size,
        "max_steps": args.steps,
        "max_length": 8192,
        "logging_steps": 1,
        "eval_strategy": "no",
        "save_strategy": "no",
        "report_to": "none",
        "output_dir": work / "run",
        "use_hf": "true",
        "check_model": "false",
    }
    processor = json.loads((args.model / "processor_config.json").read_text())["image_processor"]
    if "merge_size" in processor:
        # ms-swift's templates for Qwen contain the token ids of the released models, and qwen_vl_utils resizes images
        # to its own limits before the processor does.
        template = TEMPLATE_MAPPING[options["template"]].template_cls
        template.image_token_id = json.loads((args.model / "config.json").read_text())["image_token_id"]
        tokens = processor["size"]["longest_edge"] // (processor["patch_size"] * processor["merge_size"]) ** 2
        os.environ |= {"IMAGE_MIN_TOKEN_NUM": str(tokens), "IMAGE_MAX_TOKEN_NUM": str(tokens)}
    TimedRLHF([text for name, value in options.items() for text in (f"--{name}", str(value))]).main()


def run_llamafactory(args: argparse.Namespace, work: Path) -> None:
    """Run LLaMA-Factory's DPO trainer."""
    from llamafactory.train.tuner import run_exp
    from step_clock import BETA, LEARNING_RATE, LORA

    # In InternVL's prompt, a line break follows the image. LLaMA-Factory's template does not add this line break.
    image = "<image>\n" if args.family == "internvl" else "<image>"
    rows = [
        {
            "conversations": [{"from": "human", "value": image + pair["prompt"]}],
            "chosen": {"from": "gpt", "value": pair["chosen"]},
            "rejected": {"from": "gpt", "value": pair["rejected"]},
            "images": [pair["image"]],
        }
        for pair in read_pairs(args.data)
    ]
    write_rows(work / "pairs.jsonl", rows)
    columns = {"messages": "conversations", "chosen": "chosen", "rejected": "rejected", "images": "images"}
    info = {"file_name": "pairs.jsonl", "formatting": "sharegpt", "ranking": True, "columns": columns}
    (work / "dataset_info.json").write_text(json.dumps({"pairs": info}))
    options = {
        "stage": "dpo",
        "do_train": True,
        "model_name_or_path": str(args.model),
        "template": TEMPLATES["llamafactory"][args.family],
        "default_system": "",
        "dataset": "pairs",
        "dataset_dir": str(work),
        "disable_shuffling": True,
        "overwrite_cache": True,
        "dataloader_num_workers": 0,
        "cutoff_len": 8192,
        "flash_attn": "sdpa",
        "finetuning_type": "lora",
        "lora_target": "all",
        "freeze_vision_tower": True,
        "freeze_multi_modal_projector": True,
        "lora_rank": LORA["r"],
        "lora_alpha": LORA["lora_alpha"],
        "lora_dropout": 0,
        "pref_beta": BETA,
        "pref_loss": "sigmoid",
        "learning_rate": LEARNING_RATE,
        "lr_scheduler_type": "constant",
        "disable_gradient_checkpointing": True,
        "per_device_train_batch_size": args.batch_size,
        "gradient_accumulation_steps": 1,
        "max_steps": args.steps,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "bf16": False,
        "output_dir": str(work / "run"),
    }
    run_exp(options, callbacks=[clock(args.steps)])


def main() -> None:
    """Parse the command line and run a project's trainer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("project", choices=TEMPLATES)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--family", choices=TEMPLATES["swift"], required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--batch-size", type=int, default=8, help="pairs per step")
    args = parser.parse_args()
    if torch.version.cuda is None:
        stub_compiled_parts()
    with tempfile.TemporaryDirectory() as work:
        (run_swift if args.project == "swift" else run_llamafactory)(args, Path(work))


if __name__ == "__main__":
    main()
