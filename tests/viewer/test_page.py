# SPDX-License-Identifier: Apache-2.0
"""The page in a real browser: what it shows is what `generate` makes. One Chromium and one server for all tests."""

import base64
import contextlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gantransfer.commands import generate
from gantransfer.data.dataset import ImageDataset
from gantransfer.pictures import grids
from tests.conftest import ROOT, write_image_zip
from tests.viewer.conftest import snapshot_of

pytest.importorskip("starlette", reason="needs the extra `viewer`")
pytest.importorskip("uvicorn", reason="needs the extra `viewer`")
sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright, which drives the browser")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium")
expect = sync_api.expect


@contextlib.contextmanager
def server(*flags):
    """(process, address) of `gantransfer view`."""
    words = [sys.executable, "-m", "gantransfer", "view", "--port=0", "--kernels=ref", *map(str, flags)]
    child = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                             env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        first = child.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+/\S+/", first)
        if found is None:
            child.kill()
            pytest.fail(f"{first}{child.communicate()[1][-2000:]}")
        yield child, found[0]
    finally:
        child.send_signal(signal.SIGTERM)
        child.communicate(timeout=20)


@pytest.fixture(scope="module")
def files(tmp_path_factory, digits):
    """Two snapshots, and training images of three of their four classes."""
    folder = tmp_path_factory.mktemp("snapshots")
    out = {kind: folder / f"{kind}.pkl" for kind in ("classes", "utlo")}
    for kind, path in out.items():
        snapshot_of(kind).save(path)
    images, labels = digits
    few = labels < 3
    return {**out, "data": write_image_zip(folder / "set.zip", images[few], [int(k) for k in labels[few]])}


@pytest.fixture(scope="module")
def address(files):
    with server(f"--network={files['utlo']}", f"--network2={files['classes']}", f"--data={files['data']}") as (_, url):
        yield url


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as p:
        flags = ["--no-sandbox", "--disable-background-networking", "--disable-component-update", "--no-first-run",
                 "--disable-dev-shm-usage"]
        chromium = p.chromium.launch(executable_path=CHROMIUM, args=flags)  # with a profile of its own
        yield chromium
        chromium.close()


@pytest.fixture
def tab(browser, address):
    """Opens a tab of the page; whatever it complains of fails the test."""
    context = browser.new_context(viewport=dict(width=1280, height=900), accept_downloads=True)
    problems: list[str] = []

    def open(url: str = address):
        page = context.new_page()
        page.on("pageerror", lambda e: problems.append(str(e)))
        ours = (address, "blob:", "data:")
        page.on("request", lambda r: None if r.url.startswith(ours) else problems.append(r.url))
        page.goto(url)
        return page

    yield open
    context.close()
    assert not problems


def shown(page, slot="image0", **wanted):
    """uint8 pixels of a picture once it is that of the point `wanted`, and the point."""
    figure = page.locator(f"figure[data-slot={slot}]")
    page.wait_for_function(
        """([slot, wanted]) => {
            const figure = document.querySelector(`figure[data-slot=${slot}]`);
            if (!figure?.dataset.shown || figure.getAttribute('aria-busy') !== 'false') return false;
            const p = JSON.parse(figure.dataset.shown);
            return Object.entries(wanted).every(([k, v]) => JSON.stringify(p[k]) === JSON.stringify(v));
        }""", arg=[slot, wanted])
    rows = figure.locator("img").evaluate(
        """img => {
            const canvas = document.createElement('canvas');
            [canvas.width, canvas.height] = [img.naturalWidth, img.naturalHeight];
            const pen = canvas.getContext('2d');
            pen.drawImage(img, 0, 0);
            return [img.naturalWidth, ...pen.getImageData(0, 0, canvas.width, canvas.height).data];
        }""")
    rgba = np.array(rows[1:], np.uint8).reshape(-1, rows[0], 4)
    assert (rgba[..., :1] == rgba[..., :3]).all() and (rgba[..., 3] == 255).all()  # grey
    return rgba[..., 0], json.loads(figure.get_attribute("data-shown"))


def slide(page, name, value):
    page.locator(f"#{name}").evaluate(
        "(x, v) => { x.value = v; x.dispatchEvent(new Event('input', {bubbles: true})); }", str(value))


