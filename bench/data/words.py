"""Causes of errors in a few words, fit to stand inside a sentence."""

from urllib.error import URLError


def reason(error: BaseException) -> str:
    """The first sentence of what an exception says, on one line, without its full stop.

    Args:
        error: An exception of Pillow, torchvision or the operating system.
    """
    if type(error).__name__ == "UnidentifiedImageError":
        return "not an image that Pillow can read"
    if isinstance(error, URLError) and isinstance(error.reason, OSError):
        error = error.reason
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    text = " ".join(str(error).split()).split(". ")[0].rstrip(".")
    return text[:100] or type(error).__name__
