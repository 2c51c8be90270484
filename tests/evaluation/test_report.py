"""The report: one document, one page that needs nothing from outside."""

import base64
import io
import json
import re
from html.parser import HTMLParser

import pytest
from made_pictures import dead_leaves
from PIL import Image

from latpix.batching.inputs import Failure
from latpix.errors import PictureError
from latpix.evaluation.report import document, table, write_report
from latpix.evaluation.run import Evaluation, Measured
from latpix.evaluation.store import Store

FIGURES = ["psnr", "niqe", "grid"]
PLAIN, OURS, OTHER = "flux2 decode + Lanczos, 4x", "flux2-tiny", "run/<b>weights.safetensors"


def row(picture, method, psnr, *, cropped=False):
    return {
        "picture": picture,
        "method": method,
        "height": 96,
        "width": 96,
        "cropped_from": [2000, 1500] if cropped else None,
        "figures": {"psnr": psnr, "niqe": None, "grid": [1.0, 1.1]},
        "seconds": 2.0,
        "peak_bytes": 2**30,
    }


def measured(label, psnrs, *, plain=False):
    rows = [row(f"{place}.png", label, psnr, cropped=place == 1) for place, psnr in enumerate(psnrs)]
    metrics = {"psnr": sum(psnrs) / len(psnrs), "niqe": None, "grid": 1.1}
    return Measured(label=label, plain=plain, rows=rows, metrics=metrics, settings={"kind": "photographs", "seed": 0})


@pytest.fixture
def evaluation():
    methods = [measured(PLAIN, [24.0, 25.0], plain=True), measured(OURS, [25.0, 27.0]), measured(OTHER, [20.0, 20.0])]
    failure = Failure(input="bad<i>.png", error=PictureError("it is <damaged>."))
    return Evaluation(methods=methods, figures=FIGURES, left_out={"scipy": ["niqe"]}, failures=[failure])


@pytest.fixture
def folder(evaluation, tmp_path):
    store = Store(tmp_path / "report")
    store.open({method.label: method.settings for method in evaluation.methods})
    for seed, label in enumerate([PLAIN, OURS, OTHER, "original"]):
        store.show("0.png", label, dead_leaves(96, 96, seed=seed, count=20))
    return tmp_path / "report"


class Page(HTMLParser):
    """Its elements, and whether each is closed."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.stack = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in ("meta", "img", "input"):
            self.stack.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def test_the_document_is_the_first_checkpoints_with_all_methods_beside_it(evaluation):
    facts = json.loads(json.dumps(document(evaluation), allow_nan=False))
    assert (facts["checkpoint"], facts["pictures"]) == (OURS, 2)
    assert facts["metrics"] == {"psnr": 26.0, "niqe": None, "grid": 1.1}
    assert [one["checkpoint"] for one in facts["compared"]] == [None, OURS, OTHER]
    assert [one["metrics"]["psnr"] for one in facts["compared"]] == [24.5, 26.0, 20.0]
    assert (facts["seconds"], facts["peak_bytes"], facts["cropped"], facts["left_out"]) == (2.0, 2**30, 1, ["niqe"])
    assert facts["failed"] == [{"input": "bad<i>.png", "error": "PictureError", "message": "it is <damaged>."}]


def test_the_table_has_a_line_a_method_and_a_dash_for_what_is_not_there(evaluation):
    head, *lines = table(evaluation).splitlines()
    assert head.split() == ["PSNR,", "dB", "NIQE", "grid", "seconds"]
    assert lines[1].split() == [OURS, "26.00", "-", "1.1000", "2.0000"]
    assert len({len(line) for line in (head, *lines)}) == 1


def test_the_page_is_whole_and_asks_nobody_for_anything(evaluation, folder):
    text = write_report(evaluation, folder).read_text(encoding="utf-8")
    page = Page(text)
    assert page.stack == []
    assert not re.findall(r"(?:src|href)=['\"](?!data:)|url\(|@import|fetch\(|https?://", text)
    assert {"link", "iframe"} & {tag for tag, _ in page.elements} == set()


def test_names_of_files_are_text_on_the_page_and_never_markup(evaluation, folder):
    page = Page(write_report(evaluation, folder).read_text(encoding="utf-8"))
    assert page.all("b") == []
    assert [attributes.get("class") for attributes in page.all("i")] == [None] * 3  # the methods' colours
    assert OTHER in [attributes["alt"] for attributes in page.all("img")]


def test_a_slider_has_every_method_and_the_original_of_a_shown_picture(evaluation, folder):
    page = Page(write_report(evaluation, folder).read_text(encoding="utf-8"))
    pictures = page.all("img")  # nothing was kept of the second picture
    assert [picture["alt"] for picture in pictures] == [PLAIN, OURS, OTHER, "original"]
    for picture in pictures:
        kind, data = picture["src"].split(",")
        assert kind == "data:image/jpeg;base64"
        assert Image.open(io.BytesIO(base64.b64decode(data))).size == (96, 96)
    (slider,) = page.all("input")
    assert (slider["type"], slider["min"], slider["max"]) == ("range", "0", "100")
    assert len([option for option in page.all("option") if "selected" in option]) == 2


def test_plots_have_a_dot_for_each_picture_and_method_inside_the_frame(evaluation, folder):
    page = Page(write_report(evaluation, folder).read_text(encoding="utf-8"))
    assert len(page.all("svg")) == 2  # nobody has a NIQE
    dots = page.all("circle")
    assert len(dots) == 2 * 3 * 2
    for frame in page.all("svg"):
        width = float(frame["viewbox"].split()[2])
        assert all(0 < float(dot["cx"]) < width for dot in dots)
    places = {dot["fill"]: float(dot["cx"]) for dot in dots[:6]}
    assert len(places) == 3
    assert max(places.values()) == places[dots[3]["fill"]]  # 27 dB, of the second method


def test_the_best_of_each_figure_is_marked_and_the_remarks_are_there(evaluation, folder):
    text = write_report(evaluation, folder).read_text(encoding="utf-8")
    assert "<td class=best>26.00</td>" in text
    assert "<td class=best>24.50</td>" not in text
    assert "1 of them were measured on a crop of at most 1024 pixels a side" in text
    assert "Left out, for want of a library: niqe." in text
    assert "bad&lt;i&gt;.png" in text


def test_the_report_of_the_folder_has_rows_and_settings(evaluation, folder):
    write_report(evaluation, folder)
    facts = json.loads((folder / "report.json").read_text())
    assert len(facts["rows"]) == 6
    assert facts["settings"][OURS] == {"kind": "photographs", "seed": 0}
    assert not list(folder.glob("**/*.part"))