def made(files, tmp_path, *flags, network="utlo", name=None):
    """The one image that `generate` makes."""
    out = tmp_path / "out"
    shutil.rmtree(out, ignore_errors=True)
    words = [f"--network={files[network]}", f"--outdir={out}", "--kernels=ref", *flags]
    generate.main.main(words, standalone_mode=False)
    (path,) = [out / name] if name else out.iterdir()
    return np.asarray(Image.open(path))


@pytest.fixture
def page(tab):
    return tab()


def test_what_is_shown_are_the_pixels_of_generate(page, files, tmp_path):
    first, _ = shown(page, seed="0", class_id=0, trunc=1)
    assert np.array_equal(first, made(files, tmp_path, "--seeds=0", "--class=0"))
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    slide(page, "trunc", 0.6)
    moved, _ = shown(page, seed="1", class_id=1, trunc=0.6)
    assert np.array_equal(moved, made(files, tmp_path, "--seeds=1", "--class=1", "--trunc=0.6"))
    page.get_by_label("the class's own mean").check()
    page.get_by_label("off").check()
    page.locator("#seed").fill(str(2**70))
    last, _ = shown(page, seed=str(2**70), center="class", noise="none")
    flags = [f"--seeds={2**70}", "--class=1", "--trunc=0.6", "--trunc-center=class", "--noise-mode=none"]
    assert np.array_equal(last, made(files, tmp_path, *flags))
    assert (first != moved).any() and (moved != last).any()
    second, _ = shown(page, "image1", seed=str(2**70), class_id=1)
    assert np.array_equal(second, made(files, tmp_path, *flags, network="classes"))
    small, _ = shown(page, "uc0", seed=str(2**70), view="uc")
    uc = made(files, tmp_path, *flags, "--add-uc", name=f"seed{2**70}-class1_uc.png")
    assert small.shape == (8, 8) and np.array_equal(small, uc)


def test_sliders_of_walk_and_mixing_change_the_picture(page):
    start, _ = shown(page, seed="0")
    page.locator("#to_seed").fill("5")
    half, _ = shown(page, to_seed="5", at=0.5, space="z")
    slide(page, "at", 1)
    end, _ = shown(page, at=1)
    slide(page, "at", 0.5)
    page.get_by_label("latent w, straight").check()
    straight, _ = shown(page, at=0.5, space="w")
    page.locator("#to_seed").fill("")
    page.locator("#to_class").select_option("2")
    blend, _ = shown(page, to_class=2, blend=0.5)
    page.locator("#to_class").select_option("")
    page.locator("#mix_seed").fill("9")
    mixed, point = shown(page, mix_seed="9")
    assert point["mix_layers"] == [0, 1, 2, 3]
    page.locator("#layers input").first.uncheck()
    fewer, _ = shown(page, mix_layers=[1, 2, 3])
    page.locator("#mix_seed").fill("")
    page.locator("#seed").fill("5")
    other, _ = shown(page, seed="5")
    pictures = [start, half, end, straight, blend, mixed, fewer]
    assert all((a != b).any() for i, a in enumerate(pictures) for b in pictures[:i])
    assert np.abs(end.astype(int) - other).max() <= 1


def test_a_sheet_is_generate_s_and_a_cell_opens(page, files, tmp_path):
    shown(page)
    page.keyboard.press("s")
    page.locator("#sheet-columns").fill("3")
    page.wait_for_function("() => document.querySelectorAll('.cell').length === 9")
    assert page.locator("#cells .name").all_text_contents() == ["ash9 images", "birch5 images", "cedar2 images"]
    url = page.locator(".cell i").first.evaluate("x => x.style.backgroundImage.slice(5, -2)")
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))))
    for k in (0, 2):
        for s in (0, 2):
            want = made(files, tmp_path, f"--seeds={s}", f"--class={k}")
            got = picture[16 * k : 16 * k + 16, 16 * s : 16 * s + 16]
            assert np.abs(got.astype(int) - want).max() <= 1
    page.get_by_label("nearest training images").check()
    page.wait_for_function("() => document.querySelectorAll('.cell small').length === 9")
    page.keyboard.press("i")
    page.locator("#to_seed").fill("5")  # a walk and a mixture of before are none of the cell's
    page.locator("#mix_seed").fill("6")
    page.locator("#mix_seed").blur()
    page.keyboard.press("s")
    page.locator(".cell").nth(0).focus()
    page.keyboard.press("ArrowRight")
    for count in (0, 9):  # a sheet that is drawn again leaves the focus where it was
        page.evaluate("() => document.getElementById('sheet-nearest').click()")
        page.wait_for_function(f"() => document.querySelectorAll('.cell small').length === {count}")
    for key in ("ArrowDown", "ArrowDown", "Enter"):
        page.keyboard.press(key)
    opened, _ = shown(page, seed="1", class_id=2)
    assert np.array_equal(opened, made(files, tmp_path, "--seeds=1", "--class=2"))
    nearest, _ = shown(page, "nearest", seed="1", class_id=2)
    data = ImageDataset(files["data"], use_labels=True)
    rows = data.images_uint8(np.flatnonzero(data.class_ids == 2))[:, 0].astype(float)
    assert np.array_equal(nearest, rows[((rows - opened) ** 2).sum((1, 2)).argmin()])
    assert "distance" in page.locator("figure[data-slot=nearest] figcaption").text_content()


