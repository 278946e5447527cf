# SPDX-License-Identifier: Apache-2.0
"""The published tables are those that the studies make today of the published values: rows, numbers, what is bold."""

import json
import re

import pytest

from gantransfer.experiments import (
    arm_tables,
    ccgan,
    cgantransfer,
    distill,
    hypermod,
    longtail,
    mind2mind,
    student_tables,
)
from tests.conftest import ROOT

RESULTS = ROOT / "docs" / "results"


def by_key(result, key):
    return {(v["arm"], v["seed"], v["kimg"]): v[key] for v in result["values"]}


def of_longtail(r, c):
    return arm_tables.of_recipes(c["arms"], r["values"], r["seconds"], c["kimg"], longtail.ARMS, longtail.PRIMARY,
                                 longtail.BESIDE)


def of_cgantransfer(r, c):
    assert set(by_key(r, "judges")) == {(a, s, k) for a in c["arms"] for s in range(c["seeds"]) for k in c["kimg"]}
    return cgantransfer.report(c["arms"], c["seeds"], c["kimg"], by_key(r, "judges"), by_key(r, "seconds"), c["shots"],
                               c["source_kimg"])


def of_hypermod(r, c):
    return hypermod.report(c["arms"], c["seeds"], c["kimg"], by_key(r, "judges"), by_key(r, "seconds"))


def of_mind2mind(r, c):
    return mind2mind.report(c["arms"], c["seeds"], c["judges"], r)


def of_ccgan(r, c):
    return student_tables.of_angles(ccgan.DESIGN, r["results"], c["images"], c["gan_kimg"], c["student_kimg"])


def of_distill(r, c):
    return student_tables.of_classes(distill.DESIGN, r["results"], c["gan_kimg"], c["student_kimg"])


def numbers(text: str) -> list[list[str]]:
    """Cells of all rows of tables but the first cell and the head, whose words may change."""
    rows = [line.strip("|").split("|")[1:] for line in text.splitlines() if line.startswith("|")]
    return [[c.strip() for c in row] for row in rows if any(re.search(r"\d", c) and not re.search("[a-zA-Z]{2}", c)
                                                            for c in row)]


@pytest.mark.parametrize("name, of", [
    ("compare-digits16-20kimg", of_longtail), ("transfer-digits16", of_cgantransfer),
    ("hypermod-digits16-8kimg", of_hypermod), ("mind2mind-digits", of_mind2mind), ("ccgan-angles", of_ccgan),
    ("cgankd-digits-longtail", of_distill), ("cgankd-digits-balanced", of_distill)])
def test_the_published_table_is_that_of_the_published_values(name, of):
    result = json.loads((RESULTS / f"{name}.json").read_text("utf-8"))
    published, now = numbers((RESULTS / f"{name}.md").read_text("utf-8")), numbers(of(result, result["command"]))
    assert len(now) >= 5 and published == now
