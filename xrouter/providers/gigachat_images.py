"""Images for GigaChat: data URLs checked and decoded, and the files that they became upstream, kept for the next request.

Only data URLs are taken. To fetch an address that a client names would make the gateway a way into its operator's network
(incident I-10), and a translator has no way out but to its own upstream.
"""

from binascii import a2b_base64
from collections import OrderedDict, deque
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from xrouter.errors import BadRequest
from xrouter.world import World

MAX_IMAGE_BYTES: Final = 15 * 1024 * 1024  # section 10
MAX_IMAGES: Final = 10  # of one request, section 10

_SUFFIXES: Final = {"image/jpeg": "jpg", "image/png": "png", "image/tiff": "tiff", "image/bmp": "bmp"}
_MAGIC: Final = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"BM", "image/bmp"),
    (b"II*\x00", "image/tiff"),
    (b"MM\x00*", "image/tiff"),
    (b"GIF8", "image/gif"),
)


@dataclass(frozen=True, slots=True)
class Image:
    content_type: str
    data: bytes
    digest: bytes  # SHA-256 of `data`

    @property
    def filename(self) -> str:
        return f"image.{_SUFFIXES[self.content_type]}"


def decode_image(url: str, param: str) -> Image:
    """The image in a data URL (RFC 2397). Raises BadRequest, naming `param`, for anything that GigaChat would not take."""
    head, comma, payload = url.partition(",")
    if head[:5].lower() != "data:" or not comma:
        raise BadRequest("GigaChat takes images as data URLs only: data:image/png;base64,…", param=param)
    declared, *attributes = (item.strip().lower() for item in head[5:].split(";"))
    if "base64" not in attributes:
        raise BadRequest("An image's data URL holds base64", param=param)
    if len(payload) * 3 // 4 > MAX_IMAGE_BYTES + 2:  # base64 has up to two bytes of padding
        raise BadRequest(f"An image has at most {MAX_IMAGE_BYTES // 1024 // 1024} MB", param=param)
    try:
        data = a2b_base64(payload, strict_mode=True)
    except ValueError as error:
        raise BadRequest("An image's data URL holds invalid base64", param=param) from error
    if not data or len(data) > MAX_IMAGE_BYTES:
        raise BadRequest(f"An image has 1 byte to {MAX_IMAGE_BYTES // 1024 // 1024} MB", param=param)
    content_type = _content_type(data, declared)
    if content_type not in _SUFFIXES:
        raise BadRequest("GigaChat reads JPEG, PNG, TIFF and BMP images: convert this one", param=param)
    return Image(content_type, data, sha256(data).digest())


def _content_type(data: bytes, declared: str) -> str:
    """What the first bytes say, since clients often declare the wrong type; else what was declared."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    known = next((kind for magic, kind in _MAGIC if data.startswith(magic)), declared)
    return "image/jpeg" if known == "image/jpg" else known


class UploadedImages:
    """The files of one upstream, by content. Bounded in number; a file that was unused for `ttl_s` is to be deleted.

    No method waits, so translators may share one object without a lock. Two requests that upload one image at the same
    time leave two files: the later one is used from then on, the earlier one ages and is deleted.
    """

    def __init__(self, world: World, ttl_s: float, max_files: int = 1024) -> None:
        self._world = world
        self._ttl_s = ttl_s
        self._max_files = max_files
        self._by_digest: dict[bytes, str] = {}
        self._files: OrderedDict[str, tuple[bytes, float]] = OrderedDict()  # id → digest, last use; oldest use first
        self._to_delete: deque[str] = deque(maxlen=max_files)

    def find(self, image: Image) -> str | None:
        """The id of the file that holds `image`, if it was uploaded and is not due for deletion."""
        self._expire()
        file_id = self._by_digest.get(image.digest)
        if file_id is not None:
            self._touch(file_id, image.digest)
        return file_id

    def add(self, image: Image, file_id: str) -> None:
        self._by_digest[image.digest] = file_id
        self._touch(file_id, image.digest)
        self._expire()

    def forget(self, file_id: str) -> None:
        """The upstream does not know this file any more, or may not: the next request uploads the image again."""
        if file_id in self._files:
            self._drop(file_id)

    def next_to_delete(self) -> str | None:
        """The id of a file that is no longer needed; given once."""
        self._expire()
        return self._to_delete.popleft() if self._to_delete else None

    def _touch(self, file_id: str, digest: bytes) -> None:
        self._files[file_id] = (digest, self._world.monotonic())
        self._files.move_to_end(file_id)

    def _expire(self) -> None:
        oldest_use = self._world.monotonic() - self._ttl_s
        while self._files:
            file_id, (_, used) = next(iter(self._files.items()))
            if used > oldest_use and len(self._files) <= self._max_files:
                return
            self._drop(file_id)
            self._to_delete.append(file_id)

    def _drop(self, file_id: str) -> None:
        digest, _ = self._files.pop(file_id)
        if self._by_digest.get(digest) == file_id:
            del self._by_digest[digest]
