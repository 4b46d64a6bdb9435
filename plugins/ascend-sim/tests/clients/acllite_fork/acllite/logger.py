"""Logging that goes to stdout."""


def log_debug(*words):
    print("debug", *words)


def log_info(*words):
    print("info", *words)


def log_warning(*words):
    print("warning", *words)
