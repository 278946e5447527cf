# SPDX-License-Identifier: Apache-2.0
"""Pieces of HTML."""

from gantransfer.report import markup
from tests.report.conftest import Page


def test_texts_are_escaped():
    assert markup.text('a<b>&"c"\x1b') == "a&lt;b&gt;&amp;&quot;c&quot;\\x1b"


def test_the_markdown_of_studies():
    page = Page(markup.markdown("# Head <x>\n\nWords **bold** and `code`,\nmore [link](http://x).\n\n"
                                "| | a\\|b |\n|---|---|\n| c <i> | **1 +- 2** |\n"))
    assert page.tables == [[["", "a|b"], ["c <i>", "1 ± 2"]]]
    assert "Head <x>" in page.texts and "bold" in page.texts and "".join(page.texts).count("link") == 1
    assert not [a for a in page.attributes if a[1] in ("href", "src")]
