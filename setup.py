"""What pyproject.toml cannot say: a wheel holds the configurations, scripts and samples, which lie beside the package.

They go to ``scramble/shipped``; :mod:`scramble.project` looks there where there is no clone. Everything else about the
package is in pyproject.toml.
"""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

SHIPPED = ("configs", "scripts", "data")


class BuildWithConfigurations(build_py):
    """Copies the folders when a wheel is built; an editable installation reads them where they are."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        root = Path(__file__).resolve().parent
        for name in SHIPPED:
            shutil.copytree(
                root / name,
                Path(self.build_lib) / "scramble" / "shipped" / name,
                dirs_exist_ok=True,
                # Settings of the machine that builds, and developers' scripts.
                ignore=lambda folder, names: [n for n in names if n in ("__pycache__", "local", "dev", "install.sh")],
            )


setup(cmdclass={"build_py": BuildWithConfigurations})
