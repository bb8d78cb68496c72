"""A report in a real browser: it loads nothing, raises nothing, sorts, says values, and fits a phone."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fedtl
from fedtl.studies import Planned
from tests.browser import Page, browser
from tests.made_study import made_study

LONG = "a-method-with-a-name-that-goes-on-and-on-" * 4


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report with all sections, long names and dangerous ones."""
    folder = tmp_path_factory.mktemp("study")
    values: dict[tuple[str, float, int], Any] = {
        (method, alpha, seed): np.linspace(0.4 + 0.1 * rank, 0.9 - 0.01 * seed, 30).round(2).tolist()
        for (rank, method), alpha, seed in itertools.product(
            enumerate(("fedavg", "local", "pfedme")), (0.1, 1.0), (0, 1)
        )
    }
    values["pfedme", 1.0, 1] = "failed"
    names = {"fedavg": LONG, "local": "<img src=x onerror=alert(1)>"}
    trial = Planned("search/0", "pfedme alpha=0.1", 0, "finished", 0, {"strategy.lr": 0.1}, 0.5)
    study = made_study(folder / "study", values, names=names, trials=(trial,), rounds=30, failures=[(0, LONG)])
    return fedtl.report(study.folder, folder / "report.html", read_data=False)


@pytest.fixture(scope="module")
def tab() -> Iterator[Page]:
    with browser() as page:
        yield page


@pytest.fixture
def page(tab: Page, file: Path) -> Page:
    tab.size(1280)
    tab.media()
    tab.open(file)
    return tab


def test_it_loads_nothing_and_raises_nothing(page: Page) -> None:
    page.value("document.querySelectorAll('details').forEach(each => { each.open = true })")
    assert page.errors == []
    assert [address for address in page.requests if not address.startswith(("file:", "data:"))] == []
    assert len([address for address in page.requests if address.startswith("file:")]) == 1
    assert page.value("document.images.length") == 0


def test_its_policy_stops_what_would_load(page: Page) -> None:
    page.value("document.body.append(Object.assign(new Image(), {src: 'https://example.org/x.png'}))")
    page.value("new Promise(done => setTimeout(done, 100))")
    assert any("Content Security Policy" in text for text in page.errors)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_nothing_is_wider_than_the_window(page: Page, scheme: str, width: int) -> None:
    page.size(width)
    page.media(prefers_color_scheme=scheme)
    page.value("document.querySelectorAll('details').forEach(each => { each.open = true })")
    assert page.value("document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0


def test_dark_mode_reaches_text_and_pictures(page: Page) -> None:
    colours = "[document.body, document.querySelector('.axis text'), document.querySelector('.curve')]"
    script = f"{colours}.map(each => [getComputedStyle(each).backgroundColor, getComputedStyle(each).fill, "
    script += "getComputedStyle(each).color].join())"
    page.media(prefers_color_scheme="light")
    light = page.value(script)
    page.media(prefers_color_scheme="dark")
    assert all(before != after for before, after in zip(light, page.value(script)))
    page.media("print", prefers_color_scheme="dark")
    assert page.value(script) == light


COLUMN = """(name => {
  const table = [...document.querySelectorAll('table.sortable')].find(each => each.tHead.textContent.includes(name))
  const column = [...table.tHead.rows[0].cells].findIndex(each => each.textContent === name)
  const cells = () => [...table.tBodies[0].rows].map(row => row.cells[column].textContent)
  return {head: table.tHead.rows[0].cells[column], cells}
})"""


def test_a_column_sorts_up_down_and_back(page: Page) -> None:
    page.value(f"globalThis.column = {COLUMN}('difference'); column.head.querySelector('button').focus()")
    before = page.value("column.cells()")
    orders = []
    for _ in range(3):
        page.key("Enter")
        orders.append((page.value("column.head.getAttribute('aria-sort')"), page.value("column.cells()")))
    assert [order for order, _ in orders] == ["ascending", "descending", "none"]
    assert orders[0][1] == sorted(before, key=float)
    assert orders[1][1] == sorted(before, key=float, reverse=True)
    assert orders[2][1] == before


def test_what_is_no_number_stands_last(page: Page) -> None:
    page.value(f"globalThis.column = {COLUMN}('last score')")
    for order in ("ascending", "descending"):
        page.value("column.head.querySelector('button').click()")
        assert page.value("column.head.getAttribute('aria-sort')") == order
        assert page.value("column.cells()")[-1] == "-"  # of the run that failed


def test_points_say_their_values_by_keyboard_and_by_pointer(page: Page) -> None:
    assert page.value("document.getElementById('tip').hidden") is True
    page.value("document.querySelector('#convergence svg[role=img]').focus()")
    page.key("ArrowRight")
    assert page.value("document.getElementById('tip').textContent").startswith(f"{LONG}, round 1: ")
    page.key("ArrowRight")
    assert page.value("document.getElementById('tip').textContent").startswith(f"{LONG}, round 2: ")
    page.key("ArrowDown")
    assert ", round 2: " in page.value("document.getElementById('tip').textContent")
    assert LONG not in page.value("document.getElementById('tip').textContent")
    page.key("Escape")
    assert page.value("document.getElementById('tip').hidden") is True
    page.value("document.querySelector('#clients use.point').scrollIntoView({block: 'center', behavior: 'instant'})")
    page.value("new Promise(done => setTimeout(done, 100))")  # until it is scrolled, which hides what was said
    x, y = page.value(
        "(box => [box.x + box.width / 2, box.y + box.height / 2])"
        "(document.querySelector('#clients use.point').getBoundingClientRect())"
    )
    page.command("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    assert ", client " in page.value("document.getElementById('tip').textContent")
    assert page.value("document.getElementById('tip').hidden") is False


def test_the_keyboard_begins_at_the_skip_link(page: Page) -> None:
    page.key("Tab")
    assert page.value("document.activeElement.className") == "skip"
    page.key("Enter")
    assert page.value("location.hash") == "#answer"


def test_headings_and_landmarks_are_in_order(page: Page) -> None:
    levels = page.value("[...document.querySelectorAll('h1, h2, h3')].map(each => Number(each.tagName[1]))")
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    for landmark in ("header.page", "nav[aria-label]", "main", "footer"):
        assert page.value(f"document.querySelectorAll('{landmark}').length") == 1
    assert page.value("[...document.querySelectorAll('svg[role=img]')].every(each => each.getAttribute('aria-label'))")
    assert page.value("[...document.querySelectorAll('th')].every(each => each.scope)")
