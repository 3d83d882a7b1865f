"""An event loop on virtual time whose every choice comes from a seed.

Time stands still while anything is ready and then jumps to the next timer. Which host runs next is chosen by
the seed, and so is the order of the task steps that one host has ready together; callbacks that are no task
keep the order asyncio promises. A killed host's steps and timers are dropped: no ``finally`` of it runs any
more.
"""

import asyncio
import gc
import heapq
import random
from asyncio import events
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context, ContextVar
from typing import Any, TypeVar, TypeVarTuple, Unpack, cast

from tests.simulation.trace import Trace

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")

STEPS_WITHOUT_TIME_MAX = 500_000  # a loop that never waits would stand still in virtual time for ever
STEPS_BETWEEN_COLLECTIONS = 50_000
NUMBERS_BETWEEN_PURGES = 100


class Incarnation:
    """One life of one host, from its start to its end; what belongs to it dies with it."""

    def __init__(self, name: str, number: int) -> None:
        self.name = name
        self.number = number
        self.is_alive = True
        self.is_paused = False  # SIGSTOP, or a machine that swaps: what becomes ready waits
        self.queue: deque[events.Handle] = deque()  # becomes ready after the current batch
        self.batch: deque[events.Handle] = deque()  # ready now, in the order chosen
        self.tasks: list[asyncio.Task[Any]] = []  # held: asyncio itself refers to a waiting task only weakly
        self.exception_handler: Callable[[asyncio.AbstractEventLoop, dict[str, Any]], Any] | None = None


HOST: ContextVar[Incarnation | None] = ContextVar("simulated_host", default=None)


class StuckError(AssertionError):
    """Nothing is ready and no timer is set, or steps run for ever without time passing."""


class VirtualFuture(asyncio.Future[T]):
    """A future that sets iterate over by its number, not by its address."""

    def __init__(self, number: int, loop: asyncio.AbstractEventLoop) -> None:
        self.number = number
        super().__init__(loop=loop)

    def __hash__(self) -> int:
        return self.number


class VirtualTask(asyncio.Task[T]):
    """A task that sets iterate over by its number; asyncio.TaskGroup keeps its tasks in a set."""

    def __init__(
        self, number: int, coro: Generator[Any, None, T] | Coroutine[Any, Any, T], **options: Any
    ) -> None:
        self.number = number  # first: asyncio puts the task into a set while it is being made
        self.owner: Incarnation | None = None
        super().__init__(coro, **options)

    def __hash__(self) -> int:
        return self.number


