"""Runs the stages of the scripts: checks the composed configuration, starts the work and reports errors.

Exceptions of this package's own classes, and ValueErrors that this package raises, are user errors. The script prints a
user error as one line and ends with status 1. Any other error is a bug and is shown with its traceback.
"""

from __future__ import annotations

import functools
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scramble import interrupt
from scramble.config.flags import check_options
from scramble.config.keys import is_optional
from scramble.config.overrides import expand_home, expand_home_in_values, explained, split_options
from scramble.config.record import complete, plain_section, remember
from scramble.config.roots import ROOTS
from scramble.config.validation import check_root, missing_keys, no_value, validate, without_hydra, wrap_single_values
from scramble.console import log_heading, log_to_run, log_to_terminal
from scramble.field_checks import ConfigError
from scramble.pipeline.provenance import COMMAND, remember_command
from scramble.project import shipped_values

if TYPE_CHECKING:
    from omegaconf import DictConfig

__all__ = ["ConfigError", "plain_sections", "stage_main", "start", "start_sweep"]

Main = Callable[["DictConfig"], None]
log = logging.getLogger(__name__)


def stage_main(root: str, *sections: str, log_file: bool = True) -> Callable[[Main], Main]:
    """Return a decorator for a script's main function.

    The whole configuration is checked before main runs. A user error is printed as one line on standard error, and the
    exit status is then 1.

    Args:
        root: the script's name, a key of :data:`scramble.config.roots.ROOTS`.
        sections: sections of the configuration that the script reads.
        log_file: whether to record the command and its messages in the run's ``log.txt``.
    """

    def decorate(main: Main) -> Main:
        @functools.wraps(main)
        def guarded(cfg: DictConfig) -> None:
            from hydra.core.hydra_config import HydraConfig

            with errors_as_messages():
                wrap_single_values(cfg, root)
                if not HydraConfig.initialized():  # a job, whose configuration the launching process has completed
                    run(cfg, [])
                    return
                overrides = list(HydraConfig.get().overrides.task)
                expand_home_in_values(cfg)
                run(cfg, overrides, complete(cfg, root, overrides))

        def run(cfg: DictConfig, overrides: Sequence[str], line: str | None = None) -> None:
            validate(cfg, root, sections)
            if cfg.get("dry_run"):
                from scramble.pipeline.plan import plan

                if line:
                    log.info(line)
                plan(root, shipped_values(_resolved_values(cfg)))
                return
            log_to_run((cfg.run.dir if "run" in cfg else cfg.get("dir")) if log_file else None)
            log.debug("%s", os.environ.get(COMMAND, ""))
            if line:
                log_heading(line)
            remember(cfg, root, overrides)
            is_new = "run" in cfg and not Path(cfg.run.dir).exists()
            try:
                if cfg.get("launcher", {}).get("kind", "inline") == "inline":
                    main(cfg)
                else:
                    _launch([cfg], [[]], Path(cfg.run.dir) / "jobs")
            except Exception:
                if is_new:
                    from scramble.pipeline.stage import discard_if_empty

                    discard_if_empty(Path(cfg.run.dir))
                raise
            finally:
                remember(cfg, root, overrides)  # again, because main may have created the folder

        guarded.run = run  # type: ignore[attr-defined]
        guarded.root, guarded.sections = root, sections  # type: ignore[attr-defined]
        return guarded

    return decorate


