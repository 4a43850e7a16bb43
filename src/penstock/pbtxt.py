"""Protobuf's text form, as far as model configurations use it: read without the messages' definition.

protobuf's own parser wants that definition, which only clients and servers of the protocol install; exports do not.

    name: "net"  max_batch_size: 8  # fields, separated by white space, commas or semicolons
    input [ { name: "images" dims: [3, 32, 32] } ]
    dynamic_batching { }

The language is https://protobuf.dev/reference/protobuf/textformat-spec; extensions and `Any` in brackets are refused.
"""

from __future__ import annotations

import re
from typing import TypeAlias

from penstock.errors import InvalidArgumentError

Message: TypeAlias = "dict[str, list[Value]]"
"""The values of each field, in order: a field that repeats stands in brackets or several times."""
Value: TypeAlias = "str | int | Message"
"""Texts, names of constants and numbers with a point as text; whole numbers as such."""

TOKEN = re.compile(
    r"""(?:\s|\#[^\n]*)*(?:
        (?P<text>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')
      | (?P<word>[-+.\w]+)
      | (?P<mark>[{}<>\[\]:,;])
    )""",
    re.VERBOSE,
)
ENDS = {"{": "}", "<": ">"}


def parse(text: str) -> Message:
    """Read a message.

    Raises:
        InvalidArgumentError: it is not one; says in which line.
    """
    return _Reader(text).message("")


class _Reader:
    def __init__(self, text: str) -> None:
        self.text = text
        self.place = 0

    def message(self, end: str) -> Message:
        """Fields up to the mark that ends them; empty: the end of the text."""
        found: Message = {}
        while True:
            kind, token = self._next()
            if token == end:
                return found
            if kind != "word":
                self._refuse(f"{token or 'the end of the text'!r} where the name of a field is expected")
            found.setdefault(token, []).extend(self._values())
            self._take(",", ";")

    def _values(self) -> list[Value]:
        colon = self._take(":")
        if not self._take("["):
            return [self._value(colon)]
        values: list[Value] = []
        while not self._take("]"):
            values.append(self._value(colon))
            self._take(",")
        return values

    def _value(self, colon: bool) -> Value:
        kind, token = self._next()
        if token in ENDS and kind == "mark":
            return self.message(ENDS[token])
        if kind == "mark" or not kind or not colon:
            self._refuse(f"{token or 'the end of the text'!r} where a value is expected")
        if kind == "word":
            return int(token) if re.fullmatch(r"[-+]?\d+", token) else token
        parts = [token]
        while (following := TOKEN.match(self.text, self.place)) and following["text"]:
            parts.append(self._next()[1])  # texts that follow each other are one
        return "".join(re.sub(r"\\(.)", r"\1", part[1:-1]) for part in parts)

    def _take(self, *marks: str) -> bool:
        """Step over a mark, if one of these comes next."""
        found = TOKEN.match(self.text, self.place)
        if found is None or found["mark"] not in marks:
            return False
        self.place = found.end()
        return True

    def _next(self) -> tuple[str, str]:
        """Kind and text of what comes next; both are empty at the end."""
        found = TOKEN.match(self.text, self.place)
        if found is not None:
            self.place = found.end()
            assert found.lastgroup is not None
            return found.lastgroup, found[found.lastgroup]
        if re.sub(r"#[^\n]*", "", self.text[self.place :]).strip():
            self._refuse("what stands there is no text, name, number or bracket")
        return "", ""

    def _refuse(self, why: str) -> None:
        line = self.text.count("\n", 0, self.place) + 1
        raise InvalidArgumentError(f"line {line}: {why}")