def test_what_is_saved(page, files, tmp_path):
    shown(page, seed="0")

    def saved(button):
        with page.expect_download() as download:
            page.locator(f"#{button}").click()
        return download.value.suggested_filename, Path(download.value.path()).read_bytes()

    page.keyboard.press("k")
    page.locator("#class_id").select_option("2")
    page.locator("#seed").fill(str(2**70))
    picture, _ = shown(page, seed=str(2**70), class_id=2)
    page.locator("#keep").click()
    name, png = saved("save-png")
    assert name == f"seed{2**70}-cedar.png" and np.array_equal(np.asarray(Image.open(io.BytesIO(png))), picture)
    name, text = saved("save-list")
    assert json.loads(text) == {"images": [[0, 0], [2**70, 2]]}
    (tmp_path / name).write_bytes(text)
    again = made(files, tmp_path, f"--list={tmp_path / name}", name=f"seed{2**70}-class2.png")
    assert np.array_equal(again, picture)
    assert page.locator("#command").text_content() == (
        f"gantransfer generate --network={files['utlo']} --list=list.json --outdir=out")
    assert page.locator("#save-film").is_disabled() and page.locator("#keep-hint").text_content() == ""
    page.locator("#to_seed").fill("3")
    assert page.locator("#keep").is_disabled()  # a walk is no seed and label
    assert "A picture on a walk is none" in page.locator("#keep-hint").text_content()
    shown(page, to_seed="3")
    name, film = saved("save-film")
    assert name == "walk.mp4" and film[4:8] == b"ftyp" or name == "walk.webp" and film[8:12] == b"WEBP"


def test_a_mixture_is_not_for_the_list_and_the_page_says_what_makes_it(page, files, tmp_path):
    shown(page, seed="0")
    page.locator("#class_id").select_option("2")
    page.locator("#mix_seed").fill("9")
    picture, _ = shown(page, mix_seed="9", class_id=2)
    hint = page.locator("#keep-hint").text_content()
    assert page.locator("#keep").is_disabled() and "A mixture is none" in hint
    flags = re.findall(r"--\S+", hint.partition("with ")[2].rstrip("."))
    assert flags[-1] == "--grid=mixtures.png" and len(flags) == 5
    generate.main.main([f"--network={files['utlo']}", "--kernels=ref", *flags[:-1], f"--grid={tmp_path / 'm.png'}"],
                       standalone_mode=False)
    mixture = grids.cells(Image.open(tmp_path / "m.png"))[-1, -1]
    enlarged = len(mixture) // len(picture)
    assert np.array_equal(mixture[::enlarged, ::enlarged], picture)


def test_two_classes_of_one_name_are_two_in_the_list(page):
    shown(page, seed="0")
    page.evaluate("async () => { (await import('./state.js')).models[0].label.classes[1].name = 'ash'; }")
    for class_id in ("0", "1", "0"):
        page.locator("#class_id").select_option(class_id)
        page.locator("#keep").click()
    assert page.locator("#list button").all_text_contents() == ["0 · ash", "0 · ash"]
    page.locator("#list button").nth(1).click()
    assert shown(page, seed="0", class_id=1)[1]["class_id"] == 1


def test_an_address_of_another_model_does_no_harm(tab, address):
    given = dict(seed="one", class_id=77, to_class=-1, label_set="old", label=[1], mix_seed="5", mix_layers=[0, 99],
                 trunc=9, noise="loud", columns=1000, mode="film", center="nowhere", at=0.25)
    page = tab(f"{address}#{json.dumps(given)}")
    _, point = shown(page, seed="0", class_id=0)
    assert point == dict(seed="0", trunc=1, noise="const", class_id=0, mix_seed="5", mix_layers=[0, 1, 2, 3])
    page.keyboard.press("ArrowRight")
    shown(page, seed="1")


