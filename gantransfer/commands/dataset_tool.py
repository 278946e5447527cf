# SPDX-License-Identifier: Apache-2.0
"""Make, check and export data sets: `python dataset_tool.py --source=... --dest=...`, see --help."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from typing import Any

import click

from dnnlib.util import UserError
from gantransfer.commands import CONTEXT, flags
from gantransfer.data import h5, holdout
from gantransfer.data.check import Check
from gantransfer.data.classes import CLASS_HELP, parse_classes
from gantransfer.data.convert import Conversion, convert, convert_h5
from gantransfer.data.decode import MAX_PIXELS
from gantransfer.data.destination import Destination, may_replace, not_the_source
from gantransfer.data.export import export_set
from gantransfer.data.labels import LabelSpec
from gantransfer.data.names import valid_text
from gantransfer.data.sources import SPLITS, Source, SourceOptions, elpv, open_source
from gantransfer.data.transforms import FILTERS


def parse_resolution(text: str | None, width: int | None, height: int | None) -> tuple[int | None, int | None]:
    """(width, height) from --resolution or from --width and --height."""
    if text is not None:
        match = re.fullmatch(r"([0-9]{1,9})(?:[xX]([0-9]{1,9}))?", text.strip())
        if not match:
            raise UserError(f"--resolution={text}: write WIDTHxHEIGHT, for example 64x64")
        if width is not None or height is not None:
            raise UserError("--resolution and --width/--height say the same thing; give one of them")
        width, height = int(match[1]), int(match[2] or match[1])
    for flag, value in (("--width", width), ("--height", height)):
        if value is not None and not 1 <= value <= 65536:
            raise UserError(f"{'--resolution' if text else flag}: {value} is not a possible size")
    return width, height


WORDS = ("auto", "folders", "json", "none", "utkface", "steering", *elpv.LABELS)


def parse_labels(text: str, flag: str) -> str | tuple[str, str]:
    """One of WORDS, or (file, column) of FILE:COLUMN."""
    file, colon, column = text.rpartition(":")
    if not colon or not file or not column:
        flags.check_choice(flag, text, (*WORDS, "FILE:COLUMN"))
        return text
    return flags.path(file, flag), column


LABELS = flags.Text("labels", parse_labels)


def chosen_classes(source: Source, text: str | None) -> list[int] | None:
    """The ids that --classes names, in its order; None: all classes as they are."""
    if text is None:
        return None
    if source.labelled == "none":
        raise UserError(f"--classes needs class labels, and {source.name} has none")
    # Without names nobody has counted the classes yet: what turns out to have no image is said after reading.
    label = LabelSpec("class", len(source.class_names) or 10**6, names=tuple(source.class_names))
    return parse_classes(text, label, "--classes", owner=source.name, twice=False)


_HELP = """Make a data set: a zip (or folder) of PNG images with labels, as training reads it.

\b
--source is one of
  FOLDER                         images in it; class sub-folders become labels, a dataset.json at its root wins
  FILE.zip                       the same inside a zip
  cifar-10-python.tar.gz         (or cifar-100) the archive as downloaded
  train-images-idx3-ubyte.gz     MNIST, with its labels file beside it
  SHARDS-{000..099}.tar          WebDataset: members of one name are a sample, .cls its class (quote the braces)
  FILE.parquet, FOLDER           Parquet, or a data set of Hugging Face's `datasets` (package pyarrow)
  FOLDER_lmdb                    an LMDB database, LSUN or with labels (package lmdb)
  FILE.h5                        an HDF5 file of cGAN-KD (needs the package h5py)
  sklearn:digits                 real handwritten digits that come with scikit-learn
  sklearn:rotated-digits         some of them turned by 0 to 90 degrees, the label
  fonts:FOLDER                   letters rendered from the .ttf and .otf files below it
  icons:FOLDER                   the .png icons of an icon theme: one size, a class per category, on white
  elpv                           photographs of solar cells, sound to defective (pip install elpv-dataset)

\b
--dest is a name ending in .zip, a new or empty folder, or FILE.h5 (the layouts of cGAN-KD). It appears only when
complete.

\b
Examples
  python dataset_tool.py --source=Image/ --dest=datasets/af.zip --transform=center-crop --resolution=64x64
  python dataset_tool.py --source=cifar-10-python.tar.gz --dest=datasets/cifar10.zip
  python dataset_tool.py check datasets/af.zip
  python dataset_tool.py export --source=datasets/af.zip --dest=folders/af
