"""The line of shell that shows something again: for an incident's ticket."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Self

__all__ = ["NOWHERE", "Again", "Option", "Shell", "again"]

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


@dataclass(frozen=True, slots=True)
class Shell:
    """How the shell asks a lab: by its folder, as the user gave it, and its zone; `words` and `options` are in every line. Without a folder there are no lines."""

    folder: str | None = None
    tz: str | None = None
    words: tuple[str, ...] = ()
    options: Mapping[str, Option] = field(default_factory=dict)

    def of(self, *words: str, **options: Option) -> Shell:
        """The same, with more in every line."""
        return dataclasses.replace(self, words=(*self.words, *words), options={**self.options, **options})

    def line(self, command: str, *words: str | Sequence[str], **options: Option) -> str:
        """The line that asks; "" where the shell cannot."""
        return "" if self.folder is None else again(command, self.folder, *self.words, *words, **{**self.options, **options, "tz": self.tz})


NOWHERE: Final = Shell()
"""What the shell cannot ask for: a lab that goes with its object, or what a notebook's own functions come to."""


class Again:
    """An answer that a line of shell shows again: `again`, "" where none does."""

    again: str = ""

    def shown_by(self, line: str) -> Self:
        """This answer, with its line."""
        self.again = line
        return self


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
