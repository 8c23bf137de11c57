"""Write the generated pages of the documentation. A test compares these pages with the output of this script.

    python scripts/dev/write_reference.py

docs/configuration.md lists every key of the dataclasses in src/scramble/config and of the files in configs/.
docs/benchmarks.md lists every benchmark in src/scramble/evaluation/benchmarks/facts.yaml.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

import yaml

from scramble.config.data_sections import EngineSection, Method, MethodSection
from scramble.config.evaluation_sections import JudgeSection
from scramble.config.help import comments_of, with_defaults
from scramble.config.roots import ROOTS, Root
from scramble.config.sections import Launcher, ModelSection, Objective, Recommended, Run
from scramble.config.source_sections import DataSection
from scramble.config.trainer import Peft, Trainer
from scramble.evaluation.benchmarks.facts import Facts, facts
from scramble.evaluation.protocols import Protocol
from scramble.field_checks import MISSING, Bound, Section, Variants, as_override, hints, join
from scramble.project import CONFIGS, ROOT, choices_of

NOTE = "<!-- Written by scripts/dev/write_reference.py. -->"
INTRODUCTION = """\
Every key can be set on the command line (`trainer.beta=0.05`). A file of a configuration group is selected by its name
(`data=coco`), and an experiment is added with a plus (`+experiment=molmo_dpo`). `--help` prints the keys of a script
with the values that result from the other arguments, for example `python scripts/train.py data=coco --help`. Unknown
keys and invalid values are rejected with an error message before any work starts. A list with one element can be
written as a single value (`trainer.loss_type=sigmoid`). For an option of TRL's scripts, such as `--num_train_epochs 3`,
the error message names the argument to use instead (`trainer.num_train_epochs=3`).

