"""Where the keys of a TOML text are: ``tomllib`` gives the values, this gives the lines."""

from __future__ import annotations

import json
import re

#: ("stage", 0, "steps"): keys and positions in lists, from the top level down.
KeyPath = tuple[str | int, ...]

_BLANK = re.compile(r"(?:[ \t]|\r?\n|#[^\n]*)*")
_SPACE = re.compile(r"[ \t]*")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_BASIC = re.compile(r'"(?:[^"\\\n]|\\.)*"')
_LITERAL = re.compile(r"'[^'\n]*'")
_LONG_BASIC = re.compile(r'"""(?:[^\\]|\\.)*?"""(?:"{0,2})', re.DOTALL)
_LONG_LITERAL = re.compile(r"'''.*?'''(?:'{0,2})", re.DOTALL)
_SCALAR = re.compile(r"[^,\]}#\n]+")


def key_lines(text: str) -> dict[KeyPath, int]:
    """Line (from 1) of every key, table, list entry and inline key of a TOML text that ``tomllib`` accepts.

    A table that exists only through dotted keys or subtables gets the line where it is first named. Of an array of
    tables, ``("stage", 1)`` is the line of the second ``[[stage]]`` and ``("stage",)`` that of the first.
    """
    return _Scanner(text).scan()


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.lines: dict[KeyPath, int] = {}
        self.array_lengths: dict[KeyPath, int] = {}  # arrays of tables: number of entries so far
        self.counted_to, self.counted_line = 0, 1

    def scan(self) -> dict[KeyPath, int]:
        table: KeyPath = ()
        while True:
            self.skip(_BLANK)
            if self.at >= len(self.text):
                return self.lines
            line = self.line()
            if self.text.startswith("[[", self.at):
                self.at += 2
                path = self.inside_arrays(self.key())
                self.at = self.text.index("]]", self.at) + 2
                number = self.array_lengths.get(path, 0)
                self.array_lengths[path] = number + 1
                table = (*path, number)
                self.mark(table, line)
            elif self.text[self.at] == "[":
                self.at += 1
                key = self.key()
                self.at = self.text.index("]", self.at) + 1
                table = self.inside_arrays(key)
                self.mark(table, line)
            else:
                self.pair(table)

    def inside_arrays(self, key: tuple[str, ...]) -> KeyPath:
        """The path of a header: parts that are arrays of tables lead into their newest entry, but for the last part."""
        path: KeyPath = ()
        for n, part in enumerate(key):
            path = (*path, part)
            if n < len(key) - 1:
                path = self.enter(path)
        return path

    def enter(self, path: KeyPath) -> KeyPath:
        return (*path, self.array_lengths[path] - 1) if path in self.array_lengths else path

    def mark(self, path: KeyPath, line: int) -> None:
        self.lines[path] = line
        for n in range(1, len(path)):
            self.lines.setdefault(path[:n], line)

    def line(self) -> int:
        self.counted_line += self.text.count("\n", self.counted_to, self.at)
        self.counted_to = self.at
        return self.counted_line

    def skip(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self.text, self.at)
        if match is None:
            raise ValueError(f"line {self.line()}: not TOML")
        self.at = match.end()
        return match.group()

    def key(self) -> tuple[str, ...]:
        """A key, dotted and quoted as it may be."""
        parts: list[str] = []
        while True:
            self.skip(_SPACE)
            character = self.text[self.at]
            if character == '"':
                parts.append(_unescape(self.skip(_BASIC)))
            elif character == "'":
                parts.append(self.skip(_LITERAL)[1:-1])
            else:
                parts.append(self.skip(_BARE_KEY))
            self.skip(_SPACE)
            if not self.text.startswith(".", self.at):
                return tuple(parts)
            self.at += 1

    def pair(self, table: KeyPath) -> None:
        line = self.line()
        path: KeyPath = (*table, *self.key())
        self.mark(path, line)
        self.at = self.text.index("=", self.at) + 1
        self.value(path)

    def value(self, path: KeyPath) -> None:
        self.skip(_SPACE)
        character = self.text[self.at]
        if self.text.startswith('"""', self.at):
            self.skip(_LONG_BASIC)
        elif self.text.startswith("'''", self.at):
            self.skip(_LONG_LITERAL)
        elif character == '"':
            self.skip(_BASIC)
        elif character == "'":
            self.skip(_LITERAL)
        elif character in "[{":
            self.at += 1
            number = 0
            while True:
                self.skip(_BLANK)
                if self.text[self.at] == ",":
                    self.at += 1
                elif self.text[self.at] in "]}":
                    self.at += 1
                    return
                elif character == "{":
                    self.pair(path)
                else:
                    self.mark((*path, number), self.line())
                    self.value((*path, number))
                    number += 1
        else:
            self.skip(_SCALAR)


def _unescape(quoted: str) -> str:
    """The text of a basic string; TOML's \\U, which JSON lacks, is written as what it stands for."""
    expanded = re.sub(
        r"\\(?:U([0-9A-Fa-f]{8})|(.))",
        lambda m: json.dumps(chr(int(m.group(1), 16)))[1:-1] if m.group(1) else m.group(),
        quoted,
    )
    return str(json.loads(expanded, strict=False))
