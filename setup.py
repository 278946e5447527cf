# SPDX-License-Identifier: Apache-2.0
"""Everything about the package is in pyproject.toml; here only what cannot be said there.

GANTRANSFER_PREBUILD=1 compiles the kernels into the wheel (`pip wheel . --no-build-isolation`, with the torch that will
run them installed; what this machine has compiled before is copied). Without it they are compiled on first use. A
prebuilt library is used only with the same torch and sources on a processor with the same instruction sets; otherwise
the kernels are compiled as usual.
"""

import json
import os
import shutil
import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent

packages = find_packages(include=["dnnlib*", "gantransfer*", "torch_utils*"])
package_dir, package_data, extensions, commands = {}, {}, [], {}
if any(ROOT.glob("csrc/*.cpp")):
    # The kernels' sources are compiled on the user's machine: they travel inside torch_utils.
    packages.append("torch_utils.csrc")
    package_dir["torch_utils.csrc"] = "csrc"
    package_data["torch_utils.csrc"] = ["*"]


if any(ROOT.glob("recipes/*.yaml")):
    # The recipes of --config=NAME travel inside gantransfer.
    packages.append("gantransfer.recipes")
    package_dir["gantransfer.recipes"] = "recipes"
    package_data["gantransfer.recipes"] = ["*.yaml"]


class Prebuild(build_ext):
    """Compiles the kernels beside `torch_utils._build_info`, a module that says what they were built for."""

    def build_extension(self, ext):
        sys.path.insert(0, str(ROOT))
        from torch_utils import build

        module = Path(self.get_ext_fullpath(ext.name))
        library, made = build.build(cuda=build.cuda_problem() is None)  # a GPU's half that fails ends it
        module.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(library, module.with_name(build.LIBRARY))
        record = json.dumps({**made, "sources": build.sources_digest(), "prebuilt": True})
        source = Path(self.build_temp) / "build_info.cpp"
        source.parent.mkdir(parents=True, exist_ok=True)
        source.write_text("#include <pybind11/pybind11.h>\n"
                          f'PYBIND11_MODULE(_build_info, m) {{ m.attr("record") = R"json({record})json"; }}\n',
                          encoding="utf-8")
        ext.sources = [str(source)]
        super().build_extension(ext)


if os.environ.get("GANTRANSFER_PREBUILD") == "1":
    import pybind11

    extensions.append(Extension("torch_utils._build_info", sources=[], include_dirs=[pybind11.get_include()],
                                extra_compile_args=["-std=c++17", "-O0", "-g0"], language="c++"))
    commands["build_ext"] = Prebuild

setup(packages=packages, package_dir=package_dir, package_data=package_data, ext_modules=extensions, cmdclass=commands)
