# SPDX-License-Identifier: Apache-2.0
"""The page: one file, nothing from elsewhere, readable without script, light and dark."""

from __future__ import annotations

import itertools
import json
import shlex
import time
from collections.abc import Callable, Sequence

import numpy as np

import gantransfer
from dnnlib.util import format_time, three
from gantransfer.report import classes, curves, markup, options, plot, sheets, study, tail
from gantransfer.report.curves import Section
from gantransfer.report.read import Run, distinct_names, number, rarest_last
from gantransfer.report.study import Study

STYLE = """
:root{color-scheme:light dark;--bg:#fff;--ink:#1d2126;--soft:#5d6670;--line:#d7dce1;--card:#f6f8fa;--mark:#fff3c4}
@media(prefers-color-scheme:dark){:root{--bg:#14171a;--ink:#e4e7ea;--soft:#9aa4ae;--line:#333a41;--card:#1c2125;
--mark:#4a3f14}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:1280px;padding:1rem;background:var(--bg);color:var(--ink);
font:15px/1.5 system-ui,'DejaVu Sans',sans-serif}
h1{font-size:1.5rem;margin:.2rem 0}h2{font-size:1.2rem;margin:2.2rem 0 .6rem;border-bottom:1px solid var(--line)}
h3{font-size:1rem;margin:1rem 0 .3rem;overflow-wrap:anywhere}h4{margin:.8rem 0 .2rem}
p{margin:.4rem 0;overflow-wrap:anywhere}code{font-size:.9em;overflow-wrap:anywhere}
nav{margin-bottom:.8rem}nav a{color:inherit;margin-right:.9rem}
.soft,figcaption,.notes{color:var(--soft);font-size:.88rem}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,300px),1fr));gap:.8rem}
.card{background:var(--card);border:1px solid var(--line);border-radius:6px;padding:.7rem}
.card h3{margin-top:0}
.swatch{display:inline-block;width:2.2em;height:0;border-top:3px solid;margin-right:.4em;vertical-align:middle}
.panels{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,320px),1fr));gap:.5rem}
.panels svg,.wide svg{width:100%;height:auto}.wide{max-width:640px}
.scroll{overflow-x:auto;margin:.4rem 0}
table{border-collapse:collapse;font-size:.86rem}
th,td{padding:.15rem .6rem;border-bottom:1px solid var(--line);text-align:right;font-variant-numeric:tabular-nums}
th{font-weight:600;vertical-align:bottom}td{white-space:nowrap}
th.word,td.word{text-align:left;white-space:normal;overflow-wrap:anywhere;min-width:min(16em,40vw)}
tr.marked{background:var(--mark)}
figure{margin:.6rem 0}img{max-width:100%;height:auto}
.side{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,420px),1fr));gap:.8rem}
figure.sheet img{width:100%;max-width:1100px}
.slider{display:flex;gap:.6rem;align-items:center;position:sticky;top:0;background:var(--bg);padding:.4rem 0}
.slider input{flex:1;min-width:0}.slider output{min-width:7em}
button{font:inherit}summary{cursor:pointer;margin:.3rem 0}
"""
SCRIPT = """
(function(){
var slider=document.getElementById('time');if(!slider)return;
var said=slider.dataset.said.split('|'),out=document.getElementById('at'),play=document.getElementById('play'),timer=0;
function show(){
 var at=+slider.value;out.textContent=said[at];
 document.querySelectorAll('figure.sheet').forEach(function(f){
  var images=f.querySelectorAll('img'),last=images[0];
  images.forEach(function(i){if(+i.dataset.at<=at)last=i});
  images.forEach(function(i){i.hidden=i!==last});
  f.querySelector('figcaption span').textContent=said[+last.dataset.at];
 });
}
function stop(){clearInterval(timer);timer=0;play.innerHTML='&#9654;'}
slider.addEventListener('input',function(){if(timer)stop();show()});
play.addEventListener('click',function(){
 if(timer){stop();return}
 if(+slider.value>=+slider.max)slider.value=0;
 show();play.innerHTML='&#9208;';
 timer=setInterval(function(){if(+slider.value>=+slider.max){stop();return}slider.value=+slider.value+1;show()},700);
});
show();
})();
"""


