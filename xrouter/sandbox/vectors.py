"""Embeddings of the sandbox: a vector that depends on the text and the model alone."""

import hashlib
import math
import struct


def vector(text: str, model: str, size: int, *, scale: float) -> list[float]:
    """`size` numbers in ±`scale`, from a hash: equal texts have equal vectors, others have unrelated ones."""
    digest = hashlib.shake_256(f"{model}\0{text}".encode("utf-8", "surrogatepass")).digest(2 * size)
    step = scale / 32768
    return [round(number * step, 7) for number in struct.unpack(f"<{size}h", digest)]


def unit_vector(text: str, model: str, size: int) -> list[float]:
    """As `vector`, of length 1."""
    numbers = vector(text, model, size, scale=1.0)
    length = math.sqrt(sum(number * number for number in numbers)) or 1.0
    return [number / length for number in numbers]
