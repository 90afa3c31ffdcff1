"""How a sandbox behaves: its strictness, its limits and the credentials that it accepts."""

from dataclasses import dataclass
from typing import Literal

from xrouter.sandbox.scenario import NO_SCENARIO, Scenario


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxConfig:
    """The defaults are the providers' own, except that no package of tokens ever runs out.

    Every `…_per_s` is a limit of requests a second; None: no such limit.
    """

    scenario: Scenario = NO_SCENARIO  # for requests that choose none themselves
    natural: bool = False  # answer at a model's pace instead of at once
    recorded_requests: int = 50  # the newest requests kept for /admin/requests
    max_body_bytes: int = 80 * 1024 * 1024  # gigachat.md section 10: whole request ≤ 80 MB

    token_ttl_s: float = 1800.0  # gigachat.md section 2.1: 30 minutes
    token_shape: Literal["ms", "s", "tok", "absent"] = "ms"  # noqa: S105  how the answer tells the expiry
    oauth_per_s: int | None = 10
    require_user_agent: bool = True
    refuse_unknown_fields: bool = True  # GigaChat and OpenAI; the sheets do not say what GigaChat does with them
    functions_after_result: bool = (
        True  # False: `functions` only while the last message is a user's (section 6, uncertain)
    )
    models_without_functions: frozenset[str] = frozenset()
    pers_concurrency: int = 1
    company_concurrency: int = 10
    prompt_cache_s: float = 30.0
    package_tokens: int | None = None  # of each GigaChat model; used up: 402. None: never

    folder: str = "b1gsandbox"
    iam_ttl_s: float = 43200.0  # yandexgpt.md section 2: ≤ 12 h
    generations: int | None = 10  # simultaneous synchronous generations a folder
    tokenize_per_s: int | None = 50
    embeddings_per_s: int | None = 10
    operations_per_s: int | None = 50
    async_per_s: int | None = 10
    operation_delay_s: float = 2.0  # until an asynchronous generation is done
    operation_kept_s: float = 3 * 86400.0

    openai_concurrency: int | None = None