def page(runs: Sequence[Run], studies: Sequence[Study], notes: Sequence[str] = ()) -> str:
    """HTML of runs on common axes and of studies."""
    names, ids = distinct_names(runs), itertools.count()
    parts = [("", _cards(runs, names)), *((f"Experiment {s.name}", study.block(s)) for s in studies)]
    if len(runs) > 1:
        parts.append(("Options in which the runs differ", _differing(runs, names)))
    parts += [("Curves", _curves(curves.of_training(runs), len(runs), ids)),
              ("Metrics", _curves(curves.of_metrics(runs), len(runs), ids, "_metrics")
               + _each(runs, names, classes.over_images)),
              ("Pictures over time", _sheets(runs, names)),
              ("Groups of classes", _each(runs, names, classes.by_group)),
              ("Classes", _each(runs, names, lambda r: _histogram(r, ids) + classes.by_class(r))),
              ("Nearest training images of the tail", _each(runs, names, _tail)),
              ("What was trained", _each(runs, names, _trained)),
              ("Notes", markup.items(notes) + _each(runs, names, lambda r: markup.items(r.notes)))]
    parts = [(title, content) for title, content in parts if content]
    what = [s.name for s in studies] or (names if len(names) == 1 else [f"{len(names)} runs"])
    title = ", ".join(what)
    links = "".join(f'<a href="#s{i}">{markup.text(t)}</a>' for i, (t, _) in enumerate(parts) if t)
    body = "".join((f'<section id="s{i}">' + (f"<h2>{markup.text(t)}</h2>" if t else "") + f"{c}</section>")
                   for i, (t, c) in enumerate(parts))
    return (f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" '
            f'content="width=device-width,initial-scale=1"><title>{markup.text(title)}: gantransfer report</title>'
            f"<style>{STYLE}</style></head><body><header><h1>{markup.text(title)}</h1>"
            f'<p class="soft">gantransfer {markup.text(gantransfer.__version__)} report, '
            f'{time.strftime("%Y-%m-%d %H:%M %Z")}</p><nav>{links}</nav></header><main>{body}</main>'
            f"<script>{SCRIPT}</script></body></html>\n")


def _cards(runs: Sequence[Run], names: Sequence[str]) -> str:
    out = []
    for i, (run, name) in enumerate(zip(runs, names)):
        colour, dash = plot.colour_of(i)
        css = {"-": "solid", "--": "dashed", ":": "dotted", "-.": "double"}[dash]
        swatch = f'<span class="swatch" style="border-top:3px {css} {colour}"></span>' if len(runs) > 1 else ""
        lines = [run.state]
        if run.data:
            lines.append(f"{run.options.get('method', '?')} on {run.data.name}: {run.data.num_images:,} images, "
                         f"{_size(run)}" + _labels(run))
        if run.ticks:
            last = run.ticks[-1]
            seconds = [number(last[k].get("mean")) if isinstance(last.get(k), dict) else float("nan")
                       for k in ("Timing/total_sec", "Timing/sec_per_kimg")]
            if all(map(np.isfinite, seconds)):
                lines.append(f"trained for {format_time(seconds[0])}, at the end {three(seconds[1], 's')} per thousand "
                             "images")
        if run.best:
            lines.append(f"best snapshot: {run.best.snapshot}, {run.best.key} {three(run.best.value)}"
                         + ("" if (run.folder / run.best.snapshot).is_file() else " (its file is gone)"))
        out.append(f'<div class="card"><h3>{swatch}{markup.text(name)}</h3>'
                   + "".join(f"<p>{markup.text(x)}</p>" for x in lines) + "</div>")
    return f'<div class="cards">{"".join(out)}</div>' if out else ""


def _labels(run: Run) -> str:
    label = run.data.label
    if label.kind == "class":
        counts = [n for n in label.counts if n]
        return f", {label.dim} classes" + (f" of {max(counts):,} to {min(counts):,}" if counts else "")
    return "" if label.kind == "none" else ", continuous labels"


def _differing(runs: Sequence[Run], names: Sequence[str]) -> str:
    rows = [[markup.text(k), *map(markup.text, cells)] for k, cells in options.differing_between(runs)]
    if not rows:
        return "<p>None: they differ in nothing that is recorded.</p>"
    if len(runs) > 4:  # a row per run: names are long
        columns = list(zip(*rows))
        return markup.table(["run", *columns[0]], [[markup.text(n), *c] for n, c in zip(names, columns[1:])])
    return markup.table(["option", *map(markup.text, names)], rows)