**required** means that a key has no default. `${...}` stands for the value of another key. If the default of a key is
in parentheses, the files from which the table takes its defaults do not contain the key. Some of these keys need a plus
(`+trainer.log_entropy=true`). If the plus is missing, the error message asks for it."""
TRAINER = """\
All other fields of `trl.DPOConfig` and `transformers.TrainingArguments` can be set in the same way
(`trainer.adam_beta2=0.95`). If the trainer does not support a field, the error message states the reason and, if there
is one, the key to use instead."""
PEFT = "All other fields of `peft.LoraConfig` can be set in the same way (`peft.use_rslora=true`)."
BENCHMARK = "`benchmark=[winoground,pope]` selects benchmarks. Each benchmark has its own options."
PROTOCOL = (
    "`protocol=scramble` selects a protocol. The table lists the settings of `standard`. The other files in "
    "`configs/protocol/` list only the settings that they change."
)
# Meanings of keys that no file in configs/ contains.
SENTENCES = {
    "path": "Hub id or folder of the model.",
    "revision": "Branch, tag or commit of the hub id.",
    "dtype": "Data type of the weights.",
    "device": "Device of the model. null selects the GPU if there is one.",
    "batch_size": "Number of texts per forward pass.",
    "new": "For tests: if this key is set, a tiny random model replaces the released model.",
    "per_device_eval_batch_size": "Number of pairs per forward pass of an evaluation. null: as in training.",
    "row_tokens": "Number of tokens per row of a batch. null: the length of the longest trie.",
    "reference_batch_tokens": "Maximum number of tokens per batch when the reference log-probabilities are computed.",
    "f_divergence_type": "Divergence that replaces the KL divergence in losses like DPO, as in TRL.",
    "ld_alpha": "Weight of the tokens of an answer after the length of the shorter answer, as in TRL (LD-DPO).",
    "push_to_hub": "Upload the result at the end of the run.",
    "hub_model_id": "Repository of the upload (owner/name).",
    "hub_strategy": "Only the result is uploaded, so end and every_save have the same effect.",
    "load_in_4bit": "Quantise the decoder's weights to 4 bits.",
    "load_in_8bit": "Quantise the decoder's weights to 8 bits.",
    "column": "Name of a column of the pairs, which contains a score or a computed value.",
    "min": "Minimum value in the column. Pairs with a smaller value are dropped.",
    "max": "Maximum value in the column. Pairs with a larger value are dropped.",
    "filters.pipeline": "spaCy pipeline that computes the column same_lemmas.",
    "gaps": "Names of two scores. Pairs are dropped until the gaps of both scores (chosen minus rejected) are "
    "symmetric about 0.",
    "exponent": "Exponent of the odds. With a larger exponent, fewer pairs remain, and their text-only accuracy is "
    "lower.",
    "lora_dropout": "Dropout probability of the adapter's inputs. Answers that share a token also share its dropout "
    "mask.",
    "target_modules": "Layers with an adapter, as in PEFT. null selects all linear layers of the language model.",
    "modules_to_save": "Further modules that are trained as a whole and saved with the adapter, as in PEFT.",
    "target_parameters": "Parameters outside linear layers, such as fused experts, that get an adapter, as in PEFT.",
    "llm_int8_skip_modules": "Modules that are not quantised. null selects the vision tower, the projector and the LM "
    "head.",
    "init_lora_weights": "Initial weights of the adapter, as in PEFT.",
    "watch.benchmarks": "Benchmarks that are scored on the validation split during training.",
    "watch.limit": "Maximum number of items per benchmark during training.",
    "engine": "Kind (openai, transformers or vllm) and options of the engine that generates texts.",
    "objective.name": "Name of the objective. The default name of the arm contains it.",
    "data.styles": "Weights of the caption styles. The default is {relation: 0.4, chain: 0.15, list: 0.2, scene: 0.15, "
    "count: 0.1}.",
    "mix.weight": "Relative share of this input among the pairs.",
    "mix.path": "Path or hub id of this input.",
    "scores.grammar": "CoLA classifier that scores the grammar of both texts.",
    "scores.plausibility": "Vera model that estimates whether a statement is plausible.",
    "scores.likelihood": "Causal language model, or vision-language model without the image, that computes the "
    "likelihood of both texts.",
    "scores.similarity": "CLIP or SigLIP model that compares both texts with the image.",
    "pairs.refine": "Options of the refinement, which drops training pairs whose chosen text is recognised by "
    "text-only classifiers. null skips the refinement.",
    "pairs.captions_per_image": "Captions to use per image: all, one (which the seed selects) or clip (the caption "
    "that is most similar to the image).",
    "pairs.form": "Form of the pairs: caption (the caption is preferred to its negative), yes-no (yes/no questions "
    "about both texts) or both.",
    "pairs.similarity": "CLIP or SigLIP model that selects the captions for captions_per_image=clip.",
    "pairs.surface": "Normalise the spaces, capitals and final punctuation of both texts.",
    "options.check": "Drop negatives that are true of the image according to the embedded world's judge.",
    "options.kinds": "Kinds of negatives to generate. null generates all kinds.",
    "options.lexicon": "Folder of word lists. null uses the shipped lists.",
    "options.seed": "Sampling seed.",
    "options.graphs": "Source of the scene graphs: given (only the graphs that are stored with the images), captions "
    "(for images without a graph, the captions are parsed) or engine (for images without a graph, a multimodal model "
    "generates the graphs).",
    "options.pipeline": "spaCy pipeline that parses captions.",
    "options.generate_rationales": "For questions without a rationale, generate a rationale from the scene graph.",
    "options.temperature": "Sampling temperature.",
    "options.top_p": "Probability mass of nucleus sampling.",
    "options.max_tokens": "Maximum number of new tokens per reply.",
    "engine.backoff": "Maximum number of seconds before the second attempt. The maximum doubles with each attempt.",
    "engine.max_backoff": "Maximum number of seconds between two attempts.",
    "engine.give_up_after": "Stop after this many failed requests in a row.",
    "engine.loading": "Additional options for loading the model, such as max_tiles, as in the section model.",
}


# Keys that a pair method does not use, but accepts because experiments set them.
NO_EFFECT = {"given": ("prompt", "captions_per_image")}


class Key(NamedTuple):
    """Represents a row of a table of configuration keys."""

    name: str
    type: str
    default: str
    sentence: str


# ---------------------------------------------------------------------------------------------------------------- files


def values_and_sentences(file: str, at: str = "") -> tuple[dict[str, Any], dict[str, str]]:
    """Return the values of a configuration file and of the files in its defaults list, and the comments of their keys.

    The dictionary of comments maps full keys to comments.
    """
    values: dict[str, Any] = {}
    sentences: dict[str, str] = {}
    for path in with_defaults(CONFIGS / file):
        text = path.read_text(encoding="utf-8")
        place = "" if "@package _global_" in text else at
        # A choice in the defaults list (/engine@engine: own) is shown as engine=own.
        for group, key, choice in re.findall(r"^ *- /(\w+)@([\w.]+): (\w+)$", text, re.M):
            _merge(values, _nested(join(place, key), f"{group}={choice}"))
        _merge(values, _nested(place, yaml.safe_load(text) or {}))
        sentences |= {join(place, key): words for key, words in comments_of(text)}
    return values, sentences


def _nested(at: str, value: Any) -> Any:
    for name in reversed(at.split(".") if at else []):
        value = {name: value}
    return value


def _merge(values: dict[str, Any], other: Mapping[str, Any]) -> None:
    for key, value in other.items():
        if isinstance(value, dict) and isinstance(values.get(key), dict):
            _merge(values[key], value)
        else:
            values[key] = value


# ----------------------------------------------------------------------------------------------------------------- keys


def keys_of(cls: type, file: str, at: str = "", *, without: Collection[str] = ()) -> Iterator[Key]:
    """Yield the keys of a settings class, with the values and comments of a configuration file."""
    values, sentences = values_and_sentences(file, file.rpartition("/")[0])
    for name in at.split(".") if at else []:
        values = values[name]
    yield from _keys(cls, values, sentences, at, without)


def _keys(
    cls: type, values: Mapping[str, Any], sentences: Mapping[str, str], at: str, without: Collection[str] = ()
) -> Iterator[Key]:
    defaults = {field.name: field for field in dataclasses.fields(cls)}
    for name, kind in hints(cls).items():
        key = join(at, name)
        if name in without or (key == "name" and at):
            continue
        inner = section_in(kind)
        if inner is not None:
            value = values.get(name)
            if key in sentences or not isinstance(value, Mapping):
                yield Key(key, type_text(kind), shown(value), sentence_of(key, sentences))
            yield from _keys(inner, value if isinstance(value, Mapping) else {}, sentences, key)
        else:
            default = shown(values[name]) if name in values else shown(default_of(defaults[name]), in_files=False)
            yield Key(key, type_text(kind), default, sentence_of(key, sentences))


def section_in(kind: Any) -> type[Section] | None:
    """Return the settings class in an annotation, or None if there is none or if the class depends on another key."""
    if isinstance(kind, type) and issubclass(kind, Section):
        return kind
    if any(isinstance(mark, Variants) for mark in getattr(kind, "__metadata__", ())):
        return None
    return next((cls for part in get_args(kind) if (cls := section_in(part))), None)


def default_of(field: dataclasses.Field[Any]) -> Any:
    """Return the default of a field of a dataclass."""
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return MISSING if field.default is dataclasses.MISSING else field.default


def sentence_of(key: str, sentences: Mapping[str, str]) -> str:
    """Return the comment of a key. If the key has no comment, return the sentence in SENTENCES for the last parts of
    the key. If there is no such sentence, return the comment of the key with the same first and last part, which is
    ``data.format`` for ``data.mix.format``.
    """
    names = key.split(".")
    own = sentences.get(key) or SENTENCES.get(".".join(names[-2:])) or SENTENCES.get(names[-1])
    return own or sentences.get(f"{names[0]}.{names[-1]}", "")


def shown(value: Any, *, in_files: bool = True) -> str:
    """Return a default as it is written on the command line, in parentheses if no file contains the default."""
    if value == MISSING:
        return "**required**"
    text = '`""`' if value == "" else f"`{as_override(value)}`".replace("\n", "\\n")
    return text if in_files else f"({text})"


def type_text(kind: Any) -> str:
    """Return an annotation in words.

    Lists come last: in "list of integers or null", null could be read as a type of the elements.
    """
    *others, last = sorted(dict.fromkeys(_alternatives(kind)), key=lambda text: text.startswith("list of"))
    return f"{', '.join(others)} or {last}" if others else last


def _alternatives(kind: Any) -> Iterator[str]:
    """Yield the alternatives of an annotation in words: ``integer`` and ``null`` for ``int | None``."""
    origin, args = get_origin(kind), get_args(kind)
    if origin is Annotated:
        marks = [mark for mark in args[1:] if isinstance(mark, Bound) and mark.allowed != "must not be empty"]
        bounds = [mark.allowed.removeprefix("must be ").replace(f"{2**32 - 1:g}", "2^32 - 1") for mark in marks]
        if any(isinstance(mark, Variants) for mark in args[1:]):
            yield "mapping"
        elif bounds:
            yield f"{type_text(args[0])} ({', '.join(bounds)})"
        else:
            yield from _alternatives(args[0])
    elif origin in (Union, UnionType):
        for arg in args:
            yield from _alternatives(arg)
    elif origin is Literal:
        yield from (f"`{as_override(arg)}`" for arg in args)
    elif origin is list:
        yield "list of " + re.sub(r"(?<!\S)(integer|number|mapping)\b", r"\1s", type_text(args[0]))
    elif origin is tuple:
        yield f"[{', '.join(map(type_text, args))}]"
    elif origin is dict or (isinstance(kind, type) and issubclass(kind, Section)):
        yield "mapping"
    elif kind is bool:
        yield from ("true", "false")
    else:
        yield {int: "integer", float: "number", str: "text", NoneType: "null"}.get(kind, "any value")


# ---------------------------------------------------------------------------------------------------------------- pages


def configuration() -> str:
    """Return the page of all configuration keys."""
    parts = [NOTE, "# Configuration keys", INTRODUCTION]
    sections = set(hints(Root)) - {"name", "seed", "data_seed", "dry_run"}
    parts += ["## Keys of every script", table(keys_of(Root, "base.yaml", without=sections))]
    parts += [table(keys_of(Run, "base.yaml", "run"))]
    for root, cls in ROOTS.items():
        others = [*hints(Root), "protocol", "benchmark", "judge"] if issubclass(cls, Root) else ["table"]
        if keys := list(keys_of(cls, f"{root}.yaml", without=others)):
            parts += [f"## Keys of scripts/{root}.py", table(keys)]
    parts += ["## model", "`configs/model/` contains a file for each released model."]
    parts += [table(keys_of(ModelSection, "model/_base.yaml", "model"))]
    parts += [table(keys_of(Recommended, "model/_base.yaml", "recommended"))]
    parts += ["## objective", table(keys_of(Objective, "objective/mpo.yaml", "objective"))]
    parts += ["## trainer", TRAINER, table([*keys_of(Trainer, "trainer/default.yaml", "trainer"), *further_keys()])]
    parts += ["## peft", PEFT, table(keys_of(Peft, "trainer/default.yaml", "peft"))]
    parts += ["## data", *variants("data", DataSection)]
    parts += ["## pairs", "### Steps of every method", table(keys_of(MethodSection, "pairs/given.yaml", "pairs"))]
    parts += variants("pairs", Method, without=hints(MethodSection))
    parts += ["## engine", *variants("engine", EngineSection), "## launcher", *variants("launcher", Launcher)]
    parts += ["## benchmark", BENCHMARK, table(benchmark_keys())]
    parts += ["## protocol", PROTOCOL, table(keys_of(Protocol, "protocol/standard.yaml", "protocol"))]
    parts += ["## judge", table(keys_of(JudgeSection, "evaluate.yaml", "judge"))]
    return "\n\n".join(parts) + "\n"


def variants(group: str, kind: Any, *, without: Collection[str] = ()) -> Iterator[str]:
    """Yield a heading and a table for each variant of a section, for example for each kind of data."""
    mark = next(mark for mark in kind.__metadata__ if isinstance(mark, Variants))
    chosen: dict[str, list[str]] = {}
    for choice in choices_of(group):
        values, _ = values_and_sentences(f"{group}/{choice}.yaml", group)
        if mark.key in values.get(group, {}):
            chosen.setdefault(values[group][mark.key], []).append(choice)
    for name, cls in mark.classes.items():
        if name not in chosen:
            continue
        file = name if name in chosen[name] else chosen[name][0]
        *others, last = (f"`{group}={choice}`" for choice in chosen[name])
        choices = f"{', '.join(others)} or {last}" if others else last
        yield f"### {group}.{mark.key}={name}"
        defaults = f" The defaults are taken from `{group}={file}`." if others else ""
        yield f"{choices} selects this section.{defaults}"
        if keys := list(keys_of(cls, f"{group}/{file}.yaml", group, without=[*without, *NO_EFFECT.get(name, ())])):
            yield table(keys)


def further_keys() -> Iterator[Key]:
    """Yield the fields of this project's trainer that no file in configs/ contains."""
    from scramble.training import PreferenceConfig

    kinds = get_type_hints(PreferenceConfig)
    own = vars(PreferenceConfig)["__annotations__"].keys() - {*hints(Trainer), "peft"}
    for field in dataclasses.fields(PreferenceConfig):
        if field.name in own and (sentence := field.metadata.get("help")):
            default = shown(default_of(field), in_files=False)
            yield Key(f"trainer.{field.name}", type_text(kinds[field.name]), default, sentence.replace("None", "null"))


