"""The documentation's tables can be read on a phone."""

import shutil

import pytest
from playwright.sync_api import sync_playwright

from .blocks import ROOT

STATIC = ROOT / "docs" / "_static"
# As Sphinx and its theme write a table.
PAGE = """
<style>.table-wrapper {{ overflow-x: auto }} th, td {{ white-space: nowrap }}</style>
<style>{css}</style><script>{js}</script>
<div class="table-wrapper"><table id="wide">
<thead><tr><th>call</th><th>a long body</th></tr></thead>
<tbody><tr><td>create</td><td class="text-right"><p>{text}</p></td></tr></tbody></table></div>
<div class="table-wrapper"><table id="small"><tbody><tr><td>x</td></tr></tbody></table></div>
"""


@pytest.fixture(scope="module")
def page():
    """A page in a browser, with a table that is wider than a phone and one that is not."""
    chromium = shutil.which("chromium")
    assert chromium, "this test needs Debian's chromium: apt-get install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page()
        css, js = ((STATIC / f"narrow.{kind}").read_text() for kind in ("css", "js"))
        page.set_content(PAGE.format(css=css, js=js, text="some words " * 8))
        yield page
        browser.close()


def stacked(page):
    return [node.get_attribute("id") for node in page.query_selector_all("table.stacked")]


@pytest.mark.programs
class TestTables:
    def test_a_wide_table_becomes_a_list_on_a_phone(self, page):
        """Each cell has its heading, and nothing is wider than the page."""
        page.set_viewport_size({"width": 400, "height": 800})
        page.wait_for_selector("#wide.stacked")
        assert stacked(page) == ["wide"]
        heading = "getComputedStyle(document.querySelector('#wide td + td'), '::before').content"
        assert page.evaluate(heading) == '"a long body: "'
        assert page.evaluate("getComputedStyle(document.querySelector('thead')).display") == "none"

    def test_it_is_a_table_on_a_larger_screen(self, page):
        """Also after the phone was turned."""
        page.set_viewport_size({"width": 400, "height": 800})
        page.wait_for_selector("#wide.stacked")
        page.set_viewport_size({"width": 1280, "height": 800})
        page.wait_for_selector("#wide:not(.stacked)")
        assert stacked(page) == []