class VirtualLoop(asyncio.BaseEventLoop):
    """See the head of this file. Servers and connections are added by the network."""

    def __init__(self, seed: str, trace: Trace) -> None:
        super().__init__()
        self._stopping = False  # set by stop(), read by run_forever()
        self._now_s = 0.0
        self._choices = random.Random(f"{seed}/order")
        self._trace = trace
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._numbers = 0
        self._world = Incarnation("world", 0)  # the network and the script of the run
        self._active: list[Incarnation] = []  # those with something ready
        self._running: Incarnation = self._world
        self._steps_at_this_time = 0
        self._steps = 0
        self.failures: list[dict[str, Any]] = []

    # --- time and order -------------------------------------------------------------------------------------

    def time(self) -> float:
        return self._now_s

    @property
    def now_us(self) -> int:
        """Virtual microseconds since the start of the run."""
        return round(self._now_s * 1_000_000)

    @property
    def steps(self) -> int:
        """Callbacks and task steps taken since the start of the run."""
        return self._steps

    def _run_once(self) -> None:
        if not self._active:
            if self._stopping:
                return
            self._advance()
            return
        self._steps += 1
        self._steps_at_this_time += 1
        if self._steps_at_this_time > STEPS_WITHOUT_TIME_MAX:
            raise StuckError(
                f"{STEPS_WITHOUT_TIME_MAX} steps and no time passed; last: {self._trace.last[-1]}"
            )
        if self._steps % STEPS_BETWEEN_COLLECTIONS == 0:
            gc.collect()
        place = self._choices.randrange(len(self._active)) if len(self._active) > 1 else 0
        owner = self._active[place]
        if not owner.batch:
            owner.batch, owner.queue = self._choose_order(owner.queue), deque()
        handle = owner.batch.popleft()
        if not owner.batch and not owner.queue:
            self._active[place] = self._active[-1]
            self._active.pop()
        if handle.cancelled():
            return
        self._running = owner
        self._trace.note(self.now_us, "step", owner.name, owner.number, _what(handle))
        handle._run()
        self._running = self._world

    def _advance(self) -> None:
        while self._timers and not self._is_wanted(self._timers[0][2]):
            heapq.heappop(self._timers)
        if not self._timers:
            raise StuckError("nothing is ready and nothing is waited for")
        due_s = self._timers[0][0]
        if due_s > self._now_s:
            self._now_s = due_s
            self._steps_at_this_time = 0
        while self._timers and self._timers[0][0] <= self._now_s:
            handle = heapq.heappop(self._timers)[2]
            if not handle.cancelled():
                self._make_ready(handle)

    def _is_wanted(self, timer: asyncio.TimerHandle) -> bool:
        return not timer.cancelled() and (_owner_of(timer) or self._world).is_alive

    def _choose_order(self, ready: deque[events.Handle]) -> deque[events.Handle]:
        """Task steps change places among themselves; other callbacks stay where they are."""
        if len(ready) < 2:
            return ready
        places = [place for place, handle in enumerate(ready) if _task_of(handle) is not None]
        if len(places) < 2:
            return ready
        order = list(ready)
        steps = [order[place] for place in places]
        self._choices.shuffle(steps)
        for place, step in zip(places, steps, strict=True):
            order[place] = step
        return deque(order)

    def _make_ready(self, handle: events.Handle) -> None:
        owner = _owner_of(handle) or self._world
        if not owner.is_alive:
            return
        if not owner.queue and not owner.batch and not owner.is_paused:
            self._active.append(owner)
        owner.queue.append(handle)

    def pause(self, incarnation: Incarnation) -> None:
        """Nothing of this life runs until ``resume``; its clocks go on."""
        incarnation.is_paused = True
        if incarnation in self._active:
            self._active.remove(incarnation)

    def resume(self, incarnation: Incarnation) -> None:
        """What became ready meanwhile runs now."""
        if incarnation.is_alive and incarnation.is_paused:
            incarnation.is_paused = False
            if incarnation.queue or incarnation.batch:
                self._active.append(incarnation)

    def forget(self, incarnation: Incarnation) -> list["asyncio.Task[Any]"]:
        """Drop everything a killed host had ready; its tasks, to be kept so that no ``finally`` runs."""
        incarnation.is_alive = False
        incarnation.queue.clear()
        incarnation.batch.clear()
        if incarnation in self._active:
            self._active.remove(incarnation)
        return incarnation.tasks

    # --- what asyncio asks of a loop ------------------------------------------------------------------------

    def _call_soon(
        self, callback: Callable[..., Any], args: tuple[Any, ...], context: Context | None
    ) -> events.Handle:
        handle = events.Handle(callback, args, self, context)
        self._make_ready(handle)
        return handle

    def call_at(
        self,
        when: float,
        callback: Callable[[Unpack[Arguments]], object],
        *args: *Arguments,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        timer = events.TimerHandle(when, callback, args, self, context)
        cast(Any, timer)._scheduled = True  # else its cancel() would not be told to us
        self._numbers += 1
        heapq.heappush(self._timers, (when, self._numbers, timer))
        return timer

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        pass

    def _process_events(self, event_list: object) -> None:
        pass

    def _write_to_self(self) -> None:
        pass

    def create_future(self) -> "asyncio.Future[Any]":
        self._numbers += 1
        return VirtualFuture(self._numbers, self)

    def create_task(
        self,
        coro: Generator[Any, None, T] | Coroutine[Any, Any, T],
        *,
        name: object = None,
        context: Context | None = None,
    ) -> "asyncio.Task[T]":
        self._numbers += 1
        owner = (context.get(HOST) if context is not None else HOST.get()) or self._world
        task = VirtualTask(self._numbers, coro, loop=self, name=name, context=context)
        task.owner = owner
        owner.tasks.append(task)
        if self._numbers % NUMBERS_BETWEEN_PURGES == 0:
            owner.tasks = [task for task in owner.tasks if not task.done()]
        return task

    def run_in_executor(
        self, executor: Any, func: Callable[[Unpack[Arguments]], T], *args: *Arguments
    ) -> "asyncio.Future[T]":
        raise AssertionError("a thread under simulation: it would run in its own time")

    def set_exception_handler(
        self, handler: Callable[[asyncio.AbstractEventLoop, dict[str, Any]], Any] | None
    ) -> None:
        (HOST.get() or self._world).exception_handler = handler

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        # A task's failure comes to light when it is collected, whoever runs then.
        owner = getattr(context.get("task") or context.get("future"), "owner", None) or self._running
        if owner.exception_handler is not None and owner.is_alive:
            owner.exception_handler(self, context)
        elif owner.is_alive:
            self.failures.append(context)

    def close(self) -> None:
        self._timers.clear()
        self._active.clear()
        super().close()


# Called several times for each step: ``Any`` in place of asyncio's types, whose private fields they read.
def _owner_of(handle: Any) -> Incarnation | None:
    owner: Incarnation | None = handle._context.get(HOST)
    return owner


def _task_of(handle: Any) -> "asyncio.Task[Any] | None":
    bound = getattr(handle._callback, "__self__", None)
    return bound if isinstance(bound, asyncio.Task) else None


def _what(handle: Any) -> str:
    callback = handle._callback
    bound = getattr(callback, "__self__", None)
    if isinstance(bound, asyncio.Task):
        return str(getattr(bound.get_coro(), "__qualname__", "task"))
    return str(getattr(callback, "__qualname__", type(callback).__name__))
