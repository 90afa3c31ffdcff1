"""The text of a native YandexGPT stream: every line repeats the whole text so far, and may take some of it back.

The rule is the sheet's section 5: what was sent cannot be recalled, so nothing is sent that contradicts it.
"""


class CumulativeText:
    """Whole texts in, new pieces out. Texts are compared by code points, so a piece never holds half a letter.

    `hold_back_chars`: the newest characters are kept until more text follows them or the text is final. Rewrites touch the
    end of a text, so this hides most of them, at the price of a delay.
    """

    def __init__(self, hold_back_chars: int = 0) -> None:
        self._hold_back_chars = hold_back_chars
        self._agrees = True
        self.sent = ""
        self.rewrites = 0  # times that the upstream took back text that was sent; for the operator's metric
        self.differs = False  # the final text is not what was sent

    def partial(self, text: str) -> str:
        """What may be sent of a text that is not final yet. Nothing while it contradicts what was sent."""
        if not text.startswith(self.sent):
            if self._agrees:
                self._agrees = False
                self.rewrites += 1
            return ""
        self._agrees = True
        end = len(text) - self._hold_back_chars
        if end <= len(self.sent):
            return ""
        piece = text[len(self.sent) : end]
        self.sent = text[:end] if self._hold_back_chars else text
        return piece

    def final(self, text: str) -> str:
        """The rest of the final text; nothing if it contradicts what was sent."""
        if not text.startswith(self.sent):
            if self._agrees:
                self.rewrites += 1
            self.differs = True
            return ""
        piece = text[len(self.sent) :]
        self.sent = text
        return piece
