"""What the scripts share: they turn a composed configuration into plain values, run a stage, report errors.

An error that this package raises on purpose (its own exception classes, or a ValueError from its own code) is a message
to the user: it is printed as one line and the script ends with status 1. Any other is a defect and keeps its trace.
"""

from __future__ import annotations

import difflib
import functools
import os
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scramble import interrupt
from scramble.project import shipped

if TYPE_CHECKING:
    from omegaconf import DictConfig


class ConfigError(ValueError):
    """A configuration that cannot run: missing keys, values that do not go together."""


def stage_main(main: Callable[[DictConfig], None]) -> Callable[[DictConfig], None]:
    """Decorate a script's main: user errors become one line on standard error and exit status 1."""

    @functools.wraps(main)
    def guarded(cfg: DictConfig) -> None:
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        if not sys.stderr.isatty():
            os.environ.setdefault("TQDM_DISABLE", "1")  # bars are for people; the libraries' own ones too
        # The libraries' notes to each other about their next versions.
        warnings.filterwarnings("ignore", category=FutureWarning, module=r"(accelerate|transformers|peft|datasets)\b")
        interrupt.listen()
        try:
            if cfg.get("launcher", {}).get("kind", "inline") == "inline":
                main(cfg)
            else:
                _launch([cfg], [[]], Path(cfg.run.dir) / "jobs")
        except interrupt.Stopped as stopped:
            print(f"{stopped}; the same command goes on from here", file=sys.stderr)
            sys.exit(interrupt.EXIT_STOPPED)
        except KeyboardInterrupt:
            sys.exit("stopped; the same command goes on from here")
        except Exception as error:
            if not _is_message(error):
                raise
            sys.exit(f"error: {error}")

    return guarded


def start_sweep(
    main: Callable[[DictConfig], None], configs: Sequence[DictConfig], overrides: Sequence[Sequence[str]], folder: Path
) -> None:
    """Run the points of a sweep: here, one after the other, or where ``launcher`` says.

    Args:
        main: a script's main, decorated by :func:`stage_main`.
        configs: the composed configuration of each point.
        overrides: its command-line overrides.
        folder: where the jobs of other launchers go.
    """
    if any(cfg.launcher.kind != "inline" for cfg in configs):
        stage_main(lambda cfg: _launch(configs, overrides, folder))(_inline())
        return
    from omegaconf import OmegaConf, open_dict

    from scramble.launch.names import name_arm, what_varies

    for cfg, varied in zip(configs, what_varies(overrides), strict=True):
        point = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
        known = {"run": {"arm": cfg.run.arm}, "objective": {"name": cfg.objective.name}, "seed": cfg.seed}
        with open_dict(point):
            point.run.arm = name_arm(known, varied)["run"]["arm"]
        main(point)


def _launch(configs: Sequence[DictConfig], overrides: Sequence[Sequence[str]], folder: Path) -> None:
    from scramble.launch import launch

    values = [_resolved(cfg) for cfg in configs]
    launch(Path(sys.argv[0]), values, overrides, folder, plain(configs[0], "launcher")["launcher"])


def _inline() -> DictConfig:
    from omegaconf import OmegaConf

    return OmegaConf.create({"launcher": {"kind": "inline"}})


def _resolved(cfg: DictConfig) -> dict[str, Any]:
    """A whole configuration as plain values, without Hydra's own part; what has no value keeps its ``???``."""
    from omegaconf import OmegaConf

    sections = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
    values: Any = OmegaConf.to_container(sections, resolve=True)
    return values


def start(main: Callable[..., None]) -> None:
    """Run a script's Hydra main; a key or a name that no configuration file has is answered with the nearest ones.

    With ``--resolved FILE`` main gets the configuration in the file as it is: that is how jobs are started.
    """
    if sys.argv[1:2] == ["--resolved"]:
        from scramble.launch.job import run_resolved

        run_resolved(main, sys.argv[2])
        return
    configs = Path(sys.argv[0]).resolve().parents[1] / "configs"
    for argument in sys.argv[1:]:
        group, _, choice = argument.lstrip("+").partition("=")
        folder = configs / group
        if not choice or not folder.is_dir() or "." in group:
            continue
        known = {path.stem for path in folder.glob("*.yaml") if not path.stem.startswith("_")}
        for name in choice.strip("[]").split(","):
            if name and name not in known | {"null"}:
                close = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
                hint = f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(sorted(known))}"
                sys.exit(f"error: no {group} is called {name!r}; {hint}")
    _check_keys(configs, sys.argv[1:])
    main()


