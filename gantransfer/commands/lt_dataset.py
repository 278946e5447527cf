# SPDX-License-Identifier: Apache-2.0
"""Long-tailed label files from a data set: `python lt_dataset.py --fn datasets/af/dataset.json --imf 25`, see --help.

Images stay where they are; the file written (`lt_25.json`) lists those that belong and is given to training by --fname.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Sequence

import click

from dnnlib.util import UserError, printable, regular_file
from gantransfer.commands import CONTEXT
from gantransfer.commands.flags import FLOAT, INT, PATH, SEED, Choice
from gantransfer.data import longtail
from gantransfer.data.container import Container
from gantransfer.data.labels import parse_label_file
from gantransfer.data.longtail import KNOWN_SETS, ORDERS, Options, Split


def _table(split: Split, class_names: Sequence[str]) -> str:
    group_of = {k: g for g, v in split.shots.items() for k in v}
    lines = [f"{'new':>5} {'old':>5} {'all':>7} {'kept':>7}  group   name"]
    for k in sorted(split.order, key=split.new_label.__getitem__):
        new = split.new_label[k]
        lines.append(f"{new:5d} {k:5d} {len(split.full[k]):7d} {len(split.kept[k]):7d}  {group_of.get(new, '-'):7} "
                     f"{printable(class_names[k]) if k < len(class_names) else ''}".rstrip())
    return "\n".join(lines)


@click.command(context_settings=CONTEXT)
@click.option("--fn", required=True, type=PATH, metavar="PATH",
              help="a dataset.json in a data-set folder, or a data-set zip")
@click.option("--imf", type=FLOAT, help="images of the head class / images of the tail class, for example 25 "
              "[default: keep the set's own distribution, write lt_natural.json]")
@click.option("--dname", type=Choice(list(KNOWN_SETS)), help="known set: its published class order and groups")
@click.option("--shot-labels", is_flag=True, help="also write class_<a>_<b>.json for the many, medium and few classes")
@click.option("--reverse", is_flag=True, help="the tail comes first")
@click.option("--seed", type=SEED, default=0, show_default=True, help="which images are kept")
@click.option("--order", type=Choice(ORDERS), help="which class is the head: largest first, smallest or largest "
              "label first, at random, or as in the file [default: count, or what --dname says]")
@click.option("--n-max", type=INT, help="images of the head class [default: the largest class]")
@click.option("--min-per-class", type=INT, default=1, show_default=True, help="keep at least this many of each class")
@click.option("--keep-labels", is_flag=True, help="keep the original class numbers (default: 0 = head)")
@click.option("--shots", metavar="A,B,C", help="first rank of many, medium and few, for example 0,3,6 [default: the "
              "table of --dname, else 0.3, 0.3, 0.4 of the classes; without --imf many > 100, medium 20-100, few < 20]")
@click.option("--legacy", is_flag=True, help="exactly the published script's files, for a --seed (needs --dname)")
def main(fn: str, imf: float | None, dname: str | None, shot_labels: bool, reverse: bool, seed: int, order: str | None,
         n_max: int | None, min_per_class: int, keep_labels: bool, shots: str | None, legacy: bool) -> None:
    """Choose a long-tailed subset of a class-labelled data set.

    Class i of C keeps n_max / imf^(i/(C-1)) images. Writes lt_<imf>.json beside --fn (or into the zip): labels, the
    map from old to new class numbers, counts and groups. Train on it with --data=FOLDER_OR_ZIP --fname=lt_<imf>.json.
    """
    if os.path.isdir(fn):
        raise UserError(f"--fn={fn} is a folder; give its dataset.json")
    if not os.path.exists(fn):
        raise UserError(f"--fn={fn}: no such file")
    regular_file(fn)
    longtail.check_imf(imf)
    is_zip = zipfile.is_zipfile(fn) or fn.lower().endswith(".zip")
    container = Container(fn if is_zip else os.path.dirname(os.path.abspath(fn)))
    member = container.label_file() if is_zip else container.find(os.path.basename(fn))
    if member is None:
        raise UserError(f"{fn} has no dataset.json; make labels with dataset_tool.py")
    where = f"{member} of {fn}" if is_zip else fn
    raw = container.read(member)
    file = parse_label_file(container.read_json(member), where)
    if not file.labels:
        raise UserError(f"{where} has no labels; a long-tailed split needs class labels")

    if legacy:
        if dname is None or imf is None:
            raise UserError("--legacy needs --dname and --imf")
        unused = [f for f, v in (("--order", order), ("--n-max", n_max), ("--keep-labels", keep_labels),
                                 ("--shots", shots), ("--min-per-class", min_per_class != 1)) if v]
        if unused:
            raise UserError(f"--legacy follows the published rules; omit {unused[0]}")
        contents, classes, counts = longtail.legacy_files(file.labels, dname, imf, reverse, shot_labels, seed, where)
        for i, (k, n) in enumerate(zip(classes, counts)):
            click.echo(f"{i:5d} {k:5d} {n:7d}")
        if not all(counts):
            click.echo(f"warning: {counts.count(0)} classes keep no image (omit --legacy to keep at least one)")
    else:
        try:
            cuts = None if shots is None else tuple(int(v) for v in shots.split(","))
        except ValueError:
            raise UserError(f"--shots={shots}: write ranks, for example 0,3,6") from None
        if dname is not None and cuts is None:
            num, usual = len(set(map(str, file.labels.values()))), KNOWN_SETS[dname][1][-1]
            if num != usual:
                click.echo(f"warning: {dname} has {usual} classes, this set {num}: groups by rank instead of the table")
        o = Options(imf=imf, order=order or (KNOWN_SETS[dname][0] if dname else "count"), reverse=reverse, seed=seed,
                    n_max=n_max, min_per_class=min_per_class, keep_labels=keep_labels, shots=cuts, dname=dname)
        split = longtail.make_split(file.labels, o, where)
        stem = "natural" if imf is None else f"{imf:g}"
        digest = hashlib.sha256(raw).hexdigest()
        names = file.class_names if len(file.class_names) > max(split.order) else ()
        name = f"lt_{stem}{'_reverse' if reverse else ''}.json"
        contents = {name: longtail.manifest(split, o, names, member, digest)}
        if shot_labels:
            if not split.shots:
                raise UserError("--shot-labels: the classes fall into no groups; give --shots=A,B,C")
            contents |= longtail.shot_files(split)
        click.echo(_table(split, names))
    replaced = longtail.write_files(container, fn, contents)
    total = len(next(iter(contents.values()))["labels"])
    click.echo(f"{total} of {len(file.labels)} images; wrote {', '.join(contents)} "
               f"{'into' if is_zip else 'beside'} {fn}"
               + (f" (other content of {', '.join(replaced)} is replaced)" if replaced else ""))
