"""GigaChat's file store (gigachat.md section 10)."""

import email
import email.policy
from dataclasses import dataclass
from email.message import Message

from xrouter.sandbox.endpoint import Incoming
from xrouter.sandbox.gigachat_dialect import authorised, invalid, refuse
from xrouter.sandbox.reply import Reply, json_reply
from xrouter.sandbox.state import StoredFile

_MEGABYTE = 1024 * 1024
_NO_SUCH_FILE = "No such file"  # the sheet gives no text

_LIMITS = {
    **dict.fromkeys(("image/jpeg", "image/png", "image/tiff", "image/bmp"), 15 * _MEGABYTE),
    **dict.fromkeys(
        (
            "audio/mpeg",
            "audio/mp3",
            "audio/mp4",
            "audio/x-m4a",
            "audio/wav",
            "audio/x-wav",
            "audio/webm",
            "audio/ogg",
            "audio/opus",
        ),
        35 * _MEGABYTE,
    ),
    **dict.fromkeys(
        (
            "text/plain",
            "application/msword",
            "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
            "application/pdf",
            "application/epub",
            "application/epub+zip",
            "application/ppt",
            "application/vnd.ms-powerpoint",
            "application/pptx",
            "application/vnd.openxmlformats-officedocument.presentationml.presentation",
            "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
        ),
        40 * _MEGABYTE,
    ),
}


@dataclass(frozen=True, slots=True)
class _Part:
    filename: str | None
    content_type: str
    content: bytes


def _modality(content_type: str) -> str:
    kind = content_type.partition("/")[0]
    return kind if kind in ("image", "audio") else "text"


def _described(stored: StoredFile) -> dict[str, object]:
    return {
        "id": stored.id,
        "object": "file",
        "bytes": len(stored.content),
        "created_at": stored.created_at,
        "filename": stored.filename,
        "purpose": "general",
        "access_policy": "private",
        "modalities": [_modality(stored.content_type)],
    }


async def upload(incoming: Incoming) -> Reply:
    state = incoming.state
    token = authorised(state, incoming.headers)
    parts = _multipart(incoming.header("content-type"), incoming.body)
    file, purpose = parts.get("file"), parts.get("purpose")
    if file is None or not file.filename:
        raise invalid("file is required")
    if purpose is None or purpose.content != b"general":
        raise invalid("purpose must be general")
    limit = _LIMITS.get(file.content_type)
    if limit is None:
        raise invalid(f"unsupported content type {file.content_type}")
    if len(file.content) > limit:
        raise refuse(413)
    stored = StoredFile(
        str(state.unique_id("file")), token.holder, file.filename, file.content_type, file.content, int(state.now())
    )
    state.files[stored.id] = stored
    return json_reply(_described(stored))


async def list_files(incoming: Incoming) -> Reply:
    token = authorised(incoming.state, incoming.headers)
    owned = [each for each in incoming.state.files.values() if each.holder == token.holder]
    return json_reply({"data": [_described(each) for each in owned]})


async def one_file(incoming: Incoming) -> Reply:
    return json_reply(_described(_owned(incoming)))


async def delete(incoming: Incoming) -> Reply:
    stored = _owned(incoming)
    del incoming.state.files[stored.id]
    return json_reply({"id": stored.id, "deleted": True, "access_policy": "private"})


async def content(incoming: Incoming) -> Reply:
    stored = _owned(incoming)
    return Reply(200, (stored.content,), stored.content_type)


def _owned(incoming: Incoming) -> StoredFile:
    token = authorised(incoming.state, incoming.headers)
    stored = incoming.state.files.get(incoming.params["id"])
    if stored is None or stored.holder != token.holder:
        raise refuse(404, _NO_SUCH_FILE)
    return stored


def _multipart(content_type: str, body: bytes) -> dict[str, _Part]:
    """The parts of a multipart/form-data body by name (RFC 7578)."""
    head = f"Content-Type: {content_type}\r\n\r\n".encode("latin-1", "replace")
    message = email.message_from_bytes(head + body, policy=email.policy.HTTP)
    if message.get_content_type() != "multipart/form-data" or not message.is_multipart():
        raise refuse(400, "Request Content-Type isn't multipart/form-data")  # the sandbox's own text
    parts: dict[str, _Part] = {}
    for part in message.iter_parts():
        name = part.get_param("name", header="content-disposition")
        payload = _payload(part)
        if isinstance(name, str) and payload is not None:
            parts[name] = _Part(part.get_filename(), part.get_content_type(), payload)
    return parts


def _payload(part: Message) -> bytes | None:
    payload = part.get_payload(decode=True)
    return payload if isinstance(payload, bytes) else None
