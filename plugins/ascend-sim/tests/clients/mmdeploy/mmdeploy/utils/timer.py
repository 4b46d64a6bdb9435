"""A timer that does not time."""


class TimeCounter:
    """`count_time(name)` decorates a function with nothing."""

    @staticmethod
    def count_time(name):
        return lambda function: function
