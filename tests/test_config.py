"""All settings are checked before any work: names, types and ranges; hints name existing keys."""

from __future__ import annotations

import dataclasses
import inspect
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from scramble.app import addable
from scramble.config import data_sections, sections, source_sections, trainer
from scramble.config.evaluation_sections import benchmark_faults
from scramble.config.keys import known_keys
from scramble.config.overrides import expand_home, expand_home_in_values, faults, quoted, split_options
from scramble.config.roots import ROOTS as CLASSES
from scramble.config.validation import check_root, wrap_single_values
from scramble.field_checks import ConfigError, hints
from scramble.training import settings

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


def actual(root: str, *overrides: str) -> list[str]:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return check_root(compose(root, overrides=list(overrides)), root, ())


def test_the_names_are_those_of_the_code_that_reads_them() -> None:
    from transformers import SchedulerType

    from scramble import world
    from scramble.engines import ENGINE_KINDS
    from scramble.evaluation.external import export_predictions
    from scramble.grading.rules import RULES
    from scramble.models.families.registry import FAMILIES
    from scramble.models.loading import ATTENTION, DTYPES
    from scramble.pairs.answers.prompts import STYLES
    from scramble.pairs.rationales import INTERVENTION_KINDS as INTERVENTIONS
    from scramble.pairs.registry import METHODS
    from scramble.sources import BUNDLES, SOURCES
    from scramble.training import PreferenceConfig
    from scramble.training.losses import LOSSES
    from scramble.world import captions, questions

    def names(literal: Any) -> set[str]:
        return set(get_args(literal))

    assert names(settings.Loss) == set(LOSSES)
    assert set(settings.SMOOTHED) == {name for name, loss in LOSSES.items() if "label_smoothing" in loss.options}
    assert set(settings.WITHOUT_REJECTED) == {name for name, loss in LOSSES.items() if not loss.needs_rejected}
    assert names(settings.Scheduler) == {kind.value for kind in SchedulerType}
    assert names(sections.FamilyName) == {family.name for family in FAMILIES}
    assert names(sections.Dtype) == set(DTYPES) and names(sections.Attention) == set(ATTENTION)
    assert names(sections.CaptionStyle) == set(captions.CAPTION_STYLES)
    assert names(sections.QuestionKind) == set(questions.QUESTION_KINDS)
    assert names(sections.AnswerRule) == set(RULES) and names(sections.AskStyle) == set(STYLES)
    assert names(sections.Intervention) == set(INTERVENTIONS)
    assert {*data_sections.METHOD_SECTIONS, "mix"} == set(METHODS)
    assert names(sections.PredictionFormat) == set(export_predictions.PREDICTION_FORMATS)
    assert set(hints(trainer.Trainer)) - {"watch"} <= {field.name for field in dataclasses.fields(PreferenceConfig)}
    (engines,) = data_sections.EngineSection.__metadata__
    assert set(engines.classes) == set(ENGINE_KINDS)
    (data,) = source_sections.DataSection.__metadata__
    assert set(data.classes) == {"world", *SOURCES, *BUNDLES}
    assert set(hints(source_sections.World)) == set(inspect.signature(world.build_world).parameters) - {
        "folder",
        "seed",
    }


