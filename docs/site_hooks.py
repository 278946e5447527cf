# SPDX-License-Identifier: Apache-2.0
"""What mkdocs.yml needs beside the pages: README, CONTRIBUTING and CHANGELOG as pages, and no links out of the site.

The pages are written to be read in the repository, where links such as `../csrc/fir.h` lead to the file. A site has no
such file: there the words of the link stay, with the file's name where they do not say it.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
TOP = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s#]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    for name, page in TOP.items():
        files.append(File.generated(config, page, content=(ROOT / name).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    here = page.file.src_uri
    folder = "" if here in TOP.values() else posixpath.join("docs", posixpath.dirname(here))

    def rewrite(m: re.Match[str]) -> str:
        picture, words, target, anchor = m[1], m[2], m[3], m[4] or ""
        if re.match(r"[a-z]+:", target):
            return m[0]
        path = posixpath.normpath(posixpath.join(folder, target))
        inside = TOP.get(path) or (path.removeprefix("docs/") if path.startswith("docs/") else None)
        if inside is None or files.get_file_from_path(inside) is None:
            return words if posixpath.basename(path) in words else f"{words} (`{path}`)"
        return f"{picture}[{words}]({posixpath.relpath(inside, posixpath.dirname(here) or '.')}{anchor})"

    return LINK.sub(rewrite, markdown)
