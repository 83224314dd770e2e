"""The never-updated model: the version that answered after the first tenth, asked about the rest of the stream."""

import asyncio
from collections.abc import Sequence

from schemas.errors import Transient
from services.demo.messages import Message
from services.demo.metrics import NO_VERSION, Answer, freeze_place
from services.demo.product import Client
from services.demo.tally import Tally

_BATCH = 32
_SAMPLE = 10  # while the stream runs, every tenth message is asked; the rest when it is over


class NeverUpdated:
    """Asks one early version, by name, what it would have answered to every later message.

    While the stream runs only a sample is asked, so that the comparison costs little and the version stays loaded;
    the rest follows when the stream is over.
    """

    def __init__(self, client: Client, loop: str, messages: Sequence[Message], tally: Tally) -> None:
        self._client, self._loop, self._messages, self._tally = client, loop, messages, tally
        self.place = freeze_place(len(messages))
        self.version = ""
        self.fault = ""
        self._frozen = asyncio.Event()
        self._waiting: asyncio.Queue[int] = asyncio.Queue()

    def saw(self, answer: Answer) -> None:
        """Freeze the version that answered the first message after the first tenth; sample those that follow."""
        if answer.index == self.place:
            self.version = self._tally.static_version = answer.version
            self._frozen.set()
        if answer.index >= self.place and answer.index % _SAMPLE == 0:
            self._waiting.put_nowait(answer.index)

    async def sample(self) -> None:
        """Ask about the sampled messages as they come; runs until it is cancelled or the version cannot be asked."""
        await self._frozen.wait()
        while not self.fault:
            places = [await self._waiting.get()]
            while len(places) < _BATCH and not self._waiting.empty():
                places.append(self._waiting.get_nowait())
            await self._ask(places)

    async def finish(self) -> None:
        """Ask about every later message that was not asked yet."""
        rest = [p for p in range(self.place, len(self._messages)) if p not in self._tally.static_flags]
        for start in range(0, len(rest), _BATCH):
            if self.fault or not self.version:
                return
            await self._ask(rest[start:start + _BATCH])

    async def _ask(self, places: Sequence[int]) -> None:
        messages = [self._messages[place] for place in places]
        labels: Sequence[str | None] = [None] * len(places)
        if self.version != NO_VERSION:
            try:
                labels = await self._client.infer(self._loop, self.version, [m.text for m in messages])
            except Transient as exc:
                self.fault = str(exc)
                return
        for place, message, label in zip(places, messages, labels, strict=True):
            self._tally.static_flags[place] = label == message.label
