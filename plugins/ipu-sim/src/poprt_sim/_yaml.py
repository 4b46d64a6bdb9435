"""The part of YAML that PopRT's configuration files use, so that reading two of them needs no further package.

Mappings and lists by indentation, lists and mappings in brackets on one line, quoted and plain scalars, comments. Anything else
(anchors, tags, texts over several lines, several documents) is refused, with its line.
"""

from __future__ import annotations

import re
from typing import Any, Final, NoReturn

_WORDS: Final = {
    **dict.fromkeys(("true", "yes", "on"), True),
    **dict.fromkeys(("false", "no", "off"), False),
    **dict.fromkeys(("null", "~", ""), None),
}
_KEY: Final = re.compile(r"""("[^"]*"|'[^']*'|[^\s'"\[\]{}#&*!|>%@`,][^#]*?)\s*:(?=\s|$)\s*""")
_MAX_DEPTH: Final = 50


class YamlError(ValueError):
    """A text that is no YAML, or more of it than is read here."""


def parse(text: str) -> Any:
    """Return what a text says: dicts, lists, str, int, float, bool, None.

    Raises:
        YamlError: with the line it could not read.
    """
    lines: list[tuple[int, int, str]] = []
    for number, raw in enumerate(text.splitlines(), 1):
        line = _without_comment(raw, number)
        if line.strip() and not (line.strip() == "---" and not lines):
            indent = len(line) - len(line.lstrip(" "))
            if line[indent] == "\t":
                raise YamlError(f"line {number}: indentation is of spaces, not tabs")
            lines.append((number, indent, line.strip()))
    reader = _Reader(lines)
    value = reader.block(lines[0][1], 0) if lines else None
    if reader.at < len(lines):
        reader.refuse("expected no more indentation than before")
    return value


class _Reader:
    def __init__(self, lines: list[tuple[int, int, str]]) -> None:
        self.lines = lines
        self.at = 0

    def refuse(self, what: str) -> NoReturn:
        number, _, text = self.lines[min(self.at, len(self.lines) - 1)]
        raise YamlError(f"line {number}: {what}, got {text!r}")

    def block(self, indent: int, depth: int) -> Any:
        """Read lines from here on that are indented by `indent` or more."""
        if depth > _MAX_DEPTH:
            self.refuse(f"expected at most {_MAX_DEPTH} levels")
        text = self.lines[self.at][2]
        if text == "-" or text.startswith("- "):
            return self._list(indent, depth)
        if _KEY.match(text):
            return self._mapping(indent, depth)
        number = self.lines[self.at][0]
        self.at += 1
        return _scalar(text, number)

    def _list(self, indent: int, depth: int, *, below_key: bool = False) -> list[Any]:
        items = []
        while self.at < len(self.lines) and self.lines[self.at][1] == indent:
            number, _, text = self.lines[self.at]
            if text != "-" and not text.startswith("- "):
                if below_key:
                    break
                self.refuse("expected another item of the list")
            rest = text[1:].strip()
            if rest:
                # What follows the dash is a line of its own, as far in as it stands.
                self.lines[self.at] = (number, indent + len(text) - len(rest), rest)
                items.append(self.block(self.lines[self.at][1], depth + 1))
            else:
                self.at += 1
                items.append(self._below(indent, depth))
        return items

    def _mapping(self, indent: int, depth: int) -> dict[str, Any]:
        values: dict[str, Any] = {}
        while self.at < len(self.lines) and self.lines[self.at][1] == indent:
            number, _, text = self.lines[self.at]
            match = _KEY.match(text)
            if match is None:
                self.refuse("expected KEY: VALUE")
            key = str(_scalar(match.group(1), number)) if match.group(1)[0] in "'\"" else match.group(1)
            if key in values:
                self.refuse(f"expected each key once, {key!r} is there twice")
            rest = text[match.end() :]
            self.at += 1
            if rest:
                values[key] = _scalar(rest, number)
            elif self.at < len(self.lines) and self.lines[self.at][1] == indent and self.lines[self.at][2].startswith("-"):
                values[key] = self._list(indent, depth + 1, below_key=True)  # a list may stand as far left as its key
            else:
                values[key] = self._below(indent, depth)
        return values

    def _below(self, indent: int, depth: int) -> Any:
        if self.at < len(self.lines) and self.lines[self.at][1] > indent:
            return self.block(self.lines[self.at][1], depth + 1)
        return None


def _without_comment(line: str, number: int) -> str:
    quote = ""
    for index, char in enumerate(line):
        if quote:
            quote = "" if char == quote else quote
        elif char in "'\"" and (index == 0 or line[index - 1] in " [{,:"):
            quote = char
        elif char == "#" and (index == 0 or line[index - 1] in " \t"):
            return line[:index].rstrip()
    if quote:
        raise YamlError(f"line {number}: expected the quote {quote} to end, got {line.strip()!r}")
    return line.rstrip()


def _scalar(text: str, number: int) -> Any:
    value, rest = _flow(text, number, 0, nested=False)
    if rest.strip():
        raise YamlError(f"line {number}: expected nothing behind the value, got {rest.strip()!r}")
    return value


def _flow(text: str, number: int, depth: int, *, nested: bool) -> tuple[Any, str]:
    """Read one value at the start of a text; returns it and what is behind it."""
    text = text.lstrip()
    if depth > _MAX_DEPTH:
        raise YamlError(f"line {number}: expected at most {_MAX_DEPTH} levels")
    if text[:1] == "[":
        items = []
        text = text[1:].lstrip()
        while not text.startswith("]"):
            item, text = _flow(text, number, depth + 1, nested=True)
            items.append(item)
            text = _next(text, "]", number)
        return items, text[1:]
    if text[:1] == "{":
        values = {}
        text = text[1:].lstrip()
        while not text.startswith("}"):
            match = _KEY.match(text)
            if match is None:
                raise YamlError(f"line {number}: expected KEY: VALUE, got {text!r}")
            item, text = _flow(text[match.end() :], number, depth + 1, nested=True)
            values[match.group(1).strip("'\"")] = item
            text = _next(text, "}", number)
        return values, text[1:]
    if text[:1] in ("'", '"'):
        end = text.find(text[0], 1)
        if end < 0 or (text[0] == '"' and "\\" in text[:end]) or text[end + 1 : end + 2] == text[0]:
            raise YamlError(f"line {number}: expected a quoted text without escapes, got {text!r}")
        return text[1:end], text[end + 1 :]
    if text[:1] and text[0] in "&*!|>%@`":
        raise YamlError(f"line {number}: YAML's {text[0]} is not read here, got {text!r}")
    end = len(text)
    if nested:
        end = min((index for index in (text.find(char) for char in ",]}") if index >= 0), default=end)
    return _plain(text[:end].strip()), text[end:]


def _next(text: str, closing: str, number: int) -> str:
    text = text.lstrip()
    if text.startswith(","):
        return text[1:].lstrip()
    if not text.startswith(closing):
        raise YamlError(f"line {number}: expected , or {closing}, got {text!r}")
    return text


def _plain(text: str) -> Any:
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    if re.fullmatch(r"[-+]?[0-9]{1,18}", text):
        return int(text)
    if re.fullmatch(r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?", text):
        return float(text)
    return text