def test_two_tabs_at_once(tab, files, tmp_path):
    one, two = tab(), tab()
    shown(one), shown(two)
    for k in range(1, 13):  # faster than pictures are made
        one.locator("#seed").fill(str(k))
        two.locator("#seed").fill(str(100 + k))
    a, _ = shown(one, seed="12")
    b, _ = shown(two, seed="112")
    assert np.array_equal(a, made(files, tmp_path, "--seeds=12", "--class=0"))
    assert np.array_equal(b, made(files, tmp_path, "--seeds=112", "--class=0"))


def test_the_page_fits_and_has_both_colours(page):
    shown(page)
    colours = []
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        colours.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert colours[0] != colours[1]
    for width in (1280, 400):
        page.set_viewport_size(dict(width=width, height=900))
        for mode in ("i", "s"):
            page.keyboard.press(mode)
            assert page.evaluate("document.documentElement.scrollWidth") <= width
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll('input, select, button')].filter(x => !(x.labels?.length ||
            x.getAttribute('aria-label') || x.textContent.trim())).map(x => x.outerHTML)""")
    assert not unnamed


def test_a_mistake_is_said_and_the_next_choice_goes_on(page):
    shown(page)
    page.locator("#seed").fill("1e3")
    expect(page.locator("#seed")).to_have_class(re.compile("bad"))
    page.locator("#seed").fill("4")
    shown(page, seed="4")
    expect(page.locator("#seed")).not_to_have_class(re.compile("bad"))
    page.locator("#class_id").select_option("3")
    nearest = page.locator("figure[data-slot=nearest]")
    expect(nearest.locator(".error")).to_have_text("This class has no training image.")
    expect(nearest.locator("figcaption")).to_have_text("")  # nothing of the class before
    expect(nearest.locator("img")).to_be_hidden()
    page.locator("#class_id").select_option("1")
    shown(page, "nearest", class_id=1)
    expect(nearest.locator("img")).to_be_visible()


def test_keys_work_while_a_slider_or_a_choice_has_the_focus_and_not_while_text_has_it(page):
    shown(page, seed="0")
    page.get_by_label("off").check()
    page.keyboard.press("s")
    expect(page.locator("#sheet")).to_be_visible()
    page.locator("#trunc").focus()
    page.keyboard.press("i")
    expect(page.locator("#one")).to_be_visible()
    page.locator("#seed").focus()
    page.keyboard.press("s")
    expect(page.locator("#one")).to_be_visible()


def test_a_reload_keeps_what_was_chosen(page):
    shown(page)
    page.locator("#seed").fill("77")
    page.locator("#class_id").select_option("1")
    before, _ = shown(page, seed="77", class_id=1)
    page.wait_for_function("() => location.hash.includes('77')")
    page.reload()
    after, _ = shown(page, seed="77", class_id=1)
    assert np.array_equal(before, after)


def test_without_token_and_from_other_sites_nothing_is_shown(browser, address):
    context = browser.new_context()
    page = context.new_page()
    origin = re.match(r"http://[^/]+", address)[0]
    for url in (origin + "/", re.sub(r"/[^/]+/$", "/wrong/", address)):
        response = page.goto(url)
        assert response.status == 403 and "token" in page.text_content("body")
    page.goto("data:text/html,<h1>another site</h1>")
    got = page.evaluate("""async url => {
        try { return (await fetch(url + 'api/models')).status; } catch (e) { return 'refused'; }
    }""", address)
    assert got == "refused"
    drawn = page.evaluate("""url => new Promise(done => {
        const x = new Image(); x.onload = () => done('drawn'); x.onerror = () => done('refused');
        x.src = url + 'api/image?point=' + encodeURIComponent('{"class_id":0}');
    })""", address)
    assert drawn == "refused"
    context.close()


def test_a_killed_server_is_noticed(browser, files):
    with server(f"--network={files['classes']}") as (child, url):
        context = browser.new_context()
        page = context.new_page()
        page.goto(url)
        shown(page)
        child.kill()
        child.wait()
        page.keyboard.press("ArrowRight")
        expect(page.locator("#notice")).to_be_visible(timeout=8000)
        assert "Start gantransfer view again" in page.locator("#notice").text_content()
        context.close()