def _trained(run: Run) -> str:
    rows, note = options.differing_from_defaults(run)
    out = markup.table(["option", "value", "default"], [list(map(markup.text, r)) for r in rows], words=3)
    out = f"<h4>Options that differ from the defaults</h4>{out}" if rows else "<p>All options are the defaults.</p>"
    env = run.environment
    words = env.get("command")
    machine = {"command": shlex.join(map(str, words)) if isinstance(words, list) else None,
               "started": env.get("started"), "platform": env.get("platform"),
               "GPUs": ", ".join(map(str, env.get("gpus") or [])) or "none", "processes": run.options.get("num_gpus"),
               "CUDA": env.get("cuda"), "precision": run.part("runtime").get("precision"),
               "operators": json.dumps(run.part("kernels").get("implementation")),
               **{k: env.get(k) for k in ("gantransfer", "commit", "torch", "numpy", "python")},
               "data": _data_line(run), "data fingerprint": env.get("data_fingerprint")}
    cells = [[markup.text(k), markup.text(v)] for k, v in machine.items() if v not in (None, "", "null")]
    return (out + (f'<p class="soft">{markup.text(note)}</p>' if note else "") + "<h4>Data, machine, versions</h4>"
            + markup.table(["what", "value"], cells, words=2))


def _size(run: Run) -> str:
    """Width x height."""
    return f"{run.data.size.width} x {run.data.size.height}"


def _data_line(run: Run) -> str | None:
    if run.data is None:
        return None
    d = run.data
    return (f"{d.path or d.name}" + (f", {d.fname}" if d.fname else "") + f": {d.num_images:,} images "
            f"{_size(run)}, {d.channels} channel{'s' * (d.channels > 1)}{_labels(run)}"
            + (", mirrored too" if d.xflip else ""))


def _curves(sections: Sequence[Section], runs: int, ids: itertools.count, kind: str = "") -> str:
    out = []
    for s in sections:
        panels = "".join(f"<div>{plot.panel_svg(p, next(ids), runs)}</div>" for p in s.panels)
        content = (f'<div class="panels">{panels}</div>' if panels else "") + markup.items(s.notes)
        out.append(f"<h3>{markup.text(s.title)}</h3>{content}")
    if kind and out:
        out.append('<p class="soft">A ring marks the best measurement of a run.</p>')
    return "".join(out)


def _sheets(runs: Sequence[Run], names: Sequence[str]) -> str:
    parts = []
    for i, run in enumerate(runs):
        strips, reals, notes = sheets.strips(run, i, len(runs))
        run.notes += notes
        parts.append((strips, reals))
    return sheets.viewer(list(runs), list(names), parts)


def _histogram(run: Run, ids: itertools.count) -> str:
    if run.labels is not None:
        svg = plot.histogram_svg("training images over labels", run.labels, run.data.label.meta.get("unit") or "label",
                                 next(ids))
        return f'<div class="wide">{svg}</div>'
    if run.data is None or run.data.label.kind != "class" or not any(run.data.label.counts):
        return ""
    order, groups = rarest_last(run.data), classes.groups_of(run.data)
    svg = plot.bars_svg("training images per class", [run.data.label.name(k) for k in order],
                        [run.data.label.counts[k] for k in order], [groups.get(k, "") for k in order], next(ids))
    key = "".join(f'<span class="swatch" style="border-top:3px solid {plot.GROUP_COLOURS[g]}"></span>{g} '
                  for g in run.data.label.shots)
    empty = run.data.label.dim - len(order)
    return (f'<div class="wide">{svg}</div>' + (f'<p class="soft">{key}</p>' if key else "")
            + (f'<p class="soft">{empty} class ids have no training image.</p>' if empty > 0 else ""))


def _tail(run: Run) -> str:
    if run.tail is None:
        return ""
    return f"<p>Not shown: {markup.text(run.tail)}.</p>" if isinstance(run.tail, str) else tail.block(run.tail)


def _each(runs: Sequence[Run], names: Sequence[str], part: Callable[[Run], str]) -> str:
    """A part of every run; of several below their names, folded from the third on."""
    found = [(name, content) for run, name in zip(runs, names) if (content := part(run))]
    if len(runs) == 1:
        return "".join(content for _, content in found)
    if len(found) > 2:
        return "".join(markup.folded(name, content) for name, content in found)
    return "".join(f"<h3>{markup.text(name)}</h3>{content}" for name, content in found)
