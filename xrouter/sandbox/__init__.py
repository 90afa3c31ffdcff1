"""Provider emulators: try, demo and test without credentials.

One ASGI app speaks as GigaChat, as Yandex AI Studio (native and OpenAI-compatible) and as OpenAI, as strictly as the real
ones do: what the sandbox accepts, they accept. The sources of the rules are the fact sheets of the providers' APIs; where a
sheet gives no text for an error, the text is the sandbox's own, and docs/sandbox.md says so.

    app          the routes of all the emulators         running, serving   the app on a socket
    gigachat_*   GigaChat                                yandex_*           Yandex AI Studio
    openai_*     OpenAI, also used by Yandex's compatible surface
    assistant, schema, tokens, vectors                   what a model would say, deterministically
    scenario, delivery, endpoint                         faults on demand
    state        everything that a run remembers, on one object
"""
