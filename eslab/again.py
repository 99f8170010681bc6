"""The line of shell that shows something again: for an incident's ticket."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

__all__ = ["Option", "again"]

Option = str | Sequence[str] | None
"""An option with several values is repeated; one with "" stands alone; None is none."""


def again(command: str, *words: str | Sequence[str], **options: Option) -> str:
    """`eslab COMMAND` with its words and options, quoted for bash and zsh. Where the order of options matters, they are one of the words, as a list."""
    plain = [word for word in words if isinstance(word, str)]
    given = [part for word in words if not isinstance(word, str) for part in word]
    given += [part for name, value in options.items() if value is not None for part in _option(name, value)]
    dashed = any(word.startswith("-") for word in plain)
    parts = [command, *given, "--", *plain] if dashed else [command, *plain, *given]
    return " ".join(["eslab", *map(_quoted, parts)])


def _option(name: str, value: str | Sequence[str]) -> list[str]:
    option, given = f"--{name.replace('_', '-')}", [value] if isinstance(value, str) else value
    return [option] if value == "" else [part for one in given for part in (option, one)]


def _quoted(word: str) -> str:
    """A word for the shell; one that must not be printed as it is, in the `$'...'` of bash and zsh."""
    if word.isprintable():
        return shlex.quote(word)
    escaped = (
        one if one.isprintable() and one not in "'\\" else f"\\u{ord(one):04x}" if ord(one) < 0x10000 else f"\\U{ord(one):08x}"
        for one in word
    )
    return f"$'{''.join(escaped)}'"