def benchmark_keys() -> Iterator[Key]:
    """Yield the options of all benchmarks, which are the parameters of their loading functions."""
    for choice in choices_of("benchmark"):
        at = f"benchmark.{choice}"
        values, sentences = values_and_sentences(f"benchmark/{choice}.yaml", at)
        for name, value in (values["benchmark"][choice] or {}).items():
            kind = "true or false" if isinstance(value, bool) else "integer" if isinstance(value, int) else "text"
            kind += " or null" if value is None else ""
            yield Key(f"{at}.{name}", kind, shown(value), sentence_of(f"{at}.{name}", sentences))


def benchmarks() -> str:
    """Return the page of all benchmarks."""
    parts = [NOTE, "# Benchmarks", BENCHMARKS_INTRODUCTION]
    by_name = facts()
    parts.append(markdown(("name", "measures", "items", "metric", "chance", "human"), map(_overview, by_name.items())))
    for name, each in by_name.items():
        protocols = ", ".join(f"`{protocol}`" for protocol in each.protocols)
        rows = [("title", each.title), ("paper", each.paper), ("data", each.data)]
        rows += [("licence of the data", each.licence), ("protocols, the default first", protocols)]
        rows += [("verification", each.compared)]
        parts += [f"## {name}", markdown(("fact", "value"), rows)]
    return "\n\n".join(parts) + "\n"


