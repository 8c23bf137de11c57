"""Compare three ways to run a decoder with recurrent layers (Qwen3.5) on sequences with a common prefix.

    python benchmarks/recurrent.py --threads 1
    python benchmarks/recurrent.py --device cuda --dtype bfloat16 --width 1024 --prompt 1200

The model has four layers with the proportions of Qwen3.5-0.8B (width 1024). Three of the layers are recurrent. "shared
projections" is the method of the trie engine, in which only the convolution and the recurrence run along the paths.
"whole modules" runs the recurrent modules with their projections along the paths. "rows" is one sequence per row
without a trie. A pass runs forward, and then backward to the embeddings, as in training with frozen weights. The three
methods are measured alternately. The median over rounds is printed, as CPU time on a CPU and as wall time on a GPU.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from timing import in_turn
from torch import Tensor, nn

from scramble.models.backbone import FamilyBackbone
from scramble.models.families.registry import family_named
from scramble.trie import TrieBatch, TrieItem, logprobs, pack
from scramble.trie.recurrent import Paths

CASES = {"pair": (2, 60), "five captions": (5, 20), "eighteen questions": (18, 12)}  # sequences, tokens per sequence


def make_model(width: int, device: str, dtype: torch.dtype) -> Any:
    """Return a model with random weights. Its vocabulary and its unused tower are small."""
    from transformers import Qwen3_5Config, Qwen3_5ForConditionalGeneration

    decoder = {"vocab_size": 1000, "hidden_size": width, "intermediate_size": 7 * width // 2, "num_hidden_layers": 4}
    decoder |= {"num_attention_heads": width // 128, "num_key_value_heads": width // 512}
    decoder |= {"linear_num_key_heads": width // 64, "linear_num_value_heads": width // 64}
    tower = {"depth": 1, "hidden_size": 32, "num_heads": 2, "intermediate_size": 32, "out_hidden_size": width}
    config = Qwen3_5Config(text_config=decoder, vision_config=tower, image_token_id=999)
    model = Qwen3_5ForConditionalGeneration(config).to(device, dtype).requires_grad_(False)
    model.get_input_embeddings().requires_grad_(True)
    return model


def whole_modules(model: nn.Module, run: Callable[[], Tensor]) -> Tensor:
    """Call ``run`` with hooks that gather the inputs and scatter the outputs of each recurrent module along the
    paths.
    """
    current: list[Paths] = []

    def before(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        current.append(kwargs["attention_mask"])
        return args, {**kwargs, "hidden_states": current[-1].gather(kwargs["hidden_states"]), "attention_mask": None}

    def after(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        return current.pop().scatter(output)

    with ExitStack() as stack:
        for name, module in model.named_modules():
            if name.endswith("linear_attn"):
                # These hooks run before the engine's own hooks, which then receive no paths.
                stack.callback(module.register_forward_pre_hook(before, with_kwargs=True, prepend=True).remove)
                stack.callback(module.register_forward_hook(after).remove)
        return run()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompt", type=int, default=200, help="tokens of the common prefix")
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--items", type=int, default=1, help="tries per batch")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    model = make_model(args.width, args.device, getattr(torch, args.dtype))
    backbone = FamilyBackbone(family_named("qwen3_5"), model)
    for name, (count, length) in CASES.items():
        compare(name, model, backbone, args, count, length)


def compare(name: str, model: Any, backbone: Any, args: argparse.Namespace, count: int, length: int) -> None:
    """Print the time of one pass with each method and the ratios of these times, for one shape of tries."""
    items = []
    for _ in range(args.items):
        prompt = torch.randint(998, (args.prompt,)).tolist()
        answers = [torch.randint(998, (length,)).tolist() for _ in range(count)]
        scored = [[False] * args.prompt + [True] * length for _ in answers]
        items.append(TrieItem([prompt + answer for answer in answers], scored))
    rows = [TrieItem([ids], [mask]) for item in items for ids, mask in zip(item.sequences, item.scored, strict=True)]

    def step(batch: TrieBatch) -> Tensor:
        model.zero_grad()
        sums = logprobs(backbone, batch).sums_Q
        sums.mean().backward()
        if args.device == "cuda":
            torch.cuda.synchronize()
        return sums.detach()

    tries, alone = (pack(part, backbone.token_rules).to(args.device) for part in (items, rows))
    ways = {
        "shared projections": lambda: step(tries),
        "whole modules": lambda: whole_modules(model, lambda: step(tries)),
        "rows": lambda: step(alone),
    }
    for way in ways.values():
        way()
    clock = time.perf_counter if args.device == "cuda" else time.process_time
    seconds, results = in_turn(ways, args.rounds, clock)
    medians = {way: statistics.median(times) for way, times in seconds.items()}
    error = max(float((value - results["rows"]).abs().max()) for value in results.values())
    print(f"{name}: {args.prompt} + {count} x {length} tokens, largest difference {error:.1e} nats")
    for way, median in medians.items():
        ratio = median / medians["shared projections"]
        print(f"  {way:>18}: {1e3 * median:8.1f} ms  ({ratio:.2f} x)")


if __name__ == "__main__":
    main()
