"""Which model a configured name means at Yandex, and what that model can do.

A model is named by a URI: `gpt://<folder>/<model>/<branch>[@<tuning>]`, `emb://…` for embeddings. Configurations leave out
the scheme and the folder, and the branch where it is `latest`. Source: the sheet's section 10.
"""

from dataclasses import dataclass
from typing import Literal, Self

Scheme = Literal["gpt", "emb"]
Surface = Literal["native", "openai"]

_LATEST = "latest"
_QUERY_INPUTS = frozenset({"query", "search_query"})
_DOCUMENT_INPUTS = frozenset({"document", "passage", "search_document"})
_NATIVE_MODELS = "yandexgpt"
_OWN_MODELS = (_NATIVE_MODELS, "aliceai-")
_HIDDEN_REASONING = frozenset({"yandexgpt", "yandexgpt-5-pro"})


class ForeignFolder(ValueError):
    """A model's full URI names another folder than the credential's. The message names neither."""


@dataclass(frozen=True, slots=True)
class YandexModel:
    """One model of one folder. `tuning` is the suffix of a fine-tuned one."""

    folder: str
    name: str
    branch: str = _LATEST
    tuning: str | None = None

    @classmethod
    def parse(cls, text: str, folder: str, scheme: Scheme) -> Self:
        """`name[/branch][@tuning]`, or a full URI of this folder. Raises ForeignFolder, or ValueError for no model."""
        given_scheme, separator, path = text.partition("://")
        if separator:
            if given_scheme != scheme:
                raise ValueError(f"a model of the kind {scheme}:// is needed here")
            given_folder, _, path = path.partition("/")
            if given_folder != folder:
                raise ForeignFolder("the model's URI names another folder than the upstream's")
        else:
            path = text
        path, _, tuning = path.partition("@")
        name, _, branch = path.partition("/")
        if not name or "/" in branch:
            raise ValueError("a model is named as name, name/branch or name/branch@tuning")
        return cls(folder, name, branch or _LATEST, tuning or None)

    def uri(self, scheme: Scheme) -> str:
        tuning = f"@{self.tuning}" if self.tuning else ""
        return f"{scheme}://{self.folder}/{self.name}/{self.branch}{tuning}"

    @property
    def short(self) -> str:
        """The name as configurations write it."""
        branch = "" if self.branch == _LATEST else f"/{self.branch}"
        tuning = f"@{self.tuning}" if self.tuning else ""
        return f"{self.name}{branch}{tuning}"

    @property
    def default_surface(self) -> Surface:
        return "native" if self.calls_tools_natively else "openai"

    @property
    def calls_tools_natively(self) -> bool:
        """Whether the native surface runs tools: of YandexGPT models alone that is seen to work (section 3)."""
        return self.name.startswith(_NATIVE_MODELS)

    @property
    def own(self) -> bool:
        """Whether it is Yandex's own: those take a temperature of at most 1."""
        return self.name.startswith(_OWN_MODELS)

    @property
    def reasons_hidden(self) -> bool:
        """Whether the native surface has a reasoning mode for it: Pro 5 has, Pro 5.1 (`rc`) has not (section 8)."""
        return self.name in _HIDDEN_REASONING and self.branch != "rc"

    @property
    def knows_developer(self) -> bool:
        """Whether messages of the role `developer` are documented for it (section 15)."""
        return self.name.startswith("gpt-oss")

    def for_input(self, input_type: str | None) -> "YandexModel":
        """The twin for `input_type`: texts to be found and texts to search with have models of their own (section 13)."""
        stem, dash, kind = self.name.rpartition("-")
        if not dash or kind not in ("doc", "query") or input_type is None:
            return self
        if input_type in _QUERY_INPUTS:
            return YandexModel(self.folder, f"{stem}-query", self.branch, self.tuning)
        if input_type in _DOCUMENT_INPUTS:
            return YandexModel(self.folder, f"{stem}-doc", self.branch, self.tuning)
        return self


def served_name(told: str) -> str:
    """The model that an answer says has served, for logs: without the folder, and no longer than a name is."""
    return told.partition("://")[2].partition("/")[2][:100] if "://" in told else told[:100]