@pytest.mark.parametrize(
    ("root", "override", "clause"),
    [
        ("train", "trainer.beta=-1", "trainer.beta=-1 must be above 0"),
        ("train", "trainer.loss_type=[sigmod]", "(did you mean sigmoid?)"),
        ("train", "trainer.num_train_epochs=-1", "trainer.num_train_epochs=-1 must be above 0"),
        ("train", "trainer.max_steps=0", "trainer.max_steps=0 must be above 0, or -1"),
        ("train", "trainer.max_steps=abc", "trainer.max_steps=abc must be a whole number"),
        ("train", "trainer.learning_rate=fast", "trainer.learning_rate=fast must be a number"),
        ("train", "trainer.learning_rate=nan", "trainer.learning_rate=nan must be a finite number"),
        ("train", "trainer.learning_rate=-1", "trainer.learning_rate=-1 must be above 0"),
        ("train", "trainer.lr_scheduler_type=cosin", "(did you mean cosine?)"),
        ("train", "trainer.lr_scheduler_type=COSINE_WITH_MIN_LR", "(did you mean cosine_with_min_lr?)"),
        ("train", "trainer.optim=ADAFACTOR", "did you mean adafactor"),
        ("train", "++trainer.logging_strategy=STEPS", "(did you mean steps?)"),
        ("train", "trainer.global_batch_size=0", "trainer.global_batch_size=0 must be at least 1"),
        ("train", "trainer.per_device_train_batch_size=5", "trainer.global_batch_size=32 must be a multiple"),
        ("train", "peft.r=0", "peft.r=0 must be at least 1"),
        ("train", "+peft.target_modules='('", "peft.target_modules=( must be a valid regular expression"),
        ("train", "trainer.bf16=1", "trainer.bf16=1 must be true or false"),
        ("train", "+trainer.lerning_rate=1", "did you mean trainer.learning_rate or"),
        (
            "train",
            "trainer.watch={benchmarks: [world_vq]}",
            "world_vq: there is no such benchmark",
        ),
        ("train", "trainer.metric_for_best_model=loss", "needs trainer.load_best_model_at_end=true"),
        ("train", "trainer.report_to=[mlflow]", "run `pip install mlflow`"),
        ("train", "trainer.report_to=[wandbb]", "did you mean wandb"),
        ("train", "trainer.optim=adamw_8bit", "pip install bitsandbytes"),
        ("train", "trainer.optim=adamv", "there is no such optimizer; did you mean"),
        ("train", "trainer.optim=adamw", "did you mean adamw_torch or adamw_torch_fused or "),
        ("train", "trainer.optim=adam", "did you mean adamw_torch or "),
        ("train", "trainer.optim=lion", "did you mean lion_8bit or lion_32bit?"),
        ("train", "trainer.optim=AdamW", "did you mean adamw_torch or "),
        ("train", "trainer.lr_scheduler_type=cosine_schedule_with_warmup", "(did you mean cosine?)"),
        ("train", "trainer.lr_scheduler_type=wsd", "(did you mean warmup_stable_decay?)"),
        ("train", "trainer.eval_strategy=epochs", "(did you mean epoch?)"),
        ("train", "++trainer.log_level=warnings", "(did you mean warning?)"),
        ("train", "++trainer.ddp_backend=ncl", "(did you mean nccl?)"),
        ("train", "++trainer.padding_free=true", "trainer.padding_free=true must be false: a trie shares tokens"),
        ("train", "++trainer.rpo_alpha=1", "trainer.rpo_alpha: there is no such key; use trainer.loss_type"),
        ("train", "++trainer.epochs=2", "use trainer.num_train_epochs"),
        ("train", "++trainer.adam_beta2=high", "trainer.adam_beta2=high must be a number"),
        ("train", "++trainer.eval_delay=[1]", "trainer.eval_delay=[1] must be a number"),
        ("train", "++peft.use_rslora=1", "peft.use_rslora=1 must be true or false"),
        ("train", "++peft.alpha=1", "use peft.lora_alpha"),
        ("train", "trainer.loss_weights=[1,2]", "must contain one weight per loss"),
        ("train", "seed=None", "seed=None must be a whole number"),
        ("train", "seed=-1", "seed=-1 must be from 0"),
        ("train", "trainer.report_to=[wandb]", "WANDB_API_KEY"),
        ("train", "+wandb.mode=online", "use trainer.report_to=[wandb]"),
        ("train", "+learning_rate=1e-4", "learning_rate: there is no such key; did you mean trainer.learning_rate?"),
        ("train", "model.dtype=bf16", "model.dtype=bf16 must be one of auto, bfloat16"),
        ("train", "model.device=gpu", "model.device=gpu must be one of cpu, cuda"),
        ("train", "model.max_tiles=0", "model.max_tiles=0 must be at least 1"),
        ("generate", "data.n_train=0", "data.n_train=0 must be at least 1"),
        ("generate", "data.objects=[4,2]", "data.objects=[4,2] must be in ascending order"),
        ("generate", "data.kind=wrold", "did you mean world?"),
        ("generate", "pairs.per_caption=0", "pairs.per_caption=0 must be at least 1"),
        ("generate", "pairs.kinds=[swap-objects]", "did you mean swap-object?"),
        (
            "chat",
            "model={square_padding: true, resize: 336}",
            "model.square_padding=true and model.resize=336 exclude each other: set model.square_padding=false or",
        ),
        ("generate", "pairs.method=rule", "did you mean rules?"),
        ("generate", "pairs.filters=[{column: length_ration, max: 1}]", "did you mean length_ratio?"),
        ("generate", "pairs.filters=[{column: grammar.gap, max: 1}]", "set pairs.scores.grammar.path"),
        ("generate", "pairs.filters=[{column: usable}]", "pairs.filters[0]: the filter on usable needs a bound"),
        (
            "generate",
            "pairs.filters=[{column: usable, min: 0}, {mx: 1}]",
            "pairs.filters[1].mx: there is no such key; ",
        ),
        ("generate", "pairs.filters=[{column: usable, min: 2, max: 1}]", "must not have min=2 above max=1"),
        ("generate", "pairs.balance={}", "pairs.balance.gaps needs the score grammar: set pairs.scores.grammar.path"),
        (
            "generate",
            "pairs.exclude_benchmarks=[winogroud]",
            "there is no benchmark winogroud (did you mean winoground",
        ),
        ("generate", "pairs.exclude_benchmarks=[cola]", "cola is not on the hub; set its file or folder"),
        ("generate", "pairs.exclude_benchmarks={cola: /none}", "pairs.exclude_benchmarks.cola=/none does not exist"),
        ("generate", "+pairs.captions_per_image=clip", "needs a CLIP or SigLIP model: set pairs.similarity.path"),
        ("generate", "shard=4/4", "shard=4/4 must be i/n"),
        ("evaluate", "baselines=[basse]", "baselines=basse: there is no such method; did you mean base?"),
        ("evaluate", "limit=0", "limit=0 must be at least 1"),
        ("evaluate", "arms=[sft-seed9]", "arms=sft-seed9"),
        ("evaluate", "protocol.name=worl", "did you mean world"),
        ("evaluate", "+protocol.tie_polcy=half", "did you mean protocol.tie_policy or"),
        ("evaluate", "+benchmark.world_vqa.rot=x", "did you mean benchmark.world_vqa.root?"),
        ("evaluate", "engine={kind: openai, model: m, base_url: localhost:80}", "engine.base_url=localhost:80 must be"),
        ("evaluate", "export_predictions=[vlmeval]", "(did you mean vlmevalkit?)"),
        ("evaluate", "judge.faithfulness=true", "judge.faithfulness=true needs a judge"),
        ("report", "name=quickstrat", "there is no run runs/quickstrat"),
        ("share", "what=modell", "what=modell must be one of adapter, model, data (did you mean model?)"),
        ("share", "push_to_hub=mine", "push_to_hub=mine must be owner/name"),
        ("export", "dtype=int8", "dtype=int8 must be one of"),
        ("external_harness", "tasks=[]", "tasks=[] must not be empty"),
        ("external_harness", "batch_size=0", "batch_size=0 must be at least 1"),
        ("external_harness", "harness_args=abc", "harness_args=abc must be a mapping, for example 'harness_args"),
        ("study", "+study.number=eval_loss", "study.number: there is no such key; use metric"),
        ("study", "study.trials=0", "study.trials=0 must be at least 1"),
        ("study", "study.space={trainer.lr: [1]}", "the configuration has no key trainer.lr"),
        ("study", "study.space={trainer.beta: [-1]}", "trainer.beta=-1 must be above 0"),
        ("reproduce", "table=mpo_main", ""),
        ("chat", "+prompt=hello", "prompt: there is no such key; did you mean text?"),
        ("audit", "seed=x", "seed=x must be a whole number"),
    ],
)
def test_a_setting_that_cannot_work_is_named_with_what_is_allowed(
    root: str, override: str, clause: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", "/nonexistent")
    clauses = actual(root, override)
    assert any(clause in one for one in clauses) if clause else clauses == []


@pytest.mark.parametrize(
    ("root", "key", "value"),
    [
        ("train", "trainer.loss_type", "sigmoid"),
        ("train", "trainer.loss_weights", 0.5),
        ("train", "trainer.tables", "pairs"),
        ("train", "peft.modules_to_save", "lm_head"),
        ("train", "peft.target_parameters", "mlp.experts.gate_up_proj"),
        ("train", "trainer.watch.benchmarks", "world_vqa"),
        ("generate", "data.question_kinds", "colour"),
        ("generate", "pairs.kinds", "swap-object"),
        ("evaluate", "baselines", "sft"),
    ],
)
def test_a_list_may_be_given_as_a_single_value(root: str, key: str, value: Any) -> None:
    overrides = ["trainer.watch={benchmarks: [world_vqa]}"] if "watch" in key else []
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = compose(root, overrides=[*overrides, f"++{key}={value}"])
    wrap_single_values(cfg, root)
    assert OmegaConf.select(cfg, key) == [value]
    assert not [clause for clause in check_root(cfg, root, ()) if "must be a list" in clause]


@pytest.mark.parametrize("value", ["tensorboard", "q_proj"])
def test_a_text_in_place_of_a_list_that_has_its_own_meaning_is_kept(value: str) -> None:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = compose("train", overrides=[f"trainer.report_to={value}", f"+peft.target_modules={value}"])
    wrap_single_values(cfg, "train")
    assert cfg.trainer.report_to == cfg.peft.target_modules == value


def test_a_single_value_of_the_wrong_kind_is_reported() -> None:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = compose("train", overrides=["trainer.loss_type=sigmod", "trainer.loss_weights=high"])
    wrap_single_values(cfg, "train")
    kind, weight = check_root(cfg, "train", ())
    assert kind.startswith("trainer.loss_type=sigmod must be one of ") and kind.endswith("(did you mean sigmoid?)")
    assert weight == "trainer.loss_weights=high must be a number, or null"


@pytest.mark.parametrize(
    ("overrides", "clause"),
    [
        (["trainer.train_vision=true"], "trainer.train_vision=true needs peft=null"),
        (["trainer.train_vision=lora", "peft=null"], "trainer.train_vision=lora needs a new adapter: set peft.r"),
        (
            ["trainer.train_vision=true", "peft=null", "model.adapter=runs/a"],
            "merge the adapter or set trainer.train_vision=false",
        ),
        (["trainer.train_vision=true", "peft=null"], ""),
        (["trainer.train_vision=lora"], ""),
    ],
)
def test_vision_tower_and_lora(overrides: list[str], clause: str) -> None:
    clauses = [one for one in actual("train", "peft={r: 4}", *overrides) if "train_vision" in one]
    assert len(clauses) == 1 and clause in clauses[0] if clause else clauses == []


@pytest.mark.parametrize(
    ("overrides", "refused"),
    [([], True), (["trainer.backend=trl"], False), (["model=any", "model.path=x"], False)],
)
def test_flash_attention_is_refused_for_token_tries(overrides: list[str], refused: bool) -> None:
    clauses = actual("train", "model.attn_implementation=flash_attention_2", *overrides)
    assert any("does not support the attention masks of token tries" in one for one in clauses) == refused


def test_options_of_benchmarks_have_the_types_of_their_defaults() -> None:
    options: Any = {"rationales": {"root": "x", "max_new_tokens": 0, "pipeline": None}, "conme": {"human_filter": 1}}
    assert list(benchmark_faults(options, "benchmark")) == [
        "benchmark.rationales.max_new_tokens=0 must be at least 1",
        "benchmark.conme.human_filter=1 must be true or false",
    ]


@pytest.mark.parametrize(
    ("overrides", "refused"),
    [(["peft=null"], True), (["peft=null", "trainer.backend=trl"], False), ([], False)],
)
def test_the_reference_of_each_step_needs_a_new_adapter_on_tries(overrides: list[str], refused: bool) -> None:
    clauses = actual("train", "trainer.precompute_ref_log_probs=false", *overrides)
    assert any("works only with a new adapter" in one for one in clauses) == refused


def test_all_faults_come_in_one_message() -> None:
    clauses = actual("evaluate", "trainer.max_steps=0", "trainer.beta=-1", "baselines=[basse]", "+x=1")
    assert [one.partition("=")[0].partition(":")[0] for one in clauses if "no run" not in one] == [
        "x",
        "trainer.max_steps",
        "trainer.beta",
        "baselines",
    ]
    assert str(ConfigError(clauses)).startswith(f"{len(clauses)} settings are wrong: x: there is no such key")


def test_hints_name_keys_that_exist() -> None:
    for argument, right in (
        ("trainer.r=3", "peft.r"),
        ("trainer.lr=1", "trainer.learning_rate"),
        ("learning_rate=1", "trainer.learning_rate"),
        ("trainer.learnin_rate=1", "trainer.learning_rate"),
        ("beta=1", "trainer.beta"),
    ):
        (clause,) = faults("train", [argument])
        assert clause.endswith(f"did you mean {right}?") or f"did you mean {right} or " in clause
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            values: Any = OmegaConf.to_container(compose("train"), resolve=True)
        assert right in known_keys(values, CLASSES["train"])


def test_engine_and_options_of_a_mix_are_those_of_its_parts() -> None:
    for override, clause in (
        ("+pairs.engine={kind: openai}", "pairs.engine: there is no such key; use pairs.parts.<part>.engine"),
        ("+pairs.options.samples=8", "pairs.options: there is no such key; use pairs.parts.<part>.options"),
        (
            "pairs.options.samples=8",
            "pairs.options.samples: there is no such key; did you mean pairs.parts.correctness.options.samples?",
        ),
        (
            "engine@pairs.engine=openai",
            "engine@pairs.engine: there is no such key; did you mean pairs.parts.correctness.engine or "
            "pairs.parts.dropout_ntp.engine?",
        ),
    ):
        assert faults("generate", ["pairs=mpo_world", override]) == [clause]


def test_a_key_that_moved_is_named() -> None:
    for root in ("generate", "train"):
        (clause,) = faults(root, ["pairs=correctness", "pairs.options.shard=[0,2]"])
        assert clause == (
            "pairs.options.shard: there is no such key; write shard=i/n, as in scripts/generate.py shard=0/4"
        )


@pytest.mark.parametrize(
    "path",
    [
        "/d/a=b",
        "a,b",
        "a (1)/x",
        "[x]/y",
        "/d/{x}",
        "a#b",
        "a;b",
        "fotös",
        "写真/a",
        "it's",
        'a"b',
        'a\\"b',
        "a&b",
        "~/x",
        "a)",
        "b\\",
        "a!",
        "${x",
        "x{1}",
    ],
)
def test_a_path_that_hydra_cannot_read_comes_back_quoted(path: str) -> None:
    """The argument in the message results in exactly the path, after parsing by a shell and by Hydra."""
    (argument,) = shlex.split(quoted("data.path", path))
    (parsed,) = OverridesParser.create().parse_overrides([argument])
    assert OmegaConf.create({"x": parsed.value()}).x == path or path.startswith("${")
    clauses = faults("generate", ["data=coco", f"data.path={path}", "pairs=given"])
    assert clauses == [] or any(quoted("data.path", path) in one for one in clauses)


def test_the_home_folder_is_expanded_as_after_an_equals_sign_in_a_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    assert expand_home("model.path=~/models/a") == "model.path=/home/ada/models/a"
    assert actual("generate", "data=coco", expand_home("data.path=~/photos"), "pairs=given") == []
    for argument in ("prompt=~", "~data.path", "data.path='~/a'", "name=a=~/b", "-m"):
        assert expand_home(argument) == argument


def test_the_home_folder_is_expanded_in_lists_and_in_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    mix = "data.mix=[{path: ~/a.jsonl, weight: 1}, {path:~/b.jsonl,images: ~/photos,weight: 1}]"
    assert expand_home(mix) == mix.replace("~", "/home/ada")
    assert expand_home("data.path=~/a,~/b") == "data.path=/home/ada/a,/home/ada/b"
    assert actual("train", "data=pairs", expand_home(mix)) == []
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = compose("train", ["data=pairs", "data.mix=[{path: '~/a', weight: 1}]", "data.images='~/photos'"])
    expand_home_in_values(cfg)
    assert cfg.data.mix[0].path == "/home/ada/a" and cfg.data.images == "/home/ada/photos"


def test_a_sweep_without_m_and_a_list_that_is_torn() -> None:
    (clause,) = faults("train", ["trainer.beta=0.1,0.2"])
    assert "add -m" in clause
    assert faults("train", ["-m", "trainer.beta=0.1,0.2"]) == []
    (clause,) = faults("train", ["trainer.watch={benchmarks: [world_vqa"])
    assert "not a valid mapping" in clause


def test_options_may_follow_overrides() -> None:
    """Hydra's parser refuses an option between two overrides, so the options are moved to the front."""
    arguments = ["seed=0,1", "-m", "name=a", "--cfg", "job", "trainer.beta=1"]
    assert split_options(arguments) == (["-m", "--cfg", "job"], ["seed=0,1", "name=a", "trainer.beta=1"])
    assert faults("train", ["seed=0,1", "-m", "name=a"]) == []


@pytest.mark.parametrize(
    ("root", "argument", "clause"),
    [
        ("train", "trainer=null", "trainer=null: there is no such choice; choose one of default"),
        ("train", "pairs=null", "pairs=null: there is no such choice; choose one of correctness, "),
        ("train", "run=null", "run=null must be a group of settings; set run.dir or run.data or run.arm"),
        ("export", "run=null", "node `run` is not a container"),
        ("train", "run.dir=null", "run.dir=null must be text"),
        ("train", "peft=8", "peft=8 must be a group of settings"),
    ],
)
def test_a_value_in_place_of_a_section_is_one_line(root: str, argument: str, clause: str) -> None:
    """An error on the command line has no traceback."""
    script = Path(__file__).resolve().parents[1] / "scripts" / f"{root}.py"
    done = subprocess.run([sys.executable, str(script), argument, "dry_run=true"], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("error: ") and clause in done.stderr


@pytest.mark.parametrize(
    ("choices", "argument"),
    [
        ("data=pairs data.path=x.jsonl", "data.columns.chosen=good"),
        ("data=pairs data.path=x.jsonl", "data.columns={chosen: good, image: photo}"),
        ("data=pairs data.path=x.jsonl", "+data.columns.chosen=good"),
        ("data=pairs data.path=x.jsonl", "+data.columns={chosen: good, image: photo}"),
        ("data=world", "data.styles.count=1"),
        ("pairs=world", "pairs.options={check: false}"),
        ("pairs=world", "pairs.options.check=false"),
        ("pairs=world", "pairs.refine.exponent=3"),
        ("pairs=world", "pairs.exclude_benchmarks.winoground=null"),
        ("pairs=scenealign", "pairs.options.kinds={shorten: 0}"),
        ("pairs=scenealign", "pairs.options.edits={4: 1}"),
        ("pairs=scenealign", "pairs.options.edits.4=1"),
    ],
)
def test_free_mappings_and_optional_sections_need_no_plus(
    choices: str, argument: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The overrides are those that scripts/generate.py passes to Hydra."""
    overrides = [addable(word, "generate") for word in (*choices.split(), argument)]
    assert actual("generate", *overrides) == []


def test_settings_of_a_protocol_need_no_plus() -> None:
    arguments = ["protocol=world", "protocol.tie_policy=half", "protocol.max_new_tokens=8"]
    faults = actual("evaluate", *(addable(word, "evaluate") for word in arguments))
    assert not any("protocol" in fault for fault in faults), faults


@pytest.mark.parametrize(
    ("root", "argument", "clause"),
    [
        ("generate", "data.columns.chosen=good", "data.columns: there is no such key; the keys of data are kind, "),
        (
            "generate",
            "pairs.options.chek=false",
            "pairs.options.chek: there is no such key; did you mean pairs.opt",
        ),
        ("generate", "pairs.options.shard=[0,2]", "write shard=i/n"),
        ("evaluate", "protocol.tie_polcy=half", "protocol.tie_polcy: there is no such key; did you mean protocol.tie_"),
        ("reproduce", "paths.cocoo=x", "paths.cocoo: there is no such key; did you mean"),
        ("audit", "data.columns.chosen=good", "did you mean columns.chosen?"),
        ("train", "data.path=photos", "data.path: the embedded world has no such key: omit data.path, or select your"),
        ("train", "+debug=tiny data.path=photos", "data.path: +debug=tiny selects the embedded world, which has no"),
        ("audit", "data.colums.chosen=good", "the keys of the configuration are path, split"),
    ],
)
def test_a_misspelt_key_is_reported_without_a_plus(root: str, argument: str, clause: str) -> None:
    script = Path(__file__).resolve().parents[1] / "scripts" / f"{root}.py"
    done = subprocess.run([sys.executable, str(script), *argument.split()], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and clause in done.stderr, done.stderr
