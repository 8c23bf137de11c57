"""Compare the scoring throughput of one trie per image and of one sequence per row, on the same sequences and model.

The numbers of sequences per image are 2 (as in Winoground: the captions of a 2x2 item), 4 (as in SugarCrepe: option
letters for both orders) and 18 (as in POPE: nine questions per image, "yes" and "no" for each). With 18 sequences per
image, the sequences are yes/no questions with their answers; otherwise they are captions and the same captions with two
words swapped. The method with one sequence per row runs in batches without gradients, with the head only at scored
positions. This method pads to the longest sequence of a batch and encodes the image again for each sequence. Its
"shared image" variant encodes each image once and repeats the features. The methods are measured alternately in one
process.

    python benchmarks/score.py --json score.json
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch
from shapes import SHAPES, noise_image, read_captions, save_internvl, swap_two_words
from timing import in_turn

CAPTION_PROMPT = "Describe the image in one sentence."
OBJECTS = ("person", "dog", "car", "chair", "table", "bottle", "cup", "bench", "clock")


def make_items(vlm: Any, images: int, sequences: int, pixels: int, data: str | None) -> list[Any]:
    """Make items with captions and their swapped forms or, if ``sequences`` is 18, with questions and both answers."""
    from scramble.trie import TrieItem

    family, processor = vlm.family, vlm.processor
    captions = read_captions(data, images, max(1, sequences // 2))
    items = []
    for number in range(images):
        picture = [noise_image(number, pixels)]
        if sequences == 18:
            turns = [(f"Is there a {name} in the image?", answer) for name in OBJECTS for answer in ("yes", "no")]
        else:
            texts = captions[number]
            turns = [(CAPTION_PROMPT, t) for n, text in enumerate(texts) for t in (text, swap_two_words(text, n))]
        prompts = {text: family.encode_prompt(processor, text, picture) for text in dict(turns)}
        ids, scored = [], []
        for text, answer in turns:
            prompt, completion = prompts[text].input_ids, family.encode_completion(processor, answer)
            ids.append(prompt + completion)
            scored.append([False] * len(prompt) + [True] * len(completion))
        items.append(TrieItem(ids, scored, prompts[turns[0][0]].images, str(number)))
    return items


def one_sequence_per_row(vlm: Any, items: list[Any], batch: int, share_images: bool) -> list[float]:
    """Return the log-probability of each sequence, computed in ordinary right-padded batches."""
    backbone, model = vlm.backbone, vlm.backbone.model
    rows = [(ids, mask, item) for item in items for ids, mask in zip(item.sequences, item.scored, strict=True)]
    order = sorted(range(len(rows)), key=lambda n: len(rows[n][0]))
    sums = [0.0] * len(rows)
    shared = {}
    if share_images:
        shared = {id(item): backbone.encode_images([item.images])[0] for item in items}
    for start in range(0, len(order), batch):
        members = order[start : start + batch]
        part = [rows[n] for n in members]
        length = max(len(ids) for ids, _, _ in part)
        input_ids = torch.tensor([ids + [0] * (length - len(ids)) for ids, _, _ in part])
        attention = torch.tensor([[1] * len(ids) + [0] * (length - len(ids)) for ids, _, _ in part])
        scored = torch.tensor([mask + [False] * (length - len(mask)) for _, mask, _ in part])
        if share_images:
            features = torch.cat([shared[id(item)] for _, _, item in part])
            embeds = backbone.embed_tokens(input_ids)
            embeds[torch.isin(input_ids, torch.tensor(sorted(backbone.token_rules.features)))] = features
            hidden = backbone.decoder(inputs_embeds=embeds, attention_mask=attention).last_hidden_state
        else:
            pixels = torch.cat([item.images["pixel_values"] for _, _, item in part])
            hidden = model.model(input_ids=input_ids, attention_mask=attention, pixel_values=pixels).last_hidden_state
        where = scored[:, 1:].nonzero(as_tuple=True)
        logits = torch.nn.functional.linear(hidden[:, :-1][where], backbone.head.weight).float()
        logps = logits.log_softmax(-1).gather(1, input_ids[:, 1:][where][:, None])[:, 0]
        totals = torch.zeros(len(part)).index_add(0, where[0], logps)
        for n, total in zip(members, totals.tolist(), strict=True):
            sums[n] = total
    return sums


@torch.no_grad()
def measure(vlm: Any, args: argparse.Namespace, sequences: int) -> dict[str, Any]:
    """Measure the images and sequences per second of each method, and the largest difference between their
    log-probabilities.
    """
    from scramble.trie import score

    items = make_items(vlm, args.images, sequences, args.pixels, args.data)
    methods = {
        "trie": lambda: [s.sum for item in score(vlm.backbone, items, batch_tokens=args.batch_tokens) for s in item],
        "one_sequence_per_row": lambda: one_sequence_per_row(vlm, items, args.rows, share_images=False),
        "one_sequence_per_row_shared_image": lambda: one_sequence_per_row(vlm, items, args.rows, share_images=True),
    }
    seconds, logps = in_turn(methods, args.repeats)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    count = args.images * sequences
    return {
        "sequences_per_image": sequences,
        **{
            name: {
                "seconds": round(median, 4),
                "images_per_second": round(args.images / median, 3),
                "sequences_per_second": round(count / median, 3),
            }
            for name, median in medians.items()
        },
        "ratio": round(medians["one_sequence_per_row"] / medians["trie"], 2),
        "ratio_to_shared_image": round(medians["one_sequence_per_row_shared_image"] / medians["trie"], 2),
        "largest_difference": max(
            abs(a - b) for name in methods for a, b in zip(logps["trie"], logps[name], strict=True)
        ),
    }


def main() -> None:
    """Parse the command line, run the benchmark and print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="40m")
    parser.add_argument(
        "--data", help='JSONL file whose rows have the keys "image" and "caption"; captions are synthetic by default'
    )
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--sequences", type=int, nargs="+", default=[2, 4, 18])
    parser.add_argument("--pixels", type=int, default=640)
    parser.add_argument(
        "--batch-tokens", type=int, help="positions per batch of tries; the default is set in scramble.trie"
    )
    parser.add_argument("--rows", type=int, default=8, help="batch size of the method with one sequence per row")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--json", help="write the result here")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    from scramble.models import load_vlm

    texts = [text for group in read_captions(args.data, 1000, 5) for text in group]
    texts += [f"Is there a {name} in the image? yes no" for name in OBJECTS]
    with tempfile.TemporaryDirectory() as folder:
        vlm = load_vlm(save_internvl(Path(folder) / "model", SHAPES[args.shape], texts), dtype="float32")
        results = [measure(vlm, args, sequences) for sequences in args.sequences]
    text = json.dumps(
        {"shape": args.shape, "threads": args.threads, "torch": torch.__version__, "results": results}, indent=2
    )
    print(text)
    if args.json:
        Path(args.json).write_text(text + "\n")


if __name__ == "__main__":
    main()
