"""What is wrong with data."""

from workbench.visible import written_out


class DataError(ValueError):
    """Data that cannot be used as it is, in a message of one line; `row` is the offending row of the table (from 0), if any.

    A notebook shows the message alone, without a traceback: the code is not what is wrong.
    """

    def __init__(self, message: str, row: int | None = None):
        super().__init__(written_out(message))
        self.row = row

    def _render_traceback_(self) -> list[str]:  # IPython's hook
        return [f"DataError: {self}"]
