"""What is wrong with data."""


class DataError(ValueError):
    """Data that cannot be used as it is; `row` is the offending row of the table (from 0) if there is one."""

    def __init__(self, message: str, row: int | None = None):
        super().__init__(message)
        self.row = row