BENCHMARKS_INTRODUCTION = """\
`python scripts/evaluate.py benchmark=[winoground,pope]` selects benchmarks by the names in the following table.
[evaluation.md](evaluation.md) explains protocols and scores, and [configuration.md](configuration.md#benchmark)
lists the options. The columns "chance" and "human" contain percentages, in the order of the scores in the column
"metric". "Not published" means that we found no source, "not checked" means that we did not look for a source, and "not
computed" marks chance levels that must be computed from the data. Read the licences before you use or publish data,
because images and annotations often have different licences."""


def _overview(named: tuple[str, Facts]) -> tuple[str, ...]:
    name, each = named
    return (f"[{name}](#{name})", each.measures, each.items, each.metric, each.chance, each.human)


def table(keys: Iterator[Key] | Sequence[Key]) -> str:
    """Return a table of keys."""
    rows = ((f"`{key.name}`", key.type, key.default, escaped(key.sentence)) for key in keys)
    return markdown(("key", "type", "default", "meaning"), rows)


def escaped(text: str) -> str:
    """Return a comment in which the special characters of Markdown are escaped."""
    return text.replace("<", "&lt;").replace("*", "\\*").replace("[", "\\[")


def markdown(head: Sequence[str], rows: Any) -> str:
    """Return a Markdown table."""
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    lines += ["| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |" for row in rows]
    return "\n".join(lines)


PAGES = {"configuration.md": configuration, "benchmarks.md": benchmarks}

if __name__ == "__main__":
    for name, page in PAGES.items():
        (ROOT / "docs" / name).write_text(page(), encoding="utf-8")
        print(f"written: docs/{name}")