def _check_keys(configs: Path, arguments: Sequence[str]) -> None:
    """Leave with a line for a key that stands in no configuration file: Hydra's advice is to add it."""
    keys = [argument.partition("=")[0] for argument in arguments if "=" in argument and argument[0] not in "+~-"]
    keys = [key for key in keys if not key.startswith("hydra.") and "@" not in key and "/" not in key]
    if not keys:
        return
    known = {path.name for path in configs.iterdir() if path.is_dir()}
    for path in configs.rglob("*.yaml"):
        known.update(re.findall(r"([A-Za-z]\w*):", path.read_text(encoding="utf-8")))
    for key in keys:
        name = key.rpartition(".")[2]
        if name not in known and (close := difflib.get_close_matches(name, known, n=1)):
            sys.exit(f"error: no key is called {key!r}; did you mean {key.removesuffix(name)}{close[0]}?")


def _is_message(error: Exception) -> bool:
    if type(error).__module__.partition(".")[0] == "scramble":
        return True
    frames = list(traceback.walk_tb(error.__traceback__))
    raised_in = frames[-1][0].f_globals.get("__name__", "") if frames else ""
    return isinstance(error, ValueError) and raised_in.partition(".")[0] == "scramble"


def plain(cfg: DictConfig, *sections: str) -> dict[str, Any]:
    """The named sections of a configuration as plain Python values, interpolations resolved.

    Raises:
        ConfigError: naming every required key (``???``) of these sections that has no value.
    """
    from omegaconf import OmegaConf

    missing = sorted(
        key
        for key in OmegaConf.missing_keys(cfg)
        if any(key == s or key.startswith((f"{s}.", f"{s}[")) for s in sections)
    )
    if missing:
        example = " ".join(f"{key}=..." for key in missing)
        raise ConfigError(f"these keys have no value: {', '.join(missing)}. Give them on the command line: {example}")
    return {s: _shipped(_value(cfg, s)) for s in sections}


def _shipped(value: Any) -> Any:
    """Paths of files that ship with the project, wherever the script was started."""
    if isinstance(value, dict):
        return {key: _shipped(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_shipped(each) for each in value]
    return shipped(value) if isinstance(value, str) else value


def _value(cfg: DictConfig, section: str) -> Any:
    from omegaconf import Container, OmegaConf

    value = cfg[section]
    return OmegaConf.to_container(value, resolve=True) if isinstance(value, Container) else value


def environment() -> dict[str, Any]:
    """Versions, git commit and hardware, for the run folder."""
    import importlib.metadata
    import platform

    names = (
        "scramble",
        "torch",
        "transformers",
        "trl",
        "peft",
        "accelerate",
        "datasets",
        "spacy",
        "hydra-core",
        "wandb",
    )
    versions = {name: importlib.metadata.version(name) for name in names}
    root = Path(__file__).resolve().parents[2]
    commit, changed = (_git(root, *words) for words in (("rev-parse", "HEAD"), ("status", "--porcelain", "-uno")))
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "gpus": _gpus(),
        "packages": versions,
        "git_commit": commit or None,
        "git_dirty": None if changed is None else bool(changed),
    }


def _gpus() -> list[str]:
    # torch takes seconds to import; without a driver (NVIDIA's, AMD's, Windows Subsystem's) it would find nothing.
    if not any(Path("/dev", driver).exists() for driver in ("nvidiactl", "kfd", "dxg")):
        return []
    import torch

    return [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]


def _git(root: Path, *words: str) -> str | None:
    """What git says of the project's folder; None without git, or outside a repository."""
    import subprocess

    try:
        done = subprocess.run(["git", "-C", root, *words], capture_output=True, text=True)
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
