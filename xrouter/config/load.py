"""A file and an environment → Settings, or everything that is wrong with them."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from xrouter.config.crosscheck import check_models, check_tiers, check_workers
from xrouter.config.decode import Decoder
from xrouter.config.document import read_document, read_file
from xrouter.config.plugged import PluggedDecoder
from xrouter.config.problems import ConfigError, Invalid, Problem, Problems
from xrouter.config.settings import Settings

__all__ = ["ConfigError", "Problem", "decode", "load", "read"]


def load(path: Path, environ: Mapping[str, str]) -> Settings:
    """Read the configuration `path`, with `environ` for its variables.

    Modules that it names for filters and providers are imported. Raises ConfigError, with every problem at once.
    """
    return decode(read(path), path, environ)


def read(path: Path) -> bytes:
    """The file as it stands. Raises ConfigError."""
    problems = Problems()
    try:
        return read_file(path, problems)
    except Invalid:
        raise problems.error() from None


def decode(data: bytes, path: Path, environ: Mapping[str, str]) -> Settings:
    """What `data`, the contents of the file `path`, says. Raises ConfigError, as `load` does."""
    problems = Problems()
    try:
        root = read_document(data, path, environ, problems)
    except Invalid:
        raise problems.error() from None
    decoder = Decoder(problems)
    plugged = PluggedDecoder(decoder, path.parent, problems)
    values, _ = decoder.fields(Settings, root, root.place, {"upstreams": plugged.upstreams, "filters": plugged.filters})
    check_models(root, problems)
    check_tiers(root, problems)
    check_workers(root, values, problems)
    problems.raise_if_any()
    settings = Settings(**values)
    if misfits := tuple(_misfits(settings)):
        raise ConfigError(misfits)
    return settings


def _misfits(settings: Settings) -> Iterator[Problem]:
    """What filters find wrong with their entries once the whole file is known: the optional `misfit` of a filter's class."""
    for entry in settings.filters:
        misfit = getattr(entry.filter, "misfit", None)
        if misfit is not None and (fault := misfit(entry, settings)):
            yield Problem(entry.place, fault)
