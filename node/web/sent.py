"""A form is sent once, however often the button is pressed.

Every form for a new alert carries a random id; the first sending of an id wins and later ones are shown its
result. Kept in memory only: after a restart no session is left that could send an old form again.
"""

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Final

from keys.errors import PolicyRefused
from node.views import Submitted

REMEMBERED_MAX: Final = 4096


class SentForms:
    """Results by (officer, form id), the oldest forgotten first."""

    def __init__(self) -> None:
        self._results: OrderedDict[tuple[int, str], Submitted | None] = OrderedDict()

    async def once(self, officer: int, form_id: str, send: Callable[[], Awaitable[Submitted]]) -> Submitted:
        """The result of the first ``send`` with this id; a failed one may be tried again.

        PolicyRefused ``form_in_progress`` while the first is still under way.
        """
        key = (officer, form_id)
        if key in self._results:
            known = self._results[key]
            if known is None:
                raise PolicyRefused("form_in_progress")
            return known
        self._results[key] = None
        try:
            result = await send()
        except BaseException:
            self._results.pop(key, None)
            raise
        self._results[key] = result
        while len(self._results) > REMEMBERED_MAX:
            self._results.popitem(last=False)
        return result
