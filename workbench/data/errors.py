"""What is wrong with data."""


class DataError(ValueError):
    """Data that cannot be used as it is; `row` is the offending row of the table (from 0) if there is one.

    A notebook shows the message alone, without a traceback: the code is not what is wrong.
    """

    def __init__(self, message: str, row: int | None = None):
        super().__init__(message)
        self.row = row

    def _render_traceback_(self) -> list[str]:  # IPython's hook
        return [f"DataError: {self}"]