@contextmanager
def errors_as_messages() -> Iterator[None]:
    """Within the block, end the process with a one-line message on a user error or a stop signal."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")  # keep the libraries' progress bars out of log files
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(accelerate|transformers|peft|datasets)\b")
    log_to_terminal()
    interrupt.listen()
    try:
        yield
    except interrupt.Stopped as stopped:
        log.debug("%s", stopped)  # debug records go only to the run's log file
        print(stopped, file=sys.stderr)
        sys.exit(stopped.status)
    except Exception as error:
        if not _is_message(error):
            log.debug("failed", exc_info=True)
            raise
        log.debug("error: %s", error)
        sys.exit(f"error: {error}")


def start_sweep(main: Main, configs: Sequence[DictConfig], overrides: Sequence[Sequence[str]], folder: Path) -> None:
    """Run the points of a sweep sequentially in the calling process, or with the configured launcher.

    All points are checked before the first point starts.

    Args:
        main: a script's main function, decorated with :func:`stage_main`.
        configs: the composed configuration of each point.
        overrides: the command-line overrides of each point.
        folder: folder for the jobs that a launcher starts.
    """
    with errors_as_messages():
        root, sections = main.root, main.sections  # type: ignore[attr-defined]
        for cfg in configs:
            wrap_single_values(cfg, root)
            expand_home_in_values(cfg)
        completions = [complete(cfg, root, changed) for cfg, changed in zip(configs, overrides, strict=True)]
        # Report a fault only once, even if several points share it.
        if faults := dict.fromkeys(clause for cfg in configs for clause in check_root(cfg, root, sections)):
            raise ConfigError(faults)
        if any(cfg.launcher.kind != "inline" and not cfg.dry_run for cfg in configs):
            log_to_run(configs[0].run.dir)
            for line in dict.fromkeys(filter(None, completions)):
                log.info(line)
            _launch(configs, overrides, folder)
            return
    from omegaconf import open_dict

    from scramble.launch.names import name_arm, varying_overrides

    notes = [line if line not in completions[:number] else None for number, line in enumerate(completions)]
    for cfg, changed, varied, note in zip(configs, overrides, varying_overrides(overrides), notes, strict=True):
        point = without_hydra(cfg)
        named = {"run": {"arm": cfg.run.arm}, "objective": {"name": cfg.objective.name}, "seed": cfg.seed}
        with open_dict(point):
            point.run.arm = name_arm(named, varied)["run"]["arm"]
        with errors_as_messages():
            main.run(point, changed, note)  # type: ignore[attr-defined]


def _launch(configs: Sequence[DictConfig], overrides: Sequence[Sequence[str]], folder: Path) -> None:
    from scramble.launch import launch

    values = [_resolved_values(cfg) for cfg in configs]
    launch(Path(sys.argv[0]), values, overrides, folder, plain_sections(configs[0], "launcher")["launcher"])


def _resolved_values(cfg: DictConfig) -> dict[str, Any]:
    """Return the whole configuration without Hydra's section, as plain values. Missing values remain ``???``."""
    from omegaconf import OmegaConf

    values: Any = OmegaConf.to_container(without_hydra(cfg), resolve=True)
    return values


def start(main: Callable[..., None]) -> None:
    """Run a script's Hydra main function, and explain Hydra's errors in one line (:mod:`scramble.config.overrides`).

    With ``--resolved FILE``, main runs without Hydra and uses the configuration in the file. Launchers start jobs this
    way.
    """
    if sys.argv[1:2] == ["--resolved"]:
        from scramble.launch.job import run_resolved

        run_resolved(main, sys.argv[2])
        return
    remember_command(sys.argv)
    root = Path(sys.argv[0]).stem
    with errors_as_messages():
        check_options(sys.argv[1:], root)
    options, overrides = split_options(sys.argv[1:])
    overrides.sort(key=lambda argument: argument.startswith("+debug="))  # last, because it overrides an experiment
    sys.argv[1:] = [*options, *(addable(expand_home(argument), root) for argument in overrides)]
    with errors_as_messages(), explained(root, sys.argv[1:], main.sections):  # type: ignore[attr-defined]
        if help_flags := {"--help", "-h"} & set(sys.argv[1:]):
            from scramble.config.help import help_text

            overrides = [argument for argument in sys.argv[1:] if argument not in help_flags]
            about = sys.modules[main.__module__].__doc__ or ""
            print(help_text(root, main.sections, overrides, about))  # type: ignore[attr-defined]
            return
        main()


def addable(argument: str, root: str) -> str:
    """Prefix an override with ``++`` if its key is optional (:func:`scramble.config.keys.is_optional`) in the script
    ``root``, because Hydra otherwise rejects a key that no file sets.
    """
    text = argument.lstrip("+")
    return f"++{text}" if is_optional(text.partition("=")[0], ROOTS[root]) else argument


def _is_message(error: Exception) -> bool:
    if type(error).__module__.partition(".")[0] == "scramble":
        return True
    frames = list(traceback.walk_tb(error.__traceback__))
    raised_in = frames[-1][0].f_globals.get("__name__", "") if frames else ""
    return isinstance(error, ValueError) and raised_in.partition(".")[0] == "scramble"


def plain_sections(cfg: DictConfig, *sections: str) -> dict[str, Any]:
    """Return the named sections of a configuration as plain Python values, with interpolations resolved.

    Raises:
        ConfigError: if a required key (``???``) of these sections has no value; the message names all such keys.
    """
    if missing := missing_keys(cfg, sections):
        raise ConfigError(no_value(missing))
    return {section: plain_section(cfg, section) for section in sections}
