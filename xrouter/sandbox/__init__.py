"""Provider emulators: try, demo and test without credentials.

One ASGI app speaks as GigaChat, as Yandex AI Studio (native and OpenAI-compatible) and as OpenAI, as strictly as the real
ones do: what the sandbox accepts, they accept. The sources of the rules are the fact sheets of the providers' APIs; where a
sheet gives no text for an error, the text is the sandbox's own, and docs/sandbox.md says so.

    app, admin                                  the routes of all the emulators, and the controls
    running, serving, protocol, addresses       the app on a socket, and where it is
    gigachat_*, yandex_*, openai_*              one provider each; Yandex's compatible surface uses OpenAI's
    assistant, phrases, schema, tokens, vectors what a model would say, deterministically
    endpoint, reply, delivery, scenario         what is common to all handlers: answers, and faults on demand
    state, config, credentials                  everything that a run remembers, on one object; how it behaves
"""
