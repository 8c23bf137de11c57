"""Reproduce a paper's table: run or reuse the required runs, and print measured and published numbers side by side.

python scripts/reproduce.py table=scramble_main size=tiny   tiny models and the embedded world, on a CPU in minutes
python scripts/reproduce.py table=mpo_main list=true        list the runs of the full size and their commands
python scripts/reproduce.py table=mpo_algorithms paths.mmpr=/data/MMPR-v1.2/meta.json
"""

from __future__ import annotations

import hydra
from omegaconf import DictConfig, OmegaConf

from scramble.app import ConfigError, plain_sections, stage_main, start

SECTIONS = ("table", "dir", "size", "seeds", "more", "judge", "only", "list")


def fill_paths(cfg: DictConfig) -> None:
    """Raise ConfigError if a path that the selected size needs is not set and ``list`` is false.

    Placeholders replace all other paths that are not set.
    """
    needed = {name for run in cfg.table.runs.values() for name in run.get(cfg.size, {}).get("needs", [])}
    missing = sorted(f"paths.{name}" for name in needed if OmegaConf.is_missing(cfg.paths, name))
    if missing and not cfg.list:
        raise ConfigError(
            f"missing values of {', '.join(missing)}: set them on the command line ("
            f"{' '.join(f'{key}=...' for key in missing)}), or use size=tiny or list=true"
        )
    for name in cfg.paths:
        if OmegaConf.is_missing(cfg.paths, name):
            cfg.paths[name] = f"path/to/{name}"


@hydra.main(version_base="1.3", config_path="../configs", config_name="reproduce")
@stage_main("reproduce", *SECTIONS)
def main(cfg: DictConfig) -> None:
    fill_paths(cfg)
    values = plain_sections(cfg, *SECTIONS)
    from scramble.launch.reproduce import reproduce

    reproduce(values.pop("table"), values.pop("dir"), list_only=values.pop("list"), **values)


if __name__ == "__main__":
    start(main)
