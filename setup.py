# SPDX-License-Identifier: Apache-2.0
"""Everything about the package is in pyproject.toml; here only what cannot be said there."""

from pathlib import Path

from setuptools import find_packages, setup

packages = find_packages(include=["dnnlib*", "gantransfer*", "torch_utils*"])
package_dir, package_data = {}, {}
if any(Path(__file__).parent.glob("csrc/*.cpp")):
    # The kernels' sources are compiled on the user's machine: they travel inside torch_utils.
    packages.append("torch_utils.csrc")
    package_dir["torch_utils.csrc"] = "csrc"
    package_data["torch_utils.csrc"] = ["*"]

setup(packages=packages, package_dir=package_dir, package_data=package_data)
