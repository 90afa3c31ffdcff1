"""Images by upload; the number is that of the sheet's section 15."""

import base64
import json
from typing import Any

import pytest
from gigachat_kit import BASE_URL, HandWorld, answer, exchanged, header, image, png, provider, sent, translator

from xrouter.errors import BadRequest, UpstreamError, UpstreamProtocolError
from xrouter.providers.gigachat import GigaChat
from xrouter.providers.gigachat_images import MAX_IMAGE_BYTES, UploadedImages, decode_image


def user(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": [{"type": "text", "text": "Что тут?"}, *parts]}


def uploaded(file_id: str) -> Any:
    return answer(200, {"id": file_id, "object": "file", "bytes": 1, "purpose": "general"})


def test_gigachat_18_an_image_is_uploaded_once() -> None:
    giga = provider()
    messages = [user(image()), {"role": "assistant", "content": "Кот"}, user(image(png(200)))]
    requests = exchanged(translator(of=giga, messages=messages), uploaded("f1"), uploaded("f2"))
    assert [request.url for request in requests] == [
        f"{BASE_URL}/files",
        f"{BASE_URL}/files",
        f"{BASE_URL}/chat/completions",
    ]
    assert [message.get("attachments") for message in json.loads(requests[-1].body)["messages"]] == [
        ["f1"],
        None,
        ["f2"],
    ]
    again = json.loads(sent(translator(of=giga, messages=messages)).body)
    assert [message.get("attachments") for message in again["messages"]] == [["f1"], None, ["f2"]]


def test_an_image_twice_in_one_call_is_uploaded_once() -> None:
    messages = [user(image(), image()), {"role": "assistant", "content": "Кот"}, user(image())]
    *_, chat = exchanged(translator(messages=messages), uploaded("f1"))
    assert [message.get("attachments") for message in json.loads(chat.body)["messages"]] == [["f1"], None, ["f1"]]


def test_a_message_has_one_image() -> None:
    one, two = image(), image(png(200))
    for messages in ([user(one, two)], [user(one), user(two)]):
        *_, chat = exchanged(translator(messages=messages), uploaded("f1"), uploaded("f2"))
        assert [message["attachments"] for message in json.loads(chat.body)["messages"]] == [["f1"], ["f2"]]
    plain = {"role": "user", "content": "Ну?"}
    *_, chat = exchanged(translator(messages=[plain, user(one), plain]), uploaded("f1"))
    assert json.loads(chat.body)["messages"] == [
        {"role": "user", "content": "Ну?\nЧто тут?\nНу?", "attachments": ["f1"]}
    ]


def test_the_upload() -> None:
    data = png() + b"\r\n--\r\n"
    upload, _ = exchanged(translator(messages=[user(image(data))]), uploaded("f1"))
    kind = (header(upload, b"content-type") or b"").decode()
    assert kind.startswith("multipart/form-data; boundary=")
    boundary = kind.partition("=")[2].encode()
    first, second, end = upload.body.split(b"--" + boundary)[1:]
    assert first == b'\r\nContent-Disposition: form-data; name="purpose"\r\n\r\ngeneral\r\n'
    head, _, body = second.partition(b"\r\n\r\n")
    assert b'name="file"; filename="image.png"' in head
    assert b"Content-Type: image/png" in head
    assert body == data + b"\r\n"
    assert end == b"--\r\n"
    assert header(upload, b"user-agent")


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (image(png(20 * 1024 * 1024)), "at most 15 MB"),
        (image(png(MAX_IMAGE_BYTES + 1)), "15 MB"),
        (image(b""), "15 MB"),
        (image(b"GIF89a", "image/png"), "convert"),
        (image(b"RIFF\0\0\0\0WEBPVP8 ", "image/jpeg"), "convert"),
        (image(b"<svg>", "image/svg+xml"), "convert"),
        ({"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}, "data URLs"),
        ({"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}, "data URLs"),
        ({"type": "image_url", "image_url": {"url": "data:image/png,abc"}}, "base64"),
        ({"type": "image_url", "image_url": {"url": "data:image/png;base64,AA==A"}}, "base64"),
        ({"type": "image_url", "image_url": {"url": "data:image/png;base64,AAA"}}, "base64"),
        ({"type": "image_url", "image_url": {"url": "data:image/png;base64,A A="}}, "base64"),
        ({"type": "image_url", "image_url": {"url": "data:image/png;base64,щщщщ"}}, "base64"),
        ({"type": "image_url"}, "type"),
    ],
)
def test_gigachat_18_an_image_that_cannot_be_is_refused_before_anything_is_sent(
    part: dict[str, Any], message: str
) -> None:
    with pytest.raises(BadRequest, match=message) as caught:
        exchanged(translator(messages=[user(part)]))
    assert caught.value.param == "messages[0].content[1]"


def test_only_ten_images_a_request() -> None:
    with pytest.raises(BadRequest, match="10 images"):
        exchanged(translator(messages=[user(*(image(png(100 + size)) for size in range(11)))]))


def test_the_largest_image_passes() -> None:
    encoded = base64.b64encode(png(MAX_IMAGE_BYTES)).decode()
    assert len(decode_image(f"data:image/png;base64,{encoded}", "x").data) == MAX_IMAGE_BYTES


def test_the_first_bytes_say_more_than_the_declared_type() -> None:
    encoded = base64.b64encode(b"\xff\xd8\xff\xe0").decode()
    assert decode_image(f"data:image/png;base64,{encoded}", "x").filename == "image.jpg"
    assert decode_image("DATA:image/jpg;charset=x;base64,AAAA", "x").content_type == "image/jpeg"


def test_an_upload_that_fails() -> None:
    for status, body, kind in (
        (500, b"", UpstreamError),
        (413, {"message": "Payload too large"}, Exception),
        (200, b"{}", UpstreamProtocolError),
        (200, {"id": "../../v1/models"}, UpstreamProtocolError),
        (200, b"<html>", UpstreamProtocolError),
    ):
        with pytest.raises(kind):  # type: ignore[call-overload]
            exchanged(translator(messages=[user(image())]), answer(status, body))


@pytest.mark.parametrize("status", [400, 404, 422])
def test_a_file_that_the_upstream_may_have_lost_is_uploaded_again(status: int) -> None:
    giga: GigaChat = provider()
    asked = translator(of=giga, messages=[user(image())])
    exchanged(asked, uploaded("f1"))
    asked.error(answer(status, {"status": status, "message": "No such file"}))
    again = exchanged(translator(of=giga, messages=[user(image())]), uploaded("f2"))
    assert json.loads(again[-1].body)["messages"][0]["attachments"] == ["f2"]


def test_a_file_that_was_unused_for_long_is_deleted() -> None:
    world = HandWorld()
    giga = provider(world, image_ttl_s=100.0)
    exchanged(translator(of=giga, messages=[user(image())]), uploaded("old"))
    world.clock += 101
    _, delete, chat = exchanged(translator(of=giga, messages=[user(image())]), uploaded("new"), answer(500))
    assert (delete.method, delete.url) == ("POST", f"{BASE_URL}/files/old/delete")
    assert json.loads(chat.body)["messages"][0]["attachments"] == ["new"]


def test_known_files_are_bounded_and_the_least_used_one_goes() -> None:
    world = HandWorld()
    files = UploadedImages(world, ttl_s=100, max_files=2)
    first, second, third = (decode_image(f"data:image/png;base64,AAA{last}", "x") for last in "AEI")
    files.add(first, "f1")
    files.add(second, "f2")
    assert files.find(first) == "f1"
    files.add(third, "f3")
    assert (files.find(first), files.find(second), files.find(third)) == ("f1", None, "f3")
    assert [files.next_to_delete(), files.next_to_delete()] == ["f2", None]
    files.add(first, "f4")  # uploaded twice at the same time
    assert files.find(first) == "f4"
    assert files.next_to_delete() == "f1"
    world.clock += 101
    assert files.find(first) is None
    assert [files.next_to_delete() for _ in range(3)] == ["f3", "f4", None]
