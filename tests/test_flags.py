"""Options of TRL's scripts and other trainers are answered with the arguments of this project."""

from __future__ import annotations

import dataclasses
import inspect
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from scramble.app import addable
from scramble.config.flags import OTHER_NAMES, check_options
from scramble.config.library_fields import PEFT, QUANTIZATION, TRAINER, field_names
from scramble.config.overrides import faults
from scramble.field_checks import ConfigError
from scramble.training.fields import PEFT_REFUSED, REFUSED_FIELDS

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"


def message(line: str, root: str = "train") -> str:
    with pytest.raises(ConfigError) as error:
        check_options(shlex.split(line), root)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("root", "line", "written"),
    [
        ("train", "--epochs=3", "trainer.num_train_epochs=3"),
        ("train", "--num_train_epochs 3 --lr 1e-4", "trainer.num_train_epochs=3 trainer.learning_rate=1e-4"),
        ("train", "data=coco --learning-rate 1e-4 -m data.path=x", "trainer.learning_rate=1e-4"),
        ("train", "--bf16", "trainer.bf16=true"),
        ("train", "--bf16 --gradient_checkpointing True", "trainer.bf16=true trainer.gradient_checkpointing=True"),
        ("train", "--no_bf16", "trainer.bf16=false"),
        ("train", "--max_steps -1", "trainer.max_steps=-1"),
        ("train", "--loss_type sigmoid bco_pair sft", "'trainer.loss_type=[sigmoid,bco_pair,sft]'"),
        ("train", "--loss_type sigmoid", "trainer.loss_type=sigmoid"),
        ("train", "--lora_target_modules q_proj v_proj", "'peft.target_modules=[q_proj,v_proj]'"),
        ("train", "--use_rslora --lora_r=8", "peft.use_rslora=true peft.r=8"),
        ("train", """--lr_scheduler_kwargs '{"min_lr": 1e-6}'""", "'trainer.lr_scheduler_kwargs={min_lr:1e-06}'"),
        ("train", "--model_name_or_path Qwen/Qwen3-VL-2B", "model=any model.path=Qwen/Qwen3-VL-2B"),
        ("train", "--model Qwen/Qwen3-VL-2B", "model=any model.path=Qwen/Qwen3-VL-2B"),
        ("train", "--model qwen3_vl_2b --objective dpo", "model=qwen3_vl_2b objective=dpo"),
        ("train", "--dataset_name 'my pairs.jsonl'", "data=pairs 'data.path=my pairs.jsonl'"),
        ("train", "--output_dir out(1)", """'run.dir="out(1)"'"""),
        ("train", "--seed 3 --name mine", "seed=3 name=mine"),
        ("train", "--load_in_4bit", "model.quantization.load_in_4bit=true"),
        ("train", "--bnb_4bit_quant_type nf4", "model.quantization.bnb_4bit_quant_type=nf4"),
        ("train", "--debug tiny --experiment molmo_dpo", "+debug=tiny +experiment=molmo_dpo"),
        ("evaluate", "--limit 10", "limit=10"),
        ("audit", "--path a.jsonl --split train", "path=a.jsonl split=train"),
    ],
)
def test_an_option_is_rewritten(root: str, line: str, written: str) -> None:
    given = " ".join(shlex.split(line)).removeprefix("data=coco ").removesuffix(" -m data.path=x")
    assert message(line, root) == f"settings have the form key=value: write {written} instead of {given}"
    arguments = [addable(word, root) for word in shlex.split(written)]
    assert not [fault for fault in faults(root, arguments) if "there is no such" in fault or "quoted" in fault]


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("--fp16", "--fp16: trainer.fp16 is not supported: the activations of many models overflow in float16"),
        ("--use_peft", "--use_peft: use the section peft (peft.r, peft.lora_alpha"),
        ("--rpo_alpha=1", "--rpo_alpha: use trainer.loss_type=[sigmoid,sft] with trainer.loss_weights"),
        ("--learnin_rate=1", "--learnin_rate: there is no such option; did you mean trainer.learning_rate"),
        ("--debug", "trainer.debug=true"),
        ("--epochs=1 --betta=2", "2 settings are wrong: settings have the form key=value: write trainer.num_train_ep"),
    ],
)
def test_an_option_without_a_key_is_answered_with_advice(line: str, text: str) -> None:
    assert text in message(line)


@pytest.mark.parametrize("line", ["-m seed=0,1", "--cfg job", "--multirun", "-cn train", "--config-dir=a --info all"])
def test_options_of_hydra_are_accepted(line: str) -> None:
    check_options(shlex.split(line), "train")


def test_every_field_is_known_as_an_option() -> None:
    for section, sources, refused in (("trainer", TRAINER, REFUSED_FIELDS), ("peft", PEFT, PEFT_REFUSED)):
        for name in field_names(sources):
            text = message(f"--{name}=1")
            expected = (
                f"{section}.{name} is not supported: " if name in refused else f"write {section}.{name}=1 instead"
            )
            other = f"write {OTHER_NAMES.get(name, name)}=1 instead"
            assert expected in text or other in text or f"trainer.{name}" in text or ": use the section peft" in text


def test_the_fields_of_the_libraries_are_read_from_their_files() -> None:
    from peft import LoraConfig
    from transformers import BitsAndBytesConfig

    from scramble.training import PreferenceConfig

    for sources, cls in ((TRAINER, PreferenceConfig), (PEFT, LoraConfig)):
        assert set(field_names(sources)) == {field.name for field in dataclasses.fields(cls) if field.init}
    parameters = set(inspect.signature(BitsAndBytesConfig.__init__).parameters) - {"self", "kwargs"}
    assert set(field_names(QUANTIZATION)) == parameters
    assert field_names((("transformers", "no_such_file.py", "TrainingArguments"),)) == ()


@pytest.mark.parametrize(
    ("argument", "text"),
    [
        ("--epochs=3", "write trainer.num_train_epochs=3 instead of --epochs=3"),
        ("trainer.betta=1", "trainer.betta: there is no such key; did you mean trainer.beta"),
        ("peft.rank=1", "peft.rank: there is no such key; use peft.r"),
        ("model.quantization={load_in_4bits: true}", "did you mean model.quantization.load_in_4bit"),
    ],
)
def test_a_wrong_name_is_reported_before_the_libraries_are_imported(argument: str, text: str) -> None:
    program = (
        "import runpy, sys\n"
        "try:\n"
        "    runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "finally:\n"
        "    print(sorted({'torch', 'transformers', 'trl', 'peft'} & set(sys.modules)))\n"
    )
    start = f"import sys; sys.argv = {[str(SCRIPTS / 'train.py'), argument]!r}\n"
    done = subprocess.run([sys.executable, "-c", start + program], capture_output=True, text=True)
    assert done.returncode == 1 and text in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert done.stdout == "[]\n"
