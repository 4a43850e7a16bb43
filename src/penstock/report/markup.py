"""HTML, element by element: what is well-formed by construction and cannot forget to escape.

`Html` is a string that is HTML already. Everything else comes in through `text`, which escapes it; a plain string
where `Html` is asked for is an error of types.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import NewType

Html = NewType("Html", str)

VOID = frozenset({"img", "meta", "br"})
NOTHING = Html("")


def text(value: object) -> Html:
    """Any value, shown as it stands."""
    return Html(html.escape(str(value)))


def element(tag: str, *content: Html, **attributes: str) -> Html:
    """One element.

    Args:
        tag: its name.
        content: what stands inside, one after the other.
        attributes: by name; underscores stand for hyphens, and one at the end is dropped (``class_``).
    """
    inside = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{html.escape(value)}"' for name, value in attributes.items()
    )
    if tag in VOID:
        return Html(f"<{tag}{inside}>")
    return Html(f"<{tag}{inside}>{join(content)}</{tag}>")


def join(parts: Iterable[Html]) -> Html:
    """Several pieces, one after the other."""
    return Html("".join(parts))


def paragraph(words: str, class_: str = "") -> Html:
    """A paragraph of plain text."""
    return element("p", text(words), class_=class_) if class_ else element("p", text(words))


def table(headings: Sequence[str], rows: Iterable[Sequence[Html]], caption: str) -> Html:
    """A table whose first column names the rows and whose others hold figures."""
    head = element("tr", *(element("th", text(heading), scope="col") for heading in headings))
    body = (
        element("tr", element("th", row[0], scope="row"), *(element("td", cell) for cell in row[1:]))
        for row in rows
    )
    inside = (element("caption", text(caption)), element("thead", head), element("tbody", *body))
    return element("div", element("table", *inside), class_="wide", tabindex="0")


def figure(picture: Html, caption: str) -> Html:
    """A picture with what it shows written under it."""
    return element(
        "figure",
        element("div", picture, class_="wide", tabindex="0"),
        element("figcaption", text(caption)),
        class_="card",
    )


def details(summary: str, content: Html) -> Html:
    """Something that is folded until it is asked for."""
    return element("details", element("summary", text(summary)), content)
