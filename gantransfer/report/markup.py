# SPDX-License-Identifier: Apache-2.0
"""Pieces of HTML. Every text of a file or a user goes through `text`: names may hold anything."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Sequence

from dnnlib.util import printable

_ROW = re.compile(r"\s*\|.*\|\s*")


def text(value: object) -> str:
    """Plain text inside HTML or an attribute."""
    return html.escape(printable(value), quote=True)


def table(head: Sequence[str], rows: Sequence[Sequence[str]], marked: Sequence[int] = (), words: int = 1) -> str:
    """Cells are HTML already. `marked`: numbers of rows that stand out; the first `words` columns are no numbers."""
    def cells(row: Sequence[str], tag: str) -> str:
        return "".join(f'<{tag}{" class=word" if i < words else ""}>{c}</{tag}>' for i, c in enumerate(row))

    body = "".join(f'<tr{" class=marked" if i in marked else ""}>{cells(r, "td")}</tr>' for i, r in enumerate(rows))
    return f'<div class="scroll"><table><thead><tr>{cells(head, "th")}</tr></thead><tbody>{body}</tbody></table></div>'


def image(data: bytes, kind: str, about: str, attributes: str = "") -> str:
    return (f'<img src="data:image/{kind};base64,{base64.b64encode(data).decode()}" alt="{text(about)}"'
            f'{attributes and " "}{attributes}>')


def folded(title: str, content: str) -> str:
    return f"<details><summary>{text(title)}</summary>{content}</details>" if content else ""


def items(lines: Sequence[str]) -> str:
    return "<ul class=\"notes\">" + "".join(f"<li>{text(x)}</li>" for x in lines) + "</ul>" if lines else ""


def markdown(source: str) -> str:
    """What studies write: paragraphs, headings, tables, **bold**, `code` and links, whose words stay. Everything else
    is text."""
    out, lines = [], source.splitlines()
    while lines:
        line = lines.pop(0)
        if _ROW.fullmatch(line):
            rows = [line]
            while lines and _ROW.fullmatch(lines[0]):
                rows.append(lines.pop(0))
            cells = [[_inline(c.strip()) for c in re.split(r"(?<!\\)\|", r.strip()[1:-1])] for r in rows]
            rule = len(cells) > 1 and all(re.fullmatch(r"\s*:?-+:?\s*", c) for c in cells[1])
            out.append(table(cells[0], cells[2 if rule else 1:]))
        elif heading := re.fullmatch(r"(#+)\s+(.*)", line):
            level = min(len(heading[1]) + 2, 6)
            out.append(f"<h{level}>{_inline(heading[2])}</h{level}>")
        elif line.strip():
            block = [line]
            while lines and lines[0].strip() and not _ROW.fullmatch(lines[0]) and not lines[0].startswith("#"):
                block.append(lines.pop(0))
            out.append(f"<p>{_inline(' '.join(block))}</p>")
    return "\n".join(out)


def _inline(line: str) -> str:
    line = text(line.replace("\\|", "|").replace("+-", "±"))
    line = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", line)
    line = re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", line)
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", line)
