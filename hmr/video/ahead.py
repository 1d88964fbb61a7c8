"""Work of one thread that goes on while another one uses what it made."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from queue import Empty, Full, Queue
from types import TracebackType
from typing import Any, Generic, TypeVar

T = TypeVar("T")

BEAT = 0.2  # s, between looks at whether the other thread still wants more
END = object()


class Ahead(Generic[T]):
    """The same items, made in a thread called `name`, at most `depth` of them before they are asked for.

    What making them raises is raised where they are used. When its block ends, however it does, so does the thread,
    once it has made its item; one that waits for a camera ends with the process.
    """

    def __init__(self, items: Iterable[T], depth: int, name: str) -> None:
        self.queue: Queue[tuple[Any, BaseException | None]] = Queue(depth)
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self._work, args=(items,), name=name, daemon=True)
        self.thread.start()

    def _work(self, items: Iterable[T]) -> None:
        try:
            if all(self._put(item) for item in items):
                self._put(END)
        except BaseException as error:
            self._put(END, error)

    def _put(self, item: Any, error: BaseException | None = None) -> bool:
        """Whether somebody still wants it."""
        while not self.stopped.is_set():
            try:
                self.queue.put((item, error), timeout=BEAT)
                return True
            except Full:
                pass
        return False

    def __iter__(self) -> Iterator[T]:
        while True:
            item, error = self.queue.get()
            if error is not None:
                raise error
            if item is END:
                return
            yield item

    def __enter__(self) -> Ahead[T]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stopped.set()
        while not self.queue.empty():
            try:
                self.queue.get_nowait()
            except Empty:
                break
        self.thread.join(timeout=5 * BEAT)
