"""A name for the conversation that a request belongs to."""

from hashlib import sha256

from xrouter.context import RequestContext
from xrouter.routing.chance import session_of


def conversation(ctx: RequestContext) -> str:
    """The client's own name for it, or else what its first message says; never shared between keys.

    A provider's prompt cache goes by it (gigachat.md section 9), and the first message is what stays the same from turn to
    turn.
    """
    session = session_of(ctx)
    if session is not None:
        return session
    texts = ctx.call.prompt()
    name = sha256(texts[0].encode("utf-8", "surrogatepass")).hexdigest() if texts else ""
    return f"{ctx.principal.key_id}:{name}"
