"""The frame of the page: head, contents, sections. One file, nothing loaded from elsewhere, no script."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from penstock import __version__
from penstock.report.markup import Html, element, join, paragraph, text
from penstock.report.stylesheet import CSS


@dataclass(frozen=True)
class Section:
    """One section of the page.

    Attributes:
        key: its anchor, unique on the page.
        title: as it stands in the contents, too.
        lead: what the reader is about to see, in a sentence or two.
        body: the rest.
    """

    key: str
    title: str
    lead: str
    body: Html


def page(title: str, heading: Html, sections: Sequence[Section]) -> str:
    """The whole page.

    Args:
        title: of the browser's tab.
        heading: what stands above the contents.
        sections: in order.
    """
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", text(title)),
        Html(f"<style>{CSS}</style>"),
    )
    links = (element("li", element("a", text(section.title), href=f"#{section.key}")) for section in sections)
    body = element(
        "body",
        element("header", heading),
        element("nav", element("ul", *links), aria_label="Contents"),
        element("main", *(_section(section) for section in sections)),
        element("footer", paragraph(f"Made by penstock {__version__}.")),
    )
    return f"<!DOCTYPE html>\n{element('html', head, body, lang='en')}\n"


def _section(section: Section) -> Html:
    title = element("h2", text(section.title), id=f"{section.key}-title")
    inside = join((title, paragraph(section.lead, class_="lead"), section.body))
    return element("section", inside, id=section.key, aria_labelledby=f"{section.key}-title")
