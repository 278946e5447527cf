# SPDX-License-Identifier: Apache-2.0
"""Labels as a source has them, as class ids or continuous values.

What is a class and what a value: whole numbers and words are classes, numbers with a point are values, and --label-kind
says otherwise.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import numpy as np

from dnnlib.util import UserError
from gantransfer.data.labels import LabelFile, check_class_names, label_array, num_classes
from gantransfer.data.names import short, sorted_classes, valid_text
from gantransfer.data.sources.base import SourceOptions, with_range

ABSENT = frozenset(("nan", "na", "n/a", "null", "none", "?"))  # how lists of numbers write that there is none


@dataclass
class Labels:
    """Labels by image name, and what goes with them."""

    labels: dict[str, Any] = field(default_factory=dict)
    class_names: tuple[str, ...] = ()
    how: str = "none"
    label_meta: dict | None = None
    num_classes: int = 0
    splits: dict[str, list[str]] = field(default_factory=dict)


def classes_or_values(raw: dict[str, Any], file: LabelFile, options: SourceOptions, how: str) -> Labels:
    """`raw`, the labels of images by name as `file` has them, as class ids where they are classes."""
    kind, values = label_array(list(raw), list(raw.values()), file.where)
    lists = isinstance(next(iter(raw.values())), (list, tuple))
    if kind == "class" and options.label_kind == "value":
        if lists:
            raise UserError(f"--label-kind=value: the labels of {file.where} are one-hot lists, that is, classes; it "
                            "is for one number per image")
        if file.class_names:
            raise UserError(f"--label-kind=value: the labels of {file.where} have names, that is, they are classes; it "
                            "is for one number per image")
        labels = {n: [float(v)] for n, v in zip(raw, values)}
        return Labels(labels, how=how, label_meta=with_range(labels, None, options, file.where))
    if kind == "value" and options.label_kind == "class":
        if values.shape[1] != 1 or (values != np.floor(values)).any() or values.min() < 0:
            raise UserError(f"--label-kind=class: the labels of {file.where} are no class indices: "
                            + ("vectors" if values.shape[1] > 1 else "fractions or below 0"))
        kind, values = "class", values[:, 0].astype(np.int64)
        raw = {n: int(v) for n, v in zip(raw, values)}
    if kind == "class":
        if options.label_range or options.label_unit:
            raise UserError("--label-range and --label-unit are for continuous labels; add --label-kind=value")
        dim = num_classes(list(raw.values()))
        check_class_names(file.class_names, dim, file.where)
        return Labels(dict(zip(raw, map(int, values))), file.class_names, how, num_classes=dim)
    if values.shape[1] == 1:
        return Labels(raw, how=how, label_meta=with_range(raw, file.label_meta, options, file.where))
    if options.label_range or options.label_unit:
        raise UserError(f"--label-range is for one number per image; {file.where} has {values.shape[1]}")
    return Labels(raw, file.class_names, how)


def from_column(names: Sequence[str], column: Sequence[Any], options: SourceOptions, where: str,
                class_names: Sequence[str] = ()) -> Labels:
    """The labels of a column whose entries belong to the images `names`: numbers, words, or lists of numbers.

    None, NaN, empty words, and -1 where the classes have names, are no label. Words that are all numbers are numbers,
    beside which ABSENT ones are no label; other words are classes in the order of `names.sorted_classes`.
    """
    raw = {n: v for n, v in zip(names, (_plain(v, where) for v in column))
           if v is not None and not (class_names and v == -1)}
    present = [v for v in raw.values() if not _absent(v)]
    if present and all(not isinstance(v, str) or _number(v) is not None for v in present):
        raw = {n: v for n, v in raw.items() if not _absent(v)}
    if not raw:
        return Labels()
    words = [v for v in raw.values() if isinstance(v, str)]
    if words and len(words) < len(raw):
        other = next(v for v in raw.values() if not isinstance(v, str))
        raise UserError(f"{where} has both words ({words[0][:40]}) and numbers ({other}); use one kind throughout")
    if words:
        numbers = {w: _number(w) for w in dict.fromkeys(words)}
        if None in numbers.values():
            class_names = sorted_classes(list(numbers), where)
            numbers = {w: k for k, w in enumerate(class_names)}
        elif any(isinstance(v, float) for v in numbers.values()):
            numbers = {w: float(v) for w, v in numbers.items()}
        raw = {n: numbers[w] for n, w in raw.items()}
    if any(isinstance(v, float) for v in raw.values()):
        raw = {n: [v] if isinstance(v, int | float) else v for n, v in raw.items()}
    return classes_or_values(raw, LabelFile(where, raw, tuple(class_names)), options, where)


def _plain(value: Any, where: str) -> Any:
    """None for no label; words in the spelling of names. UserError for what is no number, word or list of numbers."""
    if isinstance(value, bytes):
        try:
            value = value.decode()
        except UnicodeDecodeError:
            raise UserError(f"{where} holds bytes that are no text: {value[:20]!r}; write labels as text") from None
    if isinstance(value, Decimal):
        value = int(value) if value == value.to_integral_value() and value.as_tuple().exponent == 0 else float(value)
    if isinstance(value, list | tuple):
        return [_plain(v, where) for v in value]
    if value is not None and not isinstance(value, str | int | float):
        raise UserError(f"{where} holds values such as {short(value)} ({type(value).__name__}); labels are numbers, "
                        "words or lists of numbers")
    if isinstance(value, str):
        return valid_text(value.strip()) or None
    if isinstance(value, bool):
        return int(value)
    return None if isinstance(value, float) and math.isnan(value) else value


def _absent(value: Any) -> bool:
    return isinstance(value, str) and value.lower() in ABSENT


def _number(word: str) -> int | float | None:
    """Python reads more words as numbers than a list means: 1_2, nan, infinity."""
    if re.fullmatch(r"[+-]?[0-9]{1,18}", word):
        return int(word)
    return float(word) if re.fullmatch(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", word) else None
