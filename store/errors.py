"""The one error that storage raises."""


class StoreError(Exception):
    """Something cannot be stored, found or trusted. The message is one line that names
    the thing and the remedy, fit to be shown to the user as it is."""
