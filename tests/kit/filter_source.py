"""The source of an operator's own filter, for tests that put it beside a configuration."""

from textwrap import dedent, indent

_SOURCE = """
{first}
from dataclasses import dataclass


class {name}:
    needs = provides = frozenset()

    @dataclass(frozen=True)
    class Config:
        pass

    def __init__(self, app, config, services):
        self.app = app

    async def start(self):
{on_start}

    async def __call__(self, scope, receive, send):
{on_request}
        await self.app(scope, receive, send)
"""


def filter_source(name: str, *, first: str = "", on_start: str = "pass", on_request: str = "pass") -> str:
    """A filter that lets everything through. `first` runs when it is imported, the others where they say."""
    return _SOURCE.format(
        name=name, first=dedent(first), on_start=indent(on_start, " " * 8), on_request=indent(on_request, " " * 8)
    )
