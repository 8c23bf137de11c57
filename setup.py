"""Copy the configurations, scripts and sample data, which are outside the package, into wheels.

They are copied to ``scramble/shipped``, where :mod:`scramble.project` finds them without a clone. pyproject.toml, which
cannot express this, defines everything else about the package.
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
                # Exclude settings of the build machine and developers' scripts.
                ignore=lambda folder, names: [n for n in names if n in ("__pycache__", "local", "dev", "install.sh")],
            )


setup(cmdclass={"build_py": BuildWithConfigurations})