"""


FOLLOW_LINKS = click.option("--follow-links", is_flag=True,
                            help="follow links out of the folder (default: an error)")


@click.group(invoke_without_command=True, help=_HELP, context_settings=CONTEXT)
@click.option("--source", type=flags.PATH, metavar="PATH", multiple=True,
              help="what to convert (required); several shards of one set may be given, or as SHARDS-{000..099}.tar")
@click.option("--dest", type=flags.PATH, metavar="PATH", help="zip or folder to write (required)")
@click.option("--transform", type=flags.Choice(["center-crop", "center-crop-wide", "pad"]),
              help="crop or pad to --resolution (default: only resize, if sizes are given)")
@click.option("--resolution", metavar="WxH", help="output size")
@click.option("--width", type=flags.INT, help="output width (the older way)")
@click.option("--height", type=flags.INT, help="output height (the older way)")
@click.option("--resize-filter", type=flags.Choice(list(FILTERS)), default="lanczos", show_default=True)
@click.option("--max-images", type=flags.IntRange(min=1), help="only the first N images")
@click.option("--per-class", type=flags.IntRange(min=1), help="only the first N images of each class")
@click.option("--channels", type=flags.Choice(["keep", "1", "3"]), default="keep", show_default=True,
              help="1 makes greyscale, 3 makes RGB")
@click.option("--alpha", type=flags.Choice(["black", "white", "drop"]),
              help="lay transparent images on black or white, or drop the alpha channel (default: an error)")
@click.option("--range", "value_range", metavar="LOW,HIGH",
              type=flags.Pair("the values that become black and white", "0,4095"),
              help="pixel values that become black and white, for images of more than 8 bits: 0,4095 for 12-bit data "
                   "in 16-bit files; needed for floating-point images")
@click.option("--max-pixels", type=flags.IntRange(min=1),
              help="refuse images with more pixels; raise it for slides and satellite images that you trust  [default: "
                   f"{MAX_PIXELS}, less for very small files]")
@click.option("--labels", type=LABELS, metavar="|".join((*WORDS, "FILE:COLUMN")),
              default="auto", show_default=True, help="where labels come from; utkface: age in the file name; "
              "steering: data.txt; elpv: class (type of cell and defect), defect (four degrees) or value (the degree, "
              "continuous); FILE:COLUMN: a CSV, TSV, JSON or JSON-lines list that names the images")
@click.option("--label-column", metavar="NAME", help="WebDataset: the member (default: cls) or key of .json with the "
              "label; Parquet: the column  [default: that of classes, or called label]")
@click.option("--image-column", metavar="NAME", help="WebDataset and Parquet: which images, if there are several")
@click.option("--label-kind", type=flags.Choice(list(h5.KINDS)), default="auto", show_default=True,
              help="make whole numbers continuous values (value) or keep them classes (class)")
@click.option("--label-range", metavar="LOW,HIGH", type=flags.Pair("the two labels that become 0 and 1", "0,60"),
              help="continuous labels: which become 0 and 1")
@click.option("--label-unit", metavar="TEXT", help="continuous labels: their unit, for reports")
@click.option("--format", "fmt", type=flags.Choice(list(h5.FORMATS)), default=h5.FORMATS[1], show_default=True,
              help="--dest=FILE.h5: layout of cGAN-KD's first or second code")
@click.option("--test-source", type=flags.PATH, metavar="PATH", help="--dest=FILE.h5: what to write as the test part")
@click.option("--drop-unlabelled", is_flag=True, help="leave out images without a label")
@click.option("--drop-duplicates", is_flag=True, help="leave out images that repeat an earlier one pixel by pixel")
@click.option("--keep-names", is_flag=True, help="write what the source calls each image into dataset.json "
              "(\"attributes\": \"original_name\")")
@click.option("--overwrite", is_flag=True, help="replace what is at --dest (a zip, an HDF5 file, a data-set folder)")
@click.option("--classes", metavar="LIST", help=f"only these classes, renumbered from 0 in "
              f"the order given: {CLASS_HELP}")
@click.option("--split", type=flags.Choice([*SPLITS, "pool", "test", *h5.SPLITS]),
              help="part of a source: train (or pool), reference (or test, held out), all; folders also val; HDF5 also "
                   "subtrain, subvalid, rest")
@click.option("--holdout", type=flags.FloatRange(0, 1, min_open=True, max_open=True), metavar="SHARE",
              help="write this share of each class into a second set, not into --dest; 0.25 is a quarter")
@click.option("--dest-heldout", type=flags.PATH, metavar="PATH",
              help="where --holdout writes it  [default: --dest with -heldout in its name]")
@click.option("--seed", type=flags.SEED, default=0, show_default=True, help="seed of the split and of --holdout")
@click.option("--letters", metavar="LIST", help="fonts: which letters, for example A-J or A-Z,a-z  [default: A-Z]")
@click.option("--font-distance", type=flags.FloatRange(min=0), default=0.12, show_default=True,
              help="fonts: leave out faces nearer (rms of 0..1 pixels) than this to one already taken")
@FOLLOW_LINKS
@click.pass_context
def main(ctx: click.Context, source: tuple[str, ...], dest: str | None, **o: Any) -> None:
    if ctx.invoked_subcommand is not None:
        return
    if not source or dest is None:
        raise UserError(f"{'--dest' if source else '--source'} is missing; see gantransfer dataset_tool --help")
    source, *shards = source
    width, height = parse_resolution(o["resolution"], o["width"], o["height"])
    if o["transform"] and (width is None or height is None):
        raise UserError(f"--transform={o['transform']} needs --resolution=WxH (or --width and --height)")
    rendered = source.startswith(("sklearn:", "fonts:"))
    if rendered and (o["transform"] or (width is None) != (height is None)):
        raise UserError(f"--source={source} is rendered at --resolution=WxH; omit --transform")
    for given in (source, *shards):
        not_the_source(given, dest)
    split = {"pool": "train", "test": "reference"}.get(o["split"], o["split"])
    to_h5 = dest.lower().endswith(h5.SUFFIXES)
    if to_h5:
        may_replace(dest, o["overwrite"])
    else:
        given = click.get_current_context().get_parameter_source("fmt") == click.core.ParameterSource.COMMANDLINE
        if given or o["test_source"]:
            raise UserError(f"{'--format' if given else '--test-source'} belongs to --dest=FILE.h5")
        Destination(dest, o["overwrite"])  # complain before a long scan of the source
    second = holdout.second_name(dest, o["holdout"], o["dest_heldout"])
    if second is not None:
        not_the_source(source, second)
        Destination(second, o["overwrite"])
    options = SourceOptions(
        labels="list" if isinstance(o["labels"], tuple) else o["labels"],
        label_list=o["labels"] if isinstance(o["labels"], tuple) else None, label_column=o["label_column"],
        image_column=o["image_column"], shards=tuple(shards), split=split, seed=o["seed"],
        size=(width, height) if width and height else None,
        letters=o["letters"], font_distance=o["font_distance"], drop_unlabelled=o["drop_unlabelled"],
        label_kind=o["label_kind"], label_range=o["label_range"], label_unit=o["label_unit"],
        max_pixels=o["max_pixels"], follow_links=o["follow_links"], report=click.echo)
    opened = open_source(source, options)
    how = Conversion(
        transform=o["transform"], width=None if rendered else width, height=None if rendered else height,
        resize_filter=o["resize_filter"],
        channels=opened.defaults.get("channels", "keep") if o["channels"] == "keep" else o["channels"],
        alpha=o["alpha"] or opened.defaults.get("alpha"),
        max_images=o["max_images"], per_class=o["per_class"], drop_unlabelled=o["drop_unlabelled"],
        drop_duplicates=o["drop_duplicates"], keep_names=o["keep_names"], overwrite=o["overwrite"],
        value_range=o["value_range"])
    if to_h5:
        for flag in (f for f in ("classes", "per_class", "drop_duplicates", "keep_names") if o[f] not in (None, False)):
            flag = f"--{flag.replace('_', '-')}"
            raise UserError(f"{flag} is for data sets; choose first, then write the HDF5 file")
        h5.module(dest, "writing")
        try:
            test = open_source(o["test_source"], replace(options, shards=())) if o["test_source"] else None
        except UserError as e:
            raise UserError(re.sub("^--source=", "--test-source=", str(e))) from None
        convert_h5(opened, dest, how, o["fmt"], test, o["seed"], click.echo)
        return
    name = source if rendered else valid_text(os.path.basename(os.path.abspath(source)))
    meta = {"tool": "dataset_tool", "source": name, "transform": o["transform"], "resize_filter": o["resize_filter"]}
    if how.value_range is not None:
        meta["range"] = list(how.value_range)
    if split is not None:
        meta |= {"split": split, "seed": o["seed"]}
    how.classes = chosen_classes(opened, o["classes"])
    if second is None:
        convert(opened, dest, how, meta, click.echo)
    else:
        holdout.convert_parts(opened, (dest, second), how, meta, o["holdout"], o["seed"], click.echo)


@main.command(context_settings=CONTEXT)
@click.argument("path", type=flags.PATH)
@click.option("--fname", type=flags.PATH, default="dataset.json", show_default=True, help="label file inside the set")
@click.option("--against", type=flags.PATH, metavar="PATH",
              help="another set, training or test, that should share no image")
@click.option("--strict", is_flag=True, help="warnings count as errors")
@FOLLOW_LINKS
@click.pass_context
def check(ctx: click.Context, path: str, fname: str, against: str | None, strict: bool, follow_links: bool) -> None:
    """Look at every image and label of PATH; exit code 1 when training would fail or be spoilt. With --against, also
    at which of them another set has."""
    found = Check(path, fname, follow_links)
    if not found.run(click.echo, against) or strict and found.warnings:
        ctx.exit(1)


@main.command(context_settings=CONTEXT)
@click.option("--source", type=flags.PATH, metavar="PATH", required=True, help="zip or folder made by this tool")
@click.option("--dest", type=flags.PATH, metavar="PATH", required=True,
              help="new or empty folder, or a .zip; FILE.tar is a WebDataset")
@click.option("--fname", type=flags.PATH, default="dataset.json", show_default=True,
              help="label file that chooses the images")
@click.option("--overwrite", is_flag=True, help="replace the data set at --dest")
@FOLLOW_LINKS
def export(source: str, dest: str, fname: str, overwrite: bool, follow_links: bool) -> None:
    """Copy a data set into one folder per class, or into a WebDataset (.tar), files unchanged."""
    not_the_source(source, dest)
    export_set(source, dest, fname, click.echo, overwrite, follow_links)
