from penstock.report.markup import element, table, text
from penstock.report.page import Section, page


def test_text_and_attributes_are_escaped() -> None:
    made = element("p", text("a < b & c"), title='say "<"', class_="x", aria_label="y")
    assert made == ('<p title="say &quot;&lt;&quot;" class="x" aria-label="y">a &lt; b &amp; c</p>')
    assert element("img", src="data:,") == '<img src="data:,">'


def test_a_table_names_its_rows_and_columns() -> None:
    made = table(("class", "images"), [(text("<cat>"), text(3))], "Images & classes")
    assert '<th scope="col">images</th>' in made
    assert '<tr><th scope="row">&lt;cat&gt;</th><td>3</td></tr>' in made
    assert "<caption>Images &amp; classes</caption>" in made


def test_a_page_lists_its_sections() -> None:
    made = page("<t>", text("top"), [Section("one", "First & last", "Lead.", text("body"))])
    assert made.startswith('<!DOCTYPE html>\n<html lang="en">')
    assert "<title>&lt;t&gt;</title>" in made
    assert '<a href="#one">First &amp; last</a>' in made
    assert '<section id="one" aria-labelledby="one-title">' in made
